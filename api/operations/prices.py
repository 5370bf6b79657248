"""Prices: versions of rate cards. They are events of the operator's own account."""

from typing import Any

from api.native import views
from api.operations.asked import Asked, Done
from api.operations.desk import Desk
from ledger import events as e
from ledger import ratecards
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import OPERATOR_ACCOUNT
from ledger.metering import Facts
from ledger.pricing import PriceChange, RateCard, content_hash
from ledger.ratecards import Draft, Proposal, Version
from ledger.record import store

CHANGES_SHOWN = 200


class Prices:
    """Operations on rate cards."""

    def __init__(self, desk: Desk) -> None:
        """Take where changes are handed in."""
        self._desk = desk

    async def publish(
        self,
        asked: Asked,
        draft: Draft,
        *,
        confirm: bool = False,
        users: int = 0,
        first: bool = False,
    ) -> Done:
        """Publish a version of a rate card. ``first``: quiet where there is one already.

        ``users``: how many accounts used a model lately that would lose a price.
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

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401
            if recorded and proposed is not None:
                at = recorded[0].envelope.recorded_at
                return publication_view(proposed, users, recorded_at=at)
            found = proposed.base if proposed else facts.cards.versions(draft.name)[-1]
            (same,) = (v for v in facts.cards.history(draft.name) if v.card is found)
            return _unchanged(same)

        done, _ = await self._desk.change(
            asked, OPERATOR_ACCOUNT, rule, render, rows=store.rate_card_rows, everywhere=True
        )
        return done

    def require_known(self, card: RateCard) -> None:
        """Refuse what publishing would refuse for its asset, where nothing is published.

        Raises:
            InvalidField: Nobody declared it.
        """
        self._desk.require_known(e.RateCardPublished(by="", content_hash="", card=card))

    async def withdraw(self, asked: Asked, name: str, version: int) -> Done:
        """Withdraw a version that is not in force yet."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            return ratecards.withdraw(facts.cards, name, version, by=asked.by, at=at)

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            found = facts.cards.history(name)[version - 1]
            if recorded:
                found = found._replace(withdrawn_at=recorded[0].envelope.recorded_at)
            return rate_card_view(found)

        done, _ = await self._desk.change(
            asked, OPERATOR_ACCOUNT, rule, render, rows=store.rate_card_rows, everywhere=True
        )
        return done


def rate_card_view(version: Version) -> views.RateCardView:
    """Show a version without its prices."""
    return views.RateCardView(**_shown(version.card, version.recorded_at, version.withdrawn_at))


def publication_view(
    proposal: Proposal, users: int, *, recorded_at: Instant | None
) -> views.PublicationView:
    """Show what publishing did, or would do where it is not recorded."""
    changes = proposal.changes()
    return views.PublicationView(
        **_shown(proposal.card, recorded_at, None),
        published=recorded_at is not None,
        changed=len(changes),
        changes=[price_change_view(change) for change in changes[:CHANGES_SHOWN]],
        accounts_losing_a_price=users,
        reasons=list(ratecards.reasons_of(proposal, users)),
    )


def _unchanged(version: Version) -> views.PublicationView:
    return views.PublicationView(
        **_shown(version.card, version.recorded_at, version.withdrawn_at),
        published=False,
        changed=0,
        changes=[],
        accounts_losing_a_price=0,
        reasons=[],
    )


def _shown(
    card: RateCard, recorded_at: Instant | None, withdrawn_at: Instant | None
) -> dict[str, Any]:
    return {
        "name": card.name,
        "version": card.version,
        "asset": card.asset,
        "effective_from": views.instant(card.effective_from),
        "recorded_at": views.instant(recorded_at),
        "withdrawn_at": views.instant(withdrawn_at),
        "content_hash": content_hash(card),
        "models": len(card.models),
        "source": card.source,
    }


def price_change_view(change: PriceChange) -> views.PriceChangeView:
    """Show one price that two cards do not share."""
    return views.PriceChangeView(
        model=change.model,
        usage_class=change.usage_class,
        condition=change.condition,
        above_tokens=change.tier,
        old=change.old,
        new=change.new,
    )
