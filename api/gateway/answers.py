"""Answers kept for a retry: who makes one, who waits for it, what is kept and for how long.

What is kept is customers' text: it stands in one unlogged table, bounded, for minutes, and in no
event, log line or error. Nothing here decides about money: that a request is charged once is the
ledger's doing, by its request id, whatever becomes of these rows.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from api.beside import answer_rows as rows
from ledger.ids import AccountId, KeyId, lane_of_account, new_row_id
from ledger.secrets import is_in

log = structlog.get_logger("keyledger.gateway")

ANSWER_MAX = 8 * 1024 * 1024
"""Bytes of the largest answer that is kept."""
ANSWERS_MAX = 1_000
"""Answers kept per account."""
ACCOUNT_MAX = 64 * 1024 * 1024
"""Bytes of answers kept per account."""
ALL_MAX = 1024 * 1024 * 1024
"""Bytes of all accounts' answers; any excess goes at the next cleaning, the oldest first."""
LEASE = timedelta(seconds=15)
"""A process that makes an answer and is silent for this long counts as dead."""
RENEW_SECONDS = 4
CLAIM_KEPT = timedelta(hours=1, minutes=1)
"""A dead process's claim stays as long as the reservation of its request may be open."""
WAIT_SECONDS = 30
"""How long a second request waits for the first: long enough to notice that it is dead."""
WAITING_OF_ONE_MAX = 100
WAITING_MAX = 1_000
"""Per process."""
POLL_SECONDS = 0.02
"""Pause before looking again for an answer; doubled each time."""
LAST_POLL_SECONDS = 0.5

_encode = msgspec.json.Encoder().encode


class AnswerPlace(NamedTuple):
    """What is answered once: a request under a key's ``Idempotency-Key`` on one route."""

    account_id: AccountId
    key_id: KeyId
    once_hash: bytes
    fingerprint: bytes
    """Hash of everything that was asked."""

    def request_id(self, attempt: int) -> str:
        """Return the id of the request that makes the answer, the same in every process for ever.

        A request that ended without charge is followed by another attempt under an id of its own.
        """
        material = self.once_hash + attempt.to_bytes(4)
        return f"req_{hashlib.sha256(material).hexdigest()[:32]}"


def place_of(
    account_id: AccountId, key_id: KeyId, route: str, idempotency_key: str, *asked: bytes
) -> AnswerPlace:
    """Return where an answer belongs. ``asked``: everything in which two requests may differ."""
    named = hashlib.sha256(account_id.bytes + key_id.bytes)
    named.update(f"{route}\n{idempotency_key}".encode())
    once_hash = named.digest()
    content = hashlib.sha256(once_hash)
    for part in asked:
        content.update(len(part).to_bytes(8) + part)
    return AnswerPlace(account_id, key_id, once_hash, content.digest())


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True):
    """An answer without its body."""

    status: int
    streamed: bool
    content_type: str = ""
    """Empty: it is among the headers, as with streams."""
    headers: list[tuple[str, str]]


_head = msgspec.json.Decoder(AnswerHead)


class Kept(NamedTuple):
    """An answer that was given before."""

    request_id: str
    head: AnswerHead
    body: bytes


class Claimed(NamedTuple):
    """The caller is to make the answer."""

    after_death: bool = False
    """Another process began and died: nobody will end what it holds in the ledger."""


class UnderWay(NamedTuple):
    """Somebody makes the answer now."""


class Other(NamedTuple):
    """The ``Idempotency-Key`` came with another request."""


class _Row(NamedTuple):
    fingerprint: bytes
    holder: UUID
    is_done: bool
    is_over: bool
    """Whether its holder is dead, or it was kept for long enough."""


class TooManyWait(Exception):
    """Too many requests wait already."""


class _Waiting:
    __slots__ = ("count", "task")

    def __init__(self, task: "asyncio.Task[Kept | None]") -> None:
        self.task = task
        self.count = 0


class Answers:
    """Keeps them."""

    def __init__(self, pool: AsyncConnectionPool, lanes: int, *, seconds: int) -> None:
        """Take where answers are kept, and for how long; 0: not at all."""
        self._pool = pool
        self._lanes = lanes
        self._seconds = seconds
        self._holder = new_row_id()
        self._made: set[AnswerPlace] = set()
        """What this process is making now."""
        self._renewing: asyncio.Task[None] | None = None
        self._waiting: dict[AnswerPlace, _Waiting] = {}

    def _parameters(self, place: AnswerPlace, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        return {
            "lane": lane_of_account(place.account_id, self._lanes),
            "once": place.once_hash,
            "account": place.account_id,
            "fingerprint": place.fingerprint,
            "holder": self._holder,
            "lease": LEASE,
            **more,
        }

    async def claim(self, place: AnswerPlace) -> Claimed | Kept | UnderWay | Other:
        """Claim the answer for the caller, or say that it is being made or is there."""
        parameters = self._parameters(place)
        async with self._pool.connection() as connection:
            while True:
                if await (await connection.execute(rows.CLAIM, parameters)).fetchone() is not None:
                    return self._claimed(place, Claimed())
                row = await (await connection.execute(rows.LOOK, parameters)).fetchone()
                found = None if row is None else await self._found(connection, place, _Row(*row))
                if found is not None:
                    return found

    async def _found(
        self, connection: psycopg.AsyncConnection, place: AnswerPlace, row: "_Row"
    ) -> Claimed | Kept | UnderWay | Other | None:
        """Say what somebody else's row means; None: it has changed by now."""
        parameters = self._parameters(place, dead=row.holder)
        if row.is_done and row.is_over:
            await connection.execute(rows.DROP_OVER, parameters)
            return None
        if bytes(row.fingerprint) != place.fingerprint:
            return Other()
        if row.is_done:
            return await self._read(connection, place)
        if not row.is_over:
            return UnderWay()
        taken = await (await connection.execute(rows.TAKE_OVER, parameters)).fetchone()
        return None if taken is None else self._claimed(place, Claimed(after_death=True))

    def _claimed(self, place: AnswerPlace, claimed: Claimed) -> Claimed:
        self._made.add(place)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="gateway-answers")
        return claimed

    async def _read(self, connection: psycopg.AsyncConnection, place: AnswerPlace) -> Kept | None:
        row = await (await connection.execute(rows.READ, self._parameters(place))).fetchone()
        return None if row is None else Kept(row[0], _head.decode(row[1]), bytes(row[2]))

    async def _renew(self) -> None:
        """Renew this process's claims every few seconds, while it makes answers."""
        while self._made:
            await asyncio.sleep(RENEW_SECONDS)
            places = list(self._made)
            parameters = {
                "lanes": [lane_of_account(each.account_id, self._lanes) for each in places],
                "onces": [each.once_hash for each in places],
                "holder": self._holder,
                "lease": LEASE,
            }
            with _told("answers_not_renewed"):
                async with self._pool.connection() as connection:
                    await connection.execute(rows.RENEW, parameters)
        self._renewing = None

    async def keep(
        self, place: AnswerPlace, request_id: str, head: AnswerHead, body: bytes
    ) -> None:
        """Keep an answer for a retry, if it may be kept; in any case it is no longer being made.

        One that repeats a secret is not kept: no table holds secrets (promise 11).
        """
        size = max(len(body), 1)
        if not self._seconds or size > ANSWER_MAX or is_in(body.decode(errors="replace")):
            await self.drop(place)
            return
        self._made.discard(place)
        parameters = self._parameters(
            place,
            request=request_id,
            keep=timedelta(seconds=self._seconds),
            size=size,
            head=_encode(head).decode(),
            body=body,
            number_most=ANSWERS_MAX,
            bytes_most=ACCOUNT_MAX,
        )
        with _told("answer_not_kept", request_id=request_id):
            async with self._pool.connection() as connection:
                if await (await connection.execute(rows.KEEP, parameters)).fetchone() is None:
                    await connection.execute(rows.DROP, parameters)

    async def drop(self, place: AnswerPlace) -> None:
        """Drop a claim: there is no answer, or none that may be kept."""
        self._made.discard(place)
        with _told("answer_not_dropped"):
            async with self._pool.connection() as connection:
                await connection.execute(rows.DROP, self._parameters(place))

    async def wait(self, place: AnswerPlace, *, until: float) -> Kept | None:
        """Wait for an answer that somebody else makes; None: nobody is making it any more.

        ``until``: in the event loop's time.

        Raises:
            TooManyWait: Too many wait for this answer, or in this process.
            TimeoutError: It is not there yet.
        """
        waiting = self._waiting.get(place)
        if sum(each.count for each in self._waiting.values()) >= WAITING_MAX:
            raise TooManyWait
        if waiting is None or waiting.task.done():
            # One task asks on behalf of all that wait.
            waiting = _Waiting(asyncio.create_task(self._seen(place), name="gateway-wait"))
            self._waiting[place] = waiting
        elif waiting.count >= WAITING_OF_ONE_MAX:
            raise TooManyWait
        waiting.count += 1
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(waiting.task)
        finally:
            waiting.count -= 1
            if not waiting.count:
                waiting.task.cancel()
                if self._waiting.get(place) is waiting:
                    del self._waiting[place]

    async def _seen(self, place: AnswerPlace) -> Kept | None:
        pause_seconds = POLL_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LAST_POLL_SECONDS)
            async with self._pool.connection() as connection:
                found = await connection.execute(rows.LOOK, self._parameters(place))
                row = await found.fetchone()
                seen = None if row is None else _Row(*row)
                if seen is None or bytes(seen.fingerprint) != place.fingerprint:
                    return None
                if seen.is_done:
                    return await self._read(connection, place)
                if seen.is_over:
                    return None

    async def forget(self) -> int:
        """Delete what was kept for long enough or exceeds the bounds; return how many rows."""
        async with self._pool.connection() as connection:
            old = await connection.execute(rows.FORGET, {"claims": CLAIM_KEPT})
            much = await connection.execute(rows.TRIM, {"bytes_most": ALL_MAX})
        return old.rowcount + much.rowcount

    async def close(self) -> None:
        """Stop renewing claims."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)


@contextlib.contextmanager
def _told(event: str, **about: str) -> Iterator[None]:
    """Carry on without the database: the ledger tells a retry what became of its request."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        # Only its class: what the server says may repeat a row.
        log.warning(event, error=type(error).__name__, **about)
