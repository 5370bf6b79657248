"""What a whole reply reports that it used, and whether it is a reply at all.

Only what may hold usage is decoded; an answer's text only where nothing else shows its size.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from api.gateway import sse, tokens
from api.gateway.meters import INPUT_ONLY, Meter
from api.gateway.wishes import Wish
from api.http.reading import UNREADABLE
from ledger.reports import Evidence, Observed, Reading
from ledger.said import Said, said_by
from ledger.usage import Usage

BEYOND_FACTOR = 16
BEYOND_TOKENS = 1_000_000
"""A report may exceed what was reserved by this much: media, thought, a provider's own prompts.
More is a wrong number, and nobody is billed for it."""
BYTES_PER_TOKEN_MOST = 16
"""Text is checked where fewer tokens than this are reported for it, and then four times fewer."""


class _Loose(msgspec.Struct):
    """A reply about which nothing is assumed but that it is an object."""

    usage: msgspec.Raw = msgspec.Raw()
    usageMetadata: msgspec.Raw = msgspec.Raw()  # noqa: N815
    x_groq: msgspec.Raw = msgspec.Raw()
    meta: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()
    model: msgspec.Raw = msgspec.Raw()
    modelVersion: msgspec.Raw = msgspec.Raw()  # noqa: N815
    id: msgspec.Raw = msgspec.Raw()
    responseId: msgspec.Raw = msgspec.Raw()  # noqa: N815
    service_tier: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    success: msgspec.Raw = msgspec.Raw()
    detail: msgspec.Raw = msgspec.Raw()
    # Members of a report that is in the reply itself.
    prompt_tokens: msgspec.Raw = msgspec.Raw()
    completion_tokens: msgspec.Raw = msgspec.Raw()
    input_tokens: msgspec.Raw = msgspec.Raw()
    output_tokens: msgspec.Raw = msgspec.Raw()
    total_tokens: msgspec.Raw = msgspec.Raw()
    prompt_tokens_details: msgspec.Raw = msgspec.Raw()
    completion_tokens_details: msgspec.Raw = msgspec.Raw()
    input_tokens_details: msgspec.Raw = msgspec.Raw()
    output_tokens_details: msgspec.Raw = msgspec.Raw()


_loose = msgspec.json.Decoder(_Loose)
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_FIELDS = _Loose.__struct_fields__
_WRAPS = frozenset({"response", "message"})
_LARGE: Mapping[str, tuple[bytes, ...]] = {
    "choices": (b'"usage"', b'"error"'),
    "output": (b'"web_search_call"',),
}
"""Members that may be large, and what they are decoded for."""
_NOTHING = frozenset({b"null", b"[]", b"{}", b'""'})


_BOM = b"\xef\xbb\xbf"
_DIGITS_MAX = 18


def decoded(body: bytes) -> Any:  # noqa: ANN401 - what somebody else made
    """Decode a whole reply, including numbers that JSON does not have.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return _any.decode(body)
    except UNREADABLE:
        pass
    try:
        # Python writes NaN and Infinity, and so do servers written in it.
        return json.loads(body, parse_constant=lambda _: None, parse_int=_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS_MAX else None


def _strict(body: bytes | msgspec.Raw) -> bytes | msgspec.Raw:
    """Rewrite a reply that holds numbers that JSON does not have."""
    try:
        return _encode(decoded(bytes(body)))
    except (ValueError, RecursionError):
        return b""


def looked(body: bytes | msgspec.Raw) -> dict[str, Any] | None:
    """Decode the parts of a reply that may show its usage; None: it is not an object."""
    found = _looked(body)
    return _looked(_strict(body)) if found is None else found


def _looked(body: bytes | msgspec.Raw) -> dict[str, Any] | None:
    try:
        loose = _loose.decode(body)
        found: dict[str, Any] = {}
        for name in _FIELDS:
            raw = bytes(getattr(loose, name))
            if not raw or raw in _NOTHING:
                continue
            if name in _WRAPS:
                found[name] = looked(raw) if raw[:1] == b"{" else _any.decode(raw)
            elif name in _LARGE and not any(sign in raw for sign in _LARGE[name]):
                found[name] = ()  # there, and of no interest
            else:
                found[name] = _any.decode(raw)
    except UNREADABLE:
        return None
    return found


def said_in(body: bytes) -> Said:
    """Find what a body reports as used, whatever else it is."""
    return said_by(looked(body) or {})


def says_error(reply: Mapping[str, Any]) -> bool:
    """Return whether a reply, or an event of a stream, reports a failure instead of an answer."""
    if reply.get("type") in {"error", "response.failed"} or reply.get("status") == "failed":
        return True
    if reply.get("object") == "error":
        return True
    excuses = reply.get("success") is False or any(_is_text(reply, name) for name in _EXCUSES)
    if excuses and not any(reply.get(name) is not None for name in _ANSWERS):
        return True
    choices = reply.get("choices")
    return _is_error(reply) or any(map(_is_error, choices if isinstance(choices, list) else ()))


def _is_error(part: object) -> bool:
    if not isinstance(part, Mapping):
        return False
    error = part.get("error")
    told = any(error.values()) if isinstance(error, Mapping) else bool(error)
    return told or part.get("finish_reason") == "error"


_ANSWERS = ("choices", "output", "usage", "response", "type")
"""Members of an answer, or of an event of one, that an error message does not have."""
_EXCUSES = ("detail", "message")
"""Members in which servers say why there is no answer."""


def _is_text(reply: Mapping[str, Any], name: str) -> bool:
    return isinstance(reply.get(name), str)


def failure_of(meter: Meter, content_type: str, body: bytes) -> str:
    """Say why what came under a status of success is no answer; empty: it is one."""
    if not meter.format:
        return ""
    text = body.removeprefix(_BOM).strip()
    if text in _EMPTY:
        return "an empty body"
    if _PAGE_TYPE.match(content_type) or _PAGE.match(text):
        return "a page for people"
    reply = looked(body)
    if reply is not None:
        failed = says_error(reply)
        if failed and reply.get("status") != "failed":
            # An error next to a whole answer does not undo it.
            failed = not any(meter.made(decoded(body)))
        return "an error under a status of success" if failed else ""
    try:
        body.decode()
    except UnicodeDecodeError:
        return "no text"
    return ""


_EMPTY = frozenset({b"", *_NOTHING})
_PAGE_TYPE = re.compile(r"\s*(?:text/html|application/xhtml\+xml)", re.IGNORECASE)
_PAGE = re.compile(rb"<(?:!doctype\s+html|html)\b", re.IGNORECASE)


def evidence_for(meter: Meter, wish: Wish) -> Evidence:
    """Begin to collect what is reported about a request."""
    form = INPUT_ONLY if meter.format == INPUT_ONLY else ""
    return Evidence(form, most=(_input_most(wish), _output_most(wish)))


def _input_most(wish: Wish) -> int:
    return BEYOND_FACTOR * wish.content.bound + BEYOND_TOKENS


def _output_most(wish: Wish) -> int:
    return BEYOND_FACTOR * wish.output + BEYOND_TOKENS


def passed(wish: Wish, output: int, least: int) -> Observed:
    """Return what is known of a request and its answer besides what is reported."""
    content = wish.content
    return Observed(
        input=lambda: content.estimate,
        output=output,
        least=least,
        input_most=_input_most(wish),
        output_most=_output_most(wish),
    )


def of_reply(meter: Meter, wish: Wish, body: bytes) -> Reading:
    """Return what a whole reply used: as reported, where that is plausible; else an estimate."""
    if not meter.format:
        return Reading(Usage(requests=1))
    evidence = evidence_for(meter, wish)
    evidence.take(said_in(body))
    told = evidence.output or 0
    known = passed(wish, 0, 0)
    if len(body) <= told * 4 * BYTES_PER_TOKEN_MOST and told <= known.output_most:
        # The whole body would not contradict it.
        return evidence.reading(known)
    made, least = _counted(_texts(meter, body))
    return evidence.reading(passed(wish, made, least))


def _texts(meter: Meter, body: bytes) -> Iterator[str]:
    try:
        return meter.made(decoded(body))
    except ValueError:
        # A success that is not JSON: the body itself is its text.
        return iter([body.decode(errors="replace")])


def _counted(texts: Iterator[str]) -> tuple[int, int]:
    """Return an estimate of the output's tokens, and the fewest that they can be."""
    made = size = pieces = 0
    for text in texts:
        pieces += 1
        made += tokens.count(text)
        size += len(text) if text.isascii() else len(text.encode(errors="replace"))
    least = max(size // BYTES_PER_TOKEN_MOST, 1) if pieces else 0
    return max(made, least), least


def is_stream(content_type: str) -> bool:
    """Return whether a media type is that of an event stream."""
    return content_type.lower().lstrip().startswith(sse.CONTENT_TYPE)
