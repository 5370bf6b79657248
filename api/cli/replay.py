"""`keyledger replay`: recorded traffic, sent again."""

import asyncio
from collections.abc import Callable
from typing import Any

import click

from api.cli import CommandError
from api.cli.service import Service, connect
from api.cli.terminal import Cell, err, json_option, out, progress, show, table
from api.tools.replay import fleet as fleets
from api.tools.replay import sender
from api.tools.replay.fleet import Fleet
from api.tools.replay.sender import BATCH, SINGLE, Options
from api.tools.replay.tally import ReplayTally
from api.tools.replay.traces import InvalidTrace, Trace, open_trace

SHOWN_EVERY = 50
"""Answers between two updates of the progress bar."""


class Speed(click.ParamType[float | None]):
    """``max``, or how many times faster than recorded."""

    name = "FACTOR|max"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float | None:
        """Read it; None: as fast as it goes."""
        if value in {None, "max"}:
            return None
        try:
            factor = float(value)
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail(f"{value!r} is neither max nor a number above 0.", param, ctx)
        return factor


def fleet_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who sends."""
    for option in (
        click.option("--seed", type=int, default=1, show_default=True),
        click.option(
            "--accounts", type=click.IntRange(1, 10_000), default=fleets.ACCOUNTS, show_default=True
        ),
        click.option(
            "--keys", type=click.IntRange(1, 100_000), default=fleets.KEYS, show_default=True
        ),
        click.option(
            "--tight",
            type=click.IntRange(0),
            default=fleets.TIGHT_REQUESTS,
            show_default=True,
            metavar="REQUESTS",
            help="Add a key that may make only so many requests; 0: none.",
        ),
        click.option(
            "--models", metavar="MODEL,…", help="Default: some well-known ones of the rate card."
        ),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("traces", nargs=-1, required=True, metavar="TRACE...")
@fleet_options
@click.option("--mode", type=click.Choice([SINGLE, BATCH]), default=SINGLE, show_default=True)
@click.option(
    "--connections",
    type=click.IntRange(1, 1_000),
    help="Default: 32 for single requests, 4 for batches.",
)
@click.option(
    "--batch",
    "batch_requests",
    type=click.IntRange(1, 10_000),
    default=sender.BATCH_REQUESTS,
    show_default=True,
    help="Requests in a batch at most.",
)
@click.option("--speed", type=Speed(), default="max", show_default=True)
@click.option("--clients", type=click.IntRange(1), help="ServeGen: only the busiest so many.")
@click.option("--hours", type=click.IntRange(1), help="ServeGen: only the first so many.")
@click.option("--keep-dates", is_flag=True, help="Send the trace's own dates; default: a day ago.")
@json_option
def command(
    *,
    traces: tuple[str, ...],
    seed: int,
    accounts: int,
    keys: int,
    tight: int,
    models: str | None,
    mode: str,
    connections: int | None,
    batch_requests: int,
    speed: float | None,
    clients: int | None,
    hours: int | None,
    keep_dates: bool,
    as_json: bool,
) -> None:
    """Send recorded requests to the running service.

    TRACE is a CSV of Azure's, a JSONL of Mooncake's, a folder of ServeGen's, or the word
    "generated". Requests are spread over accounts and keys by the seed; the same seed sends the
    same requests under the same ids, so that a second run charges nothing again and a run that was
    cut short is continued.
    """
    opened = [open_one(place, seed, clients, hours) for place in traces]
    service = connect()
    options = Options(
        url=service.url,
        secret=service.secret,
        mode=mode,
        connections=connections,
        batch_requests=batch_requests,
        speed=speed,
    )
    chosen = models.split(",") if models else None
    fleet = muster(service, seed=seed, accounts=accounts, keys=keys, tight=tight, models=chosen)
    tally = ReplayTally()
    for trace in opened:
        run(trace, fleet, options, tally, keep_dates=keep_dates)
    tally.end()
    show(tally.document(), as_json, lambda: print_tally(tally))


def open_one(place: str, seed: int, clients: int | None = None, hours: int | None = None) -> Trace:
    """Open a trace or say in one line what is wrong with it."""
    try:
        return open_trace(place, seed=seed, clients=clients, hours=hours)
    except InvalidTrace as error:
        raise click.UsageError(str(error)) from error


def muster(
    service: Service,
    *,
    seed: int,
    accounts: int = fleets.ACCOUNTS,
    keys: int = fleets.KEYS,
    tight: int = fleets.TIGHT_REQUESTS,
    models: list[str] | None = None,
) -> Fleet:
    """Open accounts and issue keys, or find them."""
    priced = service.get("/rate-cards/standard")["models"]
    unknown = [model for model in models or () if model not in priced]
    if unknown:
        raise click.UsageError(f"The rate card has no price for {', '.join(unknown)}.")
    chosen = models or fleets.choose_models(priced)
    if not chosen:
        raise CommandError(
            "The rate card `standard` prices no model; import one: keyledger price import."
        )
    planned = fleets.plan(seed, chosen, accounts=accounts, keys=keys, tight_requests=tight)
    with progress() as bar:
        task = bar.add_task("Accounts and keys", total=2 * accounts + len(planned.keys), note="")

        def post(path: str, body: Any, idempotency_key: str) -> Any:  # noqa: ANN401
            made = service.post(path, body, idempotency_key)
            bar.advance(task)
            return made

        return fleets.muster(planned, post)


def run(
    trace: Trace, fleet: Fleet, options: Options, tally: ReplayTally, *, keep_dates: bool = False
) -> None:
    """Send a trace, with a progress bar."""
    begins_at = trace.begins_at if keep_dates else sender.recent_beginning(fleet)
    if begins_at is None:
        raise click.UsageError(f"{trace.name} has no dates to keep.")
    requests = sender.items(trace, fleet, begins_at)
    before = tally.sent
    with progress() as bar:
        task = bar.add_task(f"Replaying {trace.name}", total=trace.expected, note="")

        def look() -> None:
            if tally.latencies.count % SHOWN_EVERY == 0:
                bar.update(task, completed=tally.sent - before, note=f"{tally.per_second:,.0f}/s")

        try:
            asyncio.run(sender.send(requests, fleet.senders, options, tally, look))
        except (sender.ServiceIsGone, sender.SenderIsRefused) as error:
            raise CommandError(str(error)) from error
        except InvalidTrace as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            bar.stop()
            err.print("Stopped. The same command continues; nothing is charged twice.")
            print_tally(tally)
            raise


def print_tally(tally: ReplayTally) -> None:
    """Print what became of the requests."""
    latencies = tally.latencies
    total = ", ".join(map(str, tally.amounts())) or "nothing"
    lines: list[tuple[str, Cell]] = [
        ("sent", tally.sent),
        ("charged", tally.charged),
        ("replayed, not charged again", tally.replayed),
        ("unpriced", tally.unpriced),
        ("refused", tally.refused.total()),
        ("sent again after 503 or a broken connection", tally.retries),
    ]
    shown = [line for line in lines if line[1] or line[0] in {"sent", "charged", "refused"}]
    out.print(table("", ("requests", ""), shown))
    out.print(
        f"\n{tally.per_second:,.0f} requests per second over {tally.seconds:,.1f} s,", end=" "
    )
    out.print(
        f"p50 {latencies.quantile(50) / 1_000:,.1f} ms,"
        f" p99 {latencies.quantile(99) / 1_000:,.1f} ms per exchange"
    )
    out.print(f"charged in this run: {total}")
    print_refusals(tally)


def print_refusals(tally: ReplayTally) -> None:
    """Print what was refused and why, where anything was."""
    if tally.refused:
        rows = [
            (reason, integration, count)
            for (reason, integration), count in tally.refused.most_common()
        ]
        out.print()
        out.print(table("Refused", ("reason", "integration", "requests"), rows))
