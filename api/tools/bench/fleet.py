"""Accounts and keys to be measured with, and the requests that they make."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import msgspec

from api.tools.bench.load import NUMBER_DIGITS, Parts

API = "/ledger/v1"
AT_ONCE = 32
TIMEOUT_SECONDS = 60
MODEL = "house-1"
CARD: Mapping[str, Any] = {
    "name": "bench",
    "asset": "USD",
    "models": {MODEL: {"prices": {"input": "0.15", "cache_read": "0.075", "output": "0.6"}}},
}
LIMITS = (
    {"kind": "requests", "window": "rolling:60", "ceiling": "1000000000"},
    {"kind": "spend", "window": "month", "ceiling": "1000000"},
)
"""So large that nothing is refused; they are there so that every request is held to them."""
CREDIT = {"amount": "1000000", "asset": "USD", "kind": "paid", "reason": "Bench"}
VARIATIONS = 8
"""Requests per key, in turn, that differ in usage and cost. If all were alike, whatever remembers
what it read or rated last would look faster than it is."""
STRIDE = 7_919
"""A prime, larger than the number of keys: those of one account are far apart in turn."""


class BenchService(NamedTuple):
    """Keyledger as it is served."""

    port: int
    secret: str
    """The operator's."""

    @property
    def address(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"


class BenchKeys(NamedTuple):
    """Keys that there are."""

    keys: Sequence[str]
    hot: Sequence[str]
    """Those of one account."""


async def _muster(service: BenchService, accounts: int, keys: int) -> BenchKeys:
    headers = {"Authorization": f"Bearer {service.secret}"}
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(
        base_url=service.address + API, headers=headers, limits=limits, timeout=TIMEOUT_SECONDS
    ) as client:
        gate = asyncio.Semaphore(AT_ONCE)

        async def post(path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401
            async with gate:
                reply = await client.post(path, json=body)
            reply.raise_for_status()
            return reply.json()

        async def account(number: int) -> str:
            terms = {"name": f"Bench {number}", "rate_card": CARD["name"], "welcome": False}
            made = await post("/accounts", {**terms, "limits": []})
            await post(f"/accounts/{made['account_id']}/grants", CREDIT)
            return str(made["account_id"])

        async def key(number: int) -> str:
            body = {"name": f"integration-{number}", "dialect": "bve", "limits": LIMITS}
            place = f"/accounts/{opened[number % accounts]}/keys"
            return str((await post(place, body))["key_id"])

        await post("/rate-cards", CARD)
        opened = await asyncio.gather(*map(account, range(accounts)))
        issued = await asyncio.gather(*map(key, range(keys)))
    spread = [issued[number * STRIDE % keys] for number in range(keys)]
    return BenchKeys(spread, issued[::accounts])


def muster(service: BenchService, accounts: int, keys: int) -> BenchKeys:
    """Publish the rate card, open the accounts, grant credit, issue the keys."""
    return asyncio.run(_muster(service, accounts, keys))


def usage_of(number: int) -> dict[str, int]:
    """Return what a request used; many thousand numbers give as many different charges."""
    spread = number * STRIDE
    return {"input": 100 + spread % 4_001, "cache_read": 1024, "output": 10 + spread % 997}


def bodies_of(keys: Sequence[str]) -> list[Parts]:
    """Return the bodies of requests of keys in turn, each before and after its number."""
    return [body_of(key, number) for number, key in enumerate([*keys] * VARIATIONS)]


def body_of(key: str, number: int) -> Parts:
    """Return the body of a request of a key, before and after its own number."""
    usage = usage_of(number)
    text = msgspec.json.encode(
        {"request_id": "bench-#", "key_id": key, "model": MODEL, "usage": usage}
    )
    before, _, after = text.partition(b"#")
    return before, after


def requests_of(service: BenchService, keys: Sequence[str]) -> list[Parts]:
    """Return the whole HTTP requests of keys, before and after their numbers."""
    found = []
    for before, after in bodies_of(keys):
        head = head_of(service, "application/json", len(before) + NUMBER_DIGITS + len(after))
        found.append((head + before, after))
    return found


def head_of(service: BenchService, content_type: str, length: int) -> bytes:
    """Return the head of a request that records usage."""
    return (
        f"POST {API}/usage HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{service.port}\r\n"
        f"Authorization: Bearer {service.secret}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def empty_requests(port: int, path: str) -> list[Parts]:
    """Return requests to the empty handler. The number is in a header that nobody reads."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Number: ".encode()
    return [(head, b"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")]
