"""What accounts have from the start, without being given it."""

from typing import NamedTuple

from ledger import events as e


class Opening(NamedTuple):
    """Terms of new accounts, as the dialects' pages promise them."""

    limits: tuple[e.LimitRule, ...] = ()
    """Of any account that is opened without being given others."""
    own_limits: tuple[e.LimitRule, ...] = ()
    """Besides, of one that its owner opens. The operator knows whom they open one for."""
    pays_with: tuple[str, ...] = ("USD",)
    """What an account that its owner opens pays with, at par, the first to pay first."""

    def own_terms(self, by: str) -> e.AccountOpened:
        """Return the terms of an account that its owner opens; the operator may change them."""
        limits = (*self.own_limits, *self.limits)
        return e.AccountOpened(by=by, pays_with=self.pays_with, limits=limits)
