"""What a scraper may count: by operation and outcome, never by key or account."""

import os

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
    buckets=(*(0.001, 0.0025, 0.005, 0.01, 0.025), *(0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)),  # seconds
    registry=_own,
)
NANOSECONDS = 1_000_000_000

_counters: dict[tuple[str, int], Counter] = {}
_histograms: dict[str, Histogram] = {}


def note(operation: str, status: int, nanoseconds: int) -> None:
    """Count one answer."""
    slot = (operation, status)
    counter = _counters.get(slot)
    if counter is None:
        counter = _counters[slot] = _requests.labels(operation, str(status))
        _histograms[operation] = _duration.labels(operation)
    counter.inc()
    _histograms[operation].observe(nanoseconds / NANOSECONDS)


def text() -> bytes:
    """Write all workers' numbers."""
    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
    return generate_latest(_own)
