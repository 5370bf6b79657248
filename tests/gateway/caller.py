"""A client on a bare socket: it reads as fast as it likes and leaves when and how it likes."""

import contextlib
import json
import re
import socket
from collections.abc import Mapping
from typing import Any, Self

from tests.gateway.truthful import MODEL, PIECE, RESET, VOICES

WAYS = ("fin", "rst", "half")
"""How an end of a connection goes away: in order, by a reset, or of its own half alone."""
FAILED = re.compile(rb'"error":\s*\{')


class Caller:
    """One connection, one request."""

    def __init__(
        self, port: int, secret: str, *, receive_bytes: int = 0, idempotency_key: str = ""
    ) -> None:
        """Connect. ``receive_bytes``: of the kernel's buffer; 0: as usual."""
        self._secret = secret
        self._more = f"Idempotency-Key: {idempotency_key}\r\n" if idempotency_key else ""
        self.asked = b""
        """Body of the request."""
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", port))
        self.text = bytearray()
        self.is_over = False
        """Whether the other end closed the connection."""

    def ask(self, kind: str, plan: Mapping[str, Any], *, stream: bool) -> Self:
        """Send a request that goes as planned."""
        self.kind = kind
        text = json.dumps(_body(kind, json.dumps(plan), stream=stream)).encode()
        head = (
            f"POST {VOICES[kind].path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._secret}\r\n{self._more}"
            f"Content-Length: {len(text)}\r\n\r\n"
        )
        self.asked = text
        self._socket.sendall(head.encode() + text)
        return self

    def read(self, *, pieces: int = 0, most: int = 65_536) -> Self:
        """Read until so many tokens came; 0: until the answer is whole or the connection ends."""
        while not (self.is_over or self.is_whole or (pieces and self.pieces >= pieces)):
            self.read_on(most)
        return self

    def read_on(self, most: int) -> None:
        """Read once, so many bytes at most."""
        more = b""
        with contextlib.suppress(ConnectionError):
            more = self._socket.recv(most)
        self.is_over = not more
        self.text += more

    @property
    def pieces(self) -> int:
        """Count the tokens that came."""
        return self.text.count(PIECE.encode())

    @property
    def has_head(self) -> bool:
        """Return whether the head came."""
        return b"\r\n\r\n" in self.text

    @property
    def body(self) -> bytes:
        """Return what came of a chunked body, put together."""
        rest, found = bytes(self.text.partition(b"\r\n\r\n")[2]), b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            found += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return found

    @property
    def status(self) -> int:
        """Return the status; 0: none came."""
        return int(self.text.split(b" ", 2)[1]) if self.has_head else 0

    @property
    def request_id(self) -> str:
        """Return the request's id; empty: no head came."""
        found = re.search(rb"x-request-id: (\S+)", self.text.partition(b"\r\n\r\n")[0])
        return found[1].decode() if found else ""

    @property
    def is_whole(self) -> bool:
        """Return whether the answer is at its end, as HTTP says."""
        head, blank, body = self.text.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length:
            return bool(blank) and len(body) >= int(length[1])
        return bool(blank) and body.endswith(b"0\r\n\r\n")

    @property
    def is_good(self) -> bool:
        """Return whether it is a whole answer, or a stream with its last event."""
        return self.status == 200 and self.is_whole and (not self.is_stream or self.has_end)

    @property
    def is_stream(self) -> bool:
        """Return whether a stream came."""
        return b"text/event-stream" in self.text.partition(b"\r\n\r\n")[0]

    @property
    def has_end(self) -> bool:
        """Return whether the protocol's last event came."""
        return VOICES[self.kind].end in self.text

    @property
    def has_failed(self) -> bool:
        """Return whether an error came, as an answer or as an event."""
        return FAILED.search(self.text) is not None

    def leave(self, how: str = "fin") -> None:
        """Go away."""
        if how == "half":
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            while not self.is_over:
                self.read_on(65_536)
        if how == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()


def _body(kind: str, text: str, *, stream: bool) -> dict[str, Any]:
    if kind == "responses":
        return {"model": MODEL, "input": text, "stream": stream}
    messages = [{"role": "user", "content": text}]
    body = {"model": MODEL, "messages": messages, "stream": stream}
    return {**body, "max_tokens": 1_000} if kind == "messages" else body
