"""How bytes reach a worker and leave it: uvicorn's HTTP protocol, bounded in bytes and in time.

ASGI lets a server send a reply's head only once some of its body is there; uvicorn writes the head
at once, and so does uvloop. Two calls, two segments and two wake-ups of the client are a tenth of
what a sequential caller waits: a whole reply is one call here.

A connection is ended when a head or a body takes too long or too much, when nothing comes, and when
nobody reads; never while an answer is being made.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NoReturn, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

HEAD_MAX = 64 * 1024
"""Bytes of a target and all headers together, and of whatever else is not content: chunk
extensions, trailers. What the parser keeps beyond that is bounded by one read, 256 KiB."""
HEAD_SECONDS = 10
"""For a request's head, from its first byte; for the first request, from the connection on."""
BODY_SECONDS = 60
LEFTOVER_MAX = 1024 * 1024
"""Bytes of a body that are read even though the request was answered before."""
LINGER_SECONDS = 5
"""After an answer to a request that is not read to its end: else a client that still sends loses
the answer."""
STALL_SECONDS = 60
"""For a client to read some of what waits for it."""
LOOK_SECONDS = 5
"""Between checks for what is due; ending may be late by this much."""
PIPELINED_MAX = 16
"""Requests on one connection that may wait for earlier answers."""

_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
_FINAL = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5")
"""How a head begins, unless it is 100 Continue, for which a client waits."""


class CoalescingTransport(asyncio.Transport):
    """A transport that holds the head of a reply until its body comes or the reply is complete."""

    def __init__(
        self, transport: asyncio.Transport, unread: Callable[[], bool] = lambda: False
    ) -> None:
        """Take the transport, and what says whether more of a request is to come."""
        super().__init__()
        self._transport = transport
        self._unread = unread
        self._held = b""
        self.is_closing = transport.is_closing  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes with the head that was held, or hold a head."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))
        elif data[:10] in _FINAL:
            self._held = bytes(data)
        else:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several."""
        self.write(b"".join(list_of_data))

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Send what is held, then end: at once, or when the client has, if it is still sending."""
        self.flush()
        if self.is_closing():
            return
        if self._unread() and self._transport.can_write_eof():
            self.is_closing = lambda: True  # type: ignore[method-assign]
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)
        else:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return what the transport knows about the connection."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol that reads."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that reads."""
        return self._transport.get_protocol()


class UntilClosed(RequestResponseCycle):
    """An exchange in HTTP/1.0, which has no chunks: the end of the connection ends the answer."""

    _unmeasured = False

    async def send(self, message: Any) -> None:  # noqa: ANN401 - uvicorn's types are its own
        """Send a message."""
        if message["type"] == "http.response.start":
            names = [name.lower() for name, _ in message.get("headers", ())]
            self._unmeasured = b"content-length" not in names
            if self._unmeasured:
                self.chunked_encoding = False
        elif self._unmeasured:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class Http(HttpToolsProtocol):
    """uvicorn's protocol over a coalescing transport, with bounds."""

    _due = inf
    """When the connection ends unless something happens before that."""
    _heading = _partial = False
    """Whether a head, and a request, has begun and not ended."""
    _new = False
    """Whether a head or a body began in the last read."""
    _body: bytes | bytearray = b""
    """The part of a body that nobody had taken at the last read."""
    _size = _body_size = _swallowed = 0
    """Bytes of the last read, of ``_body``, and of what was read since either changed."""
    _over = False
    """Whether further bytes are dropped."""
    _host = b""
    """The last ``Host`` that was checked."""
    _refusal: tuple[int, str] | None = None
    _looking: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._gathering = CoalescingTransport(cast("asyncio.Transport", transport), self._unread)
        super().connection_made(self._gathering)
        self._due = self.loop.time() + HEAD_SECONDS
        self._looking = self.loop.call_later(min(LOOK_SECONDS, HEAD_SECONDS), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        for timer in (self._looking, self._stalled):
            if timer is not None:
                timer.cancel()

    def _unread(self) -> bool:
        """Return whether a request is not read to its end; the rest of it is dropped."""
        if self._partial:
            self._over = True
            self.flow.resume_reading()
        return self._partial

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._over:
            return
        self._size = len(data)
        super().data_received(data)
        if self._partial:
            self._wait()

    def _wait(self) -> None:
        """Set a deadline for the rest of a head or a body, and bound what is neither."""
        body = b"" if self._heading else self.cycle.body
        if self._new:
            limit_seconds = HEAD_SECONDS if self._heading else BODY_SECONDS
            self._due = self.loop.time() + limit_seconds
        # Whoever takes the received part of a body leaves a new buffer.
        if self._new or body is not self._body or len(body) != self._body_size:
            self._new, self._body, self._body_size, self._swallowed = False, body, len(body), 0
            return
        self._swallowed += self._size
        if not self._heading and self.cycle.response_complete:
            if self._swallowed > LEFTOVER_MAX:
                self.transport.close()
        elif self._swallowed > HEAD_MAX:
            self._refuse(431, "The headers are too large.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._new = self._heading = self._partial = True

    def on_headers_complete(self) -> None:
        """Check the head and go on to the body."""
        if self._size > HEAD_MAX or not self._new:
            self._check_size()
        if len(self.pipeline) >= PIPELINED_MAX:
            self._reject(400, "Too many requests on this connection wait for an answer.")
        headers = dict(self.headers)
        if len(headers) != len(self.headers) or headers.get(b"host") != self._host:
            self._check_host([value for name, value in self.headers if name == b"host"])
        if self.url[:1] != b"/" and self._authority() != self._host.lower():
            self._reject(400, "The target and the Host header name different hosts.")
        super().on_headers_complete()
        # What follows a chunked body is not a header of the request.
        self.headers = []
        self._new, self._heading = True, False
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = UntilClosed
            self.cycle.waiting_for_100_continue = False

    def _check_size(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_MAX:
            self._reject(431, "The headers are too large.")

    def _check_host(self, hosts: list[bytes]) -> None:
        if not hosts and self.parser.get_http_version() == "1.0":
            hosts = [b""]
        if len(hosts) != 1:
            self._reject(400, "Send exactly one Host header.")
        if _HOST.fullmatch(hosts[0]) is None:
            self._reject(400, "The Host header does not name a host.")
        self._host = hosts[0]

    def _authority(self) -> bytes:
        """Return the host of a target that is in absolute form."""
        return re.split(rb"[/?#]", self.url.partition(b"://")[2], maxsplit=1)[0].lower()

    def _reject(self, status: int, words: str) -> NoReturn:
        """Refuse from within the parser, which passes it on as an error of its own."""
        self._refusal = status, words
        raise ValueError(words)

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._partial = False
        self._due = inf

    def on_response_complete(self) -> None:
        """Go on to the next request; an answer to HEAD had no body."""
        self._gathering.flush()
        super().on_response_complete()
        if self._over and not self._answering():
            self.transport.close()

    def _answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def pause_writing(self) -> None:
        """Wait for the client to read, for a limited time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self._gathering.abort)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _look(self) -> None:
        """End the connection if it is due."""
        if self.transport.is_closing():
            # It was ended before, and still waits for a client that does not read.
            self._looking = self.loop.call_later(STALL_SECONDS, self._gathering.abort)
            return
        now = self.loop.time()
        if now >= self._due:
            self._end()
        elif self._due == inf and self.timeout_keep_alive_task is None and not self._answering():
            # Only empty lines came, which are not a request.
            self._due = now + self.timeout_keep_alive
        wait_seconds = min(LOOK_SECONDS, self._due - now)
        self._looking = self.loop.call_later(wait_seconds, self._look)

    def _end(self) -> None:
        """End the connection, except while an answer is being made or a slow client reads."""
        self._due = self.loop.time() + LOOK_SECONDS
        answering = self._answering()
        if answering and (self.pipeline or self.flow.read_paused or not self.cycle.more_body):
            return
        if answering or self._heading:
            self._refuse(408, "The request took too long.")
        else:
            self.transport.close()

    def _refuse(self, status: int, words: str) -> None:
        self._refusal = status, words
        self.send_400_response(words)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, after the answers to what came before it."""
        self._over = True
        cycle = self.cycle
        if self._answering():
            if not cycle.more_body:
                return
            if self.pipeline:
                # The broken one was not begun: it is finished.
                self.pipeline.popleft()
                cycle.response_complete = True
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or cycle.response_complete or not cycle.response_started:
            status, words = self._refusal or (400, msg)
            self.transport.write(self._worded(status, words))
        self.transport.close()

    def _worded(self, status: int, words: str) -> bytes:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(words)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[status] + lines + b"\r\n" + words.encode()
