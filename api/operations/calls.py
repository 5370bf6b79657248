"""Calls that this process serves itself, for a dialect or through the gateway.

They are admitted, held and finished like requests; nobody reads their receipts, so none are
written.
"""

import contextlib
from collections.abc import Callable

from api.operations.decisions import Sees, reserving, shown
from ledger import accounts, keys, metering
from ledger.batch import Command
from ledger.clock import Instant
from ledger.errors import RequestFailed, RequestIdIsTaken
from ledger.ids import AccountId, KeyId
from ledger.lanes import Writer
from ledger.metering import Facts, Made
from ledger.ratecards import RateCards
from ledger.state import Account, Key

Permits = Callable[[Account, Key, Instant], None]
"""Raises a refusal where a key may not do what is asked; sees the state before it is admitted."""


class Calls:
    """Operations on calls."""

    def __init__(self, writer: Writer) -> None:
        """Take who appends."""
        self._writer = writer

    async def admit(
        self, account_id: AccountId, key_id: KeyId, *, secret: int | None, scope: str = ""
    ) -> None:
        """Decide in the lane whether a key may act now; a refusal is recorded.

        Raises:
            Refused: It may not.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            key = keys.require_usable(facts.key, at, secret=secret)
            accounts.require_open(facts.account)
            keys.require_scope(key, scope)
            return [], None

        command = Command(account_id, decide, key_id=key_id, metered=True, secret=secret)
        await self._writer.submit_one(command)

    async def note_failure(
        self, account_id: AccountId, key_id: KeyId, *, secret: int | None, model: str = ""
    ) -> None:
        """Write down that a request of a key failed outside the ledger; it counts as a failure.

        Quiet where the key may fail as often as it likes.

        Raises:
            Refused: The key may not act; ``LimitIsReached``: too many of its requests have failed.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            key = keys.require_usable(facts.key, at, secret=secret)
            if not any(limit.kind == "failures" for limit in key.limits.values()):
                return [], None
            keys.require_failures_left(key, at)
            raise RequestFailed

        command = Command(
            account_id, decide, key_id=key_id, metered=True, model=model, secret=secret
        )
        with contextlib.suppress(RequestFailed):
            await self._writer.submit_one(command)

    async def hold(
        self,
        account_id: AccountId,
        key_id: KeyId,
        reserve: metering.Reserve,
        *,
        permits: Permits | None = None,
        sees: Sees | None = None,
        if_priced: bool = False,
    ) -> bool:
        """Hold the worst case of a request about to be forwarded; tell whether anything is held.

        ``permits`` is asked in the lane whether this key may do this; ``sees`` is shown the state
        that the request was admitted into. ``if_priced``: what the rate card has no price for is
        admitted and not metered.

        Raises:
            RequestIdIsTaken: A request of this id was admitted before: it is not made again.
            Refused: Key, account, scope, model, price, limit or credit say no.
        """
        held = _Hold(key_id, reserve, permits, sees, if_priced=if_priced)
        decide, also = shown(held.decide, sees)
        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=reserve.request_id,
            metered=True,
            request=reserve,
            also=also,
        )
        outcome = await self._writer.submit_one(command)
        if outcome.replay is not None:
            raise RequestIdIsTaken
        return bool(outcome.events)

    async def finish(
        self,
        account_id: AccountId,
        key_id: KeyId,
        ending: metering.Settle | metering.Release,
    ) -> None:
        """End what ``hold`` held: charge what was used, or give it back."""

        def decide(facts: Facts, at: Instant) -> Made:
            if isinstance(ending, metering.Release):
                return metering.release(facts, ending)
            return metering.settle(facts, ending, at=at)

        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=ending.request_id,
            closes=True,
            request=ending if isinstance(ending, metering.Settle) else None,
        )
        await self._writer.submit_one(command)


class _Hold:
    """A reservation on its way through the lane, and what else is asked and seen there."""

    __slots__ = ("_if_priced", "_permits", "_reserve", "_reserving", "_sees")

    def __init__(
        self,
        key_id: KeyId,
        reserve: metering.Reserve,
        permits: Permits | None,
        sees: Sees | None,
        *,
        if_priced: bool,
    ) -> None:
        self._reserve = reserve
        self._permits = permits
        self._sees = sees
        self._if_priced = if_priced
        self._reserving = reserving(reserve, key_id)

    def decide(self, facts: Facts, at: Instant) -> Made:
        if (self._permits is not None or self._if_priced) and self._is_free(facts, at):
            return [], None
        return self._reserving(facts, at)

    def _is_free(self, facts: Facts, at: Instant) -> bool:
        """Ask what else may refuse, and tell whether the request is admitted without metering."""
        key = keys.require_usable(facts.key, at, secret=self._reserve.secret)
        account = accounts.require_open(facts.account)
        keys.require_scope(key, self._reserve.scope)
        if self._permits is not None:
            self._permits(account, key, at)
        if not self._if_priced or _has_price(facts.cards, account, key, self._reserve, at):
            return False
        if self._sees is not None:
            self._sees(account, key, at)
        return True


def _has_price(
    cards: RateCards, account: Account, key: Key, reserve: metering.Reserve, at: Instant
) -> bool:
    book = cards.current(key.rate_card or account.rate_card, at)
    if book is None:
        return False
    quote = book.quote(reserve.model, reserve.usage, reserve.condition or None, at)
    return quote is not None and quote.is_whole
