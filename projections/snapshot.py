"""One lane as of one position: what every answer about it is read in.

A read takes one snapshot (REPEATABLE READ) of the lane's head and the rows, so that the position
it answers with is exactly the one the numbers stand at. State that decisions read is read back
through the same projections that decisions use: what is shown is what is enforced.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from ledger.clock import DatabaseClock
from ledger.errors import LedgerCorrupt
from ledger.ids import Position
from ledger.record import arrays, store
from ledger.record.batch import Projection, Wanted
from ledger.state import LaneState

BEGIN: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Snapshot:
    """One lane as of one position."""

    def __init__(
        self, connection: AsyncConnection, lane: int, inline: Sequence[Projection]
    ) -> None:
        """Take a connection inside its transaction."""
        self.connection = connection
        self.lane = lane
        self.seq = 0
        self._inline = inline

    @property
    def position(self) -> Position:
        """Return what it reflects."""
        return Position(self.lane, self.seq)

    async def rows(self, sql: LiteralString | bytes, parameters: Any) -> list[TupleRow]:  # noqa: ANN401
        """Run a query of the lane."""
        cursor = await self.connection.execute(sql, parameters, binary=True)
        return await cursor.fetchall()

    async def state(self, accounts: Sequence[UUID] = (), keys: Sequence[UUID] = ()) -> LaneState:
        """Bring back what decisions read about accounts and keys."""
        state = LaneState(seq=self.seq)
        wanted = Wanted(list(accounts), list(keys), [])
        loads = [load for part in self._inline for load in part.load(self.lane, wanted)]
        async with self.connection.pipeline():
            found = [
                await self.connection.execute(load.sql, load.parameters, binary=True)
                for load in loads
            ]
        for load, cursor in zip(loads, found, strict=True):
            load.absorb(state, await cursor.fetchall())
        return state


@asynccontextmanager
async def snapshot(
    pool: AsyncConnectionPool, lane: int, inline: Sequence[Projection], clock: DatabaseClock
) -> AsyncIterator[Snapshot]:
    """Open a snapshot of a lane; its position is ``seq``, and its time is what ``clock`` hears."""
    async with pool.connection() as connection:
        await connection.execute(BEGIN)
        try:
            found = Snapshot(connection, lane, inline)
            rows = await found.rows(store.SEQ_AND_CLOCK, (lane,))
            if not rows:
                message = f"Lane {lane} has no head."
                raise LedgerCorrupt(message, lane=lane)
            found.seq, at = rows[0]
            clock.hear(at)
            yield found
        finally:
            await connection.execute("COMMIT")


async def prepare(connection: AsyncConnection) -> None:
    """Make a connection ready for reads."""
    await connection.set_autocommit(True)
    arrays.register(connection)
