"""Litestar's request, read strictly, and the one reader of every JSON body.

Litestar's own reading is lax (``"5"`` for 5, the last of two equal keys, an unknown parameter), so
handlers read header, path, query and body by the methods here, and ``Strict`` decodes ``data``.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, unquote

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.types import Receive, Scope, Send
from litestar.typing import FieldDefinition

from api.http import reading
from api.http.answers import Answer
from api.http.failure import Failure, Kind, invalid
from api.http.reading import require_text
from api.http.unzip import ZIPPED, NotZipped, Unzip
from ledger.errors import VersionIsOutdated
from ledger.ids import new_request_id

_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"', re.ASCII)
IDEMPOTENCY_KEY_MAX = 255
TEXT_MAX = 255
CURSORS = frozenset({"after", "cursor"})
CURSOR_MAX = 8_192
"""Cursors may hold more than a position: filters, balances."""
REQUEST_ID = "keyledger.request_id"
"""Name under which the scope holds the id that the reply shows."""

SURFACE = "keyledger.surface"
"""Name under which an application's state holds its ``Surface``."""
ONCE = "keyledger.once"
"""Name under which it holds what answers an ``Idempotency-Key`` once."""

C = TypeVar("C")
T = TypeVar("T")


class Surfaced(Protocol):
    """What a handler has to know about its surface."""

    @property
    def name(self) -> str:
        """Return its name in metrics."""

    def word(self, failure: Failure) -> Answer:
        """Write a failure in the surface's envelope."""

    def encode(self, view: Any, /) -> bytes:  # noqa: ANN401 - whatever msgspec encodes
        """Write a view as JSON."""

    @property
    def headers(self) -> Callable[[str], Sequence[tuple[bytes, bytes]]] | None:
        """Return what makes the headers of every reply, given the request's id; None: none."""


def request_id_of(scope: Any) -> str:  # noqa: ANN401 - a Scope, which has no room for ours
    """Return a request's id, the same for all who ask."""
    found: str | None = scope.get(REQUEST_ID)
    if found is None:
        found = scope[REQUEST_ID] = new_request_id()
    return found


class Ask(Request[C, Any, State], Generic[C]):
    """One request: what is asked, and by whom, once a guard has found out."""

    __slots__ = ("_fields", "_query", "_raw", "_repeats")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take an ASGI request."""
        super().__init__(scope, receive, send)
        self._raw: bytes | None = None
        """The body, kept where an ``Idempotency-Key`` makes it read twice."""
        self._query: dict[str, str] | None = None
        # Backwards, so that of several equal names the first stays.
        headers: Any = scope["headers"]
        self._fields: dict[bytes, bytes] = dict(reversed(headers))
        self._repeats = len(self._fields) != len(headers)

    @property
    def caller(self) -> C:
        """Return who asks, as the guard found out."""
        found: C = self.scope["user"]
        return found

    @property
    def request_id(self) -> str:
        """Return the id that the reply shows."""
        return request_id_of(self.scope)

    @request_id.setter
    def request_id(self, value: str) -> None:
        self.scope[REQUEST_ID] = value  # type: ignore[literal-required]

    @property
    def surface(self) -> Surfaced:
        """Return the surface that the route belongs to."""
        found: Surfaced = self.app.state[SURFACE]
        return found

    @property
    def operation(self) -> str:
        """Return the handler's name, as used in metrics and the document."""
        found: str = self.scope["route_handler"].opt["operation"]
        return found

    def header(self, name: bytes) -> str | None:
        """Return a header by its lower-case name; None: it is not there.

        Raises:
            Failure: It is sent twice.
        """
        if self._repeats and [each for each, _ in self.scope["headers"]].count(name) > 1:
            detail = f"{name.decode()} is sent twice."
            raise Failure(Kind.INVALID_FIELD, detail, code="header_is_repeated")
        found = self._fields.get(name)
        return None if found is None else found.decode("latin-1")

    @property
    def kind(self) -> str:
        """Return the body's media type without parameters, in lower case."""
        return _media_type(self._fields.get(b"content-type", b""))

    @property
    def client_address(self) -> str:
        """Return the client's address: whoever connected, or whom a trusted proxy names.

        Empty where it is not a network address. uvicorn reads the header of proxies that ``serve``
        names.
        """
        client = self.scope.get("client")
        return client[0] if client else ""

    def path(self, name: str) -> str:
        """Return a path parameter. The path is routed undecoded, so it may hold ``%2F``.

        Raises:
            Failure: It holds NUL or half a surrogate pair, or is too long.
        """
        return require_text(name, self.segment(name))

    def segment(self, name: str) -> str:
        """Return a path parameter unchecked; one of several segments has no leading slash."""
        return unquote(self.scope["path_params"][name].removeprefix("/"))

    @property
    def query(self) -> dict[str, str]:
        """Return the query parameters.

        Raises:
            Failure: One is sent twice, or is not UTF-8.
        """
        if self._query is None:
            try:
                text = self.scope["query_string"].decode("ascii")
                pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=32)
            except ValueError as error:
                raise _bad_query("The query is not URL-encoded UTF-8.") from error
            self._query = dict(pairs)
            if len(self._query) != len(pairs):
                raise _bad_query("A query parameter is sent twice.")
            for name, value in pairs:
                require_text(name, value, CURSOR_MAX if name in CURSORS else TEXT_MAX)
        return self._query

    def parameters(self) -> dict[str, str]:
        """Return the query, which may hold nothing but what the route documents (F6).

        Raises:
            Failure: There is another parameter.
        """
        query, known = self.query, self.route_handler.opt["contract"].query
        for name in query:
            if name not in known:
                raise invalid(name, "is not a query parameter of this route")
        return query

    def whole(self, field: str, text: str, low: int, high: int) -> int:
        """Read a whole number in a query.

        Raises:
            Failure: It is not one, or out of bounds.
        """
        if (
            not (text.isascii() and text.isdecimal())
            or len(text) > len(str(high))
            or not low <= int(text) <= high
        ):
            raise invalid(field, f"must be a whole number, {low} to {high}")
        return int(text)

    @property
    def idempotency_key(self) -> str:
        """Return the ``Idempotency-Key``, quoted or bare; empty: none.

        Raises:
            Failure: It is not 1 to 255 printable ASCII characters.
        """
        text = self.header(b"idempotency-key")
        if text is None:
            return ""
        match = _KEY.fullmatch(text)
        key = re.sub(r"\\(.)", r"\1", match[1]) if match else text
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX or not (key.isascii() and key.isprintable()):
            problem = f"must be 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters"
            raise invalid("Idempotency-Key", problem)
        return key

    @property
    def expected_version(self) -> int | None:
        """Return the version that ``If-Match`` asks for; None: any.

        Raises:
            VersionIsOutdated: It is not a strong entity tag of ours.
        """
        text = self.header(b"if-match")
        if text is None or text.strip() == "*":
            return None
        match = re.fullmatch(r'\s*"(\d{1,9})"\s*', text, re.ASCII)
        if match is None:
            raise VersionIsOutdated
        return int(match[1])

    async def body(self) -> bytes:
        """Read the body, counting as it comes; not at all if its stated length is too large.

        Raises:
            Failure: It is larger than the route takes, or the client went away.
        """
        if b"idempotency-key" not in self._fields:
            return await self._read()
        if self._raw is None:
            self._raw = await self._read()
        return self._raw

    async def _read(self) -> bytes:
        most: int = self.route_handler.opt["contract"].body_max
        found = await self._received(most)
        return found if b"content-encoding" not in self._fields else await self._plain(found, most)

    async def _plain(self, body: bytes, most: int) -> bytes:
        """Decode a compressed body within the bound that it has as it is."""
        coding = (self.header(b"content-encoding") or "").strip().lower().encode()
        if coding in {b"identity", b""} or not body:
            return body
        if coding not in ZIPPED:
            detail = "Send the body as it is, or as gzip or deflate."
            accepted = {"Accept-Encoding": "gzip, deflate"}
            raise Failure(Kind.UNSUPPORTED_MEDIA_TYPE, detail, headers=accepted)
        zipped, parts, size = Unzip(), [], 0
        try:
            for piece in zipped.feed(body):
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                parts.append(piece)
                await asyncio.sleep(0)  # others get their turn
            zipped.end()
        except NotZipped as error:
            detail = f"The body is {error}."
            raise Failure(Kind.INVALID_JSON, detail, code="malformed_encoding") from error
        return b"".join(parts)

    async def _received(self, most: int) -> bytes:
        told = self._fields.get(b"content-length", b"0")
        # The server has checked that it is a number.
        if len(told) > len(str(most)) or int(told) > most:
            raise _too_large(most)
        message: Any = await self.receive()
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
            message = await self.receive()

    async def decoded(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Read and decode a JSON body, for a handler that is given only the request.

        Raises:
            Failure: Its media type is not JSON, or it is not JSON, too large, or of another form.
        """
        self.require_json()
        return reading.decode(decoder, await self.body())

    def require_json(self) -> None:
        """Refuse a body whose media type is not JSON.

        Raises:
            Failure: It is another one.
        """
        kind = self.kind
        if kind not in {"", "application/json"} and not kind.endswith("+json"):
            raise Failure(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json.")


class Strict(AbstractDTO[Any]):
    """Decodes ``data`` by ``reading``, which refuses what msgspec and Litestar let pass."""

    model_type = object
    _decoders: ClassVar[dict[str, msgspec.json.Decoder[Any]]] = {}

    @classmethod
    def create_for_field_definition(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,
        backend_cls: Any = None,  # noqa: ANN401, ARG003
    ) -> None:
        """Make the decoder of a handler's ``data``."""
        if field_definition.name == "data":
            cls._decoders[handler_id] = msgspec.json.Decoder(field_definition.annotation)

    def decode_bytes(self, value: bytes) -> Any:  # noqa: ANN401
        """Decode a body.

        Raises:
            Failure: Its media type is not JSON, or it is not JSON, or of another form.
        """
        ask = cast("Ask[Any]", self.asgi_connection)
        ask.require_json()
        return reading.decode(self._decoders[ask.route_handler.handler_id], value)

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003
        schema_creator: Any,  # noqa: ANN401
    ) -> Reference | Schema:
        """Describe ``data`` as Litestar does."""
        made: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return made

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:  # noqa: ANN401
        """Yield nothing: nothing is transferred field by field."""
        raise NotImplementedError

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        """Find nothing: nothing is transferred field by field."""
        raise NotImplementedError


@lru_cache(maxsize=256)
def _media_type(value: bytes) -> str:
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _bad_query(detail: str) -> Failure:
    return Failure(Kind.INVALID_FIELD, detail, code="invalid_query")


def _too_large(most: int) -> Failure:
    # Closed, because the rest of the body would be read as the next request.
    headers = {"Connection": "close"}
    return Failure(Kind.TOO_LARGE, f"The body may have at most {most} bytes.", headers=headers)
