"""A TCP proxy before PostgreSQL that breaks connections at chosen places of the protocol."""

import asyncio
import struct
import threading
from typing import Any


class Proxy:
    """Passes everything on until it is armed; runs in a thread of its own."""

    def __init__(self, port: int) -> None:
        """Take the server's port."""
        self._server_port = port
        self.port = 0
        self.armed = ""
        """Where the next batch that appends is broken, once: ``after_commit``, ``before_commit``,
        ``half_of_the_append``, ``half_of_the_reply`` or ``black_hole``."""
        self.broke = 0
        """How often it broke something."""
        self.closed = False
        """Whether new connections are refused and old ones silent: the network is gone."""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._links: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._link, "127.0.0.1", 0, limit=2**20)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for link in self._links:
            link.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._links, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        """End."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._links.add(own)
        own.add_done_callback(self._links.discard)
        if self.closed:
            writer.transport.abort()
            return
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        link = _Link(self, writer, back_writer)
        try:
            await asyncio.gather(link.forth(reader), link.back(back_reader))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            back_writer.transport.abort()


class _Link:
    """One connection. Knows which prepared statement is the COMMIT and which the append."""

    def __init__(
        self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.commits: set[bytes] = set()
        self.appends: set[bytes] = set()
        self.writes = False
        """Whether the transaction under way appends."""
        self.mode = ""
        """How this link is broken."""

    async def forth(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the client says, message by message."""
        head = await reader.readexactly(4)
        self.server.write(head + await reader.readexactly(struct.unpack("!i", head)[0] - 4))
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
            if self.mode == "black_hole" or self.proxy.closed:
                continue
            self._look(head[:1], body)
            await self._pass_on(head + body)

    def _look(self, kind: bytes, body: bytes) -> None:
        name = b""
        if kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            if text == b"COMMIT":
                self.commits.add(name)
            elif b"INSERT INTO events" in text:
                self.appends.add(name)
        elif kind == b"B":
            name = body.split(b"\0", 2)[1]
            if name in self.appends:
                self.writes = True
                self._break({"half_of_the_append", "half_of_the_reply", "black_hole"})
            elif name in self.commits and self.writes:
                self.writes = False
                self._break({"after_commit", "before_commit"})

    def _break(self, here: set[str]) -> None:
        if self.proxy.armed not in here:
            return
        self.mode, self.proxy.armed = self.proxy.armed, ""
        self.proxy.broke += 1

    async def _pass_on(self, message: bytes) -> None:
        if self.mode == "before_commit":
            raise ConnectionResetError
        if self.mode == "black_hole":
            return
        if self.mode == "half_of_the_append":
            self.server.write(message[: len(message) // 2])
            await self.server.drain()
            raise ConnectionResetError
        self.server.write(message)
        await self.server.drain()

    async def back(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the server says."""
        while data := await reader.read(2**16):
            if self.mode == "after_commit":
                if b"COMMIT\0" in data:
                    raise ConnectionResetError
                continue
            if self.mode == "half_of_the_reply":
                self.client.write(data[: len(data) // 2])
                await self.client.drain()
                raise ConnectionResetError
            if self.mode != "black_hole" and not self.proxy.closed:
                self.client.write(data)
                await self.client.drain()
        raise ConnectionResetError
