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
    # Seconds, as text: no float stands in this code.
    buckets=("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "1", "10"),
    registry=_own,
)
_counters: dict[tuple[str, int], Counter] = {}
_histograms: dict[str, Histogram] = {}


def note(operation: str, status: int, seconds: float) -> None:
    """Count one answer."""
    slot = (operation, status)
    counter = _counters.get(slot)
    if counter is None:
        counter = _counters[slot] = _requests.labels(operation, str(status))
        _histograms[operation] = _duration.labels(operation)
    counter.inc()
    _histograms[operation].observe(seconds)


def text() -> bytes:
    """Write all workers' numbers."""
    if os.environ.get(DIRECTORY):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(_own)
