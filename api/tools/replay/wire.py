"""One HTTP/1.1 connection that posts one body after another and does nothing else.

A load of small requests would spend most of two processors in a general client; this one leaves
them to the service. Answers are parsed by httptools.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 10
ANSWER_SECONDS = 120


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[bytes, bytes]
    """By lower-case name."""
    body: bytes


class Target(NamedTuple):
    """Where to post and what stands in every request."""

    host: str
    port: int
    tls: bool
    head: bytes
    """Request line and headers up to the length."""


def target(url: str, path: str, secret: str, content_type: str) -> Target:
    """Prepare posting to a path of a service."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host = parts.hostname or "127.0.0.1"
    head = (
        f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\n"
        f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
        f"Authorization: Bearer {secret}\r\n"
        f"Content-Type: {content_type}\r\n"
        "Content-Length: "
    )
    return Target(host, parts.port or (443 if tls else 80), tls, head.encode("latin-1"))


class ConnectionLost(ConnectionError):
    """The service closed the connection before its answer was complete."""


class Connection:
    """Posts one body at a time; connects when it is needed."""

    def __init__(self, place: Target) -> None:
        """Remember where to connect."""
        self._place = place
        self._line: _Line | None = None

    async def post(self, body: bytes) -> Reply:
        """Post a body and wait for the answer.

        Raises:
            OSError: Nobody answers, or the connection broke, or it took two minutes.
        """
        if self._line is None or self._line.ended:
            self._line = await self._connect()
        line = self._line
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await line.ask(b"%b%d\r\n\r\n%b" % (self._place.head, len(body), body))
        except TimeoutError:
            self.close()
            raise

    async def _connect(self) -> "_Line":
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if self._place.tls else None
        async with asyncio.timeout(CONNECT_SECONDS):
            _, line = await loop.create_connection(
                _Line, self._place.host, self._place.port, ssl=context
            )
        return line

    def close(self) -> None:
        """Close the connection; the next post opens another."""
        if self._line is not None:
            self._line.close()
            self._line = None


class _Line(asyncio.Protocol):
    """One TCP connection, from its beginning to its end."""

    def __init__(self) -> None:
        self.ended = False
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    def ask(self, request: bytes) -> "asyncio.Future[Reply]":
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.ended = True
        self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionLost(str(error)))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._fail(exc or ConnectionLost("The service closed the connection."))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._headers = {}
        self._parts = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(status, self._headers, b"".join(self._parts)))
