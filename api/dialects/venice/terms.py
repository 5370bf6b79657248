"""What venice's terms of a key are in the ledger's words: limits, settings, an expiry.

A key counts what it spends by day, month and lifetime from its first request on, whichever of the
three its cap is for. So a cap that is set later, or moved to another period, counts what was spent
in the period before.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import msgspec

from api.dialects.venice import bodies, models
from api.http.failure import Failure, Kind, invalid
from api.operations import ADMIN_TYPE, SETTING_TYPE, Issuer
from ledger import clock, keys, limits, standing
from ledger import events as e
from ledger.clock import Instant
from ledger.credits import overdraft_left
from ledger.limits import Limit
from ledger.money import PLACES
from ledger.state import Account, Key

PERIOD, PRIVACY = "limitPeriod", "modelPrivacy"
_PERIODS: Mapping[str, bodies.Period] = {
    "EPOCH": "EPOCH",
    "MONTH": "MONTH",
    "LIFETIME": "LIFETIME",
}
_PRIVACIES: Mapping[str, bodies.Privacy] = {
    "ALL": "ALL",
    "PRIVATE_TEXT": "PRIVATE_TEXT",
    "PRIVATE_ONLY": "PRIVATE_ONLY",
}
WINDOWS: Mapping[str, str] = {"EPOCH": "day", "MONTH": "month", "LIFETIME": "lifetime"}
USD, DIEM = ("USD", "BUNDLED_CREDITS"), ("DIEM",)
"""The assets that each cap counts together."""
ASSETS: Mapping[str, tuple[str, ...]] = {"usd": USD, "diem": DIEM}
CAP_MAX = Decimal(9_999_999_999)
ONLY_COUNTED = "99999999999999"
"""Ceiling of a counter without a cap: more than there can be of any asset."""
FAILURES = e.LimitRule(kind="failures", window="rolling:30", ceiling="20")
"""More than 20 failed requests are too many: the one after the 20th is refused."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", re.ASCII)
_NUMBER = re.compile(rb"\d{1,10}(\.\d{1,%d})?([eE][+-]?\d{1,2})?" % PLACES)


class Budgets(NamedTuple):
    """Caps on spending in one period, as plain decimals; None: no cap."""

    period: str = "EPOCH"
    usd: str | None = None
    diem: str | None = None

    def cap(self, name: str) -> str | None:
        """Return a cap by its name on the page."""
        return self.usd if name == "usd" else self.diem


def issued(
    body: bodies.CreateKey | bodies.Web3Key,
    issuer: Issuer,
    *,
    by: str,
) -> e.KeyIssued:
    """Return the terms of a key to be issued.

    Raises:
        Failure: One is wrong, or the key would manage what its issuer does not see.
    """
    if body.api_key_type == ADMIN_TYPE and not issuer.may_manage:
        raise Failure(Kind.ACCESS_IS_DENIED)
    budgets = _changed_budgets(Budgets(period=body.limit_period), body.consumption_limit)
    settings: dict[str, str] = {
        SETTING_TYPE: body.api_key_type,
        PERIOD: body.limit_period,
        PRIVACY: body.model_privacy,
    }
    return e.KeyIssued(
        by=by,
        name=body.description,
        dialect="venice",
        allowed_models=models.allowed_models(body.model_privacy),
        expires_at=_expiry(body.expires_at),
        # Failures come last, so that any other limit that refuses a request is named first.
        limits=(*_spend_rules(budgets), *models.tier_rules(), FAILURES),
        settings=settings,
    )


def changed(body: bodies.UpdateKey) -> Callable[[Key], keys.KeyPatch]:
    """Return what to change about a key once its terms are known; all else stays as it is then.

    Raises:
        Failure: One is wrong.
    """
    unset = msgspec.UNSET
    wanted = body.consumption_limit
    expires_at = body.expires_at if body.expires_at is unset else _expiry(body.expires_at or "")
    # Checked before the lane is asked.
    _changed_budgets(Budgets(), bodies.ConsumptionLimit() if wanted is unset else wanted)

    def changes(key: Key) -> keys.KeyPatch:
        settings = dict(key.settings)
        rules: tuple[e.LimitRule, ...] | msgspec.UnsetType = unset
        if wanted is not unset or body.limit_period is not unset:
            rules = _changed_rules(key, body)
        allowed: tuple[str, ...] | msgspec.UnsetType | None = unset
        if body.limit_period is not unset:
            settings[PERIOD] = body.limit_period
        if body.model_privacy is not unset:
            settings[PRIVACY] = body.model_privacy
            allowed = models.allowed_models(body.model_privacy)
        return keys.KeyPatch(
            name=body.description,
            limits=rules,
            allowed_models=allowed,
            expires_at=expires_at,
            settings=settings,
        )

    return changes


def _changed_rules(key: Key, body: bodies.UpdateKey) -> tuple[e.LimitRule, ...]:
    budgets = budgets_of(key)
    if body.limit_period is not msgspec.UNSET:
        budgets = budgets._replace(period=body.limit_period)
    if body.consumption_limit is not msgspec.UNSET:
        budgets = _changed_budgets(budgets, body.consumption_limit)
    spend = _spend_rules(budgets)
    own = {limits.limit_id(rule) for rule in spend}
    return (*spend, *(rule for rule in key.rules if limits.limit_id(rule) not in own))


def period_of(key: Key) -> bodies.Period:
    """Return the period that a key's caps are for."""
    return _PERIODS.get(key.settings.get(PERIOD, ""), "EPOCH")


def privacy_of(key: Key) -> bodies.Privacy:
    """Return which models a key may use."""
    return _PRIVACIES.get(key.settings.get(PRIVACY, ""), "ALL")


def budgets_of(key: Key) -> Budgets:
    """Read a key's caps."""
    found = {}
    for name in ASSETS:
        limit = limit_of(key, name)
        found[name] = None if limit is None else limit.write(limit.ceiling)
    return Budgets(period_of(key), found["usd"], found["diem"])


def limit_of(key: Key, name: str) -> Limit | None:
    """Return the limit by which a cap of a key is kept; None: there is no cap."""
    limit = counter_limit(key, name)
    return None if limit is None or limit.write(limit.ceiling) == ONLY_COUNTED else limit


def counter_limit(key: Key, name: str) -> Limit | None:
    """Return the limit that counts what a key spends in its period, with a cap or without."""
    window = WINDOWS[period_of(key)]
    rule = e.LimitRule(kind="spend", window=window, ceiling="0", assets=ASSETS[name])
    return key.limits.get(limits.limit_id(rule))


def _spend_rules(budgets: Budgets) -> tuple[e.LimitRule, ...]:
    return tuple(
        e.LimitRule(
            kind="spend",
            window=window,
            ceiling=(budgets.cap(name) if period == budgets.period else None) or ONLY_COUNTED,
            assets=assets,
        )
        for name, assets in ASSETS.items()
        for period, window in WINDOWS.items()
    )


def _changed_budgets(budgets: Budgets, wanted: bodies.ConsumptionLimit) -> Budgets:
    """Return caps, those that are named replaced; ``vcu`` only where ``diem`` is not.

    Raises:
        Failure: One is no number, or out of bounds.
    """
    usd, diem = budgets.usd, budgets.diem
    if wanted.usd is not msgspec.UNSET:
        usd = _cap("usd", wanted.usd)
    if wanted.vcu is not msgspec.UNSET:
        former = _cap("vcu", wanted.vcu)
        diem = former if wanted.diem is msgspec.UNSET else diem
    if wanted.diem is not msgspec.UNSET:
        diem = _cap("diem", wanted.diem)
    return budgets._replace(usd=usd, diem=diem)


def _cap(name: str, raw: msgspec.Raw) -> str | None:
    text = bytes(raw)
    if text == b"null":
        return None
    problem = invalid(f"consumptionLimit.{name}", f"must be a number, 0 to {CAP_MAX}, or null")
    if _NUMBER.fullmatch(text) is None:
        raise problem
    try:
        value = Decimal(text.decode("ascii"))
    except InvalidOperation as error:
        raise problem from error
    exponent = value.normalize().as_tuple().exponent
    if value > CAP_MAX or not isinstance(exponent, int) or exponent < -PLACES:
        raise problem
    return f"{value.normalize():f}"


def _expiry(text: str) -> Instant | None:
    """Read when a key expires: a day begins at midnight of UTC. Empty: never.

    Raises:
        Failure: It is neither.
    """
    if not text:
        return None
    problem = invalid("expiresAt", "must be a date, or a time in UTC that ends with Z")
    if _DAY.fullmatch(text):
        text += "T00:00:00Z"
    elif _INSTANT.fullmatch(text) is None:
        raise problem
    try:
        return clock.parse_instant(text)
    except clock.InvalidInstant as error:
        raise problem from error


def room(key: Key, name: str, at: Instant) -> int | None:
    """Return what a cap leaves in pico, less reservations; None: there is no cap."""
    limit = limit_of(key, name)
    return None if limit is None else standing.of_limit(limit, key.counters, at).remaining


def used_in_period(key: Key, name: str, at: Instant) -> int:
    """Return what a key spent of a cap's assets in its period, in pico."""
    limit = counter_limit(key, name)
    return 0 if limit is None else standing.of_limit(limit, key.counters, at).used


def may_owe(account: Account) -> bool:
    """Return whether an account may still be overdrawn."""
    left = overdraft_left(account, "USD")
    return left is None or left > 0


def next_epoch(at: Instant) -> Instant:
    """Return the instant at which the next day of UTC begins."""
    tomorrow = datetime.fromordinal(at.toordinal() + 1)
    return tomorrow.replace(tzinfo=UTC)
