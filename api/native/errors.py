"""The native API's errors: problem+json (RFC 9457), status and headers.

``STATUS`` names every refusal of the ledger, ``WORDS`` every other kind of failure.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from api.http.answers import Answer
from api.http.failure import Failure, Kind, of_error
from api.http.wording import TITLES
from ledger import errors, secrets
from ledger.clock import format_instant
from ledger.limits import written
from ledger.money import format_pico

CONTENT_TYPE = b"application/problem+json"
TYPE = "https://keyledger.dev/problems/"
"""Followed by the code. A name, not necessarily a page."""

STATUS: Mapping[type[errors.LedgerError], int] = {
    errors.NoSuchAccount: 404,
    errors.AccountIsOpen: 409,
    errors.AccountIsSuspended: 403,
    errors.AccountIsClosed: 409,
    errors.NoSuchMember: 404,
    errors.LoginIsTaken: 409,
    errors.LastOwnerStays: 409,
    errors.NoSuchKey: 404,
    errors.KeyIsRevoked: 409,
    errors.KeyIsSuspended: 409,
    errors.KeyIsNotSuspended: 409,
    errors.KeyIsExpired: 409,
    errors.SecretIsRetired: 409,
    errors.ScopeIsDenied: 403,
    errors.ModelIsDenied: 403,
    errors.ModelIsUnpriced: 422,
    errors.NoSuchGrant: 404,
    errors.TooManyGrants: 409,
    errors.NoSuchRequest: 404,
    errors.RequestIsClosed: 409,
    errors.RequestIdIsTaken: 409,
    errors.IdempotencyKeyIsTaken: 422,
    errors.RequestFailed: 500,
    errors.VersionIsOutdated: 412,
    errors.NoSuchRateCard: 404,
    errors.NoSuchLane: 404,
    errors.NoSuchEvent: 404,
    errors.RateCardIsInForce: 409,
    errors.PricesAreSuspicious: 409,
    errors.InvalidField: 400,
    errors.CreditIsExhausted: 402,
    errors.LimitIsReached: 429,
    errors.RequestExceedsLimit: 422,
    errors.LedgerUnavailable: 503,
    errors.QueueIsFull: 503,
    errors.OutcomeIsUnknown: 503,
    errors.ClockIsOff: 503,
}
"""Status of each on the native API, where the operator asks about a key: a 401 there would be
about the operator's own secret."""


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A wrong field."""

    field: str
    problem: str


class DecidedAt(msgspec.Struct, frozen=True, kw_only=True):
    """The lane position that a refusal was decided at."""

    lane: int
    seq: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An RFC 9457 problem. A limit's refusal also has its numbers and its position."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    limit: dict[str, Any] | UnsetType = UNSET
    ceiling: str | UnsetType = UNSET
    used: str | UnsetType = UNSET
    pending: str | UnsetType = UNSET
    available: str | UnsetType = UNSET
    requested: str | UnsetType = UNSET
    resets_at: str | UnsetType | None = UNSET
    position: DecidedAt | UnsetType = UNSET


_ASK = "Show the operator's secret or a member's token as Bearer."

WORDS: Mapping[Kind, tuple[int, str, str]] = {
    Kind.CREDENTIAL_IS_MISSING: (401, "credentials_are_missing", _ASK),
    Kind.CREDENTIAL_IS_MALFORMED: (401, "invalid_token", _ASK),
    Kind.CREDENTIAL_IS_UNKNOWN: (401, "invalid_token", _ASK),
    Kind.CREDENTIALS_DISAGREE: (400, "credentials_disagree", "Two headers differ; send one."),
    Kind.KEY_IS_REVOKED: (409, "key_is_revoked", ""),
    Kind.KEY_IS_SUSPENDED: (409, "key_is_suspended", ""),
    Kind.KEY_IS_EXPIRED: (409, "key_is_expired", ""),
    Kind.ACCOUNT_IS_BARRED: (403, "account_is_barred", ""),
    Kind.ROLE_IS_DENIED: (403, "role_is_denied", ""),
    Kind.SCOPE_IS_DENIED: (403, "scope_is_denied", ""),
    Kind.MODEL_IS_DENIED: (403, "model_is_denied", ""),
    Kind.MODEL_IS_UNKNOWN: (422, "model_is_unknown", ""),
    Kind.MODEL_IS_MISSING: (400, "model_is_missing", ""),
    Kind.RATE_IS_LIMITED: (429, "rate_is_limited", ""),
    Kind.BUDGET_IS_EXHAUSTED: (429, "budget_is_exhausted", ""),
    Kind.BALANCE_IS_EXHAUSTED: (402, "credit_is_exhausted", ""),
    Kind.TOO_MANY_KEYS: (429, "too_many_keys", ""),
    Kind.NOT_FOUND: (404, "not_found", "There is nothing at this path."),
    Kind.ACCESS_IS_DENIED: (403, "access_is_denied", ""),
    Kind.ROUTE_IS_UNKNOWN: (404, "not_found", "There is nothing at this path."),
    Kind.METHOD_IS_UNKNOWN: (405, "method_not_allowed", ""),
    Kind.INVALID_FIELD: (400, "invalid_field", ""),
    Kind.INVALID_JSON: (400, "malformed_json", ""),
    Kind.UNSUPPORTED_MEDIA_TYPE: (415, "unsupported_media_type", ""),
    Kind.TOO_LARGE: (413, "content_too_large", ""),
    Kind.CONFLICT: (409, "conflict", ""),
    Kind.IN_PROGRESS: (409, "in_progress", ""),
    Kind.UPSTREAM_FAILED: (502, "upstream_failed", ""),
    Kind.UPSTREAM_TIMED_OUT: (504, "upstream_timed_out", ""),
    Kind.UNAVAILABLE: (503, "ledger_is_unavailable", ""),
    Kind.INTERNAL: (500, "internal_error", "Something went wrong on our side; it has been logged."),
}
"""Failures that the ledger did not decide: status, code unless the failure has a narrower one,
and the detail if it has none itself."""

_REALM = 'Bearer realm="keyledger"'


def word(failure: Failure) -> Answer:
    """Write a failure. It may name what was sent, but never a secret."""
    status, members = document(failure)
    text = secrets.redacted(msgspec.json.encode(members).decode())
    headers = _headers(failure, status)
    return Answer(text.encode(), status=status, content_type=CONTENT_TYPE, headers=headers)


def document(failure: Failure) -> tuple[int, dict[str, Any]]:
    """Return a failure's status, and its members in their order."""
    if isinstance(failure.error, errors.LedgerError):
        status, code, detail = _of_error(failure.error)
        members = _members(failure.error)
    else:
        status, code, words = WORDS[failure.kind]
        detail, members = failure.said or words or f"{TITLES[status]}.", failure.members
        if failure.kind is Kind.INVALID_FIELD and not failure.code:
            members = {"errors": [{"field": failure.field, "problem": failure.detail}], **members}
        code = failure.code or code
    title = TITLES.get(status, "Error")
    head = {"type": TYPE + code, "title": title, "status": status, "detail": detail, "code": code}
    return status, {**head, **members}


def encode(error: errors.LedgerError | Failure) -> bytes:
    """Write what went wrong with one item of a batch."""
    return word(error if isinstance(error, Failure) else of_error(error)).body


def _headers(failure: Failure, status: int) -> dict[str, str]:
    headers = dict(failure.headers)
    # RFC 6750 §3.1: no error code where no credential was sent.
    if status == 401:  # noqa: PLR2004
        shown = failure.kind is not Kind.CREDENTIAL_IS_MISSING
        headers["WWW-Authenticate"] = _REALM + (', error="invalid_token"' if shown else "")
    elif failure.kind is Kind.ROLE_IS_DENIED:
        headers["WWW-Authenticate"] = f'{_REALM}, error="insufficient_scope"'
    error = failure.error
    if isinstance(error, errors.Refused) and error.position:
        headers["Ledger-Position"] = f"{error.lane}:{error.position}"
    return headers


def _of_error(error: errors.LedgerError) -> tuple[int, str, str]:
    return _status(error), getattr(error, "code", "") or _code(error), str(error)


def _status(error: errors.LedgerError) -> int:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def _code(error: errors.LedgerError) -> str:
    if isinstance(error, errors.OutcomeIsUnknown):
        return "outcome_is_unknown"
    if isinstance(error, errors.QueueIsFull):
        return "queue_is_full"
    if isinstance(error, errors.ClockIsOff):
        return "clock_is_off"
    if isinstance(error, errors.LedgerUnavailable):
        return "ledger_is_unavailable"
    return "internal_error"


def _members(error: errors.LedgerError) -> dict[str, Any]:
    members = _numbers(error)
    if isinstance(error, errors.Refused) and error.position:
        members["position"] = {"lane": error.lane, "seq": error.position}
    return members


def _numbers(error: errors.LedgerError) -> dict[str, Any]:
    match error:
        case errors.InvalidField():
            return {"errors": [{"field": error.field, "problem": error.problem}]}
        case errors.LimitIsReached():
            return limit_members(error)
        case errors.CreditIsExhausted():
            return {
                "scope": "account",
                "limit": {"kind": "credit", "asset": error.asset},
                "available": format_pico(error.available),
                "pending": format_pico(error.pending),
                "requested": format_pico(error.requested),
            }
        case errors.PricesAreSuspicious():
            return {"reasons": list(error.reasons)}
        case _:
            return {}


def limit_members(error: errors.LimitIsReached) -> dict[str, Any]:
    """Write the numbers that explain a limit's refusal (promise 14)."""
    write = partial(written, error.kind)
    return {
        "scope": error.scope,
        "limit": {"id": error.limit_id, "kind": error.kind, "window": error.window},
        "ceiling": write(error.ceiling),
        "used": write(error.used),
        "pending": write(error.pending),
        "requested": write(error.requested),
        "resets_at": None if error.resets_at is None else format_instant(error.resets_at),
    }
