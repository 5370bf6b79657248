"""Decisions about requests: record, reserve, settle, release, expire, rate.

The order of checks is fixed: key, account, scope, model, price, limits, credit. Nothing here
reads a clock, a table or a price that was not passed in.
"""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Self

import msgspec

from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    InvalidField,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    ModelIsUnpriced,
    NoSuchAccount,
    NoSuchRequest,
    RequestIdIsTaken,
    RequestIsClosed,
)
from ledger.fitting import Alike, dearest
from ledger.ids import REQUEST_ID_MAX, KeyId
from ledger.keys import require_allowed, require_model, require_no_secret, require_scope
from ledger.limits import Counters, Limit, left, require
from ledger.lines import (
    Lines,
    ModelLines,
    charge_of,
    lack_price,
    rounded,
    units_of,
    unpriced_lines,
    usage_of,
)
from ledger.model_names import OTHERS
from ledger.money import InvalidAmount, format_pico
from ledger.pricing import PriceBook, Quote
from ledger.ratecards import RateCards
from ledger.reports import Reading
from ledger.secrets import redacted
from ledger.state import (
    Account,
    Key,
    Reservation,
    by_asset,
    is_unpriced,
    models_counted,
    parts_of,
    quantity_of_all,
)
from ledger.usage import Usage, tokens

OCCURRED_BEFORE_MAX = timedelta(hours=72)
OCCURRED_AFTER_MAX = timedelta(minutes=5)
TOLD_AFTER_END_MAX = timedelta(hours=72)
"""So long after a key or account ended it may be told what was served before."""
KEY = "key"
"""Actor of a request: the key itself, proven by a secret."""
OPERATOR = "operator"
SYSTEM = "system"
BATCH = "batch"
"""The condition that is no tier: replies to a batch name the usual one."""
TTL_SECONDS_DEFAULT = 600
TTL_SECONDS_MAX = 86_400
MODEL_MAX = 255


class Known(NamedTuple):
    """What the ledger holds about a request id that was used before."""

    first: Recorded
    """RequestRecorded or RequestReserved."""
    last: Recorded | None = None
    """RequestSettled, RequestReleased or RequestExpired; None: still open, or one step."""
    rated: tuple[Recorded, ...] = ()
    """RequestRated, one after another, where what had no price got it since."""


class Facts(NamedTuple):
    """What a decision about a request reads."""

    account: Account | None
    key: Key | None
    cards: RateCards
    known: Known | None
    reservation: Reservation | None


class OtherUse(NamedTuple):
    """What another model used inside a request."""

    model: str
    usage: Usage


class Report(NamedTuple):
    """What a provider reported, as it did: evidence for who reconciles."""

    text: str
    """Bounded, and no message's."""
    provider_request_id: str = ""

    @property
    def kept(self) -> Self:
        """As it is kept: without the secrets that somebody's report may repeat (promise 11)."""
        return self._replace(
            text=redacted(self.text), provider_request_id=redacted(self.provider_request_id)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the text as it is kept, hexadecimal."""
        return hashlib.sha256(self.kept.text.encode()).hexdigest()


def others_of(used: Reading) -> tuple[OtherUse, ...]:
    """Return what other models used, as a command holds it."""
    return tuple(OtherUse(model, usage) for model, usage in used.others)


def report_of(used: Reading) -> Report | None:
    """Return the report that a reading is of; None: there is none."""
    return Report(used.raw.decode(), used.provider_id) if used.raw else None


class Notes(NamedTuple):
    """What the caller notes of a request. Text that may be a person's: events hold digests."""

    salt: bytes
    metadata: str = ""
    """A JSON object as text; empty: none."""
    end_user: str = ""

    def digest(self, text: str) -> str:
        """SHA-256 over salt and text, hexadecimal; empty: there is no text."""
        return hashlib.sha256(self.salt + text.encode()).hexdigest() if text else ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One metered request in one step."""

    request_id: str
    model: str
    usage: Usage
    others: tuple[OtherUse, ...] = ()
    by: str = OPERATOR
    category: str = ""
    condition: str = ""
    scope: str = ""
    secret: int | None = None
    """Number of the secret that proved the key; None: ``by`` vouches for it."""
    occurred_at: Instant | None = None
    """The service instant, as told; None: now."""
    delivered: bool = False
    """The service was rendered already: record it whatever limits and credit say."""
    estimated: bool = False
    doubts: tuple[str, ...] = ()
    served_condition: str | None = None
    """As the provider says, where the card has a price for that; None: ``condition`` counts."""
    served_model: str = ""
    """What the provider says it served; empty: nothing, or the one that is named."""
    report: Report | None = None
    notes: Notes | None = None


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """The worst case of a request about to be made."""

    request_id: str
    model: str
    usage: Usage
    choices: tuple[str, ...] = ()
    """Further models that may serve it: the dearest is held."""
    by: str = OPERATOR
    category: str = ""
    condition: str = ""
    conditions: tuple[str, ...] = ()
    """Further price conditions that may come to hold: the dearest is held."""
    alike: Alike = {}
    """Classes as which the same units may be charged: the dearest is held."""
    scope: str = ""
    secret: int | None = None
    ttl_seconds: int = TTL_SECONDS_DEFAULT
    notes: Notes | None = None


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """What a reserved request really used."""

    request_id: str
    usage: Usage
    others: tuple[OtherUse, ...] = ()
    by: str = SYSTEM
    model: str = ""
    """Must be the reserved one, or one of its choices, where it is given (A6)."""
    condition: str | None = None
    """As it was served, where the card has a price for that; None: as it was reserved."""
    served_model: str = ""
    """What the upstream says it served; empty: nothing, or the one it was asked for."""
    estimated: bool = False
    interrupted: bool = False
    doubts: tuple[str, ...] = ()
    report: Report | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A reserved request that was not made, or failed."""

    request_id: str
    by: str = SYSTEM
    reason: str = ""
    failed: bool = False
    """It was made and failed: it counts against limits on failures."""


Made = tuple[list[e.AnyEvent], Recorded | None]
"""The events decided, and the stored event that answers instead where it was done before."""


def service_at(told: Instant | None, at: Instant) -> Instant:
    """Return the instant whose prices and day count for a request recorded at ``at``.

    What is told too far ahead of time counts as of now.
    """
    return at if told is None or told > at + OCCURRED_AFTER_MAX else told


def record(facts: Facts, command: Record, *, key_id: KeyId, at: Instant) -> Made:
    """Admit, price and charge a request in one step, once for ever per request id.

    Raises:
        RequestIdIsTaken: The id was used with other content.
        Refused: Key, account, scope, model, price, limit or credit say no.
    """
    if facts.known is not None:
        return [], _replay_record(facts.known.first, command, key_id)
    key, account, after_end = _require_recordable(facts, command, at)
    was_at = service_at(command.occurred_at, at)
    book = facts.cards.current(key.rate_card or account.rate_card, was_at, at)
    command = _as_served(book, command)
    cost = _cost(book, command, was_at)
    if account.unpriced == "refuse" and not (command.delivered or after_end or cost.is_whole):
        raise ModelIsUnpriced
    parts = credit.plan(account, cost.asset, cost.pico, at)
    over = 0
    if command.delivered or after_end:
        over = _overage(account, key, command, parts, cost, at)
    else:
        _require_limits(account, key, (command,), parts, cost.asset, at)
        credit.require_covered(account, cost.asset, parts)
    lots, amounts = credit.written(parts)
    return [
        e.RequestRecorded(
            by=command.by,
            secret=command.secret or 0,
            request_id=command.request_id,
            integration=key.name,
            model=command.model,
            lines=cost.lines,
            others=cost.others,
            category=command.category,
            condition=command.condition,
            by_time=cost.by_time,
            card=cost.card,
            priced_as=cost.priced_as,
            asset=cost.asset,
            charge=cost.charge,
            lots=lots,
            parts=amounts,
            overage=format_pico(over) if over else "",
            flags=_flags(command, at, after_end=after_end),
            doubts=command.doubts,
            served_model=command.served_model,
            told_at=_told(command.occurred_at, was_at),
            **_digests(command.report, command.notes),
        )
    ], None


def _as_served(book: PriceBook | None, command: Record) -> Record:
    """Return a request with the condition and the model that count, of those served."""
    if command.served_condition is None and not command.served_model:
        return command
    served = command.served_condition
    return msgspec.structs.replace(
        command,
        condition=_served_condition(book, command.model, command.condition, served),
        served_model=_served(book, (command.model,), command.served_model)[1],
    )


def alike(one: Record) -> tuple[str | int | None, ...]:
    """Return what requests of one key have in common whose sums are taken together."""
    return one.model, one.category, one.condition, one.scope, one.secret


def is_special(command: Record) -> bool:
    """Tell whether a request has to be decided by itself, whatever is asked beside it."""
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
        _require_writable(command)
    like = commands[0]
    _require_allowed(Facts(account, key, cards, None, None), like, last)
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
            flags=_flags(command, at),
            doubts=command.doubts,
            report="" if command.report is None else command.report.digest,
            told_at=_told(command.occurred_at, was_at),
        )
        for command, quote, at, was_at in zip(commands, quotes, instants, served, strict=True)
    ]


def _has_room(
    account: Account, priced: Sequence[_Priced], paid_in: str, first: Instant, last: Instant
) -> bool:
    """Tell whether every limit has room for all of the requests; False: their order may matter.

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
            used = sum(map(_tokens, commands)) if limit.kind == "tokens" else 0
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


def reserve(facts: Facts, command: Reserve, *, key_id: KeyId, at: Instant) -> Made:
    """Hold the worst case of a request against credit and every limit.

    Raises:
        RequestIdIsTaken: The id was used with other content.
        Refused: Key, account, scope, model, price, limit or credit say no.
    """
    if facts.known is not None:
        return [], _replay_reserve(facts.known.first, command, key_id)
    if not 1 <= command.ttl_seconds <= TTL_SECONDS_MAX:
        raise InvalidField("ttl_seconds", f"1 to {TTL_SECONDS_MAX}")
    _require_writable(command)
    key, account = _require_allowed(facts, command, at)
    for choice in command.choices:
        require_model(key, choice)
    book = facts.cards.current(key.rate_card or account.rate_card, at, at)
    model, condition, cost, is_whole = _dearest(book, command, at)
    if account.unpriced == "refuse" and not is_whole:
        raise ModelIsUnpriced
    parts = credit.plan(account, cost.asset, cost.pico, at)
    _require_limits(account, key, (command,), parts, cost.asset, at)
    credit.require_covered(account, cost.asset, parts)
    lots, amounts = credit.written(parts)
    event = e.RequestReserved(
        by=command.by,
        secret=command.secret or 0,
        request_id=command.request_id,
        integration=key.name,
        model=command.model,
        lines=cost.lines,
        choices=command.choices,
        held_as="" if model == command.model else model,
        category=command.category,
        condition=command.condition,
        held_at="" if condition == command.condition else condition,
        by_time=cost.by_time,
        card=cost.card,
        priced_as=cost.priced_as,
        asset=cost.asset,
        held=cost.charge,
        lots=lots,
        parts=amounts,
        expires_at=at + timedelta(seconds=command.ttl_seconds),
        **_digests(None, command.notes),
    )
    return [event], None


def settle(facts: Facts, command: Settle, *, at: Instant) -> Made:
    """Charge a reserved request what it used and free the rest; late is recorded, not refused.

    Priced by the rate card version pinned at reservation, as of the reservation's instant (C10).

    Raises:
        NoSuchRequest: It was never reserved.
        RequestIsClosed: It was released.
        RequestIdIsTaken: It was settled with other usage.
    """
    reserved = _reserved_event(facts, command.request_id)
    known = facts.known
    assert known is not None
    if command.model not in {"", reserved.model, *reserved.choices}:
        raise InvalidField("model", f"{reserved.model} was reserved; reserve the other one")
    if known.last is not None and not isinstance(known.last.body, e.RequestExpired):
        return [], _replay_settle(known.last, command)
    account = _require(facts.account)
    late = facts.reservation is None
    was_at = known.first.envelope.occurred_at
    book = settled_by(facts.cards, reserved, facts.key, account, was_at)
    named = (reserved.model, *reserved.choices)
    model, served_model = _served(book, named, command.model or command.served_model)
    condition = _served_condition(book, model, reserved.condition, command.condition)
    cost = cost_of(book, model, command.usage, command.others, condition, was_at)
    held = [] if facts.reservation is None else parts_of(reserved)
    parts = settled_parts(account, held, cost.asset, cost.pico, at)
    lots, amounts = credit.written(parts)
    over = cost.pico - sum(pico for _, pico in held)
    flags = (
        *(["late"] if late else []),
        *(["estimated"] if command.estimated else []),
        *(["interrupted"] if command.interrupted else []),
        *(["other_model"] if served_model else []),
    )
    event = e.RequestSettled(
        by=command.by,
        request_id=command.request_id,
        reserved_seq=known.first.envelope.lane_seq,
        integration=reserved.integration,
        model=model,
        lines=cost.lines,
        others=cost.others,
        category=reserved.category,
        condition=condition,
        by_time=cost.by_time,
        card=cost.card,
        priced_as=cost.priced_as,
        asset=cost.asset,
        charge=cost.charge,
        lots=lots,
        parts=amounts,
        overage=format_pico(over) if over > 0 else "",
        lapsed=credit.lapse(account, held, parts),
        flags=flags,
        doubts=command.doubts,
        served_model=served_model,
        report="" if command.report is None else command.report.digest,
    )
    return [event], None


def settled_by(
    cards: RateCards,
    reserved: e.RequestReserved,
    key: Key | None,
    account: Account,
    was_at: Instant,
) -> PriceBook | None:
    """Return the rate card that prices a settlement: that in force when it was reserved.

    The reservation names it where anything in it had a price.
    """
    if reserved.card:
        return cards.pinned(reserved.card)
    return cards.current((key.rate_card if key else "") or account.rate_card, was_at, was_at)


def _served(book: PriceBook | None, named: Sequence[str], served: str) -> tuple[str, str]:
    """Return the model whose price counts, and what was served where that is another.

    The served model's price counts where the client named it among its choices, else that of the
    one it asked for: the first that is ``named``.
    """
    if served in {"", named[0]}:
        return named[0], ""
    for each in named:
        name = None if book is None else book.name_of(each)
        if served == each or (book is not None and name and book.name_of(served) == name != OTHERS):
            return each, ""
    return named[0], served


def _served_condition(book: PriceBook | None, model: str, asked: str, served: str | None) -> str:
    """Return the price condition that counts: the one served, where the card has a price of it."""
    if served is None or served == asked or (asked == BATCH and not served):
        return asked
    known = served == "" or (book is not None and book.terms(model, served) is not None)
    return served if known else asked


def release(facts: Facts, command: Release) -> Made:
    """Give a reservation back unused; quiet when it was released or has expired already.

    Raises:
        NoSuchRequest: It was never reserved.
        RequestIdIsTaken: It was settled.
    """
    reserved = _reserved_event(facts, command.request_id)
    known = facts.known
    assert known is not None
    if known.last is not None:
        if isinstance(known.last.body, e.RequestSettled):
            raise RequestIdIsTaken
        return [], known.last
    account = _require(facts.account)
    event = e.RequestReleased(
        by=command.by,
        request_id=command.request_id,
        reserved_seq=known.first.envelope.lane_seq,
        reason=command.reason,
        lapsed=credit.lapse(account, parts_of(reserved), []),
        failed=command.failed,
    )
    return [event], None


def expire(account: Account, reservation: Reservation) -> e.RequestExpired:
    """Record that a reservation ran out."""
    return e.RequestExpired(
        request_id=reservation.request_id,
        reserved_seq=reservation.seq,
        lapsed=credit.lapse(account, parts_of(reservation.event), []),
    )


def rate(
    facts: Facts, unpriced: Recorded, request: Recorded, *, by: str, at: Instant
) -> list[e.AnyEvent]:
    """Price what of a request had no price; quiet while nothing has one, or when it was rated.

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
    account, key = _require(facts.account), facts.key
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
    """Price what of an event had no price; None: nothing of it has one yet.

    Of no usage at all the model's price is enough.
    """
    # By all that was used: tiers look at the whole context.
    cost = cost_of(book, used.model, used.usage, _uses(used.others), used.condition, was_at)
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
    """Tell whether any rate card may price something that a request lacks, without its lane."""
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


class Cost(NamedTuple):
    """What a request costs."""

    pico: int
    """Of what has a price."""
    lines: Lines
    others: tuple[ModelLines, ...]
    is_whole: bool
    """Whether everything has a price."""
    card: str = ""
    """Empty: nothing has a price."""
    asset: str = ""
    priced_as: str = ""
    by_time: str = ""

    @property
    def charge(self) -> str:
        """The amount as events hold it; empty: nothing has a price."""
        return format_pico(self.pico) if self.card else ""


def _cost(book: PriceBook | None, command: Record, at: Instant) -> Cost:
    return cost_of(book, command.model, command.usage, command.others, command.condition, at)


def cost_of(  # noqa: PLR0917 (private, and each call names them alike)
    book: PriceBook | None,
    model: str,
    usage: Usage,
    others: Sequence[OtherUse],
    condition: str,
    at: Instant,
) -> Cost:
    """Price what a request used, at a service instant.

    ``book`` None: no rate card is in force.

    Raises:
        InvalidField: It would cost more than any amount.
    """
    own = None if book is None else book.quote(model, usage, condition, at)
    parts: tuple[ModelLines, ...] = ()
    product, priced, is_whole = 0, False, own is not None and own.is_whole
    if own is not None:
        product, priced = own.product, _is_priced(own)
    for other in others:
        quote = None if book is None else book.quote(other.model, other.usage, condition, at)
        if quote is None:
            is_whole = False
            lines, priced_as = unpriced_lines(other.usage), ""
        else:
            product, priced = product + quote.product, priced or _is_priced(quote)
            is_whole = is_whole and quote.is_whole
            lines, priced_as = quote.lines, quote.priced_as
        parts += (ModelLines(model=other.model, lines=lines, priced_as=priced_as),)
    if own is None:
        own = Quote(0, unpriced_lines(usage))
    if book is None or not priced:
        return Cost(0, own.lines, parts, is_whole=False)
    try:
        pico = rounded(product)
    except InvalidAmount as error:
        raise InvalidField("usage", "costs more than any amount") from error
    card, asset = book.reference, book.card.asset
    return Cost(pico, own.lines, parts, is_whole, card, asset, own.priced_as, own.by_time)


def _is_priced(quote: Quote) -> bool:
    """Tell whether anything that was used has a price, be it zero; what used nothing has."""
    return quote.is_whole or any(price is not None for _, price in quote.lines.values())


def _dearest(book: PriceBook | None, command: Reserve, at: Instant) -> tuple[str, str, Cost, bool]:
    """Find the model and the condition that a request may come to cost most by, and that cost.

    The last says whether everything that it may come to has a price.
    """
    found: tuple[str, str, Cost] | None = None
    is_whole = True
    for model in (command.model, *command.choices):
        for condition in (command.condition, *command.conditions):
            if condition != command.condition and (
                book is None or book.terms(model, condition) is None
            ):
                continue
            usage = command.usage
            if book is not None and command.alike:
                prices = book.prices(model, usage, condition, at)
                usage = dearest(prices, usage, command.alike)
            cost = cost_of(book, model, usage, (), condition, at)
            is_whole = is_whole and cost.is_whole
            if found is None or (cost.pico, bool(cost.card)) > (found[2].pico, bool(found[2].card)):
                found = model, condition, cost
    assert found is not None
    return *found, is_whole


def _told(told: Instant | None, was_at: Instant) -> Instant | None:
    return None if told is None or told == was_at else told


def _digests(report: Report | None, notes: Notes | None) -> dict[str, str]:
    """Return what an event says of what stands beside it."""
    found = {} if report is None else {"report": report.digest}
    if notes is not None:
        found["metadata"] = notes.digest(notes.metadata)
        found["end_user"] = notes.digest(notes.end_user)
    return found


def _require(account: Account | None) -> Account:
    if account is None:
        raise NoSuchAccount
    return account


def _require_recordable(facts: Facts, command: Record, at: Instant) -> tuple[Key, Account, bool]:
    """Return key and account if a request may be recorded, and whether they ended after it."""
    _require_writable(command)
    try:
        key, account = _require_allowed(facts, command, at)
    except (KeyIsRevoked, KeyIsExpired, KeyIsSuspended, AccountIsSuspended, AccountIsClosed):
        if facts.key is None or command.secret is not None:
            # A secret that no longer works proves nothing, not even the past.
            raise
        key, account = facts.key, _require(facts.account)
        after_end = _ended_after(key, account, command, at)
        if not (after_end or command.delivered):
            raise
        require_scope(key, command.scope)
        require_model(key, command.model)
        return key, account, after_end
    return key, account, False


def _ended_after(key: Key, account: Account, command: Record, at: Instant) -> bool:
    """Tell whether a request was served before its key or account ended, of late."""
    ends = [end for end in (key.stopped_at(at), account.ended_at) if end is not None]
    told = command.occurred_at
    return (
        told is not None
        and bool(ends)
        and told < min(ends)
        and at - min(ends) <= TOLD_AFTER_END_MAX
    )


def _overage(  # noqa: PLR0917 (private, and called once)
    account: Account, key: Key, command: Record, parts: credit.Parts, cost: Cost, at: Instant
) -> int:
    """Return how much of a delivered request goes beyond credit, overdraft and spending limits."""
    return max(
        credit.uncovered(account, cost.asset, parts),
        spending_beyond(account, key, command.category, command.model, parts, cost.asset, at),
    )


def _require_writable(command: Record | Reserve) -> None:
    if not 1 <= len(command.request_id) <= REQUEST_ID_MAX:
        raise InvalidField("request_id", f"1 to {REQUEST_ID_MAX} characters")
    if not 1 <= len(command.model) <= MODEL_MAX:
        raise InvalidField("model", f"1 to {MODEL_MAX} characters")
    # Of secrets what enters the event is searched as a whole; these stand beside it.
    if command.notes is not None:
        require_no_secret("metadata", command.notes.metadata)
        require_no_secret("end_user", command.notes.end_user)


def _require_allowed(facts: Facts, command: Record | Reserve, at: Instant) -> tuple[Key, Account]:
    return require_allowed(
        facts.key,
        facts.account,
        at,
        secret=command.secret,
        scope=command.scope,
        model=command.model,
    )


def spending_beyond(  # noqa: PLR0917 (each call names them alike)
    account: Account,
    key: Key,
    category: str,
    model: str,
    parts: credit.Parts,
    asset: str,
    at: Instant,
) -> int:
    """Return by how much an amount goes beyond the tightest limit on spending, in pico."""
    most = 0
    spent = by_asset(account, parts, asset)
    for subject in (key, account):
        for limit in subject.limits.values():
            if limit.kind == "spend" and limit.covers(category, model):
                quantity = quantity_of_all(limit, 1, 0, spent)
                most = max(most, min(quantity, quantity - left(limit, subject.counters, at, model)))
    return most


def _require_limits(  # noqa: C901, PLR0917 (private, and each call names them alike)
    account: Account,
    key: Key,
    commands: Sequence[Record | Reserve],
    parts: credit.Parts,
    asset: str,
    at: Instant,
) -> None:
    if not key.limits and not account.limits:
        return
    spent = by_asset(account, parts, asset)
    asked = commands[0]
    choices = asked.choices if isinstance(asked, Reserve) else ()
    models = (asked.model, *choices)
    used: int | None = None
    for scope, subject in (("key", key), ("account", account)):
        for limit in subject.limits.values():
            if limit.kind in {"key_creations", "active_keys"}:
                continue
            # Any request may become a failure.
            if limit.kind == "failures":
                quantity = 1
            elif limit.kind == "tokens":
                # Counted where a limit asks for them only.
                used = quantity = sum(map(_tokens, commands)) if used is None else used
            else:
                quantity = quantity_of_all(limit, len(commands), 0, spent)
            counted: Sequence[str] = models
            if limit.narrow or choices:
                counted = models_counted(limit, asked.category, models)
            for model in counted:
                require(limit, subject.counters, quantity, at, scope, model)


def units_asked(command: Record | Reserve) -> dict[str, int]:
    """Return what a request uses, or may use at most, by class; other models' included."""
    units = units_of(unpriced_lines(command.usage))
    for other in command.others if isinstance(command, Record) else ():
        for name, more in units_of(unpriced_lines(other.usage)).items():
            units[name] = units.get(name, 0) + more
    return units


def _tokens(command: Record | Reserve) -> int:
    count = tokens(command.usage)
    if isinstance(command, Record) and command.others:
        count += sum(tokens(other.usage) for other in command.others)
    return count


def _flags(command: Record, at: Instant, *, after_end: bool = False) -> tuple[str, ...]:
    told = command.occurred_at
    if told is None and not (command.delivered or command.estimated or command.served_model):
        return ()
    raised = {
        "late": told is not None and told < at - OCCURRED_BEFORE_MAX,
        "early": told is not None and told > at + OCCURRED_AFTER_MAX,
        "delivered": command.delivered,
        "after_end": after_end,
        "estimated": command.estimated,
        "other_model": bool(command.served_model),
    }
    return tuple(name for name, holds in raised.items() if holds)


def _replay_record(first: Recorded, command: Record, key_id: KeyId) -> Recorded:
    body, envelope = first.body, first.envelope
    if (
        not isinstance(body, e.RequestRecorded)
        or body.request_id != command.request_id
        or envelope.key_id != key_id
        or body.model != command.model
        or body.usage != command.usage
        or _uses(body.others) != command.others
        or body.category != command.category
        or body.condition not in {command.condition, command.served_condition}
        or command.occurred_at not in {None, body.told_at or envelope.occurred_at}
    ):
        raise RequestIdIsTaken
    return first


def _uses(others: Sequence[ModelLines]) -> tuple[OtherUse, ...]:
    return tuple(OtherUse(other.model, usage_of(other.lines)) for other in others)


def _replay_reserve(first: Recorded, command: Reserve, key_id: KeyId) -> Recorded:
    body = first.body
    if (
        not isinstance(body, e.RequestReserved)
        or body.request_id != command.request_id
        or first.envelope.key_id != key_id
        or body.model != command.model
        or body.choices != command.choices
        or body.usage != command.usage
        or body.category != command.category
        or body.condition != command.condition
    ):
        raise RequestIdIsTaken
    return first


def _replay_settle(last: Recorded, command: Settle) -> Recorded:
    if isinstance(last.body, e.RequestReleased):
        raise RequestIsClosed
    assert isinstance(last.body, e.RequestSettled)
    if last.body.usage != command.usage or _uses(last.body.others) != command.others:
        raise RequestIdIsTaken
    return last


def _reserved_event(facts: Facts, request_id: str) -> e.RequestReserved:
    reserved = None if facts.known is None else facts.known.first.body
    if not isinstance(reserved, e.RequestReserved) or reserved.request_id != request_id:
        raise NoSuchRequest
    return reserved


def settled_parts(
    account: Account, held: credit.Parts, asset: str, pico: int, at: Instant
) -> credit.Parts:
    """Choose what pays a settled charge: first what was held for it, then what is free."""
    parts: credit.Parts = []
    left = pico
    for number, amount in held:
        take = min(left, amount)
        if take:
            parts.append((number, take))
            left -= take
    if left == 0:
        return parts
    # Overage: what is still free pays next; the held parts are taken already.
    more = credit.plan(account, asset, left, at)
    return _merged([*parts, *more])


def _merged(parts: credit.Parts) -> credit.Parts:
    sums: dict[int, int] = {}
    for number, pico in parts:
        sums[number] = sums.get(number, 0) + pico
    return list(sums.items())
