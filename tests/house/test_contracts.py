"""House rule: each promise of the five dialects' contracts is named by a test that holds it.

A test names one in its name (`test_y8_…`) or first in its docstring ("Y8, Y10: …"), in a file about
that dialect: elsewhere the same letters number something else.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
FOLDERS = ("dialects", "mcp", "conversations", "wallet")
PROMISES = frozenset(
    f"{letter}{number}"
    for letter, last in (("R", 20), ("F", 10), ("B", 9), ("Y", 11), ("V", 12))
    for number in range(1, last + 1)
)
FILES = {
    "R": "test_reverie|conversations/",
    "F": "test_foil|conversations/",
    "B": "test_bve",
    "Y": "test_ryvion|mcp/",
    "V": "test_venice|wallet/",
}
"""Letter → files that are about its dialect; besides them those about all five."""
ABOUT_ALL = "test_processes|test_conformance|test_front"

_IN_NAME = re.compile(r"test_([rfbyv])(\d+)_")
_IN_DOCSTRING = re.compile(r"([RFBYV]\d+(?:, [RFBYV]\d+)*): ")


def ids(name: str, docstring: str) -> Iterator[str]:
    """Give what a test's name and the beginning of its docstring name."""
    if match := _IN_NAME.match(name):
        yield match[1].upper() + match[2]
    if match := _IN_DOCSTRING.match(docstring):
        yield from match[1].split(", ")


def named() -> dict[str, set[str]]:
    """Give each id that tests name, with the tests."""
    found: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for path in (TESTS / folder).rglob("test_*.py"):
            place = path.relative_to(TESTS).as_posix()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                for each in ids(node.name, ast.get_docstring(node) or ""):
                    if re.search(f"{FILES[each[0]]}|{ABOUT_ALL}", place):
                        found.setdefault(each, set()).add(f"{place}::{node.name}")
    return found


def test_every_promise_of_a_contract_is_named_by_a_test() -> None:
    """A promise that nothing tests is a wish."""
    assert PROMISES - named().keys() == set()


def test_tests_name_only_promises_of_a_contract() -> None:
    """A number beyond the contract's last is a slip."""
    found = named()
    assert {each: found[each] for each in found.keys() - PROMISES} == {}


def test_an_id_is_found_where_it_is_a_promise_only() -> None:
    """In the test's name and first in the docstring; nowhere else in either."""
    assert list(ids("test_y8_scopes", "Y8, Y10: a sentence.")) == ["Y8", "Y8", "Y10"]
    assert list(ids("test_the_list", "R9, R10: a sentence.")) == ["R9", "R10"]
    assert list(ids("test_say_b2_twice", "What B2 says, and B3: nothing.")) == []
    assert list(ids("test_y8", "D5: elsewhere.")) == []
