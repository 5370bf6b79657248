"""The embedded PostgreSQL: one server for all, brought back, closed to others."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from ledger.server import embedded
from ledger.server.embedded import EmbeddedPostgres

pytestmark = pytest.mark.processes

ROOT = Path(embedded.__file__).parents[2]
SMALL = {"shared_buffers": "16MB", "max_wal_size": "64MB"}
WAIT_SECONDS = 20

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

USER = """
import sys
from pathlib import Path
from ledger.server.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"shared_buffers": "16MB"})
server.start()
print("started", flush=True)
sys.stdin.readline()
server.stop()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield a home; stop whatever server a failed test left there."""
    home = tmp_path / "home"
    yield home
    left_over = EmbeddedPostgres(home)
    if left_over._postmaster() is not None:
        left_over._join()
        left_over.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a database made and stopped, to be copied or looked at."""
    home = tmp_path_factory.mktemp("made") / "home"
    with EmbeddedPostgres(home, settings=SMALL):
        pass
    return home


def server_at(home: Path) -> EmbeddedPostgres:
    """Return a small server's user."""
    return EmbeddedPostgres(home, settings=SMALL)


def user_process(home: Path) -> subprocess.Popen[str]:
    """Start another process that uses the server until a line comes."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@contextmanager
def user_processes(home: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start users at once, wait until all have the server, and end them."""
    users = [user_process(home) for _ in range(count)]
    try:
        assert [user.stdout.readline() for user in users] == ["started\n"] * count
        yield users
    finally:
        for user in users:
            with suppress(BrokenPipeError):
                user.communicate("leave\n", timeout=WAIT_SECONDS)


def ask(url: str, question: str) -> str:
    """Ask the server one thing."""
    with psycopg.connect(url) as connection:
        return str(connection.execute(question).fetchone()[0])


def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_postmaster(server: EmbeddedPostgres) -> int:
    """Kill the server as a lack of memory would, and wait until it is gone."""
    pid = server._postmaster()
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: server._postmaster() is None)
    return pid


def status_of(pid: int, name: str) -> list[str]:
    """Read a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(name))


def test_a_start_makes_the_database_and_a_stop_ends_the_server(home: Path) -> None:
    """After start the database answers; after stop nothing runs; its data stay."""
    server = server_at(home)
    url = server.start()
    assert url == server.url
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
    server.stop()
    assert server._postmaster() is None
    with server_at(home) as again:
        assert ask(again.url, "SELECT value FROM kept") == "7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("listen_addresses", ""),
        ("max_connections", "41"),
    ],
)
def test_a_server_is_durable_and_closed_and_takes_settings(
    shared: EmbeddedPostgres, name: str, value: str
) -> None:
    """Commits are synced, only the Unix socket listens, settings can be overridden."""
    assert ask(shared.url, f"SHOW {name}") == value


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Yield one running server to the tests that only look at it."""
    home = copied(made, tmp_path_factory.mktemp("shared") / "home")
    asked = {
        **SMALL,
        "max_connections": "41",
        "listen_addresses": "*",
        "unix_socket_permissions": "0777",
    }
    with EmbeddedPostgres(home, settings=asked) as server:
        yield server


def copied(made: Path, home: Path) -> Path:
    """Copy a home as a backup would, its owner lost."""
    return shutil.copytree(made, home)


def test_only_the_owner_reaches_the_socket(shared: EmbeddedPostgres) -> None:
    """The socket's directory has mode 0700."""
    assert shared._sockets.stat().st_mode & 0o777 == 0o700


def test_a_restored_copy_without_its_owner_starts(shared: EmbeddedPostgres) -> None:
    """A copy of a stopped home, made by root, serves; its files go to the server's user."""
    assert ask(shared.url, "SELECT current_database()") == "keyledger"


def test_the_last_user_stops_the_server(home: Path) -> None:
    """A second user keeps the server alive when the first leaves; the last one stops it."""
    first, second = server_at(home), server_at(home)
    first.start()
    second.start()
    first.stop()
    assert ask(second.url, "SELECT 1") == "1"
    second.stop()
    assert second._postmaster() is None


def test_processes_that_start_at_once_share_one_server(home: Path) -> None:
    """Processes that start at the same time all get the same single postmaster."""
    server = server_at(home)
    with user_processes(home, 3):
        pid = server._postmaster()
        assert pid is not None
        server.start()
        assert server._postmaster() == pid
        log = "".join(each.read_text() for each in (home / "data/log").glob("*.log"))
        assert log.count("ready to accept connections") == 1
    assert server._postmaster() == pid
    server.stop()
    assert server._postmaster() is None


@pytest.mark.faults
def test_a_server_outlives_its_killed_starter_and_is_adopted(home: Path) -> None:
    """Killing the starter leaves the server; the next start adopts it and may stop it."""
    server = server_at(home)
    with user_processes(home, 1) as [starter]:
        pid = server._postmaster()
        starter.kill()
        starter.wait()
    server.start()
    assert server._postmaster() == pid
    assert ask(server.url, "SELECT 1") == "1"
    server.stop()
    assert server._postmaster() is None


@pytest.mark.faults
def test_a_killed_server_is_brought_back_with_its_data(home: Path) -> None:
    """After kill -9 of the postmaster, ensure_running restarts it and commits are there."""
    with server_at(home) as server:
        assert not server.ensure_running()
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
            connection.commit()
            kill_postmaster(server)  # its backends are still there
            assert server.ensure_running()
        assert not server.ensure_running()
        assert ask(server.url, "SELECT value FROM kept") == "7"


@pytest.mark.faults
def test_a_start_waits_for_the_old_servers_processes(home: Path) -> None:
    """While a backend of a killed server is busy, a restart is tried until it is gone."""
    with server_at(home) as server, closing(psycopg.connect(server.url)) as connection:
        busy = "SELECT count(*) FROM generate_series(1, 1000000000) AS each"
        connection.pgconn.send_query(busy.encode())
        backend = connection.info.backend_pid
        assert eventually(lambda: "SELECT" in embedded._command_line(backend))
        os.kill(backend, signal.SIGSTOP)
        kill_postmaster(server)
        killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 1; kill -9 {backend}"])
        assert server.ensure_running()
        assert killer.poll() == 0
        assert ask(server.url, "SELECT 1") == "1"


@pytest.mark.faults
def test_a_pid_in_use_by_another_process_does_not_hinder_a_start(home: Path) -> None:
    """A stale postmaster.pid whose number now belongs to another process is overlooked."""
    with server_at(home) as server:
        pid = kill_postmaster(server)
        runner = embedded._runner(server._home, server._data)
        other = runner.spawn("/bin/sleep", "60", log=home / "sleep.log", extra={})
        for file in (
            server._data / "postmaster.pid",
            server._sockets / ".s.PGSQL.5432.lock",
        ):
            file.write_text(file.read_text().replace(str(pid), str(other.pid), 1))
        assert server.ensure_running()
        assert other.poll() is None
        other.kill()


def test_a_data_directory_of_another_version_is_refused(home: Path) -> None:
    """PostgreSQL 17's data is not touched; the error names both versions and pg_upgrade."""
    (home / "data").mkdir(parents=True)
    (home / "data/PG_VERSION").write_text("17\n")
    with pytest.raises(embedded.DataDirectoryIsOfAnotherVersion) as refused:
        server_at(home).start()
    for word in ("PostgreSQL 17", "PostgreSQL 18", "pg_upgrade", str(home)):
        assert word in str(refused.value)


def test_a_directory_with_other_files_is_refused(home: Path) -> None:
    """Files that are no database are neither deleted nor mixed with one."""
    (home / "data").mkdir(parents=True)
    (home / "data/letter.txt").write_text("mine")
    with pytest.raises(embedded.DataDirectoryIsForeign):
        server_at(home).start()
    assert (home / "data/letter.txt").read_text() == "mine"


def test_an_interrupted_initdb_is_begun_anew(home: Path) -> None:
    """A half-made database is thrown away, never used."""
    (home / "data.new-half").mkdir(parents=True)
    (home / "data.new-half/PG_VERSION").write_text("18\n")
    with server_at(home) as server:
        assert ask(server.url, "SELECT 1") == "1"
    assert list(home.glob("data.new-*")) == []


def test_a_failed_start_says_the_servers_words_and_leaves(home: Path) -> None:
    """The error holds the server's own log, comes at once, and no lock stays behind."""
    server = EmbeddedPostgres(home, settings={"shared_buffers": "a lot"})
    with pytest.raises(embedded.DatabaseDidNotStart, match="shared_buffers"):
        server.start()
    assert server._users is None


def test_a_start_gives_up_when_another_holds_the_start_lock(home: Path) -> None:
    """A start waits for another one only as long as it was told."""
    home.mkdir()
    with (
        server_at(home)._alone(deadline=0),
        pytest.raises(embedded.StartIsHeldUp, match=r"start\.lock"),
    ):
        server_at(home).start(timeout_seconds=0.2)


@pytest.mark.parametrize("name", ["x" * 90, "a, b", "it's $HOME"])
def test_a_home_of_any_name_gets_a_usable_socket(made: Path, tmp_path: Path, name: str) -> None:
    """Where a path is too long for a socket or holds a comma, the socket is elsewhere."""
    home = copied(made, tmp_path / name)
    with server_at(home) as server:
        assert ask(server.url, "SELECT 1") == "1"
        assert len(os.fsencode(server._sockets)) < 100
    if server._sockets.parent == embedded.SHORT_DIRECTORY:
        server._sockets.rmdir()


def test_a_socket_directory_that_is_open_is_refused(made: Path, tmp_path: Path) -> None:
    """A socket directory that others may enter is not used, for the socket trusts."""
    home = copied(made, tmp_path / "home")
    (home / "run").chmod(0o755)
    with pytest.raises(embedded.SocketDirectoryIsUnsafe, match="0700"):
        server_at(home).start()


@as_root
def test_a_socket_directory_of_somebody_else_is_refused(made: Path, tmp_path: Path) -> None:
    """A socket directory that another user made beforehand is not used."""
    home = copied(made, tmp_path / "home")
    os.chown(home / "run", 12345, 12345)
    with pytest.raises(embedded.SocketDirectoryIsUnsafe):
        server_at(home).start()


@as_root
@on_linux
def test_root_serves_as_somebody_else_below_a_closed_directory(home: Path) -> None:
    """As root the server runs unprivileged, even where only root may pass."""
    home.parent.chmod(0o700)
    with server_at(home) as server:
        pid = server._postmaster()
        assert "0" not in status_of(pid, "Uid")
        assert int(status_of(pid, "CapEff")[0], 16) == 1 << 2  # dac_read_search
        assert ask(server.url, "SELECT count(*) > 0 FROM pg_ls_waldir()") == "True"


@as_root
@on_linux
def test_root_serves_with_binaries_in_a_closed_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root even binaries that only root reaches (a venv below /root) make and serve."""
    packages = embedded._binaries().parents[2]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    # initdb finds libpq in the directory that the wheel puts beside the package.
    for each in (f"{embedded.PACKAGE}/pginstall18", f"{embedded.PACKAGE}.libs"):
        shutil.copytree(packages / each, closed / each)
    copies = closed / embedded.PACKAGE / "pginstall18/bin"
    monkeypatch.setattr(embedded, "_binaries", lambda: copies)
    with server_at(home) as server:
        assert str(copies) in embedded._command_line(server._postmaster())
        assert ask(server.url, "SELECT 1") == "1"


@as_root
@on_linux
def test_root_gives_no_capability_where_none_is_needed() -> None:
    """Where the server's user reaches its files, it gets no capability at all."""
    uid, gid = embedded._unprivileged(Path("/no/data"))
    if not embedded._Runner(uid=uid, gid=gid, drops=True).reaches(Path("/")):
        pytest.skip("the binaries here are closed to the server's user")
    with tempfile.TemporaryDirectory() as opened:
        Path(opened).chmod(0o755)
        with server_at(Path(opened) / "home") as server:
            pid = server._postmaster()
            assert "0" not in status_of(pid, "Uid")
            assert int(status_of(pid, "CapEff")[0], 16) == 0
            assert status_of(pid, "Groups") == []


@as_root
def test_root_is_told_what_to_do_where_nobody_reaches(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without setpriv a closed directory is refused with the ways out."""
    home.parent.chmod(0o700)
    monkeypatch.setattr(embedded._Runner, "_setpriv", lambda _: ["/no/setpriv"])
    with pytest.raises(embedded.ServerIsOutOfReach, match=r"chmod.*setpriv"):
        server_at(home).start()


@on_linux
def test_the_server_has_its_own_session_and_none_of_our_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C does not reach the server, and our secrets are not in its environment."""
    monkeypatch.setenv("KEYLEDGER_TEST_SECRET", "do-not-pass-me-on")
    with server_at(home) as server:
        pid = server._postmaster()
        assert os.getsid(pid) == pid
        assert b"do-not-pass-me-on" not in Path(f"/proc/{pid}/environ").read_bytes()
