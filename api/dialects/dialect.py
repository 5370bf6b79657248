"""What a dialect is to the service: one record, in its own folder.

Everything that others know of a dialect stands here: a further one is a folder with a ``DIALECT``.
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
"""What is read is the service's own catalogue or the key's own limits: it uses nothing up."""


class Dialect(NamedTuple):
    """A documented surface for keys."""

    surface: Surface
    meters: Mapping[str, str]
    """How each route that acts for a key is metered: operation → a row of the gateway's table,
    ``COUNTED`` or ``FREE``."""
    paths: Sequence[str] = ()
    """Beginnings of paths that are this dialect's alone."""
    methods_of: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Path → methods for which it is this dialect's, though it begins as another's."""
    paths_everywhere: frozenset[str] = frozenset()
    """Paths that it answers on other dialects' hosts too."""
    key_prefix: str = ""
    """Beginning of the keys that open ``/v1``, which several dialects serve; empty: none do."""
    takes_tokens: bool = False
    """Whether a login's token stands for a key of its under ``/v1``."""
    is_default: bool = False
    """Whether its contract holds under ``/v1`` where no key tells."""
    key_limits: tuple[LimitRule, ...] = ()
    """Limits of keys that are issued without any."""
    account_limits: tuple[LimitRule, ...] = ()
    """Limits of any account that is opened without being given others."""
    own_limits: tuple[LimitRule, ...] = ()
    """Besides, of an account that its owner opens."""
    pays_with: tuple[str, ...] = ()
    """What an account that its owner opens pays with, at par, the first to pay first."""
    card: RateCard | None = None
    """By which its keys are priced in a new database; None: by the standard card."""
    sells_characters: bool = False
    """Whether what its keys name as a model is a character, and they may have a default one."""

    @property
    def name(self) -> str:
        """Name it as keys and events do."""
        return self.surface.name

    @property
    def metered(self) -> frozenset[str]:
        """Name the operations that use something up."""
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
