"""HTTP/1.1 connections to an upstream: kept open, parsed by llhttp, one request at a time on each.

A general client costs a third of all that a gatewayed request does. This one knows what the gateway
needs: a request in one piece, an answer as it comes, bounded time and memory, and no doubt about
whether an answer came to its end.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, cast

import httptools

from api.gateway.upstream import (
    REPLY_HEADERS,
    UpstreamBroke,
    UpstreamFailed,
    UpstreamTimedOut,
)

BUFFER_MAX = 256 * 1024
"""Bytes that wait for who reads; then the upstream is made to wait."""
HEAD_MAX = 64 * 1024
"""Bytes of an answer's header fields."""
KEEP_SECONDS = 15
"""A connection that nobody uses is kept so long: less than most servers keep it."""

_HEARD = frozenset({*(name.encode() for name in REPLY_HEADERS), b"content-type", b"retry-after"})
_FIRST_FINAL = 200


class Where(NamedTuple):
    """Where an upstream listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Answer:
    """An answer on its way."""

    __slots__ = (
        "_ended",
        "_error",
        "_line",
        "_parts",
        "_size",
        "_waiter",
        "content_type",
        "head",
        "headers",
        "heard",
        "status",
    )

    def __init__(self, line: "Line", loop: asyncio.AbstractEventLoop) -> None:
        """Wait for its head."""
        self.head: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.content_type = "application/octet-stream"
        self.headers: dict[str, str] = {}
        self.heard = loop.time()
        """When something came last, or began to be waited for."""
        self._line = line
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None

    # What the line says.

    def take_head(self, status: int, fields: Mapping[str, str]) -> None:
        """Take status and header fields."""
        self.status = status
        self.headers = dict(fields)
        self.content_type = self.headers.pop("content-type", self.content_type)
        if not self.head.done():
            self.head.set_result(None)

    def take(self, part: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > BUFFER_MAX:
            self._line.hold_back()
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Take note that nothing more comes, and why where that is wrong."""
        if self._ended or self._error is not None:
            return
        self._ended, self._error = error is None, error
        if not self.head.done():
            self.head.set_exception(error or UpstreamFailed("no answer"))
            # Seen here: who asked may have gone away meanwhile.
            self.head.exception()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for the upstream to say something."""
        return self._waiter is not None or not self.head.done()

    # What the gateway asks.

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it comes."""
        loop = asyncio.get_running_loop()
        while True:
            if self._parts:
                parts, self._parts, self._size = self._parts, [], 0
                self._line.go_on(self)
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            elif self._error is not None:
                raise self._error
            elif self._ended:
                return
            else:
                self.heard = loop.time()
                self._waiter = loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    async def read(self, most: int) -> bytes:
        """Read the whole body."""
        parts, size = [], 0
        async for part in self.chunks():
            size += len(part)
            if size > most:
                self.close()
                raise UpstreamBroke("too large")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let go of it, and of the connection where the body is not at its end."""
        if not self._ended:
            self._line.cut(self)


class Line(asyncio.Protocol):
    """A connection."""

    def __init__(self, pool: "Pool", loop: asyncio.AbstractEventLoop) -> None:
        """Begin without a request."""
        self.idle_since: float = 0
        self.is_lost = False
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._fields: dict[str, str] = {}
        self._head_size = 0
        self._is_framed = False
        """Whether the answer says where it ends; else its end is the connection's."""
        self._keeps = False
        self._is_paused = False
        self._silence: asyncio.TimerHandle | None = None

    def send(self, request: bytes) -> Answer:
        """Send a request; give the answer that is to come."""
        answer = self._answer = Answer(self, self._loop)
        self._begin_head()
        self._transport.write(request)
        # One timer for all of the answer: it looks when something came last.
        self._listen(self._pool.read_seconds)
        return answer

    def _begin_head(self) -> None:
        self._fields = {}
        self._head_size = 0
        self._is_framed = False

    def _listen(self, seconds: float) -> None:
        self._silence = self._loop.call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        answer = self._answer
        if answer is None:
            return
        silent_seconds = self._loop.time() - answer.heard if answer.is_waited_for else 0
        if silent_seconds < self._pool.read_seconds:
            self._listen(self._pool.read_seconds - silent_seconds)
        else:
            self._fail(UpstreamTimedOut("silent"))

    def hold_back(self) -> None:
        """Make the upstream wait: nobody reads what came."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def go_on(self, answer: Answer) -> None:
        """Let the upstream go on."""
        if self._is_paused and answer is self._answer:
            self._is_paused = False
            self._transport.resume_reading()

    def cut(self, answer: Answer) -> None:
        """End the connection if it is still this answer's."""
        if answer is self._answer:
            self._fail(UpstreamBroke("cut"))

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        self._release(error)
        self._transport.abort()

    def _release(self, error: Exception | None = None) -> None:
        answer, self._answer = self._answer, None
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if answer is not None:
            answer.end(error)

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent."""
        return self._answer is None and not self._transport.is_closing()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        answer = self._answer
        if answer is None:
            # Nobody asked: whatever it is, it is no answer.
            self._transport.abort()
            return
        answer.heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(_early(answer, "no HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        self.is_lost = True
        self._pool.forget(self)
        answer = self._answer
        if answer is not None:
            whole = exc is None and answer.head.done() and not self._is_framed
            self._release(None if whole else _early(answer, "connection lost"))

    # What the parser says.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        self._head_size += len(name) + len(value)
        if self._head_size > HEAD_MAX:
            raise _HeadIsTooLarge
        name = name.lower()
        if name in _HEARD:
            self._fields[name.decode()] = value.decode("latin-1")
        elif name in {b"content-length", b"transfer-encoding"}:
            self._is_framed = True
        elif name == b"content-encoding" and value.lower() != b"identity":
            # We asked for none, and could not meter what we cannot read.
            raise _IsEncoded

    def on_headers_complete(self) -> None:
        """Hand over the head, unless it only says that another one follows."""
        status = self._parser.get_status_code()
        if status >= _FIRST_FINAL and self._answer is not None:
            self._keeps = self._parser.should_keep_alive()
            self._answer.take_head(status, self._fields)

    def on_body(self, body: bytes) -> None:
        """Hand over a part of the body."""
        if self._answer is not None:
            self._answer.take(body)

    def on_message_complete(self) -> None:
        """Be free for the next request."""
        if self._answer is None:
            # More than was asked for.
            self._transport.abort()
            return
        if self._parser.get_status_code() < _FIRST_FINAL:
            self._begin_head()
            return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        self._release()
        if self._keeps:
            self._pool.put(self)
        else:
            self._transport.close()


class _HeadIsTooLarge(Exception):
    """An answer has more header fields than any should."""


class _IsEncoded(Exception):
    """An answer is compressed although nobody asked for it."""


def _early(answer: Answer, why: str) -> Exception:
    """Say what it is that an answer ended early: before there was one, or in the middle."""
    return UpstreamBroke(why) if answer.head.done() else UpstreamFailed(why)


class Pool:
    """The connections to one upstream."""

    def __init__(
        self, where: Where, *, connect_seconds: int, read_seconds: int, most: int = 1_000
    ) -> None:
        """Take where it is, and how long it may take."""
        self.read_seconds = read_seconds
        self._where = where
        self._connect_seconds = connect_seconds
        self._idle: deque[Line] = deque()
        self._all: set[Line] = set()
        self._count = 0
        """Connections that there are or are being made."""
        self._most = most

    async def send(self, request: bytes) -> Answer:
        """Send a request; give the answer once its head is there.

        Raises:
            UpstreamFailed: No connection, or it ended before there was an answer.
            UpstreamTimedOut: It took too long.
        """
        line = self._take()
        if line is not None:
            # It may have been closed at the other end just now: then nothing came, and a fresh
            # connection tells.
            with contextlib.suppress(_NothingCame):
                return await self._exchange(line, request, reused=True)
        return await self._exchange(await self._open(), request, reused=False)

    async def _exchange(self, line: Line, request: bytes, *, reused: bool) -> Answer:
        answer = line.send(request)
        try:
            await answer.head
        except UpstreamTimedOut:
            raise
        except UpstreamFailed as error:
            if reused:
                raise _NothingCame from error
            raise
        except BaseException:
            answer.close()
            raise
        return answer

    def _take(self) -> Line | None:
        oldest = asyncio.get_running_loop().time() - KEEP_SECONDS
        while self._idle:
            line = self._idle.pop()
            if line.is_usable and line.idle_since > oldest:
                return line
            line.abort()
        return None

    async def _open(self) -> Line:
        if self._count >= self._most:
            raise UpstreamFailed("too many connections")
        self._count += 1
        try:
            line = await self._connected()
        except BaseException:
            self._count -= 1
            raise
        if line.is_lost:
            self._count -= 1
            raise UpstreamFailed("connection lost")
        self._all.add(line)
        return line

    async def _connected(self) -> Line:
        loop = asyncio.get_running_loop()
        where = self._where
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, line = await loop.create_connection(
                    lambda: Line(self, loop), where.host, where.port, ssl=where.tls
                )
        except TimeoutError as error:
            raise UpstreamTimedOut("no connection") from error
        except OSError as error:
            raise UpstreamFailed(f"no connection: {type(error).__name__}") from error
        return line

    def put(self, line: Line) -> None:
        """Keep a connection for the next request."""
        line.idle_since = asyncio.get_running_loop().time()
        self._idle.append(line)

    def forget(self, line: Line) -> None:
        """Take note that a connection ended."""
        if line in self._all:
            self._all.remove(line)
            self._count -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(line)

    def close(self) -> None:
        """End every connection."""
        for line in list(self._all):
            line.abort()


class _NothingCame(Exception):
    """A connection that had been kept ended without a word."""
