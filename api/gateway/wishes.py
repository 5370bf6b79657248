"""What the body of a request asks for: model, stream or not, and its worst case.

Only what metering needs is read and checked; everything else is the upstream's to judge.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from api import reading
from api.gateway.content import Content
from api.problems import Problem
from api.surface.failure import Failure, Kind, invalid, of_problem
from ledger.usage import Usage

OUTPUT_DEFAULT = 4_096
"""Tokens reserved for an answer whose length the request leaves open."""
OUTPUT_MAX = 10_000_000
"""Largest ``max_tokens`` taken."""
CHOICES_MAX = 128
INPUTS_MAX = 2_048
MODEL_MAX = 255

Tokens = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_MAX)] | None
Choices = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None
Object = dict[str, Any]

Document = Mapping[str, Any]


class Wish(NamedTuple):
    """What metering needs to know of a request."""

    stream: bool
    usage_asked: bool
    """Whether the client wants to see the usage of a stream."""
    content: Content
    output: int
    """Tokens the answer may have at most."""

    @property
    def worst(self) -> Usage:
        """Give the usage to reserve."""
        return Usage(input=self.content.bound, output=self.output)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[Object] | None = None


class _Chat(msgspec.Struct):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    n: Choices = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[Object] | None = None
    functions: list[Object] | None = None
    response_format: Object | None = None


Prompt = str | list[str | int | list[int]]


class _Completion(msgspec.Struct):
    prompt: Prompt = ""
    suffix: str | None = None
    max_tokens: Tokens = None
    n: Choices = None
    best_of: Choices = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _Response(msgspec.Struct):
    input: str | list[Object] = ""
    instructions: str | list[Object] | None = None
    max_output_tokens: Tokens = None
    stream: bool | None = None
    background: bool | None = None
    tools: list[Object] | None = None
    text: Object | None = None


class _Embedding(msgspec.Struct):
    input: Prompt


class _Messages(msgspec.Struct):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: Tokens = None
    system: str | list[Object] | None = None
    stream: bool | None = None
    tools: list[Object] | None = None


Read = TypeVar("Read")


def _read(document: Document, form: type[Read]) -> Read:
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise of_problem(reading.worded(error)) from error


def model_of(document: Document) -> str:
    """Give the model that a request names.

    Raises:
        Failure: It names none, or not by a name.
    """
    model = document.get("model")
    if model is None or model == "":
        raise Failure(Kind.MODEL_IS_MISSING, field="model")
    if not isinstance(model, str) or len(model) > MODEL_MAX:
        raise invalid("model", f"must be a name of at most {MODEL_MAX} characters")
    return model


def of_chat(document: Document) -> Wish:
    """Read a chat completion."""
    asked = _read(document, _Chat)
    content = Content()
    content.add(document["messages"])
    for more in (asked.tools, asked.functions, asked.response_format):
        content.add_json(more)
    most = asked.max_completion_tokens or asked.max_tokens or OUTPUT_DEFAULT
    return _wish(asked, content, most * (asked.n or 1))


def of_completion(document: Document) -> Wish:
    """Read a legacy completion: each prompt has as many answers as are made of it."""
    asked = _read(document, _Completion)
    prompts = _prompts("prompt", asked.prompt)
    content = Content()
    content.add(asked.prompt)
    content.add(asked.suffix)
    most = asked.max_tokens or OUTPUT_DEFAULT
    choices = max(asked.n or 1, asked.best_of or 1)
    return _wish(asked, content, most * choices * prompts)


def of_response(document: Document) -> Wish:
    """Read a response."""
    asked = _read(document, _Response)
    if asked.background:
        raise invalid("background", "is not served here: nobody would meter what comes later")
    content = Content()
    for each in (asked.input, asked.instructions):
        content.add(each)
    for more in (asked.tools, asked.text):
        content.add_json(more)
    return Wish(
        bool(asked.stream),
        usage_asked=True,
        content=content,
        output=asked.max_output_tokens or OUTPUT_DEFAULT,
    )


def of_embedding(document: Document) -> Wish:
    """Read a request for embeddings, which have no output tokens."""
    asked = _read(document, _Embedding)
    _prompts("input", asked.input)
    content = Content()
    content.add(asked.input)
    return Wish(stream=False, usage_asked=True, content=content, output=0)


def of_messages(document: Document) -> Wish:
    """Read a request for Anthropic's messages, whose ``max_tokens`` is required."""
    asked = _read(document, _Messages)
    if asked.max_tokens is None:
        raise invalid("max_tokens", "is required")
    content = Content()
    for each in (asked.system, document["messages"]):
        content.add(each)
    content.add_json(asked.tools)
    return Wish(bool(asked.stream), usage_asked=True, content=content, output=asked.max_tokens)


def of_call(document: Document) -> Wish:  # noqa: ARG001 - as every reader
    """Read nothing: the call itself is what is metered."""
    return Wish(stream=False, usage_asked=True, content=Content(), output=0)


def _wish(asked: _Chat | _Completion, content: Content, most: int) -> Wish:
    options = asked.stream_options
    shown = options is not None and bool(options.include_usage)
    return Wish(bool(asked.stream), usage_asked=shown, content=content, output=most)


def _prompts(field: str, value: Prompt) -> int:
    """Count the prompts: a list of numbers is a single one.

    Raises:
        Failure: There are none, or too many.
    """
    if isinstance(value, str) or (value and isinstance(value[0], int)):
        return 1
    if not 1 <= len(value) <= INPUTS_MAX:
        raise invalid(field, f"must be 1 to {INPUTS_MAX} of them")
    return len(value)


_decoder = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes) -> dict[str, Any]:
    """Decode the body of a gatewayed request strictly.

    Raises:
        Failure: It is no JSON object, has a key twice, holds NUL, nests too deeply.
    """
    try:
        return reading.decode(_decoder, body)
    except Problem as problem:
        raise of_problem(problem) from problem


Reader = Callable[[Document], Wish]
