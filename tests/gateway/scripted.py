"""A real upstream on a real socket that does what it is told, and counts what it says it made.

What it is to do stands in a request's last message, as JSON: ``{"tokens": 5, "die_after": 3}``.
A token is one piece of text; each is an event of its own, written and flushed. ``"as_told": 0`` is
an answer as long as the request bounds it, ``"as_told": 3`` one that is three tokens longer, and
``"within": 5`` one of five tokens at most.
"""

import asyncio
import json
import threading
from collections import Counter, defaultdict
from typing import Any

KEY = "upstream-secret-key-of-tests"
INPUT = 7
"""Tokens it says it read."""
PIECE = " tok"


class Scripted:
    """The server, in a thread of its own."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.said: dict[str, int] = {}
        """Request id → tokens it says it made, in the attempt that answered last."""
        self.calls: Counter[str] = Counter()
        """Request id → how often it was asked."""
        self.marks: Counter[str] = Counter()
        """Plan's mark → how often it was asked for, under whatever id."""
        self.seen: dict[str, dict[str, str]] = {}
        """Request id → headers, in lower case."""
        self.paths: dict[str, str] = {}
        self.bodies: dict[str, Any] = {}
        self.closed: defaultdict[str, int] = defaultdict(int)
        """Request id → tokens after which it noticed that nobody listens."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"

    def stop(self) -> None:
        """End."""

        async def end() -> None:
            self._server.close()
            tasks = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = headers.get("x-request-id", "")
        self.calls[asked] += 1
        self.seen[asked] = headers
        self.paths[asked] = first
        document = json.loads(body) if body[:1] == b"{" else {}
        self.bodies[asked] = document or body
        plan = plan_of(document)
        mark = plan.get("mark", "")
        self.marks[mark] += 1
        plan.setdefault("attempt", self.marks[mark] if mark else self.calls[asked])
        return await Answer(self, asked, document, plan, writer).give()


def plan_of(document: dict[str, Any]) -> dict[str, Any]:
    """Read what to do."""
    text = document.get("input") or document.get("prompt") or ""
    if document.get("messages"):
        text = document["messages"][-1]["content"]
    if isinstance(text, str) and text.startswith("{"):
        return json.loads(text)
    return {}


def raw_of(text: str) -> bytes:
    """Return the bytes of a plan's text: one per character, unless a byte order mark begins it."""
    return text.encode("utf-8" if text.startswith("\ufeff") else "latin-1")


def bound_of(document: dict[str, Any]) -> int:
    """Read how long the answer may be; of several choices all together."""
    fields = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    (bound,) = {document[field] for field in fields if document.get(field) is not None}
    return bound * (document.get("n") or 1)


class Answer:
    """One answer."""

    def __init__(self, server, asked, document, plan, writer) -> None:
        """Take what to do."""
        self.server, self.asked, self.document, self.plan = server, asked, document, plan
        self.writer = writer
        self.tokens = plan.get("tokens", 4)
        if "as_told" in plan:
            self.tokens = bound_of(document) + plan["as_told"]
        elif "within" in plan:
            self.tokens = min(bound_of(document), plan["within"])

    async def give(self) -> bool:
        """Answer; return whether the connection goes on."""
        plan = self.plan
        if plan["attempt"] <= plan.get("fail_first", 0):
            return await self.fail(plan.get("how", "500"))
        if self.document.get(plan.get("refuses")) is not None:
            error = {"message": "Unsupported parameter", "param": plan["refuses"]}
            return await self.whole({"error": error}, 400, {})
        if "events" in plan:
            return await self.events()
        if "status" in plan:
            body = plan.get("body", {"error": {"message": f"no: {KEY}", "type": "x"}})
            body = raw_of(plan["raw"]) if "raw" in plan else body
            return await self.whole(body, plan["status"], plan.get("headers", {}))
        if self.document.get("stream"):
            return await self.stream()
        self.server.said[self.asked] = self.tokens
        reply = {
            "id": "x",
            "object": "chat.completion",
            "model": self.document.get("model"),
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": PIECE * self.tokens}}
            ],
        }
        if self.document.get("input") is not None and "messages" not in self.document:
            reply = {"object": "list", "data": [], "model": "m"}
        if plan.get("usage", True):
            reply["usage"] = plan.get("report") or self.usage
        return await self.whole(reply, 200, {})

    @property
    def usage(self) -> dict[str, int]:
        """Return what it says it used."""
        return {
            "prompt_tokens": INPUT,
            "completion_tokens": self.tokens,
            "total_tokens": INPUT + self.tokens,
        }

    async def fail(self, how: str) -> bool:
        """Fail before there is any output."""
        if how == "close":
            return False
        if how == "stall":
            await asyncio.sleep(60)
            return False
        if how == "half":
            self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            await self.writer.drain()
            return False
        if how == "empty":
            self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            self.writer.write(b"Content-Length: 0\r\n\r\n")
            await self.writer.drain()
            return True
        body = {"error": {"message": f"at our end: {KEY}"}, **self.plan.get("failing", {})}
        return await self.whole(body, int(how), {})

    async def whole(self, body: Any, status: int, headers: dict[str, str]) -> bool:
        """Answer in one piece."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"HTTP/1.1 {status} X",
            f"Content-Type: {self.plan.get('content_type', 'application/json')}",
            "Set-Cookie: a=b",
            f"X-Upstream-Secret: {KEY}",
            "OpenAI-Processing-Ms: 12",
            f"Content-Length: {len(text)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + text)
        await self.writer.drain()
        return True

    async def chunk(self, data: bytes) -> None:
        """Write one chunk."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    def event(self, document: Any) -> bytes:
        """Write an event as the plan wants its line ends."""
        return b"data: " + json.dumps(document).encode() + 2 * self.line_end

    @property
    def asks(self) -> bool:
        """Whether usage is asked for."""
        return bool((self.document.get("stream_options") or {}).get("include_usage"))

    async def events(self) -> bool:
        """Answer in a stream of the plan's own events, each written by itself."""
        kind = self.plan.get("content_type", "text/event-stream")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.writer.write(head.encode())
        for event in self.plan["events"]:
            await self.chunk(event.encode() + b"\n\n")
            await asyncio.sleep(0)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def stream(self) -> bool:
        """Answer in a stream."""
        head = [
            "HTTP/1.1 200 OK",
            "Content-Type: text/event-stream",
            "Transfer-Encoding: chunked",
        ]
        self.writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
        self.base = {
            "id": "x",
            "object": "chat.completion.chunk",
            "model": self.document["model"],
        }
        if self.asks:
            self.base["usage"] = None
        self.server.said[self.asked] = 0
        if self.plan.get("comment"):
            await self.chunk(b": keep-alive" + 2 * self.line_end)
        for number in range(self.tokens):
            if self.plan.get("die_after") == number:
                return await self.die()
            await self.piece(number)
        return await self.finish()

    @property
    def line_end(self) -> bytes:
        """Return how lines end."""
        return b"\r\n" if self.plan.get("crlf") else b"\n"

    async def piece(self, number: int) -> None:
        """Make a token, and write it."""
        plan = self.plan
        if plan.get("stall_after") == number:
            await asyncio.sleep(plan.get("stall_seconds", 60))
        choices = [{"index": 0, "delta": {"content": plan.get("piece", PIECE)}}]
        event = self.event({**self.base, "choices": choices})
        self.server.said[self.asked] = number + 1
        try:
            if plan.get("cut"):
                await self.chunk(event[:20])
                await asyncio.sleep(0.001)
                event = event[20:]
            await self.chunk(event)
        except ConnectionError:
            self.server.closed[self.asked] = number + 1
            raise
        await asyncio.sleep(plan.get("pause", 0))

    async def finish(self) -> bool:
        """Write what comes after the last token."""
        plan = self.plan
        if plan.get("error"):
            await self.chunk(self.event({"error": {"message": f"oops {KEY}"}}))
        if self.asks and plan.get("usage", True):
            usage = plan.get("report") or self.usage
            choices = [{"index": 0, "delta": {}}] if plan.get("attached") else []
            await self.chunk(self.event({**self.base, "choices": choices, "usage": usage}))
        if plan.get("die_at_end"):
            return await self.die()
        if plan.get("done", True):
            await self.chunk(b"data: [DONE]" + 2 * self.line_end)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def die(self) -> bool:
        """End in the middle: of the stream, or of a chunk."""
        if self.plan.get("mid_chunk"):
            self.writer.write(b"ff\r\ndata: {")
            await self.writer.drain()
        if self.plan.get("reset"):
            self.writer.transport.abort()
        return False
