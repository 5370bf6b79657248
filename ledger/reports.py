"""What a provider's reply proves of what was used: one set of rules for whole replies and streams.

A report is evidence. Of several the last complete one stands where none before it states a larger
total; zeros, nulls and partial reports never lower a number, and cumulative ones are not added up.
What passed can contradict a report: then its undisputed numbers are kept and the rest is estimated.
Nothing here raises, except for a report that allows no defensible reading where nothing is known of
what passed.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ledger import shapes
from ledger.said import Said, is_name, raw, said_by
from ledger.shapes import DOUBTS_MAX, Counts, Fields, Side
from ledger.usage import CLASSES, InvalidUsage, Usage, add, context_tokens
from ledger.usage import output_tokens as made_by

OTHERS_MAX = 16
"""Other models inside one answer that are kept apart."""


class Observed(NamedTuple):
    """What is known of a request besides its report: what was seen to pass."""

    input: Callable[[], int]
    """Estimates the tokens that were read, where no report says."""
    output: int
    """Estimate of the tokens that were made."""
    least: int
    """A count of the same that is too small rather than too large; 0: nothing passed."""
    input_most: int
    """A larger number is an error, and nobody's bill."""
    output_most: int


class Reading(NamedTuple):
    """What was used, so far as the evidence goes."""

    usage: Usage
    others: tuple[tuple[str, Usage], ...] = ()
    """What other models used inside the same answer, each at its own prices."""
    doubts: tuple[str, ...] = ()
    """Fields of the report that were not believed."""
    estimated: bool = False
    condition: str | None = None
    served_model: str = ""
    raw: bytes = b""
    """The report as JSON, without any text of a message; at most 4 KiB."""
    provider_id: str = ""


class Evidence:
    """Takes in what a reply says, once or repeatedly, and works out what was used."""

    __slots__ = ("_counts", "_doubts", "_format", "_most", "_raws", "_said", "_searches")

    def __init__(self, format_: str = "", *, most: tuple[int, int] | None = None) -> None:
        """Begin with nothing. ``format_``: one of ``shapes.FORMATS``, where it is known.

        ``most``: tokens read and made that a report may state; None: any number of them.
        """
        self._format = format_
        self._most = most
        self._counts: Counts | None = None
        self._said = Said()
        self._searches = 0
        self._doubts: dict[str, None] = {}
        self._raws: list[Fields] = []

    def take(self, said: Said) -> bool:
        """Take in what is said; return whether that holds a report.

        Raises:
            InvalidUsage: The format is unknown.
        """
        before = self._said
        self._said = Said(
            None,
            said.model or before.model,
            before.condition if said.condition is None else said.condition,
            provider_id=before.provider_id or said.provider_id,
        )
        self._searches = max(self._searches + said.searched, said.searches)
        self._note_doubts(said.doubts)
        if said.report is None:
            return False
        found = shapes.counts(said.report, self._format)
        if said.announces:
            found = found._replace(output=found.output._replace(total=None))
        self._note_doubts(found.doubts)
        if self._most is not None:
            # Before it is weighed against others: a number gone wrong hides none that is right.
            found = found._replace(
                input=_plausible(found.input, self._most[0], self._doubts),
                output=_plausible(found.output, self._most[1], self._doubts),
            )
        known = self._counts
        self._counts = found if known is None else self._later(known, found)
        self._raws = [*self._raws[:1], said.report]
        return True

    def _note_doubts(self, names: tuple[str, ...]) -> None:
        self._doubts |= dict.fromkeys(names)

    def _later(self, known: Counts, found: Counts) -> Counts:
        """Combine what was known with what is said now."""
        into, made = (
            _unless_lower(known.input, found.input),
            _unless_lower(known.output, found.output),
        )
        if not all((into.total, made.total, known.input.total, known.output.total)):
            # What either of them states counts, the larger of each.
            sides = _larger(known.input, into), _larger(known.output, made)
        elif _total(into, made) >= _total(known.input, known.output):
            sides = into, made
        else:
            for old, new in ((known.input, into), (known.output, made)):
                if (new.total or 0) < (old.total or 0):
                    self._note_doubts((new.field,))
            sides = known.input, known.output
        more = {
            name: max(known.more.get(name, 0), found.more.get(name, 0))
            for name in {*known.more, *found.more}
        }
        return Counts(
            _with_parts(sides[0], known.input, found.input),
            _with_parts(sides[1], known.output, found.output),
            more,
            max(known.total or 0, found.total or 0) or None,
            max(known.steps, found.steps, key=_all_tokens),
        )

    @property
    def output(self) -> int | None:
        """Return the output tokens that are reported so far; None: none are."""
        return None if self._counts is None else self._counts.output.total

    def reading(self, observed: Observed | None = None, *, final: bool = True) -> Reading:
        """Work out what was used.

        ``observed`` None: nothing is known but what is reported. ``final`` False: more passed after
        the last report than it can know of.

        Raises:
            InvalidUsage: What is reported allows no defensible reading; never where ``observed``
                is given.
        """
        doubts = dict(self._doubts)
        if observed is None:
            usage, estimated = self._as_told(), False
        else:
            usage, estimated = self._weighed(observed, doubts, final=final)
        others: dict[str, Usage] = {}
        if self._counts is not None:
            usage = self._steps(self._counts, usage, others, observed, doubts)
        if self._searches > usage.searches:
            usage = msgspec.structs.replace(usage, searches=self._searches)
        said = self._said
        return Reading(
            usage,
            tuple(others.items()),
            tuple(doubts)[:DOUBTS_MAX],
            estimated,
            said.condition,
            said.model,
            raw(said, self._raws),
            said.provider_id,
        )

    def _as_told(self) -> Usage:
        """Read what is reported, and nothing else.

        Raises:
            InvalidUsage: A side is missing and cannot be derived from the rest.
        """
        found = self._counts
        if found is None:
            raise InvalidUsage("usage", "holds no known field of a usage report")
        for side in (found.input, found.output):
            if side.total is None:
                is_lone = side is found.output and side.field == "completion_tokens"
                if side.told_badly:
                    wrong = "is not a whole quantity, and cannot be derived from the other numbers"
                    raise InvalidUsage(side.field, wrong)
                if not is_lone or found.total is not None:
                    raise InvalidUsage(
                        side.field, "is missing, and cannot be derived from the other numbers"
                    )
        return shapes.usage_of(found)

    def _weighed(
        self, observed: Observed, doubts: dict[str, None], *, final: bool
    ) -> tuple[Usage, bool]:
        """Weigh what is reported against what passed; return whether anything was estimated."""
        found = self._counts
        if found is None:
            return Usage(input=observed.input(), output=observed.output), True
        into = _plausible(found.input, observed.input_most, doubts)
        made = _plausible(found.output, observed.output_most, doubts)
        if found.total is not None and into.total is made.total is None:
            output = min(observed.output, found.total)
            if found.total - output <= observed.input_most:
                split = Usage(input=found.total - output, output=output)
                return split, observed.least > 0
            doubts["total_tokens"] = None
        estimated = False
        told = made.total or 0
        if (
            made.total is None
            or told * 4 < observed.least
            or (not final and told < observed.output)
        ):
            contradicted = made.total is not None and told * 4 < observed.least
            if contradicted:
                doubts[made.field] = None
            estimated = made.total is None or told < observed.output
            made = made._replace(total=max(told, observed.output))
            if contradicted and not into.total:
                into = into._replace(total=None)
        if into.total is None:
            estimated = True
            into = into._replace(total=max(observed.input(), sum(into.parts.values())))
        return shapes.usage_of(found._replace(input=into, output=made)), estimated

    def _steps(
        self,
        found: Counts,
        own: Usage,
        others: dict[str, Usage],
        observed: Observed | None,
        doubts: dict[str, None],
    ) -> Usage:
        """Take the steps of other models apart, and add those that no total holds."""
        for step in found.steps:
            beyond = observed is not None and (
                context_tokens(step.usage) > observed.input_most
                or made_by(step.usage) > observed.output_most
            )
            is_other = bool(step.model) and step.model != self._said.model
            is_inside = step.kind in {"", "message"}
            if is_inside and not is_other:
                continue
            left = _less(own, step.usage) if is_inside else own
            full = is_other and step.model not in others and len(others) >= OTHERS_MAX
            if beyond or left is None or full or (step.model and not is_name(step.model)):
                doubts["iterations"] = None
            elif is_other:
                own = left
                others[step.model] = add(others.get(step.model, Usage()), step.usage)
            else:
                own = add(own, step.usage)
        return own


def _unless_lower(known: Side, found: Side) -> Side:
    """Let a zero say nothing where more was known."""
    return found._replace(total=None) if found.total == 0 and known.total else found


def _larger(known: Side, found: Side) -> Side:
    return known if found.total is None or found.total < (known.total or 0) else found


def _total(into: Side, made: Side) -> int:
    return (into.total or 0) + (made.total or 0)


def _all_tokens(steps: tuple[shapes.Step, ...]) -> int:
    return sum(context_tokens(step.usage) + made_by(step.usage) for step in steps)


def _with_parts(side: Side, *sources: Side) -> Side:
    """Keep parts that were reported once and are missing now, where they fit the total."""
    parts, total = dict(side.parts), side.total or 0
    most = max(source.total or 0 for source in sources)
    for source in sources:
        _split_as(source, parts)
        for name, number in source.parts.items():
            if parts.get(name):
                continue
            grown = total + number if side.apart else total
            if grown <= most and sum(parts.values()) + number <= grown:
                parts[name], total = number, grown
    return side if side.total is None else side._replace(parts=parts, total=total)


def _split_as(source: Side, parts: dict[str, int]) -> None:
    """Keep how cached tokens were split, where what is said now gives them in one number."""
    for whole, finer in _SPLITS:
        for name in finer:
            moved = 0 if name in parts else min(source.parts.get(name, 0), parts.get(whole, 0))
            if moved:
                parts[name], parts[whole] = moved, parts[whole] - moved


_SPLITS = (
    ("cache_write", ("cache_write_1h",)),
    ("cache_read", tuple(f"{kind}_cache_read" for kind in shapes.KINDS)),
)
"""Classes of cached tokens that some reports tell apart from the usual one, and others do not."""


def _plausible(side: Side, most: int, doubts: dict[str, None]) -> Side:
    """Leave out what exceeds all that was asked for; where parts stand apart, only those."""
    if (side.total or 0) <= most and sum(side.parts.values()) <= most:
        return side
    doubts[side.field] = None
    parts, total = dict(side.parts), side.total or 0
    while side.apart and parts and total > most:
        total -= parts.pop(max(parts, key=lambda name: parts[name]))
    if max(total, sum(parts.values())) <= most and side.total is not None:
        return side._replace(total=total, parts=parts)
    return Side(side.field)


def _less(whole: Usage, part: Usage) -> Usage | None:
    """Take a usage out of another; None: it is not in there."""
    pairs = zip(msgspec.structs.astuple(whole), msgspec.structs.astuple(part), strict=True)
    left = [one - other for one, other in pairs]
    if min(left) < 0:
        return None
    return Usage(**dict(zip(CLASSES, left, strict=True)))


def read(report: Fields, format_: str = "") -> Reading:
    """Read a report, or a whole reply that holds one, of which nothing else is known.

    Raises:
        InvalidUsage: The format is unknown, or no reading is defensible; it names the field.
    """
    evidence = Evidence(format_)
    if not evidence.take(said_by(report)):
        raise InvalidUsage("usage", "holds no known field of a usage report")
    return evidence.reading()
