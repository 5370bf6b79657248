"""How reverie says what went wrong: OpenAI's envelope."""

from collections.abc import Mapping

from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.wording import (
    AUTH,
    INVALID_KEY,
    OPENAI_WORDS,
    PERMISSION,
    QUOTA,
    REQUEST,
    Words,
    openai_answer,
)

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
    **OPENAI_WORDS,
    Kind.CREDENTIAL_IS_MISSING: Words(401, AUTH, "invalid_api_key", "Missing API key"),
    Kind.KEY_IS_REVOKED: INVALID_KEY,
    Kind.KEY_IS_SUSPENDED: INVALID_KEY,
    Kind.ACCOUNT_IS_BARRED: INVALID_KEY,
    Kind.ROLE_IS_DENIED: Words(403, PERMISSION, "forbidden"),
    Kind.MODEL_IS_DENIED: Words(403, PERMISSION, "model_not_allowed"),
    Kind.MODEL_IS_MISSING: Words(404, REQUEST, "no_character"),
    Kind.BUDGET_IS_EXHAUSTED: Words(429, QUOTA, "insufficient_quota"),
    Kind.BALANCE_IS_EXHAUSTED: Words(402, QUOTA, "insufficient_credits", "Insufficient credits"),
}


def word(failure: Failure) -> Answer:
    """Write a failure."""
    return openai_answer(WORDS, failure)
