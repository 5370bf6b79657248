"""What is measured, in which order: every measurement once per round, ours beside the peer's."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from api.tools.bench import bulk, fleet, load
from api.tools.bench.database import EVENTS, FROM_EVENTS, FROM_PROJECTION, REQUESTS, LedgerProbe
from api.tools.bench.gateway import GatewayBench
from api.tools.bench.load import LoadPlan, LoadResult, Parts
from api.tools.bench.peers import EventSourcing, PeerFailed, PgLedger, TpcB
from api.tools.bench.processes import Scales, children, processor_seconds, resident_bytes
from api.tools.bench.sizes import Sizes

THREADS = 8
"""Of the second measurement of ``eventsourcing``."""


class BenchFailed(RuntimeError):
    """The bench found that what it measures does not work."""


class Places(NamedTuple):
    """What there is to measure."""

    service: fleet.BenchService
    supervisor: int
    """Process whose children are our workers."""
    empty_port: int
    empty_supervisor: int
    ledger: str
    """How to connect to our database."""
    peers: str
    """How to connect to the peers' database, on the same server."""
    directory: Path
    pgledger: Path | None
    gateway: GatewayBench


class Measurement(NamedTuple):
    """Something done once per round."""

    name: str
    run: Callable[[], None]


class Bench:
    """Measures, and keeps what was found."""

    def __init__(self, places: Places, sizes: Sizes) -> None:
        """Prepare everything: accounts, keys, the peers' tables."""
        self.sizes = sizes
        self.found: dict[str, list[float]] = defaultdict(list)
        """Name → one figure per round."""
        self.missing: dict[str, str] = {}
        """Peer → why it was not measured."""
        self.equal = True
        """Whether every rebuild matched the live rows."""
        self._places = places
        self.gateway = places.gateway
        self._number = 1
        self._accepted = 0
        self._probe = LedgerProbe(places.ledger)
        self._fleet = fleet.muster(places.service, sizes.accounts, sizes.keys)
        self._spread = fleet.requests_of(places.service, self._fleet.keys)
        self._tpcb = TpcB(places.peers, sizes.scale, places.directory)
        self._saving = self._optional("eventsourcing", lambda: EventSourcing(places.peers))
        self._pgledger: PgLedger | None = None
        if places.pgledger is not None:
            self._pgledger = PgLedger(places.peers, places.pgledger, places.directory)
        self._stored_before = self._probe.number(REQUESTS)

    def _optional(self, name: str, make: Callable[[], EventSourcing]) -> EventSourcing | None:
        try:
            return make()
        except PeerFailed as failed:
            self.missing[name] = str(failed)
            return None

    def close(self) -> None:
        """Close the connection to the database."""
        self._probe.close()

    def measurements(self) -> list[Measurement]:
        """Return what one round does, in order."""
        found = [
            Measurement("our throughput", self._throughput),
            Measurement("empty handler", lambda: self._empty("/empty", "empty")),
            Measurement("one hot account", self._hot),
            Measurement("handler that leaves the body alone", lambda: self._empty("/bare", "bare")),
            Measurement("our latency", self._latency),
            Measurement("pgbench TPC-B", self._tpc_b),
        ]
        if self._saving is not None:
            found.append(Measurement("eventsourcing", self._save))
        if self._pgledger is not None:
            found.append(Measurement("pgledger", self._transfer))
        return [
            *found,
            Measurement("gateway and its upstream", self.gateway.measure),
            Measurement("bulk ingest and COPY in", self._bulk),
            Measurement("rebuild and COPY out", self._rebuild),
        ]

    def rounds(self) -> Iterator[Measurement]:
        """Yield every measurement of every round, in order; the caller runs each."""
        for _ in range(self.sizes.rounds):
            yield from self.measurements()
        yield Measurement("sizes", self._last)

    @property
    def steps(self) -> int:
        """Count the measurements."""
        return len(self.measurements()) * self.sizes.rounds + 1

    def median(self, name: str) -> float | None:
        """Return the median over the rounds; None: it was not measured."""
        return statistics.median(self.found[name]) if self.found.get(name) else None

    def _load(
        self, port: int, requests: Sequence[Parts], connections: int, name: str
    ) -> LoadResult:
        ours = port == self._places.service.port
        workers = children(self._places.supervisor if ours else self._places.empty_supervisor)
        before = processor_seconds(workers)
        found = load.measure(
            LoadPlan(
                host="127.0.0.1",
                port=port,
                connections=connections,
                seconds=self.sizes.seconds,
                warmup_seconds=self.sizes.warmup_seconds,
                first=self._number,
                requests=requests,
            )
        )
        after = processor_seconds(workers)
        if before is not None and after is not None:
            self.found[f"{name} processor"].append((after - before) / found.sent)
        self._number += found.sent
        return found

    def _ours(self, requests: Sequence[Parts], connections: int, name: str) -> LoadResult:
        found = self._load(self._places.service.port, requests, connections, name)
        self._accepted += found.accepted
        return found

    def _throughput(self) -> None:
        before = self._probe.size()
        with Scales(self._places.supervisor) as scales:
            found = self._ours(self._spread, self.sizes.connections, "ours")
        after = self._probe.size()
        self.found["ours"].append(found.per_second)
        self.found["ours p99"].append(found.p99_seconds)
        self.found["resident"].append(scales.heaviest_bytes)
        grown = (after.bytes - before.bytes) / (after.requests - before.requests)
        self.found["bytes over HTTP"].append(grown)

    def _empty(self, path: str, name: str) -> None:
        port = self._places.empty_port
        requests = fleet.empty_requests(port, path)
        found = self._load(port, requests, self.sizes.connections, name)
        self.found[name].append(found.per_second)

    def _hot(self) -> None:
        requests = fleet.requests_of(self._places.service, self._fleet.hot)
        found = self._ours(requests, self.sizes.connections, "hot")
        self.found["hot"].append(found.per_second)

    def _latency(self) -> None:
        self.found["latency"].append(self._ours(self._spread, 1, "latency").median_seconds)

    def _tpc_b(self) -> None:
        self.found["tpcb"].append(self._tpcb.median_seconds(self.sizes.seconds))

    def _save(self) -> None:
        assert self._saving is not None
        seconds = self.sizes.seconds
        self.found["eventsourcing"].append(self._saving.per_second(seconds, 1))
        self.found["eventsourcing threads"].append(self._saving.per_second(seconds, THREADS))

    def _transfer(self) -> None:
        assert self._pgledger is not None
        self.found["pgledger"].append(self._pgledger.per_second(self.sizes.seconds))

    def _ingest(self, batch: int, batches: int) -> float:
        made = bulk.batches_of(self._fleet.keys, self._number, batch, batches)
        took_seconds = bulk.post_all(self._places.service, made, self.sizes.workers)
        self._number += batch * batches
        self._accepted += batch * batches
        return took_seconds

    def _bulk(self) -> None:
        self._probe.mark()
        rows = self.sizes.batch * self.sizes.batches
        self.found["bulk"].append(rows / self._ingest(self.sizes.batch, self.sizes.batches))
        self.found["copy in"].append(rows / self._probe.copy_in_seconds())

    def _rebuild(self) -> None:
        # Imported here: with it come pools of processes that nothing else here needs.
        from projections.rebuild import rebuild  # noqa: PLC0415

        events = self._probe.number(EVENTS)
        began = time.perf_counter()
        report = rebuild(self._places.ledger)
        self.found["rebuild"].append(report.events / (time.perf_counter() - began))
        self.found["copy out"].append(events / self._probe.copy_out_seconds())
        self.equal = self.equal and report.equal

    def _last(self) -> None:
        """Measure what is left at the end; require that all that was acknowledged is stored."""
        stored = self._probe.number(REQUESTS) - self._stored_before
        if stored != self._accepted:
            raise BenchFailed(f"{self._accepted} requests were acknowledged, {stored} are stored.")
        size = self._probe.size()
        self.found["bytes"].append(size.bytes / size.requests)
        workers = children(self._places.supervisor)
        self.found["resident at the end"].append(max(map(resident_bytes, workers)))
        if self._pgledger is not None:
            self.found["pgledger bytes"].append(self._pgledger.bytes_per_transfer())
        if self.sizes.events:
            self._spend()

    def _spend(self) -> None:
        batch = self.sizes.batch
        while (lacking := self.sizes.events - self._probe.number(EVENTS)) > 0:
            self._ingest(min(batch, lacking), 1)
        for _ in range(self.sizes.rounds):
            self.found["spend"].append(self._probe.seconds(FROM_PROJECTION))
            self.found["spend from events"].append(self._probe.seconds(FROM_EVENTS))
        self.found["events"].append(self._probe.number(EVENTS))

    @property
    def acknowledged(self) -> int:
        """Count the requests that were acknowledged."""
        return self._accepted

    @property
    def eventsourcing_version(self) -> str:
        """Return the version of ``eventsourcing``; empty: it was not measured."""
        return self._saving.version if self._saving else ""
