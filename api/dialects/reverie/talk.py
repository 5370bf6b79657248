"""A chat with a character: its prompt goes first, a model of ours answers under its name."""

from collections.abc import Mapping
from typing import Any

import structlog
from litestar.types import Receive, Send

from api.beside.characters import NoSuchCharacter
from api.dialects.forwarding import forward
from api.dialects.reverie.choice import Choice
from api.http.exchange import Answer
from api.http.failure import Failure, Kind
from api.http.routing import Ask, Reply, Streamed
from api.identity.credentials import KeyCaller
from api.services import UNREACHABLE

WEB, API = "web", "api"

log = structlog.get_logger("keyledger.api")

Talk = Ask[Any, KeyCaller]


async def completed(ask: Talk, choice: Choice, document: Mapping[str, Any]) -> Reply:
    """Let the character answer, whole or streamed, and note the chat.

    Raises:
        LedgerError: The caller may not, or cannot pay.
        Failure: The request is wrong, or no upstream answered.
    """
    upstream_model = ask.services.gateway.default_model
    try:
        reply = await forward(
            ask,
            "chat",
            document=_prompted(document, choice),
            own_errors=True,
            model=choice.model,
            shown_model=choice.model,
            upstream_model=upstream_model,
            condition=choice.character.condition,
        )
    except Failure as failure:
        raise _ours(failure, upstream_model, choice.model) from failure
    if not isinstance(reply, Answer):
        return Noted(ask, choice, reply)
    await _note(ask, choice)
    return reply


def _prompted(document: Mapping[str, Any], choice: Choice) -> Mapping[str, Any]:
    """Put the character's prompt before the messages; none at all stay none, to be refused."""
    prompt, messages = choice.character.prompt(choice.scenario), document.get("messages")
    if not prompt or not messages or not isinstance(messages, list):
        return document
    return {**document, "messages": [{"role": "system", "content": prompt}, *messages]}


def _ours(failure: Failure, upstream_model: str, model: str) -> Failure:
    """Say nothing of the language model behind the character."""
    if failure.kind in {Kind.MODEL_IS_UNKNOWN, Kind.NOT_FOUND}:
        return Failure(Kind.UPSTREAM_FAILED, error=failure)
    if upstream_model in failure.detail:
        failure.detail = failure.detail.replace(upstream_model, model)
    return failure


async def _note(ask: Talk, choice: Choice) -> None:
    """Note the chat. What was delivered and charged stays so where that cannot be written."""
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


class Noted:
    """A stream whose chat is noted when it begins, inside the gateway's own care for its end."""

    def __init__(self, ask: Talk, choice: Choice, inner: Streamed) -> None:
        """Take the stream of a chat."""
        self._ask = ask
        self._choice = choice
        self._inner = inner
        self.status = inner.status
        self.headers = inner.headers

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end."""

        async def noting(message: Any) -> None:  # noqa: ANN401 - an ASGI message
            if message["type"] == "http.response.start":
                await _note(self._ask, self._choice)
            await send(message)

        await self._inner.stream(noting, receive)
