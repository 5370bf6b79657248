"""A reply leaves in one piece, and nothing that a client waits for is held back."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import uvicorn

from api.process.serve import configured
from api.process.wire import CoalescingTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Sent(asyncio.Transport):
    """Notes what each system call would send."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__()
        self.calls: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Note one."""
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Note several as one: uvloop sends them so."""
        self.calls.append(b"".join(list_of_data))

    def close(self) -> None:
        """Note the end."""
        self.closed = True

    def is_closing(self) -> bool:
        """Return whether it ended."""
        return self.closed


def test_head_and_body_are_one_call() -> None:
    """So are those of the next reply; the parts of a stream after the first go by themselves."""
    sent = Sent()
    gathering = CoalescingTransport(sent)
    for data in (HEAD, b"ok", HEAD, b"o", b"k"):
        gathering.write(data)
    assert sent.calls == [HEAD + b"ok", HEAD + b"o", b"k"]


def test_a_head_without_a_body_goes_when_the_reply_is_complete() -> None:
    """HEAD, 204 and a refused request are answered."""
    sent = Sent()
    gathering = CoalescingTransport(sent)
    gathering.write(HEAD)
    assert sent.calls == []
    gathering.flush()
    gathering.flush()
    gathering.write(HEAD)
    gathering.close()
    assert sent.calls == [HEAD, HEAD]
    assert gathering.is_closing()


def test_100_continue_is_not_held() -> None:
    """The client sends its body only after it."""
    sent = Sent()
    CoalescingTransport(sent).write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert sent.calls == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Answer /stream in two parts, the second once a body is there; all else in one, after it."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await _read(receive)
        await send({"type": "http.response.body", "body": b"last", "more_body": False})
        return
    await _read(receive)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


async def _read(receive: Any) -> None:
    while (await receive()).get("more_body"):
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Where the small application answers, served as Keyledger is."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configured(_application))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(30)
    listening.close()


@pytest.fixture
def caller(address: tuple[str, int]) -> Iterator[socket.socket]:
    """Connect; whatever does not come within ten seconds fails the test."""
    with socket.create_connection(address, timeout=10) as found:
        yield found


def _until(caller: socket.socket, ending: bytes) -> bytes:
    found = b""
    while not found.endswith(ending):
        part = caller.recv(65_536)
        assert part, found
        found += part
    return found


def _ask(caller: socket.socket, method: str, path: str, *lines: str) -> None:
    caller.sendall("\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *lines, "", "")).encode())


def test_head_is_answered_and_the_connection_goes_on(caller: socket.socket) -> None:
    """A reply without a body does not wait for one."""
    _ask(caller, "HEAD", "/")
    assert b"content-length: 2" in _until(caller, b"\r\n\r\n")
    _ask(caller, "GET", "/")
    assert _until(caller, b"\r\n\r\nok").startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_first_part_of_a_stream_does_not_wait_for_the_next(caller: socket.socket) -> None:
    """The second part is made only once the client, who has seen the first, sends on."""
    _ask(caller, "POST", "/stream", "Content-Length: 1")
    assert b"first" in _until(caller, b"first\r\n")
    caller.sendall(b"x")
    assert _until(caller, b"0\r\n\r\n").startswith(b"4\r\nlast\r\n")


def test_a_client_may_wait_for_100_continue(caller: socket.socket) -> None:
    """The interim reply goes out at once, the reply after the body."""
    _ask(caller, "POST", "/", "Content-Length: 1", "Expect: 100-continue")
    assert _until(caller, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    caller.sendall(b"x")
    assert _until(caller, b"\r\n\r\nok").startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_is_no_http_is_refused(caller: socket.socket) -> None:
    """With an answer, and the connection closed."""
    caller.sendall(b"nonsense\r\n\r\n")
    assert _until(caller, b"Invalid HTTP request received.").startswith(b"HTTP/1.1 400 ")
    assert caller.recv(1) == b""
