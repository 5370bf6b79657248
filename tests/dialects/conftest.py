"""Fixtures of the dialects' tests: a service with the dialects' own prices, people, pages, curl."""

import itertools
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.dialects.venice_world import Venice, own_terms
from tests.gateway.scripted import Scripted

PASSWORD = "correct horse battery"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ledger_url(dialects_url: str) -> str:
    """What ``served`` serves: a database with the dialects' own rate cards."""
    return dialects_url


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Yield an upstream that does what it is told."""
    found = Scripted()
    yield found
    found.stop()


class Person(NamedTuple):
    """Somebody with an account of their own, signed in."""

    account_id: str
    email: str
    client: httpx.Client
    """Shows the token of the login."""
    token: str


@pytest.fixture(scope="module")
def person(served: Any, operator: httpx.Client) -> Iterator[Callable[..., Person]]:
    """Yield a way to let a person open an account, on given terms, and sign in."""
    made: list[Person] = []

    def make(**terms: Any) -> Person:
        email = f"person-{next(_numbers)}-{secrets.token_hex(4)}@example.com"
        owner = {"email": email, "password": PASSWORD, "name": "Pat"}
        # Tests make keys faster than an account may that is opened without a word about it.
        body = {"name": "Acme", "owner": owner, "limits": [], **terms}
        opened = operator.post("/ledger/v1/accounts", json=body)
        assert opened.status_code == 201, opened.text
        login = operator.post("/ledger/v1/login", json={"email": email, "password": PASSWORD})
        assert login.status_code == 200, login.text
        token = login.json()["access_token"]
        client = served.client(token)
        made.append(Person(opened.json()["account_id"], email, client, token))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


@pytest.fixture(scope="session")
def page() -> Callable[[str], str]:
    """Return a way to read a product's page by its number; skips where the pages are absent."""
    shared = Path(os.environ.get("KEYLEDGER_SHARED", Path(__file__).parents[3] / "shared"))

    def read(number: str) -> str:
        found = sorted((shared / "seeds").glob(f"{number}_*.txt"))
        if not found:
            pytest.skip(f"seeds/{number}_*.txt is not there")
        return found[0].read_text()

    return read


@pytest.fixture(scope="session")
def curl() -> Callable[[str], tuple[int, str]]:
    """Return a way to run a curl command as a page has it; returns status and body."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def run(command: str) -> tuple[int, str]:
        words = shlex.split(command.replace("\\\n", " ").replace("\\ ", " "))
        assert words[0] == "curl"
        asked = [*words, "--silent", "--show-error", "--write-out", "\n%{http_code}"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    return run


@pytest.fixture
def opens(served: Any, person: Callable[..., Person]) -> Iterator[Callable[..., Venice]]:
    """Yield a way to open accounts with 5 USD and those limits of an own account that are named."""
    opened: list[Venice] = []

    def make(*kinds: str) -> Venice:
        opened.append(Venice(served, person(**own_terms(*kinds))))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def venice(opens: Callable[..., Venice]) -> Venice:
    """Return a fresh account with 5 USD and no limits of its own."""
    return opens()
