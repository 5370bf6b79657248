"""The native API's request bodies: one struct each; unknown fields are refused."""

import re
from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.http.failure import invalid
from ledger import clock, reports
from ledger import events as e
from ledger.clock import Instant
from ledger.model_names import Pattern
from ledger.pricing import ModelPrice
from ledger.reports import Reading
from ledger.usage import InvalidUsage, Usage

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=500)]
Word = Annotated[str, Meta(max_length=255)]
Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Money = Annotated[str, Meta(max_length=32, examples=["12.50"])]
"""A plain decimal string with at most twelve places."""
Time = Annotated[str, Meta(max_length=40, examples=["2026-12-01T00:00:00Z"])]
"""An RFC 3339 time with a zone."""
Password = Annotated[str, Meta(max_length=1024)]

EACH_MODEL = (
    "Whether each model is counted by itself, each up to the ceiling. For requests, tokens and"
    " spend, if no model is named. At most 64 models count by themselves at once; others share one."
)

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every body."""


class LimitBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ceiling on a quantity per window."""

    kind: Word
    """requests, tokens, spend, failures, key_creations or active_keys."""
    window: Word
    """rolling:<seconds>, day, month (UTC) or lifetime."""
    ceiling: Money
    """A whole number; for spend, a plain decimal."""
    category: Word = ""
    model: Word = ""
    assets: tuple[Word, ...] = ()
    each_model: Annotated[bool, Meta(description=EACH_MODEL)] = False


def rules(limits: tuple[LimitBody, ...]) -> tuple[e.LimitRule, ...]:
    """Return limits in the form that events hold."""
    return tuple(
        e.LimitRule(
            kind=limit.kind,
            window=limit.window,
            ceiling=limit.ceiling,
            category=limit.category,
            model=limit.model,
            assets=limit.assets,
            each_model=limit.each_model,
        )
        for limit in limits
    )


class OwnerBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first person of an account."""

    email: Name
    password: Password
    name: Word = ""


class AccountBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account to open."""

    name: Name
    pays_with: tuple[Word, ...] = ("USD",)
    """Assets, in the order in which to spend them."""
    rate_card: Word = "standard"
    overdraft: dict[str, Money] = {}
    """Asset → plain decimal or ``unlimited``."""
    unpriced: Word = "refuse"
    """What to do with usage that has no price: refuse or record."""
    max_output_tokens: Tokens = 0
    """Of the longest answer through the gateway; 0: as the operator's setting says."""
    limits: tuple[LimitBody, ...] | UnsetType = UNSET
    """Left out: 20 key creations in any minute and 500 active keys. Empty: no limits."""
    welcome: bool = True
    """Whether to add the welcome grant."""
    test: bool = False
    """A test account: kept in a separate book."""
    internal: bool = False
    """The operator's own use: gets statements and never invoices."""
    owner: OwnerBody | None = None


class AccountChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of an account to change; whatever is left out stays."""

    name: Name | UnsetType = UNSET
    pays_with: tuple[Word, ...] | UnsetType = UNSET
    rate_card: Word | UnsetType = UNSET
    overdraft: dict[str, Money] | UnsetType = UNSET
    unpriced: Word | UnsetType = UNSET
    max_output_tokens: Tokens | UnsetType = UNSET


class LimitsBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits; they replace the previous ones."""

    limits: tuple[LimitBody, ...]


class ReasonBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    reason: Text = ""


class MemberBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person to add to an account."""

    email: Name
    password: Password
    role: Word
    """owner, finance, auditor or member."""
    name: Word = ""


class RoleBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another role."""

    role: Word


class KeyBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to issue."""

    name: Name
    """Name of the integration, recorded in every event that the key causes."""
    dialect: Word
    """reverie, foil, bve, ryvion or venice."""
    scopes: tuple[Name, ...] = ()
    allowed_models: tuple[Name, ...] | None = None
    """None: every model. Empty: none."""
    default_character: Word = ""
    """reverie: the character for requests without a model; one that the account may talk to."""
    expires_at: Time | None = None
    """An instant; or a date, which means the end of that day of UTC. None: never."""
    rate_card: Word = ""
    limits: tuple[LimitBody, ...] = ()
    settings: dict[str, Word] = {}


class KeyChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of a key to change; whatever is left out stays."""

    name: Name | UnsetType = UNSET
    limits: tuple[LimitBody, ...] | UnsetType = UNSET
    scopes: tuple[Name, ...] | UnsetType = UNSET
    allowed_models: tuple[Name, ...] | UnsetType | None = UNSET
    default_character: Word | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    """An instant; or a date, which means the end of that day of UTC. None: never."""
    settings: dict[str, Word] | UnsetType = UNSET


class RotateBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to rotate a key."""

    grace_seconds: Annotated[int, Meta(ge=0, le=7_776_000)] = 0
    """How long earlier secrets keep working: at most 90 days."""


class VerifyBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A secret to verify."""

    secret: Annotated[str, Meta(max_length=1024)]
    scope: Word = ""
    model: Word = ""


class GrantBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to add."""

    amount: Money
    asset: Word
    kind: Word = "paid"
    """paid, promotional or adjustment."""
    priority: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    """Lower numbers are spent first."""
    effective_at: Time | None = None
    expires_at: Time | None = None
    reason: Text = ""
    cost: Money = ""
    """What was paid for it, in ``currency``."""
    currency: Word = ""
    payment_reference: Word = ""
    """The payment's id at the payment provider."""


class AllowanceBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit that an account receives each UTC day."""

    amount: Money
    """Zero ends the allowance."""


class AdjustmentBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to add or, with a minus sign, to take away."""

    amount: Money
    asset: Word
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class RateCardBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of a rate card to publish; whatever it does not name stays as it is."""

    name: Name
    asset: Word
    models: dict[str, ModelPrice]
    aliases: dict[str, str] = {}
    patterns: tuple[Pattern, ...] = ()
    effective_from: Time | None = None
    """None: from now on. It may be in the past only if nothing had a price then."""
    source: Text = ""
    replace: bool = False
    """Whether to drop what is not named here."""
    confirm: bool = False
    """Whether to publish even if something looks like a mistake."""
    dry_run: bool = False
    """Whether to publish nothing and only say what would change."""


class ImportBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A third party's price table to publish as a version."""

    source: Word
    """genai-prices (as installed) or litellm (with ``data``)."""
    name: Name = "standard"
    asset: Word = "USD"
    providers: tuple[Word, ...] | None = None
    data: msgspec.Raw | UnsetType = UNSET
    """LiteLLM's model_prices_and_context_window.json."""
    effective_from: Time | None = None
    replace: bool = False
    confirm: bool = False
    dry_run: bool = False


Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64)],
        Annotated[str, Meta(max_length=512)],
    ],
    Meta(max_length=16),
]
"""A caller's notes about a request, bounded as in OpenAI's API."""


class UsageBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metered request. It names its key by ``key_id`` or by ``secret``."""

    request_id: Name
    """Unique per account, for ever: it is charged once."""
    model: Name
    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    """Disjoint quantities; or send the provider's own report in the next two fields."""
    provider_format: Word | UnsetType = UNSET
    provider_usage: dict[str, object] | UnsetType = UNSET
    category: Word = ""
    condition: Word = ""
    scope: Word = ""
    occurred_at: Time | UnsetType = UNSET
    delivered: bool = False
    """Whether the service was rendered already: record it whatever limits and credit allow."""
    estimated: bool = False
    metadata: Metadata = {}
    """Kept beside the event, which holds a digest of it."""
    end_user: Word = ""
    """Who the request is made for; kept as ``metadata`` is."""


class ReserveBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worst case of a request about to be made."""

    request_id: Name
    model: Name
    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    provider_format: Word | UnsetType = UNSET
    provider_usage: dict[str, object] | UnsetType = UNSET
    category: Word = ""
    condition: Word = ""
    scope: Word = ""
    metadata: Metadata = {}
    end_user: Word = ""
    ttl_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 600


class SettleBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reserved request actually used."""

    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    account_id: Word | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    provider_format: Word | UnsetType = UNSET
    provider_usage: dict[str, object] | UnsetType = UNSET
    model: Word = ""
    estimated: bool = False
    interrupted: bool = False


class ReleaseBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reserved request that was not made."""

    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    account_id: Word | UnsetType = UNSET
    reason: Text = ""
    failed: bool = False
    """Whether it was made and failed: then it counts against limits on failures."""


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent (1.0.2) in structured mode. Extension attributes are allowed and ignored."""

    specversion: Word
    id: Name
    source: Name
    type: Word
    data: msgspec.Raw
    time: Time | UnsetType = UNSET
    subject: Word | UnsetType = UNSET
    datacontenttype: Word | UnsetType = UNSET


class CloudUsage(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data of a CloudEvent: a metered request whose id and time are in the envelope."""

    model: Name
    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    provider_format: Word | UnsetType = UNSET
    provider_usage: dict[str, object] | UnsetType = UNSET
    category: Word = ""
    condition: Word = ""
    scope: Word = ""
    delivered: bool = False
    estimated: bool = False
    metadata: Metadata = {}
    """Kept beside the event, which holds a digest of it."""
    end_user: Word = ""
    """Who the request is made for; kept as ``metadata`` is."""


class ScenarioBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A situation in which to talk to a character."""

    name: Name
    slug: Word = ""
    """Unique within the character. Empty: made from the name."""
    description: str = ""
    greeting: str = ""
    """Empty: the character's."""
    system_prompt: str = ""
    """Added to the character's."""


class CharacterBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A character to make: a draft until it is published."""

    account_id: Word = ""
    """The account that owns it. Members may leave it out: it is their own."""
    name: Name
    slug: Word = ""
    """Empty: made from the name, with a number if that is taken."""
    description: str = ""
    """At most 2,000 characters."""
    greeting: str = ""
    """At most 4,000 characters; ``{player}`` stands for the player's name."""
    system_prompt: str = ""
    """At most 32 KiB."""
    multiplier: Word | UnsetType = UNSET
    """Factor on its tokens' price: 1.0 (the default), 1.1, 1.2 or 10.0. Only the operator sets
    it."""
    scenarios: tuple[ScenarioBody, ...] = ()
    """At most 50."""


class CharacterChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change about a character; whatever is left out stays."""

    name: Name | UnsetType = UNSET
    slug: Name | UnsetType = UNSET
    description: str | UnsetType = UNSET
    greeting: str | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    multiplier: Word | UnsetType = UNSET
    """Only the operator sets it."""
    scenarios: tuple[ScenarioBody, ...] | UnsetType = UNSET
    """All scenarios; they replace the previous ones."""


class ChatBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chat with a character on the web."""

    account_id: Word = ""
    """The account that chats. Members may leave it out: it is their own."""
    scenario: Word = ""
    """Slug of a scenario; empty: none."""


class LoginBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's login."""

    email: Name
    password: Password


class RefreshBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A refresh token."""

    refresh_token: Name


def instant_of(field: str, text: str | UnsetType | None) -> Instant | None:
    """Read a time; None and UNSET give None.

    Raises:
        Failure: It is not an RFC 3339 time with a zone.
    """
    if text is None or isinstance(text, UnsetType):
        return None
    try:
        return clock.parse_instant(text)
    except clock.InvalidInstant as error:
        raise invalid(field, "must be an RFC 3339 time such as 2026-12-01T00:00:00Z") from error


def expiry_of(field: str, text: str | None) -> Instant | None:
    """Read when something expires: an instant, or a date, which means the end of that UTC day.

    Raises:
        Failure: It is neither.
    """
    if text is None or _DATE.fullmatch(text) is None:
        return instant_of(field, text)
    try:
        return clock.parse_instant(f"{text}T00:00:00Z") + timedelta(days=1)
    except clock.InvalidInstant as error:
        raise invalid(field, "must be a day that exists, such as 2026-12-01") from error


Metered = UsageBody | ReserveBody | SettleBody | CloudUsage


def used_of(body: Metered) -> Reading:
    """Return what a body says was used, made disjoint if it is in a provider's own form.

    Raises:
        Failure: Both forms are sent, or neither, or the report makes no sense.
    """
    if not isinstance(body.usage, UnsetType):
        if not isinstance(body.provider_usage, UnsetType):
            raise invalid("provider_usage", "is sent together with usage; send one of them")
        return Reading(body.usage)
    if isinstance(body.provider_usage, UnsetType):
        raise invalid("usage", "is required, unless provider_format and provider_usage are sent")
    format_ = "" if isinstance(body.provider_format, UnsetType) else body.provider_format
    try:
        return reports.read(body.provider_usage, format_)
    except InvalidUsage as error:
        field = "provider_format" if error.field == "format" else f"provider_usage.{error.field}"
        raise invalid(field.removesuffix(".usage"), error.message) from error
