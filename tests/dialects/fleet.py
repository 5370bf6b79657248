"""What tests over several worker processes need: a fleet, its people, and a line to each worker."""

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import httpx

from tests.conftest import JWT_SECRET, OPERATOR_SECRET, PEPPER
from tests.faults import rig

PASSWORD = "correct horse battery"
LINES_MAX = 400
"""Connections opened at most until every worker has enough."""

_numbers = itertools.count(1)

Result = TypeVar("Result")


class Member(NamedTuple):
    """Somebody with an account of their own, signed in."""

    account_id: str
    email: str
    token: str
    client: httpx.Client
    """Shows the token."""


class Line(NamedTuple):
    """A connection that is kept, and the worker at its other end."""

    client: httpx.Client
    worker: int
    """Its process id."""


class Fleet:
    """``keyledger serve`` with several workers, and whoever uses it."""

    def __init__(self, service: rig.Service) -> None:
        """Take the running service."""
        self.service = service
        self.url = service.address
        self.clients: list[httpx.Client] = []
        self.operator = self.client(OPERATOR_SECRET)

    def client(self, secret: str | None = None, **options: Any) -> httpx.Client:
        """Return a client that shows a secret or token; None: nothing."""
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        made = httpx.Client(
            base_url=self.url, headers=headers, timeout=30, verify=rig.TLS, **options
        )
        self.clients.append(made)
        return made

    def person(self, **terms: Any) -> Member:
        """Let a person open an account, on given terms, and sign in."""
        email = f"person-{next(_numbers)}-{secrets.token_hex(4)}@example.com"
        owner = {"email": email, "password": PASSWORD, "name": "Pat"}
        body = {"name": "Acme", "owner": owner, "limits": [], **terms}
        opened = self.operator.post("/ledger/v1/accounts", json=body)
        assert opened.status_code == 201, opened.text
        login = {"email": email, "password": PASSWORD}
        found = self.operator.post("/ledger/v1/login", json=login)
        assert found.status_code == 200, found.text
        token = found.json()["access_token"]
        return Member(opened.json()["account_id"], email, token, self.client(token))

    def grant(self, account_id: str, **amounts: str) -> None:
        """Add credit: an amount of each asset."""
        for asset, amount in amounts.items():
            body = {"asset": asset, "amount": amount}
            made = self.operator.post(f"/ledger/v1/accounts/{account_id}/grants", json=body)
            assert made.status_code == 201, made.text

    def lift(self, key_id: str, *limits: dict[str, str]) -> None:
        """Replace all limits of a key."""
        made = self.operator.patch(native(key_id), json={"limits": list(limits)})
        assert made.status_code == 200, made.text

    def close(self) -> None:
        """Close every client."""
        for client in self.clients:
            client.close()


@contextmanager
def running(url: str, home: Path, *, workers: int = 1, **environment: str) -> Iterator[Fleet]:
    """Run a fleet over a database that has the dialects' rate cards."""
    environment = {
        "KEYLEDGER_DATABASE_URL": url,
        "KEYLEDGER_ADMIN_SECRET": OPERATOR_SECRET,
        "KEYLEDGER_PEPPER": PEPPER,
        "KEYLEDGER_JWT_SECRET": JWT_SECRET,
        "KEYLEDGER_WELCOME_GRANT": "5 USD",
        **environment,
    }
    with rig.Service(home, workers=workers, **environment) as service:
        fleet = Fleet(service)
        try:
            yield fleet
        finally:
            fleet.close()


def native(key_id: str) -> str:
    """Return the native path of a key by its UUID."""
    return f"/ledger/v1/keys/key_{UUID(key_id).hex}"


def lines(fleet: Fleet, each: int) -> list[Line]:
    """Open connections until every worker has so many, and return those (Linux)."""
    workers = fleet.service.workers()
    found: dict[int, list[Line]] = {worker: [] for worker in workers}
    for _ in range(LINES_MAX):
        if all(len(held) >= each for held in found.values()):
            return [line for held in found.values() for line in held[:each]]
        line = _line(fleet, workers)
        found[line.worker].append(line)
    message = f"after {LINES_MAX} connections: { {pid: len(held) for pid, held in found.items()} }"
    raise AssertionError(message)


def _line(fleet: Fleet, workers: Sequence[int]) -> Line:
    limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
    client = fleet.client(limits=limits)
    answer = client.get("/health/live")
    assert answer.status_code == 200
    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
    inode = _inode(fleet.service.port, port)
    return Line(client, next(pid for pid in workers if inode in _sockets(pid)))


def _inode(local: int, remote: int) -> str:
    """Return the socket that a server holds of a connection on 127.0.0.1."""
    wanted = [f"0100007F:{port:04X}" for port in (local, remote)]
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = row.split()
        if words[1:3] == wanted:
            return words[9]
    message = f"no connection of {remote}"
    raise AssertionError(message)


def _sockets(pid: int) -> set[str]:
    found = set()
    for place in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(place.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def at_once(
    held: Sequence[Line], count: int, work: Callable[[httpx.Client, int], Result]
) -> list[Result]:
    """Do something so many times, on all lines at once, each line one after another."""
    gate = threading.Barrier(len(held))

    def run(place: int) -> list[Result]:
        gate.wait()
        return [work(held[place].client, number) for number in range(place, count, len(held))]

    with ThreadPoolExecutor(len(held)) as pool:
        return [result for results in pool.map(run, range(len(held))) for result in results]
