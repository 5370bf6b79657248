"""A chat with a character: its prompt goes first, a model of ours answers under its name."""

import functools
from collections.abc import Mapping
from typing import Any

import structlog
from litestar.types import Send

from api.beside.characters import NoSuchCharacter
from api.dialects.forwarding import forward
from api.dialects.reverie.choice import Choice
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.handlers import Reply
from api.http.streams import Relayed
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.server.database import UNREACHABLE

WEB, API = "web", "api"

log = structlog.get_logger("keyledger.api")

Talk = Ask[KeyCaller]


async def completed(ask: Talk, choice: Choice, document: Mapping[str, Any]) -> Reply:
    """Let the character answer, whole or streamed, and note the chat.

    Raises:
        LedgerError: The caller may not, or cannot pay.
        Failure: The request is wrong, or no upstream answered.
    """
    upstream_model = ask.services.gateway.default_model
    if "messages" in document:
        messages = choice.character.prompted(document["messages"], choice.scenario)
        document = {**document, "messages": messages}
    try:
        reply = await forward(
            ask,
            "chat",
            document=document,
            own_errors=True,
            model=choice.model,
            shown_model=choice.model,
            upstream_model=upstream_model,
            condition=choice.character.condition,
        )
    except Failure as failure:
        raise _ours(failure, upstream_model, choice.model) from failure
    if not isinstance(reply, Answer):
        return Relayed(reply, functools.partial(_noting, ask, choice))
    await _note(ask, choice)
    return reply


async def _noting(ask: Talk, choice: Choice, message: Any, send: Send) -> None:  # noqa: ANN401
    """Note the chat when its stream begins; the gateway still cares for how it ends."""
    if message["type"] == "http.response.start":
        await _note(ask, choice)
    await send(message)


def _ours(failure: Failure, upstream_model: str, model: str) -> Failure:
    """Say nothing of the language model behind the character."""
    if failure.kind in {Kind.MODEL_IS_UNKNOWN, Kind.NOT_FOUND}:
        return Failure(Kind.UPSTREAM_FAILED, error=failure)
    if upstream_model in failure.detail:
        failure.detail = failure.detail.replace(upstream_model, model)
    return failure


async def _note(ask: Talk, choice: Choice) -> None:
    """Note the chat; where that cannot be written, the answer and its charge stand."""
    caller = ask.caller
    try:
        await ask.services.characters.note_chat(
            caller.account_id,
            choice.character.character_id,
            via=WEB if caller.secret is None else API,
            scenario="" if choice.scenario is None else choice.scenario.slug,
        )
    except (NoSuchCharacter, *UNREACHABLE) as error:
        log.warning("chat_not_noted", request_id=ask.request_id, error=type(error).__name__)
