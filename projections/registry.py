"""Which projections there are. A new one is its module and a line here."""

from ledger.record.due import lanes_with_due
from projections.base import CatchingUp, Inline
from projections.behind import account_marks, refusals
from projections.inline import accounts, keys, limit_counters, reservations, spend, unpriced
from projections.inline import credits as credit

INLINE: tuple[Inline, ...] = (
    accounts.PROJECTION,
    keys.PROJECTION,
    spend.PROJECTION,
    credit.PROJECTION,
    limit_counters.PROJECTION,
    reservations.PROJECTION,
    unpriced.PROJECTION,
)
"""Move in the append's own transaction. In the order they are read back: first what others need."""

LANES_WITH_DUE = lanes_with_due([due for each in INLINE for due in each.due])
"""Lanes of which something ran out at ``at``."""

CATCHING_UP: tuple[CatchingUp, ...] = (
    refusals.PROJECTION,
    account_marks.PROJECTION,
)
"""Move behind the append."""
