"""How foil says what went wrong: a message and nothing else."""

from collections.abc import Mapping

import msgspec

from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.wording import error_answer


class ErrorMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    message: str


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """foil's envelope of an error."""

    error: ErrorMessage


class LoginIsMissing(Failure):
    """Nothing was shown where a login's token is wanted."""

    def __init__(self) -> None:
        super().__init__(Kind.CREDENTIAL_IS_MISSING)


_INVALID_KEY = (401, "Invalid or missing API key")
_NO_LOGIN = (401, "Sign in to manage API keys")

WORDS: Mapping[Kind, tuple[int, str]] = {
    Kind.CREDENTIAL_IS_MISSING: _INVALID_KEY,
    Kind.CREDENTIAL_IS_MALFORMED: _INVALID_KEY,
    Kind.CREDENTIAL_IS_UNKNOWN: _INVALID_KEY,
    Kind.CREDENTIALS_DISAGREE: _INVALID_KEY,
    Kind.KEY_IS_REVOKED: _INVALID_KEY,
    Kind.KEY_IS_SUSPENDED: _INVALID_KEY,
    Kind.KEY_IS_EXPIRED: _INVALID_KEY,
    Kind.ACCOUNT_IS_BARRED: _INVALID_KEY,
    Kind.ROLE_IS_DENIED: _NO_LOGIN,
    Kind.SCOPE_IS_DENIED: (403, "This API key may not do this"),
    Kind.MODEL_IS_DENIED: (403, "This API key may not use this persona"),
    Kind.MODEL_IS_UNKNOWN: (404, "Persona not found"),
    Kind.MODEL_IS_MISSING: (400, "Persona is required"),
    Kind.RATE_IS_LIMITED: (429, "Rate limit exceeded"),
    Kind.BUDGET_IS_EXHAUSTED: (429, "Spending limit exceeded"),
    Kind.BALANCE_IS_EXHAUSTED: (402, "Insufficient credit"),
    Kind.TOO_MANY_KEYS: (400, "Too many active API keys"),
    Kind.NOT_FOUND: (404, ""),
    Kind.ACCESS_IS_DENIED: (403, ""),
    Kind.ROUTE_IS_UNKNOWN: (404, ""),
    Kind.METHOD_IS_UNKNOWN: (405, ""),
    Kind.INVALID_FIELD: (400, ""),
    Kind.INVALID_JSON: (400, "The body is not valid JSON"),
    Kind.UNSUPPORTED_MEDIA_TYPE: (415, ""),
    Kind.TOO_LARGE: (413, ""),
    Kind.CONFLICT: (409, ""),
    Kind.IN_PROGRESS: (409, ""),
    Kind.UPSTREAM_FAILED: (502, "The model service failed"),
    Kind.UPSTREAM_TIMED_OUT: (504, "The model service took too long"),
    Kind.UNAVAILABLE: (503, "Service temporarily unavailable"),
    Kind.INTERNAL: (500, "Internal server error"),
}
"""Status and message of every kind; an empty message: the failure's own."""


def word(failure: Failure) -> Answer:
    """Write a failure."""
    status, message = _NO_LOGIN if isinstance(failure, LoginIsMissing) else WORDS[failure.kind]
    if not message:
        message = failure.detail or failure.kind.value.replace("_", " ").capitalize()
        if failure.field:
            message = f"{failure.field}: {message}"
    if failure.kind is Kind.BUDGET_IS_EXHAUSTED:
        # Clients wait as long as this header says before they try again: it may be a month.
        failure.headers.pop("Retry-After", None)
    return error_answer(ErrorEnvelope(error=ErrorMessage(message=message)), status, failure)
