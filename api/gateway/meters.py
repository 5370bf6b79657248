"""How each kind of request is metered: its worst case, the usage of its reply and of its stream.

A provider's numbers are not trusted (OWASP API10): a report that is no set of whole quantities that
add up counts as no report at all, and the request is settled by estimate.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from api.gateway import sse, tokens, wishes
from api.gateway.wishes import Reader, Wish
from api.reading import UNREADABLE
from ledger import usage as usages
from ledger.usage import InvalidUsage, Usage

log = structlog.get_logger("keyledger.gateway")


class Meter(NamedTuple):
    """One way to meter."""

    name: str
    read: Reader
    """Reads the body."""
    format: str
    """Of the usage that a provider reports; empty: none, the call itself is metered."""
    made: Callable[[Any], Iterator[str]]
    """Gives the texts that a whole reply holds."""
    deltas: re.Pattern[bytes]
    """Finds the pieces of text in a stream's events."""
    hints: tuple[bytes, ...]
    """What stands in events that have to be looked into; others pass untouched."""
    marks: re.Pattern[bytes]
    """Finds those events exactly."""
    hides_usage: bool = False
    """Whether usage is only sent in a stream to who asks for it."""
    error_event: str = ""
    """Name of the event that tells an error."""


class Settled(NamedTuple):
    """What a request used, so far as is known."""

    usage: Usage
    estimated: bool


class _Inner(msgspec.Struct):
    usage: dict[str, Any] | None = None


class _Reported(msgspec.Struct):
    """Where usage may stand: at the top, in a response, in a message that begins."""

    usage: dict[str, Any] | None = None
    response: _Inner | None = None
    message: _Inner | None = None
    choices: list[msgspec.Raw] | None = None
    type: str = ""

    @property
    def found(self) -> dict[str, Any] | None:
        inner = self.response or self.message
        return self.usage or (inner.usage if inner is not None else None)


_reported = msgspec.json.Decoder(_Reported)
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

DONE = b"[DONE]"
_LAST_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})
_USAGE_IS_NULL = re.compile(rb',\s*"usage":\s*null|"usage":\s*null\s*,')


def _without_null_usage(block: bytes) -> bytes:
    # As nearly everybody writes it: found in no time.
    block = block.replace(b',"usage":null', b"")
    return _USAGE_IS_NULL.sub(b"", block) if b'"usage"' in block else block


def _report_of(body: bytes) -> _Reported | None:
    try:
        return _reported.decode(body)
    except UNREADABLE:
        return None


def report_of(body: bytes) -> dict[str, Any] | None:
    """Give the usage that a body reports, whatever else it is; None: it reports none."""
    reported = _report_of(body)
    return None if reported is None else reported.found


def normalised(meter: Meter, wish: Wish, report: Mapping[str, Any] | None) -> Usage | None:
    """Give a report as disjoint quantities; None: there is none, or it does not hold."""
    if not report:
        return None
    try:
        usage = usages.normalise(_format(meter, report), report)
    except InvalidUsage as error:
        log.warning("usage_not_understood", meter=meter.name, field=error.field)
        return None
    most = (
        BEYOND_FACTOR * wish.content.bound + BEYOND_TOKENS,
        BEYOND_FACTOR * wish.output + BEYOND_TOKENS,
    )
    if usages.context_tokens(usage) > most[0] or usages.output_tokens(usage) > most[1]:
        log.warning("usage_not_plausible", meter=meter.name, tokens=usages.tokens(usage))
        return None
    return usage


def _format(meter: Meter, report: Mapping[str, Any]) -> str:
    """Name a report's format. OpenAI's of chat has dialects, told by their numbers."""
    if meter.format != "openai_chat":
        return meter.format
    found = usages.detect(report) or ""
    return found if found.endswith("_chat") else meter.format


BEYOND_FACTOR = 16
BEYOND_TOKENS = 1_000_000
"""A report may exceed what was reserved, by so much: media, thought, a provider's own prompts. More
is a number gone wrong, and nobody's bill."""


def of_reply(meter: Meter, wish: Wish, body: bytes) -> Settled:
    """Tell what a whole reply used: as reported, else by estimate."""
    if not meter.format:
        return Settled(Usage(requests=1), estimated=False)
    reported = _report_of(body)
    usage = normalised(meter, wish, None if reported is None else reported.found)
    if usage is not None:
        return Settled(usage, estimated=False)
    try:
        made = sum(map(tokens.count, meter.made(_any.decode(body))))
    except UNREADABLE:
        # No JSON, and yet a success: its text is all of it.
        made = tokens.count(body.decode(errors="replace"))
    return Settled(Usage(input=wish.content.estimate, output=made), estimated=True)


class Tally:
    """What a stream used, counted while it passes."""

    __slots__ = ("_meter", "_report", "_wish", "deltas", "ended", "final", "size")

    def __init__(self, meter: Meter, wish: Wish) -> None:
        """Begin with nothing seen."""
        self._meter = meter
        self._wish = wish
        self._report: dict[str, Any] = {}
        self.deltas = 0
        self.size = 0
        self.final = False
        """Whether the usage seen is that of the whole answer."""
        self.ended = False
        """Whether the stream said that nothing follows."""

    def take(self, block: bytes) -> tuple[bytes, bytes]:
        """Take whole events; give what goes on now, and what only once the request is settled."""
        meter = self._meter
        found = meter.deltas.findall(block)
        if found:
            self.deltas += len(found)
            self.size += sum(map(len, found))
        hides = meter.hides_usage and not self._wish.usage_asked
        if hides and b'"usage"' in block:
            block = _without_null_usage(block)
        if not any(hint in block for hint in meter.hints) or meter.marks.search(block) is None:
            return block, b""
        now: list[bytes] = []
        last: list[bytes] = []
        for event in sse.events(block):
            passed = self._look(event, hides=hides)
            (last if self.ended else now).append(passed)
        return b"".join(now), b"".join(last)

    def _look(self, event: bytes, *, hides: bool) -> bytes:
        """Take note of what an event reports; give what the client is to see of it."""
        if self._meter.marks.search(event) is None:
            return event
        said = sse.data(event)
        if said.strip() == DONE:
            self.ended = True
            return event
        reported = _report_of(said)
        if reported is None:
            return event
        self._note(reported)
        if not hides or reported.usage is None:
            return event
        if not reported.choices:
            return b""
        document = _any.decode(said)
        del document["usage"]
        return sse.event(_encode(document))

    def _note(self, reported: _Reported) -> None:
        if reported.type in _LAST_TYPES or reported.type == "message_stop":
            self.ended = True
        report = reported.found
        if report is None:
            return
        # Anthropic reports input when a message begins, output when it ends.
        self._report |= {name: value for name, value in report.items() if value is not None}
        self.final = reported.message is None and not reported.choices

    def settled(self, *, whole: bool) -> Settled:
        """Tell what was used. ``whole``: the stream came to its end."""
        known = normalised(self._meter, self._wish, self._report)
        if known is not None and (whole or self.final):
            return Settled(known, estimated=False)
        made = tokens.of_deltas(self.deltas, self.size)
        if known is None:
            return Settled(Usage(input=self._wish.content.estimate, output=made), estimated=True)
        lacking = max(made - usages.output_tokens(known), 0)
        return Settled(usages.add(known, Usage(output=lacking)), estimated=True)


def _texts(value: Any, names: frozenset[str]) -> Iterator[str]:  # noqa: ANN401
    """Give every text that stands under one of these names, however deep."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name in names and isinstance(each, str):
                yield each
            else:
                yield from _texts(each, names)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, names)


_OUTPUT = frozenset({"content", "reasoning_content", "refusal", "arguments", "text", "thinking"})


def _of_choices(document: Any) -> Iterator[str]:  # noqa: ANN401
    return _texts(document.get("choices") if isinstance(document, dict) else None, _OUTPUT)


def _of_output(document: Any) -> Iterator[str]:  # noqa: ANN401
    return _texts(document.get("output") if isinstance(document, dict) else None, _OUTPUT)


def _of_content(document: Any) -> Iterator[str]:  # noqa: ANN401
    return _texts(document.get("content") if isinstance(document, dict) else None, _OUTPUT)


def _nothing(document: Any) -> Iterator[str]:  # noqa: ANN401, ARG001
    return iter(())


def _member(*names: bytes) -> re.Pattern[bytes]:
    """Find the texts of members by name. A quote inside a text is escaped, so none is mistaken."""
    return re.compile(rb'"(?:%b)":\s*"((?:[^"\\]|\\.)+)"' % b"|".join(names), re.DOTALL)


_CHAT_DELTAS = _member(b"content", b"reasoning_content", b"reasoning", b"refusal", b"arguments")
_CHAT_HINTS = (b'"usage"', DONE)
_CHAT_MARKS = re.compile(rb'"usage":\s*\{|\[DONE\]')

CHAT = Meter(
    "chat",
    wishes.of_chat,
    "openai_chat",
    _of_choices,
    _CHAT_DELTAS,
    _CHAT_HINTS,
    _CHAT_MARKS,
    hides_usage=True,
)
COMPLETION = Meter(
    "completion",
    wishes.of_completion,
    "openai_chat",
    _of_choices,
    _member(b"text"),
    _CHAT_HINTS,
    _CHAT_MARKS,
    hides_usage=True,
)
RESPONSE = Meter(
    "response",
    wishes.of_response,
    "openai_responses",
    _of_output,
    _member(b"delta"),
    (b'"usage"', b'"response.'),
    re.compile(rb'"usage":\s*\{|"response\.(?:completed|incomplete|failed)"'),
    error_event="error",
)
EMBEDDING = Meter(
    "embedding",
    wishes.of_embedding,
    "openai_embeddings",
    _nothing,
    _member(b"text"),
    _CHAT_HINTS,
    _CHAT_MARKS,
)
MESSAGES = Meter(
    "messages",
    wishes.of_messages,
    "anthropic_messages",
    _of_content,
    _member(b"text", b"partial_json", b"thinking"),
    (b'"usage"', b'"message_stop"'),
    re.compile(rb'"usage":\s*\{|"message_stop"'),
    error_event="error",
)
CALL = Meter("call", wishes.of_call, "", _nothing, _member(b"text"), (), _CHAT_MARKS)
"""The call itself, where the rate card has a price for it; else it is only admitted."""
