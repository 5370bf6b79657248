"""The rows on speed, size and memory: what was found, and what it is held to."""

from collections.abc import Sequence

import msgspec
from rich.table import Table
from rich.text import Text

from api.tools.bench.peers import PGLEDGER_BYTES, PGLEDGER_CLIENTS
from api.tools.bench.rounds import THREADS, Bench

MILLI = 1_000
MEGA = 1_000_000
NOT_MEASURED = "not measured"


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    what: str
    against: str
    unit: str
    ours: float | None
    peer: float | None
    reach: float
    aim: float
    at_most: bool = False
    """Whether less is better."""
    of_ours: bool = False
    """Whether ``ours`` itself is held to the aim, not its ratio to the peer's."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Return ours over the peer's."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def verdict(self) -> str:
        """Say which of reach and aim is met."""
        held = self.ours if self.of_ours else self.ratio
        if held is None:
            return NOT_MEASURED
        for name, bound in (("aim", self.aim), ("reach", self.reach)):
            if held <= bound if self.at_most else held >= bound:
                return name
        return "neither"


def rows_of(bench: Bench) -> list[BenchRow]:
    """Return the table from what was found."""
    gateway = [BenchRow(**line) for line in bench.gateway.lines()]
    rows = [*_http(bench), *gateway, *_bulk(bench), *_space(bench)]
    return [*rows, _spend(bench)] if bench.sizes.events else rows


def _http(bench: Bench) -> list[BenchRow]:
    sizes, ours = bench.sizes, bench.median("ours")
    name = f"usage over HTTP, {sizes.connections} connections"
    threaded, version = bench.median("eventsourcing threads"), bench.eventsourcing_version
    saving = bench.missing.get("eventsourcing") or (
        f"One thread saves one event of an aggregate per transaction, one after another; ours has"
        f" {sizes.connections} connections. With {THREADS} threads it saves"
        f" {figure(threaded)}/s: ratio {figure(over(ours, threaded))}."
    )
    return [
        BenchRow(
            what=name,
            against="empty Litestar @post handler",
            unit="requests/s",
            ours=ours,
            peer=bench.median("empty"),
            reach=0.6,
            aim=1.0,
            note=_throughput_note(bench),
        ),
        BenchRow(
            what="the same, one connection, median",
            against="pgbench TPC-B, one client",
            unit="ms",
            ours=times(bench.median("latency"), MILLI),
            peer=times(bench.median("tpcb"), MILLI),
            reach=4,
            aim=2,
            at_most=True,
            note=f"pgbench over its Unix socket, scale {sizes.scale}, prepared.",
        ),
        BenchRow(
            what=name,
            against=f"eventsourcing {version}, one thread".replace(" ,", ","),
            unit="events/s",
            ours=ours,
            peer=bench.median("eventsourcing"),
            reach=10,
            aim=20,
            note=saving,
        ),
        BenchRow(
            what=name,
            against=f"pgledger transfers, {PGLEDGER_CLIENTS} clients",
            unit="/s",
            ours=ours,
            peer=bench.median("pgledger"),
            reach=2.5,
            aim=5,
            note="By pgbench inside the server, no HTTP before it; 50 accounts."
            if bench.median("pgledger")
            else "Give a checkout with --pgledger.",
        ),
        BenchRow(
            what="one hot account",
            against="uniform accounts",
            unit="requests/s",
            ours=bench.median("hot"),
            peer=ours,
            reach=0.9,
            aim=1.2,
            note="Every request to the keys of one account, so to one lane.",
        ),
    ]


def _throughput_note(bench: Bench) -> str:
    sizes, bare = bench.sizes, bench.median("bare")
    return (
        f"{sizes.keys} keys of {sizes.accounts} accounts, each key under a rolling and a monthly"
        f" limit; {sizes.workers} workers on both sides, {sizes.lanes} lanes; 99 % of ours within"
        f" {figure(bench.median('ours p99'), MILLI)} ms. The handler decodes an empty object; one"
        f" that leaves the body alone answers {figure(bare)}/s: ratio"
        f" {figure(over(bench.median('ours'), bare))}. Processor time of the workers per request:"
        f" {figure(bench.median('ours processor'), MEGA)} µs, the handler's"
        f" {figure(bench.median('empty processor'), MEGA)} µs."
    )


def _bulk(bench: Bench) -> list[BenchRow]:
    sizes = bench.sizes
    return [
        BenchRow(
            what="bulk ingest over HTTP",
            against="bare binary COPY in",
            unit="rows/s",
            ours=bench.median("bulk"),
            peer=bench.median("copy in"),
            reach=0.2,
            aim=0.4,
            note=f"Batches of {sizes.batch} requests, {sizes.workers} at once; every inline"
            " projection is current at the answer. COPY puts the very same rows into a table with"
            " the same columns and primary key.",
        ),
        BenchRow(
            what="rebuild of inline projections",
            against="bare binary COPY out",
            unit="events/s",
            ours=bench.median("rebuild"),
            peer=bench.median("copy out"),
            reach=0.3,
            aim=0.6,
            note="Chains checked, rows compared with the live ones: "
            + ("equal." if bench.equal else "NOT EQUAL."),
        ),
    ]


def _space(bench: Bench) -> list[BenchRow]:
    measured = bench.median("pgledger bytes")
    quoted = "" if measured else ", as its README says"
    return [
        BenchRow(
            what="bytes per request: event, request id, indexes",
            against=f"pgledger per transfer{quoted}",
            unit="bytes",
            ours=bench.median("bytes"),
            peer=measured or PGLEDGER_BYTES,
            reach=480,
            aim=380,
            at_most=True,
            of_ours=True,
            note=f"Everything recorded in this run, never vacuumed; what came over HTTP alone"
            f" {figure(bench.median('bytes over HTTP'))}. pgledger after VACUUM FULL.",
        ),
        BenchRow(
            what="API worker under load, resident",
            against="–",
            unit="MB",
            ours=times(bench.median("resident"), 1 / MEGA),
            peer=None,
            reach=300,
            aim=150,
            at_most=True,
            of_ours=True,
            note="The heaviest worker while the first row was measured; at the end, after bulk"
            f" ingest, {figure(bench.median('resident at the end'), 1 / MEGA)} MB.",
        ),
    ]


def _spend(bench: Bench) -> BenchRow:
    return BenchRow(
        what="monthly spend per integration",
        against="the same from events in SQL",
        unit="ms",
        ours=times(bench.median("spend"), MILLI),
        peer=times(bench.median("spend from events"), MILLI),
        reach=1 / 200,
        aim=1 / 1_000,
        at_most=True,
        note=f"At {figure(bench.median('events'))} events.",
    )


def over(ours: float | None, peer: float | None) -> float | None:
    """Divide, where both are there."""
    return ours / peer if ours is not None and peer else None


def times(value: float | None, factor: float) -> float | None:
    """Multiply, where it is there."""
    return None if value is None else value * factor


def figure(value: float | None, factor: float = 1) -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return "–"
    scaled = value * factor
    for bound, places in ((100, 0), (10, 1), (0.1, 2)):
        if scaled >= bound:
            return f"{scaled:,.{places}f}"
    return f"{scaled:.3g}"


def rendered(rows: Sequence[BenchRow]) -> Table:
    """Lay the rows out."""
    grid = Table(title="Measured, beside the peers", title_justify="left", pad_edge=False)
    for name in ("#", "what", "against"):
        grid.add_column(name, overflow="fold")
    for name in ("ours", "peer", "unit", "ratio", "reach", "aim", "met"):
        grid.add_column(name, justify="left" if name in {"unit", "met"} else "right", no_wrap=True)
    for number, row in enumerate(rows, 1):
        bound = "≤ " if row.at_most else ""
        cells = (
            *(str(number), row.what, row.against, figure(row.ours), figure(row.peer), row.unit),
            *(figure(row.ratio), bound + figure(row.reach), bound + figure(row.aim), row.verdict),
        )
        grid.add_row(*map(Text, cells))
    return grid
