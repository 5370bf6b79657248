"""What the dialects' wording has in common: OpenAI's envelope, and a failure's headers."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from api.http.answers import Answer
from api.http.failure import Failure, Kind
from ledger import secrets

REALM = 'Bearer realm="keyledger"'
_UNPROVEN = frozenset(
    {
        Kind.CREDENTIAL_IS_MALFORMED,
        Kind.CREDENTIAL_IS_UNKNOWN,
        Kind.KEY_IS_REVOKED,
        Kind.KEY_IS_SUSPENDED,
        Kind.KEY_IS_EXPIRED,
        Kind.ACCOUNT_IS_BARRED,
        Kind.ROLE_IS_DENIED,
    }
)
_WAITING_HELPS = frozenset({409, 429, 503})


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
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}


class Words(NamedTuple):
    """How one kind of failure is worded in OpenAI's envelope."""

    status: int
    type: str
    code: str
    message: str = ""
    """Empty: the failure's own detail."""


REQUEST = "invalid_request_error"
AUTH = "authentication_error"
PERMISSION = "permission_error"
RATE = "rate_limit_error"
QUOTA = "insufficient_quota"
SERVER = "api_error"
INVALID_KEY = Words(401, AUTH, "invalid_api_key", "Invalid API key")

OPENAI_WORDS: Mapping[Kind, Words] = {
    Kind.CREDENTIAL_IS_MALFORMED: INVALID_KEY,
    Kind.CREDENTIAL_IS_UNKNOWN: INVALID_KEY,
    Kind.CREDENTIALS_DISAGREE: Words(400, REQUEST, "invalid_request"),
    Kind.KEY_IS_EXPIRED: INVALID_KEY,
    Kind.SCOPE_IS_DENIED: Words(403, PERMISSION, "insufficient_scope"),
    Kind.MODEL_IS_DENIED: Words(
        403, PERMISSION, "model_not_allowed", "This API key may not use this model"
    ),
    Kind.MODEL_IS_UNKNOWN: Words(404, REQUEST, "model_not_found"),
    Kind.MODEL_IS_MISSING: Words(400, REQUEST, "invalid_request", "model is required"),
    Kind.RATE_IS_LIMITED: Words(429, RATE, "rate_limit_exceeded"),
    Kind.TOO_MANY_KEYS: Words(400, REQUEST, "too_many_keys"),
    Kind.NOT_FOUND: Words(404, REQUEST, "not_found"),
    Kind.ACCESS_IS_DENIED: Words(403, PERMISSION, "forbidden"),
    Kind.ROUTE_IS_UNKNOWN: Words(404, REQUEST, "route_not_found"),
    Kind.METHOD_IS_UNKNOWN: Words(405, REQUEST, "method_not_allowed"),
    Kind.INVALID_FIELD: Words(400, REQUEST, "invalid_request"),
    Kind.INVALID_JSON: Words(400, REQUEST, "invalid_json"),
    Kind.UNSUPPORTED_MEDIA_TYPE: Words(415, REQUEST, "unsupported_media_type"),
    Kind.TOO_LARGE: Words(413, REQUEST, "request_too_large"),
    Kind.CONFLICT: Words(409, REQUEST, "conflict"),
    Kind.IN_PROGRESS: Words(409, REQUEST, "in_progress"),
    Kind.UPSTREAM_FAILED: Words(502, SERVER, "upstream_error", "The upstream service failed"),
    Kind.UPSTREAM_TIMED_OUT: Words(
        504, SERVER, "upstream_error", "The upstream service took too long"
    ),
    Kind.UNAVAILABLE: Words(503, SERVER, "service_unavailable"),
    Kind.INTERNAL: Words(500, SERVER, "internal_error", "Something went wrong on our side"),
}
"""What OpenAI-shaped dialects share. A dialect's own words take precedence over these."""


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; all four members are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's envelope of an error."""

    error: OpenAIError


def openai_answer(table: Mapping[Kind, Words], failure: Failure) -> Answer:
    """Write a failure in OpenAI's envelope by a dialect's table."""
    words = table[failure.kind]
    message = words.message or failure.detail or failure.kind.value.replace("_", " ").capitalize()
    if failure.field and not words.message:
        message = f"{failure.field}: {message}"
    if words.type == QUOTA:
        # With this header a client would take it for a matter of waiting, and retry.
        failure.headers.pop("Retry-After", None)
    error = OpenAIError(
        message=message, type=words.type, param=failure.field or None, code=words.code
    )
    return error_answer(OpenAIEnvelope(error=error), words.status, failure)


def error_answer(view: msgspec.Struct, status: int, failure: Failure) -> Answer:
    """Write an error with the headers that its status and kind require. Never a secret."""
    text = secrets.redacted(msgspec.json.encode(view).decode())
    return Answer(text.encode(), status=status, headers=headers_of(failure, status))


def headers_of(failure: Failure, status: int) -> dict[str, str]:
    """Return an error's headers: the challenge of RFC 6750, ``Retry-After`` where waiting helps."""
    headers = {
        name: value
        for name, value in failure.headers.items()
        if name != "Retry-After" or status in _WAITING_HELPS
    }
    challenge = _challenge(failure.kind, status)
    if challenge:
        headers["WWW-Authenticate"] = challenge
    return headers


def _challenge(kind: Kind, status: int) -> str:
    if kind is Kind.CREDENTIALS_DISAGREE:
        return f'{REALM}, error="invalid_request"'
    if kind is Kind.SCOPE_IS_DENIED:
        return f'{REALM}, error="insufficient_scope"'
    if status != 401:  # noqa: PLR2004
        return ""
    # RFC 6750 §3.1: no error code where nothing was shown.
    return f'{REALM}, error="invalid_token"' if kind in _UNPROVEN else REALM
