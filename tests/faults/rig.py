"""What the fault tests break and look at: a PostgreSQL reached by TCP, and the service itself."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg

import ledger
from ledger.server import embedded
from ledger.server.database import SCHEMA

ROOT = Path(ledger.__file__).parents[1]
OPERATOR = "operator-secret-of-the-fault-tests"
PEPPER = "pepper-of-the-fault-tests"
JWT = "jwt-secret-of-the-fault-tests-0123456789"
MODEL = "gpt-4o-mini"
READY_SECONDS = 90
TEMPLATE = "furnished"
TLS = ssl.create_default_context()
"""Not used, but httpx makes one for every client where none is given, which takes a while."""


def until(found: Callable[[], Any], *, within: float, every: float = 0.05) -> Any:
    """Ask until the answer is true, and give it; fail when it takes too long."""
    deadline = time.monotonic() + within
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(every)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid: int) -> list[int]:
    """Return the processes that a process started (Linux)."""
    with contextlib.suppress(FileNotFoundError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in words.split()]
    return []


def command_of(pid: int) -> str:
    """Return the command line of a process (Linux)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def lives(pid: int) -> bool:
    """Return whether a process runs; one that nobody has reaped does not."""
    return bool(command_of(pid))


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Postgres:
    """A server of the wheel's binaries that listens on 127.0.0.1, as an operator's own would."""

    def __init__(self, home: Path, **settings: str) -> None:
        """Take where its data are."""
        self.data = home / "data"
        self.log = home / "server.log"
        self.port = free_port()
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)
        self.runner = embedded._runner(home, self.data)
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
            "shared_buffers": "32MB",
            "max_connections": "60",
            **settings,
        }

    def make(self) -> None:
        """Make the data directory."""
        self.data.mkdir(mode=0o700)
        self.runner.own(self.data)
        words = ("--no-sync", "--no-instructions", "--auth=trust", "--username=keyledger")
        words = (*words, "--encoding=UTF8", "--locale=C")
        self.runner.run(str(embedded.binary("initdb")), *words, "-D", str(self.data))

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        command = [str(embedded.binary("postgres")), "-D", str(self.data)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        self.runner.spawn(*command, log=self.log, extra={})
        until(self._answers, within=30)

    def _answers(self) -> bool:
        try:
            with self.connect("postgres"):
                return True
        except psycopg.OperationalError:
            return False

    @property
    def pid(self) -> int:
        """Return the postmaster's process id."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; ``immediate`` is a crash."""
        number = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        with contextlib.suppress(FileNotFoundError):
            pid = self.pid
            end(pid, number)
            until(lambda: not lives(pid), within=30)

    def url(self, database: str, *, port: int | None = None) -> str:
        """Return the URL of a database; ``port``: of a proxy before it."""
        place = f"127.0.0.1:{port or self.port}/{database}"
        return f"postgresql://keyledger@{place}?sslmode=disable&gssencmode=disable"

    def connect(self, database: str) -> psycopg.Connection:
        """Connect as the superuser."""
        return psycopg.connect(
            self.url(database), autocommit=True, options=f"-c search_path={SCHEMA}"
        )

    def create(self, database: str, template: str = "template0") -> None:
        """Create a database."""
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}")  # sql-ok: ours

    def ask(self, database: str, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and give its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql, parameters or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []


class Service:
    """``python -m api.process.serve`` as a process of its own, with its words in a file."""

    def __init__(self, home: Path, *, workers: int = 1, **environment: str) -> None:
        """Take its data directory and whatever else the environment says."""
        self.home = home
        self.port = free_port()
        self.log = home.parent / f"{home.name}.log"
        self.environment = {
            **{name: text for name, text in os.environ.items() if name[:10] != "KEYLEDGER_"},
            "PYTHONPATH": str(ROOT),
            "KEYLEDGER_HOME": str(home),
            "KEYLEDGER_HOST": "127.0.0.1",
            "KEYLEDGER_PORT": str(self.port),
            "KEYLEDGER_WORKERS": str(workers),
            "KEYLEDGER_ADMIN_SECRET": OPERATOR,
            "KEYLEDGER_PEPPER": PEPPER,
            "KEYLEDGER_JWT_SECRET": JWT,
            **environment,
        }
        self.environment = {name: text for name, text in self.environment.items() if text}
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes]
        self.orphans: list[int] = []

    def spawn(self) -> None:
        """Start it and do not wait."""
        with self.log.open("ab") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.process.serve"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd=self.home.parent,
                start_new_session=True,
            )

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.spawn()
        until(self.is_ready, within=READY_SECONDS)
        return self

    def is_ready(self) -> bool:
        """Return whether a worker says that it can serve."""
        assert self.process.poll() is None, f"{self.process.poll()}: {self.words()}"
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(self.address + "/health/ready", timeout=5, verify=TLS)
            return answer.status_code == 200
        return False

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return [pid for pid in children(self.process.pid) if "--worker" in command_of(pid)]

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        end(self.process.pid, signal.SIGTERM)

    def stop(self) -> int:
        """Stop it in order and give its exit code."""
        self.ask_to_stop()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """Kill the supervisor; its workers have to notice."""
        self.orphans = self.workers()
        end(self.process.pid)
        self.process.wait()

    def kill_all(self) -> None:
        """Kill the supervisor and its workers, as a machine that goes down does."""
        self.kill()
        for pid in self.orphans:
            end(pid)

    def words(self) -> str:
        """Return everything it said."""
        return self.log.read_text(errors="replace")

    def client(self, secret: str = OPERATOR, **options: Any) -> httpx.Client:
        """Return a client that shows a secret."""
        headers = {"Authorization": f"Bearer {secret}"}
        base = self.address + "/ledger/v1"
        return httpx.Client(base_url=base, headers=headers, timeout=40, verify=TLS, **options)

    def __enter__(self) -> Self:
        """Start."""
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """End, however it stands."""
        if self.process.poll() is None:
            self.ask_to_stop()
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.kill_all()


def answered(answer: httpx.Response, status: int = 200) -> Any:
    """Return an answer's document, which must have this status."""
    assert answer.status_code == status, answer.text
    return answer.json()


def open_account(client: httpx.Client, name: str = "Acme", **terms: Any) -> str:
    """Open an account and give its id."""
    return answered(client.post("/accounts", json={"name": name, **terms}), 201)["account_id"]


def issue(client: httpx.Client, account: str, dialect: str = "bve", **terms: Any) -> Any:
    """Issue a key and give it with its secret."""
    body = {"name": "Bot", "dialect": dialect, **terms}
    return answered(client.post(f"/accounts/{account}/keys", json=body), 201)


def usage(key: str, request_id: str, units: int = 1000) -> dict[str, Any]:
    """Return the body of a metered request."""
    return {"request_id": request_id, "key_id": key, "model": MODEL, "usage": {"input": units}}


@contextlib.contextmanager
def subject(service: Service, **terms: Any) -> Iterator[tuple[httpx.Client, str, str]]:
    """Yield a client, an account with ample credit and one of its keys."""
    with service.client() as client:
        account = open_account(client, overdraft={"USD": "unlimited"}, **terms)
        yield client, account, issue(client, account)["key_id"]


def is_refused_for_now(answer: httpx.Response) -> bool:
    """Return whether an answer says 503 in full: a problem, and when to come again (promise 13)."""
    return (
        answer.status_code == 503
        and int(answer.headers["retry-after"]) >= 1
        and answer.headers["content-type"] == "application/problem+json"
        and json.loads(answer.content)["status"] == 503
    )


def events_of(server: Postgres, database: str, request_id: str) -> list[str]:
    """Return the types of the events about a request id, in order."""
    rows = server.ask(
        database,
        "SELECT type::text FROM events WHERE payload ->> 'request_id' = %s ORDER BY lane_seq",
        (request_id,),
    )
    return [row[0] for row in rows]
