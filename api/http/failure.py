"""Everything that can go wrong on a dialect's paths, as one closed set that each dialect words.

Refusals of the ledger, problems of reading and errors of an upstream become one of these kinds
here and nowhere else; status, envelope and text are the dialect's.
"""

from collections.abc import Mapping
from enum import StrEnum

from api.http.problems import Problem, wait_seconds
from ledger import errors
from ledger.clock import Instant


class Kind(StrEnum):
    """What went wrong. A dialect words every one; a test fails where one is missing."""

    CREDENTIAL_IS_MISSING = "credential_is_missing"
    CREDENTIAL_IS_MALFORMED = "credential_is_malformed"
    """Another scheme, another dialect's prefix, a wrong checksum."""
    CREDENTIAL_IS_UNKNOWN = "credential_is_unknown"
    CREDENTIALS_DISAGREE = "credentials_disagree"
    """Two headers show different ones."""
    KEY_IS_REVOKED = "key_is_revoked"
    KEY_IS_SUSPENDED = "key_is_suspended"
    KEY_IS_EXPIRED = "key_is_expired"
    """The key, or the rotated secret that proved it."""
    ACCOUNT_IS_BARRED = "account_is_barred"
    """Suspended or closed."""
    ROLE_IS_DENIED = "role_is_denied"
    """The credential is good and not of the kind this route asks for."""
    SCOPE_IS_DENIED = "scope_is_denied"
    MODEL_IS_DENIED = "model_is_denied"
    MODEL_IS_UNKNOWN = "model_is_unknown"
    """No such model, or none with a price."""
    MODEL_IS_MISSING = "model_is_missing"
    """The request names none and nothing stands in for it."""
    RATE_IS_LIMITED = "rate_is_limited"
    """A limit on requests, tokens, failures or key creations; waiting may help."""
    BUDGET_IS_EXHAUSTED = "budget_is_exhausted"
    """A limit on spending; ``limit`` tells whose."""
    BALANCE_IS_EXHAUSTED = "balance_is_exhausted"
    TOO_MANY_KEYS = "too_many_keys"
    NOT_FOUND = "not_found"
    """The route is there and the thing is not."""
    ACCESS_IS_DENIED = "access_is_denied"
    """The thing is there and the caller may not have it."""
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
    """A request that is answered by an error in its dialect."""

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        field: str = "",
        headers: Mapping[str, str] | None = None,
        limit: errors.LimitIsReached | None = None,
        error: BaseException | None = None,
    ) -> None:
        super().__init__(detail or kind.value)
        self.kind = kind
        self.detail = detail
        """For people, one sentence; empty: the dialect has its own words."""
        self.field = field
        """Dotted name of the field that is wrong."""
        self.headers = dict(headers or {})
        """``Retry-After`` where waiting helps, ``Allow`` on a wrong method."""
        self.limit = limit
        """The limit that refused, with its numbers."""
        self.error = error
        """What it was made of."""
        self.counted = False
        """Whether the ledger has it among the key's failures already."""


def invalid(field: str, detail: str) -> Failure:
    """Say which field is wrong and why."""
    return Failure(Kind.INVALID_FIELD, detail, field=field)


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
"""Every error that an operation may answer. ``NoSuchKey`` is about the caller's own: a route about
another key raises ``NOT_FOUND`` itself."""

_STATUSES: Mapping[int, Kind] = {
    401: Kind.CREDENTIAL_IS_UNKNOWN,
    403: Kind.ROLE_IS_DENIED,
    404: Kind.NOT_FOUND,
    405: Kind.METHOD_IS_UNKNOWN,
    409: Kind.CONFLICT,
    413: Kind.TOO_LARGE,
    415: Kind.UNSUPPORTED_MEDIA_TYPE,
    429: Kind.RATE_IS_LIMITED,
    503: Kind.UNAVAILABLE,
}


def of_error(error: errors.LedgerError, at: Instant | None = None) -> Failure:
    """Make a failure of what the ledger says.

    ``at`` is now, for the ``Retry-After`` of what no lane decided.
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


def of_problem(problem: Problem) -> Failure:
    """Make a failure of a problem that reading a request raised."""
    fields = problem.members.get("errors") or [{}]
    field = fields[0].get("field", "")
    if problem.code in {"malformed_json", "body_is_incomplete"}:
        kind = Kind.INVALID_JSON
    elif problem.code == "credentials_are_missing":
        kind = Kind.CREDENTIAL_IS_MISSING
    elif problem.code == "access_is_denied":
        kind = Kind.ACCESS_IS_DENIED
    else:
        kind = _STATUSES.get(problem.status, Kind.INVALID_FIELD)
    detail = fields[0].get("problem") or problem.detail
    return Failure(kind, detail, field=field, headers=problem.headers, error=problem)
