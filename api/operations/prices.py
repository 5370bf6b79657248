"""Prices: versions of rate cards. They are events of the operator's own account."""

import hashlib
from typing import Any

import msgspec

from api import views
from api.operations.asked import Asked, Done
from api.operations.desk import Desk
from ledger import events as e
from ledger import ratecards
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import OPERATOR_ACCOUNT
from ledger.metering import Facts
from ledger.pricing import RateCard, canonical
from ledger.store import Statement
from projections import reads


class Prices:
    """Operations on rate cards."""

    def __init__(self, desk: Desk) -> None:
        """Take where changes are handed in."""
        self._desk = desk

    async def publish(
        self, asked: Asked, card: RateCard, *, confirm_jumps: bool = False, first: bool = False
    ) -> Done:
        """Publish a version of a rate card. ``first``: quiet where there is one already."""

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            if first and facts.cards.versions(card.name):
                return []
            return ratecards.publish(facts.cards, card, by=asked.by, confirm_jumps=confirm_jumps)

        def render(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401, ARG001
            if not recorded:
                return rate_card_view(facts.cards.versions(card.name)[-1])
            body = recorded[0].body
            assert isinstance(body, e.RateCardPublished)
            return rate_card_view(body.card)

        done, _ = await self._desk.change(asked, OPERATOR_ACCOUNT, rule, render, rows=_card_rows)
        return done


def rate_card_view(card: RateCard) -> views.RateCardView:
    """Show a version without its prices."""
    digest = hashlib.sha256(canonical(card)).hexdigest()
    return views.RateCardView(
        name=card.name,
        version=card.version,
        asset=card.asset,
        effective_from=views.instant(card.effective_from) or "",
        content_hash=digest,
        models=len(card.models),
        source=card.source,
    )


def _card_rows(recorded: list[Recorded]) -> list[Statement]:
    rows: list[Statement] = []
    for event in recorded:
        body = event.body
        assert isinstance(body, e.RateCardPublished)
        card = body.card
        content = msgspec.json.encode(card, order="deterministic").decode()
        parameters = (
            card.name,
            card.version,
            card.asset,
            card.effective_from,
            body.content_hash,
            event.envelope.lane_seq,
            content,
        )
        rows.append((reads.INSERT_RATE_CARD, parameters))
    return rows
