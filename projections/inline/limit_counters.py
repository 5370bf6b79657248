"""What counts against each limit, per key and per account, and when a key was last used."""

from uuid import UUID

import msgspec
from psycopg.rows import TupleRow
from sqlalchemy import JSON, Column, PrimaryKeyConstraint, SmallInteger, Table, Uuid

from ledger import events as e
from ledger.limits import Counter
from ledger.record.arrays import Uuids
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.rows import DeleteRows, InsertRows, SelectRows
from ledger.record.store import Statement
from ledger.server.tables import INSTANT, metadata
from ledger.state import LaneState
from projections.base import Inline

COUNTERS = Table(
    "limit_counters",
    metadata,
    Column("subject_id", Uuid, nullable=False),
    Column("last_used_at", INSTANT),
    Column("lane", SmallInteger, nullable=False),
    Column("counters", JSON, nullable=False),
    PrimaryKeyConstraint("lane", "subject_id", name="subject_has_one_row_of_counters"),
    postgresql_with={"fillfactor": 50},
)

_LOAD = SelectRows(COUNTERS, COUNTERS.c.subject_id)
_SAVE = InsertRows(COUNTERS, replaces=("last_used_at", "counters"))
_DELETE = DeleteRows(COUNTERS, COUNTERS.c.subject_id)

_counters = msgspec.json.Decoder(dict[str, Counter])
_encode = msgspec.json.encode


def _json(counters: dict[str, Counter]) -> bytes:
    # In one order: a rebuild may count what came mixed one model after the other.
    return _encode(dict(sorted(counters.items())) if len(counters) > 1 else counters)


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD.named(rows):
        subject_id, counters = row["subject_id"], _counters.decode(row["counters"])
        key = state.keys.get(subject_id)
        if key is not None:
            key.last_used_at = row["last_used_at"]
            key.counters = counters
        else:
            state.accounts[subject_id].counters = counters


def load(lane: int, wanted: Wanted) -> list[StateQuery]:
    """Read the counters of accounts and keys, after both were read themselves."""
    subjects = [*wanted.accounts, *wanted.keys]
    return [StateQuery(_LOAD.sql, (lane, Uuids(subjects)), _absorb)] if subjects else []


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Write the counters of everyone a batch touched who has any; nobody without one has a row."""
    accounts = [state.accounts[found] for found in changes.accounts]
    keys = [state.keys[found] for found in changes.keys]
    counted = [account for account in accounts if account.counters]
    used = [key for key in keys if key.counters or key.last_used_at is not None]
    statements: list[Statement] = []
    if emptied := _emptied(state, changes):
        statements.append(_DELETE.of(lane, emptied))
    if counted or used:
        statements.append(
            _SAVE.of(
                lane,
                subject_id=[*(a.account_id for a in counted), *(key.key_id for key in used)],
                last_used_at=[*(None for _ in counted), *(key.last_used_at for key in used)],
                counters=[
                    *(_json(a.counters) for a in counted),
                    *(_json(k.counters) for k in used),
                ],
            )
        )
    return statements


def _emptied(state: LaneState, changes: BatchChanges) -> list[UUID]:
    """Return whose row goes. A counter is only ever forgotten for another, or with its limit."""
    found: set[UUID] = set()
    for envelope, *_ in changes.of(e.AccountLimitsSet):
        if not state.accounts[envelope.account_id].counters:
            found.add(envelope.account_id)
    for envelope, *_ in changes.of(e.KeyLimitsSet):
        key = state.keys[envelope.key_id] if envelope.key_id is not None else None
        if key is not None and not key.counters and key.last_used_at is None:
            found.add(key.key_id)
    return list(found)


PROJECTION = Inline("limit_counters", (COUNTERS,), save, load, is_state=True)
