"""The way of a change through its lane, the same for accounts, members, keys, credits and prices.

A rule decides; what is answered is rendered from the state as of the change's own position.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from api.http.exchange import Position
from api.operations.asked import Asked, Done, idempotency
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId, KeyId
from ledger.metering import Facts, Made
from ledger.money import KNOWN_ASSETS, InvalidAmount
from ledger.record.batch import Command
from ledger.record.lanes import Writer
from ledger.record.store import Row

Rule = Callable[[Facts, Instant], list[e.AnyEvent]]
"""Decides: events, or a refusal raised; no events where all is so already."""
Render = Callable[[Facts, list[Recorded], Instant], Any]
"""Shows the state that the events led to, as a struct or dict of the answer."""
Rows = Callable[[list[Recorded]], list[Row]]
"""Gives rows of side tables, written with the events."""

_encode = msgspec.json.Encoder().encode


class Desk:
    """Where changes are handed in."""

    def __init__(self, writer: Writer, assets: frozenset[str] = KNOWN_ASSETS) -> None:
        """Take who appends, and what there are amounts of."""
        self._writer = writer
        self._assets = assets

    def lane_of(self, account_id: AccountId) -> int:
        """Give the lane of an account."""
        return self._writer.lane_of(account_id)

    async def change(
        self,
        asked: Asked,
        account_id: AccountId,
        rule: Rule,
        render: Render,
        *,
        key_id: KeyId | None = None,
        rows: Rows | None = None,
        everywhere: bool = False,
    ) -> tuple[Done, Any]:
        """Have a change decided and appended; give the answer, and what ``render`` made of it.

        The latter is None where the answer was stored before. ``everywhere``: see ``Command``.

        Raises:
            Refused: The rule said no.
            LedgerUnavailable: It could not be decided now.
        """
        change = _Change(rule, render, rows, self.require_known)
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
            return Done(outcome.reply, position, replayed=True), None
        return Done(_encode(change.view), position, recorded=outcome.events), change.view

    def require_known(self, event: e.AnyEvent) -> None:
        """Refuse an amount or a price of something that nobody declared: a slip of the pen.

        Raises:
            InvalidField: It is neither built in nor a setting.
        """
        for field, asset in _named(event):
            if asset not in self._assets:
                problem = f"{asset} is no known asset; KEYLEDGER_ASSETS declares further ones"
                raise InvalidField(field, problem)


def _named(event: e.AnyEvent) -> Iterator[tuple[str, str]]:
    """Give each asset that an event brings in, with its field."""
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


class _Change:
    """A change on its way through the lane: the rule, and the answer as of its own position."""

    def __init__(
        self, rule: Rule, render: Render, rows: Rows | None, require: Callable[[e.AnyEvent], None]
    ) -> None:
        self._require = require
        self._rule = rule
        self._render = render
        self._rows = rows
        self._facts: Facts
        self._at: Instant
        self.view: Any = None

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts, self._at = facts, at
        try:
            made = self._rule(facts, at)
        except InvalidAmount as error:
            raise InvalidField("amount", str(error)) from error
        for event in made:
            self._require(event)
        if not made:
            self.view = self._render(facts, [], at)
        return made, None

    def also(self, recorded: list[Recorded]) -> list[Row]:
        # Here the state has moved over the events and nobody else's came after.
        self.view = self._render(self._facts, recorded, self._at)
        return self._rows(recorded) if self._rows else []

    def stored(self, recorded: list[Recorded]) -> bytes:  # noqa: ARG002 - the batch passes it
        return _encode(self.view)
