"""Sums of spend as venice shows them: by day, by model, by key. USD holds bundled credits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from api.dialects.venice import models, terms, views
from api.dialects.venice.views import Number
from api.operations import SETTING_SESSION
from api.queries import Analytics, AnalyticsTerms
from ledger.clock import EPOCH
from ledger.state import Key

WEB_APP = "Web App"
"""The name for members who spend without a key."""
_MILLISECOND = timedelta(milliseconds=1)


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What a day of UTC cost."""

    date: str
    USD: Number
    DIEM: Number


class ModelSum(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a model cost."""

    model_name: str
    unit_type: str
    model_type: str | None
    total_usd: Number
    total_diem: Number
    total_units: int


class KeySum(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a key spent."""

    api_key_id: str | None
    description: str
    total_usd: Number
    total_diem: Number
    total_units: int


class UsageAnalytics(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was spent, the dearest first."""

    lookback: str
    by_date: list[Day]
    by_model: list[ModelSum]
    by_model_daily: list[dict[str, Number]]
    top_models: list[str]
    by_key: list[KeySum]
    by_key_daily: list[dict[str, Number]]
    top_key_names: list[str]


class _Sum:
    """What one name adds up to."""

    __slots__ = ("diem", "units", "usd")

    def __init__(self) -> None:
        self.usd = 0
        self.diem = 0
        self.units = 0

    def add(self, asset: str, pico: int, units: int = 0) -> None:
        if asset in terms.DIEM:
            self.diem += pico
        else:
            self.usd += pico
        self.units += units


def usage_analytics(found: Analytics, asked: AnalyticsTerms, lookback: str) -> UsageAnalytics:
    """Show sums of spend."""
    names = _names(found)
    return UsageAnalytics(
        lookback=lookback,
        by_date=_by_date(found, asked),
        by_model=[
            ModelSum(
                model_name=model,
                unit_type="tokens",
                model_type="EMBEDDING" if _is_embedding(model) else "LLM",
                total_usd=views.number(sums.usd),
                total_diem=views.number(sums.diem),
                total_units=sums.units,
            )
            for model, sums in _dearest_first(found.models)
        ],
        by_model_daily=_daily(
            found.models_by_day, asked, {name: name for name in found.top_models}
        ),
        top_models=list(found.top_models),
        by_key=[
            KeySum(
                api_key_id=_id(found.known.get(key_id), key_id),
                description=names[key_id],
                total_usd=views.number(sums.usd),
                total_diem=views.number(sums.diem),
                total_units=sums.units,
            )
            for key_id, sums in _dearest_first(found.keys)
        ],
        by_key_daily=_daily(
            found.keys_by_day, asked, {key_id: names[key_id] for key_id in found.top_keys}
        ),
        top_key_names=[names[key_id] for key_id in found.top_keys],
    )


def _is_embedding(model: str) -> bool:
    return model in models.KNOWN and models.KNOWN[model].type == "embedding"


def _id(key: Key | None, key_id: UUID) -> str | None:
    return None if key is None or SETTING_SESSION in key.settings else str(key_id)


def _names(found: Analytics) -> Mapping[UUID, str]:
    """Return each key's present name; two of one name with a part of their ids besides."""
    names: dict[UUID, str] = {}
    for key_id, _, _, _, integration in found.keys:
        key = found.known.get(key_id)
        is_own = key is not None and SETTING_SESSION in key.settings
        names[key_id] = WEB_APP if is_own else key.name if key is not None else integration
    counts = Counter(names.values())
    return {
        key_id: name if counts[name] == 1 else f"{name} ({str(key_id)[-6:]})"
        for key_id, name in names.items()
    }


def _dearest_first(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, _Sum]]:
    sums: dict[Any, _Sum] = defaultdict(_Sum)
    for name, asset, pico, units, *_ in rows:
        sums[name].add(asset, int(pico), int(units))
    return sorted(sums.items(), key=lambda each: (-each[1].usd - each[1].diem, str(each[0])))


def _by_date(found: Analytics, asked: AnalyticsTerms) -> list[Day]:
    sums: dict[date, _Sum] = defaultdict(_Sum)
    for day, asset, pico in found.days:
        sums[day].add(asset, int(pico))
    return [
        Day(
            date=day.isoformat(),
            USD=views.number(sums[day].usd),
            DIEM=views.number(sums[day].diem),
        )
        for day in _newest_first(asked)
    ]


def _newest_first(asked: AnalyticsTerms) -> Iterator[date]:
    for back in range(1, (asked.end - asked.start).days + 1):
        yield asked.end - timedelta(days=back)


def _daily(
    rows: Iterable[tuple[date, Any, int]], asked: AnalyticsTerms, names: Mapping[Any, str]
) -> list[dict[str, Decimal]]:
    """Return a row for each day, with every name in it; ``date`` is in milliseconds since 1970."""
    sums = {(day, name): int(pico) for day, name, pico in rows}
    return [
        {
            **{shown: views.number(sums.get((day, name), 0)) for name, shown in names.items()},
            "date": Decimal((datetime.combine(day, time.min, tzinfo=UTC) - EPOCH) // _MILLISECOND),
        }
        for day in _newest_first(asked)
    ]
