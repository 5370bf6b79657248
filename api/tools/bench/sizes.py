"""How much is measured, and how long."""

import os

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What the options of ``keyledger bench`` say."""

    rounds: int = 5
    seconds: int = 5
    """Of each measurement in each round."""
    warmup_seconds: float = 1.0
    connections: int = 256
    keys: int = 2_000
    accounts: int = 200
    workers: int = min(os.cpu_count() or 1, 4)
    """As many as ``keyledger serve`` starts by default; the empty handler has as many."""
    lanes: int = 2
    batch: int = 10_000
    """Requests in one bulk post."""
    batches: int = 6
    """Bulk posts per round."""
    scale: int = 10
    """Of pgbench's tables: 100,000 accounts each."""
    events: int = 0
    """Events to fill the ledger with for the spend report; 0: leave that row out."""


FULL = Sizes()
QUICK = Sizes(
    rounds=1,
    seconds=1,
    warmup_seconds=0.2,
    connections=8,
    keys=10,
    accounts=2,
    batch=100,
    batches=2,
    scale=1,
)
"""Enough to see that everything works; the figures mean nothing."""
