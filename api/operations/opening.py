"""What accounts have from the start."""

from typing import NamedTuple

from ledger import events as e


class Opening(NamedTuple):
    """Terms of new accounts, as promised on the dialects' pages."""

    limits: tuple[e.LimitRule, ...] = ()
    """Limits of an account that is opened without any."""
    own_limits: tuple[e.LimitRule, ...] = ()
    """Further limits of one that its owner opens; the operator knows for whom they open one."""
    pays_with: tuple[str, ...] = ("USD",)
    """Assets that an account opened by its owner pays with, at par, in this order."""

    def own_terms(self, by: str) -> e.AccountOpened:
        """Return the terms of an account that its owner opens; the operator may change them."""
        limits = (*self.own_limits, *self.limits)
        return e.AccountOpened(by=by, pays_with=self.pays_with, limits=limits)
