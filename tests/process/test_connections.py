"""What a connection may cost: bounded bytes, bounded time, and no answer to the wrong request."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from api.process import wire
from api.process.serve import configured

HEAD = b"POST /whole HTTP/1.1\r\nHost: h\r\n"
KEEP_ALIVE_SECONDS = 1


class Application:
    """Reads bodies, and answers by path."""

    def __init__(self) -> None:
        """Begin."""
        self.bodies: list[bytes] = []
        """Those it read; one that broke off ends in dots."""
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.released = threading.Event()
        """Whether ``/slow`` is answered."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
        elif scope["path"] == "/early":
            await self._send(send, 401, b"no")
        elif await self._read(receive):
            self.headers.append(scope["headers"])
            await self._answer(scope["path"], send)

    async def _read(self, receive: Any) -> bool:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return True
        self.bodies.append(body + b"...")
        return False

    async def _answer(self, path: str, send: Any) -> None:
        if path == "/parts":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})
            return
        if path == "/slow":
            await asyncio.to_thread(self.released.wait, 20)
        await self._send(send, 200, b"x" * 50_000_000 if path == "/large" else b"ok")

    @staticmethod
    async def _send(send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Served:
    """The application, served as Keyledger is but for shorter times."""

    def __init__(self) -> None:
        """Start it."""
        self.application = Application()
        listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = listening.getsockname()
        config = configured(self.application)
        config.timeout_keep_alive = KEEP_ALIVE_SECONDS
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        """End it."""
        self.application.released.set()
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def _short_times() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "HEAD_SECONDS", 1)
        patch.setattr(wire, "BODY_SECONDS", 1.5)
        patch.setattr(wire, "LINGER_SECONDS", 0.5)
        patch.setattr(wire, "STALL_SECONDS", 0.7)
        patch.setattr(wire, "LOOK_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def server(_short_times: None) -> Iterator[Served]:
    """Serve for all tests here."""
    found = Served()
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def served(server: Served) -> Application:
    """Forget what the tests before sent."""
    server.application.bodies.clear()
    server.application.headers.clear()
    server.application.released.clear()
    return server.application


@pytest.fixture
def connect(server: Served) -> Iterator[Callable[[], socket.socket]]:
    """Open connections; whatever does not come within ten seconds fails the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(server.address, timeout=10))


Connect = Callable[[], socket.socket]


def to_the_end(caller: socket.socket) -> bytes:
    """Read until the connection ends."""
    found = b""
    while True:
        try:
            part = caller.recv(65_536)
        except ConnectionResetError:
            return found
        if not part:
            return found
        found += part


def status(reply: bytes) -> int:
    """Return the status of a reply."""
    return int(reply.split(b" ", 2)[1])


def asked(connect: Connect, *parts: bytes) -> bytes:
    """Send something, and read what comes until the connection ends."""
    caller = connect()
    for part in parts:
        caller.sendall(part)
    return to_the_end(caller)


def request(lines: str, body: bytes = b"") -> bytes:
    """Write a request; the connection ends after it."""
    return lines.replace("\n", "\r\n").encode() + b"\r\nConnection: close\r\n\r\n" + body


# Bytes


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        HEAD + b"X: a\r\n" * 14_000 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
    ids=["a header", "headers", "a target"],
)
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_head_of_over_64_kib_is_refused(connect: Connect, head: bytes, pieces: int) -> None:
    """One long header, many short ones, a long target: 431, however they come."""
    caller = connect()
    size = len(head) // pieces + 1
    for start in range(0, len(head), size):
        caller.sendall(head[start : start + size])
        time.sleep(0.02)
    assert status(to_the_end(caller)) == 431


def test_a_head_of_almost_64_kib_is_read(connect: Connect) -> None:
    """The bound is where it says."""
    head = request("GET /whole HTTP/1.1\nHost: h\nX: " + "a" * 65_000)
    assert status(asked(connect, head)) == 200
    assert status(asked(connect, head[:30_000], head[30_000:])) == 200


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"X: ",
        HEAD,
        b"GET /",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ",
    ],
    ids=["a header", "headers", "a target", "a chunk's extension", "a trailer"],
)
def test_what_never_ends_takes_no_memory(connect: Connect, start: bytes) -> None:
    """Whatever is no content of a body is bounded together, and the rest is not kept."""
    before = resident()
    caller = connect()
    caller.sendall(start)
    pour(caller, b"X: a\r\n" * 10_000 if start == HEAD else b"a" * 60_000)
    assert resident() - before < 20_000_000
    assert status(to_the_end(caller) or b"HTTP/1.1 431 ") == 431


def pour(caller: socket.socket, data: bytes) -> None:
    """Send without end, until the other end bears it no more, which it must soon."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while True:
            caller.sendall(data)
            assert time.monotonic() - began < 5


def resident() -> int:
    """Return the bytes of memory of this process, in which the server runs."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_trailers_are_no_headers(served: Application, connect: Connect) -> None:
    """What comes after a body says nothing about who asks."""
    body = b"2\r\nhi\r\n0\r\nAuthorization: Bearer late\r\n\r\n"
    reply = asked(
        connect, request("POST /whole HTTP/1.1\nHost: h\nTransfer-Encoding: chunked", body)
    )
    assert status(reply) == 200
    assert served.bodies == [b"hi"]
    assert b"authorization" not in dict(served.headers[0])


def test_a_large_body_of_equal_pieces_is_read(served: Application, connect: Connect) -> None:
    """Pieces that are as long as those before are content all the same."""
    caller = connect()
    caller.sendall(HEAD + b"Connection: close\r\nContent-Length: 3200000\r\n\r\n")
    for _ in range(50):
        caller.sendall(b"a" * 64_000)
        time.sleep(0.002)
    assert status(to_the_end(caller)) == 200
    assert served.bodies == [b"a" * 3_200_000]


def test_an_early_answer_is_heard_by_a_client_that_still_sends(connect: Connect) -> None:
    """What is left of the body is read for a while, and then no more."""
    caller = connect()
    caller.sendall(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 900000000\r\n\r\n")
    pour(caller, b"a" * 60_000)
    caller = connect()
    caller.sendall(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n")
    time.sleep(0.1)
    caller.sendall(b"a" * 500_000 + request("GET /whole HTTP/1.1\nHost: h"))
    reply = to_the_end(caller)
    assert [status(part) for part in (reply, reply[reply.index(b"noHTTP") + 2 :])] == [401, 200]


# Time


def dribble(caller: socket.socket, data: bytes, seconds: float = 8) -> float:
    """Send a byte at a time; return how long the other end bore it."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for place in range(len(data)):
            caller.sendall(data[place : place + 1])
            time.sleep(0.05)
            if time.monotonic() - began > seconds:
                break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "start",
    [b"", HEAD + b"Content-Length: 10000\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"],
    ids=["head", "body", "chunks"],
)
def test_what_is_sent_a_byte_at_a_time_ends(
    served: Application, connect: Connect, start: bytes
) -> None:
    """A head, and a body, has to come within its time however often something comes: else 408."""
    caller = connect()
    caller.sendall(start)
    data = b"1\r\na\r\n" * 200 if start.endswith(b"chunked\r\n\r\n") else HEAD + b"X: y\r\n" * 200
    assert 0.5 < dribble(caller, data) < 5
    assert status(to_the_end(caller) or b"HTTP/1.1 408 ") == 408
    assert all(body.endswith(b"...") for body in served.bodies)


def test_a_second_head_that_dribbles_ends(connect: Connect) -> None:
    """A request that was answered buys the next no more time."""
    caller = connect()
    caller.sendall(b"GET /whole HTTP/1.1\r\nHost: h\r\n\r\n")
    assert caller.recv(65_536).endswith(b"ok")
    assert dribble(caller, HEAD + b"X: y\r\n" * 200) < 5


@pytest.mark.parametrize("first", [b"", b"GET /whole HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_an_idle_connection_ends(connect: Connect, first: bytes) -> None:
    """Whether it was ever used or not, and without a word."""
    began = time.monotonic()
    reply = asked(connect, first)
    assert time.monotonic() - began < 5
    assert reply[-2:] == (b"ok" if first else b"")


def test_empty_lines_keep_no_connection(connect: Connect) -> None:
    """They are no request: the connection is as idle as without them."""
    caller = connect()
    caller.sendall(b"GET /whole HTTP/1.1\r\nHost: h\r\n\r\n")
    assert caller.recv(65_536).endswith(b"ok")
    assert dribble(caller, b"\r\n" * 200) < 5


def test_an_answer_may_take_its_time(served: Application, connect: Connect) -> None:
    """Nothing is due while an answer is being made, not even when more has come meanwhile."""
    quiet, busy = connect(), connect()
    quiet.sendall(request("GET /slow HTTP/1.1\nHost: h"))
    busy.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /who")
    time.sleep(3)
    busy.sendall(request("le HTTP/1.1\nHost: h"))
    served.released.set()
    assert to_the_end(quiet).endswith(b"ok")
    assert to_the_end(busy).count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_does_not_read_is_left(
    server: Served, served: Application, connect: Connect
) -> None:
    """An answer that nobody takes is given up, and its memory with it."""
    caller = connect()
    caller.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
    assert soon(lambda: served.bodies == [b""])
    assert server.server.server_state.connections
    assert soon(lambda: not server.server.server_state.connections)


def soon(happened: Callable[[], bool]) -> bool:
    """Wait a while for something; return whether it came."""
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


# Requests


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("GET /whole HTTP/1.1", 400),
        ("GET /whole HTTP/1.1\nHost: a\nHost: a", 400),
        ("GET /whole HTTP/1.1\nHost: a\nhost: b", 400),
        ("GET /whole HTTP/1.0\nHost: a\nHost: b", 400),
        ("GET /whole HTTP/1.1\nHost: a, b", 400),
        ("GET /whole HTTP/1.1\nHost: a b", 400),
        ("GET /whole HTTP/1.1\nHost: a/b", 400),
        ("GET /whole HTTP/1.1\nHost: u@a", 400),
        ("GET /whole HTTP/1.1\nHost:", 200),
        ("GET /whole HTTP/1.1\nHost: [::1]:80", 200),
        ("GET /whole HTTP/1.0", 200),
        ("GET http://a/whole HTTP/1.1\nHost: A", 200),
        ("GET http://a:80/whole?x HTTP/1.1\nHost: a:80", 200),
        ("GET http://b/whole HTTP/1.1\nHost: a", 400),
        ("GET http://u@a/whole HTTP/1.1\nHost: a", 400),
        ("GET http://a HTTP/1.1\nHost: a", 400),
        ("CONNECT a:80 HTTP/1.1\nHost: a:80", 400),
        ("POST /whole HTTP/1.1\nHost: h\nContent-Length: 2\nTransfer-Encoding: chunked", 400),
        ("POST /whole HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\nContent-Length: 2", 400),
        ("POST /whole HTTP/1.1\nHost: h\nContent-Length: 2\nContent-Length: 3", 400),
        ("POST /whole HTTP/1.1\nHost: h\nContent-Length: +2", 400),
        ("POST /whole HTTP/1.1\nHost: h\nContent-Length: 99999999999999999999999", 400),
        ("POST /whole HTTP/1.1\nHost: h\nTransfer-Encoding: gzip", 400),
        ("POST /whole HTTP/1.1\nHost: h\nTransfer-Encoding: chunked, gzip", 400),
        ("POST /whole HTTP/1.1\nHost: h\n Folded: x", 400),
        ("POST /whole HTTP/1.1\nHost : h", 400),
    ],
)
def test_a_request_whose_host_or_length_is_unclear_is_refused(
    served: Application, connect: Connect, sent: str, expected: int
) -> None:
    """Exactly one Host, one length, one target: two readers must not read two requests."""
    reply = asked(connect, request(sent, b"0\r\n\r\n"))
    assert status(reply) == expected
    assert sum(not body.endswith(b"...") for body in served.bodies) == (expected == 200)


def test_http_1_0_knows_no_chunks(connect: Connect) -> None:
    """An answer of unknown length is ended by the connection; asking to keep it changes nothing."""
    for more in ("", "\nConnection: keep-alive", "\nExpect: 100-continue\nContent-Length: 0"):
        lines = f"GET /parts HTTP/1.0\nHost: h{more}".replace("\n", "\r\n")
        head, _, body = asked(connect, lines.encode() + b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"transfer-encoding" not in head
        assert body == b"onetwo"
    reply = asked(connect, b"GET /whole HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"content-length: 2" in reply
    assert reply.endswith(b"\r\n\r\nok")
    reply = asked(connect, request("GET /parts HTTP/1.1\nHost: h"))
    assert reply.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_pipelined_requests_are_answered_in_order(served: Application, connect: Connect) -> None:
    """As many as may wait; each gets its own answer."""
    one = b"POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
    sent = b"".join(one + b"%d" % number for number in range(9))
    reply = asked(connect, sent + request("GET /whole HTTP/1.1\nHost: h"))
    assert reply.count(b"HTTP/1.1 200 OK") == 10
    assert served.bodies == [b"%d" % number for number in range(9)] + [b""]


@pytest.mark.parametrize(
    "broken",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /whole HTTP/1.1\r\nHost: h\r\n\r\n" * 1_000,
    ],
    ids=["no HTTP", "no Host", "no chunk", "far too many"],
)
def test_what_is_wrong_with_the_next_request_is_no_answer_to_this_one(
    served: Application, connect: Connect, broken: bytes
) -> None:
    """A request under way is answered first, then the connection ends: it may have been charged."""
    caller = connect()
    caller.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" + broken)
    time.sleep(0.3)
    served.released.set()
    reply = to_the_end(caller)
    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 4" not in reply
    assert len(served.bodies) <= 1 + wire.PIPELINED_MAX


def test_a_body_that_breaks_is_refused_and_its_reader_told(
    served: Application, connect: Connect
) -> None:
    """The application is not left waiting for the rest."""
    reply = asked(connect, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"xyz\r\n")
    assert status(reply) == 400
    assert soon(lambda: [body.endswith(b"...") for body in served.bodies] == [True])
