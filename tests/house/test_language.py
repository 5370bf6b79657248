"""House rules over the English of docstrings and comments: phrases that make a reader stumble.

Each has the better wording, which the failure shows.
"""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.parsed import tree_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("ledger", "projections", "api") for path in (ROOT / package).rglob("*.py")
)

OPENINGS = {
    r"Gives?\b": "Return, Look up, Make, Write, Assign …",
    r"Tells?\b": "Return whether, Say, Show …",
}
"""What no docstring begins with, and what it may begin with instead."""

PHRASES = {
    r"\bfor who\b": "for anyone who",
    r"\bto who\b": "to anyone who",
    r"\bwhoso\b": "whoever",
    r"\bhangs? on\b": "depends on",
    r"\bof each model\b": "per model",
    r"\bas it came\b": "unchanged, as received",
    r"; gives? (?!up\b|back\b)": "; return",
    r"\bof (its|theirs?)(?=[.;,)]|$)": "of its own, of their own",
    r"\bin (its|their) stead\b": "instead",
    r"\bof late\b": "recently",
    r"(?:^|[.:] )Else\b": "Otherwise",
    r"\bwhat of an?\b": "the part of a, whatever a … has",
    r"\b(is|are) no more[.,;]": "no longer exists",
    r"\bmay (\w+ )?yet\b": "may still",
}
"""What stands in no docstring and no comment, and what does instead."""


def texts(path: Path) -> Iterator[tuple[int, bool, str]]:
    """Yield each docstring and comment: its line, whether it is a docstring, its text."""
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, True, " ".join(text.split())
    with path.open("rb") as source:
        block: list[str] = []
        end = 0
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.COMMENT:
                if token.start[0] != end + 1 and block:
                    yield end, False, " ".join(block)
                    block = []
                block.append(token.string.lstrip("#: "))
                end = token.start[0]
        if block:
            yield end, False, " ".join(block)


def stumbles(text: str, *, is_docstring: bool) -> Iterator[str]:
    """Yield what is wrong with a text."""
    if is_docstring:
        for opening, better in OPENINGS.items():
            if found := re.match(opening, text):
                yield f"begins with “{found[0]}”; write: {better}"
    for phrase, better in PHRASES.items():
        if found := re.search(phrase, text):
            yield f"“{found[0].strip()}”; write: {better}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give the account.", "begins with “Give”; write: Return, Look up, Make, Write, Assign …"),
        ("It hangs on the key.", "“hangs on”; write: depends on"),
        ("Quiet. Else it fails.", "“. Else”; write: Otherwise"),
    ],
)
def test_the_rules_bite(text: str, expected: str) -> None:
    """A planted stumble is found, with the better wording."""
    assert list(stumbles(text, is_docstring=True)) == [expected]


@pytest.mark.parametrize("text", ["Return what they gave.", "What else it does. The rest of it."])
def test_the_rules_let_plain_english_pass(text: str) -> None:
    """The same words elsewhere are fine."""
    assert not list(stumbles(text, is_docstring=True))


def test_docstrings_and_comments_are_plain_english() -> None:
    """No phrase of the list stands in them."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {wrong}"
        for path in SOURCES
        for line, is_docstring, text in texts(path)
        for wrong in stumbles(text, is_docstring=is_docstring)
    ]
    assert not found, "\n".join(found)
