"""An upstream as a process of its own, whose word survives its death.

What it makes it writes to a file before it sends it, a line for each token, so that after
``kill -9`` the file names at least what anybody was given. What it is to do stands in a request's
last message, as JSON: ``{"tokens": 5, "pause": 0.01}``. It speaks chat completions, responses and
Anthropic's messages, whole and streamed.

The process is this file, run as a script on the standard library alone: it starts in no time.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "keyledger-small"
INPUT = 7
"""Tokens it says it read."""
PIECE = " tok"
STARTED_SECONDS = 10
RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER``: a socket that is closed resets its connection."""

Events = list[bytes]


class Voice(NamedTuple):
    """How it speaks one of the three protocols."""

    path: str
    opening: Callable[[bool], Events]
    """Events before the first token, given whether usage is told."""
    piece: bytes
    """Event of one token."""
    closing: Callable[[int, bool], Events]
    """Events after the last token, given how many there were and whether usage is told."""
    whole: Callable[[int, bool], dict[str, Any]]
    """The same answer in one piece."""
    end: bytes
    """What stands in the last event of a stream."""


def _event(document: Mapping[str, Any], name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def _typed(name: str, **rest: Any) -> bytes:
    return _event({"type": name, **rest}, name)


def _chat_usage(tokens: int) -> dict[str, int]:
    total = INPUT + tokens
    return {"prompt_tokens": INPUT, "completion_tokens": tokens, "total_tokens": total}


def _named_usage(tokens: int) -> dict[str, int]:
    return {"input_tokens": INPUT, "output_tokens": tokens, "total_tokens": INPUT + tokens}


def _chunk(choices: list[Any], **more: Any) -> bytes:
    base = {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": choices}
    return _event({**base, **more})


def _chat_closing(tokens: int, told: bool) -> Events:  # noqa: FBT001
    usage = [_chunk([], usage=_chat_usage(tokens))] if told else []
    return [*usage, b"data: [DONE]\n\n"]


def _chat_whole(tokens: int, told: bool) -> dict[str, Any]:  # noqa: FBT001
    message = {"role": "assistant", "content": PIECE * tokens}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"usage": _chat_usage(tokens)} if told else {}
    return {"id": "x", "object": "chat.completion", "model": MODEL, "choices": choices, **usage}


def _messages_opening(told: bool) -> Events:  # noqa: FBT001
    usage = {"usage": {"input_tokens": INPUT, "output_tokens": 0}} if told else {}
    message = {"id": "x", "type": "message", "role": "assistant", "content": [], **usage}
    block = {"type": "text", "text": ""}
    return [
        _typed("message_start", message=message),
        _typed("content_block_start", index=0, content_block=block),
    ]


def _messages_closing(tokens: int, told: bool) -> Events:  # noqa: FBT001
    usage = {"usage": {"output_tokens": tokens}} if told else {}
    return [
        _typed("content_block_stop", index=0),
        _typed("message_delta", delta={"stop_reason": "end_turn"}, **usage),
        _typed("message_stop"),
    ]


def _messages_whole(tokens: int, told: bool) -> dict[str, Any]:  # noqa: FBT001
    content = [{"type": "text", "text": PIECE * tokens}]
    usage = {"usage": {"input_tokens": INPUT, "output_tokens": tokens}} if told else {}
    return {"id": "x", "type": "message", "role": "assistant", "content": content, **usage}


def _response(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "x", "object": "response", "model": MODEL, "status": status, **more}


def _responses_closing(tokens: int, told: bool) -> Events:  # noqa: FBT001
    usage = _named_usage(tokens) if told else None
    return [_typed("response.completed", response=_response("completed", usage=usage))]


def _responses_whole(tokens: int, told: bool) -> dict[str, Any]:  # noqa: FBT001
    content = [{"type": "output_text", "text": PIECE * tokens}]
    output = [{"type": "message", "role": "assistant", "content": content}]
    usage = {"usage": _named_usage(tokens)} if told else {}
    return _response("completed", output=output, **usage)


VOICES: Mapping[str, Voice] = {
    "chat": Voice(
        "/v1/chat/completions",
        lambda _: [],
        _chunk([{"index": 0, "delta": {"content": PIECE}}]),
        _chat_closing,
        _chat_whole,
        b"[DONE]",
    ),
    "messages": Voice(
        "/v1/messages",
        _messages_opening,
        _typed("content_block_delta", index=0, delta={"type": "text_delta", "text": PIECE}),
        _messages_closing,
        _messages_whole,
        b'"message_stop"',
    ),
    "responses": Voice(
        "/v1/responses",
        lambda _: [_typed("response.created", response=_response("in_progress", usage=None))],
        _typed("response.output_text.delta", delta=PIECE),
        _responses_closing,
        _responses_whole,
        b'"response.completed"',
    ),
}


# The process.


class Teller:
    """Answers requests, and writes down what it makes."""

    def __init__(self, truth: str) -> None:
        """Take the file."""
        self._file = os.open(truth, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._attempts = 0

    def note(self, attempt: str, **facts: Any) -> None:
        """Write a line: what the kernel has taken outlives the process."""
        os.write(self._file, json.dumps({"attempt": attempt, **facts}).encode() + b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after another."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        document = json.loads(await reader.readexactly(int(headers["content-length"])))
        self._attempts += 1
        attempt = f"{os.getpid()}:{self._attempts}"
        asked, at = headers["x-request-id"], time.monotonic()
        plan = plan_of(document)
        self.note(attempt, id=asked, at=at, tag=plan.get("tag"))
        (voice,) = [each for each in VOICES.values() if f" {each.path} " in first]
        return await Telling(self, attempt, voice, plan, (reader, writer)).give(document)


def plan_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Read what to do."""
    messages = document.get("messages")
    plan: dict[str, Any] = json.loads(messages[-1]["content"] if messages else document["input"])
    return plan


class Telling:
    """One answer."""

    def __init__(
        self,
        teller: Teller,
        attempt: str,
        voice: Voice,
        plan: Mapping[str, Any],
        ends: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Take what to do."""
        self._teller, self._attempt, self._voice = teller, attempt, voice
        self._reader, self._writer = ends
        self._plan = plan
        self._tokens: int = plan.get("tokens", 4)
        self._told: bool = plan.get("usage", True)

    async def give(self, document: Mapping[str, Any]) -> bool:
        """Answer; return whether the connection goes on."""
        if not document.get("stream"):
            return await self._whole()
        options = document.get("stream_options") or {}
        if self._voice is VOICES["chat"] and not options.get("include_usage"):
            self._told = False
        try:
            return await self._stream()
        except ConnectionError:
            self._note(closed=True)
            raise

    def _note(self, **facts: Any) -> None:
        self._teller.note(self._attempt, **facts)

    async def _rest(self, times: int = 1) -> None:
        await asyncio.sleep(self._plan.get("pause", 0) * times)

    async def _whole(self) -> bool:
        await self._rest(self._tokens)
        self._note(made=self._tokens)
        text = json.dumps(self._voice.whole(self._tokens, self._told)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
        half = len(text) >> 1
        if self._told:
            self._note(said=self._tokens)
        self._writer.write(head.encode() + b"\r\n\r\n" + text[:half])
        await self._writer.drain()
        await self._rest(4)
        self._writer.write(text[half:])
        await self._writer.drain()
        return True

    async def _stream(self) -> bool:
        head = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._writer.write(b"HTTP/1.1 200 OK\r\n" + head)
        for event in self._voice.opening(self._told):
            await self._send(event)
        for number in range(self._tokens):
            if self._plan.get("end_after") == number:
                return await self._end()
            self._note(made=number + 1)
            await self._send(self._voice.piece)
            await self._rest()
        if self._told:
            self._note(said=self._tokens)
        for event in self._voice.closing(self._tokens, self._told):
            await self._send(event)
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _send(self, event: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await self._writer.drain()

    async def _end(self) -> bool:
        """End in the middle: by FIN, by RST, or of its own half of the connection alone."""
        how = self._plan.get("how", "fin")
        if how == "rst":
            found = self._writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._writer.transport.abort()
        elif how == "half":
            self._writer.write_eof()
            await self._reader.read()
            self._note(closed=True)
        return False


async def _run(port: int, truth: str) -> None:
    server = await asyncio.start_server(Teller(truth).serve, "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


# Beside it, in the test.


class Attempt:
    """One time that it was asked."""

    def __init__(self, request_id: str, at: float, tag: Any) -> None:
        """Begin."""
        self.request_id, self.at, self.tag = request_id, at, tag
        self.made = 0
        """Tokens it says it made."""
        self.said: dict[str, int] | None = None
        """The usage it reported; None: none, or not yet."""
        self.closed = False
        """Whether it noticed that nobody listens."""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Take a line of the file."""
        self.made = facts.get("made", self.made)
        self.closed = facts.get("closed", self.closed)
        if "said" in facts:
            self.said = {"input": INPUT, "output": facts["said"]}

    def __repr__(self) -> str:
        """Show it."""
        return f"made {self.made}, said {self.said}, closed {self.closed}"


class Truthful:
    """The process: started, killed, started again; and what it wrote."""

    def __init__(self, home: Path, name: str = "upstream") -> None:
        """Take where its file is; begin to listen."""
        self._truth = home / f"{name}.jsonl"
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [sys.executable, "-I", __file__, str(self.port), str(self._truth)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTED_SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()

    def attempts(self) -> list[Attempt]:
        """Read what it wrote, dead or alive."""
        found: dict[str, Attempt] = {}
        if not self._truth.exists():
            return []
        for line in self._truth.read_text().splitlines():
            facts = json.loads(line)
            name = facts.pop("attempt")
            if name not in found:
                found[name] = Attempt(facts["id"], facts["at"], facts["tag"])
            found[name].note(facts)
        return list(found.values())


def told(*upstreams: Truthful) -> dict[str, list[Attempt]]:
    """Return every request that upstreams were asked, with its attempts in order."""
    found: dict[str, list[Attempt]] = {}
    everything = [attempt for each in upstreams for attempt in each.attempts()]
    for attempt in sorted(everything, key=lambda each: each.at):
        found.setdefault(attempt.request_id, []).append(attempt)
    return found


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), sys.argv[2]))
