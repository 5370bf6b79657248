"""How ryvion says what went wrong: OpenAI's envelope; 401, 403 and 429 told apart as on the page.

Whatever is wrong with a key is one 401: the real reason is in the event log.
"""

from collections.abc import Mapping

from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.wording import (
    AUTH,
    INVALID_KEY,
    OPENAI_WORDS,
    PERMISSION,
    QUOTA,
    RATE,
    REQUEST,
    Words,
    openai_answer,
)
from ledger.errors import LimitIsReached
from ledger.limits import LimitId
from ledger.money import format_pico

WORDS: Mapping[Kind, Words] = {
    **OPENAI_WORDS,
    Kind.CREDENTIAL_IS_MISSING: Words(401, AUTH, "missing_api_key", "Missing API key"),
    Kind.KEY_IS_REVOKED: INVALID_KEY,
    Kind.KEY_IS_SUSPENDED: INVALID_KEY,
    Kind.ACCOUNT_IS_BARRED: INVALID_KEY,
    Kind.ROLE_IS_DENIED: Words(403, PERMISSION, "insufficient_role"),
    Kind.SCOPE_IS_DENIED: Words(
        403, PERMISSION, "insufficient_scope", "Insufficient scope for the requested action"
    ),
    Kind.BUDGET_IS_EXHAUSTED: Words(429, RATE, "spending_limit_exceeded"),
    Kind.BALANCE_IS_EXHAUSTED: Words(402, QUOTA, "insufficient_balance", "Insufficient balance"),
    Kind.TOO_MANY_KEYS: Words(400, REQUEST, "too_many_keys", "Too many active API keys"),
}

_DOLLARS = frozenset({"CAD", "USD"})
_WINDOWS = {"rolling:3600": "hour", "day": "day", "month": "month"}
_RATES = {
    LimitId("requests", "rolling:60").text: "requests per minute",
    LimitId("requests", "day").text: "requests per day",
    LimitId("tokens", "rolling:60").text: "tokens per minute",
    LimitId("key_creations", "rolling:60").text: "API keys created per minute",
}


def word(failure: Failure) -> Answer:
    """Write a failure."""
    words = WORDS[failure.kind]
    limit = failure.limit
    if limit is not None and failure.kind is Kind.BUDGET_IS_EXHAUSTED:
        words = _spending(words, limit)
    elif limit is not None and failure.kind is Kind.RATE_IS_LIMITED:
        said = _RATES.get(limit.limit_id, limit.limit_id)
        words = words._replace(message=f"Rate limit exceeded: {said}")
    elif failure.kind is Kind.CREDENTIAL_IS_UNKNOWN and failure.error is None and failure.detail:
        # An email address and a password were shown, not a key: it is they that are wrong.
        words = words._replace(message="")
    return openai_answer({failure.kind: words}, failure)


def _spending(words: Words, limit: LimitIsReached) -> Words:
    per, current = None, ""
    # For all spending, or all of one asset: the page has no words for a part of it.
    if len(limit.assets) <= 1 and not (limit.category or limit.model or limit.each_model):
        per = _WINDOWS.get(limit.window)
    if per is not None:
        current = f" Current limit: {amount(limit.ceiling, ''.join(limit.assets))}/{per}."
    if per == "hour":
        said = f"Spending velocity limit exceeded.{current}"
        return words._replace(code="spending_velocity_exceeded", message=said)
    return words._replace(message=f"Spending limit exceeded.{current}")


def amount(pico: int, asset: str) -> str:
    """Write an amount with cents at least: ``$5.00 CAD``."""
    whole, _, places = format_pico(pico).partition(".")
    sign = "$" if asset in _DOLLARS else ""
    return f"{sign}{whole}.{places.ljust(2, '0')} {asset}".rstrip()
