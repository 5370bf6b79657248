"""Where an account and its keys stand: what is left now of limits and balances, and what is held.

Pure, from states and an instant, by the sums that decisions make. Whoever shows it words it; nobody
adds it up again.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ledger.clock import Instant
from ledger.credits import overdraft_left, paying, spendable
from ledger.limits import Counter, Counters, Limit, name_of, total
from ledger.state import Account, Key

_OF_KEYS = frozenset({"key_creations", "active_keys"})
"""Kinds of limits that count no requests."""


class Measured(NamedTuple):
    """One counter of a limit, and what is left of it. Quantities: a number, tokens, or pico."""

    scope: str
    """``key`` or ``account``."""
    limit_id: str
    """Of a per-model limit, the name of the model's counter where it has one."""
    kind: str
    ceiling: int
    used: int
    pending: int
    """What open reservations hold."""
    window_seconds: int | None
    """None: the limit is for a lifetime."""
    resets_at: Instant | None
    """When all of it is there again if nothing else comes; None: never."""
    frees_at: Instant | None
    """When some of it comes back; None: never."""

    @property
    def remaining(self) -> int:
        """What is left, 0 where more counts than may."""
        return max(self.ceiling - self.used - self.pending, 0)


class Balance(NamedTuple):
    """What an account has of an asset, in pico."""

    asset: str
    unspent: int
    """Holds included; negative when overdrawn."""
    pending: int
    """What open reservations hold."""
    spendable: int
    """What lots can pay now, holds taken off."""
    overdraft_left: int | None
    """Of the declared overdraft, never negative; None: there is no bound."""


class Standing(NamedTuple):
    """Where a key stands for a request of some category and model."""

    at: Instant
    limits: tuple[Measured, ...]
    """Those that count this request."""
    balances: Mapping[str, int]
    """Asset → pico that could still be spent before this request; overdrafts left out."""

    def tightest(self, kind: str) -> Measured | None:
        """Return the limit of a kind that has least left, in proportion; None: there is none."""
        found = [each for each in self.limits if each.kind == kind]
        return min(found, key=_room, default=None)


def _room(limit: Measured) -> tuple[int, int]:
    share = limit.remaining * 1_000_000 // limit.ceiling if limit.ceiling else 0
    return share, limit.window_seconds or 0


def of_request(
    account: Account, key: Key, *, category: str, model: str, at: Instant
) -> Iterator[Measured]:
    """Measure each limit that counts such a request."""
    for scope, subject in (("key", key), ("account", account)):
        for limit in subject.limits.values():
            if limit.covers(category, model) and limit.kind not in _OF_KEYS:
                name = limit.limit_id
                if limit.each_model:
                    name = name_of(limit, subject.counters, model)
                yield _measured(scope, limit, name, subject.counters.get(name), at)


def of_limits(subject: Account | Key, at: Instant) -> list[Measured]:
    """Measure each limit of an account or key, in the order of its rules.

    Of a per-model limit, the counter that models share.
    """
    scope = "account" if isinstance(subject, Account) else "key"
    found = []
    for limit in subject.limits.values():
        measured = of_limit(limit, subject.counters, at, scope=scope)
        if limit.kind == "active_keys" and isinstance(subject, Account):
            measured = measured._replace(used=subject.active_keys)
        found.append(measured)
    return found


def of_limit(limit: Limit, counters: Counters, at: Instant, *, scope: str = "key") -> Measured:
    """Measure one limit; of a per-model limit, the counter that models share."""
    return _measured(scope, limit, limit.limit_id, counters.get(limit.limit_id), at)


def of_models(limit: Limit, counters: Counters, at: Instant) -> dict[str, Measured]:
    """Measure a per-model limit for each model that has a counter of its own, in order of name."""
    return {
        model: _measured("", limit, name, counter, at)
        for name, counter in sorted(counters.items())
        if (model := limit.model_of(name))
    }


def _measured(
    scope: str, limit: Limit, name: str, counter: Counter | None, at: Instant
) -> Measured:
    window = limit.window
    first = window.first(at)
    used, pending = (counter.used, counter.pending) if counter else ({}, {})
    counting = [bucket for bucket in (*used, *pending) if bucket >= first]
    frees_first: Instant | None = at
    frees_last: Instant | None = at
    if counting:
        newest, oldest = max(counting), min(counting)
        frees_first = frees_last = window.frees_at(newest)
        if oldest != newest:
            frees_first = window.frees_at(oldest)
    return Measured(
        scope,
        name,
        limit.kind,
        limit.ceiling,
        total(used, first),
        total(pending, first),
        window.seconds(at),
        frees_last,
        frees_first,
    )


def to_spend(account: Account, at: Instant) -> dict[str, int]:
    """Return what could be spent on a price in USD of each asset now, reservations taken off.

    What is overdrawn is taken off too, so it may be negative.
    """
    return {
        asset: _free(account, asset, at) - account.overdrawn.get(asset, 0)
        for asset in paying(account, "USD")
    }


def balances(account: Account, at: Instant, priced: Collection[str]) -> list[Balance]:
    """Return what an account has of every asset that it has, owes or pays with, by name.

    ``priced``: what prices are in. Credit of an asset that nothing is priced in, and that the
    account does not pay with, can pay for nothing.
    """
    pays = {*account.pays_with, *priced}
    assets = {*account.pays_with, *account.overdraft, *account.overdrawn}
    assets |= {lot.asset for lot in account.lots.values()}
    found = []
    for asset in sorted(assets):
        left = overdraft_left(account, asset)
        found.append(
            Balance(
                asset=asset,
                unspent=account.balance(asset),
                pending=account.pending(asset),
                spendable=_free(account, asset, at) if asset in pays else 0,
                overdraft_left=None if left is None else max(left, 0),
            )
        )
    return found


def _free(account: Account, asset: str, at: Instant) -> int:
    return sum(lot.remaining - lot.held for lot in spendable(account, (asset,), at))
