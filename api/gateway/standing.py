"""Where a key stands after a request was admitted: its limits, its account's balances.

Read in the lane, in the very command that admitted the request, so that the numbers in a reply are
those of the decision and nobody else's came between.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ledger.clock import Instant
from ledger.credits import paying, spendable
from ledger.limits import Counter, Limit, name_of, total
from ledger.state import Account, Key


class Measured(NamedTuple):
    """One limit and what is left of it."""

    scope: str
    """``key`` or ``account``."""
    limit_id: str
    """Of a limit of each model, the model's counter where it has one."""
    kind: str
    ceiling: int
    """A number, tokens, or pico."""
    used: int
    """Reservations counted, this request's too."""
    window_seconds: int | None
    """None: the limit is for a lifetime."""
    resets_at: Instant | None
    """When all of it is there again if nothing else comes; None: never."""
    frees_at: Instant | None
    """When some of it comes back; None: never."""

    @property
    def remaining(self) -> int:
        """Give what is left."""
        return max(self.ceiling - self.used, 0)


class Standing(NamedTuple):
    """What the decision knew."""

    at: Instant
    limits: tuple[Measured, ...]
    """Those that count this request."""
    balances: Mapping[str, int]
    """Asset → pico that could still be spent before this request; overdrafts left out."""

    def tightest(self, kind: str) -> Measured | None:
        """Give the limit of a kind that has least left, in proportion; None: there is none."""
        found = [each for each in self.limits if each.kind == kind]
        return min(found, key=_room, default=None)


def _room(limit: Measured) -> tuple[int, int]:
    share = limit.remaining * 1_000_000 // limit.ceiling if limit.ceiling else 0
    return share, limit.window_seconds or 0


def balances_of(account: Account, at: Instant) -> dict[str, int]:
    """Give what could be spent on a price in USD of each asset now, reservations taken off."""
    return {
        asset: sum(lot.remaining - lot.held for lot in spendable(account, (asset,), at))
        - account.overdrawn.get(asset, 0)
        for asset in paying(account, "USD")
    }


def limits_of(
    account: Account, key: Key, *, category: str, model: str, at: Instant
) -> Iterator[Measured]:
    """Give how each limit stands that counts such a request."""
    for scope, subject in (("key", key), ("account", account)):
        for limit in subject.limits.values():
            if limit.covers(category, model) and limit.kind not in _OF_KEYS:
                counters, name = subject.counters, limit.limit_id
                if limit.each_model:
                    name = name_of(limit, counters, model)
                yield _measured(scope, limit, name, counters.get(name), at)


_OF_KEYS = frozenset({"key_creations", "active_keys"})


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
        total(used, first) + total(pending, first),
        window.seconds(at),
        frees_last,
        frees_first,
    )
