"""venice's routes about what a key may still do, and what it was refused."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from api.dialects.venice import catalogue, credentials, models, terms, views
from api.dialects.venice.catalogue import Offer
from api.dialects.venice.credentials import Principal
from api.dialects.venice.views import Number
from api.http.handlers import get
from api.identity.credentials import KeyCaller
from api.queries import RefusalLine
from api.services import Ask
from ledger import standing
from ledger.clock import Instant, format_milliseconds
from ledger.limits import DAY_SECONDS, Limit, LimitId, window
from ledger.state import Account, Key

BREACHES = 50
RateType = Literal["RPM", "RPD", "TPM"]
RateLimitType = Literal["RPD", "RPM", "TPM", "FAILED_REQUESTS", "UNSUPPORTED_FEATURE_REQUESTS"]
_RATE_TYPES: Mapping[tuple[str, str], RateType] = {
    ("requests", models.MINUTE): "RPM",
    ("requests", "day"): "RPD",
    ("requests", f"rolling:{DAY_SECONDS}"): "RPD",
    ("tokens", models.MINUTE): "TPM",
}


class Balances(msgspec.Struct, frozen=True, kw_only=True):
    """What the key can still spend of each asset."""

    USD: Number
    DIEM: Number
    BUNDLED_CREDITS: Number | msgspec.UnsetType = msgspec.UNSET


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How much of something in a window."""

    amount: int
    type: RateType


class ModelRates(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How often a model may be asked."""

    api_model_id: str
    rate_limits: list[Rate]


class ApiTier(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The tier in which the key is served: there is one."""

    id: Literal["paid"] = "paid"
    is_charged: bool = True


class RateLimits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the key may still do."""

    access_permitted: bool
    api_tier: ApiTier = ApiTier()
    balances: Balances
    key_expiration: str | None
    next_epoch_begins: str
    rate_limits: list[ModelRates]


class RateLimitsReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the key may still do."""

    data: RateLimits


class LogRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One request that a limit refused."""

    api_key_id: str
    model_id: str
    rate_limit_tier: Literal["paid"] = "paid"
    rate_limit_type: RateLimitType
    timestamp: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that limits refused, newest first."""

    object: Literal["list"] = "list"
    data: list[LogRow]


@get(
    "/api/v1/api_keys/rate_limits",
    guards=[credentials.usable_key_or_session],
    permission="get_balances",
)
async def get_rate_limits(request: Ask[KeyCaller]) -> RateLimitsReply:
    """Show what the key itself may still spend, and how often it may ask each model."""
    request.parameters()
    caller = request.caller
    assert caller.key is not None
    account, _ = await request.services.queries.accounts.one(caller.account_id)
    offered = await catalogue.offers(request.services, caller)
    at = request.services.clock.now()
    left = _left(account, caller.key, at)
    expires_at = caller.key.expires_at
    view = RateLimits(
        access_permitted=any(pico > 0 for pico in left.values())
        or (terms.may_owe(account) and terms.room(caller.key, "usd", at) != 0),
        balances=_balances(left),
        key_expiration=views.milliseconds(expires_at),
        next_epoch_begins=format_milliseconds(terms.next_epoch(at)),
        rate_limits=[
            _rates(offer, caller.key) for offer in offered if caller.key.may_use(offer.id)
        ],
    )
    return RateLimitsReply(data=view)


def _left(account: Account, key: Key, at: Instant) -> dict[str, int]:
    """Return what the account has of each asset, and no more than the key's caps leave of it."""
    found = {asset: max(pico, 0) for asset, pico in standing.to_spend(account, at).items()}
    for name, assets in terms.ASSETS.items():
        room = terms.room(key, name, at)
        for asset in assets:
            has = found.get(asset, 0)
            found[asset] = has if room is None else min(has, room)
    return found


def _balances(left: dict[str, int]) -> Balances:
    bundled = left.get("BUNDLED_CREDITS", 0)
    return Balances(
        USD=views.number(left.get("USD", 0)),
        DIEM=views.number(left.get("DIEM", 0)),
        BUNDLED_CREDITS=views.number(bundled) if bundled else msgspec.UNSET,
    )


def _rates(offer: Offer, key: Key) -> ModelRates:
    """Show the limits that count requests of a model: those in force, not those of the page.

    Limits over a window that the page has no word for are left out: an hour's number would be taken
    for a minute's.
    """
    category = models.category_of(offer.id)
    found = [
        Rate(amount=limit.ceiling, type=kind)
        for limit in key.limits.values()
        if limit.covers(category, offer.id) and (kind := _rate_type(limit)) is not None
    ]
    return ModelRates(api_model_id=offer.id, rate_limits=found)


def _rate_type(limit: Limit) -> RateType | None:
    """Name a limit whose window the page has a word for; None: it has none."""
    return _RATE_TYPES.get((limit.kind, limit.window.name))


def _breach_type(limit: LimitId, at: Instant) -> RateLimitType:
    """Name the limit that refused by the nearest word of the page's closed set.

    The page knows a minute and a day, and for tokens only a minute. A limit over a day or longer is
    ``RPD``, whether on requests or tokens: if told of a minute, a client would try again in vain
    until the window ends. A shorter limit is named as one per minute.
    """
    if limit.kind == "failures":
        return "FAILED_REQUESTS"
    seconds = window(limit.window).seconds(at)
    if seconds is None or seconds >= DAY_SECONDS:
        return "RPD"
    return "TPM" if limit.kind == "tokens" else "RPM"


@get("/api/v1/api_keys/rate_limits/log", guards=[credentials.admin_key])
async def list_rate_limit_log(request: Ask[Principal]) -> Log:
    """List the last 50 requests of the account that rate limits refused, newest first."""
    request.parameters()
    found = await request.services.queries.refusals.of_rates(request.caller.account_id, BREACHES)
    # One record may stand for many refusals: it is listed as often.
    rows = [_row(breach) for breach in found for _ in range(min(breach.times, BREACHES))]
    return Log(data=rows[:BREACHES])


def _row(breach: RefusalLine) -> LogRow:
    limit = LimitId.parse(breach.limit_id)
    assert limit is not None
    return LogRow(
        api_key_id=str(breach.key_id),
        model_id=breach.model,
        rate_limit_type=_breach_type(limit, breach.recorded_at),
        timestamp=format_milliseconds(breach.recorded_at),
    )


HANDLERS = (
    get_rate_limits,
    list_rate_limit_log,
)
