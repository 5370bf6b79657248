"""Decisions about requests: record, reserve, settle, release, expire, rate.

The order of checks is fixed: key, account, scope, model, price, limits, credit. Nothing here
reads a clock, a table or a price that was not passed in.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from ledger import credits as credit
from ledger import events as e
from ledger.accounts import require_open
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import (
    InvalidField,
    ModelIsUnpriced,
    NoSuchAccount,
    NoSuchKey,
    NoSuchRequest,
    RequestIdIsTaken,
    RequestIsClosed,
)
from ledger.ids import REQUEST_ID_MAX, KeyId
from ledger.keys import require_model, require_no_secret, require_scope, require_usable
from ledger.limits import require
from ledger.money import format_pico
from ledger.pricing import PriceBook
from ledger.ratecards import RateCards
from ledger.state import Account, Key, Reservation, by_asset, parts_of, quantity_of_all
from ledger.usage import Usage

OCCURRED_BEFORE_MAX = timedelta(hours=72)
OCCURRED_AFTER_MAX = timedelta(minutes=5)
TTL_SECONDS_DEFAULT = 600
TTL_SECONDS_MAX = 86_400
MODEL_MAX = 255


class Known(NamedTuple):
    """What the ledger holds about a request id that was used before."""

    first: Recorded
    """RequestRecorded or RequestReserved."""
    last: Recorded | None = None
    """RequestSettled, RequestReleased or RequestExpired; None: still open, or one step."""


class Facts(NamedTuple):
    """What a decision about a request reads."""

    account: Account | None
    key: Key | None
    cards: RateCards
    known: Known | None
    reservation: Reservation | None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One metered request in one step."""

    request_id: str
    model: str
    usage: Usage
    category: str = ""
    condition: str = ""
    scope: str = ""
    secret: int | None = None
    """Number of the secret that proved the key; None: the operator vouches for it."""
    occurred_at: Instant | None = None
    delivered: bool = False
    """The service was rendered already: record it whatever limits and credit say."""
    estimated: bool = False


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """The worst case of a request about to be made."""

    request_id: str
    model: str
    usage: Usage
    category: str = ""
    condition: str = ""
    scope: str = ""
    secret: int | None = None
    ttl_seconds: int = TTL_SECONDS_DEFAULT


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """What a reserved request really used."""

    request_id: str
    usage: Usage
    model: str = ""
    """Must be the reserved one where it is given (A6)."""
    estimated: bool = False
    interrupted: bool = False


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A reserved request that was not made."""

    request_id: str
    reason: str = ""


Made = tuple[list[e.AnyEvent], Recorded | None]
"""The events decided, and the stored event that answers instead where it was done before."""


def record(facts: Facts, command: Record, *, key_id: KeyId, at: Instant) -> Made:
    """Admit, price and charge a request in one step, once for ever per request id.

    Raises:
        RequestIdIsTaken: The id was used with other content.
        Refused: Key, account, scope, model, price, limit or credit say no.
    """
    if facts.known is not None:
        return [], _replay_record(facts.known.first, command, key_id)
    key, account = _require_admissible(facts, command, at)
    integration = key.name
    quote = _price(facts, account, key, command, at)
    parts = credit.plan(account, quote.asset, quote.pico, at)
    if not command.delivered:
        _require_limits(account, key, (command,), parts, quote.asset, at)
        credit.require_covered(account, quote.asset, parts)
    lots, amounts = credit.written(parts)
    event = e.RequestRecorded(
        request_id=command.request_id,
        integration=integration,
        model=command.model,
        usage=command.usage,
        category=command.category,
        condition=command.condition,
        card=quote.card,
        prices=quote.prices,
        asset=quote.asset,
        charge=quote.amount,
        lots=lots,
        parts=amounts,
        flags=_flags(command, at),
    )
    return [event], None


def alike(one: Record) -> tuple[str | int | None, ...]:
    """Give what requests of one key must have in common to be decided together."""
    return one.model, one.category, one.condition, one.scope, one.secret


def record_together(
    facts: Facts, commands: Sequence[Record], instants: Sequence[Instant]
) -> list[e.RequestRecorded] | None:
    """Admit, price and charge requests of one key that are ``alike`` and new, by their sums.

    A limit or a lot that has room for all of them has room for one after another: each is decided
    as ``record`` decides it. None: decide them one by one, because more than one lot would pay, a
    window or a price changes on the way, or one of them is special.

    Raises:
        Refused: As ``record`` where it is one request; of several, one at least may be refused.
    """
    first, last = instants[0], instants[-1]
    if any(command.delivered for command in commands):
        return None
    for command in commands:
        _require_writable(command)
    key, account = _require_allowed(facts, commands[0], last)
    book = _book_throughout(facts.cards, key.rate_card or account.rate_card, first, last)
    if book is None:
        return None
    quotes = book.quotes(commands[0].model, [c.usage for c in commands], commands[0].condition)
    if quotes is None:
        return None
    asset = book.card.asset
    pico = sum([quote.pico for quote in quotes])
    parts = credit.plan(account, asset, pico, first)
    if len(parts) > 1 or not credit.lasts(account, parts, last):
        return None
    if key.limits or account.limits:
        if not _windows_stay(key, account, first, last):
            return None
        _require_limits(account, key, commands, parts, asset, first)
    credit.require_covered(account, asset, parts)
    lots = (parts[0][0],) if parts else ()
    integration, card = key.name, book.reference
    return [
        e.RequestRecorded(
            request_id=command.request_id,
            integration=integration,
            model=command.model,
            usage=command.usage,
            category=command.category,
            condition=command.condition,
            card=card,
            prices=quote.prices,
            asset=asset,
            charge=format_pico(quote.pico),
            lots=lots if quote.pico else (),
            flags=_flags(command, at),
        )
        for command, quote, at in zip(commands, quotes, instants, strict=True)
    ]


def _book_throughout(
    cards: RateCards, name: str, first: Instant, last: Instant
) -> PriceBook | None:
    book = cards.current(name, first)
    return book if first is last or cards.current(name, last) is book else None


def _windows_stay(key: Key, account: Account, first: Instant, last: Instant) -> bool:
    if first is last:
        return True
    return all(
        limit.window.bucket(first) == limit.window.bucket(last)
        for limit in (*key.limits.values(), *account.limits.values())
    )


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
    key, account = _require_admissible(facts, command, at)
    quote = _price(facts, account, key, command, at)
    parts = credit.plan(account, quote.asset, quote.pico, at)
    _require_limits(account, key, (command,), parts, quote.asset, at)
    credit.require_covered(account, quote.asset, parts)
    lots, amounts = credit.written(parts)
    event = e.RequestReserved(
        request_id=command.request_id,
        integration=key.name,
        model=command.model,
        usage=command.usage,
        category=command.category,
        condition=command.condition,
        card=quote.card,
        prices=quote.prices,
        asset=quote.asset,
        held=quote.amount,
        lots=lots,
        parts=amounts,
        expires_at=at + timedelta(seconds=command.ttl_seconds),
    )
    return [event], None


def settle(facts: Facts, command: Settle, *, at: Instant) -> Made:
    """Charge a reserved request what it used and free the rest; late is recorded, not refused.

    Priced with the rate card version pinned at reservation (C10).

    Raises:
        NoSuchRequest: It was never reserved.
        RequestIsClosed: It was released.
        RequestIdIsTaken: It was settled with other usage.
    """
    reserved = _reserved_event(facts, command.request_id)
    known = facts.known
    assert known is not None
    if command.model and command.model != reserved.model:
        raise InvalidField("model", f"{reserved.model} was reserved; reserve the other one")
    if known.last is not None and not isinstance(known.last.body, e.RequestExpired):
        return [], _replay_settle(known.last, command)
    account = _require(facts.account)
    late = facts.reservation is None
    quote = _settled_price(facts, reserved, command.usage)
    held = [] if facts.reservation is None else parts_of(reserved)
    parts = _settled_parts(account, held, quote.asset, quote.pico, at)
    lots, amounts = credit.written(parts)
    over = quote.pico - sum(pico for _, pico in held)
    flags = (
        *(["late"] if late else []),
        *(["estimated"] if command.estimated else []),
        *(["interrupted"] if command.interrupted else []),
    )
    event = e.RequestSettled(
        request_id=command.request_id,
        reserved_seq=known.first.envelope.lane_seq,
        integration=reserved.integration,
        model=reserved.model,
        usage=command.usage,
        category=reserved.category,
        condition=reserved.condition,
        card=quote.card,
        prices=quote.prices,
        asset=quote.asset,
        charge=quote.amount,
        lots=lots,
        parts=amounts,
        overage=format_pico(over) if over > 0 else "",
        lapsed=credit.lapse(account, held, parts),
        flags=flags,
    )
    return [event], None


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
        request_id=command.request_id,
        reserved_seq=known.first.envelope.lane_seq,
        reason=command.reason,
        lapsed=credit.lapse(account, parts_of(reserved), []),
    )
    return [event], None


def expire(account: Account, reservation: Reservation) -> e.RequestExpired:
    """Record that a reservation ran out."""
    return e.RequestExpired(
        request_id=reservation.request_id,
        reserved_seq=reservation.seq,
        lapsed=credit.lapse(account, parts_of(reservation.event), []),
    )


def rate(facts: Facts, unpriced: Recorded, *, by: str, at: Instant) -> list[e.AnyEvent]:
    """Price an unpriced request now that its price has come; quiet when it cannot be or was.

    The service was delivered, so the overdraft is drawn where credit does not cover it.
    ``facts.known`` is of the rating itself, so that two jobs at once rate once.
    """
    body = unpriced.body
    if facts.known is not None or not isinstance(body, e.RequestRecorded | e.RequestSettled):
        return []
    account = _require(facts.account)
    key = facts.key
    name = (key.rate_card if key else "") or account.rate_card
    book = facts.cards.current(name, at)
    quote = book.quote(body.model, body.usage, body.condition or None) if book else None
    if book is None or quote is None or body.charge:
        return []
    parts = credit.plan(account, book.card.asset, quote.pico, at)
    lots, amounts = credit.written(parts)
    return [
        e.RequestRated(
            by=by,
            request_id=body.request_id,
            rated_seq=unpriced.envelope.lane_seq,
            integration=body.integration,
            model=body.model,
            usage=body.usage,
            category=body.category,
            condition=body.condition,
            card=book.reference,
            prices=quote.prices,
            asset=book.card.asset,
            charge=format_pico(quote.pico),
            lots=lots,
            parts=amounts,
            recorded_on=unpriced.envelope.occurred_at,
        )
    ]


class _Price(NamedTuple):
    pico: int
    card: str
    asset: str
    prices: dict[str, str]

    @property
    def amount(self) -> str:
        return format_pico(self.pico) if self.card else ""


_UNPRICED = _Price(0, "", "", {})


def _require(account: Account | None) -> Account:
    if account is None:
        raise NoSuchAccount
    return account


def _require_admissible(
    facts: Facts, command: Record | Reserve, at: Instant
) -> tuple[Key, Account]:
    _require_writable(command)
    if isinstance(command, Record) and command.delivered:
        # Delivered already: a key that ended since does not undo what was used.
        if facts.key is None:
            raise NoSuchKey
        return facts.key, _require(facts.account)
    return _require_allowed(facts, command, at)


def _require_writable(command: Record | Reserve) -> None:
    if not 1 <= len(command.request_id) <= REQUEST_ID_MAX:
        raise InvalidField("request_id", f"1 to {REQUEST_ID_MAX} characters")
    if not 1 <= len(command.model) <= MODEL_MAX:
        raise InvalidField("model", f"1 to {MODEL_MAX} characters")
    require_no_secret("request_id", command.request_id)
    require_no_secret("model", command.model)


def _require_allowed(facts: Facts, command: Record | Reserve, at: Instant) -> tuple[Key, Account]:
    key = require_usable(facts.key, at, secret=command.secret)
    account = require_open(facts.account)
    require_scope(key, command.scope)
    require_model(key, command.model)
    return key, account


def _price(
    facts: Facts, account: Account, key: Key, command: Record | Reserve, at: Instant
) -> _Price:
    book = facts.cards.current(key.rate_card or account.rate_card, at)
    quote = book.quote(command.model, command.usage, command.condition or None) if book else None
    if book is None or quote is None:
        if account.unpriced == "refuse" and not (isinstance(command, Record) and command.delivered):
            raise ModelIsUnpriced
        return _UNPRICED
    card = book.card
    return _Price(quote.pico, book.reference, card.asset, quote.prices)


def _settled_price(facts: Facts, reserved: e.RequestReserved, usage: Usage) -> _Price:
    book = facts.cards.pinned(reserved.card) if reserved.card else None
    quote = book.quote(reserved.model, usage, reserved.condition or None) if book else None
    if book is None or quote is None:
        return _UNPRICED
    card = book.card
    return _Price(quote.pico, reserved.card, card.asset, quote.prices)


def _require_limits(  # noqa: PLR0917 (private, and each call names them alike)
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
    category, model = commands[0].category, commands[0].model
    usages = [command.usage for command in commands]
    for scope, subject in (("key", key), ("account", account)):
        for limit in subject.limits.values():
            if limit.kind in {"key_creations", "active_keys"}:
                continue
            if limit.narrow and not limit.covers(category, model):
                continue
            # Any request may become a failure.
            fails = limit.kind == "failures"
            quantity = 1 if fails else quantity_of_all(limit, len(usages), usages, spent)
            require(limit, subject.counters, quantity, at, scope, model)


def _flags(command: Record, at: Instant) -> tuple[str, ...]:
    if command.occurred_at is None and not (command.delivered or command.estimated):
        return ()
    flags = []
    if command.occurred_at is not None:
        if command.occurred_at < at - OCCURRED_BEFORE_MAX:
            flags.append("late")
        elif command.occurred_at > at + OCCURRED_AFTER_MAX:
            flags.append("early")
    if command.delivered:
        flags.append("delivered")
    if command.estimated:
        flags.append("estimated")
    return tuple(flags)


def _replay_record(first: Recorded, command: Record, key_id: KeyId) -> Recorded:
    body = first.body
    if (
        not isinstance(body, e.RequestRecorded)
        or body.request_id != command.request_id
        or first.envelope.key_id != key_id
        or body.model != command.model
        or body.usage != command.usage
        or body.category != command.category
        or body.condition != command.condition
        or command.occurred_at not in {None, first.envelope.occurred_at}
    ):
        raise RequestIdIsTaken
    return first


def _replay_reserve(first: Recorded, command: Reserve, key_id: KeyId) -> Recorded:
    body = first.body
    if (
        not isinstance(body, e.RequestReserved)
        or body.request_id != command.request_id
        or first.envelope.key_id != key_id
        or body.model != command.model
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
    if last.body.usage != command.usage:
        raise RequestIdIsTaken
    return last


def _reserved_event(facts: Facts, request_id: str) -> e.RequestReserved:
    reserved = None if facts.known is None else facts.known.first.body
    if not isinstance(reserved, e.RequestReserved) or reserved.request_id != request_id:
        raise NoSuchRequest
    return reserved


def _settled_parts(
    account: Account, held: credit.Parts, asset: str, pico: int, at: Instant
) -> credit.Parts:
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
