"""What a scraper may count: by operation and outcome, never by key or account."""

import asyncio
import os
from bisect import bisect_left

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Set by the supervisor, so that the workers' numbers add up whichever answers."""

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


class _Tally:
    """Answers of one operation and status that are not in the shared numbers yet.

    A commit answers many requests in one turn of the loop. They are counted here and entered
    together, because each entry into memory shared with other workers costs as much as all else
    that is done to count.
    """

    __slots__ = ("_counter", "_histogram", "_seconds", "answers")

    def __init__(self, operation: str, status: int) -> None:
        self._counter = _requests.labels(operation, str(status))
        self._histogram = _duration.labels(operation)
        self._seconds: list[float] = []
        self.answers = 0

    def add(self, seconds: float) -> None:
        self.answers += 1
        self._seconds.append(seconds)

    def enter(self) -> None:
        self._counter.inc(self.answers)
        # The library enters one duration at a time; these two are what its ``observe`` moves.
        bounds, buckets = self._histogram._upper_bounds, self._histogram._buckets  # noqa: SLF001
        counts = [0] * len(buckets)
        for seconds in self._seconds:
            counts[bisect_left(bounds, seconds)] += 1
        for bucket, count in zip(buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(sum(self._seconds))  # noqa: SLF001
        self.answers = 0
        self._seconds.clear()


_tallies: dict[tuple[str, int], _Tally] = {}
_waiting: list[_Tally] = []


def note(operation: str, status: int, seconds: float) -> None:
    """Count one answer, from inside the event loop."""
    slot = (operation, status)
    tally = _tallies.get(slot)
    if tally is None:
        tally = _tallies[slot] = _Tally(operation, status)
    if not tally.answers:
        if not _waiting:
            asyncio.get_running_loop().call_soon(_enter)
        _waiting.append(tally)
    tally.add(seconds)


def _enter() -> None:
    while _waiting:
        _waiting.pop().enter()


def text() -> bytes:
    """Write all workers' numbers."""
    _enter()
    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(_own)
