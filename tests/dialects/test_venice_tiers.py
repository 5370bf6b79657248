"""venice behind an upstream: a tier for each of its models by itself. V7."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from api.dialects.venice import catalogue, models
from ledger.limits import MODELS_MAX
from tests.conftest import Served, settings_for
from tests.dialects.venice_world import RATES, Venice, together

CHAT, MODELS = "/api/v1/chat/completions", "/api/v1/models"
NAMES = [f"house/model-{number}" for number in range(MODELS_MAX + 2)]
UNLISTED = "house/unlisted"
TIER = [{"amount": 20, "type": "RPM"}, {"amount": 500_000, "type": "TPM"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LISTED = json.dumps({"data": [{"id": name} for name in NAMES]}).encode()
JSON = "application/json"
SHARED_REQUESTS = f"requests:{models.STRANGERS}:each_model/{models.MINUTE}"


class Upstream:
    """A service that answers every chat alike, and what it is told where it is asked for a list."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.listed, self.list_type = LISTED, JSON
        self.status = 200
        """Of its answers to a chat."""
        self.list_pause = 0
        """Seconds before it answers what it lists."""
        self.asked: Counter[str] = Counter()
        """Path → how often."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                time.sleep(upstream.list_pause)
                self._answer(upstream.listed, upstream.list_type)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                message = {"role": "assistant", "content": "Yes."}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                named = {"id": "x", "object": "chat.completion", "model": body["model"]}
                text = json.dumps({**named, "choices": choices, "usage": USAGE}).encode()
                self._answer(text, status=upstream.status)

            def _answer(self, text: bytes, content_type: str = JSON, status: int = 200) -> None:
                upstream.asked[self.path] += 1
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Yield the upstream."""
    found = Upstream()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def served(
    upstream: Upstream, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the dialects before the upstream, whose models have a price, and one more."""
    settings = settings_for(tmp_path_factory.mktemp("home"), upstream_url=upstream.url)
    found = Served(settings, ledger_url).start()
    price = {"prices": {"input": "1", "output": "2"}}
    card = {"name": "standard", "asset": "USD"}
    body = {**card, "models": dict.fromkeys([*NAMES, UNLISTED], price)}
    with found.client() as operator:
        published = operator.post("/ledger/v1/rate-cards", json=body)
    assert published.status_code == 201, published.text
    yield found
    found.stop()


def chat(client: httpx.Client, model: str) -> httpx.Response:
    """Ask a model for one token."""
    messages = [{"role": "user", "content": "Hello"}]
    return client.post(CHAT, json={"model": model, "max_tokens": 1, "messages": messages})


def statuses(client: httpx.Client, model: str, count: int) -> Counter[int]:
    """Ask a model so often at once; count the statuses."""
    return Counter(together(count, lambda _: chat(client, model).status_code))


def rates(client: httpx.Client) -> dict[str, Any]:
    """Return the limits that a key is shown, by model."""
    found = client.get(RATES)
    assert found.status_code == 200, found.text
    return {each["apiModelId"]: each["rateLimits"] for each in found.json()["data"]["rateLimits"]}


def native_limits(venice: Venice, client: Any) -> list[dict[str, Any]]:
    """Return a key's limits, and what counts against them, as the native API shows them."""
    native = f"key_{client.key['id'].replace('-', '')}"
    return venice.operator.get(f"/ledger/v1/keys/{native}").json()["limits"]


def counted(venice: Venice, client: Any) -> dict[str, str]:
    """Return how many requests a key counts per model that has a counter of its own."""
    (found,) = (
        limit.get("models", ())
        for limit in native_limits(venice, client)
        if limit["kind"] == "requests" and limit.get("each_model")
    )
    return {each["model"]: each["used"] for each in found}


def events(venice: Venice) -> Counter[str]:
    """Return how many events of each kind the account has."""
    found: Counter[str] = Counter()
    after: dict[str, Any] = {}
    while True:
        path = f"/ledger/v1/accounts/{venice.account_id}/events"
        page = venice.operator.get(path, params={"limit": 1000, **after}).json()
        found.update(event["type"] for event in page["data"])
        if not page["has_more"]:
            return found
        after = {"after": page["next"]}


def test_v7_tier_l_holds_for_each_model_by_itself(venice: Venice) -> None:
    """V7: of 25 at once 20 to one model and 20 to the next, as each is listed; logged by name."""
    client = venice.client()
    assert rates(client) == dict.fromkeys(NAMES, TIER)
    first, second, third = NAMES[:3]
    assert statuses(client, first, 25) == {200: 20, 429: 5}
    refused = chat(client, first)
    assert (refused.status_code, refused.json()) == (429, {"error": "Rate limit exceeded"})
    assert refused.headers["x-ratelimit-limit-requests"] == "20"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(refused.headers["Retry-After"]) <= 63
    assert statuses(client, second, 25) == {200: 20, 429: 5}
    answered = chat(client, third)
    assert answered.headers["x-ratelimit-remaining-requests"] == "19"
    assert f":each_model={third}/" in answered.headers["RateLimit"]
    assert rates(client) == dict.fromkeys(NAMES, TIER)
    rows = venice.admin().get(f"{RATES}/log").json()["data"]
    assert Counter((row["modelId"], row["rateLimitType"]) for row in rows) == {
        (first, "RPM"): 6,
        (second, "RPM"): 5,
    }


def test_v7_what_is_served_changes_no_terms_and_is_refused_nowhere(
    venice: Venice, upstream: Upstream
) -> None:
    """V7: asked for the first time, and by many at once, a model is served like ever after.

    Nobody is asked for a list on the way, and a model that none lists is counted as well.
    """
    client = venice.client()
    before, terms = events(venice), native_limits(venice, client)
    asked = upstream.asked["/v1/models"]
    for name in (*NAMES[:5], UNLISTED):
        assert statuses(client, name, 4) == {200: 4}
    assert events(venice) - before == {"request_reserved": 24, "request_settled": 24}
    assert upstream.asked["/v1/models"] == asked
    assert [each["id"] for each in native_limits(venice, client)] == [each["id"] for each in terms]
    assert counted(venice, client) == dict.fromkeys((*NAMES[:5], UNLISTED), "4")
    assert venice.admin().get(f"{RATES}/log").json()["data"] == []


def test_v7_names_that_a_client_makes_up_are_counted_nowhere(venice: Venice) -> None:
    """V7: neither a counter nor an event for each of them."""
    client = venice.client()
    before = events(venice)
    assert [chat(client, f"made-up-{number}").status_code for number in range(15)] == [404] * 15
    assert counted(venice, client) == {}
    found = events(venice) - before
    assert set(found) == {"request_refused"}
    # Failures count at once, and may fill their limit: it bounds them.
    assert found["request_refused"] <= 21


def test_v7_so_many_models_are_counted_by_themselves_and_others_together(venice: Venice) -> None:
    """V7: what a key holds is bounded; what comes beyond shares one tier and is refused by it."""
    client = venice.client()
    *alone, last, very_last = NAMES
    for name in alone:
        assert chat(client, name).status_code == 200
    assert statuses(client, last, 15) == {200: 15}
    assert statuses(client, very_last, 10) == {200: 5, 429: 5}
    assert chat(client, alone[0]).status_code == 200
    assert counted(venice, client) == dict.fromkeys(alone, "1") | {alone[0]: "2"}
    (shared,) = (limit for limit in native_limits(venice, client) if limit["id"] == SHARED_REQUESTS)
    assert (shared["used"], shared["remaining"]) == ("20", "0")
    assert rates(client) == dict.fromkeys(NAMES, TIER)
    assert events(venice)["key_limits_set"] == 0


def test_v7_a_patch_keeps_what_is_counted(venice: Venice) -> None:
    """V7: another cap of the key forgets no request to any model."""
    client = venice.client()
    assert statuses(client, NAMES[0], 20) == {200: 20}
    venice.patch(client.key, consumptionLimit={"usd": 3}, limitPeriod="MONTH")
    assert chat(client, NAMES[0]).status_code == 429
    assert chat(client, NAMES[1]).status_code == 200


def test_v7_what_counts_no_more_is_forgotten(venice: Venice) -> None:
    """V7: when another model is asked, so that a key does not remember all that it ever asked."""
    rule = {"kind": "requests", "window": "rolling:1", "ceiling": "9", "each_model": True}
    body = {"name": "bot", "dialect": "venice", "limits": [rule]}
    made = venice.operator.post(f"/ledger/v1/accounts/{venice.account_id}/keys", json=body).json()
    client: Any = venice.showing(made["secret"])
    client.key = {"id": made["key_id"].removeprefix("key_")}
    assert chat(client, NAMES[0]).status_code == 200
    time.sleep(1.1)
    assert chat(client, NAMES[1]).status_code == 200
    assert counted(venice, client) == {NAMES[1]: "1"}


def test_v7_a_key_that_was_given_no_tier_keeps_to_none(venice: Venice) -> None:
    """V7: the operator's key has the limits that it was given, and no others are added."""
    body = {"name": "bot", "dialect": "venice"}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    client = venice.showing(venice.operator.post(path, json=body).json()["secret"])
    assert statuses(client, NAMES[0], 25) == {200: 25}
    assert statuses(venice.session, NAMES[0], 25) == {200: 25}
    assert rates(client) == {name: [] for name in NAMES}


# The list of models.


@pytest.fixture
def relisted(venice: Venice, upstream: Upstream) -> Iterator[Upstream]:
    """Let the list be asked for anew, before and after a test that changes it."""
    catalogue._known.pop(venice.served.services.gateway, None)
    yield upstream
    upstream.listed, upstream.list_type, upstream.list_pause = LISTED, JSON, 0
    catalogue._known.pop(venice.served.services.gateway, None)


DEEP = b'{"data":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
STREAM = b'data: {"data":[]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("listed", "content_type"),
    [
        (b"{}", JSON),
        (b"no", JSON),
        (b'{"data":[{"id":"\xff"}]}', JSON),
        (DEEP, JSON),
        (STREAM, "text/event-stream"),
        (LISTED, "text/event-stream"),
    ],
    ids=["empty", "no-json", "no-utf-8", "deep", "stream", "list-as-stream"],
)
def test_a_list_that_is_none_is_a_failure_of_the_upstream(
    venice: Venice, relisted: Upstream, listed: bytes, content_type: str
) -> None:
    """Whatever an upstream answers instead; nothing of it stays open, and the next is read."""
    relisted.listed, relisted.list_type = listed, content_type
    client = venice.client()
    found = client.get(MODELS)
    assert (found.status_code, found.json()) == (500, {"error": "Inference processing failed"})
    assert not venice.served.services.gateway._open
    assert chat(client, NAMES[0]).status_code == 200
    relisted.listed, relisted.list_type = LISTED, JSON
    assert len(client.get(MODELS).json()["data"]) == len(NAMES)


def test_who_asks_at_once_waits_for_one_list(venice: Venice, relisted: Upstream) -> None:
    """A slow upstream is asked once, not once by each."""
    relisted.list_pause = 1
    asked = relisted.asked["/v1/models"]
    client = venice.client()
    assert set(together(8, lambda _: client.get(MODELS).status_code)) == {200}
    assert relisted.asked["/v1/models"] == asked + 1


def may_fail(venice: Venice, ceiling: str) -> httpx.Client:
    """Issue a key whose requests may fail so often in half a minute, and that no tier holds."""
    rule = {"kind": "failures", "window": "rolling:30", "ceiling": ceiling}
    body = {"name": "bot", "dialect": "venice", "limits": [rule]}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    return venice.showing(venice.operator.post(path, json=body).json()["secret"])


def test_of_many_at_once_as_many_fail_as_may(
    venice: Venice, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upstream that knows no such model is asked three times; its 404s are three failures."""
    client = may_fail(venice, "3")
    asked = upstream.asked["/v1/chat/completions"]
    monkeypatch.setattr(upstream, "status", 404)
    assert statuses(client, UNLISTED, 60) == {404: 3, 429: 57}
    assert upstream.asked["/v1/chat/completions"] == asked + 3
    monkeypatch.undo()
    refused = chat(client, UNLISTED)
    assert refused.status_code == 429
    assert refused.json()["error"].startswith("Too many failed attempts (> 20)")
    assert chat(may_fail(venice, "3"), UNLISTED).status_code == 200


def test_of_many_at_once_that_may_fail_all_are_answered(venice: Venice) -> None:
    """Who may fail three times waits a moment for others to be answered, and is refused nothing."""
    assert statuses(may_fail(venice, "3"), UNLISTED, 60) == {200: 60}
