"""A message to a persona and its answer, whole or as it is made; kept once it is complete."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar.types import Receive, Send

from api.beside.characters import Character
from api.beside.conversations import Session, Turn, require_message
from api.beside.session_rows import MessageIsNotKept
from api.dialects.foil import bodies, views
from api.dialects.foil.errors import word
from api.dialects.forwarding import forward
from api.gateway import sse
from api.http.exchange import Answer, answer
from api.http.failure import Failure, Kind
from api.http.reading import UNREADABLE
from api.http.routing import Ask, Reply, Streamed
from api.identity.credentials import KeyCaller

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

Talk = Ask[bodies.SendMessage, KeyCaller]


async def whole(ask: Talk, persona: Character, session: Session) -> Reply:
    """Give the whole answer."""
    reply = await _forward(ask, persona, session, stream=False)
    if not isinstance(reply, Answer):
        await _let_end(reply)
        raise Failure(Kind.UPSTREAM_FAILED, "The answer is a stream that nobody asked for")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    try:
        text = _text_of(reply.body)
        kept = await _keep(ask, session, text)
    except Failure as failure:
        # It counted all the same, and says what is left.
        failure.headers.update(headers)
        raise
    return answer(views.said(kept, text), headers=headers)


async def streamed(ask: Talk, persona: Character, session: Session) -> Reply:
    """Give the answer as it is made."""
    reply = await _forward(ask, persona, session, stream=True)
    if isinstance(reply, Answer):
        raise Failure(Kind.UPSTREAM_FAILED, "The answer is no stream although one was asked for")
    return Translated(ask, session, reply)


def _text_of(body: bytes) -> str:
    """Give the text of a completion; a model may answer with none.

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


async def _let_end(reply: Streamed) -> None:
    """Let a stream that goes to nobody end as one whose client has left, so that it is settled."""

    async def gone() -> Any:  # noqa: ANN401 - an ASGI message
        return {"type": "http.disconnect"}

    async def nowhere(message: Any) -> None:  # noqa: ANN401
        """Drop what it says."""

    await reply.stream(nowhere, gone)


async def _forward(ask: Talk, persona: Character, session: Session, *, stream: bool) -> Reply:
    said = require_message(ask.body.message)
    earlier = await ask.services.conversations.history(session, most=HISTORY_MAX)
    prompt = [{"role": "system", "content": persona.prompt()}] if persona.system_prompt else []
    document: Mapping[str, Any] = {
        "messages": [
            *prompt,
            *({"role": each.role, "content": each.content} for each in earlier),
            {"role": "user", "content": said},
        ],
        "max_tokens": OUTPUT_MAX,
        "stream": stream,
    }
    return await forward(
        ask,
        "chat",
        document=document,
        model=persona.slug,
        upstream_model=ask.services.gateway.default_model,
        own_errors=True,
    )


async def _keep(ask: Talk, session: Session, text: str) -> Session:
    """Keep what was said and answered; give the session as it stands then.

    Raises:
        Failure: The session was begun afresh meanwhile.
    """
    turn = Turn(user=ask.body.message, assistant=text)
    try:
        kept = await ask.services.conversations.add(session, turn)
    except MessageIsNotKept as error:
        # It was said and is paid for: the player hears it all the same.
        log.warning("message_not_kept", request_id=ask.request_id, sqlstate=str(error))
        return session
    if kept is None:
        raise Failure(Kind.CONFLICT, "The session was reset while the persona answered")
    return kept


class Translated:
    """The gateway's stream in foil's events: metadata, text_delta …, done or error."""

    def __init__(self, ask: Talk, session: Session, inner: Streamed) -> None:
        """Take the stream whose answer belongs to a session."""
        self._ask = ask
        self._session = session
        self._inner = inner
        self._splitter = sse.Splitter()
        self._text: list[str] = []
        self._failed = False
        self.status = inner.status
        self.headers = [
            (name, EVENT_STREAM if name == b"content-type" else value)
            for name, value in inner.headers
        ]

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end."""

        async def translate(message: Any) -> None:  # noqa: ANN401 - an ASGI message
            if message["type"] == "http.response.start":
                message["headers"] = self.headers
                await send(message)
                body = _event("metadata", views.metadata(self._session))
                more = True
            else:
                body, more = self._translate(message["body"]), message["more_body"]
                if not more:
                    body += await self._end()
            if body or not more:
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await self._inner.stream(translate, receive)

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
            kept = await _keep(self._ask, self._session, text)
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
