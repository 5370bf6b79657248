"""How bytes leave a worker: uvicorn's HTTP protocol, with one system call for a whole reply.

ASGI lets a server send a reply's head only once some of its body is there; uvicorn writes the head
at once, and so does uvloop. Two calls, two segments and two wake-ups of the client are a tenth of
what a caller who waits for each answer waits.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FINAL = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5")
"""How a head begins, unless it is 100 Continue, for which a client waits."""


class Gathering(asyncio.Transport):
    """A transport that holds the head of a reply until its body comes or the reply is complete."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take what sends."""
        super().__init__()
        self._transport = transport
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
        """Send what is held, then end."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """Tell what the transport knows."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol read."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Tell which protocol reads."""
        return self._transport.get_protocol()


class Http(HttpToolsProtocol):
    """uvicorn's protocol over a gathering transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._gathering = Gathering(cast("asyncio.Transport", transport))
        super().connection_made(self._gathering)

    def on_response_complete(self) -> None:
        """Go on to the next request; what answered HEAD had no body."""
        self._gathering.flush()
        super().on_response_complete()
