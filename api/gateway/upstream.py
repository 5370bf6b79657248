"""What answers behind the gateway: an HTTP service or the built-in sample, by one interface.

Allow-lists say which headers pass in either direction. Never passed on: the client's
credential and cookies, and the operator's identity at the provider. Redirects are not followed, the
environment's proxies and the provider's cookies are not used.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from api.gateway import table
from api.gateway.table import RouteEntry
from ledger.ids import AccountId

REQUEST_HEADERS = frozenset(
    {"accept", "anthropic-beta", "anthropic-version", "openai-beta", "traceparent", "tracestate"}
)
"""Headers passed from the client to the upstream, besides the body's type."""
REPLY_HEADERS = frozenset({"anthropic-version", "openai-processing-ms", "openai-version"})
"""Headers passed back, besides the body's type; and ``Retry-After`` when the upstream refuses."""

_encode = msgspec.json.Encoder().encode
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class UpstreamFailed(Exception):
    """An upstream gave no answer that counts; another attempt may."""

    timed_out = False


class UpstreamTimedOut(UpstreamFailed):
    """An upstream took too long."""

    timed_out = True


class UpstreamBroke(Exception):
    """An upstream ended in the middle of its answer."""


class Outgoing:
    """A request on its way to an upstream."""

    __slots__ = (
        "_body",
        "account_id",
        "content_type",
        "document",
        "entry",
        "headers",
        "parameters",
        "query",
        "request_id",
        "stream",
    )

    def __init__(
        self,
        entry: RouteEntry,
        account_id: AccountId,
        request_id: str,
        *,
        document: Mapping[str, Any] | None = None,
        body: bytes = b"",
        content_type: str = "",
        parameters: Mapping[str, str] = _NOTHING,
        query: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
        stream: bool = False,
    ) -> None:
        """Take what to ask. ``headers`` are the client's; ``document`` goes before ``body``."""
        self.entry = entry
        self.account_id = account_id
        self.request_id = request_id
        self.document = document
        self._body = body
        self.content_type = content_type
        self.parameters = parameters
        self.query = query
        self.headers = headers
        self.stream = stream

    @property
    def body(self) -> bytes:
        """Return the body as bytes."""
        if not self._body and self.document is not None:
            self._body = _encode(self.document)
        return self._body

    @property
    def path(self) -> str:
        """Return the path below the upstream's base, parameters escaped."""
        path = self.entry.upstream_path
        if "{" in path:
            path = table.PARAMETER.sub(lambda m: quote(self.parameters[m[1]], safe=""), path)
        return f"{path}?{self.query}" if self.query else path


class Incoming(Protocol):
    """An upstream's answer whose body may still be on its way."""

    @property
    def status(self) -> int:
        """Return the status."""

    @property
    def content_type(self) -> str:
        """Return the media type with its parameters."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return those that a client may see, in lower case, and ``retry-after``."""

    async def read(self, most: int) -> bytes:
        """Read the whole body.

        Raises:
            UpstreamBroke: It ended early, or is longer than ``most``.
            UpstreamTimedOut: It stalled.
        """

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the body as it comes.

        Raises:
            UpstreamBroke: It ended early.
            UpstreamTimedOut: It stalled.
        """

    def close(self) -> None:
        """Let go of it, and end the connection where the body is not at its end."""


class Upstream(Protocol):
    """What answers."""

    name: str
    """For logs."""

    async def ask(self, outgoing: Outgoing) -> Incoming:
        """Send a request; return the answer once its head has come.

        Raises:
            UpstreamFailed: No connection, or it ended before there was an answer.
            UpstreamTimedOut: It took too long.
        """

    def scrub(self, text: bytes) -> bytes:
        """Remove from a text for the client what only the upstream and the operator may know."""

    async def close(self) -> None:
        """Let go of everything."""
