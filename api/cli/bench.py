"""``keyledger bench``: everything on a server and databases of its own, gone when it ends."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import click
import msgspec
from rich.console import Console

from api.cli import CommandError
from api.cli.terminal import facts, progress
from api.tools.bench import database, gateway, machine, table
from api.tools.bench.bulk import BatchFailed
from api.tools.bench.fleet import BenchService
from api.tools.bench.load import LoadFailed
from api.tools.bench.peers import PeerFailed
from api.tools.bench.processes import ProcessDidNotStart, free_port, module, running
from api.tools.bench.rounds import Bench, BenchFailed, Places
from api.tools.bench.sizes import FULL, QUICK, Sizes
from ledger.server.embedded import EmbeddedDatabaseError, EmbeddedPostgres

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

WIDTH_MIN = 132
"""Width of the table where the output is no terminal."""
FAILURES = (
    *(BatchFailed, BenchFailed, LoadFailed, PeerFailed, ProcessDidNotStart),
    EmbeddedDatabaseError,
)


class Brought(NamedTuple):
    """Peers that do not come with Keyledger; None: left out."""

    pgledger: Path | None
    litellm: Path | None


def _size(name: str, text: str, *, least: int = 1) -> Callable[[Decorated], Decorated]:
    kind = click.IntRange(min=least)
    default = getattr(FULL, name)
    return click.option(f"--{name}", type=kind, help=f"{text}; default {default:,}.")


@click.command("bench")
@_size("rounds", "How often everything is measured, in turn")
@_size("seconds", "Length of each measurement")
@_size("connections", "Connections at once")
@_size("keys", "Keys that make requests")
@_size("accounts", "Accounts the keys belong to")
@_size("workers", "Worker processes, ours and the empty handler's")
@_size("lanes", "Lanes of our database")
@_size("events", "Fill up to so many events and compare the spend report", least=0)
@click.option("--quick", is_flag=True, help="Small sizes: shows that it works, measures nothing.")
@click.option(
    "--pgledger",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="A checkout of pgledger, or its pgledger.sql; else that row is left out.",
)
@click.option(
    "--litellm",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The command `litellm` of an environment with litellm[proxy]; else its rows are left out.",
)
@click.option("--database", "url", help="PostgreSQL to measure on; default: an embedded one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    quick: bool,
    pgledger: Path | None,
    litellm: Path | None,
    url: str | None,
    as_json: bool,
    **sizes: int | None,
) -> None:
    """Measure speed, size and memory, each beside a peer's, and print the ratios.

    Measurements take turns, round after round, so that a busy moment of the machine meets all of
    them; figures are medians. Leave the machine alone meanwhile.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    chosen = msgspec.structs.replace(QUICK if quick else FULL, **given)
    if chosen.keys < chosen.accounts:
        raise click.UsageError("There must be at least as many keys as accounts.")
    try:
        with _stopped_in_order():
            document, rows = _measure(chosen, url, Brought(pgledger, litellm))
    except FAILURES as error:
        raise CommandError(str(error)) from error
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document, rows)


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that every process it started ends too."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _measure(
    sizes: Sizes, url: str | None, brought: Brought
) -> tuple[dict[str, Any], list[table.BenchRow]]:
    busy = machine.load_average()
    with contextlib.ExitStack() as stack:
        home = _home(stack)
        server = url or _embedded(home, stack)
        places = _places(home, server, sizes, brought, stack)
        described = machine.describe(server, home)
        with progress() as bar:
            task = bar.add_task("prepare", total=None, note="")
            bench = Bench(places, sizes)
            stack.callback(bench.close)
            bar.update(task, total=bench.steps)
            for measurement in bench.rounds():
                bar.update(task, description=measurement.name)
                measurement.run()
                bar.advance(task)
        described["load average"] = f"{busy} before, {machine.load_average()} after"
        rows = table.rows_of(bench)
        document = {
            "machine": described,
            "sizes": msgspec.to_builtins(sizes),
            "acknowledged": bench.acknowledged,
            "rows": [
                {**msgspec.to_builtins(row), "ratio": row.ratio, "met": row.verdict} for row in rows
            ],
            "figures": dict(bench.found),
        }
    return document, rows


def _home(stack: contextlib.ExitStack) -> Path:
    home = Path(tempfile.mkdtemp(prefix="keyledger-bench-"))
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    # Under root, PostgreSQL runs as another user, who has to get through to its directory.
    home.chmod(0o711)
    return home


def _embedded(home: Path, stack: contextlib.ExitStack) -> str:
    server = EmbeddedPostgres(home / "postgres")
    stack.callback(server.stop)
    return server.start()


def _places(
    home: Path, server: str, sizes: Sizes, brought: Brought, stack: contextlib.ExitStack
) -> Places:
    """Start what is measured."""
    ledger = stack.enter_context(database.fresh(server, "ledger"))
    peers = stack.enter_context(database.fresh(server, "peers"))
    forwarded = stack.enter_context(database.fresh(server, "gateway"))
    directory = home / "files"
    directory.mkdir()
    service = BenchService(free_port(), "bench-" + secrets.token_urlsafe(24))
    settings = {
        "KEYLEDGER_HOME": str(home / "keyledger"),
        "KEYLEDGER_DATABASE_URL": ledger,
        "KEYLEDGER_ADMIN_SECRET": service.secret,
        "KEYLEDGER_PEPPER": secrets.token_urlsafe(24),
        "KEYLEDGER_JWT_SECRET": secrets.token_urlsafe(32),
        "KEYLEDGER_HOST": "127.0.0.1",
        "KEYLEDGER_PORT": str(service.port),
        "KEYLEDGER_WORKERS": str(sizes.workers),
        "KEYLEDGER_LANES": str(sizes.lanes),
    }
    ready = f"{service.address}/health/ready"
    log = home / "serve.log"
    ours = running(module("api.process.serve"), ready=ready, more=settings, log=log)
    supervisor = stack.enter_context(ours)
    port = free_port()
    command = module("api.tools.bench.empty", str(port), str(sizes.workers))
    ready = f"http://127.0.0.1:{port}/ready"
    log = home / "empty.log"
    empty = running(command, ready=ready, more={}, log=log)
    return Places(
        service=service,
        supervisor=supervisor,
        empty_port=port,
        empty_supervisor=stack.enter_context(empty),
        ledger=ledger,
        peers=peers,
        directory=directory,
        pgledger=brought.pgledger,
        gateway=stack.enter_context(gateway.standing(forwarded, home, sizes, brought.litellm)),
    )


def _print(document: dict[str, Any], rows: list[table.BenchRow]) -> None:
    width = None if sys.stdout.isatty() else max(WIDTH_MIN, int(os.environ.get("COLUMNS", "0")))
    console = Console(highlight=False, width=width)
    sizes = document["sizes"]
    console.print(facts(document["machine"]))
    console.print(table.rendered(rows))
    for number, row in enumerate(rows, 1):
        if row.note:
            console.print(f"{number:2}. {row.note}", markup=False, soft_wrap=True)
    console.print(
        f"Medians of {sizes['rounds']} rounds of {sizes['seconds']} seconds each;"
        f" {document['acknowledged']:,} requests acknowledged, and every one of them is stored.",
        soft_wrap=True,
    )
