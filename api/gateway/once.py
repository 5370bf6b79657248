"""An ``Idempotency-Key`` is answered once: one request, one charge, the same answer to every retry.

The request's id is derived from key, route and ``Idempotency-Key``, so that the ledger's own rule
(a request id charges once, for ever) holds in any process and after any restart. The answer is kept
beside the ledger for minutes (``api.gateway.answers``). README.md has the table of cases.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from litestar.types import Receive, Send

from api.gateway.answers import (
    ANSWER_MAX,
    WAIT_SECONDS,
    AnswerHead,
    AnswerPlace,
    Answers,
    Claimed,
    Kept,
    Other,
    TooManyWait,
    UnderWay,
    place_of,
)
from api.http.answers import Answer
from api.http.asking import Ask
from api.http.failure import Failure, Kind
from api.http.handlers import Reply, Streamed
from api.identity.credentials import KeyCaller
from api.operations import Ledger
from ledger import events as e
from ledger.errors import LedgerError, NoSuchRequest, RequestIdIsTaken
from ledger.requests import KnownRequest, Release

ATTEMPTS_MAX = 1_000
"""Requests made under one ``Idempotency-Key``, all but the last of which ended without charge."""
RETRY_AFTER_SECONDS = 2
FIRST_OTHER = 300
"""A status from this on is no answer: nothing of it is kept."""
PIECE = 64 * 1024
"""Bytes per message when a kept stream is sent again."""
LAST_SECONDS = 1
"""For the last message to a client when the process ends."""

_BOUNDARY = re.compile(r'(?i)\bboundary="?([^";,]+)')

_OF_THE_MOMENT = re.compile(rb"(?:x-)?ratelimit|x-[a-z]+-balance-", re.IGNORECASE)
"""Headers about limits and balances: minutes later they would mislead."""

Answering = Callable[[Ask[KeyCaller]], Awaitable[Reply]]


class Once:
    """Answers requests under one ``Idempotency-Key`` once."""

    def __init__(self, answers: Answers, ledger: Ledger, *, seconds: float) -> None:
        """Take where answers are kept, the ledger, and how long an answer may take."""
        self.answers = answers
        self.ledger = ledger
        self.seconds = seconds

    async def __call__(self, ask: Ask[KeyCaller], answer: Answering) -> Reply:
        """Make the answer, or give the one that was made."""
        key = ask.idempotency_key
        return await (self._answered(ask, key, answer) if key else answer(ask))

    async def _answered(self, ask: Ask[KeyCaller], key: str, answer: Answering) -> Reply:
        """Make the answer, or give the one that was made.

        Raises:
            Failure: It is being made, it is kept no longer, or the key came with another request.
        """
        answers, place = self.answers, await self._place(ask, key)
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not isinstance(found := await answers.claim(place), Claimed):
            kept = await self._waited(ask, place, until) if isinstance(found, UnderWay) else found
            # The lane is not asked below, and a kept answer is only for a key that may still act.
            await self._require_usable(ask)
            if isinstance(kept, Kept):
                ask.request_id = kept.request_id
                return _again(kept)
            if isinstance(kept, Other):
                raise _conflict("This Idempotency-Key was used with another request")
        try:
            ask.request_id = await self._request_id(ask, place, after_death=found.after_death)
            reply = await answer(ask)
        except RequestIdIsTaken as error:
            # Another process began under the same id, and the row that said so is lost.
            await answers.drop(place)
            raise _in_progress() from error
        except BaseException:
            await answers.drop(place)
            raise
        if not isinstance(reply, Answer):
            return _Making(self, ask.request_id, place, reply)
        if reply.status < FIRST_OTHER:
            content_type = reply.content_type.decode("latin-1")
            head = _head(reply, streamed=False, content_type=content_type)
            await answers.keep(place, ask.request_id, head, reply.body)
        else:
            await answers.drop(place)
        return reply

    async def _place(self, ask: Ask[KeyCaller], key: str) -> AnswerPlace:
        caller, body = ask.caller, await ask.body()
        boundary = _BOUNDARY.search(ask.header(b"content-type") or "")
        if boundary is not None:
            # A client makes up another boundary when it sends the same form again.
            body = body.replace(boundary[1].encode("latin-1"), b"")
        path = "\0".join(f"{name}={ask.segment(name)}" for name in sorted(ask.path_params))
        asked = (ask.method.encode(), path.encode(), ask.scope["query_string"], body)
        route = f"{ask.surface.name}.{ask.operation}"
        return place_of(caller.account_id, caller.key_id, route, key, *asked)

    async def _require_usable(self, ask: Ask[KeyCaller]) -> None:
        caller = ask.caller
        await self.ledger.calls.admit(
            caller.account_id, caller.key_id, by=caller.by, secret=caller.secret
        )

    async def _waited(self, ask: Ask[KeyCaller], place: AnswerPlace, until: float) -> Kept | None:
        """Wait for the first request; None: nothing of it is kept.

        Raises:
            Failure: It takes too long, or too many wait.
        """
        try:
            return await self.answers.wait(place, until=until)
        except (TimeoutError, TooManyWait) as error:
            await self._require_usable(ask)
            raise _in_progress() from error

    async def _request_id(
        self, ask: Ask[KeyCaller], place: AnswerPlace, *, after_death: bool
    ) -> str:
        """Return the id under which the request may be made: no earlier one was charged or can be.

        Raises:
            Failure: One was, or still may be.
        """
        attempt, known = await self._last_attempt(place)
        if known is None:
            return place.request_id(attempt)
        await self._require_usable(ask)
        last = known.last or known.first
        if isinstance(last.body, e.RequestReserved) and after_death:
            # From here on the lane refuses whatever the dead process might still send.
            release = Release(request_id=place.request_id(attempt), reason="abandoned")
            with contextlib.suppress(RequestIdIsTaken):
                caller = ask.caller
                await self.ledger.calls.finish(caller.account_id, caller.key_id, release)
            return await self._request_id(ask, place, after_death=False)
        if isinstance(last.body, e.RequestReleased) and attempt + 1 < ATTEMPTS_MAX:
            return place.request_id(attempt + 1)
        ask.request_id = place.request_id(attempt)
        if isinstance(last.body, e.RequestReserved):
            raise _in_progress()
        raise _conflict(
            f"This Idempotency-Key was used by request {ask.request_id}, {_became(last.body)}"
        )

    async def _last_attempt(self, place: AnswerPlace) -> tuple[int, KnownRequest | None]:
        """Find the last request that was begun; none yet: the first attempt's number and None.

        The ids follow each other without a gap, so their number is found by doubling and halving.
        """
        found = await self._known(place, 0)
        low, high = 0, 1
        while found is not None and (more := await self._known(place, high)) is not None:
            found, low, high = more, high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            more = await self._known(place, middle)
            if more is None:
                high = middle
            else:
                found, low = more, middle
        return low, found

    async def _known(self, place: AnswerPlace, attempt: int) -> KnownRequest | None:
        request_id = place.request_id(attempt)
        try:
            known, _ = await self.ledger.requests.find(place.account_id, request_id)
        except NoSuchRequest:
            return None
        return known


def _became(body: e.AnyEvent) -> str:
    match body:
        case e.RequestRecorded() | e.RequestSettled() if body.charge:
            return f"charged {body.charge} {body.asset}; its answer is not kept any more"
        case e.RequestRecorded() | e.RequestSettled():
            return "charged nothing so far, having no price; its answer is not kept any more"
        case e.RequestExpired():
            return "which ran out of time and was charged nothing; send a new key"
        case _:
            return f"which failed {ATTEMPTS_MAX} times and was charged nothing; send a new key"


def _in_progress() -> Failure:
    detail = "A request with this Idempotency-Key is in progress; try again later"
    return Failure(Kind.IN_PROGRESS, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _conflict(detail: str) -> Failure:
    # OpenAI's and Anthropic's clients retry after a 409, unless this header says not to.
    return Failure(Kind.CONFLICT, detail, headers={"X-Should-Retry": "false"})


def _head(reply: Reply, *, streamed: bool, content_type: str = "") -> AnswerHead:
    headers = [
        (name.decode("latin-1"), text.decode("latin-1"))
        for name, text in reply.headers
        if _OF_THE_MOMENT.match(name) is None
    ]
    return AnswerHead(
        status=reply.status, streamed=streamed, content_type=content_type, headers=headers
    )


def _again(kept: Kept) -> Reply:
    """Return a kept answer as it was the first time."""
    head = kept.head
    headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head.headers]
    headers.append((b"idempotent-replayed", b"true"))
    if head.streamed:
        return _Again(head.status, headers, kept.body)
    content_type = head.content_type.encode("latin-1")
    reply = Answer(kept.body, status=head.status, content_type=content_type)
    reply.headers.extend(headers)
    return reply


class _Again:
    """A stream that is sent again."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    async def stream(self, send: Send, receive: Receive) -> None:  # noqa: ARG002 - as every stream
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for start in range(0, len(self._body), PIECE):
            piece = self._body[start : start + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _stays() -> Any:  # noqa: ANN401 - an ASGI message
    """Act as a client that never leaves."""
    await asyncio.get_running_loop().create_future()


class _Making:
    """A stream that is made to its end and kept, even if nobody listens."""

    def __init__(self, once: Once, request_id: str, place: AnswerPlace, inner: Streamed) -> None:
        self.status = inner.status
        self.headers = list(inner.headers)
        self._once = once
        self._request_id = request_id
        self._place = place
        self._inner = inner
        self._made: list[bytes] = []
        """All of the body, unless it is too large to be kept."""
        self._size = 0
        self._unsent: asyncio.Queue[Any] = asyncio.Queue()
        self._unsent_size = 0
        self._room = asyncio.Event()
        self._listens = True
        self._ended = False

    async def stream(self, send: Send, receive: Receive) -> None:  # noqa: ARG002 - see ``_stays``
        """Send it to its end. A client that is gone, or reads no more, does not hold it up."""
        making = asyncio.create_task(self._make(), name="gateway-once")
        seconds = self._once.seconds
        try:
            # A client that does not read would hold us for ever; one that is gone may raise.
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(seconds):
                    await self._pass_on(send)
            self._listen_no_more()
            await asyncio.shield(making)
        except asyncio.CancelledError:
            # The server cancels its tasks: the stream ends here, and says so.
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._pass_on(send)
            raise

    async def _pass_on(self, send: Send) -> None:
        while (message := await self._unsent.get()) is not None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self.headers}
            await send(message)
            self._unsent_size -= len(message.get("body", b""))
            self._room.set()

    def _listen_no_more(self) -> None:
        self._listens = False
        self._room.set()

    async def _make(self) -> None:
        try:
            await self._inner.stream(self._take, _stays)
        finally:
            if not self._ended:
                await self._once.answers.drop(self._place)
            self._unsent.put_nowait(None)

    async def _take(self, message: Any) -> None:  # noqa: ANN401 - an ASGI message
        """Take a message: for a retry, and for the client while it is there."""
        body = message.get("body", b"")
        self._size += len(body)
        if self._size > ANSWER_MAX:
            self._made.clear()
        else:
            self._made.append(body)
        if message["type"] == "http.response.body" and not message["more_body"]:
            # Before it is sent: a client that has read the end finds the answer, as it does the
            # charge.
            await self._end()
        if not self._listens:
            return
        self._unsent.put_nowait(message)
        self._unsent_size += len(body)
        while self._listens and self._unsent_size > ANSWER_MAX:
            self._room.clear()
            await self._room.wait()

    async def _end(self) -> None:
        self._ended = True
        answers, place, request_id = self._once.answers, self._place, self._request_id
        if self._size > ANSWER_MAX or await self._was_free():
            await answers.drop(place)
        else:
            head = _head(self._inner, streamed=True)
            await answers.keep(place, request_id, head, b"".join(self._made))

    async def _was_free(self) -> bool:
        """Return whether it ended without charge, so that a retry may make it again."""
        account_id, request_id = self._place.account_id, self._request_id
        try:
            known, _ = await self._once.ledger.requests.find(account_id, request_id)
        except LedgerError:
            return False
        return known.last is not None and isinstance(known.last.body, e.RequestReleased)
