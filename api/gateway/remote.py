"""A service over HTTP behind the gateway: what is sent to it, and how. It uses aiohttp."""

import asyncio
import contextlib
import io
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote, urlsplit
from weakref import WeakSet

import aiohttp
from yarl import URL

from api.gateway.upstream import (
    REPLY_HEADERS,
    REQUEST_HEADERS,
    Outgoing,
    UpstreamBroke,
    UpstreamFailed,
    UpstreamTimedOut,
)
from api.http.unzip import ZIPPED, NotZipped, Unzip
from ledger.ids import format_id

ACCOUNT_HEADER = "Keyledger-Account"
"""Header that says who asks, and so whose knowledge bases, agents and memories are meant."""
CONNECTIONS_MAX = 1_000
"""Per upstream, so that one that hangs takes no other's connections."""
KEEP_SECONDS = 15
"""How long an idle connection is kept: shorter than most servers keep it."""
KEPT_MAX = 8
"""Kept connections that may end without an answer before a request fails."""
BUFFER_BYTES = 128 * 1024
"""At twice as many unread bytes the upstream is made to wait."""
FIELD_BYTES_MAX = 8 * 1024
"""Bound on a header field of an answer, and on its first line."""
FIELDS_MAX = 128
PIECE_BYTES = 1024 * 1024
"""Longer bodies are written piece by piece."""

_REQUEST_HEADERS = frozenset(name.encode() for name in REQUEST_HEADERS)
_HEARD = frozenset({*(name.encode() for name in REPLY_HEADERS), b"content-type", b"retry-after"})
_ESCAPED = re.compile(r"[^!-~]|#")
_UNSAFE = re.compile(r"[^!-~]")
_VALUE = re.compile(rb"[\t -~]*")
"""What a header may hold, either way: nothing that ends a line, and no bytes of unknown meaning."""
_FIRST_FINAL = 200


class Connections:
    """A process's connections to its upstreams."""

    def __init__(self, *, connect_seconds: int, read_seconds: int) -> None:
        """Take how long a connection and each word of an answer may take; open nothing yet."""
        self.read_seconds = read_seconds
        # The caller bounds the request as a whole.
        self._timeout = aiohttp.ClientTimeout(
            connect=connect_seconds, sock_connect=connect_seconds, sock_read=read_seconds
        )
        self._made: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def send(
        self, method: str, url: URL, headers: Sequence[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request; return the answer once its head has come.

        Raises:
            UpstreamFailed: No connection, or it ended before there was an answer.
            UpstreamTimedOut: It took too long.
        """
        try:
            for _ in range(KEPT_MAX):
                # The other end may have just closed it, and others with it; a fresh one will show.
                with contextlib.suppress(_KeptConnectionEnded):
                    return await self._send(method, url, headers, body)
            return await self._send(method, url, headers, body)
        except TimeoutError as error:
            raise UpstreamTimedOut(type(error).__name__) from error
        except _KeptConnectionEnded as error:
            raise UpstreamFailed("hung up") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFailed(type(error).__name__) from error

    async def _send(
        self, method: str, url: URL, headers: Sequence[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        return await self._session().request(
            method,
            url,
            headers=headers,
            data=io.BytesIO(body) if len(body) > PIECE_BYTES else body or None,
            allow_redirects=False,
        )

    def _session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise UpstreamFailed("closed")
        if self._made is None:
            # Made here and not at the start: it belongs to the running loop.
            self._made = _session(self._timeout)
        return self._made

    async def close(self) -> None:
        """End every connection."""
        self._is_closed = True
        if self._made is not None:
            await self._made.close()


def _session(timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """Open a session that adds nothing of its own: no cookies, no proxy, no guesses."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            limit_per_host=CONNECTIONS_MAX,
            keepalive_timeout=KEEP_SECONDS,
            # aiohttp's own context is made at import, before the environment can name a bundle.
            ssl=ssl.create_default_context(),
        ),
        headers={"User-Agent": "keyledger", "Accept-Encoding": "identity"},
        skip_auto_headers=("Accept", "Content-Type"),
        request_class=_Request,
        response_class=_Response,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=timeout,
        trust_env=False,
        read_bufsize=BUFFER_BYTES,
        max_line_size=FIELD_BYTES_MAX,
        max_field_size=FIELD_BYTES_MAX,
        max_headers=FIELDS_MAX,
    )


class _Request(aiohttp.ClientRequest):
    """A request that refuses a connection on which something came unasked."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Send it.

        Raises:
            _KeptConnectionEnded: What is there already would pass for the answer, and might
                be another account's.
        """
        assert conn.protocol is not None
        if conn.protocol.should_close:
            raise _KeptConnectionEnded
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    """An answer that, if it fails to come, says whether its connection had been kept."""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the head.

        Raises:
            _KeptConnectionEnded: It ended without an answer. aiohttp itself retries then, but not
                where the request is a POST.
        """
        protocol = connection.protocol
        kept = protocol in _used
        try:
            started = await super().start(connection)
        except (aiohttp.ClientConnectionError, OSError) as error:
            if not kept or isinstance(error, TimeoutError):
                raise
            raise _KeptConnectionEnded from error
        if not kept:
            _used.add(protocol)
        return started


class _KeptConnectionEnded(aiohttp.ServerDisconnectedError):
    """A connection that had been kept ended without an answer."""


_used: "WeakSet[object]" = WeakSet()
"""Connections on which an answer has come."""


class RemoteAnswer:
    """An answer whose body may still be on its way."""

    __slots__ = ("_read_seconds", "_response", "_zip", "content_type", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, *, read_seconds: int) -> None:
        """Take an answer whose head has come.

        Raises:
            UpstreamFailed: It cannot be passed on.
        """
        self._response = response
        self._read_seconds = read_seconds
        self._zip: Unzip | None = None
        self.status = response.status
        self.headers = self._heard()
        self.content_type = self.headers.pop("content-type", "application/octet-stream")

    def _heard(self) -> dict[str, str]:
        if self.status < _FIRST_FINAL:
            raise self._refused("another protocol")
        heard: dict[str, str] = {}
        for given, value in self._response.raw_headers:
            name = given.lower()
            if name in _HEARD and _VALUE.fullmatch(value):
                heard[name.decode()] = value.decode()
            elif name == b"content-encoding":
                self._take_encoding(value.strip().lower())
        return heard

    def _take_encoding(self, name: bytes) -> None:
        """Decode an answer although we asked for no encoding: otherwise it could not be metered."""
        if name in ZIPPED and self._zip is None:
            self._zip = Unzip()
        elif name != b"identity":
            raise self._refused("encoded")

    def _refused(self, why: str) -> UpstreamFailed:
        self.close()
        return UpstreamFailed(why)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Return the body as it comes."""
        if self._zip is None:
            async for chunk in self._chunks():
                yield chunk
            return
        try:
            async for chunk in self._chunks():
                for piece in self._zip.feed(chunk):
                    yield piece
            self._zip.end()
        except NotZipped as error:
            raise UpstreamBroke(str(error)) from error

    async def _chunks(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while True:
                chunk = content.read_nowait()
                if not chunk:
                    if content.at_eof():
                        return
                    # aiohttp does not report a body that stops being HTTP, and keeps waiting.
                    async with asyncio.timeout(self._read_seconds):
                        chunk = await content.readany()
                if chunk:
                    yield chunk
        except TimeoutError as error:
            raise UpstreamTimedOut("silent") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamBroke(type(error).__name__) from error

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
        """Let go of it, and end the connection where the body is not at its end."""
        self._response.close()


class HttpUpstream:
    """A service that speaks OpenAI's protocol."""

    def __init__(self, base: str, key: str, connections: Connections, *, number: int = 0) -> None:
        """Take its base URL, such as ``https://host/v1``, and the key to send; empty: none."""
        self.name = f"upstream-{number}"
        self._base = str(URL(base).origin()) + _escaped(urlsplit(base).path.rstrip("/"))
        self._key = key.encode()
        self._fixed = [("Authorization", f"Bearer {key}")] if key else []
        self._connections = connections

    async def ask(self, outgoing: Outgoing) -> RemoteAnswer:
        """Send a request."""
        # Escaped already: yarl would resolve a name such as `..` to the parent.
        url = URL(self._base + _escaped(outgoing.path), encoded=True)
        headers = self._headers(outgoing)
        connections = self._connections
        response = await connections.send(outgoing.entry.method, url, headers, outgoing.body)
        return RemoteAnswer(response, read_seconds=connections.read_seconds)

    def _headers(self, outgoing: Outgoing) -> list[tuple[str, str]]:
        headers = [*self._fixed, ("X-Request-Id", outgoing.request_id)]
        for name, value in outgoing.headers:
            if name in _REQUEST_HEADERS and _VALUE.fullmatch(value):
                headers.append((name.decode(), value.decode()))
        headers.append((ACCOUNT_HEADER, format_id("acct", outgoing.account_id)))
        if outgoing.body:
            kind = outgoing.content_type or "application/json"
            kind = "application/octet-stream" if _UNSAFE.search(kind.replace(" ", "")) else kind
            headers.append(("Content-Type", kind))
        return headers

    def scrub(self, text: bytes) -> bytes:
        """Remove the operator's key from a text."""
        return text.replace(self._key, b"***") if self._key and self._key in text else text

    async def close(self) -> None:
        """Close the connections, which all upstreams share."""
        await self._connections.close()


def _escaped(target: str) -> str:
    return _ESCAPED.sub(lambda match: quote(match[0]), target)
