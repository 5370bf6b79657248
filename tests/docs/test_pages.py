"""Every file that a README names is there, and every module is named by the page nearest to it."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api import native
from api.dialects.registry import DIALECTS
from tests.house.parsed import tree_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PACKAGES = ("ledger", "projections", "api")
PAGES = [
    ROOT / "README.md",
    TESTS / "README.md",
    *(page for package in PACKAGES for page in sorted((ROOT / package).rglob("README.md"))),
]
LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")
FILE = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.(?:py|md|txt|ipynb))\b")
FOLDER = re.compile(r"`((?:[a-z_]+/)+)`")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?<![\w…])/[\w/{}.-]*")
PARAMETER = re.compile(r":\w+}")
SMALL = 2
"""A folder of so few modules explains itself."""


def named(text: str) -> Iterator[str]:
    """Yield the files and folders that a page names."""
    for pattern in (LINK, FILE, FOLDER):
        yield from pattern.findall(text)


def is_there(name: str, page: Path) -> bool:
    """Return whether there is such a file: from the root, or beside the page or below it."""
    if (ROOT / name).exists():
        return True
    return page.parent != ROOT and any(page.parent.rglob(name))


def unnamed(modules: Iterable[str], text: str) -> list[str]:
    """Return the modules that a text does not name in backticks."""
    words = {word for code in CODE.findall(text) for word in re.findall(r"\w+", code)}
    return sorted(set(modules) - words)


def nearest_page(folder: Path) -> str:
    """Return the text of the README in a folder, or in the nearest one above it."""
    while not (folder / "README.md").exists():
        folder = folder.parent
    return (folder / "README.md").read_text("utf-8")


def rooms() -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with its modules, where they are more than a few."""
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            modules = [path.stem for path in init.parent.glob("*.py") if path != init]
            if len(modules) > SMALL:
                yield init.parent, modules


def test_a_missing_name_is_found() -> None:
    """In links, file names and folders; a module counts as named in backticks only."""
    text = "[page](no/such.md#part), `gone.py`, `lost/` and keys"
    assert set(named(text)) == {"no/such.md", "gone.py", "lost/"}
    assert not any(is_there(name, ROOT / "README.md") for name in named(text))
    assert unnamed(["gone", "keys"], text) == ["keys"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    """A file that moved is found by its page too."""
    assert {each for each in named(page.read_text("utf-8")) if not is_there(each, page)} == set()


def test_every_module_is_named_by_the_nearest_page() -> None:
    """A newcomer finds what each module of a folder is for; a package's docstring may say it."""
    missing = {}
    for folder, modules in rooms():
        said = ast.get_docstring(tree_of(folder / "__init__.py")) or ""
        if found := unnamed(modules, nearest_page(folder) + said):
            missing[str(folder.relative_to(ROOT))] = found
    assert missing == {}


def test_every_room_of_the_tests_is_named_by_their_page() -> None:
    """A newcomer finds where a test belongs."""
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.rglob("*/test_*.py")}
    assert unnamed(folders, (TESTS / "README.md").read_text("utf-8")) == []


def routes(handlers: Iterable[Any]) -> set[str]:
    """Return the paths of handlers as pages write them."""
    return {PARAMETER.sub("}", path) for each in handlers for path in each.paths}


ROUTES = {
    "native": routes(native.SURFACE.handlers),
    **{name: routes(each.surface.handlers) for name, each in DIALECTS.items()},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_route_of_a_dialect_is_named_by_its_page(name: str) -> None:
    """By each word of its path; and no page names a path that nobody serves."""
    text = (ROOT / "api" / "dialects" / name / "README.md").read_text("utf-8")
    code = CODE.findall(text)
    words = {word for each in code for word in re.findall(r"[\w-]+", each)}
    parts = {part for path in ROUTES[name] for part in path.split("/") if "{" not in part}
    assert parts - words - {""} == set()
    served = set().union(*ROUTES.values())
    told = {path for each in code if "://" not in each for path in PATH.findall(each)}
    assert {each for each in told if not any(each.rstrip("/") in path for path in served)} == set()
