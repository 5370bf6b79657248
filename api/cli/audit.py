"""`keyledger audit`: verify what is stored, and rebuild what is derived from it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import RenderableType
from rich.progress import TaskID

from api.cli import CommandError
from api.cli.service import settings
from api.cli.storage import database_url
from api.cli.terminal import Cell, json_option, out, progress, show, table
from ledger.errors import LedgerCorrupt
from ledger.record.verify import ReportProgress, VerifyReport, verify
from projections import rebuild as rebuilding
from projections.rebuild import Compared
from projections.registry import CATCHING_UP, INLINE

FINDINGS_SHOWN = 20


@click.group("audit")
def command() -> None:
    """Verify the ledger; rebuild what is derived from it."""


@command.command("verify")
@click.option("--processes", type=click.IntRange(1, 64), help="Default: as many as pay off.")
@json_option
def verify_ledger(*, processes: int | None, as_json: bool) -> None:
    """Recompute hashes and positions from the stored bytes, charges and lots by the rules.

    Exit 1 on a finding.
    """
    with database_url(settings()) as url:
        report = verified(url, processes)
    show(document(report), as_json, lambda: out.print(*verdict(report), sep="\n"))
    if not report.intact:
        raise CommandError("What is stored is not what was recorded.")


def verified(url: str, processes: int | None = None) -> VerifyReport:
    """Verify all lanes, with a progress bar."""
    with _watched("Verifying lane") as look:
        return verify(url, processes=processes, progress=look)


@contextmanager
def _watched(what: str) -> Iterator[ReportProgress]:
    """Show progress; yield the function to call with a lane, events done and events in all."""
    with progress() as bar:
        tasks: dict[int, TaskID] = {}

        def look(lane: int, done: int, total: int) -> None:
            if lane not in tasks:
                tasks[lane] = bar.add_task(f"{what} {lane}", total=total, note="")
            bar.update(tasks[lane], completed=done)

        yield look


def document(report: VerifyReport) -> dict[str, object]:
    """Return the report as plain data."""
    return {
        "intact": report.intact,
        "events": report.events,
        "charges_priced_again": report.charges,
        "movements_decided_again": report.movements,
        "lanes": [
            {
                "lane": lane.lane,
                "events": lane.events,
                "seq": lane.seq,
                "chain": lane.chain,
                "findings": [finding._asdict() for finding in lane.findings],
                "more_findings": lane.more,
            }
            for lane in report.lanes
        ],
    }


def verdict(report: VerifyReport) -> list[RenderableType]:
    """Lay the report out: a line, and what was found."""
    count = f"{report.events:,} events in {len(report.lanes)} lanes"
    if report.intact:
        chains = [
            f"[dim]lane {lane.lane} at {lane.seq:,}, chain {lane.chain}[/]" for lane in report.lanes
        ]
        again = f"{report.charges:,} charges and {report.movements:,} movements of credit"
        return [
            f"[green]Intact.[/] Every hash and position of {count} holds.",
            f"{again}, decided again by the rules, are as they were written down.",
            *chains,
        ]
    found = report.findings
    rows: list[list[Cell]] = [
        [f"{f.lane}:{f.seq}", f.what, f.column, f.stored[:24], f.expected[:24]]
        for f in found[:FINDINGS_SHOWN]
    ]
    columns = ("position", "finding", "column", "stored", "expected")
    total = len(found) + sum(lane.more for lane in report.lanes)
    title = f"Not intact: {total:,} findings in {count}"
    return [table(title, columns, rows)]


@command.command()
@click.option(
    "--projection", "names", multiple=True, help="Only this one, such as spend; default: all."
)
@click.option("--switch", is_flag=True, help="Replace live rows that differ with those made anew.")
@click.option("--processes", type=click.IntRange(1, 64), help="Default: as many as pay off.")
@json_option
def rebuild(*, names: tuple[str, ...], switch: bool, processes: int | None, as_json: bool) -> None:
    """Make projections anew from the first event on, beside the live ones, and compare.

    The service may run meanwhile. Exit 1 where something differs and was not switched.
    """
    with database_url(settings()) as url:
        tables = _rebuilt(url, names, switch=switch, processes=processes)
    show([_compared(each) for each in tables], as_json, lambda: _comparison(tables))
    if any(not each.equal and not each.replaced for each in tables):
        raise CommandError("The live rows are not what follows from the events; see --switch.")


def _rebuilt(
    url: str, names: Sequence[str], *, switch: bool, processes: int | None
) -> list[Compared]:
    inline = {projection.name: projection for projection in INLINE}
    followers = {projection.name: projection for projection in CATCHING_UP}
    unknown = [name for name in names if name not in inline | followers]
    if unknown:
        known = ", ".join([*inline, *followers])
        raise click.UsageError(f"No projection {', '.join(unknown)}; there are {known}.")
    found: list[Compared] = []
    try:
        with _watched("Folding lane") as look:
            chosen = [each for name, each in inline.items() if not names or name in names]
            if chosen:
                report = rebuilding.rebuild(
                    url, chosen, replace=switch, processes=processes, progress=look
                )
                found += report.tables
        for name, projection in followers.items():
            if not names or name in names:
                with _watched(f"Folding {name}, lane") as look:
                    report = rebuilding.rebuild_catching_up(
                        url, projection, replace=switch, processes=processes, progress=look
                    )
                found += report.tables
    except LedgerCorrupt as error:
        raise CommandError(f"{error} See: keyledger audit verify") from error
    return sorted(found, key=lambda each: each.lane)


def _compared(each: Compared) -> dict[str, object]:
    return {**each._asdict(), "equal": each.equal}


def _comparison(tables: Sequence[Compared]) -> RenderableType:
    columns = ("lane", "table", "rows", "made anew", "digest", "", "first difference")
    rows: list[list[Cell]] = [
        [
            str(each.lane),
            each.table,
            each.rows,
            each.rows_anew,
            each.digest[:12],
            "equal" if each.equal else "replaced" if each.replaced else "differs",
            each.first_difference,
        ]
        for each in tables
    ]
    return table("", columns, rows)
