"""Spend per key, day, integration, model and asset: sums of events, and of nothing else.

The day is the UTC day of ``occurred_at``. A request whose lots are of several assets counts once,
with its tokens, in the asset its price is in, and adds amounts to each asset that paid. What other
models used inside a request stands in lines of theirs, which no request is counted in.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from typing import LiteralString, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from ledger import events as e
from ledger.codec import Recorded
from ledger.lines import Lines, product_of, split
from ledger.record.batch import Changes
from ledger.record.rows import Added
from ledger.record.store import NO_KEY, Statement
from ledger.record.tables import PICO, metadata
from ledger.state import Account, LaneState, is_unpriced, parts_of
from ledger.usage import CLASSES, INPUT_TOKENS, OUTPUT_TOKENS, column_of
from projections.base import Inline

SPEND = Table(
    "spend",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("day", Date, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("integration", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("asset", Text, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("amount", PICO, nullable=False),
    *(
        Column(column_of(name), BigInteger, nullable=False, server_default=text("0"))
        for name in CLASSES
    ),
    PrimaryKeyConstraint(
        *("lane", "account_id", "key_id", "day", "integration", "model", "asset"),
        name="spend_is_summed_once",
    ),
    postgresql_with={"fillfactor": 50},
    comment="And a column for each usage class: those there are now, made at start",
)

KINDS = (e.RequestRecorded, e.RequestSettled, e.RequestRated)
"""Events that spend."""
UNPRICED = ""
"""Stands where the asset would: nothing has paid yet."""

COLUMNS: dict[str, LiteralString] = {name: column_of(name) for name in CLASSES}
"""Usage class → its column. Whatever reads the table takes its classes from here."""
_PLACES = {name: place for place, name in enumerate(CLASSES)}


def summed(classes: Iterable[str], prefix: LiteralString = "") -> LiteralString:
    """Write the sum of usage classes over rows, all in one: ``sum(input + cache_read …)``."""
    return f"sum({' + '.join(prefix + COLUMNS[name] for name in classes)})"  # sql-ok: columns


def summed_each(prefix: LiteralString = "") -> LiteralString:
    """Write the sums of the usage classes over rows, one by one, in the order of ``CLASSES``."""
    return ", ".join(f"sum({prefix}{column})::int8" for column in COLUMNS.values())  # sql-ok


PROMPT: LiteralString = summed(INPUT_TOKENS)
COMPLETION: LiteralString = summed(OUTPUT_TOKENS)
TOKENS: LiteralString = summed((*INPUT_TOKENS, *OUTPUT_TOKENS))


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
        self.usage = [0] * len(CLASSES)
        """In the order of ``CLASSES``."""

    def add(self, lines: Lines) -> None:
        """Add quantities."""
        for name, (units, _) in lines.items():
            self.usage[_PLACES[name]] += units

    def add_all(self, requests: int, usage: Mapping[str, int]) -> None:
        """Count requests with what they used together, by class."""
        self.requests += requests
        for name, units in usage.items():
            self.usage[_PLACES[name]] += units

    def take_out(self, lines: Lines) -> None:
        """Take quantities away."""
        for name, (units, _) in lines.items():
            self.usage[_PLACES[name]] -= units


def sums_of(
    events: list[Recorded], state: LaneState, onto: dict[Line, Sums] | None = None
) -> dict[Line, Sums]:
    """Sum what a batch of events spent, ``onto`` what was summed before.

    ``state`` knows which asset a lot is of.
    """
    sums: dict[Line, Sums] = {} if onto is None else onto
    lines: dict[_Bare, tuple[Line, Sums]] = {}
    for event in events:
        envelope, body = event.envelope, event.body
        if isinstance(body, e.RequestRecorded | e.RequestSettled):
            key_id = envelope.key_id or NO_KEY
            # Of integers and text, because a UUID hashes itself in Python.
            bare = (
                envelope.account_id.int,
                key_id.int,
                envelope.occurred_at.toordinal(),
                body.integration,
                body.model,
                body.asset,
            )
            pair = lines.get(bare)
            if pair is None:
                line = _line(event, body, envelope.occurred_at.date(), body.asset)
                pair = lines[bare] = (line, _at(sums, line))
            line, found = pair
            found.requests += 1
            found.add(body.lines)
            if is_unpriced(body):
                found.unpriced += 1
            _add_others(sums, line, body)
            _add_amounts(sums, line, found, body, state)
        elif isinstance(body, e.RequestRated):
            _add_rated(sums, event, body, state)
    return sums


def _add_rated(
    sums: dict[Line, Sums], event: Recorded, body: e.RequestRated, state: LaneState
) -> None:
    day = event.envelope.occurred_at.date()
    line = _line(event, body, day, body.asset)
    found = _at(sums, line)
    if body.rest:
        # Its quantities stand there already, beside what was priced at once.
        found.unpriced -= not is_unpriced(body)
    else:
        waited = line._replace(asset=UNPRICED)
        unpriced = _at(sums, waited)
        unpriced.requests -= 1
        unpriced.unpriced -= 1
        unpriced.take_out(body.lines)
        found.requests += 1
        found.unpriced += is_unpriced(body)
        found.add(body.lines)
        for other in body.others:
            _at(sums, waited._replace(model=other.model)).take_out(other.lines)
        _add_others(sums, line, body)
    _add_amounts(sums, line, found, body, state)


def add_together(
    sums: dict[Line, Sums],
    line: Line,
    requests: int,
    usage: Mapping[str, int],
    spent: Mapping[str, int],
) -> None:
    """Sum requests of one line that have a price. ``spent`` is what each asset paid for them."""
    found = _at(sums, line)
    found.add_all(requests, usage)
    for asset, pico in spent.items():
        paid = found if asset == line.asset else _at(sums, line._replace(asset=asset))
        paid.amount += pico


_Bare = tuple[int, int, int, str, str, str]
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


def _add_others(sums: dict[Line, Sums], line: Line, body: _Charged) -> None:
    for other in body.others:
        _at(sums, line._replace(model=other.model)).add(other.lines)


def _add_amounts(
    sums: dict[Line, Sums], line: Line, found: Sums, body: _Charged, state: LaneState
) -> None:
    account = state.accounts[line.account_id]
    if body.others:
        _add_amounts_by_model(sums, line, body, account)
        return
    for number, pico in parts_of(body):
        asset = account.asset_of(number) or line.asset
        paid = found if asset == line.asset else _at(sums, line._replace(asset=asset))
        paid.amount += pico


def _add_amounts_by_model(
    sums: dict[Line, Sums], line: Line, body: _Charged, account: Account
) -> None:
    """Share a charge among the models that made it; the lots pay for them in order."""
    models = [line.model, *(other.model for other in body.others)]
    weights = [product_of(lines) for lines in (body.lines, *(o.lines for o in body.others))]
    parts = parts_of(body)
    shares = split(sum(pico for _, pico in parts), weights)
    paying = iter(parts)
    number, left = next(paying, (0, 0))
    for model, share in zip(models, shares, strict=True):
        due = share
        while due:
            taken = min(due, left)
            asset = account.asset_of(number) or line.asset
            _at(sums, line._replace(model=model, asset=asset)).amount += taken
            due, left = due - taken, left - taken
            if not left:
                number, left = next(paying, (0, due))


@lru_cache(maxsize=256)
def _adds(classes: tuple[str, ...]) -> Added:
    """Compile the upsert for the usage classes that occur, nearly always two or three."""
    sums = ("requests", "unpriced", "amount", *map(column_of, classes))
    return Added(SPEND, (*Line._fields, *sums), sums=sums)


def save(lane: int, state: LaneState, changes: Changes) -> list[Statement]:
    """Add what a batch spent to the sums that stand."""
    events = changes.of(*KINDS)
    return written(lane, sums_of(events, state)) if events else []


def written(lane: int, sums: dict[Line, Sums]) -> list[Statement]:
    """Give what adds sums to those that stand."""
    if not sums:
        return []
    lines, found = list(sums), list(sums.values())
    usage = {
        name: units
        for name, units in zip(
            CLASSES, zip(*(one.usage for one in found), strict=True), strict=True
        )
        if any(units)
    }
    columns: dict[str, Iterable[object]] = {
        **dict(zip(Line._fields, zip(*lines, strict=True), strict=True)),
        "requests": (one.requests for one in found),
        "unpriced": (one.unpriced for one in found),
        "amount": (str(one.amount) for one in found),
        **{column_of(name): units for name, units in usage.items()},
    }
    return [_adds(tuple(usage)).of(lane, **columns)]


PROJECTION = Inline("spend", (SPEND,), save)
