"""Option values with a form of their own: limits, amounts, times."""

import re
from typing import Any

import click

from ledger.clock import InvalidInstant, parse_instant
from ledger.money import InvalidAmount, parse_amount

_LIMIT = re.compile(
    r"(?P<kind>[a-z_]+)=(?P<ceiling>[\d.]+)/(?P<window>[a-z]+(?::\d+)?)"
    r"(?P<each_model>/each_model)?"
)

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class LimitWord(click.ParamType[dict[str, str | bool]]):
    """A limit such as ``requests=60/rolling:60`` or ``spend=100/month/each_model``."""

    name = "KIND=CEILING/WINDOW[/each_model]"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, str | bool]:
        """Read it."""
        match = _LIMIT.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} does not look like requests=60/rolling:60.", param, ctx)
        found: dict[str, str | bool] = match.groupdict()
        if found.pop("each_model"):
            found["each_model"] = True
        return found


class AmountWord(click.ParamType[dict[str, str]]):
    """An amount such as ``"25 USD"``."""

    name = "AMOUNT"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, str]:
        """Read it."""
        try:
            parse_amount(value)
        except InvalidAmount:
            self.fail(f'{value!r} does not look like "25 USD".', param, ctx)
        number, _, asset = value.partition(" ")
        return {"amount": number, "asset": asset}


class ExpiryWord(click.ParamType[str]):
    """An instant, or a date such as ``2026-12-01``: then the end of that day of UTC."""

    name = "TIME|DATE"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Check it; a date is the service's to check."""
        if _DATE.fullmatch(value):
            assert isinstance(value, str)
            return value
        return TimeWord().convert(value, param, ctx)


class StartWord(click.ParamType[str]):
    """An instant, or a date such as ``2026-12-01``: then the beginning of that day of UTC."""

    name = "TIME|DATE"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Check it."""
        is_date = _DATE.fullmatch(value) is not None
        return TimeWord().convert(f"{value}T00:00:00Z" if is_date else value, param, ctx)


class TimeWord(click.ParamType[str]):
    """An instant such as ``2026-12-01T00:00:00Z``."""

    name = "TIME"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Check it."""
        try:
            parse_instant(value)
        except InvalidInstant:
            self.fail(f"{value!r} does not look like 2026-12-01T00:00:00Z.", param, ctx)
        assert isinstance(value, str)
        return value
