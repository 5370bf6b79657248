"""How bve says what went wrong: OpenAI's envelope with its documented codes."""

from collections.abc import Mapping

from api.dialects.bve import views
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.wording import AUTH, OPENAI_WORDS, QUOTA, REQUEST, Words, openai_answer
from ledger.errors import KeyIsExpired


class StreamingIsUnsupported(Failure):
    """A text completion is not streamed."""

    def __init__(self) -> None:
        message = "Streaming is not supported for /v1/completions"
        super().__init__(Kind.INVALID_FIELD, message, field="stream")


WORDS: Mapping[Kind, Words] = {
    **OPENAI_WORDS,
    Kind.CREDENTIAL_IS_MISSING: Words(401, AUTH, "missing_api_key", "Missing API key"),
    Kind.KEY_IS_REVOKED: Words(403, AUTH, "api_key_revoked", "API key has been revoked"),
    Kind.KEY_IS_SUSPENDED: Words(403, AUTH, "api_key_suspended", "API key is suspended"),
    Kind.ACCOUNT_IS_BARRED: Words(403, AUTH, "api_key_suspended", "API key is suspended"),
    Kind.ROLE_IS_DENIED: Words(401, AUTH, "invalid_api_key", "Invalid admin API key"),
    Kind.BUDGET_IS_EXHAUSTED: Words(429, QUOTA, "insufficient_quota"),
    Kind.BALANCE_IS_EXHAUSTED: Words(429, QUOTA, "insufficient_quota"),
}

_ENDED = WORDS[Kind.KEY_IS_REVOKED]
"""An expired key is worded so too: the page knows no other end, and lists show it as revoked. A
secret that a rotation replaced is not: its key lives on."""
_UNSUPPORTED_STREAMING = Words(400, REQUEST, "unsupported_streaming_completion")
_LIMITS = {
    views.RPM: "Rate limit exceeded: requests per minute",
    views.RPD: "Rate limit exceeded: requests per day",
    views.MONTHLY: "Monthly request limit exceeded",
    views.MONTHLY_TOKENS: "Monthly token limit exceeded",
}


def word(failure: Failure) -> Answer:
    """Write a failure."""
    if isinstance(failure, StreamingIsUnsupported):
        return openai_answer({failure.kind: _UNSUPPORTED_STREAMING}, failure)
    if isinstance(failure.error, KeyIsExpired):
        return openai_answer({failure.kind: _ENDED}, failure)
    limit = failure.limit
    if limit is not None and failure.kind is Kind.RATE_IS_LIMITED:
        said = _LIMITS.get(limit.limit_id, f"Rate limit exceeded: {limit.limit_id}")
        failure = Failure(failure.kind, said, headers=failure.headers, limit=limit)
    return openai_answer(WORDS, failure)
