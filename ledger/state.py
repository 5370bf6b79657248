"""What a lane knows: accounts, keys and open reservations, as a fold of its events.

``evolve`` changes the state it is given. The lane owns that state and throws it away when a
commit fails, so nothing uncommitted outlives its batch. Every number that a decision reads is
here and nowhere else.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import msgspec

from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded, chain
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, KeyId, request_hash
from ledger.limits import Counter, Limit, LimitId, claim, compile_rules, forget_dropped, left
from ledger.lines import lack_price, tokens_of
from ledger.money import parse_pico

OVERDRAFT_LOT = 0
OVERDRAFT_UNLIMITED = "unlimited"
_ENDED = frozenset({"revoked", "expired"})


class Lot(msgspec.Struct):
    """A grant of credit and what is left of it. Quantities in pico."""

    number: int
    asset: str
    kind: str
    priority: int
    amount: int
    remaining: int
    """Not yet spent, held parts included."""
    held: int
    """Held by open reservations."""
    granted_at: Instant
    effective_at: Instant
    expires_at: Instant | None
    reason: str = ""
    cost: str = ""
    currency: str = ""
    payment_reference: str = ""
    closed: str = ""
    """``voided`` or ``expired``: what is still held lapses when it is freed. Empty: open."""


class Account(msgspec.Struct):
    """Who is billed."""

    account_id: AccountId
    opened_at: Instant
    status: str = "open"
    """open, suspended or closed."""
    ended_at: Instant | None = None
    """Since when it is suspended or closed; None: it is open."""
    pays_with: tuple[str, ...] = ("USD",)
    rate_card: str = "standard"
    overdraft: dict[str, str] = {}
    unpriced: str = "refuse"
    max_output_tokens: int = 0
    """Of the longest answer that it may ask for; 0: any."""
    rules: tuple[e.LimitRule, ...] = ()
    limits: Mapping[str, Limit] = {}
    """``rules`` made ready, by id."""
    counters: dict[str, Counter] = {}
    lots: dict[int, Lot] = {}
    """Those with something left, by number."""
    drained: dict[int, Lot] = {}
    """Those emptied since they were last written down."""
    touched: set[int] = set()
    """Numbers of lots that changed since they were last written down; 0 is the overdraft."""
    waiting: dict[int, Instant] = {}
    """Open lots that have not taken effect, by number, and when they will."""
    next_lot: int = 1
    overdrawn: dict[str, int] = {}
    overdraft_held: dict[str, int] = {}
    members: dict[str, str] = {}
    """Member id → role."""
    active_keys: int = 0
    test: bool = False
    internal: bool = False
    version: int = 0
    hash: bytes = bytes(32)
    last_seq: int = 0
    """Lane position of the account's newest event."""

    def asset_of(self, number: int) -> str | None:
        """Return the asset of a lot that is open or was just emptied; None: the overdraft."""
        lot = self.lots.get(number) or self.drained.get(number)
        return None if lot is None else lot.asset

    def balance(self, asset: str) -> int:
        """Return what is unspent of an asset in pico; negative when overdrawn."""
        unspent = sum(lot.remaining for lot in self.lots.values() if lot.asset == asset)
        return unspent - self.overdrawn.get(asset, 0)

    def pending(self, asset: str) -> int:
        """Return what open reservations hold of an asset in pico."""
        held = sum(lot.held for lot in self.lots.values() if lot.asset == asset)
        return held + self.overdraft_held.get(asset, 0)


class Key(msgspec.Struct):
    """What a caller proves with a secret."""

    key_id: KeyId
    account_id: AccountId
    name: str
    dialect: str
    created_at: Instant
    updated_at: Instant
    status: str = "active"
    """active, suspended, revoked or expired."""
    hint: str = ""
    scopes: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] | None = None
    default_character: str = ""
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    suspended_at: Instant | None = None
    """Since when it is suspended; None: it is not."""
    rate_card: str = ""
    rules: tuple[e.LimitRule, ...] = ()
    limits: Mapping[str, Limit] = {}
    settings: dict[str, str] = {}
    secrets: dict[int, Instant | None] = {}
    """Secret number → refused from then on; None: no end."""
    counters: dict[str, Counter] = {}
    last_used_at: Instant | None = None
    parent: str = ""
    """Id of the key that made it; empty: no key did."""
    version: int = 0
    """How often the key's own terms changed: its ETag."""

    def may_use(self, model: str) -> bool:
        """Whether the model is among those that it may ask for."""
        return self.allowed_models is None or model in self.allowed_models

    def ended(self, at: Instant) -> bool:
        """Whether it has come to its end, as of an instant: revoked, or past its expiry.

        Its expiry ends it whether that is written down already or not.
        """
        if self.status in _ENDED:
            return True
        return self.expires_at is not None and at >= self.expires_at

    def status_at(self, at: Instant) -> str:
        """Return its status as of an instant: ``expired`` from its expiry on."""
        return "expired" if self.status not in _ENDED and self.ended(at) else self.status

    def ended_at(self, at: Instant) -> Instant | None:
        """Return since when it has ended, as of an instant; None: it has not."""
        return (self.revoked_at or self.expires_at) if self.ended(at) else None

    def stopped_at(self, at: Instant) -> Instant | None:
        """Return since when it does not work, as of an instant; None: it works.

        That may be because it is suspended, so it may work again.
        """
        expired_at = None if self.expires_at is None or at < self.expires_at else self.expires_at
        stops = (self.revoked_at, self.suspended_at, expired_at)
        return min((stop for stop in stops if stop is not None), default=None)


class Hold(msgspec.Struct):
    """What an admitted request counts for against one limit until it ends."""

    scope: str
    limit_id: str
    """Of the counter."""
    bucket: int
    quantity: int


class Reservation(msgspec.Struct):
    """An open reservation."""

    request_hash: bytes
    request_id: str
    account_id: AccountId
    key_id: KeyId
    seq: int
    """Lane position of its event."""
    reserved_at: Instant
    expires_at: Instant
    event: e.RequestReserved
    holds: list[Hold] = []


class LaneState(msgspec.Struct):
    """Everything that decisions of one lane read, as of ``seq``."""

    seq: int = 0
    chain: bytes = bytes(32)
    last_recorded_at: Instant | None = None
    accounts: dict[UUID, Account] = {}
    keys: dict[UUID, Key] = {}
    reservations: dict[bytes, Reservation] = {}


Metered = e.RequestRecorded | e.RequestReserved | e.RequestSettled | e.RequestRated


def parts_of(event: Metered | e.BalanceReduced) -> list[tuple[int, int]]:
    """Return which lots an event draws on, with pico each, in paying order."""
    if event.parts:
        pairs = zip(event.lots, event.parts, strict=True)
        return [(lot, parse_pico(part)) for lot, part in pairs]
    if not event.lots:
        return []
    if isinstance(event, e.RequestReserved):
        return [(event.lots[0], parse_pico(event.held))]
    amount = event.amount if isinstance(event, e.BalanceReduced) else event.charge
    return [(event.lots[0], parse_pico(amount))]


def by_asset(account: Account, parts: list[tuple[int, int]], asset: str) -> dict[str, int]:
    """Sum parts per asset. ``asset`` is what the overdraft is of."""
    sums: dict[str, int] = {}
    for number, pico in parts:
        paid_in = account.lots[number].asset if number else asset
        sums[paid_in] = sums.get(paid_in, 0) + pico
    return sums


def quantity_of(limit: Limit, tokens: int, spent: dict[str, int]) -> int:
    """Return how much a request counts for against a limit: a number, tokens, or pico."""
    return quantity_of_all(limit, 1, tokens, spent)


def quantity_of_all(limit: Limit, requests: int, tokens: int, spent: dict[str, int]) -> int:
    """Return how much requests count for together, by all they used and all they spent."""
    match limit.kind:
        case "requests":
            return requests
        case "tokens":
            return tokens
        case "spend":
            if not limit.assets:
                return sum(spent.values())
            return sum(spent.get(asset, 0) for asset in limit.assets)
        case _:
            return 0


def is_unpriced(body: e.RequestRecorded | e.RequestSettled | e.RequestRated) -> bool:
    """Return whether something of a request has no price yet."""
    if not body.charge:
        return True
    # Asked of every request, twice.
    for _, price in body.lines.values():
        if price is None:
            return True
    return bool(body.others) and any(lack_price(other.lines) for other in body.others)


def tokens_used(body: Metered) -> int:
    """Count the tokens of a request, those of other models included."""
    if isinstance(body, e.RequestReserved) or not body.others:
        return tokens_of(body.lines)
    return tokens_of(body.lines) + sum(tokens_of(other.lines) for other in body.others)


def evolve(state: LaneState, envelope: e.Envelope, body: e.AnyEvent) -> None:
    """Change the state by one event.

    Raises:
        LedgerCorrupt: The event contradicts the state.
    """
    account = state.accounts.get(envelope.account_id)
    key = state.keys.get(envelope.key_id) if envelope.key_id is not None else None
    change(state, account, key, envelope, body)


def change(  # noqa: C901, PLR0912, PLR0915
    state: LaneState,
    account: Account | None,
    key: Key | None,
    envelope: e.Envelope,
    body: e.AnyEvent,
) -> None:
    """Do what ``evolve`` does, for a caller who knows the event's account and key.

    Raises:
        LedgerCorrupt: The event contradicts the state.
    """
    at = envelope.recorded_at
    if account is None:
        if not isinstance(body, e.AccountOpened):
            message = f"{body.type} is about an account that was never opened."
            raise LedgerCorrupt(message, lane=envelope.lane, seq=envelope.lane_seq)
        account = state.accounts[envelope.account_id] = _opened(envelope, body)
    match body:
        case e.RequestRecorded():
            change_together(account, key, (body,), at)
        case e.RequestReserved():
            _reserved(state, envelope, account, key, body)
        case e.RequestSettled():
            _settled(state, envelope, account, key, body)
        case e.RequestReleased() | e.RequestExpired():
            _freed(state, account, key, body, at)
        case e.RequestRefused():
            _count_failures(account, key, body, at)
        case e.RequestRated():
            spent = _spend(account, body)
            _count_rated(account, key, body, spent, at)
        case e.CreditGranted() | e.GrantTookEffect():
            move_credit(account, body, None, at)
        case e.GrantVoided() | e.GrantExpired() | e.BalanceReduced():
            _credit(account, body)
        case (
            e.AccountOpened()
            | e.AccountPolicySet()
            | e.AccountLimitsSet()
            | e.AccountSuspended()
            | e.AccountResumed()
            | e.AccountClosed()
            | e.MemberAdded()
            | e.MemberRoleChanged()
            | e.MemberRemoved()
        ):
            _account(account, body, at)
        case e.KeyIssued():
            _issued(state, envelope, account, body)
        case (
            e.KeyRenamed()
            | e.KeyLimitsSet()
            | e.KeyScopesSet()
            | e.KeyAllowedModelsSet()
            | e.KeyDefaultCharacterSet()
            | e.KeyExpirySet()
            | e.KeySettingsSet()
            | e.KeySuspended()
            | e.KeyResumed()
            | e.KeyRevoked()
            | e.KeyRotated()
            | e.KeyExpired()
        ):
            if key is None:
                message = f"{body.type} is about a key that was never issued."
                raise LedgerCorrupt(message, lane=envelope.lane, seq=envelope.lane_seq)
            _key(account, key, body, at)
        case (
            e.LoginSet()
            | e.WalletLinked()
            | e.AllowanceSet()
            | e.KeySecretRehashed()
            | e.RateCardPublished()
            | e.RateCardWithdrawn()
        ):
            pass  # About rows that no decision of a lane reads.


def change_together(
    account: Account, key: Key | None, bodies: Sequence[e.RequestRecorded], at: Instant
) -> dict[str, int]:
    """Do what ``evolve`` does, for requests of one key that are alike; return what each asset paid.

    Of one model and category, paid in one asset by the same lots, counted in the same buckets: so
    that their sums change the state as they do one after another. ``at`` is the last one's.
    """
    body = bodies[0]
    # Counted where a limit asks for them only.
    tokens = sum(map(tokens_used, bodies)) if _limits_tokens(account, key) else 0
    if len(bodies) == 1:
        spent = _spend(account, body)
    else:
        pico = sum([parse_pico(each.charge) for each in bodies])
        spent = _spend_sum(account, {lot for each in bodies for lot in each.lots}, body.asset, pico)
    about = (body.category, body.model)
    _count(account, key, *about, requests=len(bodies), tokens=tokens, spent=spent, at=at)
    return spent


def _limits_tokens(account: Account, key: Key | None) -> bool:
    for limits in (account.limits, {} if key is None else key.limits):
        for limit in limits.values():
            if limit.kind == "tokens":
                return True
    return False


def change_by_sums(
    account: Account,
    key: Key | None,
    *,
    category: str,
    model: str,
    asset: str,
    lots: Collection[int],
    requests: int,
    pico: int,
    tokens: int,
    at: Instant,
) -> dict[str, int]:
    """Do what ``change_together`` does, for a caller who has summed charges and usage already."""
    spent = _spend_sum(account, lots, asset, pico)
    _count(account, key, category, model, requests=requests, tokens=tokens, spent=spent, at=at)
    return spent


def advance(state: LaneState, recorded: Recorded) -> None:
    """Move the heads of the lane and of the account over an event."""
    advance_over(state, state.accounts[recorded.envelope.account_id], recorded)


def advance_over(state: LaneState, account: Account, recorded: Recorded) -> None:
    """Do what ``advance`` does, for a caller who knows the account."""
    envelope = recorded.envelope
    account.version = envelope.version
    account.hash = recorded.hash
    account.last_seq = envelope.lane_seq
    state.seq = envelope.lane_seq
    state.chain = chain(state.chain, recorded.hash)
    state.last_recorded_at = envelope.recorded_at


def _opened(envelope: e.Envelope, body: e.AccountOpened) -> Account:
    return Account(
        account_id=envelope.account_id,
        opened_at=envelope.recorded_at,
        pays_with=body.pays_with,
        rate_card=body.rate_card,
        overdraft=dict(body.overdraft),
        unpriced=body.unpriced,
        max_output_tokens=body.max_output_tokens,
        rules=body.limits,
        limits=compile_rules(body.limits),
        test=body.test,
        internal=body.internal,
    )


AccountEvent = (
    e.AccountOpened
    | e.AccountPolicySet
    | e.AccountLimitsSet
    | e.AccountSuspended
    | e.AccountResumed
    | e.AccountClosed
    | e.MemberAdded
    | e.MemberRoleChanged
    | e.MemberRemoved
)


def _account(account: Account, body: AccountEvent, at: Instant) -> None:  # noqa: C901
    match body:
        case e.AccountOpened():
            pass
        case e.AccountPolicySet():
            move_credit(account, body, None, at)
            account.rate_card = body.rate_card
            account.overdraft = dict(body.overdraft)
            account.unpriced = body.unpriced
            account.max_output_tokens = body.max_output_tokens
        case e.AccountLimitsSet():
            account.rules = body.limits
            account.limits = compile_rules(body.limits)
            forget_dropped(account.counters, account.limits, at)
        case e.AccountSuspended():
            account.status, account.ended_at = "suspended", at
        case e.AccountResumed():
            account.status, account.ended_at = "open", None
        case e.AccountClosed():
            # Suspended before it was closed: it ended then.
            account.status, account.ended_at = "closed", account.ended_at or at
        case e.MemberAdded() | e.MemberRoleChanged():
            account.members[body.member_id] = body.role
        case e.MemberRemoved():
            del account.members[body.member_id]


def issued_key(envelope: e.Envelope, body: e.KeyIssued) -> Key:
    """Return a key as its first event made it."""
    at = envelope.recorded_at
    assert envelope.key_id is not None
    return Key(
        key_id=envelope.key_id,
        account_id=envelope.account_id,
        name=body.name,
        dialect=body.dialect,
        created_at=at,
        updated_at=at,
        hint=body.hint,
        scopes=body.scopes,
        allowed_models=body.allowed_models,
        default_character=body.default_character,
        expires_at=body.expires_at,
        rate_card=body.rate_card,
        rules=body.limits,
        limits=compile_rules(body.limits),
        settings=dict(body.settings),
        secrets={1: None},
        parent=body.parent,
        version=1,
    )


def _issued(state: LaneState, envelope: e.Envelope, account: Account, body: e.KeyIssued) -> None:
    key = issued_key(envelope, body)
    state.keys[key.key_id] = key
    account.active_keys += 1
    for limit in account.limits.values():
        if limit.kind == "key_creations":
            _add_used(account.counters, limit, 1, envelope.recorded_at, "")


KeyEvent = (
    e.KeyRenamed
    | e.KeyLimitsSet
    | e.KeyScopesSet
    | e.KeyAllowedModelsSet
    | e.KeyDefaultCharacterSet
    | e.KeyExpirySet
    | e.KeySettingsSet
    | e.KeySuspended
    | e.KeyResumed
    | e.KeyRevoked
    | e.KeyRotated
    | e.KeyExpired
)


def _key(account: Account, key: Key, body: KeyEvent, at: Instant) -> None:  # noqa: C901, PLR0915
    key.updated_at = at
    key.version += 1
    match body:
        case e.KeyRenamed():
            key.name = body.name
        case e.KeyLimitsSet():
            key.rules = body.limits
            key.limits = compile_rules(body.limits)
            forget_dropped(key.counters, key.limits, at)
        case e.KeyScopesSet():
            key.scopes = body.scopes
        case e.KeyAllowedModelsSet():
            key.allowed_models = body.allowed_models
        case e.KeyDefaultCharacterSet():
            key.default_character = body.default_character
        case e.KeyExpirySet():
            key.expires_at = body.expires_at
        case e.KeySettingsSet():
            key.settings = dict(body.settings)
        case e.KeySuspended():
            key.status, key.suspended_at = "suspended", at
        case e.KeyResumed():
            key.status, key.suspended_at = "active", None
        case e.KeyRotated():
            _rotated(key, body)
        case e.KeyRevoked():
            key.status = "revoked"
            key.revoked_at = at
            account.active_keys -= 1
        case e.KeyExpired():
            key.status = "expired"
            account.active_keys -= 1


def _rotated(key: Key, body: e.KeyRotated) -> None:
    until = body.earlier_until
    for number, end in key.secrets.items():
        key.secrets[number] = until if end is None or end > until else end
    key.secrets[body.secret] = None
    key.hint = body.hint


def replica(account: Account) -> Account:
    """Return an account whose lots and balances may be changed without changing those of this."""
    return msgspec.structs.replace(
        account,
        lots={number: msgspec.structs.replace(lot) for number, lot in account.lots.items()},
        drained={},
        touched=set(),
        waiting=dict(account.waiting),
        overdrawn=dict(account.overdrawn),
        overdraft_held=dict(account.overdraft_held),
    )


def move_credit(
    account: Account, body: e.Repaying, reservation: Reservation | None, at: Instant
) -> None:
    """Apply an event that may repay to lots and overdraft.

    ``reservation``: the open one that the event ends.
    """
    match body:
        case e.CreditGranted():
            _granted(account, body, at)
        case e.GrantTookEffect():
            del account.waiting[body.lot]
            account.touched.add(body.lot)
        case e.AccountPolicySet():
            account.pays_with = body.pays_with
        case e.RequestSettled() | e.RequestReleased() | e.RequestExpired():
            _end(account, body, reservation)
    for number, asset, amount in body.repaid:
        pico = parse_pico(amount)
        account.overdrawn[asset] -= pico
        account.touched.add(OVERDRAFT_LOT)
        _take(account, number, "", pico)


def _end(
    account: Account,
    body: e.RequestSettled | e.RequestReleased | e.RequestExpired,
    reservation: Reservation | None,
) -> None:
    """Free what was held, and take what was charged and what lapsed."""
    if reservation is not None:
        for number, pico in parts_of(reservation.event):
            account.touched.add(number)
            if number == OVERDRAFT_LOT:
                account.overdraft_held[reservation.event.asset] -= pico
            else:
                account.lots[number].held -= pico
    if isinstance(body, e.RequestSettled):
        for number, pico in parts_of(body):
            _take(account, number, body.asset, pico)
    for number, amount in body.lapsed:
        _take(account, number, "", parse_pico(amount))


def _credit(account: Account, body: e.GrantVoided | e.GrantExpired | e.BalanceReduced) -> None:
    match body:
        case e.GrantVoided() | e.GrantExpired():
            lot = account.lots[body.lot]
            lot.remaining -= parse_pico(body.amount)
            account.touched.add(body.lot)
            account.waiting.pop(body.lot, None)
            lot.closed = "voided" if isinstance(body, e.GrantVoided) else "expired"
            _drop_empty(account, lot)
        case e.BalanceReduced():
            for number, pico in parts_of(body):
                _take(account, number, body.asset, pico)


def _granted(account: Account, body: e.CreditGranted, at: Instant) -> None:
    amount = parse_pico(body.amount)
    account.next_lot = body.lot + 1
    account.touched.add(body.lot)
    if body.effective_at is not None and body.effective_at > at:
        account.waiting[body.lot] = body.effective_at
    account.lots[body.lot] = Lot(
        number=body.lot,
        asset=body.asset,
        kind=body.kind,
        priority=body.priority,
        amount=amount,
        remaining=amount,
        held=0,
        granted_at=at,
        effective_at=body.effective_at or at,
        expires_at=body.expires_at,
        reason=body.reason,
        cost=body.cost,
        currency=body.currency,
        payment_reference=body.payment_reference,
    )


def _take(account: Account, number: int, asset: str, pico: int) -> None:
    account.touched.add(number)
    if number == OVERDRAFT_LOT:
        account.overdrawn[asset] = account.overdrawn.get(asset, 0) + pico
        return
    lot = account.lots[number]
    lot.remaining -= pico
    _drop_empty(account, lot)


def _drop_empty(account: Account, lot: Lot) -> None:
    # held ≤ remaining always, so an empty lot is held by nobody.
    if lot.remaining == 0:
        account.drained[lot.number] = account.lots.pop(lot.number)


def _spend(account: Account, body: e.RequestRecorded | e.RequestRated) -> dict[str, int]:
    asset = body.asset
    spent: dict[str, int] = {}
    for number, pico in parts_of(body):
        paid_in = account.lots[number].asset if number else asset
        spent[paid_in] = spent.get(paid_in, 0) + pico
        _take(account, number, asset, pico)
    return spent


def _spend_sum(account: Account, lots: Collection[int], asset: str, pico: int) -> dict[str, int]:
    if not pico:
        return {}
    (number,) = lots
    paid_in = account.lots[number].asset if number else asset
    _take(account, number, asset, pico)
    return {paid_in: pico}


def _add_used(
    counters: dict[str, Counter], limit: Limit, quantity: int, at: Instant, model: str
) -> None:
    name = claim(limit, counters, model, at) if limit.each_model else limit.limit_id
    counter = counters.get(name)
    if counter is None:
        counter = counters[name] = Counter()
    bucket = limit.window.bucket(at)
    if bucket in counter.used:
        # Only a new bucket makes room for itself, so past ones are looked for only then.
        counter.used[bucket] += quantity
    else:
        counter.add_used(bucket, quantity, limit.window.first(at))


def _count(
    account: Account,
    key: Key | None,
    category: str,
    model: str,
    *,
    requests: int,
    tokens: int,
    spent: dict[str, int],
    at: Instant,
) -> None:
    for subject in (account, key):
        if subject is None or not subject.limits:
            continue
        for limit in subject.limits.values():
            if limit.narrow and not limit.covers(category, model):
                continue
            quantity = quantity_of_all(limit, requests, tokens, spent)
            if quantity:
                _add_used(subject.counters, limit, quantity, at, model)
    if key is not None:
        key.last_used_at = at


def _count_rated(
    account: Account, key: Key | None, body: e.RequestRated, spent: dict[str, int], at: Instant
) -> None:
    # Its requests and tokens counted when it came; what it costs is known only now.
    for subject in (account, key):
        if subject is None:
            continue
        for limit in subject.limits.values():
            if limit.kind == "spend" and limit.covers(body.category, body.model):
                quantity = quantity_of(limit, tokens_used(body), spent)
                if quantity:
                    _add_used(subject.counters, limit, quantity, at, body.model)


def _count_failures(account: Account, key: Key | None, body: e.RequestRefused, at: Instant) -> None:
    # Otherwise a client that keeps trying would stay locked out for ever (B6).
    named = LimitId.parse(body.limit_id)
    if named is None or named.kind != "failures":
        _add_failures(account, key, body, body.count, at)


def _add_failures(
    account: Account,
    key: Key | None,
    body: e.RequestRefused | e.RequestReserved,
    count: int,
    at: Instant,
) -> None:
    for subject in (account, key):
        if subject is None:
            continue
        for limit in subject.limits.values():
            if limit.kind == "failures" and limit.covers(body.category, body.model):
                # Never above the ceiling, or refusals would keep a key locked out (B6).
                fitting = min(count, left(limit, subject.counters, at))
                if fitting > 0:
                    _add_used(subject.counters, limit, fitting, at, body.model)


def _reserved(
    state: LaneState,
    envelope: e.Envelope,
    account: Account,
    key: Key | None,
    body: e.RequestReserved,
) -> None:
    assert key is not None
    at = envelope.recorded_at
    parts = parts_of(body)
    spent = by_asset(account, parts, body.asset)
    for number, pico in parts:
        account.touched.add(number)
        if number == OVERDRAFT_LOT:
            held = account.overdraft_held.get(body.asset, 0)
            account.overdraft_held[body.asset] = held + pico
        else:
            account.lots[number].held += pico
    hashed = request_hash(envelope.account_id, body.request_id)
    state.reservations[hashed] = Reservation(
        request_hash=hashed,
        request_id=body.request_id,
        account_id=envelope.account_id,
        key_id=key.key_id,
        seq=envelope.lane_seq,
        reserved_at=at,
        expires_at=body.expires_at,
        event=body,
        holds=_hold(account, key, body, spent, at),
    )
    key.last_used_at = at


def _hold(
    account: Account, key: Key, body: e.RequestReserved, spent: dict[str, int], at: Instant
) -> list[Hold]:
    holds: list[Hold] = []
    for scope, subject in (("account", account), ("key", key)):
        for limit in subject.limits.values():
            # Any request may fail until it has ended.
            fails = limit.kind == "failures"
            quantity = 1 if fails else quantity_of(limit, tokens_used(body), spent)
            if not quantity:
                continue
            counters, held = subject.counters, set()
            for model in models_counted(limit, body.category, (body.model, *body.choices)):
                name = claim(limit, counters, model, at) if limit.each_model else limit.limit_id
                if name not in held:
                    held.add(name)
                    bucket = limit.window.bucket(at)
                    counter = counters.setdefault(name, Counter())
                    counter.add_pending(bucket, quantity, limit.window.first(at))
                    holds.append(Hold(scope, name, bucket, quantity))
    return holds


def models_counted(limit: Limit, category: str, models: Sequence[str]) -> Sequence[str]:
    """Return those among the models that may serve a request by which a limit counts it.

    Each in its own counter where the limit is per model; otherwise the first stands for all.
    """
    found = [model for model in models if limit.covers(category, model)]
    return found if limit.each_model else found[:1]


def _release_holds(account: Account, key: Key | None, reservation: Reservation) -> None:
    for hold in reservation.holds:
        subject = account if hold.scope == "account" else key
        if subject is not None and hold.limit_id in subject.counters:
            subject.counters[hold.limit_id].free_pending(hold.bucket, hold.quantity)


def _freed(
    state: LaneState,
    account: Account,
    key: Key | None,
    body: e.RequestReleased | e.RequestExpired,
    at: Instant,
) -> None:
    hashed = request_hash(account.account_id, body.request_id)
    reservation = state.reservations.pop(hashed, None)
    if reservation is None:
        message = f"{body.type} ends {body.request_id!r}, which is not reserved."
        raise LedgerCorrupt(message)
    _release_holds(account, key, reservation)
    move_credit(account, body, reservation, at)
    if isinstance(body, e.RequestReleased) and body.failed:
        _add_failures(account, key, reservation.event, 1, at)


def _settled(
    state: LaneState,
    envelope: e.Envelope,
    account: Account,
    key: Key | None,
    body: e.RequestSettled,
) -> None:
    hashed = request_hash(account.account_id, body.request_id)
    reservation = state.reservations.pop(hashed, None)
    if reservation is not None:
        _release_holds(account, key, reservation)
    spent = by_asset(account, parts_of(body), body.asset)
    move_credit(account, body, reservation, envelope.recorded_at)
    # A request counts in the window it was admitted in: that is where its hold stood.
    at = reservation.reserved_at if reservation else envelope.recorded_at
    for subject in (account, key):
        if subject is None:
            continue
        for limit in subject.limits.values():
            if limit.covers(body.category, body.model):
                quantity = quantity_of(limit, tokens_used(body), spent)
                if quantity:
                    now = envelope.recorded_at
                    _add_settled(subject.counters, limit, quantity, at, now, body.model)


def _add_settled(  # noqa: PLR0917 (private, and called once)
    counters: dict[str, Counter],
    limit: Limit,
    quantity: int,
    at: Instant,
    now: Instant,
    model: str,
) -> None:
    bucket = limit.window.bucket(at)
    if bucket >= limit.window.first(now):
        # Where its hold stood: that counted until now, so its counter was not forgotten.
        name = claim(limit, counters, model, now) if limit.each_model else limit.limit_id
        counter = counters.setdefault(name, Counter())
        counter.add_used(bucket, quantity, limit.window.first(now))
