"""How bve says what went wrong: OpenAI's envelope with its documented codes."""

from collections.abc import Mapping

from api.exchange import Answer
from api.surface.failure import Failure, Kind
from api.surface.wording import Words, openai_answer


class StreamingIsUnsupported(Failure):
    """A text completion is not streamed."""

    def __init__(self) -> None:
        message = "Streaming is not supported for /v1/completions"
        super().__init__(Kind.INVALID_FIELD, message, field="stream")


_REQUEST = "invalid_request_error"
_AUTH = "authentication_error"
_SERVER = "api_error"

WORDS: Mapping[Kind, Words] = {
    Kind.CREDENTIAL_IS_MISSING: Words(401, _AUTH, "missing_api_key", "Missing API key"),
    Kind.CREDENTIAL_IS_MALFORMED: Words(401, _AUTH, "invalid_api_key", "Invalid API key"),
    Kind.CREDENTIAL_IS_UNKNOWN: Words(401, _AUTH, "invalid_api_key", "Invalid API key"),
    Kind.CREDENTIALS_DISAGREE: Words(400, _REQUEST, "invalid_request"),
    Kind.KEY_IS_REVOKED: Words(403, _AUTH, "api_key_revoked", "API key has been revoked"),
    Kind.KEY_IS_SUSPENDED: Words(403, _AUTH, "api_key_suspended", "API key is suspended"),
    Kind.KEY_IS_EXPIRED: Words(401, _AUTH, "invalid_api_key", "Invalid API key"),
    Kind.ACCOUNT_IS_BARRED: Words(403, _AUTH, "api_key_suspended", "API key is suspended"),
    Kind.ROLE_IS_DENIED: Words(401, _AUTH, "invalid_api_key", "Invalid admin API key"),
    Kind.SCOPE_IS_DENIED: Words(403, "permission_error", "insufficient_scope"),
    Kind.MODEL_IS_DENIED: Words(
        403, "permission_error", "model_not_allowed", "This API key may not use this model"
    ),
    Kind.MODEL_IS_UNKNOWN: Words(404, _REQUEST, "model_not_found"),
    Kind.MODEL_IS_MISSING: Words(400, _REQUEST, "invalid_request", "model is required"),
    Kind.RATE_IS_LIMITED: Words(429, "rate_limit_error", "rate_limit_exceeded"),
    Kind.BUDGET_IS_EXHAUSTED: Words(429, "insufficient_quota", "insufficient_quota"),
    Kind.BALANCE_IS_EXHAUSTED: Words(429, "insufficient_quota", "insufficient_quota"),
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
    Kind.UPSTREAM_FAILED: Words(502, _SERVER, "upstream_error", "The upstream service failed"),
    Kind.UPSTREAM_TIMED_OUT: Words(
        504, _SERVER, "upstream_error", "The upstream service took too long"
    ),
    Kind.UNAVAILABLE: Words(503, _SERVER, "service_unavailable"),
    Kind.INTERNAL: Words(500, _SERVER, "internal_error", "Something went wrong here"),
}

_UNSUPPORTED_STREAMING = Words(400, _REQUEST, "unsupported_streaming_completion")
_LIMITS = {
    "requests/rolling:60": "Rate limit exceeded: requests per minute",
    "requests/day": "Rate limit exceeded: requests per day",
    "requests/month": "Monthly request limit exceeded",
    "tokens/month": "Monthly token limit exceeded",
}


def word(failure: Failure) -> Answer:
    """Write a failure."""
    if isinstance(failure, StreamingIsUnsupported):
        return openai_answer({failure.kind: _UNSUPPORTED_STREAMING}, failure)
    limit = failure.limit
    if limit is not None and failure.kind is Kind.RATE_IS_LIMITED:
        said = _LIMITS.get(limit.limit_id, f"Rate limit exceeded: {limit.limit_id}")
        failure = Failure(failure.kind, said, headers=failure.headers, limit=limit)
    return openai_answer(WORDS, failure)
