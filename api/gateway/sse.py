"""Server-sent events as bytes: split where events end, whatever the chunks, never decoded twice.

Bytes are passed on unchanged. An event is held back only until it is whole, because a client does
not see it before either (HTML Standard §9.2.6: an event is dispatched at its blank line).
"""

import re
from collections.abc import Iterator

EVENT_MAX = 16 * 1024 * 1024
"""Bytes of the largest event."""
CONTENT_TYPE = "text/event-stream"

# Atomic: otherwise the CR LF of one line's end would pass for two ends.
_BLANK = re.compile(rb"(?>\r\n|\n|\r){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_OVERLAP = 3
"""Bytes before a chunk that may belong to a blank line ending in it."""


class EventIsTooLarge(ValueError):
    """An event has more bytes than any should."""


class Splitter:
    """Collects chunks and returns whole events."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        """Begin with nothing held back."""
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk; return the bytes of all events that are whole now, unchanged.

        Raises:
            EventIsTooLarge: The event held back has grown too large.
        """
        held = self._held
        if not held and chunk.endswith(b"\n\n"):
            # Nearly every chunk is like this.
            return chunk
        start = max(len(held) - _OVERLAP, 0)
        held += chunk
        end = self._end(start)
        if len(held) - end > EVENT_MAX:
            raise EventIsTooLarge
        whole = bytes(held[:end])
        del held[:end]
        return whole

    def _end(self, start: int) -> int:
        held = self._held
        if b"\r" not in held:
            found = held.rfind(b"\n\n", start)
            return 0 if found < 0 else found + 2
        end = 0
        for match in _BLANK.finditer(held, start):
            end = match.end()
        return end

    @property
    def rest(self) -> bytes:
        """Return what is held back: the beginning of an event without its end."""
        return bytes(self._held)


def events(block: bytes) -> Iterator[bytes]:
    """Return the events of a block, each with its blank line."""
    start = 0
    for match in _BLANK.finditer(block):
        yield block[start : match.end()]
        start = match.end()
    if start < len(block):
        yield block[start:]


def data(event: bytes) -> bytes:
    """Return what the ``data`` lines of an event hold; empty: it is a comment, or has none."""
    found = []
    for line in _LINE_END.split(event):
        name, _, value = line.partition(b":")
        if name == b"data":
            found.append(value.removeprefix(b" "))
    return b"\n".join(found)


def event(body: bytes, name: str = "") -> bytes:
    """Write an event of one line of data."""
    head = b"event: %b\n" % name.encode() if name else b""
    return b"%bdata: %b\n\n" % (head, body)
