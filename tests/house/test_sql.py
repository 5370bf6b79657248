"""House rule: SQL is built from tables by SQLAlchemy Core; what is written by hand is listed here.

Whoever adds to the list says beside the constant why Core cannot or must not build it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.parsed import tree_of
from tests.house.test_code import ROOT, SOURCES

BY_HAND = {
    "ledger/record/store.py": {"INSERT_EVENTS", "INSERT_REQUESTS"},  # the append
    "ledger/record/due.py": {"_WITH_CLOCK", "_REQUESTS", "_CARDS", "_CLOCK"},  # goes with it
    "ledger/record/verify.py": {"COPY_ROWS"},  # the feed of the checker
    "ledger/server/database.py": {"_ROLES", "_MAKE_SCHEMA", "_TABLES", "_MAKE_HEADS"},
}
"""File → constants that are SQL written by hand."""
ELSEWHERE = ("ledger/server/migrations", "api/tools/bench")
"""Migrations are SQL, and so is what the bench asks of peers."""
SQL = re.compile(
    r"[\s(]*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|TRUNCATE|GRANT|REVOKE|COPY|WITH|DO)\s"
)
WHY = re.compile(r"^# By hand\b", re.MULTILINE)


def sql_by_hand(tree: ast.Module, text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each string that is SQL; the name is empty where it has none."""
    lines = text.splitlines()
    named = {
        id(part): target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
        for part in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(value)):
                is_sql = SQL.match(value)
            case ast.Constant(value=bytes(value)):
                is_sql = SQL.match(value.decode("utf-8", "replace"))
            case _:
                continue
        safe = any("# sql-ok: " in line for line in lines[node.lineno - 1 : node.end_lineno])
        if is_sql and not safe:
            yield node.lineno, named.get(id(node), "")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("A = 'SELECT 1'\n", [(1, "A")]),
        ("A: str = '''\nINSERT INTO t'''\n", [(1, "A")]),
        ("run('(SELECT 1)')\n", [(1, "")]),
        ("def f():\n    a = b'DELETE FROM t'\n", [(2, "")]),
        ("A = 'DELETE'; B = 'Select one'\n", []),
        ("A = f'COPY {x}'  # sql-ok: x is compiled\n", []),
    ],
)
def test_sql_is_found_with_its_name(source: str, found: list[tuple[int, str]]) -> None:
    """In a constant of a module or in the middle of code; a method of HTTP is none."""
    assert list(sql_by_hand(ast.parse(source), source)) == found


def test_sql_is_written_by_hand_where_it_is_listed_and_nowhere_else() -> None:
    """The append, what goes with it, the checker's feed, and what makes a schema."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(ELSEWHERE):
            names = {name or f"line {line}" for line, name in sql_in(path)}
            if names:
                found[place] = names
    assert found == BY_HAND


def sql_in(path: Path) -> list[tuple[int, str]]:
    """Return what is SQL by hand in a file."""
    return list(sql_by_hand(tree_of(path), path.read_text("utf-8")))


@pytest.mark.parametrize("place", BY_HAND)
def test_sql_by_hand_can_be_pasted_and_says_why_it_is(place: str) -> None:
    """In one piece, hence in triple quotes where it is long, with its reason above it."""
    text = (ROOT / place).read_text("utf-8")
    assert WHY.search(text)
    for line, name in sql_in(ROOT / place):
        written = text.splitlines()[line - 1]
        assert '"""' in written or written.rstrip().endswith(('"', "'")), (place, name)
