"""What the native API shows: one struct per resource, made from state, events or rows.

A receipt is a pure function of the stored event, so that a replay gives the same bytes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from api.beside.characters import Character, CharacterLine
from api.beside.shelf import LastChat
from api.queries import Grant, KeptReport, LaneHead, Member, RefusalLine, SpendLine, Verdict
from ledger import events as e
from ledger import standing
from ledger.clock import Instant, format_instant
from ledger.codec import Recorded
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    ModelIsDenied,
    NoSuchKey,
    Refused,
    ScopeIsDenied,
    SecretIsRetired,
)
from ledger.ids import KeyId, format_id
from ledger.limits import Counters, Limit
from ledger.lines import ModelLines, lack_price, units_of
from ledger.money import format_pico, parse_pico
from ledger.pricing import PriceChange, RateCard, content_hash
from ledger.ratecards import Proposal, Version, reasons_of
from ledger.record.store import Stored
from ledger.state import Account, Key
from ledger.usage import Usage


class PositionView(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a lane."""

    lane: int
    seq: int


class MoneyView(msgspec.Struct, frozen=True, kw_only=True):
    """An amount."""

    amount: str
    """A plain decimal."""
    asset: str


class LotPart(msgspec.Struct, frozen=True, kw_only=True):
    """The part that one grant paid; lot 0 is the overdraft."""

    lot: int
    amount: str


class OtherUseView(msgspec.Struct, frozen=True, kw_only=True):
    """What another model used inside a request."""

    model: str
    usage: dict[str, int]
    prices: dict[str, str]
    unpriced: list[str]


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request."""

    request_id: str
    status: str
    """recorded, reserved, settled, released, expired or rated."""
    key_id: str | None
    integration: str | None
    model: str | None
    usage: Usage | None
    category: str
    condition: str
    charge: MoneyView | None
    """None: unpriced, or nothing is charged."""
    held: MoneyView | None
    """What a reservation holds."""
    lots: list[LotPart]
    rate_card: str | None
    prices: dict[str, str]
    """Unit prices used, per million."""
    flags: tuple[str, ...]
    expires_at: Instant | None
    occurred_at: Instant
    recorded_at: Instant
    position: PositionView
    unpriced: list[str] = []
    """Usage classes that had no price; ``charge`` is for the others."""
    others: list[OtherUseView] = []
    """What other models used inside the request."""
    priced_as: str | None = None
    """The rate card's name for the model, if different."""
    time_condition: str | None = None
    """Price condition that applied because of the time of day."""
    overage: str | None = None
    """The part of the charge beyond what was held, or beyond what credit and limits left."""
    served_model: str | None = None
    told_at: Instant | None = None
    """The service instant that the caller sent, if it was ``early`` and not accepted."""
    doubts: tuple[str, ...] = ()
    """Fields of the provider's report that were not believed."""
    rated_at: Instant | None = None
    """When usage that had no price was priced; ``charge`` includes it."""


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """A request's two events."""

    first: Receipt
    """Recorded or reserved."""
    last: Receipt | None
    """Settled, released or expired; None: it is open, or was recorded in one step."""
    metadata: Mapping[str, str] | None
    """The caller's notes about it; None: there are none, or they were erased."""
    end_user: str | None
    provider_report: "ReportView | None"
    """The provider's usage report, while it is kept."""


class ReportView(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's usage report, unchanged."""

    provider_request_id: str
    report: str
    """Its text; the event holds its SHA-256."""


def report_view(found: KeptReport) -> ReportView:
    """Show a provider's usage report."""
    return ReportView(provider_request_id=found.provider_request_id, report=found.text)


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item of many."""

    ok: bool
    replayed: bool = False
    receipt: Receipt | None = None
    problem: dict[str, Any] | None = None
    """The answer it would have got alone."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What became of many items, in their order."""

    recorded: int
    refused: int
    results: list[Result]


_RECEIPT_STATUS: Mapping[type[e.Event], str] = {
    e.RequestRecorded: "recorded",
    e.RequestReserved: "reserved",
    e.RequestSettled: "settled",
    e.RequestReleased: "released",
    e.RequestExpired: "expired",
    e.RequestRated: "rated",
}
_encode = msgspec.json.Encoder().encode


def receipt_bytes(recorded: Recorded, rated: Sequence[Recorded] = ()) -> bytes:
    """Write a receipt."""
    return _encode(receipt(recorded, rated))


def receipt(recorded: Recorded, rated: Sequence[Recorded] = ()) -> Receipt:
    """Return the receipt of a stored event about a request, and of its later ratings."""
    envelope, body = recorded.envelope, recorded.body
    match body:
        case e.RequestRecorded() | e.RequestSettled():
            found = _receipt(envelope, body, body.charge)
            if isinstance(body, e.RequestRecorded) and body.told_at is not None:
                found = replace(found, told_at=body.told_at)
            if body.others or body.overage or body.doubts or body.served_model:
                found = replace(
                    found,
                    others=[_other(other) for other in body.others],
                    overage=body.overage or None,
                    served_model=body.served_model or None,
                    doubts=body.doubts,
                )
            return reduce(_rated, rated, found)
        case e.RequestReserved():
            return _receipt(envelope, body, body.held)
        case e.RequestRated():
            return _receipt(envelope, body, body.charge)
        case _:
            return _ended(recorded)


def _receipt(
    envelope: e.Envelope,
    body: e.RequestRecorded | e.RequestReserved | e.RequestSettled | e.RequestRated,
    amount: str,
) -> Receipt:
    lines, holds = body.lines, isinstance(body, e.RequestReserved)
    money = _money(amount, body.asset)
    return Receipt(
        request_id=body.request_id,
        status=_RECEIPT_STATUS[type(body)],
        key_id=_key(envelope.key_id),
        integration=body.integration,
        model=body.model,
        usage=body.usage,
        category=body.category,
        condition=body.condition,
        charge=None if holds else money,
        held=money if holds else None,
        lots=_parts(body.lots, body.parts, amount),
        rate_card=body.card or None,
        prices={name: price for name, (_, price) in lines.items() if price is not None},
        flags=() if isinstance(body, e.RequestReserved | e.RequestRated) else body.flags,
        expires_at=body.expires_at if isinstance(body, e.RequestReserved) else None,
        occurred_at=envelope.occurred_at,
        recorded_at=envelope.recorded_at,
        position=PositionView(lane=envelope.lane, seq=envelope.lane_seq),
        unpriced=lack_price(lines),
        priced_as=body.priced_as or None,
        time_condition=body.by_time or None,
    )


def _other(other: ModelLines) -> OtherUseView:
    lines = other.lines
    return OtherUseView(
        model=other.model,
        usage=units_of(lines),
        prices={name: price for name, (_, price) in lines.items() if price is not None},
        unpriced=lack_price(lines),
    )


def _rated(found: Receipt, rated: Recorded) -> Receipt:
    """Add what had no price at first."""
    body = rated.body
    assert isinstance(body, e.RequestRated)
    before = 0 if found.charge is None else parse_pico(found.charge.amount)
    amount = format_pico(before + parse_pico(body.charge))
    priced = {name: price for name, (_, price) in body.lines.items() if price is not None}
    later = {other.model: _other(other) for other in body.others}
    return replace(
        found,
        charge=MoneyView(amount=amount, asset=body.asset),
        lots=[*found.lots, *_parts(body.lots, body.parts, body.charge)],
        rate_card=found.rate_card or body.card,
        prices=found.prices | priced,
        unpriced=[name for name in found.unpriced if name not in priced],
        others=[_merged(other, later.get(other.model)) for other in found.others],
        priced_as=found.priced_as or body.priced_as or None,
        time_condition=found.time_condition or body.by_time or None,
        rated_at=rated.envelope.recorded_at,
    )


def _merged(was: OtherUseView, now: OtherUseView | None) -> OtherUseView:
    if now is None:
        return was
    return replace(was, prices=was.prices | now.prices, unpriced=now.unpriced)


def _ended(recorded: Recorded) -> Receipt:
    envelope, body = recorded.envelope, recorded.body
    assert isinstance(body, e.RequestReleased | e.RequestExpired)
    return Receipt(
        request_id=body.request_id,
        status=_RECEIPT_STATUS[type(body)],
        key_id=_key(envelope.key_id),
        integration=None,
        model=None,
        usage=None,
        category="",
        condition="",
        charge=None,
        held=None,
        lots=[],
        rate_card=None,
        prices={},
        flags=(),
        expires_at=None,
        occurred_at=envelope.occurred_at,
        recorded_at=envelope.recorded_at,
        position=PositionView(lane=envelope.lane, seq=envelope.lane_seq),
    )


def _key(key_id: KeyId | None) -> str | None:
    return None if key_id is None else format_id("key", key_id)


def _money(amount: str, asset: str) -> MoneyView | None:
    return MoneyView(amount=amount, asset=asset) if amount else None


def _parts(lots: Sequence[int], parts: Sequence[str], amount: str) -> list[LotPart]:
    if not parts:
        return [LotPart(lot=lots[0], amount=amount)] if lots else []
    return [LotPart(lot=n, amount=a) for n, a in zip(lots, parts, strict=True)]


class ModelCountView(msgspec.Struct, frozen=True, kw_only=True):
    """What counts against a per-model limit for one model."""

    id: str
    """The id by which refusals name it."""
    model: str
    used: str
    pending: str
    remaining: str


EACH_MODEL = (
    "Whether each model is counted by itself. Then used, pending and remaining are for what is not"
    " among `models`, which is counted together when too many models count at once."
)


class LimitView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit and what counts against it now."""

    id: str
    kind: str
    window: str
    ceiling: str
    used: str
    pending: str
    remaining: str
    category: str = ""
    model: str = ""
    assets: tuple[str, ...] = ()
    own: bool = False
    """Whether the account set it for itself."""
    each_model: Annotated[bool, msgspec.Meta(description=EACH_MODEL)] = False
    models: tuple[ModelCountView, ...] = ()


def limit_views(subject: Account | Key, at: Instant) -> list[LimitView]:
    """Show the limits of an account or key with what counts against them."""
    found = zip(
        subject.rules, subject.limits.values(), standing.of_limits(subject, at), strict=True
    )
    return [
        LimitView(
            id=limit.limit_id,
            kind=rule.kind,
            window=rule.window,
            ceiling=rule.ceiling,
            used=limit.write(measured.used),
            pending=limit.write(measured.pending),
            remaining=limit.write(measured.remaining),
            category=rule.category,
            model=rule.model,
            assets=rule.assets,
            own=rule.own,
            each_model=rule.each_model,
            models=_models_of(limit, subject.counters, at) if limit.each_model else (),
        )
        for rule, limit, measured in found
    ]


def _models_of(limit: Limit, counters: Counters, at: Instant) -> tuple[ModelCountView, ...]:
    return tuple(
        ModelCountView(
            id=measured.limit_id,
            model=model,
            used=limit.write(measured.used),
            pending=limit.write(measured.pending),
            remaining=limit.write(measured.remaining),
        )
        for model, measured in standing.of_models(limit, counters, at).items()
    )


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a key, and until when it works."""

    number: int
    works_until: str | None
    """None: until it is rotated."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key. Its secret is shown once, in the answer that made it."""

    key_id: str
    account_id: str
    name: str
    dialect: str
    status: str
    hint: str
    scopes: tuple[str, ...]
    allowed_models: tuple[str, ...] | None
    default_character: str
    created_at: str
    updated_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    rate_card: str
    limits: list[LimitView]
    settings: dict[str, str]
    secrets: list[SecretView]
    parent: str | None
    """The key that made it; null: no key did."""
    version: int
    secret: str | None = None


def instant(at: Instant | None) -> str | None:
    """Write an instant; None stays None."""
    return None if at is None else format_instant(at)


def key_view(key: Key, at: Instant) -> KeyView:
    """Show a key as of an instant."""
    return KeyView(
        key_id=format_id("key", key.key_id),
        account_id=format_id("acct", key.account_id),
        name=key.name,
        dialect=key.dialect,
        status=key.status_at(at),
        hint=key.hint,
        scopes=key.scopes,
        allowed_models=key.allowed_models,
        default_character=key.default_character,
        created_at=format_instant(key.created_at),
        updated_at=format_instant(key.updated_at),
        expires_at=instant(key.expires_at),
        revoked_at=instant(key.revoked_at),
        last_used_at=instant(key.last_used_at),
        rate_card=key.rate_card,
        limits=limit_views(key, at),
        settings=key.settings,
        secrets=[
            SecretView(number=number, works_until=instant(until))
            for number, until in sorted(key.secrets.items())
            if until is None or until > at
        ],
        parent=key.parent or None,
        version=key.version,
    )


class AllowanceView(msgspec.Struct, frozen=True, kw_only=True):
    """Credit that an account receives each UTC day."""

    asset: str
    amount: str


class BalanceView(msgspec.Struct, frozen=True, kw_only=True):
    """An account's balance in an asset."""

    asset: str
    balance: str
    """Unspent; negative when overdrawn."""
    pending: str
    """Held by open reservations."""
    spendable: str
    """What lots can pay now, minus holds."""
    overdraft_left: str | None
    """None: unlimited."""


def balance_views(account: Account, at: Instant, priced: Collection[str]) -> list[BalanceView]:
    """Show every asset that the account has, owes or pays with. ``priced``: those of prices."""
    return [
        BalanceView(
            asset=found.asset,
            balance=format_pico(found.unspent),
            pending=format_pico(found.pending),
            spendable=format_pico(found.spendable),
            overdraft_left=None
            if found.overdraft_left is None
            else format_pico(found.overdraft_left),
        )
        for found in standing.balances(account, at, priced)
    ]


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    account_id: str
    name: str
    status: str
    opened_at: str
    pays_with: tuple[str, ...]
    rate_card: str
    overdraft: dict[str, str]
    unpriced: str
    max_output_tokens: int
    """Of the longest answer through the gateway; 0: as the operator's setting says."""
    limits: list[LimitView]
    balances: list[BalanceView]
    active_keys: int
    test: bool
    internal: bool
    lane: int
    version: int
    """How many events the account has: its ETag."""


def account_view(
    account: Account, name: str, lane: int, at: Instant, priced: Collection[str]
) -> AccountView:
    """Show an account as of an instant."""
    return AccountView(
        account_id=format_id("acct", account.account_id),
        name=name,
        status=account.status,
        opened_at=format_instant(account.opened_at),
        pays_with=account.pays_with,
        rate_card=account.rate_card,
        overdraft=account.overdraft,
        unpriced=account.unpriced,
        max_output_tokens=account.max_output_tokens,
        limits=limit_views(account, at),
        balances=balance_views(account, at, priced),
        active_keys=account.active_keys,
        test=account.test,
        internal=account.internal,
        lane=lane,
        version=account.version,
    )


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A person in an account."""

    member_id: str
    role: str
    email: str | None
    name: str | None


def member_view(found: Member) -> MemberView:
    """Show a person in an account."""
    return MemberView(
        member_id=found.member_id, role=found.role, email=found.email, name=found.name
    )


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A lot of credit."""

    lot: int
    asset: str
    kind: str
    status: str
    """open, spent, voided or expired."""
    priority: int
    amount: str
    remaining: str
    held: str
    granted_at: str
    effective_at: str
    expires_at: str | None
    reason: str
    cost: str | None
    """What was paid for it, in ``currency``; null: unknown."""
    currency: str | None
    payment_reference: str | None


def grant_of_event(recorded: Recorded) -> GrantView:
    """Show a grant as it was made."""
    body, at = recorded.body, recorded.envelope.recorded_at
    assert isinstance(body, e.CreditGranted)
    # Other grants may repay as well only if they took effect at the same moment.
    spent = sum(parse_pico(amount) for lot, _, amount in body.repaid if lot == body.lot)
    left = format_pico(parse_pico(body.amount) - spent)
    return GrantView(
        lot=body.lot,
        asset=body.asset,
        kind=body.kind,
        status="open" if left != "0" else "spent",
        priority=body.priority,
        amount=body.amount,
        remaining=left,
        held="0",
        granted_at=format_instant(at),
        effective_at=format_instant(body.effective_at or at),
        expires_at=instant(body.expires_at),
        reason=body.reason,
        cost=body.cost or None,
        currency=body.currency or None,
        payment_reference=body.payment_reference or None,
    )


def grant_view(found: Grant) -> GrantView:
    """Show a grant as it is now."""
    return GrantView(
        lot=found.lot,
        asset=found.asset,
        kind=found.kind,
        status=found.status,
        priority=found.priority,
        amount=format_pico(found.amount),
        remaining=format_pico(found.remaining),
        held=format_pico(found.held),
        granted_at=format_instant(found.granted_at),
        effective_at=format_instant(found.effective_at),
        expires_at=instant(found.expires_at),
        reason=found.reason,
        cost=found.cost or None,
        currency=found.currency or None,
        payment_reference=found.payment_reference or None,
    )


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded by a change that has no resource to show."""

    changed: bool
    events: list[str]
    """Their types."""


def change_view(recorded: Iterable[Recorded]) -> ChangeView:
    """Show which events a change made."""
    types = [event.body.type for event in recorded]
    return ChangeView(changed=bool(types), events=types)


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event with its exact canonical payload."""

    position: PositionView
    account_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: str
    occurred_at: str
    key_id: str | None
    hash: str
    payload: msgspec.Raw


def event_view(found: Stored) -> EventView:
    """Show a stored event."""
    recorded = found.recorded
    envelope = recorded.envelope
    return EventView(
        position=PositionView(lane=envelope.lane, seq=envelope.lane_seq),
        account_id=format_id("acct", envelope.account_id),
        version=envelope.version,
        type=found.type,
        schema_version=recorded.body.schema_version,
        recorded_at=format_instant(envelope.recorded_at),
        occurred_at=format_instant(envelope.occurred_at),
        key_id=None if envelope.key_id is None else format_id("key", envelope.key_id),
        hash=recorded.hash.hex(),
        payload=msgspec.Raw(recorded.payload),
    )


class SpendView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums of one group in one asset."""

    asset: str
    """Empty: unpriced so far."""
    amount: str | None
    """None: nothing in it has a price yet."""
    requests: int
    unpriced: int
    usage: Mapping[str, int]
    day: str | None = None
    integration: str | None = None
    model: str | None = None
    key_id: str | None = None
    at_least: bool = False
    """Whether something in it has no price yet, so that it will come to more."""


def spend_view(line: SpendLine) -> SpendView:
    """Show a line of spend."""
    return SpendView(
        asset=line.asset,
        amount=format_pico(line.amount) if line.asset else None,
        at_least=bool(line.asset and line.unpriced),
        requests=line.requests,
        unpriced=line.unpriced,
        usage=line.usage,
        day=None if line.day is None else str(line.day),
        integration=line.integration,
        model=line.model,
        key_id=None if line.key_id is None else format_id("key", line.key_id),
    )


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded refusal, with the numbers that explain it."""

    position: PositionView
    recorded_at: str
    key_id: str
    integration: str
    model: str
    reason: str
    count: int
    scope: str
    limit_id: str
    ceiling: str
    used: str
    pending: str
    requested: str
    usage: Mapping[str, int]
    """What the refused requests would have used in total, by class."""


def refusal_view(lane: int, found: RefusalLine) -> RefusalView:
    """Show a recorded refusal."""
    return RefusalView(
        position=PositionView(lane=lane, seq=found.seq),
        recorded_at=format_instant(found.recorded_at),
        key_id=format_id("key", found.key_id),
        integration=found.integration,
        model=found.model,
        reason=found.reason,
        count=found.times,
        scope=found.scope,
        limit_id=found.limit_id,
        ceiling=found.ceiling,
        used=found.used,
        pending=found.pending,
        requested=found.requested,
        usage=found.usage,
    )


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list; send ``next`` as ``after`` for the next one."""

    data: list[Any]
    has_more: bool
    next: str | None


class VerifyView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a secret opens a key now. Admission is only decided with the request."""

    valid: bool
    code: str
    """VALID, NOT_FOUND, EXPIRED, DISABLED, FORBIDDEN or INSUFFICIENT_PERMISSIONS."""
    reason: str | None = None
    key_id: str | None = None
    account_id: str | None = None
    name: str | None = None
    dialect: str | None = None
    scopes: list[str] | None = None
    expires_at: str | None = None


NO_KEY = VerifyView(valid=False, code="NOT_FOUND", reason="no_such_key")
"""What is said of a secret that belongs to no key."""
_CODES: Mapping[type[Refused], str] = {
    NoSuchKey: "NOT_FOUND",
    KeyIsRevoked: "DISABLED",
    KeyIsSuspended: "DISABLED",
    KeyIsExpired: "EXPIRED",
    SecretIsRetired: "EXPIRED",
    AccountIsSuspended: "DISABLED",
    AccountIsClosed: "DISABLED",
    ScopeIsDenied: "INSUFFICIENT_PERMISSIONS",
    ModelIsDenied: "FORBIDDEN",
}
"""What ``keys/verify`` calls the refusal that a request would get."""


def verify_view(found: Verdict) -> VerifyView:
    """Show whether a secret opens its key now."""
    refusal = found.refusal
    return VerifyView(
        valid=refusal is None,
        code="VALID" if refusal is None else _CODES[type(refusal)],
        reason=None if refusal is None else refusal.code,
        key_id=format_id("key", found.key_id),
        account_id=format_id("acct", found.account_id),
        name=found.name,
        dialect=found.dialect,
        scopes=list(found.scopes),
        expires_at=instant(found.expires_at),
    )


class RateCardView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a rate card, without its prices."""

    name: str
    version: int
    asset: str
    effective_from: str
    recorded_at: str | None
    """When it was published; null: it is not."""
    withdrawn_at: str | None
    """When it was withdrawn; null: it is not."""
    content_hash: str
    models: int
    source: str


class PriceChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """One price that differs between two versions."""

    model: str
    usage_class: str
    condition: str | None
    above_tokens: int | None
    old: str | None
    new: str | None


class PublicationView(RateCardView, frozen=True, kw_only=True):
    """What publishing a version did, or would do."""

    published: bool
    """Whether it was published: not in a dry run, nor if the version in force is the same."""
    changed: int
    """How many prices differ from the version in force at its start."""
    changes: list[PriceChangeView]
    """The first of them."""
    accounts_losing_a_price: int
    """How many accounts used a model in the last 30 days that loses a price."""
    reasons: list[str]
    """What looks like a mistake and needs ``confirm``."""


CHANGES_SHOWN = 200


def rate_card_view(version: Version) -> RateCardView:
    """Show a version without its prices."""
    return RateCardView(**_shown(version.card, version.recorded_at, version.withdrawn_at))


def publication_view(
    version: Version | None, proposal: Proposal | None, users: int
) -> PublicationView:
    """Show what publishing did, or in a dry run would do: see ``Publication``."""
    if proposal is None:
        assert version is not None
        return PublicationView(
            **_shown(version.card, version.recorded_at, version.withdrawn_at),
            published=False,
            changed=0,
            changes=[],
            accounts_losing_a_price=0,
            reasons=[],
        )
    changes = proposal.changes()
    return PublicationView(
        **_shown(proposal.card, None if version is None else version.recorded_at, None),
        published=version is not None,
        changed=len(changes),
        changes=[price_change_view(change) for change in changes[:CHANGES_SHOWN]],
        accounts_losing_a_price=users,
        reasons=list(reasons_of(proposal, users)),
    )


def _shown(
    card: RateCard, recorded_at: Instant | None, withdrawn_at: Instant | None
) -> dict[str, Any]:
    return {
        "name": card.name,
        "version": card.version,
        "asset": card.asset,
        "effective_from": instant(card.effective_from),
        "recorded_at": instant(recorded_at),
        "withdrawn_at": instant(withdrawn_at),
        "content_hash": content_hash(card),
        "models": len(card.models),
        "source": card.source,
    }


def price_change_view(change: PriceChange) -> PriceChangeView:
    """Show one price that differs between two cards."""
    return PriceChangeView(
        model=change.model,
        usage_class=change.usage_class,
        condition=change.condition,
        above_tokens=change.tier,
        old=change.old,
        new=change.new,
    )


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    """Where a lane stands."""

    lane: int
    seq: int
    last_recorded_at: str | None
    chain: str


def lane_view(found: LaneHead) -> LaneView:
    """Show where a lane stands."""
    return LaneView(
        lane=found.lane,
        seq=found.seq,
        last_recorded_at=instant(found.last_recorded_at),
        chain=found.chain.hex(),
    )


class ScenarioView(msgspec.Struct, frozen=True, kw_only=True):
    """A situation in which to talk to a character."""

    slug: str
    name: str
    description: str
    greeting: str
    system_prompt: str | None
    """None: it is another account's."""


class CharacterView(msgspec.Struct, frozen=True, kw_only=True):
    """A character. What only its author may see is None for others."""

    character_id: str
    account_id: str | None
    slug: str
    name: str
    description: str
    greeting: str
    system_prompt: str | None
    multiplier: str
    status: str
    machine_id: str
    created_at: str
    updated_at: str
    scenarios: list[ScenarioView]
    version: int
    """How often it was changed; its ETag."""


def character_view(character: Character, *, own: bool) -> CharacterView:
    """Show a character to its author, or to others."""
    return CharacterView(
        character_id=str(character.character_id),
        account_id=format_id("acct", character.account_id) if own else None,
        slug=character.slug,
        name=character.name,
        description=character.description,
        greeting=character.greeting,
        system_prompt=character.system_prompt if own else None,
        multiplier=character.multiplier,
        status=character.status,
        machine_id=str(character.machine_id),
        created_at=format_instant(character.created_at),
        updated_at=format_instant(character.updated_at),
        scenarios=[
            ScenarioView(
                slug=each.slug,
                name=each.name,
                description=each.description,
                greeting=each.greeting,
                system_prompt=each.system_prompt if own else None,
            )
            for each in character.scenarios
        ],
        version=character.version,
    )


class CharacterLineView(msgspec.Struct, frozen=True, kw_only=True):
    """A character as shown in lists."""

    character_id: str
    account_id: str | None
    """None: another account's."""
    slug: str
    name: str
    description: str
    multiplier: str
    status: str
    created_at: str
    updated_at: str
    scenarios: list[str]
    """Their slugs."""


def character_line_view(line: CharacterLine, *, own: bool) -> CharacterLineView:
    """Show a character in a list."""
    return CharacterLineView(
        character_id=str(line.character_id),
        account_id=format_id("acct", line.account_id) if own else None,
        slug=line.slug,
        name=line.name,
        description=line.description,
        multiplier=line.multiplier,
        status=line.status,
        created_at=format_instant(line.created_at),
        updated_at=format_instant(line.updated_at),
        scenarios=[each.slug for each in line.scenarios],
    )


class ChatView(msgspec.Struct, frozen=True, kw_only=True):
    """The latest chat of an account with a character."""

    character_id: str
    slug: str
    scenario: str
    """Slug; empty: none."""
    via: str
    """web or api."""
    last_at: str


def chat_view(chat: LastChat) -> ChatView:
    """Show a chat: with whom and when, but not what was said."""
    return ChatView(
        character_id=str(chat.character.character_id),
        slug=chat.character.slug,
        scenario="" if chat.scenario is None else chat.scenario.slug,
        via=chat.via,
        last_at=format_instant(chat.last_at),
    )
