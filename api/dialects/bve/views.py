"""What bve's routes answer. Times are milliseconds ``Z``; usage rows are camelCase."""

from collections.abc import Mapping
from uuid import UUID, uuid5

import msgspec

from api.queries import KeyUsageLine, UsageOfKeys
from ledger.clock import Instant, format_milliseconds
from ledger.limits import Limit, LimitId
from ledger.state import Key

RPM, RPD = LimitId("requests", "rolling:60").text, LimitId("requests", "day").text
MONTHLY, MONTHLY_TOKENS = LimitId("requests", "month").text, LimitId("tokens", "month").text


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, shown once."""

    id: str
    name: str
    key: str
    status: str
    rpm_limit: int
    rpd_limit: int
    monthly_limit: int | None
    monthly_token_limit: int | None
    allowed_models: tuple[str, ...] | None
    created_at: str


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it."""

    id: str
    name: str
    status: str
    rpm_limit: int | None
    rpd_limit: int | None
    monthly_limit: int | None
    monthly_token_limit: int | None
    allowed_models: tuple[str, ...] | None
    created_at: str
    updated_at: str
    revoked_at: str | None


class RevokedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was revoked, now or before."""

    id: str
    status: str
    revoked_at: str


class DailyUsage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a key used on a day of UTC."""

    id: str
    key_id: str
    date: str
    request_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    updated_at: str


class MonthlyUsage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a key used in a month of UTC."""

    id: str
    key_id: str
    year_month: str
    request_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    updated_at: str


class UsageByPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """What keys used, newest first."""

    daily: list[DailyUsage]
    monthly: list[MonthlyUsage]


def ceiling(limits: Mapping[str, Limit], limit_id: str) -> int | None:
    """Return a limit's ceiling; None: there is no such limit."""
    limit = limits.get(limit_id)
    return None if limit is None else limit.ceiling


def listed(key: Key, at: Instant) -> ListedKey:
    """Show a key without its secret.

    The page knows three states; an expired key is shown as revoked since its expiry.
    """
    ended = key.ended_at(at)
    return ListedKey(
        id=str(key.key_id),
        name=key.name,
        status=key.status if ended is None else "revoked",
        rpm_limit=ceiling(key.limits, RPM),
        rpd_limit=ceiling(key.limits, RPD),
        monthly_limit=ceiling(key.limits, MONTHLY),
        monthly_token_limit=ceiling(key.limits, MONTHLY_TOKENS),
        allowed_models=key.allowed_models,
        created_at=format_milliseconds(key.created_at),
        updated_at=format_milliseconds(key.updated_at),
        revoked_at=None if ended is None else format_milliseconds(ended),
    )


def usage(found: UsageOfKeys) -> UsageByPeriod:
    """Show what keys used.

    When a row itself last changed is not kept. ``updatedAt`` says how current it is: it holds all
    that had been recorded by then.
    """
    updated_at = format_milliseconds(found.recorded_at)
    return UsageByPeriod(
        daily=[_daily(line, updated_at) for line in found.days],
        monthly=[_monthly(line, updated_at) for line in found.months],
    )


def _daily(line: KeyUsageLine, updated_at: str) -> DailyUsage:
    day = line.first.isoformat()
    return DailyUsage(
        id=_row_id(line.key_id, day),
        key_id=str(line.key_id),
        date=day,
        request_count=line.requests,
        prompt_tokens=line.prompt,
        completion_tokens=line.completion,
        total_tokens=line.prompt + line.completion,
        updated_at=updated_at,
    )


def _monthly(line: KeyUsageLine, updated_at: str) -> MonthlyUsage:
    month = f"{line.first:%Y-%m}"
    return MonthlyUsage(
        id=_row_id(line.key_id, month),
        key_id=str(line.key_id),
        year_month=month,
        request_count=line.requests,
        prompt_tokens=line.prompt,
        completion_tokens=line.completion,
        total_tokens=line.prompt + line.completion,
        updated_at=updated_at,
    )


def _row_id(key_id: UUID, period: str) -> str:
    return str(uuid5(key_id, period))
