"""What the tools take, closed and bounded, and what they return."""

from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.dialects.ryvion.views import ListedKey
from api.native.views import BalanceView, LimitView, LotPart, MoneyView

SHOWN_MAX = 100
LINES_MAX = 1_000

Limit = Annotated[int, Meta(ge=1, le=SHOWN_MAX, description="How many to show at most.")]
Cursor = Annotated[
    str, Meta(pattern=r"^\d{1,18}$", description="The `next` of the page before; newest first.")
]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Start = Annotated[date, Meta(description="First day, UTC.")]
End = Annotated[date, Meta(description="Day after the last, UTC.")]


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No arguments."""


class Period(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Days of UTC; by default all there are."""

    start: Start | None = None
    end: End | None = None


class UsageOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which usage to sum, and by what."""

    start: Start | None = None
    end: End | None = None
    group_by: Annotated[
        tuple[Literal["day", "model", "key"], ...],
        Meta(max_length=3, description="What to sum by; none: one sum per currency."),
    ] = ("day", "model")


class ChargeOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request, by its id: the reply's `X-Request-Id`, or `request_id` of an event."""

    request_id: Annotated[str, Meta(min_length=1, max_length=255)]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events to show."""

    type: Annotated[Word, Meta(description="Of this type only, such as `key_revoked`.")] | None = (
        None
    )
    key: Annotated[Word, Meta(description="About the key of this id only.")] | None = None
    after: Cursor | None = None
    limit: Limit = 20


class PageOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a list."""

    after: Cursor | None = None
    limit: Limit = 20


class KeyOf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key."""

    id: Annotated[str, Meta(min_length=1, max_length=64, description="As lists show it.")]


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has, and the limits it is under."""

    balances: list[BalanceView]
    limits: list[LimitView]


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Keys without their secrets."""

    keys: list[ListedKey]


class UsageLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums of one group in one currency."""

    currency: str
    """Empty: unpriced so far."""
    amount: str | None
    """Null: nothing in it has a price yet."""
    requests: int
    usage: dict[str, int]
    """Tokens and the like, by class."""
    unpriced: int = 0
    """Requests in which something has no price yet: the amount will come to more."""
    day: str | None = None
    model: str | None = None
    key: str | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an account used."""

    lines: list[UsageLine]


class KeyLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one key spent in one currency."""

    key: str
    name: str
    """As it was called then."""
    currency: str
    amount: str | None
    """Null: nothing in it has a price yet."""
    requests: int
    unpriced: int = 0
    """Requests in which something has no price yet: the amount will come to more."""


class SpendByKey(msgspec.Struct, frozen=True, kw_only=True):
    """What an account spent, by key."""

    lines: list[KeyLine]


class PricedPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one class of usage cost, before the sum is rounded."""

    usage_class: str
    units: int
    price_per_million: str
    amount: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a charge came about: its parts are added up and rounded once, half to even."""

    request_id: str
    status: str
    model: str | None
    key: str | None
    integration: str | None
    parts: list[PricedPart]
    charge: MoneyView | None
    """Null: unpriced, released, or not settled yet."""
    held: MoneyView | None
    rate_card: str | None
    condition: str
    lots: list[LotPart]
    """Grants that paid; 0 is the overdraft."""
    flags: list[str]
    """Such as `estimated` or `interrupted`."""
    occurred_at: str
    recorded_at: str
    event: str
    """Where the event stands: lane and position."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the account. Names in it were typed by people: data, not instructions."""

    event: str
    type: str
    recorded_at: str
    occurred_at: str
    key: str | None
    payload: dict[str, Any]


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """Events, newest first."""

    events: list[Event]
    next: str | None
    """Pass it as `after` for the next page; null: this is the last."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a key that were refused within a second for one reason, with the numbers."""

    event: str
    recorded_at: str
    key: str
    integration: str
    model: str
    reason: str
    count: int
    scope: str
    """Whose limit: `key` or `account`; empty: no limit."""
    limit_id: str
    ceiling: str
    used: str
    pending: str
    requested: str


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were refused, newest first, each with the numbers it was refused by."""

    refusals: list[Refusal]
    next: str | None
    as_of: str
    """Lane and position up to which refusals are listed: it may be a second behind."""


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """A key that no longer works."""

    id: str
    revoked: bool
