"""Requests of an account decided by their sums: all of them at once, or none.

What is decided here is what ``metering.record`` decides one by one; tests hold both equal.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant
from ledger.keys import require_allowed
from ledger.limits import Counters, Limit, require
from ledger.money import format_pico
from ledger.pricing import PriceBook, Quote
from ledger.ratecards import RateCards
from ledger.requests import (
    Record,
    flags_of,
    require_writable,
    service_at,
    tokens_asked,
    told_at,
)
from ledger.state import (
    Account,
    Key,
    by_asset,
    quantity_of_all,
)


def alike(one: Record) -> tuple[str | int | None, ...]:
    """Return what requests of one key have in common whose sums are taken together."""
    return one.model, one.category, one.condition, one.scope, one.secret


def is_special(command: Record) -> bool:
    """Return whether a request has to be decided by itself, whatever else is asked."""
    served = command.served_condition
    return bool(
        command.delivered
        or command.others
        or command.notes
        or command.served_model
        or (served is not None and served != command.condition)
    )


class Alikes(NamedTuple):
    """Requests of one key that are ``alike``, new and not special, and when each is recorded."""

    key: Key
    commands: Sequence[Record]
    instants: Sequence[Instant]


class _Priced(NamedTuple):
    """What alike requests cost."""

    asked: Alikes
    book: PriceBook
    quotes: Sequence[Quote]
    served: Sequence[Instant]
    """Their service instants."""
    pico: int
    """Of all together."""


def record_together(
    account: Account, cards: RateCards, asked: Sequence[Alikes], first: Instant, last: Instant
) -> list[list[e.RequestRecorded]] | None:
    """Admit, price and charge requests of one account by their sums, all of them or none.

    Limits and a lot that have room for all of them have room for one after another, in whatever
    order: each is decided as ``record`` decides it. None: decide them one by one, because more
    than one lot would pay, or a window, a price or the counter of a model changes on the way.

    Raises:
        Refused: As ``record`` where it is one request; of several, one at least may be refused.
    """
    priced = []
    for alikes in asked:
        found = _priced_together(account, cards, alikes, last)
        if found is None:
            return None
        priced.append(found)
    assets = {each.book.card.asset for each in priced if each.pico}
    if len(assets) > 1:
        return None
    asset = assets.pop() if assets else ""
    parts = credit.plan(account, asset, sum(each.pico for each in priced), first)
    if len(parts) > 1 or not credit.lasts(account, parts, first, last):
        return None
    paid_in = "".join(by_asset(account, parts, asset))
    if not _has_room(account, priced, paid_in, first, last):
        return None
    credit.require_covered(account, asset, parts)
    lots = (parts[0][0],) if parts else ()
    return [_recorded(each, lots) for each in priced]


def _priced_together(
    account: Account, cards: RateCards, asked: Alikes, last: Instant
) -> _Priced | None:
    key, commands, instants = asked
    for command in commands:
        require_writable(command)
    like = commands[0]
    require_allowed(key, account, last, secret=like.secret, scope=like.scope, model=like.model)
    served = [service_at(each.occurred_at, at) for each, at in zip(commands, instants, strict=True)]
    name = key.rate_card or account.rate_card
    book = _book_throughout(cards, name, min(served), max(served))
    if book is None:
        return None
    quotes = book.quotes(like.model, [each.usage for each in commands], like.condition, served)
    if quotes is None:
        return None
    return _Priced(asked, book, quotes, served, sum([quote.pico for quote in quotes]))


def _recorded(priced: _Priced, lots: tuple[int, ...]) -> list[e.RequestRecorded]:
    (key, commands, instants), book, quotes, served, _ = priced
    integration, card, asset = key.name, book.reference, book.card.asset
    return [
        e.RequestRecorded(
            by=command.by,
            secret=command.secret or 0,
            request_id=command.request_id,
            integration=integration,
            model=command.model,
            lines=quote.lines,
            category=command.category,
            condition=command.condition,
            by_time=quote.by_time,
            card=card,
            priced_as=quote.priced_as,
            asset=asset,
            charge=format_pico(quote.pico),
            lots=lots if quote.pico else (),
            flags=flags_of(command, at),
            doubts=command.doubts,
            report="" if command.report is None else command.report.digest,
            told_at=told_at(command.occurred_at, was_at),
        )
        for command, quote, at, was_at in zip(commands, quotes, instants, served, strict=True)
    ]


def _has_room(
    account: Account, priced: Sequence[_Priced], paid_in: str, first: Instant, last: Instant
) -> bool:
    """Return whether every limit has room for all of the requests; False: their order may matter.

    Raises:
        LimitIsReached: One has not, so that one of the requests at least is refused.
    """
    by_key: dict[int, list[_Priced]] = {}
    for each in priced:
        if each.asked.key.limits:
            by_key.setdefault(id(each.asked.key), []).append(each)
    limited: list[tuple[str, Key | Account, Sequence[_Priced]]] = [
        ("key", theirs[0].asked.key, theirs) for theirs in by_key.values()
    ]
    if account.limits:
        limited.append(("account", account, priced))
    return all(
        _limit_has_room(limit, subject.counters, theirs, paid_in, first, last, scope)
        for scope, subject, theirs in limited
        for limit in subject.limits.values()
        if limit.kind not in {"key_creations", "active_keys"}
    )


def _limit_has_room(  # noqa: PLR0917 (private, and called once)
    limit: Limit,
    counters: Counters,
    priced: Sequence[_Priced],
    paid_in: str,
    first: Instant,
    last: Instant,
    scope: str,
) -> bool:
    if first is not last and limit.window.bucket(first) != limit.window.bucket(last):
        return False
    sums: dict[str, int] = {}
    for each in priced:
        commands = each.asked.commands
        model = commands[0].model
        if limit.covers(commands[0].category, model):
            counted = model if limit.each_model else ""
            used = sum(map(tokens_asked, commands)) if limit.kind == "tokens" else 0
            spent = {paid_in: each.pico} if each.pico else {}
            quantity = quantity_of_all(limit, len(commands), used, spent)
            sums[counted] = sums.get(counted, 0) + quantity
    if len(sums) > 1 and any(limit.counter_id(model) not in counters for model in sums):
        # Which of the models gets a counter of its own depends on which comes first.
        return False
    for model, quantity in sums.items():
        # Any request may become a failure.
        require(limit, counters, 1 if limit.kind == "failures" else quantity, first, scope, model)
    return True


def _book_throughout(
    cards: RateCards, name: str, first: Instant, last: Instant
) -> PriceBook | None:
    book = cards.current(name, first, first)
    return book if first is last or cards.current(name, last, last) is book else None
