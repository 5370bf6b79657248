"""Spend per key, day, integration, model and asset: sums of events, and of nothing else.

The day is the UTC day of ``occurred_at``. A request whose lots are of several assets counts once,
with its tokens, in the asset its price is in, and adds amounts to each asset that paid. What other
models used inside a request stands in lines of their own, in which no request is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    desc,
    func,
    or_,
    select,
    text,
    true,
)

from ledger import events as e
from ledger.codec import Recorded
from ledger.lines import Lines, product_of, split
from ledger.money import PICO_PER_UNIT
from ledger.record.batch import BatchChanges
from ledger.record.profiles import ACCOUNT_PROFILES
from ledger.record.rows import InsertRows
from ledger.record.store import EVENTS, NO_KEY, Statement
from ledger.server.tables import INSTANT, PICO, compiled, metadata, text_at
from ledger.state import Account, LaneState, is_unpriced, parts_of
from ledger.usage import CLASSES, INPUT_TOKENS, OUTPUT_TOKENS, column_of
from projections.base import Inline
from projections.inline.accounts import ACCOUNTS
from projections.inline.keys import KEYS

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

_USED = {name: SPEND.c[column_of(name)] for name in CLASSES}
"""Usage class → its column."""
_PLACES = {name: place for place, name in enumerate(CLASSES)}


class SpendGroup(NamedTuple):
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
    events: list[Recorded], state: LaneState, onto: dict[SpendGroup, Sums] | None = None
) -> dict[SpendGroup, Sums]:
    """Sum what a batch of events spent, ``onto`` what was summed before.

    ``state`` knows which asset a lot is of.
    """
    sums: dict[SpendGroup, Sums] = {} if onto is None else onto
    lines: dict[_Bare, tuple[SpendGroup, Sums]] = {}
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
    sums: dict[SpendGroup, Sums], event: Recorded, body: e.RequestRated, state: LaneState
) -> None:
    day = event.envelope.occurred_at.date()
    line = _line(event, body, day, body.asset)
    found = _at(sums, line)
    if body.rest:
        # Its quantities stand there already, next to what was priced at once.
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
    sums: dict[SpendGroup, Sums],
    line: SpendGroup,
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


def _line(event: Recorded, body: _Charged, day: date, asset: str) -> SpendGroup:
    envelope = event.envelope
    key_id = envelope.key_id or NO_KEY
    return SpendGroup(envelope.account_id, key_id, day, body.integration, body.model, asset)


def _at(sums: dict[SpendGroup, Sums], line: SpendGroup) -> Sums:
    found = sums.get(line)
    if found is None:
        found = sums[line] = Sums()
    return found


def _add_others(sums: dict[SpendGroup, Sums], line: SpendGroup, body: _Charged) -> None:
    for other in body.others:
        _at(sums, line._replace(model=other.model)).add(other.lines)


def _add_amounts(
    sums: dict[SpendGroup, Sums], line: SpendGroup, found: Sums, body: _Charged, state: LaneState
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
    sums: dict[SpendGroup, Sums], line: SpendGroup, body: _Charged, account: Account
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
def _adds(classes: tuple[str, ...]) -> InsertRows:
    """Compile the upsert for the usage classes that occur, nearly always two or three."""
    sums = ("requests", "unpriced", "amount", *map(column_of, classes))
    return InsertRows(SPEND, (*SpendGroup._fields, *sums), sums=sums)


def save(lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
    """Add what a batch spent to the sums that stand."""
    events = changes.of(*KINDS)
    return written(lane, sums_of(events, state)) if events else []


def written(lane: int, sums: dict[SpendGroup, Sums]) -> list[Statement]:
    """Return what adds sums to those that stand."""
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
        **dict(zip(SpendGroup._fields, zip(*lines, strict=True), strict=True)),
        "requests": (one.requests for one in found),
        "unpriced": (one.unpriced for one in found),
        "amount": (str(one.amount) for one in found),
        **{column_of(name): units for name, units in usage.items()},
    }
    return [_adds(tuple(usage)).of(lane, **columns)]


PROJECTION = Inline("spend", (SPEND,), save)


# Reads: all sums of spend there are. Usage is summed by class, in the order of ``CLASSES``.


def _whole(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Sum a column that stays a whole number of 64 bits."""
    return cast(func.sum(column), BigInteger)


def _together(classes: Iterable[str]) -> ColumnElement[int]:
    """Sum usage classes over rows, all in one."""
    first, *others = (_USED[name] for name in classes)
    return _whole(sum(others, start=first))


USAGE = tuple(_whole(column) for column in _USED.values())
TOKENS = _together((*INPUT_TOKENS, *OUTPUT_TOKENS))

_S = SPEND.c
_OF_ACCOUNT = (_S.lane == bindparam("lane"), _S.account_id == bindparam("account"))
_FROM, _TO = bindparam("from", type_=Date), bindparam("to", type_=Date)
_WITHIN = (or_(_FROM.is_(None), _S.day >= _FROM), or_(_TO.is_(None), _S.day < _TO))
"""Days from one to another, the second not included; None: without end."""


def _if_asked(name: str, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column where it is grouped by, else NULL in each row and hence one group."""
    return case((bindparam(name, type_=Boolean), column)).label(f"by_{name}")


_SUMMED_BY = (
    _if_asked("day", _S.day),
    _if_asked("integration", _S.integration),
    _if_asked("model", _S.model),
    _if_asked("key", _S.key_id),
    _S.asset,
)
SUMS = compiled(
    select(*_SUMMED_BY, _whole(_S.requests), _whole(_S.unpriced), func.sum(_S.amount), *USAGE)
    .where(*_OF_ACCOUNT, *_WITHIN)
    .group_by(*(column.name for column in _SUMMED_BY))
    .order_by(*(column.name for column in _SUMMED_BY))
    .limit(bindparam("most"))
)
"""An account's, grouped by what is asked for and the asset."""


def usage_of(sums: Sequence[int]) -> dict[str, int]:
    """Return the usage classes that are not zero, of all in their order."""
    return {name: units for name, units in zip(CLASSES, sums, strict=True) if units}


_NAME = func.coalesce(ACCOUNT_PROFILES.c.name, "")
_ACCOUNT = bindparam("of_account", type_=Uuid)
_REPORTED_BY = (
    _if_asked("account", _S.account_id),
    case((bindparam("account", type_=Boolean), _NAME)).label("by_name"),
    _if_asked("integration", _S.integration),
    _if_asked("dialect", func.coalesce(KEYS.c.dialect, "")),
    _if_asked("model", _S.model),
    _if_asked("day", _S.day),
    _if_asked("key", _S.key_id),
    _S.asset,
)
REPORT = compiled(
    select(*_REPORTED_BY, _whole(_S.requests), _whole(_S.unpriced), func.sum(_S.amount), *USAGE)
    .select_from(
        SPEND.outerjoin(KEYS, and_(KEYS.c.lane == _S.lane, KEYS.c.key_id == _S.key_id)).outerjoin(
            ACCOUNT_PROFILES, ACCOUNT_PROFILES.c.account_id == _S.account_id
        )
    )
    .where(or_(_ACCOUNT.is_(None), _S.account_id == _ACCOUNT), *_WITHIN)
    .group_by(*(column.name for column in _REPORTED_BY))
    .having(or_(func.sum(_S.requests) != 0, func.sum(_S.amount) != 0))
    .order_by(func.sum(_S.amount).desc(), *(column.name for column in _REPORTED_BY[1:]))
)
"""Of every account or one, grouped by what is asked for and the asset, the dearest first."""

_MINUTE = (
    func.date_trunc("minute", EVENTS.c.occurred_at).label("minute"),
    _NAME.label("account_name"),
    text_at(EVENTS.c.payload, "integration").label("integration"),
    func.coalesce(text_at(EVENTS.c.payload, "asset"), "").label("paid_in"),
)
_LANE = bindparam("lane", type_=SmallInteger)
_UNTIL = bindparam("until", type_=INSTANT)
# From the events themselves: the roll-up knows days only. A request that was priced later counts
# in the minute in which it happened, as it does in the roll-up's day.
MINUTES = compiled(
    select(
        *_MINUTE,
        func.count().filter(EVENTS.c.type != e.RequestRated.type),
        func.coalesce(
            func.trunc(
                func.sum(cast(text_at(EVENTS.c.payload, "charge"), Numeric) * PICO_PER_UNIT)
            ),
            0,
        ),
    )
    .select_from(
        EVENTS.outerjoin(ACCOUNT_PROFILES, ACCOUNT_PROFILES.c.account_id == EVENTS.c.account_id)
    )
    .where(EVENTS.c.type.in_([kind.type for kind in KINDS]))
    .where(EVENTS.c.occurred_at >= bindparam("since"))
    # Nothing is recorded long before it happens: this leaves older partitions out.
    .where(EVENTS.c.recorded_at >= bindparam("recorded_since"))
    .where(or_(_UNTIL.is_(None), EVENTS.c.occurred_at < _UNTIL))
    .where(or_(_LANE.is_(None), EVENTS.c.lane == _LANE))
    .where(or_(_ACCOUNT.is_(None), EVENTS.c.account_id == _ACCOUNT))
    .group_by(*(column.name for column in _MINUTE))
    .order_by(*(column.name for column in _MINUTE))
)
"""Requests and charges of every account or one, by minute, account, integration and asset."""


def _usage_by(period: ColumnElement[date]) -> bytes:
    """Sum what each key of a dialect used by a period, newest first, keys found by primary key.

    More keys than there may be rows are left out before anything is summed: each of those kept has
    a row that comes before any row of those.
    """
    most, key = bindparam("most", type_=Integer), bindparam("key", type_=Uuid)
    newest = (
        select(period.label("first"))
        .where(_S.lane == KEYS.c.lane, _S.account_id == KEYS.c.account_id)
        .where(_S.key_id == KEYS.c.key_id)
        .order_by(_S.day.desc())
        .limit(1)
        .lateral("newest")
    )
    own = (
        select(KEYS.c.key_id, newest.c.first)
        .select_from(KEYS.join(newest, true()))
        .where(KEYS.c.lane == bindparam("lane"), KEYS.c.account_id == bindparam("account"))
        .where(KEYS.c.dialect == bindparam("dialect"))
        .where(text_at(KEYS.c.settings, "session").is_(None))
        .where(or_(key.is_(None), KEYS.c.key_id == key))
        .order_by(newest.c.first.desc(), KEYS.c.key_id.desc())
        .limit(most)
        .cte("own")
    )
    used = (
        select(
            period.label("first"),
            _whole(_S.requests).label("requests"),
            _together(INPUT_TOKENS).label("prompt"),
            _together(OUTPUT_TOKENS).label("completion"),
        )
        .where(*_OF_ACCOUNT, _S.key_id == own.c.key_id, _WITHIN[0])
        .group_by("first")
        .order_by(desc("first"))
        .limit(most)
        .lateral("used")
    )
    return compiled(
        select(used.c.first, own.c.key_id, used.c.requests, used.c.prompt, used.c.completion)
        .select_from(own.join(used, true()))
        .order_by(used.c.first.desc(), own.c.key_id.desc())
        .limit(most)
    )


USAGE_BY_DAY = _usage_by(_S.day)
USAGE_BY_MONTH = _usage_by(cast(func.date_trunc("month", cast(_S.day, DateTime)), Date))
"""A month is named by its first day."""

_WITH_CARD = SPEND.join(
    ACCOUNTS, and_(ACCOUNTS.c.lane == _S.lane, ACCOUNTS.c.account_id == _S.account_id)
).outerjoin(KEYS, and_(KEYS.c.lane == _S.lane, KEYS.c.key_id == _S.key_id))
_LATELY_BY_CARD = (
    _S.day >= bindparam("since"),
    func.coalesce(func.nullif(KEYS.c.rate_card, ""), ACCOUNTS.c.rate_card) == bindparam("card"),
)
MODELS_USED = compiled(
    select(_S.model)
    .distinct()
    .select_from(_WITH_CARD)
    .where(*_LATELY_BY_CARD)
    .order_by(_S.model)
    .limit(bindparam("most"))
)
"""What was used since a day and is priced by a rate card."""
ACCOUNTS_THAT_USED = compiled(
    select(func.count(_S.account_id.distinct()))
    .select_from(_WITH_CARD)
    .where(*_LATELY_BY_CARD, _S.model == any_(bindparam("models")))
)
"""How many accounts used any of some models since a day, at prices of a rate card."""


def _spent_by(
    *by: ColumnElement[Any],
    where: Sequence[ColumnElement[bool]] = (),
    more: Sequence[ColumnElement[Any]] = (),
) -> bytes:
    """Sum an account's amounts of some assets over some days."""
    days = (_S.day >= bindparam("from"), _S.day < bindparam("to"))
    assets = _S.asset == any_(bindparam("assets"))
    return compiled(
        select(*by, func.sum(_S.amount), *more)
        .where(*_OF_ACCOUNT, *days, assets, *where)
        .group_by(*by)
    )


BY_DAY = _spent_by(_S.day, _S.asset)
# A request that several assets paid has its tokens in one of the lines only.
BY_MODEL = _spent_by(_S.model, _S.asset, more=[TOKENS])
BY_KEY = _spent_by(_S.key_id, _S.asset, more=[TOKENS, func.max(_S.integration)])
MODELS_BY_DAY = _spent_by(_S.day, _S.model, where=[_S.model == any_(bindparam("chosen"))])
KEYS_BY_DAY = _spent_by(_S.day, _S.key_id, where=[_S.key_id == any_(bindparam("chosen"))])
