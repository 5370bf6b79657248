"""The facts: every event there is, as a documented struct.

An event says what was decided (the charge, the unit prices, the lots), so that no reader looks
it up again. Where and when it happened, and the key it is about, stand in the ``Envelope``. The
stored ``type`` is for ever. A new field gets a default; a new meaning gets a new event.

Amounts are plain decimal strings, instants UTC. ``by`` names the actor by role and id:
``operator``, ``<role>:<member id>``, ``key:<key id>`` or ``system``; in events of requests ``key``
is the key of the envelope, proven by ``secret``. ``lots`` name the grants that paid, in paying
order, 0 being the overdraft; ``parts`` their amounts where there is more than one.
"""

from datetime import datetime
from typing import Annotated, ClassVar, NamedTuple

import msgspec

from ledger.clock import Instant
from ledger.ids import AccountId, KeyId
from ledger.lines import Lines, ModelLines, usage_of
from ledger.pricing import RateCard
from ledger.usage import Usage

Utc = Annotated[datetime, msgspec.Meta(tz=True)]
Repaid = tuple[tuple[int, str, str], ...]
"""Lot, asset of the overdraft, amount: what free lots paid back of what was overdrawn, at par."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An immutable fact."""

    type: ClassVar[str]
    schema_version: ClassVar[int] = 1


class Envelope(NamedTuple):
    """Where and when an event stands, and what it is about."""

    lane: int
    lane_seq: int
    """1, 2, 3 … without a gap per lane."""
    account_id: AccountId
    version: int
    """1, 2, 3 … without a gap per account."""
    recorded_at: Instant
    """Assigned by the lane; strictly increasing in it."""
    occurred_at: Instant
    """When it happened outside, as reported; otherwise ``recorded_at``."""
    key_id: KeyId | None
    """The key the event is about or was caused by."""


class LimitRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ceiling on a quantity in a window."""

    kind: str
    """requests, tokens, spend, failures, key_creations or active_keys."""
    window: str
    """``rolling:<seconds>``, ``day``, ``month`` (UTC) or ``lifetime``."""
    ceiling: str
    """A whole number; for spend a decimal amount."""
    category: str = ""
    """Counts requests of this category only; empty: every one."""
    model: str = ""
    """Counts requests to this model only; empty: every one."""
    assets: tuple[str, ...] = ()
    """Spend: the assets counted together."""
    own: bool = False
    """Whether the account set it for itself, besides what the operator set."""
    each_model: bool = False
    """Requests, tokens, spend: whether each model is counted by itself, up to the ceiling."""


class AccountOpened(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An account was opened. Names and addresses are personal and stand in a side table."""

    type = "account_opened"
    by: str
    pays_with: tuple[str, ...] = ("USD",)
    """Assets that pay for one another at par, first to pay first. A price in an asset that is not
    among them is paid in that asset alone."""
    rate_card: str = "standard"
    overdraft: dict[str, str] = {}
    """Asset → declared overdraft, or ``unlimited``. The one of the price's own asset counts."""
    unpriced: str = "refuse"
    """What becomes of usage without a price: ``refuse`` or ``record``."""
    limits: tuple[LimitRule, ...] = ()
    test: bool = False
    """A test account: kept in a book of its own."""
    internal: bool = False
    """The operator's own use: posts to its cost, gets statements and never invoices."""
    max_output_tokens: int = 0
    """Tokens of the longest answer that its requests through the gateway may ask for; 0: the
    operator's setting alone says so."""


class AccountPolicySet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The account's terms were replaced as a whole."""

    type = "account_policy_set"
    by: str
    pays_with: tuple[str, ...]
    rate_card: str
    overdraft: dict[str, str] = {}
    unpriced: str = "refuse"
    max_output_tokens: int = 0
    repaid: Repaid = ()
    """Repaid by assets that may pay from now on."""


class AccountLimitsSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The account's limits were replaced as a whole."""

    type = "account_limits_set"
    by: str
    limits: tuple[LimitRule, ...] = ()


class AccountSuspended(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The account's keys stopped working until it resumes."""

    type = "account_suspended"
    by: str
    reason: str = ""


class AccountResumed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A suspended account works again."""

    type = "account_resumed"
    by: str


class AccountClosed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The account was closed for good."""

    type = "account_closed"
    by: str
    reason: str = ""


class MemberAdded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A person joined the account. Who it is stands in a side table."""

    type = "member_added"
    by: str
    member_id: str
    role: str
    """owner, finance, auditor or member."""


class MemberRoleChanged(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A member got another role."""

    type = "member_role_changed"
    by: str
    member_id: str
    role: str


class MemberRemoved(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A member left the account."""

    type = "member_removed"
    by: str
    member_id: str


class LoginSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """How a member logs in was made or changed. The row, in a side table, is personal."""

    type = "login_set"
    by: str
    member_id: str
    digest: str = ""
    """Binds the row, with a salt that goes when the person is erased; empty: it was erased."""


class WalletLinked(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A wallet may sign in to the account."""

    type = "wallet_linked"
    by: str
    digest: str
    """Binds its row, salted like a login's."""


class AllowanceSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The account's daily allowance was set: what it is granted anew on each day of UTC."""

    type = "allowance_set"
    by: str
    asset: str
    amount: str
    """Plain decimal; ``0``: the allowance ended."""


class KeyIssued(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A key was issued. Its secret is nowhere; the secret's keyed hash is in a side table."""

    type = "key_issued"
    by: str
    name: str
    """The integration."""
    dialect: str
    hint: str = ""
    """The secret's first characters and last four or six, for display."""
    scopes: tuple[str, ...] = ()
    """What the key may do; empty: everything."""
    allowed_models: tuple[str, ...] | None = None
    """Models it may use; None: every one, empty: none."""
    default_character: str = ""
    expires_at: Utc | None = None
    """Refused from this instant on. None: never."""
    rate_card: str = ""
    """Overrides the account's."""
    limits: tuple[LimitRule, ...] = ()
    settings: dict[str, str] = {}
    """What a dialect documents in addition, such as venice's ``modelPrivacy``."""
    parent: str = ""
    """Id of the key that made it; empty: no key did."""
    digest: str = ""
    """Binds the row of its secret, see ``secrets.digest``."""


class KeyRenamed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The integration has another name from now on."""

    type = "key_renamed"
    by: str
    name: str


class KeyLimitsSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key's limits were replaced as a whole. Counters of limits that stay go on."""

    type = "key_limits_set"
    by: str
    limits: tuple[LimitRule, ...] = ()


class KeyScopesSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key's scopes were replaced as a whole."""

    type = "key_scopes_set"
    by: str
    scopes: tuple[str, ...] = ()


class KeyAllowedModelsSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The models which the key may use were replaced as a whole."""

    type = "key_allowed_models_set"
    by: str
    allowed_models: tuple[str, ...] | None = None


class KeyDefaultCharacterSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key's requests without a model go to another character from now on."""

    type = "key_default_character_set"
    by: str
    default_character: str = ""


class KeyExpirySet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key expires at another instant."""

    type = "key_expiry_set"
    by: str
    expires_at: Utc | None = None


class KeySettingsSet(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key's settings of its dialect were replaced as a whole."""

    type = "key_settings_set"
    by: str
    settings: dict[str, str] = {}


class KeySuspended(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key stopped working until it resumes."""

    type = "key_suspended"
    by: str


class KeyResumed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A suspended key works again."""

    type = "key_resumed"
    by: str


class KeyRevoked(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A key was withdrawn for good."""

    type = "key_revoked"
    by: str


class KeyRotated(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key got another secret; the earlier ones work until the grace period ends."""

    type = "key_rotated"
    by: str
    secret: int
    """Number of the new secret: 2, 3, …"""
    earlier_until: Utc
    """Earlier secrets are refused from this instant on, or sooner where they were before."""
    hint: str = ""
    digest: str = ""
    """Binds the row of the new secret."""


class KeySecretRehashed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The stored hash of a secret was renewed under another pepper; the secret is the same."""

    type = "key_secret_rehashed"
    by: str
    secret: int
    """Its number."""
    digest: str
    """Binds the row as it is now."""


class KeyExpired(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The key's expiry passed. It was refused from that instant on, before this was written."""

    type = "key_expired"
    expired_at: Utc


class CreditGranted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A lot of credit was added."""

    type = "credit_granted"
    by: str
    lot: int
    """1, 2, 3 … per account."""
    asset: str
    amount: str
    kind: str = "paid"
    """paid, promotional or adjustment."""
    priority: int = 100
    """Lots of a lower number are spent first."""
    effective_at: Utc | None = None
    """Spendable from this instant on; None: at once."""
    expires_at: Utc | None = None
    """Not spendable from this instant on; None: never."""
    reason: str = ""
    cost: str = ""
    """What was paid for it, a plain decimal of ``currency``; empty: not stated."""
    currency: str = ""
    payment_reference: str = ""
    """The payment's own id, such as that of a payment provider."""
    repaid: Repaid = ()
    """The part of it that repaid, at once, what was overdrawn."""


class GrantTookEffect(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A lot that was granted ahead of time is spendable from now on."""

    type = "grant_took_effect"
    lot: int
    asset: str
    effective_at: Utc
    repaid: Repaid = ()
    """The part of it that repaid what was overdrawn."""


class GrantVoided(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What was left of a lot was withdrawn; what reservations hold of it lapses when they end."""

    type = "grant_voided"
    by: str
    lot: int
    asset: str
    amount: str
    reason: str = ""


class GrantExpired(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A lot's expiry passed; what reservations hold of it lapses when they end."""

    type = "grant_expired"
    lot: int
    asset: str
    amount: str
    expired_at: Utc


class BalanceReduced(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A person took credit away, with a reason."""

    type = "balance_reduced"
    by: str
    asset: str
    amount: str
    reason: str
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()


class RateCardPublished(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A version of a rate card was published, whole and immutable."""

    type = "rate_card_published"
    by: str
    content_hash: str
    card: RateCard


class RateCardWithdrawn(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A version that was not in force yet never will be."""

    type = "rate_card_withdrawn"
    by: str
    name: str
    version: int


class RequestRecorded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A request was admitted, priced and charged in one step."""

    type = "request_recorded"
    by: str
    secret: int = 0
    """Number of the secret that proved the key; 0: none did, ``by`` vouches for it."""
    request_id: str
    integration: str
    """The key's name at that moment."""
    model: str
    """The one whose price counts."""
    lines: Lines
    others: tuple[ModelLines, ...] = ()
    """What other models used inside the request."""
    category: str = ""
    condition: str = ""
    """Price condition, such as ``batch``."""
    by_time: str = ""
    """Price condition that held because of the time of day."""
    card: str = ""
    """Rate card and version that priced it: ``standard/3``; empty: none did."""
    priced_as: str = ""
    """The rate card's name of the model, where that is another."""
    asset: str = ""
    charge: str = ""
    """Of the lines that have a price. Empty: none has. Zero is written ``0``."""
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    overage: str = ""
    """The part of the charge beyond what credit, overdraft and limits on spending left."""
    flags: tuple[str, ...] = ()
    """``late`` or ``early``: reported too late, or ahead of time; ``delivered``: recorded whatever
    the limits said; ``after_end``: used before the key or account ended, reported afterwards;
    ``estimated``: part of the usage is an estimate; ``other_model``: see ``served_model``."""
    doubts: tuple[str, ...] = ()
    """Fields of the provider's report that were not believed."""
    served_model: str = ""
    """What the upstream says it served, where the rate card takes that for another model."""
    report: str = ""
    """SHA-256 of the provider's report, hexadecimal. A side table has its text for a while."""
    told_at: Utc | None = None
    """The service instant as reported, where another one counts: see ``early``."""
    metadata: str = ""
    """Digest of what the caller noted about the request, see ``RequestReserved``."""
    end_user: str = ""

    @property
    def usage(self) -> Usage:
        """What the model used."""
        return usage_of(self.lines)


class RequestReserved(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The worst case of a request was held against credit and limits."""

    type = "request_reserved"
    by: str
    secret: int = 0
    request_id: str
    integration: str
    model: str
    """The one that was asked for."""
    lines: Lines
    """The worst case, at the dearest prices that the request allows."""
    choices: tuple[str, ...] = ()
    """Further models that may serve it."""
    held_as: str = ""
    """The model whose prices the lines hold, where that is one of ``choices``."""
    category: str = ""
    condition: str = ""
    """The price condition that was asked for."""
    held_at: str = ""
    """The condition whose prices the lines hold, where that is another."""
    by_time: str = ""
    card: str = ""
    priced_as: str = ""
    asset: str = ""
    held: str = ""
    """Amount held; empty: unpriced."""
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    expires_at: Utc
    metadata: str = ""
    """SHA-256 over a salt and what the caller noted about the request, hexadecimal. Salt and text
    stand in a side table, so that they can be erased."""
    end_user: str = ""
    """The same of the end user for whom the caller asks."""

    @property
    def usage(self) -> Usage:
        """What the model may use at most."""
        return usage_of(self.lines)


class RequestSettled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A reserved request was charged what it used; the rest of the hold was freed.

    ``occurred_at`` of its envelope is when it was reserved: the service instant.
    """

    type = "request_settled"
    by: str
    request_id: str
    reserved_seq: int
    """Lane position of the reservation."""
    integration: str
    model: str
    lines: Lines
    others: tuple[ModelLines, ...] = ()
    category: str = ""
    condition: str = ""
    """As it was served."""
    by_time: str = ""
    card: str = ""
    priced_as: str = ""
    asset: str = ""
    charge: str = ""
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    overage: str = ""
    """The part of the charge beyond what was held."""
    lapsed: tuple[tuple[int, str], ...] = ()
    """Freed parts of lots that had expired or been voided meanwhile."""
    flags: tuple[str, ...] = ()
    """``late``: the reservation had expired; ``estimated``; ``interrupted``; ``other_model``."""
    doubts: tuple[str, ...] = ()
    served_model: str = ""
    report: str = ""
    repaid: Repaid = ()
    """What lots that the hold left free repaid of what is overdrawn, this charge included."""

    @property
    def usage(self) -> Usage:
        """What the model used."""
        return usage_of(self.lines)


class RequestReleased(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A reservation was given back unused."""

    type = "request_released"
    by: str
    request_id: str
    reserved_seq: int
    reason: str = ""
    lapsed: tuple[tuple[int, str], ...] = ()
    failed: bool = False
    """Whether the request was made and failed: it counts against limits on failures."""
    repaid: Repaid = ()


class RequestExpired(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A reservation ran out before it was settled or released."""

    type = "request_expired"
    request_id: str
    reserved_seq: int
    lapsed: tuple[tuple[int, str], ...] = ()
    repaid: Repaid = ()


class RequestRefused(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A request was refused; ``count`` times in one second for the same reason."""

    type = "request_refused"
    by: str
    secret: int = 0
    request_id: str = ""
    """Of the first of them."""
    integration: str = ""
    model: str = ""
    """Of the first of them."""
    category: str = ""
    reason: str
    """The refusal's code."""
    count: int = 1
    usage: dict[str, int] = {}
    """What they would have used together, by class."""
    limit_id: str = ""
    scope: str = ""
    ceiling: str = ""
    used: str = ""
    pending: str = ""
    requested: str = ""


class RequestRated(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Usage without a price got one later, or part of it did: the rest waits in its lines.

    ``occurred_at`` of its envelope is the request's own service instant: the day whose spend grows.
    """

    type = "request_rated"
    by: str
    request_id: str
    rated_seq: int
    """Lane position of the event that lacked a price: the request's, or an earlier rating's."""
    rest: bool = False
    """Whether other classes had been priced before."""
    integration: str
    model: str
    lines: Lines
    """Those that had no price: rated now, or still without one."""
    others: tuple[ModelLines, ...] = ()
    category: str = ""
    condition: str = ""
    by_time: str = ""
    card: str
    priced_as: str = ""
    asset: str
    charge: str
    lots: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """The model's usage that is rated."""
        return usage_of(self.lines)


AnyEvent = (
    RequestRecorded
    | RequestReserved
    | RequestSettled
    | RequestReleased
    | RequestExpired
    | RequestRefused
    | RequestRated
    | AccountOpened
    | AccountPolicySet
    | AccountLimitsSet
    | AccountSuspended
    | AccountResumed
    | AccountClosed
    | MemberAdded
    | MemberRoleChanged
    | MemberRemoved
    | LoginSet
    | WalletLinked
    | AllowanceSet
    | KeyIssued
    | KeyRenamed
    | KeyLimitsSet
    | KeyScopesSet
    | KeyAllowedModelsSet
    | KeyDefaultCharacterSet
    | KeyExpirySet
    | KeySettingsSet
    | KeySuspended
    | KeyResumed
    | KeyRevoked
    | KeyRotated
    | KeySecretRehashed
    | KeyExpired
    | CreditGranted
    | GrantTookEffect
    | GrantVoided
    | GrantExpired
    | BalanceReduced
    | RateCardPublished
    | RateCardWithdrawn
)
"""Closed: whoever matches on it is told by the type checker when an event is added."""

Repaying = (
    RequestSettled
    | RequestReleased
    | RequestExpired
    | AccountPolicySet
    | CreditGranted
    | GrantTookEffect
)
"""Whatever frees credit or draws on the overdraft: after it, free credit repays."""
