"""What the tests of venice have in common: an account, and clients that show its keys."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx

from api.dialects.registry import OF_DIALECTS
from ledger.clock import format_milliseconds, parse_instant

KEYS = "/api/v1/api_keys"
RATES = f"{KEYS}/rate_limits"
ROW = {
    *("id", "apiKeyType", "description", "createdAt", "expiresAt", "lastUsedAt", "last6Chars"),
    *("consumptionLimits", "limitPeriod", "modelPrivacy"),
}
NEW = {
    *("id", "apiKey", "apiKeyType", "description", "expiresAt", "consumptionLimit"),
    *("limitPeriod", "modelPrivacy"),
}
OWN = OF_DIALECTS.opening.own_terms("")
NO_LIMITS = {"usd": None, "diem": None, "vcu": None}
SMALL, LARGE, EMBEDDING = "keyledger-small", "keyledger-large", "keyledger-embedding"
NOWHERE = "e28e82dc-9df2-4b47-b726-d0a222ef2ab5"


def own_terms(*kinds: str) -> dict[str, Any]:
    """Return the terms of an account that its owner opens, with the limits of some kinds."""
    limits = [
        {"kind": rule.kind, "window": rule.window, "ceiling": rule.ceiling}
        for rule in OWN.limits
        if rule.kind in kinds
    ]
    return {"pays_with": list(OWN.pays_with), "limits": limits}


class Venice:
    """An account, and clients that show its keys."""

    def __init__(self, served: Any, person: Any) -> None:
        """Take who owns it."""
        self.served = served
        self.account_id = person.account_id
        self.session = person.client
        self.token = person.token
        self.operator = served.client()
        self.clients = [self.session, self.operator]

    def close(self) -> None:
        """Close every client."""
        for client in self.clients:
            client.close()

    def showing(self, secret: str) -> httpx.Client:
        """Return a client that shows a secret or token."""
        self.clients.append(self.served.client(secret))
        return self.clients[-1]

    def create(self, status: int = 200, client: Any = None, **terms: Any) -> dict[str, Any]:
        """Create a key and give what the reply holds."""
        body = {"apiKeyType": "INFERENCE", "description": "a key", **terms}
        found = (client or self.session).post(KEYS, json=body)
        assert found.status_code == status, found.text
        return found.json()["data"] if status == 200 else found.json()

    def client(self, **terms: Any) -> httpx.Client:
        """Create a key and give a client that shows it; ``key`` is the reply."""
        made = self.create(**terms)
        client = self.showing(made["apiKey"])
        client.key = made
        return client

    def admin(self) -> httpx.Client:
        """Return a client that shows an ADMIN key."""
        return self.client(apiKeyType="ADMIN", description="an admin")

    def member(self, role: str) -> httpx.Client:
        """Let somebody join in a role; return a client that shows the token of their login."""
        email = f"{role}-{self.account_id}@example.com"
        login = {"email": email, "password": "correct horse battery"}
        path = f"/ledger/v1/accounts/{self.account_id}/members"
        joined = self.operator.post(path, json={**login, "role": role})
        assert joined.status_code == 201, joined.text
        found = self.operator.post("/ledger/v1/login", json=login)
        return self.showing(found.json()["access_token"])

    def grant(self, asset: str, amount: str, **terms: Any) -> None:
        """Add credit."""
        body = {"asset": asset, "amount": amount, **terms}
        found = self.operator.post(f"/ledger/v1/accounts/{self.account_id}/grants", json=body)
        assert found.status_code == 201, found.text

    def record(self, key: dict[str, Any], request_id: str, **terms: Any) -> httpx.Response:
        """Record usage of a key: by default 0.001 USD of model ``m``."""
        body = {
            "key_id": f"key_{UUID(key['id']).hex}",
            "request_id": request_id,
            "model": "m",
            "usage": {"input": 1000},
            **terms,
        }
        return self.operator.post("/ledger/v1/usage", json=body)

    def details(self, key: dict[str, Any]) -> dict[str, Any]:
        """Return a key's details."""
        found = self.session.get(f"{KEYS}/{key['id']}")
        assert found.status_code == 200, found.text
        return found.json()["data"]

    def patch(self, key: dict[str, Any], status: int = 200, **changes: Any) -> dict[str, Any]:
        """Change a key."""
        found = self.session.patch(KEYS, json={"id": key["id"], **changes})
        assert found.status_code == status, found.text
        return found.json()


Opens = Callable[..., Venice]


def is_milliseconds(text: str) -> bool:
    """Return whether a time is written with milliseconds and ``Z``."""
    return format_milliseconds(parse_instant(text)) == text


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Do something so many times at once."""
    gate = threading.Barrier(count)

    def run(number: int) -> Any:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
