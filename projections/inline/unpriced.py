"""Requests that were delivered without a price and wait for one: a visible backlog, never zero."""

from typing import LiteralString

from ledger import events as e
from ledger.record.arrays import Int8s, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import NO_KEY, Statement
from ledger.state import LaneState, is_unpriced

INSERT: LiteralString = (
    "INSERT INTO unpriced_requests (lane, lane_seq, account_id, key_id, model, request_id)"
    " SELECT %s, u.* FROM unnest(%s, %s, %s, %s, %s)"
    " AS u(lane_seq, account_id, key_id, model, request_id)"
)
DELETE: LiteralString = "DELETE FROM unpriced_requests WHERE lane = %s AND lane_seq = ANY(%s)"
TABLES = ("unpriced_requests",)


def load(lane: int, wanted: Wanted) -> list[Load]:  # noqa: ARG001
    """Read nothing: no decision depends on it."""
    return []


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:  # noqa: ARG001
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
        columns = (
            Int8s(waiting),
            Uuids(envelope.account_id for envelope, _ in waiting.values()),
            Uuids(envelope.key_id or NO_KEY for envelope, _ in waiting.values()),
            Texts(body.model for _, body in waiting.values()),
            Texts(body.request_id for _, body in waiting.values()),
        )
        statements.append((INSERT, (lane, *columns)))
    if rated:
        statements.append((DELETE, (lane, Int8s(rated))))
    return statements
