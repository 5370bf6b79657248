"""Decides again what events say was decided: what requests cost, and which lots moved.

The checker walks a lane with this beside it. The events themselves make the state, by ``state``;
what the rules of ``metering`` and ``credits`` make of each is compared with what was written down,
so that a wrong price or a wrong lot is found even if its hash is right.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledger import costs
from ledger import credits as credit
from ledger import events as e
from ledger.errors import LedgerCorrupt, Refused
from ledger.ids import AccountId, request_hash
from ledger.lines import ModelLines, charge_of, usage_of
from ledger.money import InvalidAmount, format_pico
from ledger.pricing import PriceBook
from ledger.ratecards import RateCards
from ledger.requests import OtherUse
from ledger.state import Account, Key, LaneState, Reservation, change, parts_of

Priced = e.RequestRecorded | e.RequestReserved | e.RequestSettled | e.RequestRated
"""Events that hold prices and draw on lots."""
_ENDED = e.RequestSettled | e.RequestReleased | e.RequestExpired


class Difference(NamedTuple):
    """What an event says against what the rules make of it."""

    what: str
    stored: str
    expected: str


class Recount:
    """The state of one lane as its events make it, and how much of them was decided again."""

    def __init__(self, cards: RateCards) -> None:
        """Take every version of every rate card."""
        self.charges = 0
        """Requests whose cost was computed again."""
        self.movements = 0
        """Events whose lots were chosen again."""
        self._cards = cards
        self._state = LaneState()
        self._lost: set[AccountId] = set()
        """Accounts of which an event could not be read: their state is not known any more."""

    def lose(self, account_id: AccountId) -> None:
        """Note that an event of an account cannot be read."""
        self._lost.add(account_id)

    def take(self, envelope: e.Envelope, body: e.AnyEvent) -> Iterator[Difference]:
        """Compare one event, and go on to the state after it."""
        account_id = envelope.account_id
        if account_id in self._lost:
            return
        state = self._state
        account = state.accounts.get(account_id)
        key = state.keys.get(envelope.key_id) if envelope.key_id is not None else None
        try:
            if account is not None:
                yield from self._compare(account, key, envelope, body)
            change(state, account, key, envelope, body)
        except (LedgerCorrupt, LookupError, AssertionError, ValueError) as error:
            self.lose(account_id)
            yield Difference("event_cannot_follow", repr(error)[:200], "an event that can be")

    def _compare(
        self, account: Account, key: Key | None, envelope: e.Envelope, body: e.AnyEvent
    ) -> Iterator[Difference]:
        match body:
            case e.RequestRecorded() | e.RequestReserved() | e.RequestSettled() | e.RequestRated():
                yield from self._compare_cost(account, key, envelope, body)
                yield from self._compare_lots(account, envelope, body)
            case (
                e.CreditGranted()
                | e.GrantTookEffect()
                | e.GrantVoided()
                | e.GrantExpired()
                | e.BalanceReduced()
            ):
                yield from self._compare_credit(account, envelope, body)
            case _:
                pass
        if isinstance(body, _ENDED | e.AccountPolicySet):
            yield from self._compare_repaid(account, envelope, body)

    def _compare_cost(
        self, account: Account, key: Key | None, envelope: e.Envelope, body: Priced
    ) -> Iterator[Difference]:
        self.charges += 1
        stored = body.held if isinstance(body, e.RequestReserved) else body.charge
        book = self._cards.pinned(body.card) if body.card else None
        if body.card and book is None:
            yield Difference("rate_card_is_unknown", body.card, "a published version")
            return
        due, reference = self._card_due(account, key, envelope, body)
        if body.card and body.card != reference:
            yield Difference("rate_card_was_not_in_force", body.card, reference or "none")
        book = book or due
        if isinstance(body, e.RequestRated):
            yield from self._compare_rating(book, envelope, body)
            return
        model, condition = body.model, body.condition
        others: tuple[ModelLines, ...] = ()
        if isinstance(body, e.RequestReserved):
            model, condition = body.held_as or model, body.held_at or condition
        else:
            others = body.others
        used = [OtherUse(other.model, usage_of(other.lines)) for other in others]
        cost = costs.cost_of(book, model, body.usage, used, condition, envelope.occurred_at)
        if (cost.lines, cost.others) != (body.lines, others):
            yield Difference("prices_differ", _shown(body.lines), _shown(cost.lines))
        if stored != cost.charge:
            yield Difference("charge_differs", stored, cost.charge)

    @staticmethod
    def _compare_rating(
        book: PriceBook | None, envelope: e.Envelope, body: e.RequestRated
    ) -> Iterator[Difference]:
        at = envelope.occurred_at
        rated = [(body.model, body.lines), *((other.model, other.lines) for other in body.others)]
        for model, lines in rated:
            # They are part of what the request used: any tier may be the one.
            if lines and (book is None or not book.may_cost(lines, model, body.condition, at)):
                yield Difference("prices_differ", _shown(lines), f"prices of {body.card}")
        expected = format_pico(charge_of(body.lines, body.others))
        if body.charge != expected:
            yield Difference("charge_differs", body.charge, expected)

    def _card_due(
        self, account: Account, key: Key | None, envelope: e.Envelope, body: Priced
    ) -> tuple[PriceBook | None, str]:
        """Find the rate card that must have priced a request; None: nothing had a price."""
        at = envelope.occurred_at
        if isinstance(body, e.RequestSettled):
            hashed = request_hash(account.account_id, body.request_id)
            reservation = self._state.reservations.get(hashed)
            if reservation is not None:
                book = costs.settled_by(self._cards, reservation.event, key, account, at)
            else:
                # It ran out, and is not known here any more.
                book = self._cards.pinned(body.card) if body.card else None
        else:
            name = (key.rate_card if key else "") or account.rate_card
            if isinstance(body, e.RequestRated):
                # Of the account then; it may have another by now.
                name = body.card.rpartition("/")[0]
            book = self._cards.current(name, at, envelope.recorded_at)
        return book, "" if book is None else book.reference

    def _compare_lots(
        self, account: Account, envelope: e.Envelope, body: Priced
    ) -> Iterator[Difference]:
        parts, at = parts_of(body), envelope.recorded_at
        pico = sum(amount for _, amount in parts)
        self.movements += bool(parts)
        if isinstance(body, e.RequestSettled):
            reservation = self._ended_by(account, body)
            held = [] if reservation is None else parts_of(reservation.event)
            expected = credit.settled_parts(account, held, body.asset, pico, at)
        else:
            expected = credit.plan(account, body.asset, pico, at)
        stored = body.held if isinstance(body, e.RequestReserved) else body.charge
        if format_pico(pico) != (stored or "0") or parts != expected:
            yield Difference("lots_differ", _shown(parts), _shown(expected))

    def _compare_repaid(
        self, account: Account, envelope: e.Envelope, body: _ENDED | e.AccountPolicySet
    ) -> Iterator[Difference]:
        self.movements += bool(body.repaid and not getattr(body, "lots", ()))
        unpaid = msgspec.structs.replace(body, repaid=())
        reservation = self._ended_by(account, body)
        expected = credit.with_repaid(account, unpaid, reservation, envelope.recorded_at)
        if body != expected:
            yield Difference("lots_differ", _shown(body.repaid), _shown(expected.repaid))

    def _ended_by(self, account: Account, body: e.AnyEvent) -> Reservation | None:
        if not isinstance(body, _ENDED):
            return None
        return self._state.reservations.get(request_hash(account.account_id, body.request_id))

    def _compare_credit(
        self,
        account: Account,
        envelope: e.Envelope,
        body: e.CreditGranted
        | e.GrantTookEffect
        | e.GrantVoided
        | e.GrantExpired
        | e.BalanceReduced,
    ) -> Iterator[Difference]:
        self.movements += 1
        at = envelope.recorded_at
        made: Sequence[e.AnyEvent]
        try:
            match body:
                case e.CreditGranted():
                    granted = credit.grant(account, body, at=at)
                    made = [credit.with_repaid(account, each, None, at) for each in granted]
                case e.GrantTookEffect():
                    effective = credit.take_effect(account, at=at)
                    made = [] if effective is None else [effective]
                case e.GrantVoided():
                    made = credit.void(account, body.lot, by=body.by, reason=body.reason)
                case e.GrantExpired():
                    made = credit.expire(account, at=at)
                case e.BalanceReduced():
                    made = credit.reduce(
                        account, body.asset, body.amount, by=body.by, reason=body.reason, at=at
                    )
        except (Refused, InvalidAmount) as refused:
            yield Difference("lots_differ", body.type, f"refused: {refused}")
            return
        if body not in made:
            yield Difference("lots_differ", _shown(body), _shown(made))


def _shown(value: object) -> str:
    return str(value)[:200]
