"""Decisions about keys: issue, change, rotate, suspend, revoke. Never a secret in sight."""

from datetime import timedelta

import msgspec

from ledger import events as e
from ledger import secrets
from ledger.accounts import require_not_closed, require_open
from ledger.clock import Instant
from ledger.codec import IS_SECRET
from ledger.errors import (
    InvalidField,
    KeyIsExpired,
    KeyIsNotSuspended,
    KeyIsRevoked,
    KeyIsSuspended,
    LimitIsReached,
    ModelIsDenied,
    NoSuchKey,
    ScopeIsDenied,
    SecretIsRetired,
    VersionIsOutdated,
)
from ledger.limits import Limit, compile_rules, require
from ledger.state import Account, Key

NAME_MAX = 255
SCOPES_MAX = 64
MODELS_MAX = 1_000
SETTINGS_MAX = 32
SECRETS_MAX = 16
GRACE_MAX = timedelta(days=90)


def require_usable(key: Key | None, at: Instant, *, secret: int | None = None) -> Key:
    """Return the key if it may act now, proven by the secret of this number or by the operator.

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired, KeyIsSuspended, SecretIsRetired: It may not.
    """
    key = _require_alive(key, at)
    if key.status == "suspended":
        raise KeyIsSuspended
    if secret is not None:
        if secret not in key.secrets:
            raise NoSuchKey
        until = key.secrets[secret]
        if until is not None and at >= until:
            raise SecretIsRetired
    return key


def _require_alive(key: Key | None, at: Instant) -> Key:
    if key is None:
        raise NoSuchKey
    if key.ended(at):
        raise KeyIsRevoked if key.status == "revoked" else KeyIsExpired
    return key


def require_scope(key: Key, scope: str) -> None:
    """Refuse what the key's scopes do not name.

    Raises:
        ScopeIsDenied: They do not name it.
    """
    if scope and key.scopes and scope not in key.scopes:
        raise ScopeIsDenied


def require_model(key: Key, model: str) -> None:
    """Refuse a model that the key may not use.

    Raises:
        ModelIsDenied: It is not listed.
    """
    if not key.may_use(model):
        raise ModelIsDenied


def require_allowed(
    key: Key | None,
    account: Account | None,
    at: Instant,
    *,
    secret: int | None = None,
    scope: str = "",
    model: str = "",
) -> tuple[Key, Account]:
    """Return key and account if they may ask for this now, before price, limits and credit.

    The one judge, in one order: key, account, scope, model. ``secret``: the number of the one that
    proved the key; None: the operator vouches for it. An empty scope or model is not asked about.

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired, KeyIsSuspended, SecretIsRetired: The key may not act.
        NoSuchAccount, AccountIsClosed, AccountIsSuspended: The account may not.
        ScopeIsDenied, ModelIsDenied: The key may not do this.
    """
    key = require_usable(key, at, secret=secret)
    account = require_open(account)
    require_scope(key, scope)
    if model:
        require_model(key, model)
    return key, account


def require_failures_left(
    key: Key, account: Account | None, at: Instant, *, category: str = "", model: str = ""
) -> bool:
    """Refuse every request while as many have failed as the limits allow.

    A request under way may still fail: it takes room from others until it ends.
    ``account`` None: the key alone is asked. Returns whether any limit counts failures.

    Raises:
        LimitIsReached: They have.
    """
    are_counted = False
    for scope, subject in (("key", key), ("account", account)):
        if subject is None:
            continue
        for limit in subject.limits.values():
            if limit.kind == "failures" and limit.covers(category, model):
                require(limit, subject.counters, 1, at, scope, model)
                are_counted = True
    return are_counted


def require_dialect(dialect: str) -> None:
    """Refuse a dialect that no key of this process can speak.

    Raises:
        InvalidField: It is unknown.
    """
    if dialect not in secrets.dialects():
        raise InvalidField("dialect", "must be one of " + ", ".join(secrets.dialects()))


def check_name(name: str) -> None:
    """Check an integration's name.

    Raises:
        InvalidField: Blank, or over 255 characters.
    """
    if not name.strip() or len(name) > NAME_MAX:
        raise InvalidField("name", f"1 to {NAME_MAX} characters, not blank")
    require_no_secret("name", name)


def require_no_secret(field: str, text: str) -> None:
    """Refuse a secret sent where it would be written down for ever (promise 11).

    Raises:
        InvalidField: There is one in the text.
    """
    if secrets.is_in(text):
        raise InvalidField(field, IS_SECRET)


def issue(account: Account | None, terms: e.KeyIssued, *, at: Instant) -> list[e.AnyEvent]:
    """Issue a key on these terms.

    Raises:
        NoSuchAccount, AccountIsSuspended, AccountIsClosed: The account may not act.
        LimitIsReached: Too many created, or too many active.
        InvalidField: A term is wrong.
    """
    account = require_open(account)
    check_name(terms.name)
    require_dialect(terms.dialect)
    _check_terms(terms.scopes, terms.allowed_models, terms.settings)
    _check_expiry(terms.expires_at, at)
    compile_rules(terms.limits)
    for limit in account.limits.values():
        if limit.kind == "key_creations":
            require(limit, account.counters, 1, at, "account")
        elif limit.kind == "active_keys":
            _require_active_keys_below(account, limit)
    return [terms]


def _require_active_keys_below(account: Account, limit: Limit) -> None:
    if account.active_keys >= limit.ceiling:
        raise LimitIsReached(
            scope="account",
            limit_id=limit.limit_id,
            kind=limit.kind,
            window=limit.window.name,
            ceiling=limit.ceiling,
            used=account.active_keys,
            pending=0,
            requested=1,
            resets_at=None,
        )


def _check_terms(
    scopes: tuple[str, ...], models: tuple[str, ...] | None, settings: dict[str, str]
) -> None:
    if len(scopes) > SCOPES_MAX or any(not 1 <= len(scope) <= NAME_MAX for scope in scopes):
        raise InvalidField("scopes", f"at most {SCOPES_MAX} names of 1 to {NAME_MAX} characters")
    if models is not None and (
        len(models) > MODELS_MAX or any(not 1 <= len(model) <= NAME_MAX for model in models)
    ):
        problem = f"at most {MODELS_MAX} names of 1 to {NAME_MAX} characters"
        raise InvalidField("allowed_models", problem)
    if len(settings) > SETTINGS_MAX:
        raise InvalidField("settings", f"at most {SETTINGS_MAX}")


def _check_expiry(expires_at: Instant | None, at: Instant) -> None:
    if expires_at is not None and expires_at <= at:
        raise InvalidField("expires_at", "must be in the future")


class KeyPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What to change about a key; what is left UNSET stays."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    limits: tuple[e.LimitRule, ...] | msgspec.UnsetType = msgspec.UNSET
    scopes: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    allowed_models: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET
    default_character: str | msgspec.UnsetType = msgspec.UNSET
    expires_at: e.Utc | msgspec.UnsetType | None = msgspec.UNSET
    settings: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


def change(  # noqa: C901
    account: Account | None,
    key: Key | None,
    changes: KeyPatch,
    *,
    by: str,
    at: Instant,
    expected_version: int | None = None,
) -> list[e.AnyEvent]:
    """Change a key's terms; one event for each that really changes.

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired: It cannot be changed any more.
        VersionIsOutdated: ``expected_version`` is not the key's.
        InvalidField: A term is wrong.
    """
    require_not_closed(account)
    key = _require_alive(key, at)
    if expected_version is not None and expected_version != key.version:
        raise VersionIsOutdated
    made: list[e.AnyEvent] = []
    unset = msgspec.UNSET
    if changes.name is not unset and changes.name != key.name:
        check_name(changes.name)
        made.append(e.KeyRenamed(by=by, name=changes.name))
    if changes.limits is not unset and changes.limits != key.rules:
        compile_rules(changes.limits)
        made.append(e.KeyLimitsSet(by=by, limits=changes.limits))
    if changes.scopes is not unset and changes.scopes != key.scopes:
        _check_terms(changes.scopes, None, {})
        made.append(e.KeyScopesSet(by=by, scopes=changes.scopes))
    if changes.allowed_models is not unset and changes.allowed_models != key.allowed_models:
        _check_terms((), changes.allowed_models, {})
        made.append(e.KeyAllowedModelsSet(by=by, allowed_models=changes.allowed_models))
    if (
        changes.default_character is not unset
        and changes.default_character != key.default_character
    ):
        character = changes.default_character
        made.append(e.KeyDefaultCharacterSet(by=by, default_character=character))
    if changes.expires_at is not unset and changes.expires_at != key.expires_at:
        _check_expiry(changes.expires_at, at)
        made.append(e.KeyExpirySet(by=by, expires_at=changes.expires_at))
    if changes.settings is not unset and changes.settings != key.settings:
        _check_terms((), None, changes.settings)
        made.append(e.KeySettingsSet(by=by, settings=changes.settings))
    return made


def rotate(
    account: Account | None,
    key: Key | None,
    *,
    hint: str,
    grace: timedelta,
    by: str,
    at: Instant,
    digest: str = "",
) -> list[e.AnyEvent]:
    """Replace the key's secret; earlier ones work for another ``grace``.

    Money, limits and history belong to the key and stay (A16, A17).

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired, KeyIsSuspended: It cannot be rotated.
        InvalidField: A grace period beyond 90 days, or 16 secrets working at once.
    """
    require_open(account)
    key = require_usable(key, at)
    if not timedelta(0) <= grace <= GRACE_MAX:
        raise InvalidField("grace_seconds", f"0 to {GRACE_MAX // timedelta(seconds=1)}")
    working = [until for until in key.secrets.values() if until is None or until > at]
    if len(working) >= SECRETS_MAX:
        raise InvalidField("key_id", f"has {SECRETS_MAX} working secrets; let some retire")
    return [
        e.KeyRotated(
            by=by,
            secret=next_secret(key),
            earlier_until=at + grace,
            hint=hint,
            digest=digest,
        )
    ]


def next_secret(key: Key) -> int:
    """Return the number that the key's next secret gets."""
    return max(key.secrets) + 1


def rehash(key: Key | None, secret: int, digest: str, *, by: str) -> list[e.AnyEvent]:
    """Note that a secret is kept under another pepper, whatever has become of its key.

    Raises:
        NoSuchKey: The key never had it.
    """
    if key is None or secret not in key.secrets:
        raise NoSuchKey
    return [e.KeySecretRehashed(by=by, secret=secret, digest=digest)]


def suspend(key: Key | None, *, by: str, at: Instant) -> list[e.AnyEvent]:
    """Stop a key until it resumes; quiet when it is suspended already.

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired: It cannot be.
    """
    key = _require_alive(key, at)
    return [] if key.status == "suspended" else [e.KeySuspended(by=by)]


def resume(key: Key | None, *, by: str, at: Instant) -> list[e.AnyEvent]:
    """Let a suspended key work again.

    Raises:
        NoSuchKey, KeyIsRevoked, KeyIsExpired, KeyIsNotSuspended: It cannot be.
    """
    key = _require_alive(key, at)
    if key.status != "suspended":
        raise KeyIsNotSuspended
    return [e.KeyResumed(by=by)]


def revoke(key: Key | None, *, by: str) -> list[e.AnyEvent]:
    """Withdraw a key for good; quiet when it is revoked already.

    Raises:
        NoSuchKey: It was never issued.
        KeyIsExpired: It ended by itself.
    """
    if key is None:
        raise NoSuchKey
    if key.status == "expired":
        raise KeyIsExpired
    return [] if key.status == "revoked" else [e.KeyRevoked(by=by)]


def expire(key: Key | None, *, at: Instant) -> list[e.AnyEvent]:
    """Record that a key's expiry has passed; quiet when it has not, or the key ended before."""
    if key is None or key.status in {"revoked", "expired"}:
        return []
    if key.expires_at is None or at < key.expires_at:
        return []
    return [e.KeyExpired(expired_at=key.expires_at)]
