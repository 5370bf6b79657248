"""What accounts keep behind the gateway if no upstream is set: rows that only they see.

What they hold is customers' text: it is only here, in no event, log line or error. Whoever adds
or deletes locks the account's shelf first, so that the count is exact and nothing is put into
what is being deleted.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from psycopg_pool import AsyncConnectionPool
from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.clock import DatabaseClock, Instant
from ledger.ids import AccountId, lane_of_account, new_row_id
from ledger.server.tables import INSTANT, compiled, metadata

KEPT_MAX = 1_000
"""Resources that an account may keep, over all kinds."""

GATEWAY_RESOURCES = Table(
    "gateway_resources",
    metadata,
    Column("resource_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("parent_id", Uuid),
    Column("created_at", INSTANT, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column(
        "body", Text, nullable=False, comment="JSON; text, so that no error about it repeats it"
    ),
    PrimaryKeyConstraint("lane", "account_id", "resource_id", name="resource_is_unique"),
    Index("gateway_resources_by_kind", "lane", "account_id", "kind", "parent_id", "resource_id"),
)
GATEWAY_SHELVES = Table(
    "gateway_shelves",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("resources", Integer, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", name="account_has_one_gateway_shelf"),
    CheckConstraint("resources >= 0", name="gateway_shelf_is_not_negative"),
    comment="How much an account keeps; locked by whoever adds to it or takes away",
    postgresql_with={"fillfactor": 50},
)
_kept, _shelf = GATEWAY_RESOURCES.c, GATEWAY_SHELVES.c
_lane, _account = bindparam("lane", type_=SmallInteger), bindparam("account", type_=Uuid)
_id, _parent = bindparam("id", type_=Uuid), bindparam("parent", type_=Uuid)
_after = bindparam("after", type_=Uuid)
_is_own = (_kept.lane == _lane, _kept.account_id == _account)
_is_own_shelf = (_shelf.lane == _lane, _shelf.account_id == _account)

ADD_TO_SHELF = compiled(
    insert(GATEWAY_SHELVES)
    .values(lane=_lane, account_id=_account, resources=1)
    .on_conflict_do_update(
        constraint=GATEWAY_SHELVES.primary_key,
        set_={"resources": _shelf.resources + 1},
        where=_shelf.resources < bindparam("most"),
    )
    .returning(_shelf.resources)
)
HOLD_SHELF = compiled(select(_shelf.resources).where(*_is_own_shelf).with_for_update())
TAKE_FROM_SHELF = compiled(
    update(GATEWAY_SHELVES)
    .where(*_is_own_shelf)
    .values(resources=_shelf.resources - bindparam("count"))
)
INSERT = compiled(
    insert(GATEWAY_RESOURCES).values(
        lane=_lane,
        account_id=_account,
        resource_id=_id,
        parent_id=_parent,
        kind=bindparam("kind"),
        created_at=bindparam("at"),
        body=bindparam("body"),
    )
)
_is_of_kind = (*_is_own, _kept.kind == bindparam("kind"))
_shown = select(_kept.resource_id, _kept.created_at, _kept.body)
FIND = compiled(_shown.where(*_is_of_kind, _kept.resource_id == _id))
PAGE = compiled(
    _shown.where(
        *_is_of_kind,
        _kept.parent_id.is_not_distinct_from(_parent),
        or_(_after.is_(None), _kept.resource_id > _after),
    )
    .order_by(_kept.resource_id)
    .limit(bindparam("most"))
)
DELETE = compiled(
    delete(GATEWAY_RESOURCES).where(*_is_own, or_(_kept.resource_id == _id, _kept.parent_id == _id))
)


class TooMany(Exception):
    """The account keeps as many resources as it may."""


class NoSuchResource(Exception):
    """No such resource of this account."""


class Resource(NamedTuple):
    """A resource that an account keeps."""

    resource_id: UUID
    created_at: Instant
    body: str
    """JSON."""


class Resources:
    """Keeps them."""

    def __init__(self, pool: AsyncConnectionPool, lanes: int, clock: DatabaseClock) -> None:
        """Take where to keep them, and the clock."""
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
        """List some, oldest first; one more than ``most`` if there are more."""
        parameters = self._place(account_id, kind=kind, parent=parent, after=after, most=most + 1)
        async with self._pool.connection() as connection:
            rows = await connection.execute(PAGE, parameters)
            return [Resource(*row) for row in await rows.fetchall()]

    async def find(self, account_id: AccountId, kind: str, resource_id: UUID) -> Resource:
        """Find one.

        Raises:
            NoSuchResource: There is none of this kind.
        """
        parameters = self._place(account_id, kind=kind, id=resource_id)
        async with self._pool.connection() as connection:
            row = await (await connection.execute(FIND, parameters)).fetchone()
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
        """Add one.

        Raises:
            NoSuchResource: The one that it belongs to does not exist.
            TooMany: The account keeps as many as it may.
        """
        made = Resource(new_row_id(), self._clock.now(), body)
        at_most = self._place(account_id, most=KEPT_MAX)
        belongs = self._place(account_id, kind=parent_kind, id=parent)
        row = self._place(
            account_id, id=made.resource_id, parent=parent, kind=kind, at=made.created_at, body=body
        )
        async with self._pool.connection() as connection, connection.transaction():
            counted = await (await connection.execute(ADD_TO_SHELF, at_most)).fetchone()
            if counted is None:
                raise TooMany
            if parent is not None:
                found = await (await connection.execute(FIND, belongs)).fetchone()
                if found is None:
                    raise NoSuchResource
            await connection.execute(INSERT, row)
        return made

    async def delete(self, account_id: AccountId, kind: str, resource_id: UUID) -> None:
        """Delete one, with what belongs to it.

        Raises:
            NoSuchResource: There is none of this kind.
        """
        parameters = self._place(account_id, kind=kind, id=resource_id)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(HOLD_SHELF, parameters)
            if await (await connection.execute(FIND, parameters)).fetchone() is None:
                raise NoSuchResource
            gone = await connection.execute(DELETE, parameters)
            await connection.execute(TAKE_FROM_SHELF, {**parameters, "count": gone.rowcount})
