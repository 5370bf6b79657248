"""Streamed replies that are changed on their way, or discarded."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from litestar.types import Receive, Send

from api.http.handlers import Streamed

Relay = Callable[[Any, Send], Awaitable[None]]
"""Takes a message of a stream, and sends on what becomes of it."""


class Relayed:
    """A stream whose messages go through a function on their way.

    Its headers are the stream's, or ``headers`` where given.
    """

    def __init__(
        self,
        inner: Streamed,
        relay: Relay,
        *,
        headers: Sequence[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Take a stream that has not begun."""
        self._inner = inner
        self._relay = relay
        self.status = inner.status
        self.headers = list(inner.headers if headers is None else headers)

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end."""

        async def relay(message: Any) -> None:  # noqa: ANN401 - an ASGI message
            if message["type"] == "http.response.start":
                message = {**message, "headers": self.headers}
            await self._relay(message, send)

        await self._inner.stream(relay, receive)


async def drain(reply: Streamed) -> None:
    """Let a discarded stream end as if its client had left, so that it is settled."""

    async def gone() -> Any:  # noqa: ANN401 - an ASGI message
        return {"type": "http.disconnect"}

    async def nowhere(message: Any) -> None:  # noqa: ANN401
        """Drop a message."""

    await reply.stream(nowhere, gone)
