"""What the native API takes: one struct per body, unknown fields refused."""

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
"""RFC 3339 with a zone."""
Password = Annotated[str, Meta(max_length=1024)]

EACH_MODEL = (
    "Whether every model is counted by itself, up to the ceiling each. For requests, tokens and"
    " spend, where no model is named. 64 models count by themselves at once; others share one more."
)

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every body is."""


class LimitBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ceiling on a quantity in a window."""

    kind: Word
    """requests, tokens, spend, failures, key_creations or active_keys."""
    window: Word
    """rolling:<seconds>, day, month (UTC) or lifetime."""
    ceiling: Money
    """A whole number; for spend a plain decimal."""
    category: Word = ""
    model: Word = ""
    assets: tuple[Word, ...] = ()
    each_model: Annotated[bool, Meta(description=EACH_MODEL)] = False


def rules(limits: tuple[LimitBody, ...]) -> tuple[e.LimitRule, ...]:
    """Return limits as events hold them."""
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
    """Assets in the order in which they pay."""
    rate_card: Word = "standard"
    overdraft: dict[str, Money] = {}
    """Asset to plain decimal or ``unlimited``."""
    unpriced: Word = "refuse"
    """refuse or record: what becomes of usage without a price."""
    max_output_tokens: Tokens = 0
    """Of the longest answer through the gateway; 0: as the operator's setting says."""
    limits: tuple[LimitBody, ...] | UnsetType = UNSET
    """Left out: 20 key creations in any minute and 500 active keys. Empty: none at all."""
    welcome: bool = True
    """Whether to add the welcome grant."""
    test: bool = False
    """A test account: kept in a book of its own."""
    internal: bool = False
    """The operator's own use: gets statements and never invoices."""
    owner: OwnerBody | None = None


class AccountChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of an account to change; what is left out stays."""

    name: Name | UnsetType = UNSET
    pays_with: tuple[Word, ...] | UnsetType = UNSET
    rate_card: Word | UnsetType = UNSET
    overdraft: dict[str, Money] | UnsetType = UNSET
    unpriced: Word | UnsetType = UNSET
    max_output_tokens: Tokens | UnsetType = UNSET


class LimitsBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits, replacing the ones before."""

    limits: tuple[LimitBody, ...]


class ReasonBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    reason: Text = ""


class MemberBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person who joins."""

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
    """The integration: it stands in every event the key causes."""
    dialect: Word
    """reverie, foil, bve, ryvion or venice."""
    scopes: tuple[Name, ...] = ()
    allowed_models: tuple[Name, ...] | None = None
    """None: every model. Empty: none."""
    default_character: Word = ""
    """reverie: whom requests without a model are for; a character that the account may talk to."""
    expires_at: Time | None = None
    """An instant; or a date, which means the end of that day of UTC. None: never."""
    rate_card: Word = ""
    limits: tuple[LimitBody, ...] = ()
    settings: dict[str, Word] = {}


class KeyChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of a key to change; what is left out stays."""

    name: Name | UnsetType = UNSET
    limits: tuple[LimitBody, ...] | UnsetType = UNSET
    scopes: tuple[Name, ...] | UnsetType = UNSET
    allowed_models: tuple[Name, ...] | UnsetType | None = UNSET
    default_character: Word | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    """An instant; or a date, which means the end of that day of UTC. None: never."""
    settings: dict[str, Word] | UnsetType = UNSET


class RotateBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key rotates."""

    grace_seconds: Annotated[int, Meta(ge=0, le=7_776_000)] = 0
    """How long earlier secrets go on working: at most 90 days."""


class VerifyBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A secret to look at."""

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
    """What was paid for it; with ``currency``."""
    currency: Word = ""
    payment_reference: Word = ""
    """The payment's own id, such as that of a payment provider."""


class AllowanceBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account has anew each day of UTC."""

    amount: Money
    """Zero ends it."""


class AdjustmentBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to add or, with a minus sign, to take away."""

    amount: Money
    asset: Word
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class RateCardBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of a rate card to publish: what it does not name stays as it is."""

    name: Name
    asset: Word
    models: dict[str, ModelPrice]
    aliases: dict[str, str] = {}
    patterns: tuple[Pattern, ...] = ()
    effective_from: Time | None = None
    """None: from now on. In the past only where nothing had a price then."""
    source: Text = ""
    replace: bool = False
    """Drop what is not named here."""
    confirm: bool = False
    """Publish although something looks like a mistake."""
    dry_run: bool = False
    """Say what would change, and publish nothing."""


class ImportBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price table of others to publish as a version."""

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
"""What a caller notes of a request, as OpenAI's API bounds it."""


class UsageBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One metered request. Names its key by ``key_id`` or by ``secret``."""

    request_id: Name
    """Unique per account for ever: it charges once."""
    model: Name
    key_id: Word | UnsetType = UNSET
    secret: Word | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    """Disjoint quantities; or the provider's own report in the two fields below."""
    provider_format: Word | UnsetType = UNSET
    provider_usage: dict[str, object] | UnsetType = UNSET
    category: Word = ""
    condition: Word = ""
    scope: Word = ""
    occurred_at: Time | UnsetType = UNSET
    delivered: bool = False
    """The service was rendered already: record it whatever limits and credit say."""
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
    """What a reserved request really used."""

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
    """It was made and failed: it counts against limits on failures."""


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0.2 in structured mode. Extension attributes are allowed and ignored."""

    specversion: Word
    id: Name
    source: Name
    type: Word
    data: msgspec.Raw
    time: Time | UnsetType = UNSET
    subject: Word | UnsetType = UNSET
    datacontenttype: Word | UnsetType = UNSET


class CloudUsage(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data of a CloudEvent: a metered request whose id and time stand in the envelope."""

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
    """A situation that a character can be met in."""

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
    """Whose it is. A member's own account goes without saying."""
    name: Name
    slug: Word = ""
    """Empty: made from the name, with a number where that is taken."""
    description: str = ""
    """At most 2,000 characters."""
    greeting: str = ""
    """At most 4,000 characters; ``{player}`` stands for the player's name."""
    system_prompt: str = ""
    """At most 32 KiB."""
    multiplier: Word | UnsetType = UNSET
    """What a token costs with it: 1.0 (the default), 1.1, 1.2 or 10.0. Set by the operator only."""
    scenarios: tuple[ScenarioBody, ...] = ()
    """At most 50."""


class CharacterChanges(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a character; what is left out stays."""

    name: Name | UnsetType = UNSET
    slug: Name | UnsetType = UNSET
    description: str | UnsetType = UNSET
    greeting: str | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    multiplier: Word | UnsetType = UNSET
    """Set by the operator only."""
    scenarios: tuple[ScenarioBody, ...] | UnsetType = UNSET
    """All of them, replacing the ones before."""


class ChatBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chat with a character that takes place on the web."""

    account_id: Word = ""
    """Who chats. A member's own account goes without saying."""
    scenario: Word = ""
    """Slug of a scenario; empty: none."""


class LoginBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who logs in."""

    email: Name
    password: Password


class RefreshBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A refresh token."""

    refresh_token: Name


def instant_of(field: str, text: str | UnsetType | None) -> Instant | None:
    """Read a time; None and UNSET are None.

    Raises:
        Failure: It is no RFC 3339 time with a zone.
    """
    if text is None or isinstance(text, UnsetType):
        return None
    try:
        return clock.parse_instant(text)
    except clock.InvalidInstant as error:
        raise invalid(field, "RFC 3339 with a zone, such as 2026-12-01T00:00:00Z") from error


def expiry_of(field: str, text: str | None) -> Instant | None:
    """Read when something expires: an instant, or a date for the end of that day of UTC.

    Raises:
        Failure: It is neither.
    """
    if text is None or _DATE.fullmatch(text) is None:
        return instant_of(field, text)
    try:
        return clock.parse_instant(f"{text}T00:00:00Z") + timedelta(days=1)
    except clock.InvalidInstant as error:
        raise invalid(field, "no such day") from error


Metered = UsageBody | ReserveBody | SettleBody | CloudUsage


def used_of(body: Metered) -> Reading:
    """Return what a body says was used, made disjoint where it came in a provider's own form.

    Raises:
        Failure: Both forms are there, or neither, or no reading of a report can be defended.
    """
    if not isinstance(body.usage, UnsetType):
        if not isinstance(body.provider_usage, UnsetType):
            raise invalid("provider_usage", "is there beside usage; send one of them")
        return Reading(body.usage)
    if isinstance(body.provider_usage, UnsetType):
        raise invalid("usage", "is required, or provider_format with provider_usage")
    format_ = "" if isinstance(body.provider_format, UnsetType) else body.provider_format
    try:
        return reports.read(body.provider_usage, format_)
    except InvalidUsage as error:
        field = "provider_format" if error.field == "format" else f"provider_usage.{error.field}"
        raise invalid(field.removesuffix(".usage"), error.message) from error
