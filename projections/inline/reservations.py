"""Open reservations: what is held, for whom, until when. A row goes when its request ends."""

import msgspec
from psycopg.rows import TupleRow
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Uuid,
)

from ledger import codec
from ledger import events as e
from ledger.record.arrays import Byteas
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.due import Due
from ledger.record.rows import DeleteRows, InsertRows, SelectRows
from ledger.record.store import Statement
from ledger.server.tables import INSTANT, metadata
from ledger.state import Hold, LaneState, Reservation
from projections.base import Inline

RESERVATIONS = Table(
    "reservations",
    metadata,
    Column("request_hash", LargeBinary, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("reserved_at", INSTANT, nullable=False),
    Column("expires_at", INSTANT, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("holds", JSON, nullable=False),
    Column("event", JSON, nullable=False),
    PrimaryKeyConstraint("lane", "request_hash", name="reservation_is_open_once"),
    Index("reservations_to_expire", "lane", "expires_at"),
    Index("reservations_by_account", "lane", "account_id", "expires_at"),
    postgresql_with={"fillfactor": 70},
)

_EXPIRES = Due(
    "reservation",
    RESERVATIONS.c.expires_at,
    key=RESERVATIONS.c.key_id,
    request=RESERVATIONS.c.request_hash,
)
_LOAD = SelectRows(RESERVATIONS, RESERVATIONS.c.request_hash)
_ADD = InsertRows(RESERVATIONS)
_DELETE = DeleteRows(RESERVATIONS, RESERVATIONS.c.request_hash)

_event = msgspec.json.Decoder(e.RequestReserved)
_holds = msgspec.json.Decoder(list[Hold])


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in _LOAD.named(rows):
        event = _event.decode(row["event"])
        state.reservations[row["request_hash"]] = Reservation(
            request_hash=row["request_hash"],
            request_id=event.request_id,
            account_id=row["account_id"],
            key_id=row["key_id"],
            reserved_at=row["reserved_at"],
            expires_at=row["expires_at"],
            seq=row["seq"],
            holds=_holds.decode(row["holds"]),
            event=event,
        )


def load(lane: int, wanted: Wanted) -> list[StateQuery]:
    """Read reservations by request hash."""
    if not wanted.requests:
        return []
    return [StateQuery(_LOAD.sql, (lane, Byteas(wanted.requests)), _absorb)]


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Write new reservations and drop those that ended."""
    statements: list[Statement] = []
    if changes.closed:
        statements.append(_DELETE.of(lane, changes.closed))
    if changes.opened:
        opened = [state.reservations[found] for found in changes.opened]
        statements.append(
            _ADD.of(
                lane,
                request_hash=(reservation.request_hash for reservation in opened),
                account_id=(reservation.account_id for reservation in opened),
                key_id=(reservation.key_id for reservation in opened),
                reserved_at=(reservation.reserved_at for reservation in opened),
                expires_at=(reservation.expires_at for reservation in opened),
                seq=(reservation.seq for reservation in opened),
                holds=(msgspec.json.encode(reservation.holds) for reservation in opened),
                event=(codec.encode(reservation.event) for reservation in opened),
            )
        )
    return statements


PROJECTION = Inline("reservations", (RESERVATIONS,), save, load, (_EXPIRES,), is_state=True)
