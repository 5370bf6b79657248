"""MCP on ryvion's credentials: authenticated and bounded here, spoken in ``api.mcp``."""

import asyncio
import importlib
from typing import Any

import msgspec
from litestar.types import Receive, Send

from api.dialects.ryvion import credentials
from api.dialects.ryvion.credentials import Principal
from api.http import reading
from api.http.failure import Failure, Kind
from api.http.handlers import Reply, hot
from api.services import Ask

_decoder = msgspec.json.Decoder(dict[str, Any])


class McpExchange:
    """One exchange of the protocol."""

    def __init__(self, ask: Ask[Principal], body: bytes, speak: Any) -> None:  # noqa: ANN401
        """Take what was read already."""
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self._ask = ask
        self._body: bytes | None = body
        self._speak = speak

    async def stream(self, send: Send, receive: Receive) -> None:
        """Let the SDK answer, with our headers."""

        async def read() -> Any:  # noqa: ANN401
            if self._body is None:
                return await receive()
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}

        async def write(message: Any) -> None:  # noqa: ANN401
            if message["type"] == "http.response.start":
                self.status = message["status"]
                message = {**message, "headers": [*message["headers"], *self.headers]}
            await send(message)

        ask = self._ask
        await self._speak.serve(ask.services, ask.caller, ask.scope, read, write)


@hot("POST", "/mcp", guards=[credentials.usable_key_or_session()], documented=False)
async def speak_mcp(ask: Ask[Principal]) -> Reply:
    """Speak the Model Context Protocol: streamable HTTP, stateless."""
    if ask.kind != "application/json":
        raise Failure(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json.")
    body = await ask.body()
    reading.decode(_decoder, body)
    # In a thread: the first import takes half a second, which others should not wait for.
    speak = await asyncio.to_thread(importlib.import_module, "api.mcp.server")
    return McpExchange(ask, body, speak)


HANDLERS = (speak_mcp,)
