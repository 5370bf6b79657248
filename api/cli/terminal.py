"""How results look on a terminal, and as JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH_MIN = 100
"""Narrower terminals wrap a line themselves: an amount that is cut off is worse."""
out = Console(highlight=False, soft_wrap=False)
out.width = max(out.width, WIDTH_MIN)
err = Console(stderr=True, highlight=False)

SHRUNK = 12
"""Text is not cut shorter than this."""
PLACES = 6
"""Amounts in tables are rounded to so many; JSON and CSV are exact."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

Cell = str | int | Decimal | None


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    last: Sequence[Cell] | None = None,
    space: int = 2,
) -> Table:
    """Lay rows out; numbers stand to the right, long text is cut where a line is full.

    ``last`` is a row of totals, ``space`` stands between columns.
    """
    found = [list(row) for row in rows]
    grid = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        header_style="bold",
        box=None,
        padding=(0, space, 0, 0),
        pad_edge=False,
        show_footer=last is not None,
    )
    for place, name in enumerate(columns):
        values = [row[place] for row in found]
        right = any(isinstance(value, int | Decimal) for value in values)
        width = max(_width(values if last is None else [*values, last[place]]), len(name))
        grid.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=width if right or _are_ids(values) else min(width, SHRUNK),
            footer="" if last is None else Text(written(last[place]), style="bold"),
        )
    for row in found:
        grid.add_row(*(Text(written(value)) for value in row))
    return grid


def _width(values: Sequence[Cell]) -> int:
    return max((len(written(value)) for value in values), default=0)


def _are_ids(values: Sequence[Cell]) -> bool:
    """Return whether the values are there to be copied and must not be cut."""
    return any(isinstance(value, str) and value.startswith(("acct_", "key_")) for value in values)


def written(value: Cell) -> str:
    """Write a cell: whole numbers with thousands apart, amounts to six places."""
    match value:
        case None:
            return "–"
        case Decimal():
            return f"{value:,.{PLACES}f}"
        case int():
            return f"{value:,}"
        case str():
            return value


def facts(pairs: Mapping[str, Cell]) -> Table:
    """Lay out names with their values."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(name, Text(written(value)))
    return grid


def show(document: Any, as_json: bool, render: Callable[[], object]) -> None:  # noqa: ANN401,FBT001
    """Print a document as JSON, or what ``render`` makes of it."""
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
        return
    made = render()
    if made is not None:
        out.print(made)


def progress() -> Progress:
    """Make a progress bar on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
