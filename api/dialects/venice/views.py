"""What venice answers about keys. camelCase, milliseconds ``Z``, numbers as exact decimals."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.dialects.venice import bodies, terms
from api.http.openapi import WRITTEN_AS
from api.operations import SETTING_TYPE
from api.queries import SpendLine
from ledger.clock import Instant, format_milliseconds
from ledger.money import decimal_of, format_places
from ledger.state import Key

FOUR_PLACES = 4
LAST = 6
"""Characters of a secret that lists show."""

Number = Annotated[Decimal, Meta(extra_json_schema={WRITTEN_AS: "number"})]

encode = msgspec.json.Encoder(decimal_format="number").encode
"""Writes a view; a Decimal becomes a number."""


class ConsumptionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Caps on what a key may spend in its period; null: none."""

    usd: bodies.Cap
    diem: bodies.Cap
    vcu: None = None


class SpendSums(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent, to four places."""

    usd: str
    vcu: str
    diem: str


class PeriodUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent in the period of the caps, to four places."""

    usd: str
    diem: str


class TrailingUsage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a key spent."""

    trailing_seven_days: SpendSums


class ApiKeyRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A key without its secret."""

    id: str
    api_key_type: bodies.KeyType
    description: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    last6_chars: str
    consumption_limits: ConsumptionLimits
    limit_period: bodies.Period
    model_privacy: bodies.Privacy
    usage: TrailingUsage | UnsetType = UNSET
    current_period_usage: PeriodUsage | UnsetType = UNSET


class ApiKeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, newest first."""

    object: Literal["list"] = "list"
    data: list[ApiKeyRow]


class ApiKeyDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One key."""

    data: ApiKeyRow


class UpdatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was changed."""

    success: bool = True
    data: ApiKeyRow


class NewKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A key with its secret, shown once."""

    id: str
    api_key: str
    api_key_type: bodies.KeyType
    description: str
    expires_at: str | None
    consumption_limit: ConsumptionLimits
    limit_period: bodies.Period
    model_privacy: bodies.Privacy


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was made."""

    success: bool = True
    data: NewKey


class Success(msgspec.Struct, frozen=True, kw_only=True):
    """It is done."""

    success: bool = True


def milliseconds(at: Instant | None) -> str | None:
    """Write an instant, if there is one."""
    return None if at is None else format_milliseconds(at)


def number(pico: int) -> Decimal:
    """Return an amount as the shortest decimal."""
    return decimal_of(pico)


def four_places(pico: int) -> str:
    """Write an amount to four places."""
    return format_places(pico, FOUR_PLACES)


def limits_of(key: Key) -> ConsumptionLimits:
    """Show a key's caps."""
    budgets = terms.budgets_of(key)
    return ConsumptionLimits(usd=_cap(budgets.usd), diem=_cap(budgets.diem))


def _cap(text: str | None) -> msgspec.Raw:
    """Write a cap as a number, or null."""
    return msgspec.Raw(b"null" if text is None else text.encode())


def created(key: Key, secret: str) -> CreatedKey:
    """Show a key just made."""
    row = shown(key)
    new = NewKey(
        id=row.id,
        api_key=secret,
        api_key_type=row.api_key_type,
        description=row.description,
        expires_at=row.expires_at,
        consumption_limit=row.consumption_limits,
        limit_period=row.limit_period,
        model_privacy=row.model_privacy,
    )
    return CreatedKey(data=new)


def shown(key: Key) -> ApiKeyRow:
    """Show a key without what it used."""
    setting = key.settings.get
    return ApiKeyRow(
        id=str(key.key_id),
        api_key_type="ADMIN" if setting(SETTING_TYPE) == "ADMIN" else "INFERENCE",
        description=key.name,
        created_at=format_milliseconds(key.created_at),
        expires_at=milliseconds(key.expires_at),
        last_used_at=milliseconds(key.last_used_at),
        last6_chars=key.hint[-LAST:],
        consumption_limits=limits_of(key),
        limit_period=terms.period_of(key),
        model_privacy=terms.privacy_of(key),
    )


def with_usage(key: Key, week: Sequence[SpendLine], at: Instant) -> ApiKeyRow:
    """Show a key with what it used: ``week`` is its spend in the last seven days of UTC."""
    usd = sum(line.amount for line in week if line.asset in terms.USD)
    diem = sum(line.amount for line in week if line.asset in terms.DIEM)
    sums = SpendSums(usd=four_places(usd), vcu=four_places(0), diem=four_places(diem))
    return msgspec.structs.replace(
        shown(key),
        usage=TrailingUsage(trailing_seven_days=sums),
        current_period_usage=_period_usage(key, at),
    )


def _period_usage(key: Key, at: Instant) -> PeriodUsage | UnsetType:
    if not any(terms.limit_of(key, name) for name in terms.ASSETS):
        return UNSET
    return PeriodUsage(
        usd=four_places(terms.used_in_period(key, "usd", at)),
        diem=four_places(terms.used_in_period(key, "diem", at)),
    )
