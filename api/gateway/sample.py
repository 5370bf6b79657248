"""The built-in sample model: deterministic answers with honest token counts, no upstream needed.

It speaks the protocols as a provider would, as bytes, so that everything in front of it is what
runs in production. The same question has the same answer, streamed or not, on every machine: text
and vectors are drawn from a hash of model and input. One event of a stream holds one token.
"""

import base64
import hashlib
import math
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from api.gateway import sse, tokens, wishes
from api.gateway.upstream import Outgoing
from api.gateway.wishes import Reader
from ledger import clock
from ledger.pricing import ModelPrice

SMALL, LARGE, EMBEDDING = "keyledger-small", "keyledger-large", "keyledger-embedding"
CHAT_MODELS = (SMALL, LARGE)
MODELS = (*CHAT_MODELS, EMBEDDING)

PRICES: Mapping[str, ModelPrice] = {
    SMALL: ModelPrice(prices={"input": "0.1", "cache_read": "0.05", "output": "0.4"}),
    LARGE: ModelPrice(prices={"input": "2", "cache_read": "1", "output": "8"}),
    EMBEDDING: ModelPrice(prices={"input": "0.02"}),
}
"""The sample models' prices per million tokens in a new database: in USD, for ryvion in CAD."""

DIMENSIONS_DEFAULT = 256
DIMENSIONS_MAX = 3_072
LENGTH_MIN, LENGTH_MAX = 16, 64
"""Tokens in an answer that nothing cuts short."""
STOPS_MAX = 4

_WORDS = (
    *("every", "ledger", "keeps", "exact", "counts", "a", "token", "is", "counted", "once"),
    *("the", "sample", "answers", "without", "any", "model", "behind", "it", "and", "still"),
    *("charges", "settle", "to", "last", "unit", "keys", "open", "doors", "while", "limits"),
    *("hold", "them", "nothing", "gets", "lost", "between", "two", "events", "so", "totals"),
    *("agree", "when", "read", "again", "this", "text", "comes", "from", "hash", "of"),
    *("your", "question", "same", "asked", "later", "gives", "equal", "words", "in", "order"),
    *("as", "before", "always", "now"),
)
_SENTENCE = 9
"""Words between full stops."""

_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode

EVENT_STREAM = f"{sse.CONTENT_TYPE}; charset=utf-8"
JSON = "application/json"


class SampleRefusal(Exception):
    """The sample does not do what was asked."""

    def __init__(self, status: int, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self.body = _encode({"error": error})


class Made:
    """An answer of the sample, whole or streamed."""

    __slots__ = ("_body", "_stream", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        stream: Iterator[bytes] | None = None,
    ) -> None:
        """Take a body, or the events of a stream."""
        self.status = status
        self.content_type = JSON if stream is None else EVENT_STREAM
        self.headers: Mapping[str, str] = MappingProxyType({})
        self._body = body
        self._stream = stream

    async def read(self, most: int) -> bytes:  # noqa: ARG002 - ours are small
        """Return the body."""
        return self._body if self._stream is None else b"".join(self._stream)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the events one by one."""
        for event in self._stream or iter((self._body,)):
            yield event

    def close(self) -> None:
        """Drop the events not yet read."""
        self._stream = None


class Text(NamedTuple):
    """One answer's text."""

    pieces: Sequence[str]
    """Its tokens."""
    why: str
    """``stop``, ``length`` or ``sequence``: a stop sequence was met."""
    sequence: str = ""

    @property
    def whole(self) -> str:
        """Return it in one piece."""
        return "".join(self.pieces)


class Question(NamedTuple):
    """What an answer is made from."""

    model: str
    seed: bytes
    """Hash of model and input."""
    input_tokens: int
    length: int | None
    """Tokens that an answer may have; None: unbounded."""
    stops: Sequence[str]
    choices: int = 1

    @property
    def name(self) -> str:
        """Return the part of an answer's id that follows from the question."""
        return self.seed.hex()[:24]

    def text(self, number: int = 0) -> Text:
        """Return an answer."""
        drawn = hashlib.shake_256(self.seed + number.to_bytes(4)).digest(LENGTH_MAX + 1)
        length = LENGTH_MIN + drawn[0] % (LENGTH_MAX - LENGTH_MIN + 1)
        cut = self.length is not None and self.length < length
        pieces = _pieces(drawn[1:], self.length if cut and self.length else length)
        return _stopped(Text(pieces, "length" if cut else "stop"), self.stops)


def _pieces(drawn: bytes, length: int) -> list[str]:
    pieces: list[str] = []
    begins = True
    for place, byte in enumerate(drawn[:length]):
        if place and place % _SENTENCE == 0 and not begins:
            pieces.append(".")
            begins = True
            continue
        word = _WORDS[byte % len(_WORDS)]
        shown = word.capitalize() if begins else word
        pieces.append(f" {shown}" if place else shown)
        begins = False
    return pieces


def _stopped(text: Text, stops: Sequence[str]) -> Text:
    whole = text.whole
    met = sorted((whole.index(stop), stop) for stop in stops if stop in whole)
    if not met:
        return text
    place, stop = met[0]
    return Text(tokens.split(whole[:place]), "sequence", stop)


def _question(
    document: Mapping[str, Any], reader: Reader, read: Sequence[str], most: Sequence[str]
) -> Question:
    """Read what is asked: fields in ``read`` make the answer, those in ``most`` bound it."""
    model = _model(document, CHAT_MODELS)
    asked = {name: document[name] for name in read if document.get(name) is not None}
    stops = document.get("stop") or document.get("stop_sequences") or []
    bounds = [document[name] for name in most if document.get(name) is not None]
    return Question(
        model=model,
        seed=hashlib.sha256(_canonical([model, asked, document.get("seed")])).digest(),
        input_tokens=reader(document).content.estimate,
        length=bounds[0] if bounds else None,
        stops=_stops([stops] if isinstance(stops, str) else stops),
        choices=document.get("n") or 1,
    )


def _stops(stops: Any) -> Sequence[str]:  # noqa: ANN401
    good = isinstance(stops, list) and len(stops) <= STOPS_MAX
    if not good or any(not isinstance(stop, str) or not stop for stop in stops):
        message = f"stop must be a string or at most {STOPS_MAX} of them"
        raise SampleRefusal(400, message, "stop", "invalid_value")
    return list(stops)


def _model(document: Mapping[str, Any], allowed: Sequence[str]) -> str:
    model = document.get("model")
    if model in allowed:
        return str(model)
    message = f"The model `{str(model)[:255]}` does not exist"
    raise SampleRefusal(404, message, "model", "model_not_found")


def _seconds() -> int:
    return clock.microseconds(clock.now()) // 1_000_000


def _usage(asked: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


_REASONS = {"stop": "stop", "sequence": "stop", "length": "length"}


# OpenAI's chat and legacy completions.


def chat(outgoing: Outgoing) -> Made:
    """Answer a chat completion."""
    assert outgoing.document is not None
    document = outgoing.document
    read = ("messages", "tools", "functions", "response_format")
    question = _question(document, wishes.of_chat, read, ("max_completion_tokens", "max_tokens"))
    texts = [question.text(number) for number in range(question.choices)]
    head = _head("chatcmpl", "chat.completion", question)
    if document.get("stream"):
        return Made(stream=_chat_stream(document, question, texts, head))
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text.whole, "refusal": None},
            "logprobs": None,
            "finish_reason": _REASONS[text.why],
        }
        for number, text in enumerate(texts)
    ]
    return Made(_encode({**head, "choices": choices, "usage": _usage_of(question, texts)}))


def _usage_of(question: Question, texts: Sequence[Text]) -> dict[str, int]:
    return _usage(question.input_tokens, sum(len(text.pieces) for text in texts))


def _head(prefix: str, kind: str, question: Question) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{question.name}",
        "object": kind,
        "created": _seconds(),
        "model": question.model,
        "system_fingerprint": "keyledger-sample",
    }


def _shows_usage(document: Mapping[str, Any]) -> bool:
    return bool((document.get("stream_options") or {}).get("include_usage"))


def _chat_stream(
    document: Mapping[str, Any], question: Question, texts: Sequence[Text], head: dict[str, Any]
) -> Iterator[bytes]:
    head = {**head, "object": "chat.completion.chunk"}
    shows = _shows_usage(document)
    hidden = {"usage": None} if shows else {}

    def chunk(number: int, delta: dict[str, str], why: str | None = None) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": why}
        return sse.event(_encode({**head, "choices": [choice], **hidden}))

    for number in range(len(texts)):
        yield chunk(number, {"role": "assistant", "content": ""})
    for number, text in enumerate(texts):
        for piece in text.pieces:
            yield chunk(number, {"content": piece})
        yield chunk(number, {}, _REASONS[text.why])
    if shows:
        usage = _usage_of(question, texts)
        yield sse.event(_encode({**head, "choices": [], "usage": usage}))
    yield sse.event(b"[DONE]")


def completion(outgoing: Outgoing) -> Made:
    """Answer a legacy completion: every prompt has ``n`` answers."""
    assert outgoing.document is not None
    document = outgoing.document
    for name in ("echo", "suffix"):
        if document.get(name):
            message = f"The sample model does not support {name}"
            raise SampleRefusal(400, message, name, "unsupported_parameter")
    question = _question(document, wishes.of_completion, ("prompt",), ("max_tokens",))
    prompts = document.get("prompt", "")
    many = isinstance(prompts, list) and bool(prompts) and not isinstance(prompts[0], int)
    count = question.choices * (len(prompts) if many else 1)
    texts = [question.text(number) for number in range(count)]
    head = _head("cmpl", "text_completion", question)
    if document.get("stream"):
        return Made(stream=_completion_stream(document, question, texts, head))
    choices = [_completion_choice(n, t.whole, _REASONS[t.why]) for n, t in enumerate(texts)]
    return Made(_encode({**head, "choices": choices, "usage": _usage_of(question, texts)}))


def _completion_choice(number: int, text: str, why: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": why}


def _completion_stream(
    document: Mapping[str, Any], question: Question, texts: Sequence[Text], head: dict[str, Any]
) -> Iterator[bytes]:
    shows = _shows_usage(document)
    hidden = {"usage": None} if shows else {}
    for number, text in enumerate(texts):
        for piece in text.pieces:
            choice = _completion_choice(number, piece, None)
            yield sse.event(_encode({**head, "choices": [choice], **hidden}))
        choice = _completion_choice(number, "", _REASONS[text.why])
        yield sse.event(_encode({**head, "choices": [choice], **hidden}))
    if shows:
        usage = _usage_of(question, texts)
        yield sse.event(_encode({**head, "choices": [], "usage": usage}))
    yield sse.event(b"[DONE]")


# OpenAI's responses.


def response(outgoing: Outgoing) -> Made:
    """Answer a response."""
    assert outgoing.document is not None
    document = outgoing.document
    if document.get("previous_response_id"):
        message = "The sample model does not store responses; leave out previous_response_id"
        raise SampleRefusal(400, message, "previous_response_id", "unsupported_parameter")
    read = ("instructions", "input", "tools", "text")
    question = _question(document, wishes.of_response, read, ("max_output_tokens",))
    text = question.text()
    whole = _response_view(question, document, text)
    if document.get("stream"):
        return Made(stream=_response_stream(question, document, text, whole))
    return Made(_encode(whole))


def _response_view(
    question: Question, document: Mapping[str, Any], text: Text | None
) -> dict[str, Any]:
    """Show a response; without text, one that has only begun."""
    cut = text is not None and text.why == "length"
    status = "in_progress" if text is None else "incomplete" if cut else "completed"
    return {
        "id": f"resp_{question.name}",
        "object": "response",
        "created_at": _seconds(),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": document.get("instructions"),
        "metadata": document.get("metadata") or {},
        "model": question.model,
        "output": [] if text is None else [_response_item(question, text)],
        "parallel_tool_calls": True,
        "temperature": document.get("temperature"),
        "tool_choice": "auto",
        "tools": [],
        "top_p": document.get("top_p"),
        "max_output_tokens": document.get("max_output_tokens"),
        "previous_response_id": None,
        "usage": None if text is None else _response_usage(question, text),
    }


def _response_item(question: Question, text: Text | None) -> dict[str, Any]:
    done = text is not None
    return {
        "id": f"msg_{question.name}",
        "type": "message",
        "role": "assistant",
        "status": "completed" if done else "in_progress",
        "content": [_response_part(text.whole)] if text is not None else [],
    }


def _response_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _response_usage(question: Question, text: Text) -> dict[str, Any]:
    return {
        "input_tokens": question.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(text.pieces),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": question.input_tokens + len(text.pieces),
    }


def _response_stream(
    question: Question, document: Mapping[str, Any], text: Text, whole: dict[str, Any]
) -> Iterator[bytes]:
    begun = _response_view(question, document, None)
    place = {"item_id": f"msg_{question.name}", "output_index": 0, "content_index": 0}
    item = _response_item(question, text)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": _response_item(question, None)},
        ),
        ("response.content_part.added", {**place, "part": _response_part("")}),
        *(
            ("response.output_text.delta", {**place, "delta": piece, "logprobs": []})
            for piece in text.pieces
        ),
        ("response.output_text.done", {**place, "text": text.whole, "logprobs": []}),
        ("response.content_part.done", {**place, "part": _response_part(text.whole)}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        (f"response.{whole['status']}", {"response": whole}),
    ]
    for number, (kind, members) in enumerate(steps):
        body = {"type": kind, "sequence_number": number, **members}
        yield sse.event(_encode(body), kind)


# Anthropic's messages.

_STOP_REASONS = {"stop": "end_turn", "sequence": "stop_sequence", "length": "max_tokens"}


def messages(outgoing: Outgoing) -> Made:
    """Answer Anthropic's messages."""
    assert outgoing.document is not None
    document = outgoing.document
    question = _question(
        document, wishes.of_messages, ("system", "messages", "tools"), ("max_tokens",)
    )
    text = question.text()
    head = {
        "id": f"msg_{question.name}",
        "type": "message",
        "role": "assistant",
        "model": question.model,
    }
    usage = {"input_tokens": question.input_tokens, "output_tokens": len(text.pieces)}
    ending = {
        "stop_reason": _STOP_REASONS[text.why],
        "stop_sequence": text.sequence or None,
    }
    if document.get("stream"):
        return Made(stream=_message_stream(head, usage, text, ending))
    content = [{"type": "text", "text": text.whole}]
    return Made(_encode({**head, "content": content, **ending, "usage": usage}))


def _message_stream(
    head: dict[str, Any], usage: dict[str, int], text: Text, ending: dict[str, Any]
) -> Iterator[bytes]:
    open_ended = {"stop_reason": None, "stop_sequence": None}
    begun = {**head, "content": [], **open_ended, "usage": {**usage, "output_tokens": 0}}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": begun}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})
            for piece in text.pieces
        ),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": ending, "usage": {"output_tokens": usage["output_tokens"]}}),
        ("message_stop", {}),
    ]
    for kind, members in steps:
        yield sse.event(_encode({"type": kind, **members}), kind)


# Embeddings.


def embedding(outgoing: Outgoing) -> Made:
    """Answer with unit vectors, as numbers or as base64 of little-endian 32-bit ones."""
    assert outgoing.document is not None
    document = outgoing.document
    model = _model(document, (EMBEDDING,))
    asked = document["input"]
    single = isinstance(asked, str) or isinstance(asked[0], int)
    inputs = [asked] if single else asked
    dimensions = document.get("dimensions") or DIMENSIONS_DEFAULT
    if not isinstance(dimensions, int) or not 1 <= dimensions <= DIMENSIONS_MAX:
        message = f"dimensions must be 1 to {DIMENSIONS_MAX}"
        raise SampleRefusal(400, message, "dimensions", "invalid_value")
    form = document.get("encoding_format") or "float"
    if form not in {"float", "base64"}:
        message = "encoding_format must be float or base64"
        raise SampleRefusal(400, message, "encoding_format", "invalid_value")
    counted = sum(map(_count, inputs))
    data = [
        {"object": "embedding", "index": number, "embedding": _shown(each, dimensions, form)}
        for number, each in enumerate(inputs)
    ]
    usage = {"prompt_tokens": counted, "total_tokens": counted}
    return Made(_encode({"object": "list", "data": data, "model": model, "usage": usage}))


def _count(value: str | list[int]) -> int:
    return tokens.count(value) if isinstance(value, str) else len(value)


def _shown(value: str | list[int], dimensions: int, form: str) -> Any:  # noqa: ANN401
    packed = _vector(_canonical(value), dimensions)
    if form == "base64":
        return base64.b64encode(packed).decode()
    return struct.unpack(f"<{dimensions}f", packed)


def _vector(seed: bytes, dimensions: int) -> bytes:
    drawn = hashlib.shake_256(seed).digest(2 * dimensions)
    # Odd, so that no vector is all zeros.
    numbers = [2 * number + 1 for number in struct.unpack(f"<{dimensions}h", drawn)]
    scale = math.pow(math.sqrt(sum(number * number for number in numbers)), -1)
    return struct.pack(f"<{dimensions}f", *(number * scale for number in numbers))


# Models.

CREATED = 1_764_547_200
"""2025-12-01 in Unix seconds: models have an age, and this one never changes."""


def _model_view(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "keyledger"}


def list_models(outgoing: Outgoing) -> Made:  # noqa: ARG001 - as every answer
    """List the models."""
    return Made(_encode({"object": "list", "data": list(map(_model_view, MODELS))}))


def get_model(outgoing: Outgoing) -> Made:
    """Show a model."""
    name = _model(outgoing.parameters, MODELS)
    return Made(_encode(_model_view(name)))


ANSWERS = {
    "chat": chat,
    "completions": completion,
    "responses": response,
    "messages": messages,
    "embeddings": embedding,
    "list_models": list_models,
    "get_model": get_model,
}
"""Answers by the name of the route's entry."""
