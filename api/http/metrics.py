"""Metrics for a scraper: by operation and outcome, never by key or account."""

import asyncio
import os
from bisect import bisect_left
from collections import defaultdict

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Set by the supervisor, so that the numbers are all workers' whichever worker answers."""

_own = CollectorRegistry()
_requests = Counter(
    "keyledger_http_requests_total",
    "Requests answered.",
    ("operation", "status"),
    registry=_own,
)
_duration = Histogram(
    "keyledger_http_request_duration_seconds",
    "From the first byte read to the last handed over.",
    ("operation",),
    # Seconds, as text: no float stands in this code.
    buckets=("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "1", "10"),
    registry=_own,
)
_asked = Counter(
    "keyledger_upstream_requests_total",
    "Attempts at an upstream: answered, refused, failed, timed_out.",
    ("upstream", "outcome"),
    registry=_own,
)
_answered_in = Histogram(
    "keyledger_upstream_response_seconds",
    "From an attempt's beginning to its answer: the whole one, or a stream's first chunk.",
    ("upstream",),
    buckets=("0.01", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60"),
    registry=_own,
)
_endings = Counter(
    "keyledger_gateway_endings_total",
    "How gatewayed requests ended: reported, estimated, interrupted, released.",
    ("ending",),
    registry=_own,
)
_settlements = Gauge(
    "keyledger_gateway_settlements_waiting",
    "Endings that the ledger could not take yet.",
    registry=_own,
    multiprocess_mode="livesum",
)


class _Tally:
    """Answers of one kind that are not in the shared counters yet.

    A commit answers many requests in one turn of the loop. They are counted here and entered
    together, because each write to memory shared with other workers costs as much as everything
    else that counting takes.
    """

    __slots__ = ("_counter", "_histogram", "_seconds", "answers")

    def __init__(self, counter: Counter, histogram: Histogram | None) -> None:
        self._counter = counter
        self._histogram = histogram
        self._seconds: list[float] = []
        self.answers = 0

    def add(self, seconds: float) -> None:
        self.answers += 1
        self._seconds.append(seconds)

    def enter(self) -> None:
        self._counter.inc(self.answers)
        if self._histogram is not None:
            self._observe(self._histogram)
        self.answers = 0
        self._seconds.clear()

    def _observe(self, histogram: Histogram) -> None:
        # The library records one duration at a time; these two are what its ``observe`` increases.
        bounds, buckets = histogram._upper_bounds, histogram._buckets  # noqa: SLF001
        counts = [0] * len(buckets)
        for seconds in self._seconds:
            counts[bisect_left(bounds, seconds)] += 1
        for bucket, count in zip(buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        histogram._sum.inc(sum(self._seconds))  # noqa: SLF001


_tallies: dict[tuple[str, int | str], _Tally] = {}
_waiting: list[_Tally] = []


def note(operation: str, status: int, seconds: float) -> None:
    """Count one answer, from inside the event loop."""
    tally = _tallies.get((operation, status))
    if tally is None:
        tally = _Tally(_requests.labels(operation, str(status)), _duration.labels(operation))
        _tallies[operation, status] = tally
    _add(tally, seconds)


def note_attempt(upstream: str, outcome: str, seconds: float) -> None:
    """Count one attempt at an upstream, and how long its answer took, if it is one."""
    tally = _tallies.get((upstream, outcome))
    if tally is None:
        told = outcome in {"answered", "refused"}
        histogram = _answered_in.labels(upstream) if told else None
        tally = _Tally(_asked.labels(upstream, outcome), histogram)
        _tallies[upstream, outcome] = tally
    _add(tally, seconds)


def note_ending(ending: str) -> None:
    """Count how a gatewayed request ends, from inside the event loop, before it is recorded."""
    _wake()
    _ended[ending] += 1


def note_waiting(settlements: int) -> None:
    """Set how many endings wait in this process."""
    _settlements.set(settlements)


_ended: dict[str, int] = defaultdict(int)
"""Endings that are not in the shared counters yet."""


def _add(tally: _Tally, seconds: float) -> None:
    if not tally.answers:
        _wake()
        _waiting.append(tally)
    tally.add(seconds)


def _wake() -> None:
    if not _waiting and not _ended:
        asyncio.get_running_loop().call_soon(_enter)


def _enter() -> None:
    while _waiting:
        _waiting.pop().enter()
    while _ended:
        ending, count = _ended.popitem()
        _endings.labels(ending).inc(count)


def forget(pid: int, directory: str) -> None:
    """Remove the gauges of a worker that is gone; its counters stay."""
    multiprocess.mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]


def text() -> bytes:
    """Return all workers' metrics in Prometheus' text format."""
    _enter()
    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(_own)
