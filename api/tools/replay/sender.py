"""Sends a trace to a running service over HTTP, in order, resuming where an earlier run stopped.

Request ids are made of the trace's name, the seed and the request's identity, so that whatever is
sent twice is charged once. Requests of one key are sent one after another in the order of their
arrival; those of different keys overlap. 503 and broken connections are retried under the same id.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from api.tools.replay import wire
from api.tools.replay.fleet import Fleet, Sender
from api.tools.replay.tally import Answered, ReplayTally
from api.tools.replay.traces import Trace, TraceRequest
from api.tools.replay.wire import Connection, Reply
from ledger.clock import Instant, format_instant

PATH = "/ledger/v1/usage"
SINGLE, BATCH = "single", "batch"
CONNECTIONS = {SINGLE: 32, BATCH: 4}
BATCH_REQUESTS = 500
AHEAD_MAX = 4_096
"""Requests read ahead of their answers."""
RETRY_FIRST_SECONDS = 0.1
RETRY_MAX_SECONDS = 5.0
GIVE_UP_SECONDS = 60.0
"""After so long without any answer the service is given up."""
RECENT = timedelta(hours=24)


class Options(NamedTuple):
    """How to send."""

    url: str
    secret: str
    mode: str = SINGLE
    connections: int | None = None
    batch_requests: int = BATCH_REQUESTS
    speed: float | None = None
    """How many times faster than recorded; None: as fast as it goes."""


class ServiceIsGone(Exception):
    """The service did not answer for a minute."""


class SenderIsRefused(Exception):
    """The service does not accept this sender or this request at all."""


class Item(NamedTuple):
    """A request ready to be sent."""

    sender: int
    body: bytes


class _Money(msgspec.Struct, frozen=True):
    amount: str
    asset: str


class _Receipt(msgspec.Struct, frozen=True):
    charge: _Money | None


class _Problem(msgspec.Struct, frozen=True):
    code: str
    status: int = 0
    detail: str = ""


class _Result(msgspec.Struct, frozen=True):
    ok: bool
    receipt: _Receipt | None = None
    problem: _Problem | None = None
    replayed: bool = False


class _Batch(msgspec.Struct, frozen=True):
    results: list[_Result]


_receipt = msgspec.json.Decoder(_Receipt)
_problem = msgspec.json.Decoder(_Problem)
_batch = msgspec.json.Decoder(_Batch)
_encode = msgspec.json.Encoder().encode
_RETRIED = 503
_PASSING_CODES = {"ledger_is_unavailable", "queue_is_full", "outcome_is_unknown"}
_SERIOUS = {400, 401, 403, 404, 405, 413, 415, 500}
"""Statuses after which sending on makes no sense."""


def recent_beginning(fleet: Fleet) -> Instant:
    """Return the instant at which a trace begins: a day before the hour of the fleet's opening.

    A day's trace is then all in the past and accepted, and every run sends the same instants.
    """
    return fleet.opened_at.replace(minute=0, second=0, microsecond=0) - RECENT


def items(trace: Trace, fleet: Fleet, begins_at: Instant) -> Iterator[tuple[int, Item]]:
    """Turn a trace into requests, each after the offset at which it is due."""
    for row in trace.rows():
        sender = fleet.sender_of(row.session)
        yield row.offset, Item(sender, _body(trace, fleet, sender, row, begins_at))


def _body(trace: Trace, fleet: Fleet, sender: int, row: TraceRequest, begins_at: Instant) -> bytes:
    key = fleet.senders[sender]
    return _encode(
        {
            "request_id": f"{trace.name}-{fleet.seed}-{row.identity}",
            "key_id": key.key_id,
            "model": key.planned.model,
            "usage": row.usage,
            "occurred_at": format_instant(begins_at + timedelta(microseconds=row.offset)),
        }
    )


async def send(
    requests: Iterator[tuple[int, Item]],
    senders: Sequence[Sender],
    options: Options,
    tally: ReplayTally,
    progress: Callable[[], None],
) -> None:
    """Send every request and count what became of it.

    ``progress`` is called after every answer. Whatever is not answered when this ends early is
    sent by the next run.

    Raises:
        ServiceIsGone: Nothing answered for a minute.
        SenderIsRefused: The operator's secret is not accepted, or nothing is served there.
    """
    connections = options.connections or CONNECTIONS[options.mode]
    is_batch = options.mode == BATCH
    content_type = "application/x-ndjson" if is_batch else "application/json"
    place = wire.target(options.url, PATH, options.secret, content_type)
    ahead = max(AHEAD_MAX, options.batch_requests * connections * 2) if is_batch else AHEAD_MAX
    queue = _Queue(ahead, options.batch_requests if is_batch else 1)
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(_feed(requests, queue, options.speed))
            for _ in range(connections):
                group.create_task(_work(Connection(place), queue, senders, tally, progress))
            await feeding
            await queue.close()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        tally.end()


async def _feed(requests: Iterator[tuple[int, Item]], queue: "_Queue", speed: float | None) -> None:
    began = time.monotonic()
    for offset, item in requests:
        if speed is not None:
            wait_seconds = began + offset / 1_000_000 / speed - time.monotonic()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
        await queue.put(item)


class _Queue:
    """Requests in their order, with at most one exchange per key under way."""

    def __init__(self, ahead_max: int, most: int) -> None:
        self._most = most
        self._room = asyncio.Semaphore(ahead_max)
        self._waiting: defaultdict[int, deque[Item]] = defaultdict(deque)
        self._ready: deque[int] = deque()
        self._busy: set[int] = set()
        self._changed = asyncio.Condition()
        self._closed = False

    async def put(self, item: Item) -> None:
        await self._room.acquire()
        waiting = self._waiting[item.sender]
        waiting.append(item)
        if len(waiting) == 1 and item.sender not in self._busy:
            self._ready.append(item.sender)
            async with self._changed:
                self._changed.notify()

    async def take(self) -> list[Item]:
        """Return the next requests of one key, whose others then wait; none: the end."""
        async with self._changed:
            while not self._ready:
                if self._closed and not any(self._waiting.values()):
                    return []
                await self._changed.wait()
            sender = self._ready.popleft()
        self._busy.add(sender)
        waiting = self._waiting[sender]
        return [waiting.popleft() for _ in range(min(self._most, len(waiting)))]

    async def done(self, taken: list[Item]) -> None:
        sender = taken[0].sender
        self._busy.discard(sender)
        for _ in taken:
            self._room.release()
        async with self._changed:
            if self._waiting[sender]:
                self._ready.append(sender)
                self._changed.notify()
            elif self._closed:
                self._changed.notify_all()

    async def close(self) -> None:
        self._closed = True
        async with self._changed:
            self._changed.notify_all()


async def _work(
    connection: Connection,
    queue: _Queue,
    senders: Sequence[Sender],
    tally: ReplayTally,
    progress: Callable[[], None],
) -> None:
    try:
        while taken := await queue.take():
            left = taken
            pause_seconds = RETRY_FIRST_SECONDS
            while left:
                left = await _exchange(connection, left, senders, tally)
                progress()
                if left:
                    tally.retries += len(left)
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(pause_seconds * 2, RETRY_MAX_SECONDS)
            await queue.done(taken)
    finally:
        connection.close()


async def _exchange(
    connection: Connection, taken: list[Item], senders: Sequence[Sender], tally: ReplayTally
) -> list[Item]:
    """Send requests of one key; return those to be sent again."""
    reply = await _post(connection, b"\n".join(item.body for item in taken), tally)
    if reply.status == _RETRIED:
        return taken
    answers = _read(reply, len(taken))
    again = []
    for item, answered in zip(taken, answers, strict=True):
        if answered.refusal in _PASSING_CODES:
            again.append(item)
        else:
            tally.add(senders[item.sender].planned.integration, answered)
    return again


async def _post(connection: Connection, body: bytes, tally: ReplayTally) -> Reply:
    pause_seconds = RETRY_FIRST_SECONDS
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while True:
        began = time.perf_counter_ns()
        try:
            reply = await connection.post(body)
        except OSError as error:
            if time.monotonic() > give_up_at:
                raise ServiceIsGone(f"The service does not answer: {error}") from error
            tally.retries += 1
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, RETRY_MAX_SECONDS)
        else:
            tally.latencies.add((time.perf_counter_ns() - began) // 1_000)
            return reply


def _read(reply: Reply, count: int) -> list[Answered]:
    if reply.status >= 400:  # noqa: PLR2004 - all of them are problems
        return [_refusal(reply)] * count
    if count == 1 and not reply.body.startswith(b'{"recorded"'):
        receipt = _receipt.decode(reply.body)
        replayed = reply.headers.get(b"idempotent-replayed") == b"true"
        return [_recorded(receipt, replayed=replayed)]
    return [
        _recorded(result.receipt, replayed=result.replayed)
        if result.receipt is not None
        else Answered(refusal=result.problem.code if result.problem else "unknown")
        for result in _batch.decode(reply.body).results
    ]


def _recorded(receipt: _Receipt, *, replayed: bool) -> Answered:
    charge = None if receipt.charge is None else (receipt.charge.amount, receipt.charge.asset)
    return Answered(charge=charge, replayed=replayed)


def _refusal(reply: Reply) -> Answered:
    try:
        problem = _problem.decode(reply.body)
    except msgspec.DecodeError as error:
        message = f"The service answered {reply.status} in words that are not the ledger's."
        raise SenderIsRefused(message) from error
    if reply.status in _SERIOUS and problem.code not in _OF_THE_KEY:
        raise SenderIsRefused(f"The service answered {reply.status}: {problem.detail}")
    return Answered(refusal=problem.code)


_OF_THE_KEY = {
    *("no_such_key", "no_such_account", "account_is_suspended", "model_is_denied"),
    *("scope_is_denied", "secret_is_retired"),
}
"""Refusals with such a status that concern one key; others go on."""
