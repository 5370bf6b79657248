"""What a dialect is to the service: one record, in its own folder.

All that others know of a dialect is in its record: a new one is a folder with a ``DIALECT``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from api.http.surface import Surface
from ledger import clock
from ledger.events import LimitRule
from ledger.pricing import ModelPrice, RateCard

COUNTED = "counted"
"""The handler counts a request itself, and answers without the gateway."""
FREE = "free"
"""It reads the service's own catalogue or the key's own limits, and so uses nothing up."""


class Dialect(NamedTuple):
    """A documented surface for keys."""

    surface: Surface
    meters: Mapping[str, str]
    """How each route that acts for a key is metered: operation → a row of the gateway's table,
    ``COUNTED`` or ``FREE``."""
    paths: Sequence[str] = ()
    """Beginnings of paths that are this dialect's alone."""
    methods_of: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Path → methods that are this dialect's, though the path begins as another's."""
    paths_everywhere: frozenset[str] = frozenset()
    """Paths that it answers on other dialects' hosts too."""
    key_prefix: str = ""
    """Beginning of the keys that open ``/v1``, which several dialects serve; empty: none do."""
    takes_tokens: bool = False
    """Whether a login's token may stand for one of its keys under ``/v1``."""
    is_default: bool = False
    """Whether its contract holds under ``/v1`` where no key says whose it is."""
    key_limits: tuple[LimitRule, ...] = ()
    """Limits of keys that are issued without any."""
    account_limits: tuple[LimitRule, ...] = ()
    """Limits of every account that is opened without limits of its own."""
    own_limits: tuple[LimitRule, ...] = ()
    """Further limits of an account that its owner opens."""
    pays_with: tuple[str, ...] = ()
    """Assets with which an account that its owner opens pays, at par, in the order they pay."""
    card: RateCard | None = None
    """Prices its keys in a new database; None: the standard card does."""
    sells_characters: bool = False
    """Whether its keys name characters as models, and may have a default one."""

    @property
    def name(self) -> str:
        """Return its name in keys and events."""
        return self.surface.name

    @property
    def metered(self) -> frozenset[str]:
        """Return the operations that use something up."""
        return frozenset(name for name, how in self.meters.items() if how != FREE)


def opening_card(name: str, asset: str, models: Mapping[str, ModelPrice]) -> RateCard:
    """Return the first rate card of a dialect."""
    return RateCard(
        name=name,
        version=1,
        asset=asset,
        effective_from=clock.EARLIEST,
        models=dict(models),
        source="keyledger",
    )
