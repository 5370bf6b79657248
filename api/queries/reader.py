"""What all reads share: snapshots of lanes, and what a read returns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Generic, LiteralString, NamedTuple, TypeVar

from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from ledger.clock import DatabaseClock, Instant
from ledger.errors import NoSuchAccount
from ledger.ids import AccountId, Position, lane_of_account
from ledger.record import store
from ledger.record.batch import Projection
from projections import engine
from projections.base import CatchingUp
from projections.snapshot import Snapshot, snapshot

F = TypeVar("F")
A = TypeVar("A")

PAGE_MAX = 1_000
CATCH_UP_WAIT = timedelta(seconds=3)
CATCH_UP_PAUSE_SECONDS = 0.05


class Found(NamedTuple, Generic[F]):
    """What was read, and the position that it reflects."""

    facts: F
    position: Position


class Part(NamedTuple, Generic[F]):
    """Part of a list."""

    items: list[F]
    has_more: bool


async def each(
    page: Callable[[A | None], Awaitable[tuple[list[F], bool]]], mark: Callable[[F], A]
) -> AsyncIterator[F]:
    """Yield the items of all pages of a list, reading each page when its turn comes.

    ``page`` reads what comes after an item (None: from the start), and whether more follows.
    """
    after, has_more = None, True
    while has_more:
        items, has_more = await page(after)
        for item in items:
            yield item
        if not items:
            return
        after = mark(items[-1])


class Reader:
    """Reads from projections and lanes."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        inline: Sequence[Projection],
        lanes: int,
        clock: DatabaseClock,
    ) -> None:
        """Take where to read, and the clock."""
        self.pool = pool
        self.lanes = lanes
        self.clock = clock
        self._inline = inline

    def lane_of(self, account_id: AccountId) -> int:
        """Return the lane of an account."""
        return lane_of_account(account_id, self.lanes)

    def at(self, lane: int) -> AbstractAsyncContextManager[Snapshot]:
        """Open a snapshot of a lane."""
        return snapshot(self.pool, lane, self._inline, self.clock)

    def of(self, account_id: AccountId) -> AbstractAsyncContextManager[Snapshot]:
        """Open a snapshot of an account's lane."""
        return self.at(self.lane_of(account_id))

    async def rows(self, sql: LiteralString | bytes, parameters: Any = None) -> list[TupleRow]:  # noqa: ANN401
        """Read rows that are not tied to a lane's position."""
        async with self.pool.connection() as connection:
            return await (await connection.execute(sql, parameters)).fetchall()

    async def catch_up(self, projection: CatchingUp, lane: int, deadline: Instant) -> None:
        """Bring a lane's projection up to now, or wait for whoever is doing so."""
        while True:
            async with self.pool.connection() as connection:
                progress = await engine.catch_up_fully(connection, projection, lane)
            if not progress.taken or self.clock.now() >= deadline:
                return
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)


async def head_of(lane: Snapshot, account_id: AccountId) -> tuple[int, int]:
    """Find an account's newest event: its position in the lane, and its version.

    Raises:
        NoSuchAccount: There is no such account.
    """
    heads = await lane.rows(store.ACCOUNT_HEAD, (lane.lane, account_id))
    if not heads:
        raise NoSuchAccount
    return heads[0][0], heads[0][1]
