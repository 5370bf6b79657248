"""bve's ten thousand requests a day, which hold although nobody sets them. BV2."""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger import clock

CHAT = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hi"}]}
DAILY = 10_000
"""Requests of a key that was made without a word about a day."""
MINUTELY = 100_000
"""So many that only the day's limit is in the way."""


@pytest.fixture
def client(served: Any, operator: httpx.Client) -> Any:
    """Yield a client with a fresh key."""
    made = operator.post("/admin/api-keys", json={"name": "busy", "rpm_limit": MINUTELY}).json()
    assert made["rpd_limit"] == DAILY
    with served.client(made["key"]) as found:
        found.headers["x-key-id"] = f"key_{uuid.UUID(made['id']).hex}"
        yield found


def record(operator: httpx.Client, client: httpx.Client, count: int, **terms: Any) -> Any:
    """Record so many requests of the key, as one body."""
    key_id = client.headers["x-key-id"]
    named = {"key_id": key_id, "model": "keyledger-small", "usage": {"input": 1}, **terms}
    turn = uuid.uuid5(uuid.NAMESPACE_OID, f"{key_id} {count}").hex
    body = [{**named, "request_id": f"{turn}-{number}"} for number in range(count)]
    found = operator.post("/ledger/v1/usage", json=body, timeout=60)
    assert found.status_code == 200, found.text
    return found.json()


def chat(client: httpx.Client) -> httpx.Response:
    """Ask for a completion."""
    return client.post("/v1/chat/completions", json=CHAT)


def test_bv2_the_10001st_request_of_a_day_is_refused(
    operator: httpx.Client, client: httpx.Client, served: Any
) -> None:
    """BV2: after 9,999 one more passes and the next does not, in the page's words, to midnight."""
    assert record(operator, client, DAILY - 1)["recorded"] == DAILY - 1
    last = chat(client)
    assert last.status_code == 200, last.text
    assert f"q={DAILY};w=86400" in last.headers["ratelimit-policy"]
    refused = chat(client)
    assert refused.status_code == 429
    assert refused.json()["error"] == {
        "message": "Rate limit exceeded: requests per day",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    now = clock.now()
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    wait = int(refused.headers["retry-after"])
    assert 0 <= wait - (midnight - now).total_seconds() <= 65
    # The operator's own word is held to it as well, unless the service was delivered.
    assert record(operator, client, 1)["recorded"] == 0
    assert record(operator, client, 2, delivered=True)["recorded"] == 2
    assert chat(client).status_code == 429
    fresh = operator.post("/admin/api-keys", json={"name": "other"}).json()
    with served.client(fresh["key"]) as other:
        assert chat(other).status_code == 200


def test_bv2_the_last_of_a_day_are_given_out_once(
    operator: httpx.Client, client: httpx.Client
) -> None:
    """Promise 5: with ten left, thirty at once are ten; a batch over the limit stops at it."""
    assert record(operator, client, DAILY - 20)["recorded"] == DAILY - 20
    found = record(operator, client, 10)
    assert found["recorded"] == 10
    with ThreadPoolExecutor(30) as pool:
        statuses = Counter(reply.status_code for reply in pool.map(chat, [client] * 30))
    assert statuses == {200: 10, 429: 20}
    found = record(operator, client, 5)
    assert (found["recorded"], found["refused"]) == (0, 5)
    problems = {item["problem"]["code"] for item in found["results"]}
    assert problems == {"limit_is_reached"}


def test_bv2_a_batch_stops_at_the_days_limit(operator: httpx.Client, client: httpx.Client) -> None:
    """BV2: of 10,000 and then three more, given as bodies, exactly 10,000 are counted."""
    assert record(operator, client, DAILY)["recorded"] == DAILY
    found = record(operator, client, 3)
    assert (found["recorded"], found["refused"]) == (0, 3)
    assert chat(client).status_code == 429
