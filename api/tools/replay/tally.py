"""What became of the requests of a replay: counts, sums and latencies, in bounded memory."""

import time
from collections import Counter
from typing import NamedTuple

from ledger.money import Amount, format_pico, parse_pico

PRECISION_BITS = 8
"""Latencies are kept to one part in 2⁷ or better."""


class Answered(NamedTuple):
    """What the service said to one request."""

    charge: tuple[str, str] | None = None
    """Amount and asset; None: nothing, or not yet."""
    replayed: bool = False
    """The ledger had it before: the stored answer came again and nothing was charged."""
    refusal: str = ""
    """Code of the refusal; empty: it was recorded."""


class Latencies:
    """A histogram of durations whose buckets grow with the duration."""

    def __init__(self) -> None:
        """Begin empty."""
        self._buckets: Counter[int] = Counter()
        self.count = 0

    def add(self, microseconds: int) -> None:
        """Count a duration."""
        drop = max(microseconds.bit_length() - PRECISION_BITS, 0)
        self._buckets[microseconds >> drop << drop] += 1
        self.count += 1

    def quantile(self, percent: int) -> int:
        """Return microseconds that so many per cent of all durations do not exceed."""
        rank = max(-(-self.count * percent // 100), 1)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return bucket
        return 0


class ReplayTally:
    """Counts while a replay runs."""

    def __init__(self) -> None:
        """Begin now."""
        self.charged = 0
        self.unpriced = 0
        self.replayed = 0
        self.retries = 0
        self.refused: Counter[tuple[str, str]] = Counter()
        """By reason and integration."""
        self.totals: Counter[str] = Counter()
        """Pico charged by this run, by asset."""
        self.totals_replayed: Counter[str] = Counter()
        """Pico charged by earlier runs, as the replayed answers say."""
        self.latencies = Latencies()
        """One per HTTP exchange."""
        self._began = time.perf_counter()
        self._ended: float | None = None

    @property
    def sent(self) -> int:
        """Count the requests that were answered."""
        return self.charged + self.unpriced + self.replayed + self.refused.total()

    @property
    def seconds(self) -> float:
        """Return how long the run took, or takes so far."""
        return (self._ended or time.perf_counter()) - self._began

    @property
    def per_second(self) -> float:
        """Return requests per second."""
        return self.sent / self.seconds if self.seconds else 0.0

    def end(self) -> None:
        """Stop the clock."""
        self._ended = time.perf_counter()

    def add(self, integration: str, answered: Answered) -> None:
        """Count what became of a request."""
        if answered.refusal:
            self.refused[answered.refusal, integration] += 1
            return
        if answered.replayed:
            self.replayed += 1
        elif answered.charge is None:
            self.unpriced += 1
        else:
            self.charged += 1
        if answered.charge is not None:
            amount, asset = answered.charge
            totals = self.totals_replayed if answered.replayed else self.totals
            totals[asset] += parse_pico(amount)

    def amounts(self) -> list[Amount]:
        """Return what this run charged, by asset."""
        return [Amount(pico, asset) for asset, pico in sorted(self.totals.items())]

    def refused_by_reason(self) -> dict[str, int]:
        """Return how many were refused, by reason, the most frequent first."""
        sums: Counter[str] = Counter()
        for (reason, _), count in self.refused.items():
            sums[reason] += count
        return dict(sums.most_common())

    def document(self) -> dict[str, object]:
        """Return everything as plain data."""
        return {
            "sent": self.sent,
            "charged": self.charged,
            "replayed": self.replayed,
            "unpriced": self.unpriced,
            "refused": self.refused_by_reason(),
            "retries": self.retries,
            "total": {asset: format_pico(pico) for asset, pico in sorted(self.totals.items())},
            "total_of_replayed": {
                asset: format_pico(pico) for asset, pico in sorted(self.totals_replayed.items())
            },
            "seconds": round(self.seconds, 3),
            "requests_per_second": round(self.per_second, 1),
            "latency_ms": {
                "p50": self.latencies.quantile(50) / 1_000,
                "p99": self.latencies.quantile(99) / 1_000,
            },
        }
