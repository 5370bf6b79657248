"""Errors: three families, one code and one sentence each."""

import inspect
import re

import pytest

from ledger import errors
from ledger.errors import AppendConflict, LedgerCorrupt, LedgerError, Refused

CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, LedgerError)
]
REFUSALS = [found for found in CLASSES if issubclass(found, Refused)]


def test_every_refusal_has_a_code_of_its_own() -> None:
    """A refusal's code is stored in events, so no two share one."""
    codes = [found.code for found in REFUSALS]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(found) for found in REFUSALS)


@pytest.mark.parametrize("found", REFUSALS[:])
def test_a_code_reads_as_its_class(found) -> None:
    """The code is the class's name in lower case with underscores: one word, one meaning."""
    assert found.code == re.sub(r"(?<!^)(?=[A-Z])", "_", found.__name__).lower()


@pytest.mark.parametrize("found", CLASSES)
def test_every_error_says_what_it_is_in_one_sentence(found) -> None:
    """The first docstring line is the message, so every class has its own."""
    assert found.__dict__.get("__doc__")
    first = found.__doc__.partition("\n")[0]
    assert first.endswith((".", "does."))


def test_a_refusal_speaks_its_docstring() -> None:
    """Without another message, an error says its docstring's first line."""
    assert str(errors.KeyIsRevoked()) == "The key is revoked."
    assert str(errors.InvalidField("name", "not blank")) == "name: not blank"
    assert str(errors.QueueIsFull()) == "The lane's queue is full."


def test_the_families_are_apart() -> None:
    """Answer it, retry it, stop: no error is of two families."""
    families = (Refused, AppendConflict, LedgerCorrupt)
    for found in CLASSES:
        assert sum(issubclass(found, family) for family in families) <= 1
