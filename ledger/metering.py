"""Decisions about requests: record, reserve, settle, release, expire.

The order of checks is fixed: key, account, scope, model, price, limits, credit. Nothing here
reads a clock, a table or a price that was not passed in.
"""

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from ledger import credits as credit
from ledger import events as e
from ledger.accounts import require_account
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.costs import Cost, cost_of, dearest_cost, served_by, served_condition, settled_by
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    InvalidField,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    ModelIsUnpriced,
    NoSuchRequest,
    RequestIdIsTaken,
    RequestIsClosed,
)
from ledger.ids import KeyId
from ledger.keys import require_allowed, require_model, require_scope
from ledger.limits import left, require
from ledger.money import format_pico
from ledger.pricing import PriceBook
from ledger.requests import (
    TTL_SECONDS_MAX,
    Facts,
    Made,
    Notes,
    ProviderReport,
    Record,
    Release,
    Reserve,
    Settle,
    flags_of,
    require_writable,
    service_at,
    tokens_asked,
    told_at,
    uses_of,
)
from ledger.state import (
    Account,
    Key,
    Reservation,
    by_asset,
    models_counted,
    parts_of,
    quantity_of_all,
)

TOLD_AFTER_END_MAX = timedelta(hours=72)
"""How long after a key or account ended its earlier usage may still be reported."""


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
            flags=flags_of(command, at, after_end=after_end),
            doubts=command.doubts,
            served_model=command.served_model,
            told_at=told_at(command.occurred_at, was_at),
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
        condition=served_condition(book, command.model, command.condition, served),
        served_model=served_by(book, (command.model,), command.served_model)[1],
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
    require_writable(command)
    key, account = _require_allowed(facts, command, at)
    for choice in command.choices:
        require_model(key, choice)
    book = facts.cards.current(key.rate_card or account.rate_card, at, at)
    model, condition, cost, is_whole = dearest_cost(book, command, at)
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
        raise InvalidField(
            "model", f"must be {reserved.model}, which was reserved; reserve another separately"
        )
    if known.last is not None and not isinstance(known.last.body, e.RequestExpired):
        return [], _replay_settle(known.last, command)
    account = require_account(facts.account)
    late = facts.reservation is None
    was_at = known.first.envelope.occurred_at
    book = settled_by(facts.cards, reserved, facts.key, account, was_at)
    named = (reserved.model, *reserved.choices)
    model, served_model = served_by(book, named, command.model or command.served_model)
    condition = served_condition(book, model, reserved.condition, command.condition)
    cost = cost_of(book, model, command.usage, command.others, condition, was_at)
    held = [] if facts.reservation is None else parts_of(reserved)
    parts = credit.settled_parts(account, held, cost.asset, cost.pico, at)
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


def release(facts: Facts, command: Release) -> Made:
    """Release a reservation unused; quiet when it was released or has expired already.

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
    account = require_account(facts.account)
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


def _cost(book: PriceBook | None, command: Record, at: Instant) -> Cost:
    return cost_of(book, command.model, command.usage, command.others, command.condition, at)


def _digests(report: ProviderReport | None, notes: Notes | None) -> dict[str, str]:
    """Return the digests that an event holds of texts beside it."""
    found = {} if report is None else {"report": report.digest}
    if notes is not None:
        found["metadata"] = notes.digest(notes.metadata)
        found["end_user"] = notes.digest(notes.end_user)
    return found


def _require_recordable(facts: Facts, command: Record, at: Instant) -> tuple[Key, Account, bool]:
    """Return key and account if a request may be recorded, and whether they ended after it."""
    require_writable(command)
    try:
        key, account = _require_allowed(facts, command, at)
    except (KeyIsRevoked, KeyIsExpired, KeyIsSuspended, AccountIsSuspended, AccountIsClosed):
        if facts.key is None or command.secret is not None:
            # A secret that no longer works proves nothing, not even the past.
            raise
        key, account = facts.key, require_account(facts.account)
        after_end = _ended_after(key, account, command, at)
        if not (after_end or command.delivered):
            raise
        require_scope(key, command.scope)
        require_model(key, command.model)
        return key, account, after_end
    return key, account, False


def _ended_after(key: Key, account: Account, command: Record, at: Instant) -> bool:
    """Return whether a request was served before its key or account ended, recently enough."""
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
                used = quantity = sum(map(tokens_asked, commands)) if used is None else used
            else:
                quantity = quantity_of_all(limit, len(commands), 0, spent)
            counted: Sequence[str] = models
            if limit.narrow or choices:
                counted = models_counted(limit, asked.category, models)
            for model in counted:
                require(limit, subject.counters, quantity, at, scope, model)


def _replay_record(first: Recorded, command: Record, key_id: KeyId) -> Recorded:
    body, envelope = first.body, first.envelope
    if (
        not isinstance(body, e.RequestRecorded)
        or body.request_id != command.request_id
        or envelope.key_id != key_id
        or body.model != command.model
        or body.usage != command.usage
        or uses_of(body.others) != command.others
        or body.category != command.category
        or body.condition not in {command.condition, command.served_condition}
        or command.occurred_at not in {None, body.told_at or envelope.occurred_at}
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
    if last.body.usage != command.usage or uses_of(last.body.others) != command.others:
        raise RequestIdIsTaken
    return last


def _reserved_event(facts: Facts, request_id: str) -> e.RequestReserved:
    reserved = None if facts.known is None else facts.known.first.body
    if not isinstance(reserved, e.RequestReserved) or reserved.request_id != request_id:
        raise NoSuchRequest
    return reserved
