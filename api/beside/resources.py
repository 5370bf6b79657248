"""What accounts keep behind the gateway where no upstream is set: rows of theirs and nobody else's.

What they hold is text of customers: it is here and in no event, no log line, no error.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from ledger.clock import DatabaseClock, Instant
from ledger.ids import AccountId, lane_of_account, new_row_id
from projections import resources as sql

KEPT_MAX = 1_000
"""Resources of all kinds that an account may keep."""


class TooMany(Exception):
    """The account keeps as much as it may."""


class NoSuchResource(Exception):
    """No such resource of this account."""


class Resource(NamedTuple):
    """One thing that an account keeps."""

    resource_id: UUID
    created_at: Instant
    body: str
    """JSON."""


class Resources:
    """Keeps them."""

    def __init__(self, pool: AsyncConnectionPool, lanes: int, clock: DatabaseClock) -> None:
        """Take where to keep them, and what tells the time."""
        self._pool = pool
        self._clock = clock
        self._lanes = lanes

    def _place(self, account_id: AccountId, **more: Any) -> Mapping[str, Any]:  # noqa: ANN401
        lane = lane_of_account(account_id, self._lanes)
        return {"lane": lane, "account": account_id, **more}

    async def page(
        self,
        account_id: AccountId,
        kind: str,
        *,
        parent: UUID | None,
        after: UUID | None,
        most: int,
    ) -> list[Resource]:
        """List some, oldest first; one more than ``most`` where there are more."""
        terms = self._place(account_id, kind=kind, parent=parent, after=after, most=most + 1)
        async with self._pool.connection() as connection:
            rows = await connection.execute(sql.PAGE, terms)
            return [Resource(*row) for row in await rows.fetchall()]

    async def find(self, account_id: AccountId, kind: str, resource_id: UUID) -> Resource:
        """Give one.

        Raises:
            NoSuchResource: There is none of this kind.
        """
        terms = self._place(account_id, kind=kind, id=resource_id)
        async with self._pool.connection() as connection:
            row = await (await connection.execute(sql.FIND, terms)).fetchone()
        if row is None:
            raise NoSuchResource
        return Resource(*row)

    async def add(
        self,
        account_id: AccountId,
        kind: str,
        body: str,
        *,
        parent: UUID | None = None,
        parent_kind: str = "",
    ) -> Resource:
        """Keep one more.

        Raises:
            NoSuchResource: It belongs to one that there is not.
            TooMany: The account keeps as much as it may.
        """
        made = Resource(new_row_id(), self._clock.now(), body)
        at_most = self._place(account_id, most=KEPT_MAX)
        belongs = self._place(account_id, kind=parent_kind, id=parent)
        row = self._place(
            account_id, id=made.resource_id, parent=parent, kind=kind, at=made.created_at, body=body
        )
        async with self._pool.connection() as connection, connection.transaction():
            counted = await (await connection.execute(sql.ADD_TO_SHELF, at_most)).fetchone()
            if counted is None:
                raise TooMany
            if parent is not None:
                found = await (await connection.execute(sql.FIND, belongs)).fetchone()
                if found is None:
                    raise NoSuchResource
            await connection.execute(sql.INSERT, row)
        return made

    async def delete(self, account_id: AccountId, kind: str, resource_id: UUID) -> None:
        """Delete one, with what belongs to it.

        Raises:
            NoSuchResource: There is none of this kind.
        """
        terms = self._place(account_id, kind=kind, id=resource_id)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(sql.HOLD_SHELF, terms)
            if await (await connection.execute(sql.FIND, terms)).fetchone() is None:
                raise NoSuchResource
            gone = await connection.execute(sql.DELETE, terms)
            await connection.execute(sql.TAKE_FROM_SHELF, {**terms, "count": gone.rowcount})
