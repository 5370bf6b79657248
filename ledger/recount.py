"""Decides again what events say was decided: what requests cost, and which lots moved.

The checker walks a lane with this beside it. The events themselves make the state, by ``state``;
what the rules of ``metering`` and ``credits`` make of each is compared with what was written down,
so that a wrong price or a wrong lot is found although its hash is right.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledger import credits as credit
from ledger import events as e
from ledger import metering
from ledger.errors import LedgerCorrupt, Refused
from ledger.ids import AccountId, request_hash
from ledger.lines import ModelLines, charge_of, usage_of
from ledger.metering import OtherUse
from ledger.money import InvalidAmount, format_pico
from ledger.ratecards import RateCards
from ledger.state import Account, LaneState, Reservation, change, parts_of

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
        """Say that an event of an account cannot be read."""
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
                yield from self._compare(account, envelope, body)
            change(state, account, key, envelope, body)
        except (LedgerCorrupt, LookupError, AssertionError, ValueError) as error:
            self.lose(account_id)
            yield Difference("event_cannot_follow", repr(error)[:200], "an event that can be")

    def _compare(
        self, account: Account, envelope: e.Envelope, body: e.AnyEvent
    ) -> Iterator[Difference]:
        match body:
            case e.RequestRecorded() | e.RequestReserved() | e.RequestSettled() | e.RequestRated():
                yield from self._compare_cost(envelope, body)
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

    def _compare_cost(self, envelope: e.Envelope, body: Priced) -> Iterator[Difference]:
        self.charges += 1
        stored = body.held if isinstance(body, e.RequestReserved) else body.charge
        book = self._cards.pinned(body.card) if body.card else None
        if body.card and book is None:
            yield Difference("rate_card_is_unknown", body.card, "a published version")
            return
        if book is not None and not isinstance(body, e.RequestSettled):
            # A settlement keeps that of its reservation.
            name, at = book.card.name, envelope.occurred_at
            in_force = self._cards.current(name, at, envelope.recorded_at)
            if in_force is not book:
                expected = "none" if in_force is None else in_force.reference
                yield Difference("rate_card_was_not_in_force", body.card, expected)
        if isinstance(body, e.RequestRated):
            # Its lines are part of the request's, so no tier can be told from them.
            expected = format_pico(charge_of(body.lines, body.others))
        else:
            model, condition = body.model, body.condition
            others: tuple[ModelLines, ...] = ()
            if isinstance(body, e.RequestReserved):
                model, condition = body.held_as or model, body.held_at or condition
            else:
                others = body.others
            used = [OtherUse(other.model, usage_of(other.lines)) for other in others]
            cost = metering.cost_of(book, model, body.usage, used, condition, envelope.occurred_at)
            expected = cost.charge
            if (cost.lines, cost.others) != (body.lines, others):
                yield Difference("prices_differ", _shown(body.lines), _shown(cost.lines))
        if stored != expected:
            yield Difference("charge_differs", stored, expected)

    def _compare_lots(
        self, account: Account, envelope: e.Envelope, body: Priced
    ) -> Iterator[Difference]:
        parts, at = parts_of(body), envelope.recorded_at
        pico = sum(amount for _, amount in parts)
        self.movements += bool(parts)
        if isinstance(body, e.RequestSettled):
            reservation = self._ended_by(account, body)
            held = [] if reservation is None else parts_of(reservation.event)
            expected = metering.settled_parts(account, held, body.asset, pico, at)
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
