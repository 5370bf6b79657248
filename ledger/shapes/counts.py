"""What a report of usage comes to, and how its numbers are read one by one."""

from collections.abc import Mapping
from typing import NamedTuple

from ledger.usage import QUANTITY_MAX, Usage

Fields = Mapping[str, object]
DOUBTS_MAX = 16
"""Fields named of one report."""
STEPS_MAX = 64
"""Steps of one report that are looked at."""
KINDS = ("audio", "image", "video")


class Side(NamedTuple):
    """What was read, or what was made."""

    field: str
    """Where its number stands, or would."""
    total: int | None = None
    """All of it, parts included; None: not stated."""
    parts: Mapping[str, int] = {}
    """Units of the classes that are distinguished; what is left of the total is text."""
    apart: bool = False
    """Whether the parts stand beside the reported number, so that one more makes it larger."""
    told_badly: bool = False
    """Whether something stands in the field that is not a quantity."""


class Step(NamedTuple):
    """What one step inside an answer used."""

    kind: str
    model: str
    """Empty: the answer's own."""
    usage: Usage


class Counts(NamedTuple):
    """What a report says, so far as it is believed."""

    input: Side
    output: Side
    more: Mapping[str, int] = {}
    """Units of the classes that are not tokens."""
    total: int | None = None
    """All tokens, where only that is stated."""
    steps: tuple[Step, ...] = ()
    doubts: tuple[str, ...] = ()


class ReportObject:
    """An object inside a report; what is wrong in it is named among the doubts."""

    def __init__(self, fields: Fields, path: str, doubts: list[str]) -> None:
        self.fields = fields
        self._path = path
        self._doubts = doubts

    def name(self, field: str) -> str:
        """Return the path of a member, from the report's own root."""
        return f"{self._path}.{field}" if self._path else field

    def doubt(self, field: str) -> None:
        """Name a member that is not believed."""
        name = self.name(field)
        if name not in self._doubts and len(self._doubts) < DOUBTS_MAX:
            self._doubts.append(name)

    def number(self, field: str) -> int | None:
        """Read a whole quantity; None: there is none, or something else stands there."""
        value = self.fields.get(field)
        if value is None:
            return None
        number = _whole(value)
        if number is None:
            self.doubt(field)
        return number

    def count(self, field: str) -> int:
        """Read a whole quantity that is 0 where it is not stated."""
        return self.number(field) or 0

    def child(self, *fields: str) -> "ReportObject":
        """Take the first of these objects that says anything."""
        for field in fields:
            value = self.fields.get(field)
            if isinstance(value, Mapping) and value:
                return ReportObject(value, self.name(field), self._doubts)
            if value and not isinstance(value, Mapping):
                self.doubt(field)
        return ReportObject({}, self.name(fields[0]), self._doubts)

    def items(self, field: str) -> "list[ReportObject]":
        """Take the objects of a list."""
        values = self.fields.get(field)
        if not isinstance(values, list | tuple):
            if values:
                self.doubt(field)
            return []
        if not all(isinstance(value, Mapping) for value in values[:STEPS_MAX]):
            self.doubt(field)
        return [
            ReportObject(value, f"{self.name(field)}[{place}]", self._doubts)
            for place, value in enumerate(values[:STEPS_MAX])
            if isinstance(value, Mapping)
        ]


def _whole(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= QUANTITY_MAX else None


Place = tuple[ReportObject, str]
Parts = dict[str, tuple[int, Place]]
CACHE = frozenset({"cache_read", "cache_write", "cache_write_1h"})
REASONING = frozenset({"reasoning"})
NONE: frozenset[str] = frozenset()


def agreed(*places: Place, right: int | None = None) -> int:
    """Read one number that providers send under several names.

    Zero says nothing next to another number. Of others that differ ``right`` holds where it is
    among them, else the smallest: so much nobody disputes.
    """
    said = [
        (place, number) for place in places if (number := place[0].number(place[1])) is not None
    ]
    numbers = {number for _, number in said if number}
    if not numbers:
        return 0
    chosen = right if right is not None and right in numbers else min(numbers)
    for (node, field), number in said:
        if number != chosen:
            node.doubt(field)
    return chosen


def fitting(total: int | None, parts: Parts) -> dict[str, int]:
    """Leave out the largest part until all of them fit into their total."""
    kept = {name: part for name, part in parts.items() if part[0]}
    while total is not None and sum(number for number, _ in kept.values()) > total:
        largest = max(kept, key=lambda name: kept[name][0])
        _, (node, field) = kept.pop(largest)
        node.doubt(field)
    return {name: number for name, (number, _) in kept.items()}


def side(
    field: str, number: int | None, parts: Parts, *, apart: frozenset[str], bad: bool = False
) -> Side:
    """Put a side together; ``apart``: the classes that stand beside the number."""
    beside = {name: part[0] for name, part in parts.items() if name in apart and part[0]}
    inside = {name: part for name, part in parts.items() if name not in apart}
    total = None if number is None else number + sum(beside.values())
    return Side(field, total, fitting(number, inside) | beside, bool(apart), bad)


def usage_of(read: Counts) -> Usage:
    """Return counts as disjoint quantities; a side that is not stated is the sum of its parts."""
    quantities = dict(read.more)
    for side, rest in ((read.input, "input"), (read.output, "output")):
        parts = sum(side.parts.values())
        quantities |= {**side.parts, rest: max((side.total or 0) - parts, 0)}
    return Usage(**{name: min(number, QUANTITY_MAX) for name, number in quantities.items()})


class Hint(NamedTuple):
    """What the name of a format adds to what is in a report."""

    apart: bool | None = None
    """Whether cached tokens stand beside the input; None: as the fields look."""
    beside: bool = False
    """Whether reasoning stands beside the output."""
    hidden: bool = False
    """Whether thought stands in the total only."""
    input_only: bool = False


FORMATS: Mapping[str, Hint] = {
    "openai_chat": Hint(apart=False),
    "openai_responses": Hint(apart=False),
    "openai_embeddings": Hint(apart=False, input_only=True),
    "openai_realtime": Hint(apart=False),
    "openai_duration": Hint(),
    "anthropic_messages": Hint(apart=True),
    "google_generate_content": Hint(),
    "google_chat": Hint(apart=False, hidden=True),
    "xai_chat": Hint(apart=False, beside=True),
    "bedrock_converse": Hint(),
    "cohere": Hint(),
}
"""Every format that may be named, and what its name says beside the report."""
NO_HINT = Hint()
