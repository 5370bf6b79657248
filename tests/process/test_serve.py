"""The supervisor as it is started: real processes, a real socket, real signals."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import settings
from api.process import logs, serve, wire
from api.settings import InvalidSetting, Settings, from_environment
from ledger import secrets
from ledger.secrets import REDACTED
from ledger.server import database
from tests.conftest import TLS

ADDRESS_WAIT_SECONDS = 60


class Running:
    """`python -m api.process.serve` on a furnished database."""

    def __init__(self, url: str, home: Path, port: int) -> None:
        """Start it."""
        self.url = f"http://127.0.0.1:{port}"
        self.log = home / "log"
        environment = {
            **os.environ,
            "KEYLEDGER_HOME": str(home),
            "KEYLEDGER_DATABASE_URL": url,
            "KEYLEDGER_ADMIN_SECRET": "operator-secret-of-tests",
            "KEYLEDGER_PEPPER": "pepper-of-tests",
            "KEYLEDGER_PORT": str(port),
            "KEYLEDGER_WORKERS": "2",
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.process.serve"],
                env=environment,
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parents[2],
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it can serve."""
        deadline = time.monotonic() + ADDRESS_WAIT_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2, verify=TLS).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(self.log.read_text())

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def client(self) -> httpx.Client:
        """Return the operator's client."""
        headers = {"Authorization": "Bearer operator-secret-of-tests"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, verify=TLS)


@pytest.fixture(scope="module")
def started(
    ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Running]]:
    """Yield a way to have the module's service running: started where it is not, or has ended."""
    found: list[Running] = []

    def start() -> Running:
        if not found or found[-1].process.poll() is not None:
            found.append(Running(ledger_url, tmp_path_factory.mktemp("home"), unused_port()))
        return found[-1]

    yield start
    for each in found:
        if each.process.poll() is None:
            each.process.terminate()
            each.process.wait(timeout=40)


@pytest.fixture
def running(started: Callable[[], Running]) -> Running:
    """Return the module's service, running."""
    return started()


def unused_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found: int = listening.getsockname()[1]
    return found


def _resident(pids: list[int]) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.faults
def test_strangers_who_send_slowly_or_without_end_cost_little(running: Running) -> None:
    """Connections that dribble, say nothing or never end a header are ended, in memory bounded."""
    workers = running.workers()
    port = int(running.url.rpartition(":")[2])
    before = _resident(workers)
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(200)
        ]
        endless = slow.pop()
        with contextlib.suppress(ConnectionError):
            endless.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
            for _ in range(1_000):
                endless.sendall(b"a" * 60_000)
        for caller in slow[: len(slow) // 2]:
            caller.sendall(b"GET /")
        began = time.monotonic()
        while slow and time.monotonic() - began < 2 * wire.HEAD_SECONDS + wire.LOOK_SECONDS:
            time.sleep(0.5)
            for caller in slow[: len(slow) // 2]:
                with contextlib.suppress(ConnectionError):
                    caller.sendall(b"a")
            readable, _, _ = select.select(slow, [], [], 0)
            slow = [caller for caller in slow if caller not in readable]
        assert not slow
    assert _resident(workers) - before < 30_000_000
    for lines, status in (
        ("GET /health/live HTTP/1.0", b"200"),
        ("GET /health/live HTTP/1.1", b"400"),
        ("GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b", b"400"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
            caller.sendall(f"{lines}\r\nConnection: close\r\n\r\n".encode())
            assert caller.recv(65_536).split(b" ")[1] == status


@pytest.mark.faults
def test_promise_3_a_killed_worker_comes_back_and_nothing_acknowledged_is_lost(
    running: Running,
) -> None:
    """Promise 3: kill -9 a worker; it is started again, and every receipt still stands."""
    with running.client() as client:
        opened = client.post("/ledger/v1/accounts", json={"name": "Acme"}).json()
        path = f"/ledger/v1/accounts/{opened['account_id']}"
        body = {"name": "bot", "dialect": "bve"}
        key = client.post(f"{path}/keys", json=body).json()["key_id"]
        usage = {"key_id": key, "model": "m", "usage": {"input": 1000}}
        kept = [
            client.post("/ledger/v1/usage", json={**usage, "request_id": f"r{n}"}).json()
            for n in range(10)
        ]
    before = running.workers()
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        now = running.workers()
        if len(now) == len(before) and before[0] not in now:
            break
        time.sleep(0.1)
    assert before[0] not in running.workers()
    running.wait_until_ready()
    with running.client() as client:
        for receipt in kept:
            named = {**usage, "request_id": receipt["request_id"]}
            assert client.post("/ledger/v1/usage", json=named).json() == receipt
        balances = client.get(f"{path}/balances").json()["balances"]
    held = {each["asset"]: each["balance"] for each in balances}
    assert held["USD"] == "4.99"


@pytest.mark.faults
def test_sigterm_ends_everything_in_order(running: Running) -> None:
    """C3: what was accepted is answered, every process ends, and the exit says all is well."""
    workers = running.workers()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=40) == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "Traceback" not in running.log.read_text()


@pytest.mark.faults
def test_a_wrong_pepper_is_refused_at_start(furnished_url: str, tmp_path: Path) -> None:
    """Keys would all be unknown: better not to start, and to say which setting it is."""
    environment = {
        **os.environ,
        "KEYLEDGER_HOME": str(tmp_path),
        "KEYLEDGER_DATABASE_URL": furnished_url,
        "KEYLEDGER_PEPPER": "another",
        "KEYLEDGER_ADMIN_SECRET": "x",
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.process.serve"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert "KEYLEDGER_PEPPER" in done.stderr


@pytest.mark.processes
def test_an_offset_of_the_clock_is_for_databases_made_for_tests(
    databases: Any, tmp_path: Path
) -> None:
    """Any other does not start with one, and says how one is made that does."""
    name = databases.create()
    database.upgrade(databases.url(name), lanes=1)
    environment = {
        **os.environ,
        "KEYLEDGER_HOME": str(tmp_path),
        "KEYLEDGER_DATABASE_URL": databases.url(name),
        "KEYLEDGER_CLOCK_OFFSET": "P40D",
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.process.serve"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    databases.drop(name)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "keyledger db upgrade --for-tests" in done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("0", timedelta(0)),
        ("86400", timedelta(days=1)),
        ("-60", -timedelta(minutes=1)),
        ("P40D", timedelta(days=40)),
        ("-P1W2DT3H4M5S", -timedelta(days=9, hours=3, minutes=4, seconds=5)),
    ],
)
def test_an_offset_is_seconds_or_a_duration(text: str, found: timedelta | None) -> None:
    """As ISO 8601 writes them; nothing: it stays as it is in the database."""
    assert from_environment({"KEYLEDGER_CLOCK_OFFSET": text}).offset == found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("KEYLEDGER_CLOCK_OFFSET", text)
            for text in ("P", "PT", "P1DT", "P1M", "P1Y", "1.5", "40D", "P99999D", "9" * 30)
        ),
        ("KEYLEDGER_PORT", "x"),
        ("KEYLEDGER_PORT", "70000"),
        ("KEYLEDGER_LANES", "0"),
        ("KEYLEDGER_WELCOME_GRANT", "5"),
        ("KEYLEDGER_WELCOME_GRANT", "5 usd"),
        ("KEYLEDGER_JWT_SECRET", "short"),
        ("KEYLEDGER_TRUSTED_PROXIES", "10.0.0.7,*"),
    ],
)
def test_a_wrong_setting_names_its_variable(name: str, value: str) -> None:
    """Whoever set it wrong reads which one."""
    with pytest.raises(InvalidSetting, match=name):
        from_environment({name: value})


def test_a_secret_of_the_home_is_private_and_the_same_for_all(tmp_path: Path) -> None:
    """Made once, mode 0600, read alike by every process on the directory."""
    first = settings.kept(tmp_path, "pepper")
    assert settings.kept(tmp_path, "pepper") == first
    assert (tmp_path / "pepper").stat().st_mode & 0o777 == 0o600
    assert len(first) >= 32


def test_promise_11_no_secret_passes_into_a_log_line() -> None:
    """Promise 11: whatever a line holds, nested or as an exception, secrets are replaced."""
    secret = secrets.generate(secrets.format_of("ryvion"))
    line: dict[str, Any] = {
        "event": f"got {secret}",
        "deep": [{"key": (secret, ValueError(secret))}],
        secret: 1,
        "exception": f"Traceback: {secret!r}",
    }
    shown = repr(logs.redact(None, "", line))
    assert secret not in shown
    assert shown.count(REDACTED) == 5


def test_a_supervisor_stops_however_often_it_is_asked() -> None:
    """A handler that interrupts another one's call must not wait for a lock it holds."""
    asking = serve.Supervisor(Settings())
    before = signal.signal(signal.SIGUSR1, lambda *_: asking.stop())
    try:
        kill = threading.Thread(
            target=lambda: [os.kill(os.getpid(), signal.SIGUSR1) for _ in range(500)]
        )
        kill.start()
        while not asking._sleep(1):
            pass
        kill.join(10)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert asking._stopping
