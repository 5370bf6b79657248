"""What counts against each limit, per key and per account, and when a key was last used."""

from typing import LiteralString
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from ledger import events as e
from ledger.limits import Counter
from ledger.record.arrays import Instants, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import Statement
from ledger.state import LaneState

LOAD: LiteralString = (
    "SELECT subject_id, last_used_at, counters::text FROM limit_counters"
    " WHERE lane = %s AND subject_id = ANY(%s)"
)
SAVE: LiteralString = (
    "INSERT INTO limit_counters (lane, subject_id, last_used_at, counters)"
    " SELECT %s, c.subject_id, c.last_used_at, c.counters::json"
    " FROM unnest(%s, %s, %s) AS c(subject_id, last_used_at, counters)"
    " ON CONFLICT ON CONSTRAINT subject_has_one_row_of_counters DO UPDATE"
    " SET last_used_at = EXCLUDED.last_used_at, counters = EXCLUDED.counters"
)
DELETE: LiteralString = "DELETE FROM limit_counters WHERE lane = %s AND subject_id = ANY(%s)"
TABLES = ("limit_counters",)

_counters = msgspec.json.Decoder(dict[str, Counter])
_encode = msgspec.json.encode


def _json(counters: dict[str, Counter]) -> bytes:
    # In one order: a rebuild may count what came mixed one model after the other.
    return _encode(dict(sorted(counters.items())) if len(counters) > 1 else counters)


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for subject_id, last_used_at, counters in rows:
        key = state.keys.get(subject_id)
        if key is not None:
            key.last_used_at = last_used_at
            key.counters = _counters.decode(counters)
        else:
            state.accounts[subject_id].counters = _counters.decode(counters)


def load(lane: int, wanted: Wanted) -> list[Load]:
    """Read the counters of accounts and keys, after both were read themselves."""
    subjects = [*wanted.accounts, *wanted.keys]
    return [Load(LOAD, (lane, Uuids(subjects)), _absorb)] if subjects else []


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
    """Write the counters of everyone a batch touched who has any; who lost the last has no row."""
    accounts = [state.accounts[found] for found in changes.accounts]
    keys = [state.keys[found] for found in changes.keys]
    counted = [account for account in accounts if account.counters]
    used = [key for key in keys if key.counters or key.last_used_at is not None]
    statements: list[Statement] = []
    if emptied := _emptied(state, changes):
        statements.append((DELETE, (lane, Uuids(emptied))))
    if counted or used:
        columns = (
            Uuids([*(a.account_id for a in counted), *(key.key_id for key in used)]),
            Instants([*(None for _ in counted), *(key.last_used_at for key in used)]),
            Texts([*(_json(a.counters) for a in counted), *(_json(k.counters) for k in used)]),
        )
        statements.append((SAVE, (lane, *columns)))
    return statements


def _emptied(state: LaneState, changes: Changes) -> list[UUID]:
    """Tell whose row goes. A counter is only ever forgotten for another, or with its limit."""
    found: set[UUID] = set()
    for envelope, *_ in changes.of(e.AccountLimitsSet):
        if not state.accounts[envelope.account_id].counters:
            found.add(envelope.account_id)
    for envelope, *_ in changes.of(e.KeyLimitsSet):
        key = state.keys[envelope.key_id] if envelope.key_id is not None else None
        if key is not None and not key.counters and key.last_used_at is None:
            found.add(key.key_id)
    return list(found)
