"""One HTTP exchange: what came in, what goes out. Routes see this and neither ASGI nor Litestar.

A raw ASGI handler inside Litestar costs a third of a full one, and every route of ours reads its
body and words its errors in the same way, so all of them are such.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.types import Receive, Scope, Send

from api.http.failure import Failure, Kind, invalid
from api.http.reading import BODY_MAX, require_text
from ledger.errors import VersionIsOutdated
from ledger.ids import Position

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode
_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"', re.ASCII)
IDEMPOTENCY_KEY_MAX = 255
TEXT_MAX = 255
CURSORS = frozenset({"after", "cursor"})
CURSOR_MAX = 8_192
"""Cursors may hold more than a place: filters, balances."""


class Answer:
    """What goes out."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: bytes = JSON,
        position: Position | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take a body that is encoded already."""
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers: list[tuple[bytes, bytes]] = []
        if position is not None:
            self.headers.append((b"ledger-position", b"%d:%d" % position))
        if headers:
            self.headers.extend(
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in headers.items()
            )

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it."""
        headers = self.headers
        if self.status != 204:  # noqa: PLR2004 - RFC 9110 §8.6: no length where there is no content
            headers = [
                (b"content-type", self.content_type),
                (b"content-length", b"%d" % len(self.body)),
                *headers,
            ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if head else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def answer(
    view: Any,  # noqa: ANN401 - whatever msgspec encodes
    *,
    status: int = 200,
    position: Position | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Encode a view as an answer."""
    return Answer(_encode(view), status=status, position=position, headers=headers)


@lru_cache(maxsize=256)
def _media_type(value: bytes) -> str:
    return value.decode("latin-1").partition(";")[0].strip().lower()


class Call:
    """What came in."""

    __slots__ = ("_body", "_headers", "_query", "_receive", "_repeats", "body_max", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Take an ASGI request."""
        self.scope: Any = scope
        self._receive = receive
        self._body: bytes | None = None
        """Kept where it is read twice, because the request is to be answered once."""
        self.body_max = BODY_MAX
        """Bytes that the route takes."""
        self._query: dict[str, str] | None = None
        # Backwards, so that of several the first stays.
        headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
        self._headers = dict(reversed(headers))
        self._repeats = len(self._headers) != len(headers)

    def header(self, name: bytes) -> str | None:
        """Give a header by its lower-case name; None: it is not there.

        Raises:
            Failure: It is there twice.
        """
        if self._repeats and [each for each, _ in self.scope["headers"]].count(name) > 1:
            detail = f"{name.decode()} is there twice."
            raise Failure(Kind.INVALID_FIELD, detail, code="header_is_repeated")
        found = self._headers.get(name)
        return None if found is None else found.decode("latin-1")

    @property
    def content_type(self) -> str:
        """Give the media type without parameters, in lower case."""
        return _media_type(self._headers.get(b"content-type", b""))

    @property
    def client_address(self) -> str:
        """Give the address of whoever connected, or of whom a trusted proxy says it stands for.

        Empty where it is no network's. uvicorn reads the proxy's header; ``serve`` says whose.
        """
        client = self.scope.get("client")
        return client[0] if client else ""

    def path(self, name: str) -> str:
        """Give a path parameter."""
        text: str = self.scope["path_params"][name]
        return require_text(name, text)

    @property
    def query(self) -> dict[str, str]:
        """Give the query parameters.

        Raises:
            Failure: One is there twice, or is not UTF-8.
        """
        if self._query is None:
            try:
                text = self.scope["query_string"].decode("ascii")
                pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=32)
            except ValueError as error:
                raise _bad_query("The query cannot be read.") from error
            self._query = dict(pairs)
            if len(self._query) != len(pairs):
                raise _bad_query("A query parameter is there twice.")
            for name, value in pairs:
                require_text(name, value, CURSOR_MAX if name in CURSORS else TEXT_MAX)
        return self._query

    def require_only(self, *names: str) -> dict[str, str]:
        """Give the query, which must hold nothing but these parameters (F6).

        Raises:
            Failure: There is another.
        """
        query = self.query
        for name in query:
            if name not in names:
                raise invalid(name, "is no query parameter of this")
        return query

    @property
    def idempotency_key(self) -> str:
        """Give the ``Idempotency-Key``, quoted or bare; empty: none.

        Raises:
            Failure: It is no text of 1 to 255 printable ASCII characters.
        """
        text = self.header(b"idempotency-key")
        if text is None:
            return ""
        match = _KEY.fullmatch(text)
        key = re.sub(r"\\(.)", r"\1", match[1]) if match else text
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX or not (key.isascii() and key.isprintable()):
            problem = f"1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters"
            raise invalid("Idempotency-Key", problem)
        return key

    @property
    def expected_version(self) -> int | None:
        """Give the version that ``If-Match`` asks for; None: any.

        Raises:
            Failure: It is no strong entity tag of ours.
        """
        text = self.header(b"if-match")
        if text is None or text.strip() == "*":
            return None
        match = re.fullmatch(r'\s*"(\d{1,9})"\s*', text, re.ASCII)
        if match is None:
            raise VersionIsOutdated
        return int(match[1])

    async def body(self) -> bytes:
        """Read the body, counting while it comes; not at all if it says to be too large.

        Raises:
            Failure: It is larger than the route takes, or the client went away.
        """
        if b"idempotency-key" not in self._headers:
            return await self._read()
        if self._body is None:
            self._body = await self._read()
        return self._body

    async def _read(self) -> bytes:
        most = self.body_max
        told = self._headers.get(b"content-length", b"0")
        # The server has read it as a number already.
        if len(told) > len(str(most)) or int(told) > most:
            raise _too_large(most)
        message: Any = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            found: bytes = message.get("body", b"")
            if len(found) > most:
                raise _too_large(most)
            return found
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                detail = "The body ended early."
                raise Failure(Kind.INVALID_JSON, detail, code="body_is_incomplete")
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()


def _bad_query(detail: str) -> Failure:
    return Failure(Kind.INVALID_FIELD, detail, code="invalid_query")


def _too_large(most: int) -> Failure:
    # Closed, because what is left of the body would be read as the next request.
    headers = {"Connection": "close"}
    return Failure(Kind.TOO_LARGE, f"At most {most} bytes of body.", headers=headers)
