"""`keyledger report`: what was spent and what is left, straight from the database."""

import csv
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import click

from api.cli.service import settings
from api.cli.storage import reading
from api.cli.terminal import Cell, json_option, out, show, table
from ledger.ids import InvalidId, parse_id
from ledger.money import PICO_PER_UNIT, format_pico

GROUPS = ("account", "integration", "dialect", "model", "day", "key")
TOKENS = ("input", "cache_read", "cache_write", "output", "reasoning")
ROOMY = 6
"""Columns that leave room for two spaces between them."""
HEADINGS = {"account_name": "account", "cache_read": "cached", "cache_write": "cache written"}


class Groups(click.ParamType[tuple[str, ...]]):
    """Some of ``GROUPS``, with commas between them."""

    name = "GROUP,…"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        """Read them."""
        found = tuple(value.split(","))
        if not set(found) <= set(GROUPS):
            self.fail(f"{value!r} is not some of {','.join(GROUPS)}.", param, ctx)
        return found


class AccountWord(click.ParamType[UUID]):
    """An account's id."""

    name = "ACCOUNT"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> UUID:
        """Read it."""
        try:
            return parse_id("acct", value)
        except InvalidId:
            self.fail(f"{value!r} is no account's id.", param, ctx)


@click.group("report")
def command() -> None:
    """Spend per integration, balances."""


day = click.DateTime(["%Y-%m-%d"])
account_option = click.option("--account", "account_id", type=AccountWord())
csv_option = click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the exact amounts to this file.",
)


@command.command()
@click.option("--by", type=Groups(), default="account,integration,dialect", show_default=True)
@click.option("--from", "start", type=day, metavar="DAY", help="First day of UTC.")
@click.option("--to", "end", type=day, metavar="DAY", help="Day of UTC after the last one.")
@account_option
@csv_option
@json_option
def spend(
    *,
    by: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
    account_id: UUID | None,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Sum what was spent, by some of account, integration, dialect, model, day, key."""
    from projections.reports import frames  # noqa: PLC0415 - pandas takes a second

    with reading(settings()) as connection:
        frame = frames.spend(
            connection,
            by,
            start=start.date() if start else None,
            end=end.date() if end else None,
            account_id=account_id,
        )
        rows = frames.records(frame)
    if csv_file is not None:
        _write(csv_file, list(frame.columns), rows)
    show([plain(row) for row in rows], as_json, lambda: print_spend(rows, by))


@command.command()
@account_option
@csv_option
@json_option
def balances(*, account_id: UUID | None, csv_file: Path | None, as_json: bool) -> None:
    """Show what each account has of each asset."""
    from projections.reports import frames  # noqa: PLC0415 - pandas takes a second

    with reading(settings()) as connection:
        frame = frames.balances(connection, account_id=account_id)
        rows = frames.records(frame)
    if csv_file is not None:
        _write(csv_file, list(frame.columns), rows)
    columns = ["account", "account_name", "balance", "asset"]
    if any(row["pending"] for row in rows):
        columns[3:3] = ["pending", "available"]
    if any(row["status"] != "open" for row in rows):
        columns.append("status")
    headings = ["name" if name == "account_name" else name for name in columns]
    lines = [[cast("Cell", row[name]) for name in columns] for row in rows]
    show([plain(row) for row in rows], as_json, lambda: table("", headings, lines))


def print_spend(rows: Sequence[dict[str, object]], by: Sequence[str]) -> None:
    """Print a table of spend with its totals, one per asset."""
    if not rows:
        out.print("Nothing was spent.")
        return
    names = ["account_name" if group == "account" else group for group in by]
    counts = ["requests", *(name for name in TOKENS if name in rows[0])]
    if any(row.get("unpriced") for row in rows):
        counts.append("unpriced")
    totals = _totals(rows)
    columns = [*names, *counts, "amount", *(["asset"] if len(totals) > 1 else [])]
    short = _short_models(rows) if "model" in by else {}
    lines = [[_cell(short.get(row[name], row[name])) for name in columns] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line[columns.index("amount")] = _amount(row)
    sums = Counter[str]()
    for row in rows:
        sums.update({name: cast("int", row[name]) for name in counts})
    least = any(row.get("unpriced") for row in rows)
    last: list[Cell] = ["total", *[""] * (len(names) - 1), *(sums[name] for name in counts)]
    last += [_total(totals, least=least)] if len(totals) == 1 else ["", ""]
    headings = [HEADINGS.get(name, name) for name in columns]
    if len(totals) == 1:
        headings[-1] = next(iter(totals)) or "amount"
    out.print(table("", headings, lines, last=last, space=1 if len(columns) > ROOMY else 2))
    if len(totals) > 1:
        for asset, amount in totals.items():
            out.print(f"total {'at least ' if least else ''}{amount:,.6f} {asset}")


def _total(totals: dict[str, Decimal], *, least: bool) -> Cell:
    (total,) = totals.values()
    return f"at least {total:,.6f}" if least else total


def _amount(row: dict[str, object]) -> Cell:
    """Write an amount: a dash if nothing is priced yet, a lower bound if something is not."""
    amount = cast("Decimal | None", row["amount"])
    if amount is None:
        return "–"
    return f"≥ {amount:,.6f}" if row.get("unpriced") else amount


def _short_models(rows: Sequence[dict[str, object]]) -> dict[object, str]:
    """Name models without their provider, where that leaves no doubt."""
    names = {str(row["model"]) for row in rows}
    short: dict[object, str] = {name: name.rpartition("/")[2] for name in names}
    return short if len(set(short.values())) == len(names) else {}


def _totals(rows: Sequence[dict[str, object]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for row in rows:
        asset, amount = cast("str", row["asset"]), cast("Decimal | None", row["amount"])
        if amount is not None:
            sums[asset] = sums.get(asset, Decimal(0)) + amount
    return sums


def _cell(value: object) -> Cell:
    return value if isinstance(value, str | int | Decimal | None) else str(value)


def plain(row: dict[str, object]) -> dict[str, object]:
    """Write amounts as the wire does: shortest plain decimals."""
    return {
        name: format_pico(int(value * PICO_PER_UNIT)) if isinstance(value, Decimal) else value
        for name, value in row.items()
    }


def _write(file: Path, columns: list[str], rows: Sequence[dict[str, object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns)
        writer.writeheader()
        writer.writerows(plain(row) for row in rows)
