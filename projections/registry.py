"""Which projections there are. A new one is its module and a line here."""

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

CATCHING_UP: tuple[CatchingUp, ...] = (
    refusals.PROJECTION,
    account_marks.PROJECTION,
)
"""Move behind the append."""
