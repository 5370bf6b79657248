"""How venice says what went wrong: ``{"error": …}``, with ``details`` of invalid fields."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.wording import error_answer
from api.identity.wallet import WalletRefused, WalletUnavailable
from ledger.clock import Instant, microseconds
from ledger.errors import InvalidField, LimitIsReached

KEY_NOT_FOUND = "API key not found"
KEY_NOT_FOUND_OR_EXPIRED = "API key not found or expired"
KEY_COULD_NOT_BE_FOUND = "API key could not be found"
CHARACTER_NOT_FOUND = "Character not found"
NO_SUCH_CHARACTER_SLUG = "No character could be found from the provided character_slug"
MODEL_NOT_FOUND = "Specified model not found"

_ABSENT_KEYS = frozenset({KEY_NOT_FOUND, KEY_NOT_FOUND_OR_EXPIRED, KEY_COULD_NOT_BE_FOUND})
"""Answered with 400: only things with a public name have a 404."""


class Wording(NamedTuple):
    """Status and text of one kind of failure."""

    status: int
    text: str = ""
    """Empty: the failure's own detail."""


_UNPROVEN = Wording(401, "Authentication failed")
INVALID = "Invalid request parameters"
_RATE = "Rate limit exceeded"
_FAILURES = (
    "Too many failed attempts (> 20) resulting in a non-success status code."
    " Please wait 30 seconds and try again."
)
_BALANCE = (
    "Insufficient USD or Diem balance to complete request."
    " Visit https://venice.ai/settings/api to add credits."
)
_SPEND = (
    "API key {0} spend limit exceeded. Your account may still have {0} balance, but this API key"
    " has reached its configured {0} spending limit."
)

WORDS: Mapping[Kind, Wording] = {
    Kind.CREDENTIAL_IS_MISSING: _UNPROVEN,
    Kind.CREDENTIAL_IS_MALFORMED: _UNPROVEN,
    Kind.CREDENTIAL_IS_UNKNOWN: _UNPROVEN,
    Kind.CREDENTIALS_DISAGREE: Wording(400, INVALID),
    Kind.KEY_IS_REVOKED: _UNPROVEN,
    Kind.KEY_IS_SUSPENDED: _UNPROVEN,
    Kind.KEY_IS_EXPIRED: _UNPROVEN,
    Kind.ACCOUNT_IS_BARRED: _UNPROVEN,
    Kind.ROLE_IS_DENIED: Wording(401, "Admin API key required"),
    Kind.SCOPE_IS_DENIED: Wording(403, "Unauthorized access"),
    Kind.MODEL_IS_DENIED: Wording(
        403, "The model privacy of this API key does not allow this model"
    ),
    Kind.MODEL_IS_UNKNOWN: Wording(404),
    Kind.MODEL_IS_MISSING: Wording(400, "model is required"),
    Kind.RATE_IS_LIMITED: Wording(429, _RATE),
    Kind.BUDGET_IS_EXHAUSTED: Wording(402, _BALANCE),
    Kind.BALANCE_IS_EXHAUSTED: Wording(402, _BALANCE),
    Kind.TOO_MANY_KEYS: Wording(400, "API key limit reached"),
    Kind.NOT_FOUND: Wording(404),
    Kind.ACCESS_IS_DENIED: Wording(403, "Unauthorized access"),
    Kind.ROUTE_IS_UNKNOWN: Wording(404),
    Kind.METHOD_IS_UNKNOWN: Wording(405, "Method not allowed"),
    Kind.INVALID_FIELD: Wording(400, INVALID),
    Kind.INVALID_JSON: Wording(400, "Invalid JSON request"),
    Kind.UNSUPPORTED_MEDIA_TYPE: Wording(415, "Invalid request content-type"),
    Kind.TOO_LARGE: Wording(
        413, "The request payload is too large. Please reduce the size of your request."
    ),
    Kind.CONFLICT: Wording(409),
    Kind.IN_PROGRESS: Wording(409),
    Kind.UPSTREAM_FAILED: Wording(500, "Inference processing failed"),
    Kind.UPSTREAM_TIMED_OUT: Wording(
        504, "The request took too long to complete and was timed-out."
    ),
    Kind.UNAVAILABLE: Wording(
        503, "The service is temporarily unavailable. Please try again later."
    ),
    Kind.INTERNAL: Wording(500, "An unknown error occurred"),
}

_FIELDS = {"name": "description", "expires_at": "expiresAt"}
"""The ledger's name of a field → the page's, where they differ."""


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong; for a wrong field also ``{_errors: [], field: {_errors: […]}}``."""

    error: str
    details: dict[str, Any] | UnsetType = UNSET
    code: str = ""


def word(failure: Failure) -> Answer:
    """Write a failure."""
    words = WORDS[failure.kind]
    status, text = words.status, words.text or failure.detail or failure.kind.value
    if failure.kind is Kind.NOT_FOUND and text in _ABSENT_KEYS:
        status = 400
    elif failure.limit is not None:
        text = _of_limit(failure.limit) or text
        failure.headers.update(_limit_headers(failure.limit))
    view = Error(error=text)
    if isinstance(failure, WalletRefused | WalletUnavailable):
        view = Error(error=failure.detail)
    elif failure.kind is Kind.INVALID_FIELD:
        field = failure.field
        if isinstance(failure.error, InvalidField):
            field = _FIELDS.get(field, field)
        view = Error(error=text, details=details(field, failure.detail))
    elif failure.kind is Kind.TOO_LARGE:
        view = Error(code="PAYLOAD_TOO_LARGE", error=text)
    return error_answer(view, status, failure)


def _of_limit(limit: LimitIsReached) -> str:
    """Say which limit it was, where the page has words of its own for it."""
    match limit.kind:
        case "failures" if limit.used >= limit.ceiling:
            # Otherwise requests under way take the room, and none of them has failed yet.
            return _FAILURES
        case "spend" if limit.scope == "key":
            return _SPEND.format("DIEM" if limit.assets == ("DIEM",) else "USD")
        case _:
            return ""


def _limit_headers(limit: LimitIsReached) -> dict[str, str]:
    if limit.kind not in {"requests", "tokens"}:
        return {}
    return rate_headers(limit.kind, limit.ceiling, max(limit.left, 0), limit.resets_at)


def rate_headers(kind: str, ceiling: int, left: int, resets_at: Instant | None) -> dict[str, str]:
    """Write a limit on requests or tokens as headers; the reset in milliseconds since 1970."""
    found = {f"x-ratelimit-limit-{kind}": str(ceiling), f"x-ratelimit-remaining-{kind}": str(left)}
    if resets_at is not None:
        found[f"x-ratelimit-reset-{kind}"] = str(microseconds(resets_at) // 1_000)
    return found


def details(field: str, problem: str) -> dict[str, Any]:
    """Nest what is wrong under the field's name, one level for each part of it."""
    if not field:
        return {"_errors": [problem]}
    top, dot, rest = field.partition(".")
    inner = details(rest if dot else "", problem)
    return {"_errors": [], top: inner}
