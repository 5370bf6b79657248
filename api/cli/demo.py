"""`keyledger demo`: the main job in one go, on a service of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
import httpx
import msgspec

from api import settings as configured
from api.cli import CommandError
from api.cli.audit import document as audit_document
from api.cli.audit import verdict, verified
from api.cli.replay import Speed, muster, open_one, print_refusals, run
from api.cli.report import plain, print_spend
from api.cli.service import KEPT_SECRET, Service, settings, url_of
from api.cli.storage import database_url, reading
from api.cli.terminal import err, json_option, out, show, table
from api.process.serve import settings_as_environment
from api.settings import Settings
from api.tools.replay.fleet import Fleet
from api.tools.replay.sender import BATCH, SINGLE, Options
from api.tools.replay.tally import ReplayTally
from api.tools.replay.traces import GENERATED
from ledger.secrets import dialects

READY_SECONDS = 120
POLL_SECONDS = 0.1
STOP_SECONDS = 60
LOG = "demo-service.log"
GROUPS = ("account", "integration", "dialect", "model")
"""What the demo's table sums by."""


@click.command()
@click.option(
    "--trace",
    default=GENERATED,
    help="A recorded trace, as for replay; default: a small one that is made up.",
)
@click.option("--exit", "exits", is_flag=True, help="Stop when it is done.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--mode", type=click.Choice([SINGLE, BATCH]), default=SINGLE, show_default=True)
@click.option("--speed", type=Speed(), default="max", show_default=True)
@json_option
def command(
    *, trace: str, exits: bool, seed: int, mode: str, speed: float | None, as_json: bool
) -> None:
    """Start a service, issue keys in all five dialects, replay traffic, report, verify.

    Run twice, it charges nothing again.
    """
    opened = open_one(trace, seed)
    found = _with_secret(settings())
    with _ended_by_signals(), running(found) as url:
        err.print(f"The service runs at {url}.")
        service = Service(url, found.admin_secret)
        fleet = muster(service, seed=seed)
        tally = ReplayTally()
        options = Options(url=url, secret=found.admin_secret, mode=mode, speed=speed)
        if not as_json:
            _print_keys(fleet)
            out.print(f"\nReplaying {opened.says}, over HTTP.")
        run(opened, fleet, options, tally)
        _report(found, url, tally, as_json=as_json)
        if not exits:
            _serve_on(url, found)


def _with_secret(found: Settings) -> Settings:
    """Make sure that the demo knows the operator's secret: keep one where none is set."""
    secret = found.admin_secret or configured.kept(found.home, KEPT_SECRET)
    return msgspec.structs.replace(found, admin_secret=secret)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, its service with it."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running(found: Settings) -> Iterator[str]:
    """Run a service until the end of the block, on the port of the settings or a free one."""
    port = found.port if _is_free(found.host, found.port) else _free_port(found.host)
    found.home.mkdir(mode=0o711, parents=True, exist_ok=True)
    log = found.home / LOG
    chosen = msgspec.structs.replace(found, port=port, home=found.home.resolve())
    environment = {**os.environ, **settings_as_environment(chosen)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.process.serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which ends the service in order
        )
    try:
        host = f"[{found.host}]" if ":" in found.host else found.host
        url = f"http://{host}:{port}"
        with err.status("Starting PostgreSQL and the service …"):
            _wait(process, f"{url}/health/ready", log)
        yield url
    finally:
        _end(process)


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return port != 0


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(ready, timeout=5).is_success:
                return
        time.sleep(POLL_SECONDS)
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["It said nothing."]
    raise CommandError(f"The service did not start: {lines[-1]} ({log})")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _print_keys(fleet: Fleet) -> None:
    firsts = {sender.planned.dialect: sender for sender in reversed(fleet.senders)}
    rows = [
        (
            dialect,
            firsts[dialect].planned.integration,
            firsts[dialect].account,
            firsts[dialect].hint,
        )
        for dialect in dialects()
        if dialect in firsts
    ]
    count = len(fleet.senders)
    out.print(
        table(
            f"{count} keys in five dialects, among them",
            ("dialect", "integration", "account", "secret"),
            rows,
        )
    )


def _report(found: Settings, url: str, tally: ReplayTally, *, as_json: bool) -> None:
    from projections.reports import frames  # noqa: PLC0415 - pandas takes a second

    with reading(found) as connection:
        rows = frames.records(frames.spend(connection, GROUPS))
    with database_url(found) as database:
        report = verified(database)
    spent = [plain(row) for row in rows]
    document = {
        "url": url,
        "replay": tally.document(),
        "spend": spent,
        "audit": audit_document(report),
    }

    def render() -> None:
        out.print("\n[bold]Spend per integration[/]")
        print_spend(rows, GROUPS)
        print_refusals(tally)
        out.print()
        _print_throughput(tally)
        out.print(*verdict(report), sep="\n")

    show(document, as_json, render)
    if not report.intact:
        raise CommandError("What is stored is not what was recorded.")


def _print_throughput(tally: ReplayTally) -> None:
    latencies = tally.latencies
    total = ", ".join(map(str, tally.amounts())) or "nothing"
    out.print(
        f"{tally.sent:,} requests over HTTP: {tally.per_second:,.0f} per second, p50"
        f" {latencies.quantile(50) / 1_000:,.1f} ms, p99 {latencies.quantile(99) / 1_000:,.1f} ms."
    )
    again = f"; {tally.replayed:,} were charged by an earlier run" if tally.replayed else ""
    out.print(f"Charged in this run: {total}{again}.")


def _serve_on(url: str, found: Settings) -> None:
    err.print(f"\nThe API is at {url}/ledger/v1, described by {url}/openapi.json.")
    if url != url_of(found):
        err.print(f"Other commands find it with KEYLEDGER_URL={url}.")
    kept = found.home / KEPT_SECRET
    if kept.is_file():
        err.print(f"The operator's secret is in {kept}; keyledger commands find it there.")
    err.print("Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3_600)
