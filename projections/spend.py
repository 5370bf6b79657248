"""Spend per key, day, integration, model and asset: sums of events, and of nothing else.

The day is the UTC day of ``occurred_at``. A request whose lots are of several assets counts once,
with its tokens, in the asset its price is in, and adds amounts to each asset that paid.
"""

from datetime import date
from functools import lru_cache
from typing import LiteralString, NamedTuple
from uuid import UUID

from msgspec.structs import astuple

from ledger import events as e
from ledger.arrays import Array, Dates, Int8s, Texts, Uuids
from ledger.batch import Changes, Load, Wanted
from ledger.codec import Recorded
from ledger.state import LaneState, parts_of
from ledger.store import NO_KEY, Statement
from ledger.usage import CLASSES, Usage

TABLES = ("spend",)
UNPRICED = ""
"""Stands where the asset would: nothing has paid yet."""

_COLUMNS: dict[str, LiteralString] = {name: name for name in CLASSES}
_COLUMNS["requests"] = "units"


class Line(NamedTuple):
    """What spend is summed by."""

    account_id: UUID
    key_id: UUID
    day: date
    integration: str
    model: str
    asset: str


class Sums:
    """What is summed."""

    __slots__ = ("amount", "requests", "unpriced", "usage")

    def __init__(self) -> None:
        """Begin at zero."""
        self.requests = 0
        self.unpriced = 0
        self.amount = 0
        self.usage: dict[str, int] = {}

    def add(self, usage: Usage, sign: int = 1) -> None:
        """Count one request with its quantities; ``sign`` −1 takes it out again."""
        self.requests += sign
        for name, quantity in quantities(usage):
            self.usage[name] = self.usage.get(name, 0) + sign * quantity


def quantities(usage: Usage) -> list[tuple[str, int]]:
    """Give the classes that were used, with how much."""
    units = zip(CLASSES, astuple(usage), strict=True)
    return [(name, quantity) for name, quantity in units if quantity]


def sums_of(events: list[Recorded], state: LaneState) -> dict[Line, Sums]:
    """Sum what a batch of events spent. ``state`` knows which asset a lot is of."""
    sums: dict[Line, Sums] = {}
    for event in events:
        body = event.body
        if isinstance(body, e.RequestRecorded | e.RequestSettled):
            line = _line(event, body, event.envelope.occurred_at.date(), body.asset)
            found = _at(sums, line)
            found.add(body.usage)
            if not body.charge:
                found.unpriced += 1
            _add_amounts(sums, line, body, state)
        elif isinstance(body, e.RequestRated):
            day = body.recorded_on.date()
            unpriced = _at(sums, _line(event, body, day, UNPRICED))
            unpriced.add(body.usage, -1)
            unpriced.unpriced -= 1
            line = _line(event, body, day, body.asset)
            _at(sums, line).add(body.usage)
            _add_amounts(sums, line, body, state)
    return sums


_Charged = e.RequestRecorded | e.RequestSettled | e.RequestRated


def _line(event: Recorded, body: _Charged, day: date, asset: str) -> Line:
    envelope = event.envelope
    key_id = envelope.key_id or NO_KEY
    return Line(envelope.account_id, key_id, day, body.integration, body.model, asset)


def _at(sums: dict[Line, Sums], line: Line) -> Sums:
    found = sums.get(line)
    if found is None:
        found = sums[line] = Sums()
    return found


def _add_amounts(sums: dict[Line, Sums], line: Line, body: _Charged, state: LaneState) -> None:
    account = state.accounts[line.account_id]
    for number, pico in parts_of(body):
        asset = account.asset_of(number) or line.asset
        _at(sums, line if asset == line.asset else line._replace(asset=asset)).amount += pico


@lru_cache(maxsize=256)
def _statement(classes: tuple[str, ...]) -> LiteralString:
    """Write the upsert for the usage classes that occur, nearly always two or three."""
    names = [_COLUMNS[name] for name in classes]
    columns = ["account_id", "key_id", "day", "integration", "model", "asset", "requests"]
    columns += ["unpriced", "amount", *names]
    given = ", ".join(columns)
    values = ", ".join(f"s.{name}" for name in columns).replace("s.amount", "s.amount::numeric")
    added = ["requests", "unpriced", "amount", *names]
    sums = ", ".join(f"{name} = spend.{name} + EXCLUDED.{name}" for name in added)
    places = ", ".join(["%s"] * len(columns))
    return (
        f"INSERT INTO spend (lane, {given}) SELECT %s, {values}"  # sql-ok: names of columns
        f" FROM unnest({places}) AS s({given})"
        f" ON CONFLICT ON CONSTRAINT spend_is_summed_once DO UPDATE SET {sums}"
    )


def load(lane: int, wanted: Wanted) -> list[Load]:  # noqa: ARG001
    """Read nothing: no decision depends on it."""
    return []


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
    """Add what a batch spent to the sums that stand."""
    sums = sums_of(changes.of(e.RequestRecorded, e.RequestSettled, e.RequestRated), state)
    if not sums:
        return []
    lines, found = list(sums), list(sums.values())
    used = {name for one in found for name in one.usage}
    classes = tuple(name for name in CLASSES if name in used)
    columns: list[Array] = [
        Uuids(line.account_id for line in lines),
        Uuids(line.key_id for line in lines),
        Dates(line.day for line in lines),
        Texts(line.integration for line in lines),
        Texts(line.model for line in lines),
        Texts(line.asset for line in lines),
        Int8s(one.requests for one in found),
        Int8s(one.unpriced for one in found),
        Texts(str(one.amount) for one in found),
    ]
    columns += [Int8s(one.usage.get(name, 0) for one in found) for name in classes]
    return [(_statement(classes), (lane, *columns))]
