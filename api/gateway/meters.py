"""How each kind of request is metered: its worst case, and where its answer holds its output."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from api.gateway import sse, wishes
from api.gateway.wishes import Reader


class Meter(NamedTuple):
    """A way to meter one kind of request."""

    name: str
    read: Reader
    """Reads what a request's body asks for."""
    format: str
    """Form of the provider's usage report; empty: the call itself is metered."""
    made: Callable[[Any], Iterator[str]]
    """Returns the texts that a whole reply holds; an empty one for output that is no text, such as
    sound."""
    pieces: Callable[[bytes], list[bytes]]
    """Finds the pieces of text in a stream's events, still escaped."""
    hints: tuple[bytes, ...]
    """Bytes found in events that have to be looked into; others pass untouched."""
    marks: re.Pattern[bytes]
    """Finds those events exactly."""
    hides_usage: bool = False
    """Whether a stream's usage is only sent to clients that ask for it."""
    error_event: str = ""
    """Name of the event that reports an error."""


TOKENS = "tokens"
INPUT_ONLY = "openai_embeddings"


_TEXTS = frozenset(
    {
        *("content", "reasoning_content", "reasoning", "refusal", "text", "thinking"),
        *("transcript", "arguments", "partial_json", "name", "input", "code", "reasoning_text"),
    }
)
_ASIDE = frozenset(
    {
        *("reasoning_details", "annotations", "citations", "logprobs", "search_results", "usage"),
        *("signature", "encrypted_content", "results", "outputs", "tools"),
    }
)
"""Members that repeat or annotate the output, or hold what the upstream's tools brought."""
_BROUGHT = ("_tool_result", "_call_output")
"""Type suffixes of what came from a tool and is no output."""
_MADE = ("_call", "tool_use", "redacted_thinking")
"""Type suffixes of output that may hold no text."""
_ARGUMENTS = frozenset({"arguments", "input"})
_encode = msgspec.json.Encoder().encode


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401
    """Return every text that a model made, at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        kind = str(value.get("type", ""))
        if not kind.endswith(_BROUGHT):
            if kind.endswith(_MADE):
                yield ""
            yield from _part_texts(value)


def _part_texts(value: dict[str, Any]) -> Iterator[str]:
    thought = value.get("reasoning_details")
    if thought and not (value.get("reasoning") or value.get("reasoning_content")):
        yield ""
        yield from _texts(thought)
    for name, each in value.items():
        # Some providers send the same thought under two names.
        if name != "reasoning" or each != value.get("reasoning_content"):
            yield from _member_texts(name, each)


def _member_texts(name: str, value: Any) -> Iterator[str]:  # noqa: ANN401
    if name in _ASIDE or not value:
        return
    if name in _TEXTS and isinstance(value, str):
        yield value
    elif name in _ARGUMENTS and isinstance(value, dict):
        yield _encode(value).decode()
    else:
        if name in {"audio", "images"}:
            yield ""
        yield from _texts(value)


def _of(member: str) -> Callable[[Any], Iterator[str]]:
    def made(document: Any) -> Iterator[str]:  # noqa: ANN401
        return _texts(document.get(member) if isinstance(document, dict) else None)

    return made


def _nothing(document: Any) -> Iterator[str]:  # noqa: ANN401, ARG001
    return iter(())


def _members(*names: bytes) -> re.Pattern[bytes]:
    """Match the texts of members by name. Quotes inside a text are escaped, so it ends right."""
    return re.compile(rb'"(?:%b)"\s*:\s*"((?:[^"\\]|\\.)+)"' % b"|".join(names), re.DOTALL)


_CHAT = (
    *(b"content", b"refusal", b"arguments", b"transcript", b"name", b"input"),
    *(b"thinking", b"reasoning_text"),
)
_PLAIN = _members(*_CHAT, b"text")
_WITH_REASONING_CONTENT = _members(*_CHAT, b"reasoning_content")
_WITH_REASONING = _members(*_CHAT, b"reasoning")
_THOUGHT_APART = _members(b"text", b"summary", b"data")
"""Members of a thought that comes in details only."""
_SOUND = re.compile(rb'"data"\s*:\s*"[^"]')
_PICTURE = re.compile(rb'"image_url"\s*:')


def _chat_pieces(block: bytes) -> list[bytes]:
    # Some providers send the same thought under two names, and again in details.
    if b'"reasoning' not in block:
        found = _PLAIN.findall(block)
    elif b'"reasoning_content"' in block:
        found = _WITH_REASONING_CONTENT.findall(block)
    else:
        found = _WITH_REASONING.findall(block) or _THOUGHT_APART.findall(block)
    if b'"audio"' in block:
        found += [b""] * len(_SOUND.findall(block))
    if b'"images"' in block:
        found += [b""] * len(_PICTURE.findall(block))
    return found


_DELTA = _members(b"delta")


def _response_pieces(block: bytes) -> list[bytes]:
    found = _DELTA.findall(block)
    if b'audio.delta"' in block:
        # Sound is not text, however long it is.
        found = [b""] * len(found)
    return found + [b""] * block.count(b'"partial_image_b64"')


_MESSAGE = _members(b"text", b"partial_json", b"thinking", b"name")


def _message_pieces(block: bytes) -> list[bytes]:
    if b'_tool_result"' in block:
        # What the upstream's tool brought comes in one event, and is no output.
        block = b"".join(each for each in sse.events(block) if b'_tool_result"' not in each)
    return _MESSAGE.findall(block)


_ERROR = rb'"error"\s*:\s*["{]|"(?:finish_reason|object)"\s*:\s*"error"|(?m:^event:\s*error)'
_USAGE = rb'"usage(?:Metadata)?"\s*:\s*\{|"(?:input|prompt|completion|output)_tokens"\s*:'
_HINTS = (b'"usage', b'_tokens"', b'"error"', b"event: error", b"event:error")
_CHAT_HINTS = (*_HINTS, b"[DONE]")
_CHAT_MARKS = re.compile(rb"%b|\[DONE\]|%b" % (_USAGE, _ERROR))

CHAT = Meter(
    "chat",
    wishes.of_chat,
    TOKENS,
    _of("choices"),
    _chat_pieces,
    _CHAT_HINTS,
    _CHAT_MARKS,
    hides_usage=True,
)
COMPLETION = Meter(
    "completion",
    wishes.of_completion,
    TOKENS,
    _of("choices"),
    _chat_pieces,
    _CHAT_HINTS,
    _CHAT_MARKS,
    hides_usage=True,
)
RESPONSE = Meter(
    "response",
    wishes.of_response,
    TOKENS,
    _of("output"),
    _response_pieces,
    (*_HINTS, b'"response.', b'"web_search_call"'),
    re.compile(
        rb'%b|"response\.(?:completed|incomplete|failed)"|"web_search_call"|%b' % (_USAGE, _ERROR)
    ),
    error_event="error",
)
EMBEDDING = Meter(
    "embedding",
    wishes.of_embedding,
    INPUT_ONLY,
    _nothing,
    _members(b"text").findall,
    _CHAT_HINTS,
    _CHAT_MARKS,
)
MESSAGES = Meter(
    "messages",
    wishes.of_messages,
    TOKENS,
    _of("content"),
    _message_pieces,
    (*_HINTS, b'"message_stop"'),
    re.compile(rb'%b|"message_stop"|%b' % (_USAGE, _ERROR)),
    error_event="error",
)
CALL = Meter("call", wishes.of_call, "", _nothing, _members(b"text").findall, (), _CHAT_MARKS)
"""Meters the call itself, where the rate card has a price for it; otherwise it is only admitted."""
