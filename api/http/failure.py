"""Everything that can go wrong at a door: a closed set, worded by each surface.

The ledger's refusals, unreadable bodies and an upstream's errors become one of these
kinds here and nowhere else; status, envelope and text are the surface's.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ledger import errors
from ledger.clock import Instant


class Kind(StrEnum):
    """What went wrong. Each surface words every kind; a test fails where one is missing."""

    CREDENTIAL_IS_MISSING = "credential_is_missing"
    CREDENTIAL_IS_MALFORMED = "credential_is_malformed"
    """A wrong scheme, another dialect's prefix, or a wrong checksum."""
    CREDENTIAL_IS_UNKNOWN = "credential_is_unknown"
    CREDENTIALS_DISAGREE = "credentials_disagree"
    """Two headers show different credentials."""
    KEY_IS_REVOKED = "key_is_revoked"
    KEY_IS_SUSPENDED = "key_is_suspended"
    KEY_IS_EXPIRED = "key_is_expired"
    """The key has expired, or the rotated secret that proved it."""
    ACCOUNT_IS_BARRED = "account_is_barred"
    """The account is suspended or closed."""
    ROLE_IS_DENIED = "role_is_denied"
    """The credential is valid but not of the kind this route asks for."""
    SCOPE_IS_DENIED = "scope_is_denied"
    MODEL_IS_DENIED = "model_is_denied"
    MODEL_IS_UNKNOWN = "model_is_unknown"
    """There is no such model, or it has no price."""
    MODEL_IS_MISSING = "model_is_missing"
    """The request names no model, and there is no default."""
    RATE_IS_LIMITED = "rate_is_limited"
    """A limit on requests, tokens, failures or key creations; waiting may help."""
    BUDGET_IS_EXHAUSTED = "budget_is_exhausted"
    """A limit on spending; ``limit`` says whose."""
    BALANCE_IS_EXHAUSTED = "balance_is_exhausted"
    TOO_MANY_KEYS = "too_many_keys"
    NOT_FOUND = "not_found"
    """The route exists, but what the request names does not."""
    ACCESS_IS_DENIED = "access_is_denied"
    """It exists, but the caller may not have it."""
    ROUTE_IS_UNKNOWN = "route_is_unknown"
    METHOD_IS_UNKNOWN = "method_is_unknown"
    INVALID_FIELD = "invalid_field"
    INVALID_JSON = "invalid_json"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_LARGE = "too_large"
    CONFLICT = "conflict"
    IN_PROGRESS = "in_progress"
    """A request with this ``Idempotency-Key`` is under way; waiting helps."""
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_TIMED_OUT = "upstream_timed_out"
    UNAVAILABLE = "unavailable"
    """It cannot be done now. Where there is a ``Retry-After``, nothing was decided or charged."""
    INTERNAL = "internal"


class Failure(Exception):
    """A request that is answered by an error, in the words of its surface."""

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        field: str = "",
        code: str = "",
        headers: Mapping[str, str] | None = None,
        limit: errors.LimitIsReached | None = None,
        error: BaseException | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or kind.value)
        self.kind = kind
        self.detail = detail
        """One sentence for people; empty: the surface has its own words."""
        self.code = code
        """A name for programs, narrower than the kind's; empty: there is none."""
        self.members = dict(members or {})
        """Further members, for surfaces that have room for them."""
        self.field = field
        """Dotted name of the wrong field."""
        self.headers = dict(headers or {})
        """``Retry-After`` where waiting helps, ``Allow`` on a wrong method."""
        self.limit = limit
        """The limit that refused, with its numbers."""
        self.error = error
        """The ledger's error that it was made from."""
        self.counted = False
        """Whether the ledger has counted it among the key's failures already."""

    @property
    def said(self) -> str:
        """Return the detail after the name of the field that it is about."""
        return f"{self.field}: {self.detail}" if self.field else self.detail


FIELD_SHOWN_MAX, PROBLEM_SHOWN_MAX = 255, 1_000
"""Characters of a name or detail: either may repeat what was sent, which may be megabytes."""


def invalid(field: str, detail: str) -> Failure:
    """Make a failure that says which field is wrong and why."""
    shown = detail[:PROBLEM_SHOWN_MAX]
    return Failure(Kind.INVALID_FIELD, shown, field=field[:FIELD_SHOWN_MAX])


def unauthenticated(detail: str = "", *, presented: bool = True) -> Failure:
    """Make a failure that says that nobody proved who asks."""
    kind = Kind.CREDENTIAL_IS_UNKNOWN if presented else Kind.CREDENTIAL_IS_MISSING
    return Failure(kind, detail)


def forbidden(operation: str, role: str) -> Failure:
    """Make a failure that says that the role does not allow the operation."""
    detail = f"The role {role} does not allow this."
    return Failure(Kind.ROLE_IS_DENIED, detail, members={"operation": operation})


def wait_seconds(until: Instant, at: Instant) -> int:
    """Return whole seconds to wait, rounded up, at least one."""
    left = until - at
    return max(1, left.days * 86_400 + left.seconds + (left.microseconds > 0))


KINDS: Mapping[type[errors.LedgerError], Kind] = {
    errors.NoSuchAccount: Kind.NOT_FOUND,
    errors.AccountIsOpen: Kind.CONFLICT,
    errors.AccountIsSuspended: Kind.ACCOUNT_IS_BARRED,
    errors.AccountIsClosed: Kind.ACCOUNT_IS_BARRED,
    errors.NoSuchMember: Kind.NOT_FOUND,
    errors.LoginIsTaken: Kind.CONFLICT,
    errors.LastOwnerStays: Kind.CONFLICT,
    errors.NoSuchKey: Kind.CREDENTIAL_IS_UNKNOWN,
    errors.KeyIsRevoked: Kind.KEY_IS_REVOKED,
    errors.KeyIsSuspended: Kind.KEY_IS_SUSPENDED,
    errors.KeyIsNotSuspended: Kind.CONFLICT,
    errors.KeyIsExpired: Kind.KEY_IS_EXPIRED,
    errors.SecretIsRetired: Kind.KEY_IS_EXPIRED,
    errors.ScopeIsDenied: Kind.SCOPE_IS_DENIED,
    errors.ModelIsDenied: Kind.MODEL_IS_DENIED,
    errors.ModelIsUnpriced: Kind.MODEL_IS_UNKNOWN,
    errors.NoSuchGrant: Kind.NOT_FOUND,
    errors.TooManyGrants: Kind.CONFLICT,
    errors.NoSuchRequest: Kind.NOT_FOUND,
    errors.RequestIsClosed: Kind.CONFLICT,
    errors.RequestIdIsTaken: Kind.CONFLICT,
    errors.IdempotencyKeyIsTaken: Kind.CONFLICT,
    errors.RequestFailed: Kind.INTERNAL,
    errors.VersionIsOutdated: Kind.CONFLICT,
    errors.NoSuchRateCard: Kind.NOT_FOUND,
    errors.NoSuchLane: Kind.NOT_FOUND,
    errors.NoSuchEvent: Kind.NOT_FOUND,
    errors.RateCardIsInForce: Kind.CONFLICT,
    errors.PricesAreSuspicious: Kind.CONFLICT,
    errors.InvalidField: Kind.INVALID_FIELD,
    errors.CreditIsExhausted: Kind.BALANCE_IS_EXHAUSTED,
    errors.LimitIsReached: Kind.RATE_IS_LIMITED,
    errors.RequestExceedsLimit: Kind.RATE_IS_LIMITED,
    errors.LedgerUnavailable: Kind.UNAVAILABLE,
    errors.QueueIsFull: Kind.UNAVAILABLE,
    errors.OutcomeIsUnknown: Kind.UNAVAILABLE,
    errors.ClockIsOff: Kind.UNAVAILABLE,
}
"""Every error that an operation may raise. ``NoSuchKey`` is about the caller's own key: a route
about another key raises ``NOT_FOUND`` itself."""


def of_error(error: errors.LedgerError, at: Instant | None = None) -> Failure:
    """Make a failure from the ledger's error.

    ``at`` is now, for the ``Retry-After`` of refusals that no lane decided.
    """
    if isinstance(error, errors.LimitIsReached):
        return _of_limit(error, error.decided_at or at)
    kind = next((KINDS[each] for each in type(error).__mro__ if each in KINDS), Kind.INTERNAL)
    if isinstance(error, errors.InvalidField):
        return Failure(kind, error.problem, field=error.field, error=error)
    headers = {}
    if isinstance(error, errors.LedgerUnavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return Failure(kind, str(error), headers=headers, error=error)


def _of_limit(error: errors.LimitIsReached, at: Instant | None) -> Failure:
    match error.kind:
        case "spend":
            kind = Kind.BUDGET_IS_EXHAUSTED
        case "active_keys":
            kind = Kind.TOO_MANY_KEYS
        case _:
            kind = Kind.RATE_IS_LIMITED
    headers = {}
    if error.resets_at is not None and at is not None:
        headers["Retry-After"] = str(wait_seconds(error.resets_at, at))
    return Failure(kind, str(error), headers=headers, limit=error, error=error)
