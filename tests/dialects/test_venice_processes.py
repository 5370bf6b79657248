"""venice over several processes: limits and revocation hold in every one of them."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.conftest import JWT_SECRET, OPERATOR_SECRET, PEPPER
from tests.dialects.venice_world import KEYS, RATES, own_terms, together
from tests.faults import rig

pytestmark = pytest.mark.processes

WORKERS = 3
PASSWORD = "correct horse battery"
BODY = {"apiKeyType": "INFERENCE", "description": "x"}


@pytest.fixture(scope="module")
def service(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Service]:
    """Run the service with three workers."""
    home = tmp_path_factory.mktemp("service") / "k"
    environment = {
        "KEYLEDGER_DATABASE_URL": dialects_url,
        "KEYLEDGER_ADMIN_SECRET": OPERATOR_SECRET,
        "KEYLEDGER_PEPPER": PEPPER,
        "KEYLEDGER_JWT_SECRET": JWT_SECRET,
        "KEYLEDGER_WELCOME_GRANT": "5 USD",
    }
    with rig.Service(home, workers=WORKERS, **environment) as running:
        yield running


def once(service: rig.Service, method: str, path: str, shown: str, **terms: Any) -> httpx.Response:
    """Ask over a connection of its own, so that any worker may answer."""
    headers = {"Authorization": f"Bearer {shown}"}
    url = service.address + path
    return httpx.request(method, url, headers=headers, timeout=30, verify=rig.TLS, **terms)


def a_session(service: rig.Service, *kinds: str) -> str:
    """Open an account with the limits of some kinds; return its owner's token."""
    email = f"owner-{threading.get_native_id()}-{'-'.join(kinds)}@example.com"
    owner = {"email": email, "password": PASSWORD, "name": "Pat"}
    body = {"name": "Acme", "owner": owner, **own_terms(*kinds)}
    native = "/ledger/v1"
    opened = once(service, "POST", f"{native}/accounts", OPERATOR_SECRET, json=body)
    assert opened.status_code == 201, opened.text
    login = {"email": email, "password": PASSWORD}
    found = once(service, "POST", f"{native}/login", OPERATOR_SECRET, json=login)
    return found.json()["access_token"]


def create(service: rig.Service, shown: str) -> int:
    """Create a key; return the status."""
    return once(service, "POST", KEYS, shown, json=BODY).status_code


def test_v10_twenty_creations_a_minute_over_processes(service: rig.Service) -> None:
    """V10: 40 creations at once over three workers make exactly 20."""
    token = a_session(service, "key_creations")
    found = together(40, lambda _: create(service, token))
    assert Counter(found) == {200: 20, 429: 20}


def test_v11_five_hundred_active_keys_over_processes(service: rig.Service) -> None:
    """V11: at 495 active keys, 20 creations at once over three workers make exactly 5."""
    token = a_session(service, "active_keys")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: create(service, token), range(495)))
    assert Counter(made) == {200: 495}
    assert Counter(together(20, lambda _: create(service, token))) == {200: 5, 400: 15}
    rows = once(service, "GET", KEYS, token).json()["data"]
    assert len(rows) == 500


def test_v5_no_worker_answers_after_a_revocation(service: rig.Service) -> None:
    """V5: clients hammer all workers; no request sent after the reply of DELETE succeeds."""
    token = a_session(service, "v5")
    made = once(service, "POST", KEYS, token, json=BODY).json()["data"]
    revoked = threading.Event()
    late: list[int] = []
    early: list[int] = []

    def hammer() -> None:
        for _ in range(60):
            sent_late = revoked.is_set()
            status = once(service, "GET", RATES, made["apiKey"]).status_code
            (late if sent_late else early).append(status)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(hammer) for _ in range(8)]
        rig.until(lambda: len(early) >= 40, within=30)
        found = once(service, "DELETE", f"{KEYS}?id={made['id']}", token)
        assert found.json() == {"success": True}
        revoked.set()
        for each in running:
            each.result()
    assert 200 in early
    assert late
    assert set(late) == {401}


def test_v12_a_cap_holds_over_processes(service: rig.Service) -> None:
    """V12: 64 requests of 0.001 USD at once under a day's cap of 0.01: exactly ten."""
    token = a_session(service, "v12")
    body = {**BODY, "consumptionLimit": {"usd": 0.01}}
    made = once(service, "POST", KEYS, token, json=body).json()["data"]

    def spend(number: int) -> int:
        asked = {
            "key_id": f"key_{UUID(made['id']).hex}",
            "request_id": f"r{number}",
            "model": "m",
            "usage": {"input": 1000},
        }
        return once(service, "POST", "/ledger/v1/usage", OPERATOR_SECRET, json=asked).status_code

    assert Counter(together(64, spend)) == {200: 10, 429: 54}
    shown = once(service, "GET", f"{KEYS}/{made['id']}", token).json()["data"]
    assert shown["currentPeriodUsage"] == {"usd": "0.0100", "diem": "0.0000"}


def test_v8_breaches_of_every_worker_are_listed(service: rig.Service) -> None:
    """V8: 60 breaches at once over three workers: 50 are listed, those held back among them."""
    token = a_session(service, "v8")
    body = {"apiKeyType": "ADMIN", "description": "x"}
    admin = once(service, "POST", KEYS, token, json=body).json()["data"]
    busy = once(service, "POST", KEYS, token, json=BODY).json()["data"]
    chat = {
        "model": "keyledger-large",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    path = "/api/v1/chat/completions"
    found = together(
        110, lambda _: once(service, "POST", path, busy["apiKey"], json=chat).status_code
    )
    assert Counter(found) == {200: 50, 429: 60}
    log = once(service, "GET", f"{RATES}/log", admin["apiKey"]).json()["data"]
    assert len(log) == 50
    assert {(row["apiKeyId"], row["modelId"]) for row in log} == {(busy["id"], "keyledger-large")}
    assert {row["rateLimitType"] for row in log} == {"RPM"}
