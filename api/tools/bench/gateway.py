"""The gateway compared with its own upstream: requests per second, and the latency that it adds.

The upstream is trivial: ``python -m api.tools.bench.gateway PORT`` answers every chat completion
with the same few tokens, whole or streamed, from a Litestar handler that decodes the body and does
nothing else. It is asked directly and through a gateway of its own, with the same requests by the
same load generator. With ``PORT bare`` it is an ASGI function that does not even look at the body.
LiteLLM's proxy, where there is one, stands before the same upstream, without a database.
"""

import asyncio
import contextlib
import json
import secrets
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import uvicorn
from litestar import Litestar, Response, get, post
from litestar.response import Stream

from api.process.serve import configured
from api.tools.bench import load
from api.tools.bench.fleet import API
from api.tools.bench.load import LoadPlan, LoadResult, Parts
from api.tools.bench.processes import free_port, module, running
from api.tools.bench.sizes import Sizes

TOKENS = 16
"""Events of text in a stream."""
MODEL = "keyledger-small"
CONNECTIONS = 64
ACCOUNTS = 16
"""As in the other rows the keys are of many accounts, so that every lane has something to do."""
KEYS_OF_ACCOUNT = 4
CREDIT = {"amount": "1000000", "asset": "USD", "kind": "paid", "reason": "Bench"}
LIMITS = (
    {"kind": "requests", "window": "rolling:60", "ceiling": "1000000000"},
    {"kind": "spend", "window": "month", "ceiling": "1000000"},
)
KINDS = ("whole", "streamed")
SLOW_MILLISECONDS = 20
"""What a real upstream may take: even a small model is not much faster."""
MASTER_KEY = "sk-bench"
"""LiteLLM's."""

_encode = msgspec.json.encode
_USAGE = {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": 12 + TOKENS}
_HEAD: Mapping[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream")]


def _chunk(choices: list[Any], usage: Mapping[str, int] | None) -> bytes:
    kind = {"object": "chat.completion.chunk"}
    return b"data: %b\n\n" % _encode({**_HEAD, **kind, "choices": choices, "usage": usage})


_WHOLE = _encode(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " word" * TOKENS},
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
)
_PIECE = _chunk([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}], None)
_LAST = _chunk([], _USAGE) + b"data: [DONE]\n\n"


class CompletionBody(msgspec.Struct, frozen=True):
    """What the handler decodes a body into."""

    model: str
    messages: list[dict[str, str]]
    stream: bool = False
    user: str = ""
    """Milliseconds to wait before the answer; empty: none."""


@post("/v1/chat/completions", status_code=200)
async def complete(data: CompletionBody) -> Response[bytes] | Stream:
    """Answer a chat completion; a stream where the body asks for one."""
    if data.user:
        await asyncio.sleep(int(data.user) / 1_000)
    if data.stream:
        return Stream(_events(), media_type="text/event-stream")
    return Response(_WHOLE, media_type="application/json")


async def _events() -> AsyncIterator[bytes]:
    for _ in range(TOKENS):
        yield _PIECE
    yield _LAST


@get("/")
async def ready() -> None:
    """Say that it serves."""


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
    """Answer as the handler does, from nothing but ASGI."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    message = await receive()
    if b'"stream":true' not in message.get("body", b""):
        length = (b"content-length", str(len(_WHOLE)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*_JSON, length]})
        await send({"type": "http.response.body", "body": _WHOLE})
        return
    await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
    for _ in range(TOKENS):
        await send({"type": "http.response.body", "body": _PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": _LAST})


class WaySpeed(NamedTuple):
    """One way to ask, measured: with many connections, and with one."""

    per_second: float
    median_seconds: float


class Way(NamedTuple):
    """A server to ask, and what to show to it."""

    port: int
    secrets: list[str]


class GatewayBench:
    """The servers, and what was found."""

    def __init__(self, ways: Mapping[str, Way], sizes: Sizes, litellm: str) -> None:
        """Take where they are: ``gateway``, ``direct``, ``bare``, perhaps ``litellm``.

        ``litellm``: its version; empty: there is none.
        """
        self.found: dict[str, list[float]] = defaultdict(list)
        self._ways = ways
        self._litellm = litellm
        self._seconds = sizes.seconds
        self._connections = min(CONNECTIONS, sizes.connections)

    def measure(self) -> None:
        """Measure everything once, ours beside the upstream itself."""
        for kind in KINDS:
            for way in self._ways:
                figures = self._figures(way, kind)
                self.found[f"{way} {kind}"].append(figures.per_second)
                self.found[f"{way} {kind} latency"].append(figures.median_seconds)
        for way in ("gateway", "direct"):
            requests = self._requests(way, wait_milliseconds=SLOW_MILLISECONDS)
            found = self._load(self._ways[way].port, requests, self._connections)
            self.found[f"{way} slow"].append(found.per_second)

    def _figures(self, name: str, kind: str) -> WaySpeed:
        requests, port = self._requests(name, streamed=kind == "streamed"), self._ways[name].port
        many, one = (self._load(port, requests, count) for count in (self._connections, 1))
        return WaySpeed(many.per_second, one.median_seconds)

    def _requests(self, name: str, **terms: Any) -> list[Parts]:  # noqa: ANN401 - handed on
        way = self._ways[name]
        return [_request(way.port, key, **terms) for key in way.secrets]

    def _load(self, port: int, requests: list[Parts], connections: int) -> LoadResult:
        return load.measure(
            LoadPlan(
                host="127.0.0.1",
                port=port,
                connections=connections,
                seconds=self._seconds,
                warmup_seconds=0.5,
                first=0,
                requests=requests,
            )
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the table says of it: throughput, then latency, whole and streamed."""
        for kind in KINDS:
            ours, direct, idle = (
                self._median(f"{w} {kind}") for w in ("gateway", "direct", "bare")
            )
            slow, quick = (
                1_000 * self._median(f"{way} {kind} latency") for way in ("gateway", "direct")
            )
            answers = "whole answers" if kind == "whole" else f"streams of {TOKENS} events"
            yield {
                "what": f"gateway, {answers}, {self._connections} connections",
                "against": f"its upstream asked directly, a Litestar @post handler, {kind}",
                "unit": "requests/s",
                "ours": ours,
                "peer": direct,
                "reach": 0.5,
                "aim": 0.8,
                "note": "Each request is two durable decisions of the ledger: held, settled. The"
                f" handler decodes the body. A bare ASGI function in its place answers"
                f" {idle:,.0f}/s directly.",
            }
            yield {
                "what": "the same, one connection, median",
                "against": f"its upstream, one connection, {kind}",
                "unit": "ms",
                "ours": slow,
                "peer": quick,
                "reach": 10,
                "aim": 5,
                "at_most": True,
                "note": f"The gateway adds {slow - quick:.2f} ms.",
            }
            yield self._beside_litellm(kind, answers, ours)
        waited = f"answers after {SLOW_MILLISECONDS} ms"
        yield {
            "what": f"gateway, {waited}, {self._connections} connections",
            "against": "its upstream asked directly, waiting as long",
            "unit": "requests/s",
            "ours": self._median("gateway slow"),
            "peer": self._median("direct slow"),
            "reach": 0.5,
            "aim": 0.8,
            "note": "The same handler, which waits before it answers.",
        }

    def _beside_litellm(self, kind: str, answers: str, ours: float) -> dict[str, Any]:
        there = bool(self._litellm)
        note = "Give its command with --litellm."
        if there:
            slow = 1_000 * self._median(f"litellm {kind} latency")
            note = (
                "One worker on both sides, before the same upstream. LiteLLM's checks a master key"
                f" and keeps no books; one connection has an answer in {slow:.1f} ms."
            )
        return {
            "what": f"gateway, {answers}, {self._connections} connections",
            "against": f"LiteLLM proxy {self._litellm}".rstrip() + f", {kind}",
            "unit": "requests/s",
            "ours": ours,
            "peer": self._median(f"litellm {kind}") if there else None,
            "reach": 5,
            "aim": 10,
            "note": note,
        }

    def _median(self, name: str) -> float:
        return statistics.median(self.found[name])


def _request(port: int, key: str, *, streamed: bool = False, wait_milliseconds: int = 0) -> Parts:
    """Return a request; its number is in a header that nobody reads."""
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is a ledger, and who keeps it?"}],
        "max_tokens": 64,
        "stream": streamed,
    }
    body = _encode(asked | ({"user": str(wait_milliseconds)} if wait_milliseconds else {}))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Number: "
    rest = (
        f"\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), rest.encode() + body


@contextlib.contextmanager
def standing(
    database_url: str, home: Path, sizes: Sizes, litellm: Path | None = None
) -> Iterator[GatewayBench]:
    """Start an upstream and a gateway before it, with keys that may ask; LiteLLM where it is."""
    secret = "bench-" + secrets.token_urlsafe(24)
    with contextlib.ExitStack() as stack:
        behind, bare_port = (stack.enter_context(_upstream(home, *how)) for how in ((), ("bare",)))
        port = free_port()
        settings = {
            "KEYLEDGER_HOME": str(home / "gateway"),
            "KEYLEDGER_DATABASE_URL": database_url,
            "KEYLEDGER_ADMIN_SECRET": secret,
            "KEYLEDGER_PEPPER": secrets.token_urlsafe(24),
            "KEYLEDGER_JWT_SECRET": secrets.token_urlsafe(32),
            "KEYLEDGER_HOST": "127.0.0.1",
            "KEYLEDGER_PORT": str(port),
            "KEYLEDGER_WORKERS": str(sizes.workers),
            "KEYLEDGER_LANES": str(sizes.lanes),
            "KEYLEDGER_UPSTREAM_URL": f"http://127.0.0.1:{behind}/v1",
            "KEYLEDGER_UPSTREAM_KEY": "bench",
        }
        ready = f"http://127.0.0.1:{port}/health/ready"
        log = home / "gateway.log"
        stack.enter_context(
            running(module("api.process.serve"), ready=ready, more=settings, log=log)
        )
        ways = {
            "direct": Way(behind, ["nobody"]),
            "gateway": Way(port, _keys(port, secret)),
            "bare": Way(bare_port, ["nobody"]),
        }
        version = ""
        if litellm is not None:
            version = _version(litellm)
            proxy = stack.enter_context(_litellm(litellm, home, behind, sizes.workers))
            ways["litellm"] = Way(proxy, [MASTER_KEY])
        yield GatewayBench(ways, sizes, version)


@contextlib.contextmanager
def _upstream(home: Path, *how: str) -> Iterator[int]:
    port = free_port()
    command = module("api.tools.bench.gateway", str(port), *how)
    log = home / f"upstream{len(how)}.log"
    with running(command, ready=f"http://127.0.0.1:{port}/", more={}, log=log):
        yield port


@contextlib.contextmanager
def _litellm(command: Path, home: Path, behind: int, workers: int) -> Iterator[int]:
    port = free_port()
    model = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{behind}/v1",
        "api_key": "bench",
    }
    said = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"master_key": MASTER_KEY},
    }
    written = home / "litellm.yaml"
    written.write_text(json.dumps(said))  # JSON is YAML
    options = {"config": written, "host": "127.0.0.1", "port": port, "num_workers": workers}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    # Its price list comes with it; without this it would ask for a newer one.
    more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    ready = f"http://127.0.0.1:{port}/health/liveliness"
    with running([str(command), *arguments], ready=ready, more=more, log=home / "litellm.log"):
        yield port


def _version(command: Path) -> str:
    """Ask LiteLLM's own environment which version it is."""
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    python = str(command.with_name("python"))
    told = subprocess.run(  # noqa: S603 - beside the command that was named
        [python, "-c", code], capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def _keys(port: int, secret: str) -> list[str]:
    headers = {"Authorization": f"Bearer {secret}"}
    base = f"http://127.0.0.1:{port}{API}"
    with httpx.Client(base_url=base, headers=headers, timeout=60) as client:

        def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
            reply = client.post(path, json=body)
            reply.raise_for_status()
            found: dict[str, Any] = reply.json()
            return found

        shown: list[str] = []
        for name in map("Bench {}".format, range(ACCOUNTS)):
            opened = post("/accounts", {"name": name, "welcome": False, "limits": []})
            account = opened["account_id"]
            post(f"/accounts/{account}/grants", CREDIT)
            for number in range(KEYS_OF_ACCOUNT):
                terms = {"name": f"integration-{number}", "dialect": "bve", "limits": LIMITS}
                shown.append(post(f"/accounts/{account}/keys", terms)["secret"])
        return shown


def main() -> None:
    """Serve the upstream."""
    port, *how = sys.argv[1:]
    handler = Litestar([complete, ready], openapi_config=None, logging_config=None)
    config = configured(bare if how else handler)
    config.host, config.port = "127.0.0.1", int(port)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
