"""The shapes in which providers report usage, recognised by their fields.

Providers count inclusively, each in its own way: OpenAI's ``prompt_tokens`` hold the cached ones,
Anthropic's ``input_tokens`` do not, xAI's reasoning stands beside ``completion_tokens``. Of the
ways to read a report the one that keeps the provider's own totals is taken. Only a number
that fits nowhere is lost: it is left out, and its field is named among the doubts.
"""

from collections.abc import Callable, Mapping

from ledger.shapes import own
from ledger.shapes.counts import (
    DOUBTS_MAX,
    FORMATS,
    KINDS,
    NO_HINT,
    STEPS_MAX,
    Counts,
    Fields,
    Hint,
    ReportObject,
    Side,
    Step,
    usage_of,
)
from ledger.shapes.tokens import plain, tokens
from ledger.usage import InvalidUsage


def counts(report: Fields, format_: str = "") -> Counts:
    """Read a usage report, whatever its shape. ``format_``: one of FORMATS, where it is known.

    Raises:
        InvalidUsage: Nothing in it is known, or there is no such format.
    """
    hint = FORMATS.get(format_) if format_ else NO_HINT
    if hint is None:
        raise InvalidUsage("format", f"must be one of {', '.join(FORMATS)}")
    if hint.apart is not True and (found := plain(report)) is not None:
        return found
    doubts: list[str] = []
    node = ReportObject(report, "", doubts)
    for field, reader in _SHAPES:
        if field in report:
            return reader(node, hint)._replace(doubts=tuple(doubts))
    raise InvalidUsage("usage", "holds no known field of a usage report")


def is_known(report: object) -> bool:
    """Return whether something looks like a usage report."""
    if not isinstance(report, Mapping):
        return False
    return not _SHAPE_FIELDS.isdisjoint(report)


_Reader = Callable[[ReportObject, Hint], Counts]
_SHAPES: tuple[tuple[str, _Reader], ...] = (
    ("promptTokenCount", own.google),
    ("candidatesTokenCount", own.google),
    ("inputTokens", own.bedrock),
    ("outputTokens", own.bedrock),
    ("billed_units", own.cohere),
    ("prompt_tokens", tokens),
    ("input_tokens", tokens),
    ("completion_tokens", tokens),
    ("output_tokens", tokens),
    ("total_tokens", tokens),
    ("seconds", own.seconds),
)
"""A field that identifies a shape, and what reads it."""
_SHAPE_FIELDS = frozenset(field for field, _ in _SHAPES)

__all__ = [
    "DOUBTS_MAX",
    "FORMATS",
    "KINDS",
    "STEPS_MAX",
    "Counts",
    "Fields",
    "Side",
    "Step",
    "counts",
    "is_known",
    "usage_of",
]
