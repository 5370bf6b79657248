"""House rule: each rule id that a test or comment names resolves, and each rule is named.

``RULES.md`` has a sentence and a source for each id. An id is named in the name of a test
(`test_y8_…`), in a docstring or comment ("Y8, Y10: …"), in a page or in a remark of a scenario.
What stands in backticks is a name or code and no id.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.house.parsed import tree_of

ROOT = Path(__file__).parents[2]
PLACES = ("ledger", "projections", "api", "tests")
PAGE = Path(__file__).with_name("RULES.md")
CONTRACTS = {"R": 20, "FO": 10, "BV": 9, "Y": 11, "V": 12}
"""Letters of a dialect → number of the last promise of its contract."""
PROMISED = {f"{letters}{n}" for letters, last in CONTRACTS.items() for n in range(1, last + 1)}

ID = re.compile(r"\b([A-M]|R|FO|BV|Y|V|API)(\d{1,2})\b")
RANGE = re.compile(rf"{ID.pattern} (?:to|…) \1(\d{{1,2}})\b")
IN_TEST_NAME = re.compile(r"test_((?:(?:[a-m]|r|fo|bv|y|v|api)\d{1,2}_)+)")
FIRST_IN_DOCSTRING = re.compile(rf"(?:Promise \d+, )?((?:{ID.pattern}(?:, )?)+): ")
ROW = re.compile(r"\| (\w+) \| (\S.*\S) \| (\S.*\S) \|")
CODE = re.compile(r"(`+).*?\1", re.DOTALL)


def in_prose(text: str) -> Iterator[str]:
    """Yield the ids that a text names, both ends of a range and what lies between included."""
    text = CODE.sub("", text)
    for letters, first, last in RANGE.findall(text):
        yield from (f"{letters}{number}" for number in range(int(first), int(last) + 1))
    yield from (letters + number for letters, number in ID.findall(text))


def of_test(name: str, docstring: str) -> Iterator[str]:
    """Yield what a test holds: the ids that begin its name or its docstring."""
    if match := IN_TEST_NAME.match(name):
        yield from match[1].upper().removesuffix("_").split("_")
    if match := FIRST_IN_DOCSTRING.match(docstring):
        yield from in_prose(match[1])


def in_python(path: Path) -> Iterator[str]:
    """Yield the ids in the names of tests, docstrings and comments of a file."""
    text = path.read_text("utf-8")
    if not (ID.search(text) or IN_TEST_NAME.search(text)):
        return
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield from of_test(name, "")
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield from in_prose(docstring)
    if re.search(rf"#.*{ID.pattern}", text):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield from in_prose(token.string)


def in_scenario(text: str) -> Iterator[str]:
    """Yield the ids in remarks. What the story itself is about, such as `K1`, is none."""
    story, remarks = set[str](), []
    for line in text.splitlines():
        told, _, remark = line.partition("#")
        story |= set(in_prose(told))
        remarks.append(remark)
    yield from (each for each in in_prose("\n".join(remarks)) if each not in story)


@cache
def used() -> dict[str, list[str]]:
    """Return each id that is used anywhere, with the files."""
    found: dict[str, list[str]] = {}
    files = [*ROOT.glob("*.md"), *(p for place in PLACES for p in (ROOT / place).rglob("*.*"))]
    for path in files:
        match path.suffix:
            case ".py":
                ids = in_python(path)
            case ".txt" if path.parent.name == "scenarios":
                ids = in_scenario(path.read_text("utf-8"))
            case ".md" if path != PAGE:
                ids = in_prose(path.read_text("utf-8"))
            case _:
                continue
        for each in set(ids):
            found.setdefault(each, []).append(path.relative_to(ROOT).as_posix())
    return found


@cache
def held() -> frozenset[str]:
    """Return the ids that tests hold."""
    return frozenset(
        each
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for each in of_test(node.name, ast.get_docstring(node) or "")
    )


@cache
def listed() -> Counter[str]:
    """Return the ids of the page and how many rows each has."""
    rows = [row for row in map(ROW.fullmatch, PAGE.read_text("utf-8").splitlines()) if row]
    return Counter(row[1] for row in rows if ID.fullmatch(row[1]))


def test_every_id_that_is_used_is_listed() -> None:
    """A reader finds the sentence behind each; what is no rule's id stands in backticks."""
    assert {each: places for each, places in used().items() if each not in listed()} == {}


def test_every_id_that_is_listed_is_used() -> None:
    """A rule that nothing names is a wish."""
    assert listed().keys() - used().keys() == set()


def test_no_id_is_listed_twice() -> None:
    """One id has one meaning."""
    assert [each for each, rows in listed().items() if rows > 1] == []


def test_every_promise_of_a_contract_is_listed_and_held_by_a_test() -> None:
    """A test names it first: in its name, or in its docstring before the colon."""
    contracts = {each for each in listed() if each.rstrip("0123456789") in CONTRACTS}
    assert contracts == PROMISED
    assert PROMISED - held() == set()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Y8, Y10: a sentence (A9).", ["Y8", "Y10", "A9"]),
        ("C1 to C3, B1: kept.", ["C1", "C2", "C3", "C1", "C3", "B1"]),
        ("BV1 … BV2.", ["BV1", "BV2", "BV1", "BV2"]),
        ("`A1`, ``meter K1 R1`` and BV165, UTF8, RFC 7, Z1, noqa: F401", []),
    ],
)
def test_an_id_is_found_in_prose(text: str, ids: list[str]) -> None:
    """Alone or in a range, and never in code or as a part of a word."""
    assert list(in_prose(text)) == ids


@pytest.mark.parametrize(
    ("name", "docstring", "ids"),
    [
        ("test_y8_scopes", "Y8, Y10: a sentence.", ["Y8", "Y8", "Y10"]),
        ("test_r2_r11_nothing", "RFC 6750 §2: R3.", ["R2", "R11"]),
        ("test_the_list", "Promise 6, R15, FO3: a sentence.", ["R15", "FO3"]),
        ("test_say_bv2_twice", "What BV2 says, and BV3: nothing.", []),
        ("test_ipv6_hosts", "", []),
    ],
)
def test_a_test_holds_what_it_names_first(name: str, docstring: str, ids: list[str]) -> None:
    """In the beginning of its name and of its docstring; what comes later is a remark."""
    assert list(of_test(name, docstring)) == ids


def test_an_id_is_found_in_files(tmp_path: Path) -> None:
    """In names, docstrings and comments of Python, and in a scenario's remarks."""
    file = tmp_path / "test_it.py"
    file.write_text('"""A1."""\ndef test_y1_x():  # B1\n    """C1."""\n    x = "D1 # E1"\n')
    assert sorted(in_python(file)) == ["A1", "B1", "C1", "Y1"]
    assert list(in_scenario("# K1 works (A9)\nmeter K1 R1 -> refused  # R1 again: B6")) == [
        "A9",
        "B6",
    ]
