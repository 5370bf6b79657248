"""Where every 256th event of an account stands in its lane. Catching up: a short cut for reads.

An account's events are chained backwards only. To read them forwards from some place, one begins at
the first mark after what is wanted and follows the chain back. Without marks the same is found from
the account's newest event, only later.
"""

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Uuid,
    bindparam,
    func,
    select,
)

from ledger.codec import Recorded
from ledger.record.rows import InsertRows
from ledger.record.store import EVENTS, Statement
from ledger.server.tables import INSTANT, compiled, metadata
from projections.base import CatchingUp

EVERY = 256

MARKS = Table(
    "account_marks",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("lane_seq", BigInteger, nullable=False),
    Column("recorded_at", INSTANT, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", "version", name="mark_is_set_once"),
    comment="Every 256th event of an account: where to begin to read",
)

_ADD = InsertRows(MARKS)
_OF_ACCOUNT = (MARKS.c.lane == bindparam("lane"), MARKS.c.account_id == bindparam("account"))
FIRST_FROM = compiled(
    select(MARKS.c.lane_seq, MARKS.c.version)
    .where(*_OF_ACCOUNT, MARKS.c.version >= bindparam("version"))
    .order_by(MARKS.c.version)
    .limit(1)
)
LAST_BEFORE = compiled(
    select(MARKS.c.version)
    .where(*_OF_ACCOUNT, MARKS.c.recorded_at < bindparam("before"))
    .order_by(MARKS.c.version.desc())
    .limit(1)
)


def apply(events: Sequence[Recorded]) -> list[Statement]:
    """Turn every 256th event of an account into a mark."""
    found = [event.envelope for event in events if not event.envelope.version % EVERY]
    if not found:
        return []
    return [
        _ADD.of(
            found[0].lane,
            account_id=(envelope.account_id for envelope in found),
            version=(envelope.version for envelope in found),
            lane_seq=(envelope.lane_seq for envelope in found),
            recorded_at=(envelope.recorded_at for envelope in found),
        )
    ]


PROJECTION = CatchingUp("account_marks", 1, (MARKS,), func.mod(EVENTS.c.version, EVERY) == 0, apply)
