"""The load generator: posts pre-rendered requests over kept-alive connections, and counts.

Runs as a process of its own (``python -m api.tools.bench.load``), because it must not share an
interpreter with what it measures. It does the same for every server: write a request, find the
status and the length in the answer, write the next. A general HTTP client would spend more of
two processors than the servers do.
"""

import asyncio
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from time import perf_counter
from typing import cast

import msgspec
import uvloop

from api.tools.bench.processes import environment

CONNECT_SECONDS = 10
LAST_ANSWERS_SECONDS = 30
TIMEOUT_SECONDS = 120
NUMBER_DIGITS = 12
"""A request's number takes so many hexadecimal digits, so that its length is known before."""

LAST_CHUNK = b"\r\n0\r\n\r\n"

Parts = tuple[bytes, bytes]
"""A request before and after its number."""


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where."""

    host: str
    port: int
    connections: int
    seconds: float
    warmup_seconds: float
    first: int
    """Number of the first request; the others count on from there."""
    requests: Sequence[Parts]
    """Sent in turn, again and again."""


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured after the warm-up."""

    answered: int
    """Answers 2xx inside the measured time."""
    seconds: float
    sent: int
    """Requests sent in all, warm-up included."""
    accepted: int
    """Answers 2xx in all."""
    others: dict[str, int]
    """Answers with another status, by status."""
    median_seconds: float
    p99_seconds: float

    @property
    def per_second(self) -> float:
        """Return answers per second."""
        return self.answered / self.seconds


class LoadRun:
    """What all connections share."""

    def __init__(self, load: LoadPlan) -> None:
        """Begin with nothing sent."""
        self.load = load
        self.numbers = count(load.first)
        self.sent = 0
        self.accepted = 0
        self.others: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.measuring = False
        self.ended = False
        self.lost = 0


class LoadConnection(asyncio.Protocol):
    """A connection with one request under way."""

    def __init__(self, sender: LoadRun) -> None:
        """Take the shared counters."""
        self._sender = sender
        self._transport: asyncio.Transport
        self._began = 0.0
        self._answer = bytearray()
        self._needed = 0
        self._chunked = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def send(self) -> None:
        """Write the next request."""
        sender = self._sender
        number = next(sender.numbers)
        before, after = sender.load.requests[number % len(sender.load.requests)]
        sender.sent += 1
        self._began = perf_counter()
        self._transport.write(b"%b%012x%b" % (before, number, after))

    def data_received(self, data: bytes) -> None:
        """Take bytes; once the answer is whole, count it and send the next."""
        answer = self._answer
        answer += data
        if not self._needed:
            head = answer.find(b"\r\n\r\n")
            if head < 0:
                return
            said = bytes(answer[: head + 2])
            self._chunked = b"transfer-encoding: chunked" in said
            self._needed = head + 4 + length(said)
        if len(answer) < self._needed or (self._chunked and not answer.endswith(LAST_CHUNK)):
            return
        took_seconds = perf_counter() - self._began
        sender = self._sender
        if answer[9:10] == b"2":
            sender.accepted += 1
            if sender.measuring:
                sender.latencies.append(took_seconds)
        else:
            sender.others[answer[9:12].decode()] += 1
        answer.clear()
        self._needed = 0
        if sender.ended:
            self._transport.close()
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; count the connection as lost unless we ended it."""
        self._sender.lost += not self._sender.ended or exc is not None
        if not self.done.done():
            self.done.set_result(None)


def length(head: bytes) -> int:
    """Find the length of an answer's body."""
    start = head.find(b"content-length: ")
    return int(head[start + 16 : head.index(b"\r", start)]) if start >= 0 else 0


async def run(load: LoadPlan) -> LoadResult:
    """Send for as long as asked, then wait for the last answers.

    Raises:
        ConnectionError: The server closed connections, or left requests unanswered.
    """
    loop = asyncio.get_running_loop()
    sender = LoadRun(load)
    async with asyncio.timeout(CONNECT_SECONDS):
        connections = [
            (await loop.create_connection(lambda: LoadConnection(sender), load.host, load.port))[1]
            for _ in range(load.connections)
        ]
    for connection in connections:
        connection.send()
    await asyncio.sleep(load.warmup_seconds)
    sender.measuring, began = True, perf_counter()
    await asyncio.sleep(load.seconds)
    sender.measuring, seconds = False, perf_counter() - began
    sender.ended = True
    waiting = [connection.done for connection in connections]
    _, unanswered = await asyncio.wait(waiting, timeout=LAST_ANSWERS_SECONDS)
    if sender.lost or unanswered:
        raise ConnectionError(f"{sender.lost} connections lost, {len(unanswered)} unanswered")
    latencies = sorted(sender.latencies) or [0.0]
    return LoadResult(
        answered=len(sender.latencies),
        seconds=seconds,
        sent=sender.sent,
        accepted=sender.accepted,
        others=dict(sender.others),
        median_seconds=statistics.median(latencies),
        p99_seconds=latencies[len(latencies) * 99 // 100],
    )


class LoadFailed(RuntimeError):
    """The load generator failed."""


def measure(load: LoadPlan) -> LoadResult:
    """Run a load in a process of its own.

    Raises:
        LoadFailed: It lost its connections, or an answer was not 2xx.
    """
    command = [sys.executable, "-m", "api.tools.bench.load"]
    done = subprocess.run(  # noqa: S603 - our own program
        command,
        input=msgspec.msgpack.encode(load),
        capture_output=True,
        timeout=load.seconds + TIMEOUT_SECONDS,
        env=environment(),
        check=False,
    )
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace"))
    found = msgspec.msgpack.decode(done.stdout, type=LoadResult)
    if found.others or not found.answered:
        raise LoadFailed(f"{found.answered} answers; others by status: {found.others}")
    return found


def main() -> None:
    """Read a load from standard input, run it, write what was found."""
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=LoadPlan)
    found = uvloop.run(run(load))
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))


if __name__ == "__main__":
    main()
