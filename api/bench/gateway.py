"""The gateway beside the upstream it stands before: requests per second, and what it adds in time.

The upstream is trivial: ``python -m api.bench.gateway PORT`` answers every chat completion with the
same few tokens, whole or streamed, from an ASGI application that does nothing else. It is asked
directly and through a gateway of its own, with the same requests by the same load generator.
"""

import contextlib
import secrets
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import uvicorn

from api.bench import load
from api.bench.fleet import API
from api.bench.load import Found, Load, Parts
from api.bench.processes import free_port, running
from api.bench.sizes import Sizes
from api.serve import configured

TOKENS = 16
"""Events of text in a stream."""
MODEL = "keyledger-small"
CONNECTIONS = 64
KEYS = 64
CREDIT = {"amount": "1000000", "asset": "USD", "kind": "paid", "reason": "Bench"}
LIMITS = (
    {"kind": "requests", "window": "rolling:60", "ceiling": "1000000000"},
    {"kind": "spend", "window": "month", "ceiling": "1000000"},
)
KINDS = ("whole", "streamed")
WAYS = ("gateway", "direct")

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


async def upstream(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
    """Answer a chat completion; a stream where the body asks for one."""
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


class Figures(NamedTuple):
    """One way to ask, measured: with many connections, and with one."""

    per_second: float
    median_seconds: float


class GatewayBench:
    """The two servers, and what was found."""

    def __init__(self, port: int, upstream_port: int, keys: list[str], sizes: Sizes) -> None:
        """Take where they are."""
        self.found: dict[str, list[float]] = defaultdict(list)
        self._seconds = sizes.seconds
        self._connections = min(CONNECTIONS, sizes.connections)
        self._asked = {
            "direct": (upstream_port, ["nobody"]),
            "gateway": (port, keys),
        }

    def measure(self) -> None:
        """Measure everything once, ours beside the upstream itself."""
        for kind in KINDS:
            for way in WAYS:
                figures = self._figures(way, kind)
                self.found[f"{way} {kind}"].append(figures.per_second)
                self.found[f"{way} {kind} latency"].append(figures.median_seconds)

    def _figures(self, way: str, kind: str) -> Figures:
        port, keys = self._asked[way]
        requests = [_request(port, key, streamed=kind == "streamed") for key in keys]
        many, one = (self._load(port, requests, count) for count in (self._connections, 1))
        return Figures(many.per_second, one.median_seconds)

    def _load(self, port: int, requests: list[Parts], connections: int) -> Found:
        return load.measure(
            Load(
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
        """Give what the table says of it: throughput, then latency, whole and streamed."""
        for kind in KINDS:
            ours, direct = (self._median(f"{way} {kind}") for way in WAYS)
            slow, quick = (1_000 * self._median(f"{way} {kind} latency") for way in WAYS)
            answers = "whole answers" if kind == "whole" else f"streams of {TOKENS} events"
            yield {
                "what": f"gateway, {answers}, {self._connections} connections",
                "against": f"its trivial upstream asked directly, {kind}",
                "unit": "requests/s",
                "ours": ours,
                "peer": direct,
                "reach": 0.5,
                "aim": 0.8,
                "note": "Each request is two durable decisions of the ledger: held, settled. The"
                " upstream is an ASGI application that does nothing else.",
            }
            yield {
                "what": "the same, one connection, median",
                "against": f"its trivial upstream, one connection, {kind}",
                "unit": "ms",
                "ours": slow,
                "peer": quick,
                "reach": 10,
                "aim": 5,
                "at_most": True,
                "note": f"The gateway adds {slow - quick:.2f} ms.",
            }

    def _median(self, name: str) -> float:
        return statistics.median(self.found[name])


def _request(port: int, key: str, *, streamed: bool) -> Parts:
    """Give a request; its number is in a header that nobody reads."""
    body = _encode(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "What is a ledger, and who keeps it?"}],
            "max_tokens": 64,
            "stream": streamed,
        }
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Number: "
    rest = (
        f"\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), rest.encode() + body


@contextlib.contextmanager
def standing(database_url: str, home: Path, sizes: Sizes) -> Iterator[GatewayBench]:
    """Start an upstream and a gateway before it, with keys that may ask."""
    secret = "bench-" + secrets.token_urlsafe(24)
    ports = free_port(), free_port()
    behind = running(
        "api.bench.gateway",
        [str(ports[1])],
        ready=f"http://127.0.0.1:{ports[1]}/",
        more={},
        log=home / "upstream.log",
    )
    settings = {
        "KEYLEDGER_HOME": str(home / "gateway"),
        "KEYLEDGER_DATABASE_URL": database_url,
        "KEYLEDGER_ADMIN_SECRET": secret,
        "KEYLEDGER_PEPPER": secrets.token_urlsafe(24),
        "KEYLEDGER_JWT_SECRET": secrets.token_urlsafe(32),
        "KEYLEDGER_HOST": "127.0.0.1",
        "KEYLEDGER_PORT": str(ports[0]),
        "KEYLEDGER_WORKERS": str(sizes.workers),
        "KEYLEDGER_LANES": str(sizes.lanes),
        "KEYLEDGER_UPSTREAM_URL": f"http://127.0.0.1:{ports[1]}/v1",
        "KEYLEDGER_UPSTREAM_KEY": "bench",
    }
    ready = f"http://127.0.0.1:{ports[0]}/health/ready"
    with (
        behind,
        running("api.serve", [], ready=ready, more=settings, log=home / "gateway.log"),
    ):
        keys = _keys(ports[0], secret)
        yield GatewayBench(ports[0], ports[1], keys, sizes)


def _keys(port: int, secret: str) -> list[str]:
    headers = {"Authorization": f"Bearer {secret}"}
    base = f"http://127.0.0.1:{port}{API}"
    with httpx.Client(base_url=base, headers=headers, timeout=60) as client:

        def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
            reply = client.post(path, json=body)
            reply.raise_for_status()
            found: dict[str, Any] = reply.json()
            return found

        account = post("/accounts", {"name": "Bench", "welcome": False})["account_id"]
        post(f"/accounts/{account}/grants", CREDIT)
        terms = {"dialect": "bve", "limits": LIMITS}
        return [
            post(f"/accounts/{account}/keys", {"name": f"integration-{number}", **terms})["secret"]
            for number in range(KEYS)
        ]


def main() -> None:
    """Serve the upstream."""
    config = configured(upstream)
    config.host, config.port = "127.0.0.1", int(sys.argv[1])
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
