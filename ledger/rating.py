"""Decisions about what had no price when it was recorded, now that prices have come."""

import msgspec

from ledger import credits as credit
from ledger import events as e
from ledger.accounts import require_account
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.costs import Cost, cost_of
from ledger.lines import (
    Lines,
    ModelLines,
    charge_of,
    lack_price,
)
from ledger.money import format_pico
from ledger.pricing import PriceBook
from ledger.ratecards import RateCards
from ledger.requests import (
    Facts,
    uses_of,
)
from ledger.state import (
    is_unpriced,
)


def rate(
    facts: Facts, unpriced: Recorded, request: Recorded, *, by: str, at: Instant
) -> list[e.AnyEvent]:
    """Price the unpriced part of a request; quiet while nothing has a price, or once it is rated.

    ``unpriced`` is the event that lacks a price: that of ``request``, or an earlier rating of it.
    What still has none waits in the rating's own lines. By the card in force at the service
    instant, as known now. The service was delivered, so the overdraft is drawn where credit does
    not cover it.
    ``facts.known`` is of the rating itself, so that two jobs at once rate once.
    """
    body, used = unpriced.body, request.body
    if facts.known is not None or not isinstance(body, _RATABLE) or not is_unpriced(body):
        return []
    assert isinstance(used, e.RequestRecorded | e.RequestSettled)
    account, key = require_account(facts.account), facts.key
    was_at = request.envelope.occurred_at
    name = body.card.rpartition("/")[0] or (key.rate_card if key else "") or account.rate_card
    priced = _priced_now(facts.cards.current(name, was_at, at), body, used, was_at)
    if priced is None:
        return []
    cost, lines, others = priced
    pico = charge_of(lines, others)
    parts = credit.plan(account, cost.asset, pico, at)
    lots, amounts = credit.written(parts)
    return [
        e.RequestRated(
            by=by,
            request_id=body.request_id,
            rated_seq=unpriced.envelope.lane_seq,
            rest=bool(body.charge),
            integration=body.integration,
            model=body.model,
            lines=lines,
            others=others,
            category=body.category,
            condition=body.condition,
            by_time=cost.by_time,
            card=cost.card,
            priced_as=cost.priced_as,
            asset=cost.asset,
            charge=format_pico(pico),
            lots=lots,
            parts=amounts,
        )
    ]


_RATABLE = e.RequestRecorded | e.RequestSettled | e.RequestRated


def _priced_now(
    book: PriceBook | None,
    body: e.RequestRecorded | e.RequestSettled | e.RequestRated,
    used: e.RequestRecorded | e.RequestSettled,
    was_at: Instant,
) -> "tuple[Cost, Lines, tuple[ModelLines, ...]] | None":
    """Price the unpriced part of an event; None: nothing of it has a price yet.

    Without any usage, a price of the model is enough.
    """
    # By all that was used: tiers look at the whole context.
    cost = cost_of(book, used.model, used.usage, uses_of(used.others), used.condition, was_at)
    lines = _rest(body.lines, cost.lines)
    now = {other.model: other for other in cost.others}
    others = tuple(
        msgspec.structs.replace(now[was.model], lines=rest)
        for was in body.others
        if (rest := _rest(was.lines, now[was.model].lines))
    )
    parts = (lines, *(other.lines for other in others))
    priced = not (body.lines or body.others) or any(len(lack_price(p)) < len(p) for p in parts)
    return (cost, lines, others) if cost.card and priced else None


def ratable(cards: RateCards, unpriced: Recorded, request: Recorded) -> bool:
    """Return whether any rate card may price something that a request lacks, without its lane."""
    body, used, was_at = unpriced.body, request.body, request.envelope.occurred_at
    if not isinstance(body, _RATABLE) or not isinstance(used, e.RequestRecorded | e.RequestSettled):
        return False
    own = body.card.rpartition("/")[0]
    books = (cards.current(name, was_at) for name in ([own] if own else cards.names()))
    return any(_priced_now(book, body, used, was_at) is not None for book in books)


def _rest(was: Lines, now: Lines) -> Lines:
    """Return the lines, as priced now, of what had no price."""
    return {
        name: (units, now[name][1] if name in now else None)
        for name, (units, price) in was.items()
        if price is None
    }
