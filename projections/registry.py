"""Which projections there are, in the order they are read back: first what others hang on."""

from types import ModuleType
from typing import cast

from ledger.record.batch import Inline
from projections.inline import accounts, keys, limit_counters, reservations, spend, unpriced
from projections.inline import credits as credit

MODULES: tuple[ModuleType, ...] = (
    accounts,
    keys,
    spend,
    credit,
    limit_counters,
    reservations,
    unpriced,
)
INLINE: tuple[Inline, ...] = tuple(cast("Inline", module) for module in MODULES)
"""Move in the append's own transaction."""

INLINE_TABLES: tuple[str, ...] = tuple(table for module in MODULES for table in module.TABLES)
"""What a rebuild makes anew and compares."""
