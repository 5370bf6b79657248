"""Serving: a supervisor that owns the database and the socket, and workers that answer.

The supervisor starts the embedded PostgreSQL where none is configured, brings the schema up to
date, binds the address once, and keeps N workers on it. On SIGTERM or SIGINT workers stop
accepting, answer everything accepted, and end; the database stops last.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import structlog
import uvicorn
from psycopg_pool import AsyncConnectionPool

from api.http import metrics
from api.process import logs
from api.process.wire import Http
from api.settings import InvalidSetting, Settings, from_environment
from ledger.errors import IncompatibleDatabase
from ledger.server import database
from ledger.server.embedded import EmbeddedDatabaseError

log = structlog.get_logger("keyledger.serve")

BACKLOG = 2_048
GRACE_SECONDS = 20
"""For requests under way when a worker is asked to stop."""
KILL_SECONDS = 30
CHECK_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 30
STEADY_SECONDS = 60
"""A worker that lived this long is restarted at once when it dies."""
KEEP_ALIVE_SECONDS = 30
COLLECTED_AFTER = (50_000, 50, 50)
"""For ``gc.set_threshold``: containers made and not freed, then collections of the younger ones."""


class Worker:
    """One worker process, restarted when it dies."""

    def __init__(self, number: int, command: list[str], environment: Mapping[str, str]) -> None:
        """Take how to start it."""
        self.number = number
        self._command = command
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._began: float = 0
        self._failures = 0
        self._starts_at: float = 0

    def start(self, descriptors: tuple[int, ...]) -> None:
        """Start the process."""
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            self._command, env=self._environment, pass_fds=descriptors
        )
        self._began = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Return the process id."""
        return self._process.pid if self._process else None

    def tend(self, descriptors: tuple[int, ...]) -> None:
        """Restart the process if it died, with growing pauses while it keeps dying."""
        if self._process is None:
            if time.monotonic() >= self._starts_at:
                self.start(descriptors)
            return
        code = self._process.poll()
        if code is None:
            return
        lived = time.monotonic() - self._began
        self._failures = 0 if lived > STEADY_SECONDS else self._failures + 1
        wait_seconds = min(2**self._failures - 1, BACKOFF_SECONDS_MAX) if self._failures > 1 else 0
        log.error("worker_died", worker=self.number, exit=code, restart_seconds=wait_seconds)
        metrics.forget(self._process.pid, self._environment[metrics.DIRECTORY])
        self._process = None
        self._starts_at = time.monotonic() + wait_seconds
        if not wait_seconds:
            self.start(descriptors)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the process to end, and kill it if that takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=max(timeout_seconds, 1))
        except subprocess.TimeoutExpired:
            log.error("worker_killed", worker=self.number)  # noqa: TRY400 - no trace tells more
            self._process.kill()
            self._process.wait()


class Supervisor:
    """Starts everything, keeps it running, and stops it in order."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings."""
        self.settings = settings
        self.address = ""
        """Where it listens, once it does: ``http://127.0.0.1:8321``."""
        self.workers: list[Worker] = []
        self._stopping = False
        self._asleep, self._alarm = os.pipe()
        self.ready = threading.Event()

    def stop(self) -> None:
        """Ask it to stop. Safe in a signal handler, where an Event's lock might be held already."""
        self._stopping = True
        os.write(self._alarm, b".")

    def _sleep(self, seconds: float) -> bool:
        """Wait, but not longer than until asked to stop; return whether that was asked."""
        if not self._stopping:
            select.select([self._asleep], [], [], seconds)
        return self._stopping

    def run(self) -> None:
        """Serve until asked to stop.

        Raises:
            IncompatibleDatabase: The database does not fit; the message says what to do.
        """
        with contextlib.ExitStack() as stack:
            url, ensure_running = self._database(stack)
            database.upgrade(url, lanes=self.settings.lanes)
            if self.settings.offset is not None:
                database.set_clock_offset(url, self.settings.offset)
            environment = self._environment(url, stack)
            listening = stack.enter_context(self._listen())
            self._prepare(environment)
            leash = stack.enter_context(_leash())
            descriptors = (listening.fileno(), leash)
            command = [
                sys.executable,
                "-m",
                "api.process.serve",
                "--worker",
                *map(str, descriptors),
            ]
            self.workers = [
                Worker(number, command, environment) for number in range(self.settings.workers)
            ]
            stack.callback(self._end_workers)
            for worker in self.workers:
                worker.start(descriptors)
            log.info("listening", address=self.address, workers=len(self.workers))
            self.ready.set()
            while not self._sleep(CHECK_SECONDS):
                _keep(ensure_running)
                for worker in self.workers:
                    worker.tend(descriptors)
            log.info("stopping")
            # Before the workers are asked to stop: otherwise callers would queue where nobody
            # answers.
            listening.close()

    def _database(self, stack: contextlib.ExitStack) -> tuple[str, Callable[[], object]]:
        if self.settings.database_url:
            return self.settings.database_url, _nothing
        from ledger.server.embedded import EmbeddedPostgres  # noqa: PLC0415 - only where it is used

        server = EmbeddedPostgres(self.settings.home / "postgres")
        url = server.start()
        stack.callback(server.stop)
        return url, server.ensure_running

    def _environment(self, url: str, stack: contextlib.ExitStack) -> dict[str, str]:
        numbers = Path(tempfile.mkdtemp(prefix="keyledger-metrics-"))
        stack.callback(shutil.rmtree, numbers, ignore_errors=True)
        return {
            **os.environ,
            **settings_as_environment(self.settings),
            "KEYLEDGER_HOME": str(self.settings.home.resolve()),
            "KEYLEDGER_DATABASE_URL": url,
            metrics.DIRECTORY: str(numbers),
        }

    @staticmethod
    def _prepare(environment: Mapping[str, str]) -> None:
        """Make what every database has, in a separate process, so that its memory is freed."""
        command = [sys.executable, "-m", "api.process.serve", "--prepare"]
        done = subprocess.run(command, env=dict(environment), check=False)  # noqa: S603 - our own
        if done.returncode:
            raise IncompatibleDatabase("The database could not be prepared; see above.")

    @contextlib.contextmanager
    def _listen(self) -> Iterator[socket.socket]:
        host, port = self.settings.host, self.settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
            listening.set_inheritable(True)
            shown = f"[{host}]" if family == socket.AF_INET6 else host
            self.address = f"http://{shown}:{listening.getsockname()[1]}"
            yield listening

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.terminate()
        deadline = time.monotonic() + KILL_SECONDS
        for worker in self.workers:
            worker.wait(deadline - time.monotonic())


def _nothing() -> None:
    """Leave alone a database that is not ours."""


def _keep(ensure_running: Callable[[], object]) -> None:
    """Keep the database running. If it does not start, log that and retry: it may be recovering.

    Meanwhile the workers refuse with 503.
    """
    try:
        ensure_running()
    except (EmbeddedDatabaseError, OSError) as error:
        log.error("database_does_not_run", error=str(error))  # noqa: TRY400 - the words say it


@contextlib.contextmanager
def _leash() -> Iterator[int]:
    """Return the reading end of a pipe that closes when this process ends, however it ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    supervisor = Supervisor(settings)

    def asked(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        supervisor.stop()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    supervisor.run()


async def prepare(settings: Settings) -> None:
    """Make the operator's secret, the operator's account and the standard rate card."""
    from api import services as wiring  # noqa: PLC0415 - the supervisor has no need of them
    from api.process import furnishing  # noqa: PLC0415 - the supervisor has no need of them

    info = database.conninfo(settings.database_url, database.APP)
    if not settings.admin_secret:
        async with AsyncConnectionPool(
            info, min_size=1, max_size=1, open=False, kwargs={"autocommit": True}
        ) as pool:
            secret = await wiring.make_operator_secret(pool)
        if secret is not None:
            _show(secret)
    services = await wiring.Services.open(settings, settings.database_url)
    try:
        await furnishing.furnish(services)
    finally:
        await services.close()


def _show(secret: str) -> None:
    sys.stdout.write(
        f"The operator's secret, shown this once and kept only as a hash:\n\n    {secret}\n\n"
    )
    sys.stdout.flush()


def configured(
    app: Any,  # noqa: ANN401 - Litestar is not imported here
    trusted_networks: Sequence[str] = (),
) -> uvicorn.Config:
    """Return how uvicorn serves an application; ``keyledger bench`` serves its peer the same way.

    The client is the last address in ``X-Forwarded-For`` that is in none of the trusted networks,
    if a trusted proxy sends the header; without trusted networks nobody reads it.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Http,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(trusted_networks),
        forwarded_allow_ips=list(trusted_networks),
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def worker(settings: Settings, descriptor: int, leash: int) -> None:
    """Answer on an inherited socket until SIGTERM."""
    from api.process.app import Application  # noqa: PLC0415 - the supervisor itself has no need of it

    app = Application(settings, settings.database_url, started=spare_the_collector)
    listening = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    config = configured(app, settings.trusted_networks)
    uvicorn.Server(config).run(sockets=[listening])


def spare_the_collector() -> None:
    """Keep what was made at the start out of garbage collections, and collect rarely.

    A request leaves hardly any cycles behind: reference counting frees it. What the collector would
    look through each time is code, routes, rate cards and the lanes' state, and those stay.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def _end_with(leash: int) -> None:
    """End when the supervisor is gone, however it ended: nobody would restart us."""
    os.read(leash, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m api.process.serve``: the supervisor, or by arguments one of its processes."""
    parser = argparse.ArgumentParser(prog="python -m api.process.serve")
    parser.add_argument(
        "--worker",
        type=int,
        nargs=2,
        metavar=("SOCKET", "LEASH"),
        help="answer on an inherited socket until the pipe ends",
    )
    parser.add_argument("--prepare", action="store_true", help="make what every database has")
    chosen = parser.parse_args(arguments)
    logs.configure()
    settings = Settings()
    try:
        settings = from_environment(os.environ)
        if chosen.worker is not None:
            worker(settings, *chosen.worker)
        elif chosen.prepare:
            asyncio.run(prepare(settings))
        else:
            run(settings)
    except (IncompatibleDatabase, EmbeddedDatabaseError, InvalidSetting) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{settings.host}:{settings.port}: {error.strerror}.\n")
        return 1
    return 0


def settings_as_environment(settings: Settings) -> dict[str, str]:
    """Return settings as environment variables for a process to be started."""
    named = {
        f"KEYLEDGER_{name.upper()}": str(value)
        for name, value in msgspec.structs.asdict(settings).items()
    }
    return {name: value for name, value in named.items() if value}


if __name__ == "__main__":
    sys.exit(main())
