"""The way of a request through the gateway: hold, ask upstream, pass on, settle.

Each request takes two commands of a lane, and a chunk none. How each kind of ending is settled is
the table in README.md; every row of it is a branch here and a test.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import structlog
from litestar.types import Receive, Send

from api.gateway import replies, sse, tally, wishes
from api.gateway.bounds import Asking, BoundDefaults, Told
from api.gateway.meters import Meter
from api.gateway.settlement import Ending, Settlements
from api.gateway.table import RouteEntry
from api.gateway.tally import StreamTally
from api.gateway.upstream import (
    Incoming,
    Outgoing,
    Upstream,
    UpstreamBroke,
    UpstreamFailed,
    UpstreamTimedOut,
)
from api.gateway.wishes import Wish
from api.http import metrics
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.reading import UNREADABLE
from api.operations import Calls, Permits, notes_of
from ledger import secrets, standing
from ledger.clock import Instant
from ledger.ids import AccountId, KeyId
from ledger.reports import Reading
from ledger.requests import Release, Reserve, Settle, others_of, report_of
from ledger.standing import Standing
from ledger.state import Account, Key
from ledger.usage import Usage

log = structlog.get_logger("keyledger.gateway")

ATTEMPTS_MAX = 3
PAUSE_SECONDS = 0.1
"""Pause before the same upstream is asked again."""
REST_SECONDS = 5
"""For this long an upstream that failed is asked last."""
REPLY_MAX = 64 * 1024 * 1024
REFUSAL_MAX = 1024 * 1024
EXPIRY_SECONDS = 60
"""A reservation outlives its request's time limit by this much."""
RUN_OUT_SECONDS = 1
"""For the end of a connection whose stream is complete."""
STOP_SECONDS = 5
HOLD_SECONDS = 1
"""For this long at most a stream is held back while nothing of its answer has come."""

FIRST_OTHER = 300
"""A status from this on is no answer: a redirect, a refusal, a failure."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_encode = msgspec.json.Encoder().encode


class Admission(NamedTuple):
    """Who asks, and what the lane is to check."""

    account_id: AccountId
    key_id: KeyId
    secret: int | None
    by: str
    """Who makes the request, as events name it."""
    scope: str = ""
    """Scope the key must name; empty: any."""
    permits: Permits | None = None
    """Called in the lane to check that the key may do this; raises a refusal where it may not."""


class GatewayRequest(NamedTuple):
    """A request to forward, and how to book it."""

    request_id: str
    """Unique; made by us."""
    entry: RouteEntry
    document: Mapping[str, Any] | None = None
    """Body of an inference request, decoded by ``wishes.decode``."""
    model: str = ""
    """Name it is booked under; empty: the one that the document names."""
    upstream_model: str = ""
    """The upstream's name for it; empty: the one that the document names."""
    shown_model: str = ""
    """Name that the reply shows; empty: the upstream's."""
    condition: str = ""
    """Price condition of the rate card, such as ``batch``."""
    category: str = ""
    """Category whose limits count it; empty: the entry's."""
    body: bytes = b""
    """Body of other requests, passed on unchanged."""
    content_type: str = ""
    parameters: Mapping[str, str] = _NOTHING
    """Parameters of the path."""
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """The client's; only those on an allow-list are passed on."""
    own_errors: bool = False
    """Whether an upstream's refusal is raised as a failure, for the dialect to word."""


Wording = Callable[[Failure], bytes]
"""Writes a failure as the JSON of an error event."""
Decorate = Callable[[Standing], Mapping[str, str]]
"""Returns headers of a reply."""


class Bounds(NamedTuple):
    """How long things may take."""

    total_seconds: int = 600
    drain_seconds: int = 5
    """For this long an upstream whose client is gone may still report what it used."""


class Exchange:
    """An admitted request, until it is settled."""

    __slots__ = (
        "_ended",
        "_held",
        "_settlements",
        "admission",
        "failed",
        "headers",
        "told",
        "wish",
        "wording",
        "work",
    )

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        admission: Admission,
        work: GatewayRequest,
        wish: Wish,
        wording: Wording,
        headers: Mapping[str, str],
        settlements: Settlements,
        *,
        told: Told | None,
        held: bool,
    ) -> None:
        """Begin. ``told``: what a request to a model is held to; None: it is a metered call."""
        self.admission = admission
        self.work = work
        self.wish = wish
        self.told = told
        self.wording = wording
        self.headers = headers
        self._settlements = settlements
        self.failed = False
        """Whether the ledger counts it as a failure."""
        self._held = held
        self._ended = False

    def _settle(self, used: Reading, *, interrupted: bool) -> Ending | None:
        return self._ending(_settle_of(self.work, used, interrupted=interrupted))

    def _ending(self, how: Settle | Release) -> Ending | None:
        """Return how the request ends, the first time; None: it has ended, or nothing is held."""
        if self._ended or not self._held:
            return None
        self._ended = True
        metrics.note_ending(_name_of(how))
        return Ending(self.admission.account_id, self.admission.key_id, how)

    async def settle(self, used: Reading, *, interrupted: bool = False) -> None:
        """Charge what was used, once."""
        ending = self._settle(used, interrupted=interrupted)
        if ending is not None:
            await self._settlements.end(ending)

    def settle_later(self, used: Reading) -> None:
        """Charge what was used, without waiting for the ledger."""
        ending = self._settle(used, interrupted=True)
        if ending is not None:
            self._settlements.later(ending)

    async def release(self, reason: str) -> None:
        """Release what was held: it failed, and nothing was delivered."""
        how = Release(request_id=self.work.request_id, reason=reason, failed=True)
        ending = self._ending(how)
        if ending is not None:
            self.failed = True
            await self._settlements.end(ending)

    @property
    def unseen(self) -> Reading:
        """Return the estimate for a request that was sent and whose answer nobody saw."""
        if not self.work.entry.meter.format:
            return Reading(Usage(requests=1), estimated=True)
        return Reading(Usage(input=self.wish.content.estimate), estimated=True)

    def shown(self, text: bytes, upstream: Upstream) -> bytes:
        """Return a text of the upstream as the client may see it."""
        if self.work.shown_model:
            name = b'"model":' + _encode(self.work.shown_model)
            text = _MODEL.sub(lambda _: name, text)
        return upstream.scrub(text)


def _settle_of(work: GatewayRequest, used: Reading, *, interrupted: bool) -> Settle:
    """Make the ledger's command from what was used."""
    return Settle(
        request_id=work.request_id,
        usage=used.usage,
        others=others_of(used),
        condition=None if work.condition else used.condition,
        served_model=_served(work, used.served_model),
        estimated=used.estimated,
        interrupted=interrupted,
        doubts=used.doubts,
        report=report_of(used),
    )


def _served(work: GatewayRequest, model: str) -> str:
    """Return the model that was served, where it is not the one that the upstream was asked for.

    Where the dialect books another name than it sends upstream, the rate card does not know that
    a longer name, such as one with a date, is the same model.
    """
    asked = work.upstream_model or (work.document or _NOTHING).get("model")
    if work.upstream_model and model.startswith(f"{asked}-"):
        return ""
    return "" if model == asked else model


def _name_of(how: Settle | Release) -> str:
    if isinstance(how, Release):
        return "released"
    if how.interrupted:
        return "interrupted"
    return "estimated" if how.estimated else "reported"


class UpstreamAnswer(NamedTuple):
    """An answer of an upstream that counts."""

    upstream: Upstream
    incoming: Incoming
    body: bytes = b""
    """Empty: it is a stream."""
    chunks: AsyncIterator[bytes] | None = None
    first: bytes = b""
    """First chunk of the stream."""


class Streaming:
    """A reply that goes out as it comes in."""

    def __init__(
        self,
        exchange: Exchange,
        got: UpstreamAnswer,
        *,
        deadline: float,
        bounds: Bounds,
        open_: "set[Streaming]",
    ) -> None:
        """Take an answer whose first chunk is there."""
        self.status = got.incoming.status
        self.headers: list[tuple[bytes, bytes]] = [
            (b"content-type", got.incoming.content_type.encode("latin-1")),
            *_headers(exchange, got.incoming),
        ]
        self._exchange = exchange
        self._got = got
        self._deadline = deadline
        self._bounds = bounds
        self._open = open_
        self._tally = StreamTally(exchange.work.entry.meter, exchange.wish)
        self._limit: asyncio.Timeout | None = None
        self._gone = False
        """Whether the client is gone."""
        self._stopping = False
        """Whether the process is ending."""
        self.finished = asyncio.Event()
        open_.add(self)

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end, or until the client is gone; settle it in every case."""
        watch = asyncio.create_task(self._watch(receive), name="gateway-watch")
        try:
            await send(
                {"type": "http.response.start", "status": self.status, "headers": self.headers}
            )
            await self._run(send)
        except BaseException:
            self._exchange.settle_later(self._tally.reading(whole=False))
            raise
        finally:
            watch.cancel()
            self._got.incoming.close()
            self._open.discard(self)
            self.finished.set()

    async def _run(self, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline) as self._limit:
                last = await self._pump(send)
        except (UpstreamBroke, UpstreamTimedOut, TimeoutError, sse.EventIsTooLarge) as error:
            await self._broken(send, error)
        except asyncio.CancelledError:
            # The server cancels its tasks: say so while the client can still hear it.
            self._exchange.settle_later(self._tally.reading(whole=False))
            await self._say(send, Failure(Kind.UNAVAILABLE))
            raise
        else:
            await self._settle_ended()
            if not self._gone:
                await send({"type": "http.response.body", "body": last, "more_body": False})
            await self._run_out()

    async def _settle_ended(self) -> None:
        """Settle a stream that came to its end: the last thing it said may be that it failed."""
        seen = self._tally
        if not seen.failed:
            await self._exchange.settle(seen.reading(whole=True), interrupted=self._gone)
        elif seen.pieces:
            await self._exchange.settle(seen.reading(whole=False), interrupted=True)
        else:
            await self._exchange.release("upstream")

    async def _pump(self, send: Send) -> bytes:
        """Pass on what comes; return what is to follow the settlement."""
        exchange, upstream, chunks = self._exchange, self._got.upstream, self._got.chunks
        assert chunks is not None
        seen, splitter = self._tally, sse.Splitter()
        chunk = self._got.first
        last = b""
        while chunk and not seen.ended:
            block = splitter.feed(chunk)
            if block:
                now, last = seen.take(block)
                if now and not self._gone:
                    body = exchange.shown(now, upstream)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            if not seen.ended:
                chunk = await anext(chunks, b"")
        if splitter.rest and not seen.ended:
            # The blank line after the last event is missing.
            now, last = seen.take(splitter.rest)
            last = now + last
        return exchange.shown(last, upstream)

    async def _run_out(self) -> None:
        """Read to the end, so that the connection can be used again."""
        chunks = self._got.chunks
        assert chunks is not None
        with contextlib.suppress(UpstreamBroke, UpstreamTimedOut, TimeoutError):
            async with asyncio.timeout(RUN_OUT_SECONDS):
                async for _ in chunks:
                    pass

    async def _watch(self, receive: Receive) -> None:
        """Wait until the client is gone; then hear the upstream out for a short while."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._end_within(0 if self._tally.final else self._bounds.drain_seconds)

    def stop(self) -> None:
        """End now, because the process is ending."""
        self._stopping = True
        self._end_within(0)

    def _end_within(self, seconds: int) -> None:
        soon = asyncio.get_running_loop().time() + seconds
        self._deadline = min(self._deadline, soon)
        if self._limit is not None:
            # It may be over already: then there is nothing to shorten.
            with contextlib.suppress(RuntimeError):
                self._limit.reschedule(self._deadline)

    async def _broken(self, send: Send, error: Exception) -> None:
        """Settle what came before the upstream ended in the middle, and tell the client."""
        settled = self._tally.reading(whole=False)
        if not self._gone:
            work = self._exchange.work
            log.warning(
                "upstream_ended_midway",
                request_id=work.request_id,
                upstream=self._got.upstream.name,
                error=type(error).__name__,
            )
        await self._exchange.settle(settled, interrupted=True)
        timed_out = isinstance(error, TimeoutError | UpstreamTimedOut)
        kind = Kind.UPSTREAM_TIMED_OUT if timed_out else Kind.UPSTREAM_FAILED
        await self._say(send, Failure(Kind.UNAVAILABLE if self._stopping else kind))

    async def _say(self, send: Send, failure: Failure) -> None:
        """End the stream by an error event in the dialect's words."""
        if self._gone:
            return
        name = self._exchange.work.entry.meter.error_event
        event = sse.event(self._exchange.wording(failure), name)
        # A client that no longer reads would hold us for ever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUN_OUT_SECONDS):
                await send({"type": "http.response.body", "body": event, "more_body": False})


class Gateway:
    """Forwards requests to the routes in the table."""

    def __init__(
        self,
        calls: Calls,
        upstreams: Sequence[Upstream],
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - immutable
        figures: BoundDefaults = BoundDefaults(),  # noqa: B008 - immutable
        default_model: str = "",
    ) -> None:
        """Take the upstreams in the order in which to ask them."""
        self.settlements = Settlements(calls)
        self.default_model = default_model
        """The upstream's model behind characters."""
        self._calls = calls
        self._upstreams = list(upstreams)
        self._bounds = bounds
        self._figures = figures
        self._open: set[Streaming] = set()
        self._rests_until: dict[Upstream, float] = {}

    async def serve(
        self,
        admission: Admission,
        work: GatewayRequest,
        *,
        wording: Wording,
        decorate: Decorate | None = None,
    ) -> "Answer | Streaming":
        """Hold the worst case, forward, settle; return the reply, or the stream of it.

        Raises:
            LedgerError: The ledger refuses, or cannot decide.
            Failure: The request is wrong, or no upstream answered.
        """
        exchange = await self._admit(admission, work, wording, decorate)
        deadline = asyncio.get_running_loop().time() + self._bounds.total_seconds
        try:
            got = await self._ask(exchange, deadline)
            if got.chunks is None:
                return await self._answer(exchange, got)
        except Failure as failure:
            await exchange.release("upstream")
            failure.counted = exchange.failed
            raise
        except BaseException:
            # It was sent and nobody saw the answer: the process is ending, or something broke here.
            exchange.settle_later(exchange.unseen)
            raise
        return Streaming(exchange, got, deadline=deadline, bounds=self._bounds, open_=self._open)

    async def _admit(
        self,
        admission: Admission,
        work: GatewayRequest,
        wording: Wording,
        decorate: Decorate | None,
    ) -> Exchange:
        entry = work.entry
        document = work.document or _NOTHING
        if work.shown_model:
            # The operator says which model speaks for a character, and no other.
            document = {n: each for n, each in document.items() if n not in wishes.CHOOSES_MODELS}
            work = work._replace(document=document)
        heard = {"model": work.upstream_model} if work.upstream_model else _NOTHING
        wish = entry.meter.read({**document, **heard} if heard else document)
        is_call = not entry.meter.format
        model = work.model or (entry.category if is_call else wishes.model_of(document))
        reserve = Reserve(
            request_id=work.request_id,
            model=model,
            usage=Usage(requests=1) if is_call else wish.worst,
            category=work.category or entry.category,
            condition=work.condition,
            scope=admission.scope,
            by=admission.by,
            secret=admission.secret,
            ttl_seconds=self._bounds.total_seconds + EXPIRY_SECONDS,
            notes=notes_of(*wishes.noted(document)),
        )
        look = None if decorate is None else _Look(admission.permits, reserve)
        asking = (
            None
            if is_call
            else Asking(wish, reserve, self._figures, upstream_model=work.upstream_model)
        )
        try:
            held = await self._calls.hold(
                admission.account_id,
                admission.key_id,
                reserve,
                asks=None if asking is None else asking.in_lane,
                permits=admission.permits if look is None else look.before,
                sees=None if look is None else look.after,
                if_priced=is_call,
            )
        except asyncio.CancelledError:
            # The hold may be on its way into the ledger: the release that follows gives it back.
            how = Release(request_id=work.request_id, reason="interrupted")
            self.settlements.later(Ending(admission.account_id, admission.key_id, how))
            raise
        headers = {} if look is None or decorate is None else decorate(look.standing)
        told = None
        if asking is not None and held is not None:
            told = asking.told(held.fitted)
            wish, headers = told.wish, {**headers, **told.headers}
        return Exchange(
            admission,
            work,
            wish,
            wording,
            headers,
            self.settlements,
            told=told,
            held=held is not None,
        )

    async def _answer(self, exchange: Exchange, got: UpstreamAnswer) -> Answer:
        incoming, work = got.incoming, exchange.work
        if incoming.status >= FIRST_OTHER:
            await exchange.release(f"upstream {incoming.status}")
            return _refusal(exchange, got)
        await exchange.settle(replies.of_reply(work.entry.meter, exchange.wish, got.body))
        reply = Answer(
            exchange.shown(got.body, got.upstream),
            status=incoming.status,
            content_type=incoming.content_type.encode("latin-1"),
        )
        reply.headers.extend(_headers(exchange, incoming))
        return reply

    async def _ask(self, exchange: Exchange, deadline: float) -> UpstreamAnswer:
        """Ask one upstream after the other until one answers, bounded in number and time.

        Raises:
            Failure: None did.
        """
        outgoing = _outgoing(exchange)
        timed_out = False
        busy: UpstreamAnswer | None = None
        try:
            async with asyncio.timeout_at(deadline):
                turns = self._turns()
                for upstream, following in zip(turns, [*turns[1:], None], strict=True):
                    try:
                        got = await self._measured(upstream, outgoing, exchange)
                        if _refuses_bound(got, exchange):
                            outgoing = _outgoing(exchange)
                            got = await self._measured(upstream, outgoing, exchange)
                    except (UpstreamFailed, UpstreamBroke) as error:
                        timed_out = isinstance(error, UpstreamTimedOut)
                        self._note_failure(upstream, exchange, error)
                        if following is upstream:
                            await asyncio.sleep(PAUSE_SECONDS)
                        continue
                    if got.incoming.status != _TOO_MANY or following in {None, upstream}:
                        return got
                    busy = got
        except TimeoutError:
            timed_out = True
        if busy is not None:
            return busy
        raise Failure(Kind.UPSTREAM_TIMED_OUT if timed_out else Kind.UPSTREAM_FAILED)

    def _turns(self) -> list[Upstream]:
        """Return the upstreams in the order to ask them: those that failed just now come last."""
        if len(self._upstreams) == 1:
            return self._upstreams * 2
        now = asyncio.get_running_loop().time()
        rests = self._rests_until
        ordered = sorted(self._upstreams, key=lambda each: rests.get(each, 0) > now)
        return ordered[:ATTEMPTS_MAX]

    def _note_failure(self, upstream: Upstream, exchange: Exchange, error: Exception) -> None:
        self._rests_until[upstream] = asyncio.get_running_loop().time() + REST_SECONDS
        log.warning(
            "upstream_failed",
            upstream=upstream.name,
            request_id=exchange.work.request_id,
            error=str(error) or type(error).__name__,
        )

    async def _measured(
        self, upstream: Upstream, outgoing: Outgoing, exchange: Exchange
    ) -> UpstreamAnswer:
        """Make an attempt, and count it."""
        began = time.perf_counter()
        outcome = "failed"
        try:
            got = await self._attempt(upstream, outgoing, exchange)
            outcome = "answered" if got.incoming.status < FIRST_OTHER else "refused"
        except (UpstreamTimedOut, asyncio.CancelledError):
            # Cancelled: the request's time is up, or the process is ending.
            outcome = "timed_out"
            raise
        finally:
            metrics.note_attempt(upstream.name, outcome, time.perf_counter() - began)
        return got

    async def _attempt(
        self, upstream: Upstream, outgoing: Outgoing, exchange: Exchange
    ) -> UpstreamAnswer:
        """Ask one upstream, and wait for the beginning of its answer.

        Raises:
            UpstreamFailed: It gave no answer that counts.
            UpstreamBroke: It ended before it had said anything.
        """
        incoming = await upstream.ask(outgoing)
        try:
            if incoming.status >= FIRST_OTHER:
                body = await incoming.read(REFUSAL_MAX)
                _require_refusal(incoming, body, exchange)
                return UpstreamAnswer(upstream, incoming, body)
            if not replies.is_stream(incoming.content_type):
                body = await incoming.read(REPLY_MAX)
                _require_answer(incoming, body, exchange)
                return UpstreamAnswer(upstream, incoming, body)
            first, chunks = await _begun(exchange.work.entry.meter, incoming.chunks())
        except BaseException:
            incoming.close()
            raise
        return UpstreamAnswer(upstream, incoming, chunks=chunks, first=first)

    async def close(self) -> None:
        """End every stream, settle what is owed, close the upstreams."""
        for stream in list(self._open):
            stream.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for stream in list(self._open):
                    await stream.finished.wait()
        await self.settlements.close(wait_seconds=STOP_SECONDS)
        for upstream in self._upstreams:
            await upstream.close()


async def _begun(meter: Meter, chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Wait for the first chunk of a stream's answer; return it, and what follows.

    Until then nothing has gone out, so that another upstream can be asked. A stream that only
    says that it is working is passed on after a while, so that the client sees that too.

    Raises:
        UpstreamFailed: It says that it failed.
        UpstreamBroke: It ended before it had said anything.
    """
    held = await anext(chunks, b"")
    until = asyncio.get_running_loop().time() + HOLD_SECONDS
    while (begins := tally.begins(meter, held)) is None:
        following = asyncio.ensure_future(anext(chunks, b""))
        following.add_done_callback(_seen)
        left = until - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait({following}, timeout=max(left, 0))
        except BaseException:
            following.cancel()
            raise
        if not done:
            return held, _resumed(following, chunks)
        chunk = following.result()
        if not chunk:
            if tally.says_nothing(held):
                raise UpstreamBroke
            break
        held += chunk
    if begins is False:
        raise UpstreamFailed("an error under a status of success")
    return held, chunks


def _seen(task: "asyncio.Future[bytes]") -> None:
    """Retrieve how it ended, so that asyncio does not warn."""
    if not task.cancelled():
        task.exception()


async def _resumed(
    following: "asyncio.Future[bytes]", chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Continue with a chunk that is being waited for already."""
    chunk = await following
    while chunk:
        yield chunk
        chunk = await anext(chunks, b"")


class _Look:
    """Reads the key's standing from inside the lane."""

    def __init__(self, permits: Permits | None, reserve: Reserve) -> None:
        self._permits = permits
        self._reserve = reserve
        self._balances: dict[str, int] = {}
        self.standing: Standing

    def before(self, account: Account, key: Key, at: Instant) -> None:
        if self._permits is not None:
            self._permits(account, key, at)
        self._balances = standing.to_spend(account, at)

    def after(self, account: Account, key: Key, at: Instant) -> None:
        reserve = self._reserve
        limits = standing.of_request(
            account, key, category=reserve.category, model=reserve.model, at=at
        )
        self.standing = Standing(at, tuple(limits), self._balances)


def _refuses_bound(got: UpstreamAnswer, exchange: Exchange) -> bool:
    """Return whether an upstream refuses the field of a bound that we added; rename it then.

    The operator's name may stand for any model, and OpenAI's models differ in this.
    """
    told = exchange.told
    if told is None or got.incoming.status < FIRST_OTHER:
        return False
    error = _error_of(got.body.decode(errors="replace"))
    if not told.refused_by(got.incoming.status, error.param):
        return False
    exchange.told = told.elsewise()
    return True


def _outgoing(exchange: Exchange) -> Outgoing:
    work, wish = exchange.work, exchange.wish
    document = work.document
    if document is not None:
        hides = work.entry.meter.hides_usage and wish.stream and not wish.usage_asked
        if hides:
            options = {**(document.get("stream_options") or {}), "include_usage": True}
            document = {**document, "stream_options": options}
        if exchange.told is not None:
            document = exchange.told.document(document)
        if work.upstream_model:
            document = {**document, "model": work.upstream_model}
    return Outgoing(
        work.entry,
        exchange.admission.account_id,
        work.request_id,
        document=document,
        body=work.body,
        content_type=work.content_type,
        parameters=work.parameters,
        query=work.query,
        headers=work.headers,
    )


def _headers(exchange: Exchange, incoming: Incoming) -> list[tuple[bytes, bytes]]:
    found = {**incoming.headers, **{n.lower(): v for n, v in exchange.headers.items()}}
    if incoming.status not in _WAITING_HELPS:
        found.pop("retry-after", None)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found.items()]


_TOO_MANY = 429
_WAITING_HELPS = frozenset({_TOO_MANY, 503})
_ONCE_MORE = frozenset({408, 425})
_NOT_THE_CLIENTS = frozenset({401, 402, 403, 407})
"""Statuses by which an upstream refuses the operator, whose key it saw."""
_OPERATOR_OWES = frozenset(
    {"billing_hard_limit_reached", "billing_not_active", "insufficient_quota"}
)
"""OpenAI's codes that say the same under a status that otherwise concerns the client."""


def _require_refusal(incoming: Incoming, body: bytes, exchange: Exchange) -> None:
    """Require that an upstream's error refuses what the client asked, and is not its own failure.

    Raises:
        UpstreamFailed: It is no answer to the client.
    """
    status = incoming.status
    _log_usage(incoming, body, exchange)
    is_refusal = 400 <= status < 500 and status not in _ONCE_MORE | _NOT_THE_CLIENTS  # noqa: PLR2004
    if not is_refusal or not incoming.content_type.lower().lstrip().startswith("application/"):
        raise UpstreamFailed(f"status {status}")
    error = _error_of(body.decode(errors="replace"))
    if error.code in _OPERATOR_OWES or error.type in _OPERATOR_OWES:
        raise UpstreamFailed(f"status {status}, the operator's account")


def _require_answer(incoming: Incoming, body: bytes, exchange: Exchange) -> None:
    """Require that what came under a status of success is an answer.

    Raises:
        UpstreamFailed: It is not.
    """
    why = replies.failure_of(exchange.work.entry.meter, incoming.content_type, body)
    if why:
        _log_usage(incoming, body, exchange)
        raise UpstreamFailed(why)


def _log_usage(incoming: Incoming, body: bytes, exchange: Exchange) -> None:
    """Log the usage that a failed attempt reports, for reconciling with the provider's bill.

    It is charged to nobody: the caller got nothing for it.
    """
    reported = replies.said_in(body).report
    if reported:
        log.warning(
            "usage_of_failed_attempt",
            request_id=exchange.work.request_id,
            status=incoming.status,
            usage={name: each for name, each in reported.items() if isinstance(each, int)},
        )


_KINDS: Mapping[int, Kind] = {
    404: Kind.NOT_FOUND,
    405: Kind.METHOD_IS_UNKNOWN,
    409: Kind.CONFLICT,
    413: Kind.TOO_LARGE,
    415: Kind.UNSUPPORTED_MEDIA_TYPE,
    429: Kind.RATE_IS_LIMITED,
}


class _Error(NamedTuple):
    message: str = ""
    param: str = ""
    code: str = ""
    type: str = ""


class _Envelope(msgspec.Struct):
    error: dict[str, Any] | str = ""


_envelope = msgspec.json.Decoder(_Envelope)


def _error_of(text: str) -> _Error:
    """Read an upstream's error, if it is in OpenAI's form."""
    try:
        said = _envelope.decode(text).error
    except UNREADABLE:
        return _Error()
    if isinstance(said, str):
        return _Error(message=said)
    found = {name: said.get(name) for name in _Error._fields}
    return _Error(**{name: text for name, text in found.items() if isinstance(text, str)})


def _refusal(exchange: Exchange, got: UpstreamAnswer) -> Answer:
    """Pass a refusal of the upstream on, without what only the operator may know.

    Raises:
        Failure: The dialect has words of its own for it.
    """
    text = got.upstream.scrub(got.body).decode(errors="replace")
    text = secrets.redacted(text)
    headers = _headers(exchange, got.incoming)
    if exchange.work.own_errors:
        raise _failure(exchange.work.entry, got.incoming, text)
    reply = Answer(
        text.encode(),
        status=got.incoming.status,
        content_type=got.incoming.content_type.encode("latin-1"),
    )
    reply.headers.extend(headers)
    return reply


def _failure(entry: RouteEntry, incoming: Incoming, text: str) -> Failure:
    error = _error_of(text)
    kind = _KINDS.get(incoming.status, Kind.INVALID_FIELD)
    if kind is Kind.NOT_FOUND and not entry.of_account:
        kind = Kind.MODEL_IS_UNKNOWN
    headers = {}
    if incoming.status in _WAITING_HELPS and "retry-after" in incoming.headers:
        headers["Retry-After"] = incoming.headers["retry-after"]
    return Failure(kind, error.message, field=error.param, headers=headers)
