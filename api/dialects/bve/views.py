"""What bve's routes answer. Times are milliseconds ``Z``; usage rows are camelCase."""

import calendar
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from uuid import UUID, uuid5

import msgspec

from api.queries import SpendLine
from ledger.clock import Instant, format_milliseconds
from ledger.ids import KeyId
from ledger.limits import Limit
from ledger.state import Key
from ledger.usage import INPUT_TOKENS, OUTPUT_TOKENS

RPM, RPD = "requests/rolling:60", "requests/day"
MONTHLY, MONTHLY_TOKENS = "requests/month", "tokens/month"


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


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What keys used, newest first."""

    daily: list[DailyUsage]
    monthly: list[MonthlyUsage]


def ceiling(limits: Mapping[str, Limit], limit_id: str) -> int | None:
    """Give a limit's ceiling; None: there is no such limit."""
    limit = limits.get(limit_id)
    return None if limit is None else limit.ceiling


def status_of(key: Key, at: Instant) -> str:
    """Give the status that the page knows: an expired key counts as revoked."""
    if key.status == "expired" or (key.expires_at is not None and key.expires_at <= at):
        return "revoked"
    return key.status


def listed(key: Key, at: Instant) -> ListedKey:
    """Show a key without its secret."""
    return ListedKey(
        id=str(key.key_id),
        name=key.name,
        status=status_of(key, at),
        rpm_limit=ceiling(key.limits, RPM),
        rpd_limit=ceiling(key.limits, RPD),
        monthly_limit=ceiling(key.limits, MONTHLY),
        monthly_token_limit=ceiling(key.limits, MONTHLY_TOKENS),
        allowed_models=key.allowed_models,
        created_at=format_milliseconds(key.created_at),
        updated_at=format_milliseconds(key.updated_at),
        revoked_at=None if key.revoked_at is None else format_milliseconds(key.revoked_at),
    )


_Sums = tuple[int, int, int]


def usage(
    lines: Iterable[SpendLine], last_used: Mapping[KeyId, Instant], most: tuple[int, int]
) -> Usage:
    """Sum lines by key and day, and by key and month; ``most`` bounds either list."""
    days: dict[tuple[date, UUID], _Sums] = defaultdict(lambda: (0, 0, 0))
    months: dict[tuple[date, UUID], _Sums] = defaultdict(lambda: (0, 0, 0))
    for line in lines:
        assert isinstance(line.day, date)
        assert line.key_id is not None
        for sums, first in ((days, line.day), (months, line.day.replace(day=1))):
            requests, prompt, completion = sums[first, line.key_id]
            sums[first, line.key_id] = (
                requests + line.requests,
                prompt + sum(line.usage.get(name, 0) for name in INPUT_TOKENS),
                completion + sum(line.usage.get(name, 0) for name in OUTPUT_TOKENS),
            )
    return Usage(
        daily=[
            DailyUsage(
                id=_row_id(key_id, day.isoformat()),
                key_id=str(key_id),
                date=day.isoformat(),
                request_count=sums[0],
                prompt_tokens=sums[1],
                completion_tokens=sums[2],
                total_tokens=sums[1] + sums[2],
                updated_at=_updated(day, last_used.get(KeyId(key_id))),
            )
            for (day, key_id), sums in _newest(days, most[0])
        ],
        monthly=[
            MonthlyUsage(
                id=_row_id(key_id, f"{first:%Y-%m}"),
                key_id=str(key_id),
                year_month=f"{first:%Y-%m}",
                request_count=sums[0],
                prompt_tokens=sums[1],
                completion_tokens=sums[2],
                total_tokens=sums[1] + sums[2],
                updated_at=_updated(_last_of_month(first), last_used.get(KeyId(key_id))),
            )
            for (first, key_id), sums in _newest(months, most[1])
        ],
    )


def _newest(
    sums: dict[tuple[date, UUID], _Sums], most: int
) -> Sequence[tuple[tuple[date, UUID], _Sums]]:
    return sorted(sums.items(), key=lambda each: (each[0][0], each[0][1].bytes), reverse=True)[
        :most
    ]


def _row_id(key_id: UUID, period: str) -> str:
    return str(uuid5(key_id, period))


def _last_of_month(first: date) -> date:
    return first.replace(day=calendar.monthrange(first.year, first.month)[1])


def _updated(last_day: date, last_used: Instant | None) -> str:
    """Say when a row last changed: the key's last use, or the period's end where that is later."""
    end = datetime.combine(last_day, time.max, tzinfo=UTC)
    return format_milliseconds(end if last_used is None else min(end, last_used))
