"""What the ledger says of requests: read from the events themselves."""

import time
from typing import Any, NamedTuple

import msgspec
import psycopg

from ledger.usage import OUTPUT_TOKENS


class Booked(NamedTuple):
    """How a request ended."""

    ending: str
    """``settled``, ``released``, ``expired``, or ``open``."""
    usage: dict[str, int]
    charge: str
    flags: tuple[str, ...]

    @property
    def output(self) -> int:
        """Count the tokens charged as made."""
        return sum(self.usage.get(name, 0) for name in OUTPUT_TOKENS)


def book(url: str) -> dict[str, list[Booked]]:
    """Return every request with everything that ended it."""
    found: dict[str, list[Booked]] = {}
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT type::text, payload::text FROM keyledger.events"
            " WHERE type::text LIKE 'request_%' ORDER BY lane, lane_seq"
        ).fetchall()
    for kind, payload in rows:
        body: dict[str, Any] = msgspec.json.decode(payload)
        name = kind.removeprefix("request_")
        if name == "reserved":
            found.setdefault(body["request_id"], [])
        elif name in {"settled", "released", "expired"}:
            charge, flags = body.get("charge", ""), tuple(body.get("flags", ()))
            usage = {name: units for name, (units, _) in body.get("lines", {}).items()}
            ended = Booked(name, usage, charge, flags)
            found[body["request_id"]].append(ended)
    return found


def ended(url: str, request_id: str, *, seconds: float = 10) -> Booked:
    """Return the one ending of a request, waiting for it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        endings = book(url).get(request_id, [])
        if endings:
            assert len(endings) == 1, endings
            return endings[0]
        time.sleep(0.02)
    raise AssertionError(f"{request_id} is still open")


def settlement(url: str, request_id: str) -> dict[str, Any]:
    """Return all that the event says which settled a request."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT payload::text FROM keyledger.events WHERE type::text LIKE 'request_settled%'"
        ).fetchall()
    found = (msgspec.json.decode(row[0]) for row in rows)
    return next(body for body in found if body["request_id"] == request_id)


def all_events(url: str) -> str:
    """Return every event as text, to look for what must not be there."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT payload::text FROM keyledger.events").fetchall()
    return "\n".join(row[0] for row in rows)


def open_reservations(url: str) -> int:
    """Count what is still held."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM keyledger.reservations").fetchone()
    assert row is not None
    return row[0]
