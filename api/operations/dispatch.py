"""The way of a change through its lane, the same for accounts, members, keys, credits and prices.

A rule decides; what it led to is the state as of the change's own position.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Generic, TypeVar

from api.operations.asked import UNRENDERED, Asked, Done, Render, idempotency
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId, KeyId, Position
from ledger.money import KNOWN_ASSETS, InvalidAmount
from ledger.record.batch import Command
from ledger.record.lanes import Writer
from ledger.record.store import Row
from ledger.requests import Facts, Made
from ledger.state import Account

Rule = Callable[[Facts, Instant], list[e.AnyEvent]]
"""Decides: returns events, or raises a refusal; no events if nothing changes."""
F = TypeVar("F")
Show = Callable[[Facts, Sequence[Recorded]], F]
"""Returns what the events led to, out of reach of later changes to the lane's state."""
Rows = Callable[[list[Recorded]], list[Row]]
"""Returns rows of side tables, written with the events."""


class Dispatcher:
    """Sends changes through their lanes."""

    def __init__(self, writer: Writer, assets: frozenset[str] = KNOWN_ASSETS) -> None:
        """Take the writer, and the assets that amounts may be of."""
        self._writer = writer
        self._assets = assets

    def lane_of(self, account_id: AccountId) -> int:
        """Return the lane of an account."""
        return self._writer.lane_of(account_id)

    async def change(
        self,
        asked: Asked[F],
        account_id: AccountId,
        rule: Rule,
        show: Show[F],
        *,
        key_id: KeyId | None = None,
        rows: Rows | None = None,
        everywhere: bool = False,
    ) -> Done[F]:
        """Have a change decided and appended; return what it led to, by ``show``.

        ``everywhere``: see ``Command``.

        Raises:
            Refused: The rule refused it.
            LedgerUnavailable: It could not be decided now.
        """
        change = _Change(rule, show, asked.render, rows, self.require_known)
        outcome = await self._writer.submit_one(
            Command(
                account_id,
                change.decide,
                key_id=key_id,
                idempotency=idempotency(asked, account_id, change.stored),
                also=change.also,
                everywhere=everywhere,
            )
        )
        position = Position(self.lane_of(account_id), outcome.position)
        if outcome.reply is not None:
            return Done(None, position, self._writer.clock.now(), reply=outcome.reply)
        return Done(change.led, position, change.at, outcome.events, change.reply)

    def require_known(self, event: e.AnyEvent) -> None:
        """Refuse an amount or a price in an undeclared asset, which is most likely a typing error.

        Raises:
            InvalidField: The asset is neither built in nor in the settings.
        """
        for field, asset in _named(event):
            if asset not in self._assets:
                problem = f"{asset} is not a known asset; KEYLEDGER_ASSETS declares further ones"
                raise InvalidField(field, problem)


def _named(event: e.AnyEvent) -> Iterator[tuple[str, str]]:
    """Yield each asset that an event brings in, with its field."""
    match event:
        case e.AccountOpened() | e.AccountPolicySet():
            yield from (("pays_with", asset) for asset in event.pays_with)
            yield from (("overdraft", asset) for asset in event.overdraft)
        case e.CreditGranted() | e.BalanceReduced() | e.AllowanceSet():
            yield "asset", event.asset
        case e.RateCardPublished():
            yield "asset", event.card.asset
        case _:
            pass
    if isinstance(event, e.AccountOpened | e.AccountLimitsSet | e.KeyIssued | e.KeyLimitsSet):
        for place, rule in enumerate(event.limits):
            yield from ((f"limits[{place}].assets", asset) for asset in rule.assets)


class _Change(Generic[F]):
    """A change on its way through the lane: the rule, and what it led to at its own position."""

    led: F
    at: Instant

    def __init__(
        self,
        rule: Rule,
        show: Show[F],
        render: Render[F] | None,
        rows: Rows | None,
        require: Callable[[e.AnyEvent], None],
    ) -> None:
        self._require = require
        self._rule = rule
        self._show = show
        self._render = render
        self._rows = rows
        self._facts: Facts
        self.reply = UNRENDERED

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts, self.at = facts, at
        try:
            made = self._rule(facts, at)
        except InvalidAmount as error:
            raise InvalidField("amount", str(error)) from error
        for event in made:
            self._require(event)
        if not made:
            self._note([])
        return made, None

    def also(self, recorded: list[Recorded]) -> list[Row]:
        # At this point the state has taken in these events and no later ones.
        self.at = recorded[-1].envelope.recorded_at
        self._note(recorded)
        return self._rows(recorded) if self._rows else []

    def _note(self, recorded: list[Recorded]) -> None:
        self.led = self._show(self._facts, recorded)
        if self._render is not None:
            self.reply = self._render(self.led, recorded, self.at)

    def stored(self, recorded: list[Recorded]) -> bytes:  # noqa: ARG002 - the batch passes it
        return self.reply


def account_now(facts: Facts, recorded: Sequence[Recorded]) -> Account:  # noqa: ARG001 - a ``Show``
    """Return the account that a change was about, as the change left it."""
    assert facts.account is not None
    return deepcopy(facts.account)
