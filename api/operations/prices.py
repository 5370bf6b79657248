"""Prices: versions of rate cards. They are events of the operator's own account."""

from collections.abc import Sequence
from typing import NamedTuple

from api.operations.asked import Asked, Done
from api.operations.dispatch import Dispatcher
from ledger import events as e
from ledger import ratecards
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import OPERATOR_ACCOUNT
from ledger.pricing import RateCard
from ledger.ratecards import CardDraft, Proposal, Version
from ledger.record import card_rows
from ledger.requests import Facts


class Publication(NamedTuple):
    """What publishing a version did, or would do."""

    version: Version | None
    """The published version, or the one that says the same already. None: a dry run."""
    proposal: Proposal | None
    """What is new. None: nothing."""
    users: int
    """How many accounts recently used a model that loses a price."""


class Prices:
    """Operations on rate cards."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take the dispatcher."""
        self._dispatcher = dispatcher

    async def publish(
        self,
        asked: Asked[Publication],
        draft: CardDraft,
        *,
        confirm: bool = False,
        users: int = 0,
        first: bool = False,
    ) -> Done[Publication]:
        """Publish a version of a rate card. ``first``: do nothing if there is one already.

        ``users``: counts the accounts that recently used a model that would lose a price.
        """
        proposed: Proposal | None = None

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            nonlocal proposed
            if first and facts.cards.versions(draft.name):
                return []
            proposed = ratecards.propose(facts.cards, draft, at=at)
            return ratecards.publish(
                facts.cards, draft, by=asked.by, at=at, confirm=confirm, users=users
            )

        def show(facts: Facts, recorded: Sequence[Recorded]) -> Publication:
            if recorded and proposed is not None:
                made = Version(proposed.card, recorded[0].envelope.recorded_at)
                return Publication(made, proposed, users)
            found = proposed.base if proposed else facts.cards.versions(draft.name)[-1]
            (same,) = (v for v in facts.cards.history(draft.name) if v.card is found)
            return Publication(same, None, 0)

        return await self._dispatcher.change(
            asked, OPERATOR_ACCOUNT, rule, show, rows=card_rows.rows_of, everywhere=True
        )

    def require_known(self, card: RateCard) -> None:
        """Refuse an asset that publishing would refuse, without publishing.

        Raises:
            InvalidField: The asset is not declared.
        """
        self._dispatcher.require_known(e.RateCardPublished(by="", content_hash="", card=card))

    async def withdraw(self, asked: Asked[Version], name: str, version: int) -> Done[Version]:
        """Withdraw a version that is not in force yet."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            return ratecards.withdraw(facts.cards, name, version, by=asked.by, at=at)

        def show(facts: Facts, recorded: Sequence[Recorded]) -> Version:
            found = facts.cards.history(name)[version - 1]
            if recorded:
                found = found._replace(withdrawn_at=recorded[0].envelope.recorded_at)
            return found

        return await self._dispatcher.change(
            asked, OPERATOR_ACCOUNT, rule, show, rows=card_rows.rows_of, everywhere=True
        )
