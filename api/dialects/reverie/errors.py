"""How reverie says what went wrong: OpenAI's envelope."""

from collections.abc import Mapping

from api.exchange import Answer
from api.surface.failure import Failure, Kind
from api.surface.wording import Words, openai_answer

_REQUEST = "invalid_request_error"
_AUTH = "authentication_error"
_SERVER = "api_error"
_INVALID_KEY = Words(401, _AUTH, "invalid_api_key", "Invalid API key")


MODEL_SHOWN = 128
"""Characters of a model's name that an error repeats."""


class NoCharacter(Failure):
    """The request names no character, and nothing stands in for it."""

    def __init__(
        self,
        message: str = "Name a character as model, give the key a default character, or chat"
        " with one",
    ) -> None:
        super().__init__(Kind.MODEL_IS_MISSING, message, field="model")


def no_model(model: str, error: BaseException | None = None) -> Failure:
    """Say that a model names no character that the account may talk to."""
    message = f"There is no character {model[:MODEL_SHOWN]!r}"
    return Failure(Kind.MODEL_IS_UNKNOWN, message, field="model", error=error)


WORDS: Mapping[Kind, Words] = {
    Kind.CREDENTIAL_IS_MISSING: Words(401, _AUTH, "invalid_api_key", "Missing API key"),
    Kind.CREDENTIAL_IS_MALFORMED: _INVALID_KEY,
    Kind.CREDENTIAL_IS_UNKNOWN: _INVALID_KEY,
    Kind.CREDENTIALS_DISAGREE: Words(400, _REQUEST, "invalid_request"),
    Kind.KEY_IS_REVOKED: _INVALID_KEY,
    Kind.KEY_IS_SUSPENDED: _INVALID_KEY,
    Kind.KEY_IS_EXPIRED: _INVALID_KEY,
    Kind.ACCOUNT_IS_BARRED: _INVALID_KEY,
    Kind.ROLE_IS_DENIED: Words(403, "permission_error", "forbidden"),
    Kind.SCOPE_IS_DENIED: Words(403, "permission_error", "insufficient_scope"),
    Kind.MODEL_IS_DENIED: Words(403, "permission_error", "model_not_allowed"),
    Kind.MODEL_IS_UNKNOWN: Words(404, _REQUEST, "model_not_found"),
    Kind.MODEL_IS_MISSING: Words(404, _REQUEST, "no_character"),
    Kind.RATE_IS_LIMITED: Words(429, "rate_limit_error", "rate_limit_exceeded"),
    Kind.BUDGET_IS_EXHAUSTED: Words(429, "insufficient_quota", "insufficient_quota"),
    Kind.BALANCE_IS_EXHAUSTED: Words(
        402, "insufficient_quota", "insufficient_credits", "Insufficient credits"
    ),
    Kind.TOO_MANY_KEYS: Words(400, _REQUEST, "too_many_keys"),
    Kind.NOT_FOUND: Words(404, _REQUEST, "not_found"),
    Kind.ACCESS_IS_DENIED: Words(403, "permission_error", "forbidden"),
    Kind.ROUTE_IS_UNKNOWN: Words(404, _REQUEST, "route_not_found"),
    Kind.METHOD_IS_UNKNOWN: Words(405, _REQUEST, "method_not_allowed"),
    Kind.INVALID_FIELD: Words(400, _REQUEST, "invalid_request"),
    Kind.INVALID_JSON: Words(400, _REQUEST, "invalid_json"),
    Kind.UNSUPPORTED_MEDIA_TYPE: Words(415, _REQUEST, "unsupported_media_type"),
    Kind.TOO_LARGE: Words(413, _REQUEST, "request_too_large"),
    Kind.CONFLICT: Words(409, _REQUEST, "conflict"),
    Kind.UPSTREAM_FAILED: Words(502, _SERVER, "upstream_error", "The model service failed"),
    Kind.UPSTREAM_TIMED_OUT: Words(
        504, _SERVER, "upstream_error", "The model service took too long"
    ),
    Kind.UNAVAILABLE: Words(503, _SERVER, "service_unavailable"),
    Kind.INTERNAL: Words(500, _SERVER, "internal_error", "Something went wrong here"),
}


def word(failure: Failure) -> Answer:
    """Write a failure."""
    return openai_answer(WORDS, failure)
