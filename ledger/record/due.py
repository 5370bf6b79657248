"""What runs out by itself: each projection names such rows of its own, and a lane asks here.

The questions are put together once, when a writer starts, from what its projections say; the lane
itself knows none of their tables.
"""

from collections.abc import Sequence
from typing import Any, Literal, LiteralString, NamedTuple

from sqlalchemy import Column, ColumnElement, Table, any_, bindparam, exists, null, or_, select
from sqlalchemy import literal as constant
from sqlalchemy import union_all as together

from ledger.record.store import LANE_HEADS
from ledger.server.tables import compiled, written


class Due(NamedTuple):
    """Rows of a projection that are to be written down once an instant has come."""

    what: Literal["reservation", "key", "lot"]
    """What of the lane's state a row is of."""
    instant: Column[Any]
    """With the lane and ``waits`` it has an index. The table has an ``account_id``."""
    waits: ColumnElement[bool] | None = None
    """Condition on the rows that wait for it; None: all do."""
    key: Column[Any] | None = None
    """The key it is about."""
    request: Column[Any] | None = None
    """Hash of the request it is about."""

    @property
    def table(self) -> Table:
        """The projection's table."""
        return self.instant.table

    @property
    def since(self) -> tuple[ColumnElement[bool], ...]:
        """Condition on the rows that are due at ``at``."""
        reached = self.instant <= bindparam("at")
        return (reached,) if self.waits is None else (reached, self.waits)


class Questions(NamedTuple):
    """What a lane asks to know before it decides."""

    past: LiteralString
    """Request ids that were used before; what ran out; how many rate cards and withdrawals of them;
    what the clock says, the ledger's and the server's own, in microseconds since 1970.

    Asked once the head is locked, in a statement of its own: one that waited for the lock sees only
    what was committed before it began to wait, and its clock may have been read before, too.
    """
    of_accounts: bytes
    """What ran out of some accounts alone, where more is due than ``past`` brings."""


def questions(due: Sequence[Due]) -> Questions:
    """Put together what a lane asks: first of what may free something for others."""
    ordered = sorted(due, key=lambda each: _ORDER.index(each.what))
    past = " UNION ALL ".join((_REQUESTS, *map(_in_lane, ordered), _CARDS, _CLOCK))
    return Questions(f"{_WITH_CLOCK} {past}", compiled(together(*map(_of_accounts, ordered))))


_ORDER = ("reservation", "key", "lot")
# By hand, because it goes with each append, is positional, and names its parameters twice.
_WITH_CLOCK: LiteralString = "WITH clock AS MATERIALIZED (SELECT ledger_clock() AS at)"
_REQUESTS: LiteralString = """\
SELECT 'request', NULL::uuid, NULL::uuid, request_hash, lane_seq, last_seq FROM request_ids \
WHERE lane = $1 AND request_hash = ANY($2)"""
_CARDS: LiteralString = """\
SELECT 'cards', NULL, NULL, NULL, count(*) + count(withdrawn_at), NULL FROM rate_cards"""
_CLOCK: LiteralString = """\
SELECT 'clock', NULL, NULL, NULL, (1000000 * extract(epoch FROM at))::int8, \
(1000000 * extract(epoch FROM statement_timestamp()))::int8 FROM clock"""


def _in_lane(due: Due) -> LiteralString:
    table, instant = due.table.name, due.instant.name
    key = "NULL" if due.key is None else due.key.name
    request = "NULL" if due.request is None else due.request.name
    waits = "" if due.waits is None else f" AND {written(due.waits)}"
    return (
        f"(SELECT '{due.what}', account_id, {key}, {request}, NULL, NULL"  # sql-ok: a table's own
        f" FROM {table} WHERE lane = $1 AND {instant} <= (SELECT at FROM clock){waits}"
        f" ORDER BY {instant} LIMIT $3)"
    )


def _of_accounts(due: Due) -> Any:  # noqa: ANN401 - a Select of whatever columns
    columns = due.table.c
    key = null() if due.key is None else due.key
    request = null() if due.request is None else due.request
    theirs = columns.account_id == any_(bindparam("accounts"))
    found = select(constant(due.what), columns.account_id, key, request)
    return found.where(columns.lane == bindparam("lane"), theirs, *due.since).limit(
        bindparam("most")
    )


def lanes_with_due(due: Sequence[Due]) -> bytes:
    """Return the statement that names every lane of which something ran out at ``at``.

    Few have at a time, and each question has an index for it.
    """
    lane = LANE_HEADS.c.lane
    anything = (exists().where(each.table.c.lane == lane, *each.since) for each in due)
    return compiled(select(lane).where(or_(*anything)).order_by(lane))
