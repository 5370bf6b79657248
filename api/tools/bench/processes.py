"""Processes of the measured servers: started, waited for, weighed, and always ended."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

START_SECONDS = 60
STOP_SECONDS = 60
POLL_SECONDS = 0.1
SAMPLE_SECONDS = 0.25
ROOT = Path(__file__).parents[3]
PROC = Path("/proc")


class ProcessDidNotStart(RuntimeError):
    """A server did not start in time."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a process that imports this very copy of the packages."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **more}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours."""
    return [sys.executable, "-m", name, *arguments]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, ready: str, more: Mapping[str, str], log: Path
) -> Iterator[int]:
    """Run a command until the end of the block; yield its pid once ``ready`` answers.

    Raises:
        ProcessDidNotStart: Not in time, or it ended.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a server of ours, or the one that was named
            command,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; we end it in order
        )
    try:
        _wait(process, ready, log)
        yield process.pid
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(ready, timeout=5).is_success:
                return
        time.sleep(POLL_SECONDS)
    raise ProcessDidNotStart(f"{process.args!r}\n{log.read_text(errors='replace')[-4_000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for child in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    if PROC.joinpath("self", "stat").exists():
        return [child for child, parent in _parents() if parent == pid]
    listed = _ps("-A", "-o", "pid=,ppid=").splitlines()
    pairs = [line.split() for line in listed]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _parents() -> Iterator[tuple[int, int]]:
    for place in PROC.iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):
                # A command's name, in parentheses, may hold anything.
                fields = place.joinpath("stat").read_text(errors="replace").rpartition(")")[2]
                yield int(place.name), int(fields.split()[1])


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory; 0: it is gone."""
    with contextlib.suppress(OSError):
        if PROC.joinpath("self", "stat").exists():
            for line in PROC.joinpath(str(pid), "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
            return 0
        return int(_ps("-o", "rss=", "-p", str(pid)).strip() or 0) * 1024
    return 0


def processor_seconds(pids: Iterable[int]) -> float | None:
    """Return the processor time that processes have used; None: not known here."""
    total = 0
    for pid in pids:
        try:
            text = PROC.joinpath(str(pid), "stat").read_text(errors="replace")
        except OSError:
            return None
        user, system = text.rpartition(")")[2].split()[11:13]
        total += int(user) + int(system)
    return total / os.sysconf("SC_CLK_TCK")


def _ps(*arguments: str) -> str:
    command = ["/bin/ps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


class Scales:
    """Weighs a server's worker processes while the block runs; keeps the heaviest."""

    def __init__(self, supervisor: int) -> None:
        """Take the process whose children the workers are."""
        self.heaviest_bytes = 0
        self._pids = children(supervisor)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._weigh, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _weigh(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            found = max(map(resident_bytes, self._pids), default=0)
            self.heaviest_bytes = max(self.heaviest_bytes, found)
