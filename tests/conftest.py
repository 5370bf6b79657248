"""Fixtures every test may use: a real PostgreSQL, fresh databases, a served ledger.

``server_url``    one PostgreSQL for the session: ``KEYLEDGER_TEST_DATABASE_URL`` (any superuser's
                  URL), else an embedded one in a temporary directory.
``database_url``  a fresh, migrated, empty database for one test.
``furnished_url`` the same with the operator's account and the rate card ``standard``: the models
                  ``m`` (1 USD per million input, 2 output) and ``free`` (0), priced exactly.
``ledger_url``    a furnished database for one module.
``dialects_url``  the same with the dialects' own rate cards and the sample models priced.
``served``        a real uvicorn over ``ledger_url`` in a thread, jobs off, for one module.
``operator``      an ``httpx.Client`` with the operator's secret.
``world``         a helper that opens accounts, issues keys, meters: ``world.account()``,
                  ``world.key(account)``, ``world.record(key, "r1")``.

Databases are copies of a template, in memory where there is room.
"""

import asyncio
import gc
import itertools
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import msgspec
import psycopg
import pytest
import uvicorn
from argon2 import PasswordHasher
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api import services as wiring
from api.gateway import sample
from api.identity import auth
from api.operations import Asked
from api.process import furnishing
from api.process.app import Application
from api.process.serve import configured
from api.settings import Settings
from ledger import clock
from ledger.pricing import STANDARD_CARD, ModelPrice, RateCard
from ledger.ratecards import draft_of
from ledger.server import database
from ledger.server.embedded import EmbeddedPostgres

# No test is a timed one: a busy machine would fail it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

HASHER = auth.HASHER
"""The real one. It was half of the tests' time; they hash passwords of people they make up."""
auth.HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

RECURSION_LIMIT = sys.getrecursionlimit()
OPERATOR_SECRET = "operator-secret-of-tests"
PEPPER = "pepper-of-tests"
JWT_SECRET = "jwt-secret-of-tests, long enough for SHA-512 too: 64 characters.."
PRICES = {"input": "1", "output": "2", "cache_read": "0.1"}

TLS = ssl.create_default_context()
"""For clients that need none: httpx makes one for each where none is given, in some 20 ms."""

SEED = int(os.environ.get("KEYLEDGER_TEST_SEED") or 20_261_121)
"""What chance begins with, wherever a test plays by it; a failed run prints it."""

LAST_SECONDS = 60
"""Of a UTC day; longer than a test that counts per day takes."""

MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of random name is made in it
MEMORY_ROOM = 4 << 30
"""Bytes that have to be free, for the servers of several workers."""

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    """Take back what py_ecc does to the process of whoever imports it, as the service does.

    What was imported and collected, some 10⁶ objects, stays: no garbage collection looks there.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no worker is left with one in the end."""
    marks = ("soak", "faults", "processes")
    long = {item.path for item in items if any(map(item.get_closest_marker, marks))}
    items.sort(key=lambda item: item.path not in long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to repeat what failed by chance."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"Chance played by KEYLEDGER_TEST_SEED={SEED}")


def pytest_runtest_setup() -> None:
    """Begin no test so late that its day or month, by which limits count, may end meanwhile."""
    at = clock.now()
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    left = (midnight - at).total_seconds()
    if left < LAST_SECONDS:
        time.sleep(left)


def settings_for(home: Path, **changes: Any) -> Settings:
    """Return settings for a test: fixed secrets, 5 USD of welcome."""
    terms: dict[str, Any] = {
        "home": home,
        "admin_secret": OPERATOR_SECRET,
        "pepper": PEPPER,
        "jwt_secret": JWT_SECRET,
        "welcome_grant": "5 USD",
        "workers": 1,
        "port": 0,
    }
    return Settings(**{**terms, **changes})


def _in_memory() -> str | None:
    """Return a directory in memory; None where there is none with room.

    A copy of a database is some 700 files, which elsewhere cost more than most tests do with them.
    """
    there = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_ROOM
    return str(MEMORY) if there else None


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """One PostgreSQL for the session."""
    given = os.environ.get("KEYLEDGER_TEST_DATABASE_URL", "")
    if given:
        yield given
        return
    # Not among pytest's directories: another run of pytest closes those to the server's user.
    with tempfile.TemporaryDirectory(prefix="keyledger-tests-", dir=_in_memory()) as made:
        home = Path(made)
        home.chmod(0o711)
        settings = {"shared_buffers": "64MB", "max_wal_size": "256MB"}
        server = EmbeddedPostgres(home, settings=settings)
        yield server.start()
        server.stop()


class Databases:
    """Makes databases as copies of templates, and drops them."""

    def __init__(self, server_url: str) -> None:
        """Take the server."""
        self._server_url = server_url
        self._prefix = f"kl_{os.getpid()}"

    def url(self, name: str) -> str:
        """Return the URL of a database of the server."""
        return make_conninfo(**{**conninfo_to_dict(self._server_url), "dbname": name})

    def create(self, template: str = "template0") -> str:
        """Make a database; return its name."""
        name = f"{self._prefix}_{next(_numbers)}"
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        """Drop a database with whoever is connected to it."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def databases(server_url: str) -> Databases:
    """Make and drop databases of the session's server."""
    return Databases(server_url)


@pytest.fixture(scope="session")
def migrated_template(databases: Databases) -> Iterator[str]:
    """Yield the name of a database with today's schema and nothing in it; 2 lanes."""
    name = databases.create()
    database.upgrade(databases.url(name), lanes=2, for_tests=True)
    yield name
    databases.drop(name)


@pytest.fixture(scope="session")
def furnished_template(
    databases: Databases, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the name of a database with the operator's account and the rate card ``standard``."""
    name = databases.create(migrated_template)
    asyncio.run(_furnish(databases.url(name), tmp_path_factory.mktemp("home")))
    yield name
    databases.drop(name)


async def _furnish(url: str, home: Path) -> None:
    services = await wiring.Services.open(settings_for(home), url)
    try:
        card = RateCard(
            name=STANDARD_CARD,
            version=1,
            asset="USD",
            effective_from=clock.EARLIEST,
            models={
                "m": ModelPrice(prices=PRICES),
                "free": ModelPrice(prices={"input": "0", "output": "0"}),
            },
        )
        await furnishing.open_operator(services)
        await services.ledger.prices.publish(
            Asked("system"), draft_of(card, start=card.effective_from)
        )
    finally:
        await services.close()


@pytest.fixture(scope="session")
def dialects_template(
    databases: Databases, furnished_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the name of a furnished database with the dialects' own rate cards besides."""
    name = databases.create(furnished_template)
    asyncio.run(_price_dialects(databases.url(name), tmp_path_factory.mktemp("home")))
    yield name
    databases.drop(name)


async def _price_dialects(url: str, home: Path) -> None:
    services = await wiring.Services.open(settings_for(home), url)
    try:
        await furnishing.price_dialects(services)
        (card,) = services.cards.versions(STANDARD_CARD)
        models = {**card.models, **sample.PRICES}
        card = msgspec.structs.replace(card, version=2, models=models)
        await services.ledger.prices.publish(
            Asked("system"), draft_of(card, start=card.effective_from)
        )
    finally:
        await services.close()


@pytest.fixture
def database_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """Yield a fresh, migrated, empty database for one test."""
    name = databases.create(migrated_template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def furnished_url(databases: Databases, furnished_template: str) -> Iterator[str]:
    """Yield a fresh, furnished database for one test."""
    name = databases.create(furnished_template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(scope="module")
def ledger_url(databases: Databases, furnished_template: str) -> Iterator[str]:
    """Yield a fresh, furnished database for one module."""
    name = databases.create(furnished_template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(scope="module")
def dialects_url(databases: Databases, dialects_template: str) -> Iterator[str]:
    """Yield a fresh database with the dialects' own rate cards for one module."""
    name = databases.create(dialects_template)
    yield databases.url(name)
    databases.drop(name)


class Served:
    """A ledger served by uvicorn in a thread."""

    def __init__(self, settings: Settings, url: str, *, jobs: bool = False) -> None:
        """Take what to serve."""
        self.app = Application(settings, url, jobs=jobs)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(configured(self.app, settings.trusted_networks))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def services(self) -> wiring.Services:
        """Return what the application works with. It belongs to the server's own event loop."""
        found: wiring.Services = self.app.services
        return found

    def start(self) -> "Served":
        """Begin, and wait until it answers."""
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert self._thread.is_alive(), "The server did not start; see the log."
            assert time.monotonic() < deadline, "The server did not start within 30 seconds."
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End, everything accepted answered."""
        self._server.should_exit = True
        self._thread.join(timeout=30)
        self._socket.close()

    def client(self, secret: str | None = OPERATOR_SECRET) -> httpx.Client:
        """Return a client that shows a secret or token; None: nothing."""
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, verify=TLS)


@pytest.fixture(scope="module")
def served(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a furnished ledger for one module."""
    found = Served(settings_for(tmp_path_factory.mktemp("home")), ledger_url).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def operator(served: Served) -> Iterator[httpx.Client]:
    """Yield a client with the operator's secret."""
    with served.client() as client:
        yield client


class World:
    """Says in a word what tests need again and again, over HTTP."""

    def __init__(self, client: httpx.Client) -> None:
        """Take the operator's client."""
        self.client = client

    def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """Post to the native API and expect a status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        found = self.client.post(f"/ledger/v1{path}", json=body, headers=named)
        assert found.status_code == status, found.text
        return found.json()

    def get(self, path: str, status: int = 200) -> Any:
        """Get from the native API and expect a status."""
        found = self.client.get(f"/ledger/v1{path}")
        assert found.status_code == status, found.text
        return found.json()

    def account(self, **terms: Any) -> str:
        """Open an account with 5 USD; return its id."""
        return self.post("/accounts", {"name": "Acme", **terms}, 201)["account_id"]

    def key(self, account_id: str, **terms: Any) -> dict[str, Any]:
        """Issue a key; give it with its secret."""
        body = {"name": "bot", "dialect": "ryvion", **terms}
        return self.post(f"/accounts/{account_id}/keys", body, 201)

    def usage(self, key: dict[str, Any], request_id: str, **terms: Any) -> dict[str, Any]:
        """Return the body that records one request of 1,000 input tokens: 0.001 USD."""
        body = {"key_id": key["key_id"], "request_id": request_id, "model": "m"}
        return {**body, "usage": {"input": 1000}, **terms}

    def record(
        self, key: dict[str, Any], request_id: str, status: int = 200, **terms: Any
    ) -> dict[str, Any]:
        """Record one request and expect a status."""
        return self.post("/usage", self.usage(key, request_id, **terms), status)


@pytest.fixture
def world(operator: httpx.Client) -> World:
    """Return the helper over the module's served ledger."""
    return World(operator)
