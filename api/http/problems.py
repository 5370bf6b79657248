"""How everything that goes wrong is worded: problem+json (RFC 9457), status and headers.

The one place where refusals become HTTP. ``STATUS`` names every refusal; a test fails when one is
missing.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from ledger import errors, secrets
from ledger.clock import Instant, format_instant
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
"""What each answers on the native API, where the operator asks about a key: 401 there would be
about the operator's own secret. Dialects, whose callers are keys, answer 401 to ``UNPROVEN``."""

UNPROVEN = (
    errors.NoSuchKey,
    errors.KeyIsRevoked,
    errors.KeyIsExpired,
    errors.KeyIsSuspended,
    errors.SecretIsRetired,
)
"""A secret that opens no key now, whatever the reason: the same answer for all of them."""


class Problem(Exception):
    """Something that is answered as problem+json and no decision of the ledger."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members


FIELD_SHOWN_MAX, PROBLEM_SHOWN_MAX = 255, 1_000
"""Characters: either may repeat what was sent, and what was sent may be megabytes."""


def invalid(field: str, problem: str) -> Problem:
    """Say which field is wrong and why."""
    field, problem = field[:FIELD_SHOWN_MAX], problem[:PROBLEM_SHOWN_MAX]
    detail = f"{field}: {problem}" if field else problem
    errors_member = [{"field": field, "problem": problem}]
    return Problem(400, "invalid_field", detail, errors=errors_member)


def unauthenticated(detail: str = "", *, presented: bool = True) -> Problem:
    """Say that nobody proved who asks. RFC 6750 §3.1: no error code where nothing was shown."""
    challenge = 'Bearer realm="keyledger"'
    if presented:
        challenge += ', error="invalid_token"'
    return Problem(
        401,
        "invalid_token" if presented else "credentials_are_missing",
        detail or "Show the operator's secret or a member's token as Bearer.",
        headers={"WWW-Authenticate": challenge},
    )


def forbidden(operation: str, role: str) -> Problem:
    """Say that the role does not allow the operation."""
    challenge = 'Bearer realm="keyledger", error="insufficient_scope"'
    return Problem(
        403,
        "role_is_denied",
        f"The role {role} does not allow this.",
        headers={"WWW-Authenticate": challenge},
        operation=operation,
    )


def not_found() -> Problem:
    """Say that there is nothing here."""
    return Problem(404, "not_found", "There is nothing here.")


TITLES: Mapping[int, str] = {
    400: "Bad request",
    401: "Unauthorized",
    402: "Payment required",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    428: "Precondition required",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service unavailable",
}


def of_status(status: int, detail: str = "") -> Problem:
    """Word a framework's error."""
    title = TITLES.get(status, "Error")
    return Problem(status, title.lower().replace(" ", "_"), detail or f"{title}.")


def of_error(
    error: errors.LedgerError,
    *,
    lane: int | None = None,
    at: Instant | None = None,
) -> Problem:
    """Word a refusal, or an unavailable ledger.

    ``at`` is now, for the Retry-After of what no lane decided.
    """
    if isinstance(error, errors.Refused):
        at = error.decided_at or at
    status = _status(error)
    members, headers = _members(error), _headers(error, at)
    code = getattr(error, "code", "") or _code(error)
    if lane is not None and isinstance(error, errors.Refused) and error.position:
        members["position"] = {"lane": lane, "seq": error.position}
        headers["Ledger-Position"] = f"{lane}:{error.position}"
    return Problem(status, code, str(error), headers=headers, **members)


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


def _headers(error: errors.LedgerError, at: Instant | None) -> dict[str, str]:
    if isinstance(error, errors.LedgerUnavailable):
        return {"Retry-After": str(error.retry_after_seconds)}
    if isinstance(error, errors.LimitIsReached) and error.resets_at is not None and at is not None:
        return {"Retry-After": str(wait_seconds(error.resets_at, at))}
    return {}


def wait_seconds(until: Instant, at: Instant) -> int:
    """Give whole seconds to wait, rounded up, at least one."""
    left = until - at
    return max(1, left.days * 86_400 + left.seconds + (left.microseconds > 0))


def _members(error: errors.LedgerError) -> dict[str, Any]:
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
    """Write the numbers by which a limit's refusal explains itself (promise 14)."""
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


def encode(problem: Problem) -> bytes:
    """Write a problem as its body. What was sent is named in it, but never a secret."""
    text = msgspec.json.encode(document(problem)).decode()
    return secrets.redacted(text).encode()


def document(problem: Problem) -> dict[str, Any]:
    """Give a problem's members in their order."""
    return {
        "type": TYPE + problem.code,
        "title": TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.members,
    }
