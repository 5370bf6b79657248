"""Where every 256th event of an account stands in its lane. Catching up: a short cut for reads.

An account's events are chained backwards only. To read them forwards from some place, one begins at
the first mark after what is wanted and follows the chain back. Without marks the same is found from
the account's newest event, only later.
"""

from collections.abc import Sequence
from typing import LiteralString

from ledger.codec import Recorded
from ledger.record.arrays import Instants, Int2s, Int8s, Uuids
from ledger.record.store import Statement
from projections.base import Projection

NAME = "account_marks"
VERSION = 1
TABLES = ("account_marks",)
EVERY = 256

INSERT: LiteralString = (
    "INSERT INTO account_marks (lane, account_id, version, lane_seq, recorded_at)"
    " SELECT m.lane, m.account_id, m.version, m.lane_seq, m.recorded_at"
    " FROM unnest(%s, %s, %s, %s, %s) AS m(lane, account_id, version, lane_seq, recorded_at)"
)
# EVERY, as the server counts it; a percent sign would be read as a parameter's.
TAKES: LiteralString = "mod(version, 256) = 0"
CLEAR: LiteralString = "DELETE FROM account_marks WHERE lane = %s"
FIRST_FROM: LiteralString = (
    "SELECT lane_seq, version FROM account_marks"
    " WHERE lane = %s AND account_id = %s AND version >= %s ORDER BY version LIMIT 1"
)
LAST_BEFORE: LiteralString = (
    "SELECT version FROM account_marks"
    " WHERE lane = %s AND account_id = %s AND recorded_at < %s ORDER BY version DESC LIMIT 1"
)


def apply(events: Sequence[Recorded]) -> list[Statement]:
    """Turn every 256th event of an account into a mark."""
    found = [event.envelope for event in events if not event.envelope.version % EVERY]
    if not found:
        return []
    columns = (
        Int2s(envelope.lane for envelope in found),
        Uuids(envelope.account_id for envelope in found),
        Int8s(envelope.version for envelope in found),
        Int8s(envelope.lane_seq for envelope in found),
        Instants(envelope.recorded_at for envelope in found),
    )
    return [(INSERT, columns)]


PROJECTION = Projection(NAME, VERSION, TABLES, (CLEAR,), TAKES, apply)
