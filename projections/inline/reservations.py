"""Open reservations: what is held, for whom, until when. A row goes when its request ends."""

from typing import LiteralString

import msgspec
from psycopg.rows import TupleRow

from ledger import codec
from ledger import events as e
from ledger.record.arrays import Byteas, Instants, Int8s, Texts, Uuids
from ledger.record.batch import Changes, Load, Wanted
from ledger.record.store import Statement
from ledger.state import Hold, LaneState, Reservation

LOAD: LiteralString = (
    "SELECT request_hash, account_id, key_id, reserved_at, expires_at, seq, holds::text,"
    " event::text FROM reservations WHERE lane = %s AND request_hash = ANY(%s)"
)
INSERT: LiteralString = (
    "INSERT INTO reservations (lane, request_hash, account_id, key_id, reserved_at, expires_at,"
    " seq, holds, event) SELECT %s, r.request_hash, r.account_id, r.key_id, r.reserved_at,"
    " r.expires_at, r.seq, r.holds::json, r.event::json"
    " FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s) AS r(request_hash, account_id, key_id,"
    " reserved_at, expires_at, seq, holds, event)"
)
DELETE: LiteralString = "DELETE FROM reservations WHERE lane = %s AND request_hash = ANY(%s)"
TABLES = ("reservations",)

_event = msgspec.json.Decoder(e.RequestReserved)
_holds = msgspec.json.Decoder(list[Hold])


def _absorb(state: LaneState, rows: list[TupleRow]) -> None:
    for row in rows:
        event = _event.decode(row[7])
        state.reservations[row[0]] = Reservation(
            request_hash=row[0],
            request_id=event.request_id,
            account_id=row[1],
            key_id=row[2],
            reserved_at=row[3],
            expires_at=row[4],
            seq=row[5],
            holds=_holds.decode(row[6]),
            event=event,
        )


def load(lane: int, wanted: Wanted) -> list[Load]:
    """Read reservations by request hash."""
    if not wanted.requests:
        return []
    return [Load(LOAD, (lane, Byteas(wanted.requests)), _absorb)]


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
    """Write new reservations and drop those that ended."""
    statements: list[Statement] = []
    if changes.closed:
        statements.append((DELETE, (lane, Byteas(changes.closed))))
    if changes.opened:
        opened = [state.reservations[found] for found in changes.opened]
        statements.append((INSERT, _columns(lane, opened)))
    return statements


def _columns(lane: int, opened: list[Reservation]) -> tuple[object, ...]:
    return (
        lane,
        Byteas(reservation.request_hash for reservation in opened),
        Uuids(reservation.account_id for reservation in opened),
        Uuids(reservation.key_id for reservation in opened),
        Instants(reservation.reserved_at for reservation in opened),
        Instants(reservation.expires_at for reservation in opened),
        Int8s(reservation.seq for reservation in opened),
        Texts(msgspec.json.encode(reservation.holds) for reservation in opened),
        Texts(codec.encode(reservation.event) for reservation in opened),
    )
