"""Calls that this process itself serves, for a dialect or through the gateway.

They are admitted, held and finished like requests; nobody reads receipts for them, so none are
written.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import msgspec

from api.operations.observing import Sees, shown
from ledger import events as e
from ledger import keys, metering
from ledger.clock import Instant
from ledger.errors import LimitIsReached, RequestFailed, RequestIdIsTaken
from ledger.fitting import Fitted, Open, fit
from ledger.ids import AccountId, KeyId
from ledger.pricing import PriceBook
from ledger.record.batch import Command, Outcome, is_under_way
from ledger.record.lanes import Writer
from ledger.requests import Facts, Made, Release, Reserve, Settle
from ledger.state import Account, Key

Permits = Callable[[Account, Key, Instant], None]
"""Raises a refusal if a key may not do what is asked; sees the state before admission."""
Asks = Callable[[PriceBook | None, Account, Key], tuple[Reserve, Open | None]]
"""Returns what to hold and how far its answer may be shortened, once rate card, account and key are
known; None: not at all."""


class Held(NamedTuple):
    """What is held for a request."""

    event: e.RequestReserved
    fitted: Fitted[Made] | None
    """The length of an answer that the request left open; None: it left nothing open."""


UNDER_WAY_PAUSES = [timedelta(milliseconds=each) for each in (5, 10, 20, 50, *(100,) * 50)]
"""How often and how long a request waits for others to end without failing."""


class Calls:
    """Operations on calls."""

    def __init__(self, writer: Writer) -> None:
        """Take the writer."""
        self._writer = writer

    async def admit(
        self, account_id: AccountId, key_id: KeyId, *, by: str, secret: int | None, scope: str = ""
    ) -> None:
        """Decide in the lane whether a key may act now; a refusal is recorded.

        Raises:
            Refused: It may not.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            keys.require_allowed(facts.key, facts.account, at, secret=secret, scope=scope)
            return [], None

        command = Command(account_id, decide, key_id=key_id, metered=True, by=by, secret=secret)
        await self._writer.submit_one(command)

    async def note_failure(
        self, account_id: AccountId, key_id: KeyId, *, by: str, secret: int | None, model: str = ""
    ) -> None:
        """Record that a key's request failed outside the ledger; it counts as a failure.

        Do nothing if the key has no limit on failures.

        Raises:
            Refused: The key may not act; ``LimitIsReached``: too many of its requests have failed.
        """

        def decide(facts: Facts, at: Instant) -> Made:
            key, account = keys.require_allowed(facts.key, facts.account, at, secret=secret)
            if not keys.require_failures_left(key, account, at, model=model):
                return [], None
            raise RequestFailed

        command = Command(
            account_id, decide, key_id=key_id, metered=True, model=model, by=by, secret=secret
        )
        with contextlib.suppress(RequestFailed):
            await self._writer.submit_one(command)

    async def hold(
        self,
        account_id: AccountId,
        key_id: KeyId,
        reserve: Reserve,
        *,
        asks: Asks | None = None,
        permits: Permits | None = None,
        sees: Sees | None = None,
        if_priced: bool = False,
    ) -> Held | None:
        """Hold the worst case of a request about to be forwarded; None: nothing is held.

        ``asks`` completes ``reserve`` in the lane. ``permits`` checks there whether this key may
        do this; ``sees`` is shown the state that the request was admitted into. ``if_priced``: what
        the rate card has no price for is admitted and not metered.

        Raises:
            RequestIdIsTaken: A request of this id was admitted before: it is not made again.
            Refused: Key, account, scope, model, price, limit or credit say no.
        """
        hold = _Hold(key_id, reserve, asks, permits, sees, if_priced=if_priced)
        decide, also = shown(hold.decide, sees)

        def asking(*, waits: bool) -> Command:
            return Command(
                account_id,
                decide,
                key_id=key_id,
                request_id=reserve.request_id,
                metered=True,
                request=reserve,
                also=also,
                waits=waits,
            )

        outcome = await self._admitted(asking)
        if outcome.replay is not None:
            raise RequestIdIsTaken
        if not outcome.events:
            return None
        body = outcome.events[0].body
        assert isinstance(body, e.RequestReserved)
        return Held(body, hold.fitted)

    async def _admitted(self, asking: Callable[..., Command]) -> Outcome:
        """Submit a command; again while only requests that may still end well take up its room."""
        for pause in UNDER_WAY_PAUSES:
            try:
                return await self._writer.submit_one(asking(waits=True))
            except LimitIsReached as refused:
                if not is_under_way(refused):
                    raise
            await asyncio.sleep(pause.total_seconds())
        return await self._writer.submit_one(asking(waits=False))

    async def finish(
        self,
        account_id: AccountId,
        key_id: KeyId,
        ending: Settle | Release,
    ) -> None:
        """End what ``hold`` held: charge what was used, or release it."""

        def decide(facts: Facts, at: Instant) -> Made:
            if isinstance(ending, Release):
                return metering.release(facts, ending)
            return metering.settle(facts, ending, at=at)

        command = Command(
            account_id,
            decide,
            key_id=key_id,
            request_id=ending.request_id,
            closes=True,
            request=ending if isinstance(ending, Settle) else None,
        )
        await self._writer.submit_one(command)


class _Hold:
    """A reservation on its way through the lane, with what else is checked and shown there."""

    __slots__ = ("_asks", "_if_priced", "_key_id", "_permits", "_reserve", "_sees", "fitted")

    def __init__(
        self,
        key_id: KeyId,
        reserve: Reserve,
        asks: Asks | None,
        permits: Permits | None,
        sees: Sees | None,
        *,
        if_priced: bool,
    ) -> None:
        self._key_id = key_id
        self._reserve = reserve
        self._asks = asks
        self._permits = permits
        self._sees = sees
        self._if_priced = if_priced
        self.fitted: Fitted[Made] | None = None

    def decide(self, facts: Facts, at: Instant) -> Made:
        reserve = self._reserve
        key, account = keys.require_allowed(
            facts.key, facts.account, at, secret=reserve.secret, scope=reserve.scope
        )
        if self._permits is not None:
            self._permits(account, key, at)
        book = facts.cards.current(key.rate_card or account.rate_card, at)
        if self._if_priced and not _has_price(book, reserve, at):
            if self._sees is not None:
                self._sees(account, key, at)
            return [], None
        if self._asks is None:
            return metering.reserve(facts, reserve, key_id=self._key_id, at=at)
        keys.require_model(key, reserve.model)
        reserve, open_ = self._asks(book, account, key)
        if open_ is None:
            return metering.reserve(facts, reserve, key_id=self._key_id, at=at)
        self.fitted = fit(
            lambda tokens: metering.reserve(
                facts, _shortened(reserve, open_, tokens), key_id=self._key_id, at=at
            ),
            open_.most,
            open_.least,
        )
        return self.fitted.held


def _shortened(reserve: Reserve, open_: Open, tokens: int) -> Reserve:
    if tokens == open_.most:
        return reserve
    usage = open_.shortened(reserve.usage, tokens)
    return msgspec.structs.replace(reserve, usage=usage)


def _has_price(book: PriceBook | None, reserve: Reserve, at: Instant) -> bool:
    if book is None:
        return False
    quote = book.quote(reserve.model, reserve.usage, reserve.condition or None, at)
    return quote is not None and quote.is_whole
