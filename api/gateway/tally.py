"""What a stream used, counted while it passes, and which parts the client is not to see."""

import re
from typing import Any

import msgspec

from api.gateway import replies, sse, tokens
from api.gateway.meters import Meter
from api.gateway.wishes import Wish
from ledger.reports import Reading
from ledger.said import said_by

DONE = b"[DONE]"
HELD_MAX = 64 * 1024
"""Bytes of a stream that may be held back before any of its answer has come."""
_LAST_TYPES = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "message_stop"}
)
_USAGE_IS_NULL = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_ERROR_NAME = re.compile(rb"(?m:^event:\s*error)")
_encode = msgspec.json.Encoder().encode


def _without_null_usage(block: bytes) -> bytes:
    # The usual spelling, which is quick to find.
    block = block.replace(b',"usage":null', b"")
    return _USAGE_IS_NULL.sub(b"", block) if b'"usage"' in block else block


class StreamTally:
    """What a stream used, counted while it passes."""

    __slots__ = (
        "_begun",
        "_concludes",
        "_evidence",
        "_meter",
        "_told_at",
        "_weight",
        "_wish",
        "ended",
        "failed",
        "pieces",
    )

    def __init__(self, meter: Meter, wish: Wish) -> None:
        """Begin with nothing counted."""
        self._meter = meter
        self._wish = wish
        self._evidence = replies.evidence_for(meter, wish)
        self._begun = False
        self._told_at = -1
        """Pieces that had passed at the last report of output; −1: there was none."""
        self._concludes = False
        """Whether that report came in an event of its own, as the final one does."""
        self.pieces = 0
        """Pieces of the answer that have passed."""
        self._weight = 0
        self.ended = False
        """Whether the stream said that nothing follows."""
        self.failed = False
        """Whether it said that the upstream failed."""

    @property
    def final(self) -> bool:
        """Whether the usage seen is that of the whole answer."""
        return self._concludes and self._told_at == self.pieces

    def take(self, block: bytes) -> tuple[bytes, bytes]:
        """Take whole events; return what goes on now, and what only once the request is settled."""
        meter = self._meter
        if not self._begun:
            self._begin(block)
        hides = meter.hides_usage and not self._wish.usage_asked
        if hides and b'"usage"' in block:
            block = _without_null_usage(block)
        if not any(hint in block for hint in meter.hints) or meter.marks.search(block) is None:
            self._count(block)
            return block, b""
        now: list[bytes] = []
        last: list[bytes] = []
        for event in sse.events(block):
            self._count(event)
            passed = self._look(event, hides=hides)
            (last if self.ended else now).append(passed)
        return b"".join(now), b"".join(last)

    def _begin(self, block: bytes) -> None:
        """Note the model and the tier: the first event names them, and the last may not."""
        said = next((said for event in sse.events(block) if (said := sse.data(event))), b"")
        looked = replies.looked(said) if said else None
        self._begun = bool(said)
        if looked is not None:
            self._evidence.take(said_by(looked)._replace(report=None, searched=False))

    def _count(self, block: bytes) -> None:
        found = self._meter.pieces(block)
        if found:
            self.pieces += len(found)
            self._weight += tokens.weight_of(found)

    def _count_told(self, said: bytes) -> None:
        """Count an answer that came whole in the event that ends it, and not in pieces."""
        texts = self._meter.made(replies.decoded(said).get("response"))
        found = [_encode(text)[1:-1] for text in texts]
        self.pieces = len(found)
        self._weight = tokens.weight_of(found)

    def _look(self, event: bytes, *, hides: bool) -> bytes:
        """Note what an event reports; return what the client is to see of it."""
        if self._meter.marks.search(event) is None:
            return event
        said = sse.data(event)
        if said.strip() == DONE:
            self.ended = True
            return event
        looked = replies.looked(said)
        if looked is None:
            self.failed = self.failed or _ERROR_NAME.search(event) is not None
            return event
        if replies.says_error(looked) or _ERROR_NAME.search(event):
            self.failed = True
        if not self.pieces and looked.get("type") in _LAST_TYPES:
            self._count_told(said)
        has_usage = self._note(looked)
        return _hidden(said) if hides and has_usage else event

    def _note(self, looked: dict[str, Any]) -> bool:
        """Note an event; return whether it reports usage."""
        kind = looked.get("type")
        if kind in _LAST_TYPES:
            self.ended = True
        if not self._evidence.take(said_by(looked)):
            return False
        if kind != "message_start":  # which reports the input, and a placeholder for output
            self._told_at = self.pieces
            self._concludes = not looked.get("choices")
        return True

    def reading(self, *, whole: bool) -> Reading:
        """Return what was used. ``whole``: the stream came to its end."""
        made = tokens.of_pieces(self.pieces, self._weight)
        passed = replies.passed(self._wish, made, self.pieces)
        found = self._evidence.reading(passed, final=self._told_at == self.pieces)
        return found if whole or self.final else found._replace(estimated=True)


def begins(meter: Meter, held: bytes) -> bool | None:
    """Return whether a stream has begun: True, or False where it fails, or None: not seen yet.

    What comes before the first piece (a comment, a role, a message that begins) says nothing.
    """
    if len(held) > HELD_MAX or meter.pieces(held):
        return True
    if meter.marks.search(held) is None:
        return None
    says = False
    for event in sse.events(held):
        begins = _begins(event, says=says)
        if begins is not None:
            return begins
        says = says or bool(sse.data(event))
    return None


def _begins(event: bytes, *, says: bool) -> bool | None:
    """Decide by one event; ``says``: whether an earlier one said anything."""
    said = sse.data(event)
    if said.strip() == DONE:
        return says
    looked = replies.looked(said)
    if replies.says_error(looked or {}) or (said and _ERROR_NAME.search(event)):
        return False
    return True if looked and looked.get("type") in _LAST_TYPES else None


def says_nothing(held: bytes) -> bool:
    """Return whether a stream that is over held no answer: only comments, a role, a beginning.

    An empty answer still ends with a reason, or reports usage.
    """
    return _ENDS.search(b"".join(each for each in sse.events(held) if _START not in each)) is None


_START = b'"message_start"'
_ENDS = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"|"usage(?:Metadata)?"\s*:\s*\{')


def _hidden(said: bytes) -> bytes:
    """Return an event without its usage; empty: there was nothing else in it."""
    document = replies.decoded(said)
    choices = document.get("choices")
    if not choices:
        return b""
    for name in _REPORTS:
        document.pop(name, None)
    holders = [document.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    for holder in holders:
        if isinstance(holder, dict):
            holder.pop("usage", None)
            for inner in (holder.get("delta"), holder.get("message")):
                if isinstance(inner, dict):
                    inner.pop("usage", None)
    return sse.event(_encode(document))


_SIDES = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
_REPORTS = (
    *("usage", "usageMetadata", "total_tokens"),
    *_SIDES,
    *(f"{name}_details" for name in _SIDES),
)
