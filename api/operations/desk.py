"""The way of a change through its lane, the same for accounts, members, keys, credits and prices.

A rule decides; what is answered is rendered from the state as of the change's own position.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from api.exchange import Position
from api.operations.asked import Asked, Done, idempotency
from ledger import events as e
from ledger.batch import Command
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId, KeyId
from ledger.lanes import Writer
from ledger.metering import Facts, Made
from ledger.money import InvalidAmount
from ledger.store import Statement

Rule = Callable[[Facts, Instant], list[e.AnyEvent]]
"""Decides: events, or a refusal raised; no events where all is so already."""
Render = Callable[[Facts, list[Recorded], Instant], Any]
"""Shows the state that the events led to, as a struct or dict of the answer."""
Rows = Callable[[list[Recorded]], list[Statement]]
"""Gives rows of side tables, written with the events."""

_encode = msgspec.json.Encoder().encode


class Desk:
    """Where changes are handed in."""

    def __init__(self, writer: Writer) -> None:
        """Take who appends."""
        self._writer = writer

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
        change = _Change(rule, render, rows)
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


class _Change:
    """A change on its way through the lane: the rule, and the answer as of its own position."""

    def __init__(self, rule: Rule, render: Render, rows: Rows | None) -> None:
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
        if not made:
            self.view = self._render(facts, [], at)
        return made, None

    def also(self, recorded: list[Recorded]) -> list[Statement]:
        # Here the state has moved over the events and nobody else's came after.
        self.view = self._render(self._facts, recorded, self._at)
        return self._rows(recorded) if self._rows else []

    def stored(self, recorded: list[Recorded]) -> bytes:  # noqa: ARG002 - the batch passes it
        return _encode(self.view)
