"""Which model of a rate card a name means: by name, alias, pattern, or ``*``, in this order.

A name that the card does not have as it is written is looked for in lower case too.

The card alone decides; patterns are data in it. What a name could make slow is refused when the
card is checked, so that finding a model takes a bounded number of steps whatever the name.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from re import _parser  # type: ignore[attr-defined]  # what the check of an expression walks over
from typing import Any

import msgspec

OTHERS = "*"
"""Stands for every model that a card does not name."""

NAME_MAX = 256
"""Longest name of a model, alias, or text in a pattern, in characters."""

PATTERNS_MAX = 10_000
CLAUSES_MAX = 64
"""Clauses in one pattern."""

_DEPTH_MAX = 4

WAYS_MAX = 10_000
"""Ways in which an expression may try to match a name of ``NAME_MAX`` characters."""

_REPEATED_MAX = WAYS_MAX.bit_length()
_CACHE_MAX = 4_096


class Match(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Which names a pattern takes: exactly one of these. Names are compared in lower case."""

    equals: str = ""
    starts_with: str = ""
    ends_with: str = ""
    contains: str = ""
    regex: str = ""
    """Found anywhere in the lower-case name; only expressions that cannot take long."""
    either: "tuple[Match, ...]" = msgspec.field(default=(), name="or")
    """At least one of these."""
    every: "tuple[Match, ...]" = msgspec.field(default=(), name="and")
    """All of these."""


class Pattern(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Names of a model that the card does not list, such as those with a date."""

    model: str
    """Its name in the card; empty: such a name has no price."""
    match: Match
    after: str = ""
    """Takes only names that begin with this, in lower case, and matches what follows it."""


class InvalidPattern(ValueError):
    """The pattern breaks a rule."""


_Test = Callable[[str], bool]


class Names:
    """Finds the model that a name means. Remembers a bounded number of names."""

    def __init__(
        self, models: Iterable[str], aliases: Mapping[str, str], patterns: Sequence[Pattern]
    ) -> None:
        """Take what a checked card says."""
        self._exact = {**aliases, **{model: model for model in models}}
        self._others = self._exact.pop(OTHERS, None)
        self._patterns = [(each.after, _compiled(each.match), each.model) for each in patterns]
        self._found: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """Find the card's name of a model; None means that it has none."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        if name not in self._found:
            if len(self._found) >= _CACHE_MAX:
                # Callers choose the names, and must not fill memory.
                self._found.clear()
            self._found[name] = self._match(name)
        return self._found[name]

    def _match(self, name: str) -> str | None:
        if len(name) <= NAME_MAX:
            lower = name.lower()
            if lower in self._exact:
                return self._exact[lower]
            for after, test, model in self._patterns:
                if lower.startswith(after) and test(lower[len(after) :]):
                    return model or None
        return self._others


def _compiled(match: Match) -> _Test:
    if match.equals:
        return match.equals.lower().__eq__
    if match.starts_with:
        beginning = match.starts_with.lower()
        return lambda name: name.startswith(beginning)
    if match.ends_with:
        ending = match.ends_with.lower()
        return lambda name: name.endswith(ending)
    if match.contains:
        part = match.contains.lower()
        return lambda name: part in name
    if match.regex:
        search = re.compile(match.regex).search
        return lambda name: search(name) is not None
    tests = [_compiled(each) for each in match.either or match.every]
    return (
        (lambda name: any(test(name) for test in tests))
        if match.either
        else (lambda name: all(test(name) for test in tests))
    )


def check_match(match: Match) -> None:
    """Hold a pattern's match to its rules.

    Raises:
        InvalidPattern: It says which one is broken.
    """
    if _check_clauses(match) > CLAUSES_MAX:
        message = f"has more than {CLAUSES_MAX} clauses"
        raise InvalidPattern(message)


def _check_clauses(match: Match, depth: int = 1) -> int:
    given = [value for value in msgspec.structs.astuple(match) if value]
    if len(given) != 1:
        raise InvalidPattern(
            "must have exactly one of " + ", ".join(match.__struct_encode_fields__)
        )
    (value,) = given
    if isinstance(value, tuple):
        if depth == _DEPTH_MAX:
            message = f"is nested more than {_DEPTH_MAX} deep"
            raise InvalidPattern(message)
        return 1 + sum(_check_clauses(each, depth + 1) for each in value)
    if len(value) > NAME_MAX or not value.isprintable():
        message = f"has a text of more than {NAME_MAX} printable characters"
        raise InvalidPattern(message)
    if match.regex:
        _check_regex(match.regex)
    return 1


def _check_regex(text: str) -> None:
    try:
        re.compile(text)
        parsed = _parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        message = f"has an expression that cannot be read: {error}"
        raise InvalidPattern(message) from error
    anchored = bool(parsed) and str(parsed[0][1]).startswith("AT_BEGINNING")
    if _ways(parsed) * (1 if anchored else NAME_MAX) > WAYS_MAX:
        message = f"has an expression that could take long on some name: {text}"
        raise InvalidPattern(message)


def _ways(parsed: Iterable[tuple[Any, Any]]) -> int:
    """Count in how many ways at most an expression can be tried from one place of a name."""
    ways = 1
    for operation, argument in parsed:
        ways = min(ways * _ways_of(str(operation), argument), WAYS_MAX + 1)
    return ways


def _ways_of(operation: str, argument: Any) -> int:  # noqa: ANN401 (its parts are untyped)
    match operation, argument:
        case (("LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "AT"), _):
            return 1
        case "SUBPATTERN", (*_, inside):
            return _ways(inside)
        case (("ASSERT" | "ASSERT_NOT"), (_, inside)):
            return _ways(inside)
        case "BRANCH", (_, choices):
            return sum(map(_ways, choices))
        case (("MAX_REPEAT" | "MIN_REPEAT"), (least, most, inside)):
            most = min(int(most), NAME_MAX)
            once = _ways(inside)
            # At least two, to the power of the repetitions, soon exceeds any bound.
            several = once**most if once == 1 or most <= _REPEATED_MAX else WAYS_MAX + 1
            return int((most - min(int(least), most) + 1) * several)
        case _:
            # Back references and whatever a later Python brings.
            return WAYS_MAX + 1
