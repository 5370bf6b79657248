"""A message to a persona and its answer, whole or as it is made; kept once it is complete."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import structlog
from litestar.types import Send

from api.beside.characters import Character
from api.beside.conversations import PlayerSession, Turn, require_message
from api.beside.session_rows import MessageIsNotKept
from api.dialects.foil import views
from api.dialects.foil.errors import word
from api.dialects.forwarding import forward
from api.gateway import sse
from api.http.answers import Answer, answer
from api.http.failure import Failure, Kind
from api.http.handlers import Reply
from api.http.reading import UNREADABLE
from api.http.streams import Relayed, drain
from api.identity.credentials import KeyCaller
from api.services import Ask

log = structlog.get_logger("keyledger.api")

HISTORY_MAX = 40
"""Messages of the session that the model is shown."""
OUTPUT_MAX = 1_024
"""Tokens a persona may answer."""
EVENT_STREAM = b"text/event-stream; charset=utf-8"

_encode = msgspec.json.Encoder().encode


class _Text(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Text | None = None
    message: _Text | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


_completion = msgspec.json.Decoder(_Completion)


class Talk(NamedTuple):
    """Something that is said to a persona."""

    ask: Ask[KeyCaller]
    said: str
    persona: Character
    session: PlayerSession


async def whole(talk: Talk) -> Reply:
    """Return the whole answer."""
    reply = await _forward(talk, stream=False)
    if not isinstance(reply, Answer):
        await drain(reply)
        raise Failure(Kind.UPSTREAM_FAILED, "The answer is a stream that nobody asked for")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    try:
        text = _text_of(reply.body)
        kept = await _keep(talk, text)
    except Failure as failure:
        # It was counted all the same: the headers say what is left.
        failure.headers.update(headers)
        raise
    return answer(views.said(kept, text), headers=headers)


async def streamed(talk: Talk) -> Reply:
    """Return the answer as it is made."""
    reply = await _forward(talk, stream=True)
    if isinstance(reply, Answer):
        raise Failure(Kind.UPSTREAM_FAILED, "The answer is no stream although one was asked for")
    headers = [
        (name, EVENT_STREAM if name == b"content-type" else value) for name, value in reply.headers
    ]
    return Relayed(reply, _Translation(talk).relay, headers=headers)


def _text_of(body: bytes) -> str:
    """Return the text of a completion; a model may answer with none.

    Raises:
        Failure: It is no completion.
    """
    try:
        choices = _completion.decode(body).choices
    except UNREADABLE as error:
        raise Failure(Kind.UPSTREAM_FAILED, error=error) from error
    if not choices or choices[0].message is None:
        raise Failure(Kind.UPSTREAM_FAILED, "The answer is no completion")
    return choices[0].message.content or ""


async def _forward(talk: Talk, *, stream: bool) -> Reply:
    said, gateway = require_message(talk.said), talk.ask.services.gateway
    earlier = await talk.ask.services.conversations.history(talk.session, most=HISTORY_MAX)
    messages = [
        *({"role": each.role, "content": each.content} for each in earlier),
        {"role": "user", "content": said},
    ]
    document: Mapping[str, Any] = {
        "messages": talk.persona.prompted(messages),
        "max_tokens": OUTPUT_MAX,
        "stream": stream,
    }
    return await forward(
        talk.ask,
        "chat",
        document=document,
        model=talk.persona.slug,
        upstream_model=gateway.default_model,
        own_errors=True,
    )


async def _keep(talk: Talk, text: str) -> PlayerSession:
    """Keep what was said and answered; return the session as it stands then.

    Raises:
        Failure: The session was begun afresh meanwhile.
    """
    turn = Turn(user=talk.said, assistant=text)
    try:
        kept = await talk.ask.services.conversations.add(talk.session, turn)
    except MessageIsNotKept as error:
        # It was said and is paid for: the player hears it all the same.
        log.warning("message_not_kept", request_id=talk.ask.request_id, sqlstate=str(error))
        return talk.session
    if kept is None:
        raise Failure(Kind.CONFLICT, "The session was reset while the persona answered")
    return kept


class _Translation:
    """Makes foil's events from the gateway's: metadata, text_delta …, done or error."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._splitter = sse.Splitter()
        self._text: list[str] = []
        self._failed = False

    async def relay(self, message: Any, send: Send) -> None:  # noqa: ANN401 - an ASGI message
        """Send on what a message of the gateway's stream says."""
        if message["type"] == "http.response.start":
            await send(message)
            body = _event("metadata", views.metadata(self._talk.session))
            more = True
        else:
            body, more = self._translate(message["body"]), message["more_body"]
            if not more:
                body += await self._end()
        if body or not more:
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def _translate(self, block: bytes) -> bytes:
        whole_events = self._splitter.feed(block)
        return b"".join(map(self._one, sse.events(whole_events)))

    def _one(self, event: bytes) -> bytes:
        try:
            said = _completion.decode(sse.data(event))
        except UNREADABLE:
            return b""  # [DONE], or a comment
        if said.error is not None:
            self._failed = True
            return _event("error", {"error": _message(said.error)})
        text = (
            said.choices[0].delta.content if said.choices and said.choices[0].delta else ""
        ) or ""
        if not text:
            return b""
        self._text.append(text)
        return _event("text_delta", {"text": text})

    async def _end(self) -> bytes:
        if self._failed:
            return b""
        text = "".join(self._text)
        try:
            kept = await _keep(self._talk, text)
        except Failure as failure:
            return _event("error", {"error": failure.detail})
        return _event("done", views.said(kept, text))


def _message(error: Any) -> str:  # noqa: ANN401 - our own words, or an upstream's
    found = error.get("message") if isinstance(error, dict) else error
    return str(found) if found else _words(Failure(Kind.UPSTREAM_FAILED))


def _words(failure: Failure) -> str:
    found: str = msgspec.json.decode(word(failure).body)["error"]["message"]
    return found


def _event(name: str, data: Any) -> bytes:  # noqa: ANN401 - whatever msgspec encodes
    return sse.event(_encode(data), name)
