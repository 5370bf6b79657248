"""Requests that were delivered without a price and wait for one: a visible backlog, never zero."""

from sqlalchemy import (
    BigInteger,
    Column,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    select,
)

from ledger import events as e
from ledger.record.batch import BatchChanges
from ledger.record.rows import DeleteRows, InsertRows
from ledger.record.store import NO_KEY, Statement
from ledger.server.tables import compiled, metadata
from ledger.state import LaneState, is_unpriced
from projections.base import Inline

UNPRICED = Table(
    "unpriced_requests",
    metadata,
    Column("lane_seq", BigInteger, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("model", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    PrimaryKeyConstraint("lane", "lane_seq", name="unpriced_request_waits_once"),
)

NEXT = compiled(
    select(
        UNPRICED.c.lane_seq,
        UNPRICED.c.account_id,
        UNPRICED.c.key_id,
        UNPRICED.c.model,
        UNPRICED.c.request_id,
    )
    .where(UNPRICED.c.lane == bindparam("lane"), UNPRICED.c.lane_seq > bindparam("after"))
    .order_by(UNPRICED.c.lane_seq)
    .limit(bindparam("most"))
)
"""Those of a lane that wait, the oldest first."""

_ADD = InsertRows(UNPRICED)
_DELETE = DeleteRows(UNPRICED, UNPRICED.c.lane_seq)


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:  # noqa: ARG001
    """Add what came without a price, take out what was rated."""
    waiting = {
        event.envelope.lane_seq: (event.envelope, event.body)
        for event in changes.of(e.RequestRecorded, e.RequestSettled, e.RequestRated)
        if isinstance(event.body, e.RequestRecorded | e.RequestSettled | e.RequestRated)
        and is_unpriced(event.body)
    }
    rated = [
        event.body.rated_seq
        for event in changes.of(e.RequestRated)
        if isinstance(event.body, e.RequestRated)
    ]
    statements: list[Statement] = []
    if waiting:
        envelopes, bodies = zip(*waiting.values(), strict=True)
        statements.append(
            _ADD.of(
                lane,
                lane_seq=waiting,
                account_id=(envelope.account_id for envelope in envelopes),
                key_id=(envelope.key_id or NO_KEY for envelope in envelopes),
                model=(body.model for body in bodies),
                request_id=(body.request_id for body in bodies),
            )
        )
    if rated:
        statements.append(_DELETE.of(lane, rated))
    return statements


PROJECTION = Inline("unpriced", (UNPRICED,), save)
