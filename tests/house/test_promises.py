"""House rule: each promise of the ledger is named by a test that holds it.

A test names a promise in its name (`promise_4`) or its docstring ("Promise 4").
"""

import ast
import re
from functools import cache
from pathlib import Path

from tests.house.parsed import tree_of

TESTS = Path(__file__).parents[1]
PROMISES = frozenset(range(1, 16))
NOT_YET_HELD: frozenset[int] = frozenset({9})
"""Promises without a test. It only shrinks: a new test takes its number out."""


@cache
def held() -> frozenset[int]:
    """Return the promises that a test function or class names."""
    named = set()
    for path in TESTS.rglob("test_*.py"):
        if path.parent.name == "house":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                said = f"{node.name} {ast.get_docstring(node) or ''}"
                named |= {int(n) for n in re.findall(r"promise[_ ](\d+)", said, re.IGNORECASE)}
    return frozenset(named)


def test_every_promise_is_named_by_a_test() -> None:
    """A promise that nothing tests is a wish."""
    assert PROMISES - held() - NOT_YET_HELD == set()


def test_tests_name_only_promises_that_exist() -> None:
    """A promise's number is a number of the list."""
    assert held() <= PROMISES


def test_the_list_of_unheld_promises_only_shrinks() -> None:
    """A promise that a test holds is not listed as unheld any more."""
    assert NOT_YET_HELD & held() == set()
