"""venice behind an upstream: a tier for each of its models by itself. V7."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from api.dialects.venice import catalogue, models, tiers
from ledger import events as e
from ledger.errors import VersionIsOutdated
from ledger.ids import new_account_id, new_key_id
from ledger.limits import RULES_MAX, compile_rules, limit_id
from ledger.limits import Counter as Counted
from ledger.state import Account, Key
from tests.conftest import Served, settings_for
from tests.dialects.venice_world import RATES, Venice, together

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CHAT = "/api/v1/chat/completions"
NAMES = [f"house/model-{number}" for number in range(tiers.ALONE_MAX + 2)]
UNLISTED = "house/unlisted"
TIER = [{"amount": 20, "type": "RPM"}, {"amount": 500_000, "type": "TPM"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Upstream:
    """A service that answers every chat alike and lists ``NAMES``, or nothing."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.lists = True
        self.list_pause = 0
        """Seconds before it answers what it lists."""
        self.asked: Counter[str] = Counter()
        """Path → how often."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                time.sleep(upstream.list_pause)
                listed = {"data": [{"id": name} for name in NAMES]} if upstream.lists else {}
                self._answer(listed)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                message = {"role": "assistant", "content": "Yes."}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                named = {"id": "x", "object": "chat.completion", "model": body["model"]}
                self._answer({**named, "choices": choices, "usage": USAGE})

            def _answer(self, body: Any) -> None:
                upstream.asked[self.path] += 1
                text = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
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
    """Give the upstream."""
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
    """Give the limits that a key is shown, by model."""
    found = client.get(RATES)
    assert found.status_code == 200, found.text
    return {each["apiModelId"]: each["rateLimits"] for each in found.json()["data"]["rateLimits"]}


def native_limits(venice: Venice, client: Any) -> list[dict[str, Any]]:
    """Give a key's limits, and what counts against them, as the native API shows them."""
    native = f"key_{client.key['id'].replace('-', '')}"
    return venice.operator.get(f"/ledger/v1/keys/{native}").json()["limits"]


def limits_of(venice: Venice, client: Any) -> list[tuple[str, str]]:
    """Give the limits in a key's terms, with their models."""
    found = native_limits(venice, client)
    return [(limit["id"], limit.get("model", "")) for limit in found]


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
    assert rates(client) == dict.fromkeys(NAMES, TIER)
    rows = venice.admin().get(f"{RATES}/log").json()["data"]
    assert Counter((row["modelId"], row["rateLimitType"]) for row in rows) == {
        (first, "RPM"): 6,
        (second, "RPM"): 5,
    }


def test_v7_a_key_counts_so_many_models_by_themselves_and_others_together(venice: Venice) -> None:
    """V7: a key's terms stay bounded; what no longer fits shares one tier and is refused by it."""
    client = venice.client()
    *alone, last, very_last = NAMES
    for name in alone:
        assert chat(client, name).status_code == 200
    carried = limits_of(venice, client)
    assert {model for _, model in carried if model in NAMES} == set(alone)
    assert carried[-1][0] == "failures/rolling:30"
    assert statuses(client, last, 15) == {200: 15}
    assert statuses(client, very_last, 10) == {200: 5, 429: 5}
    assert chat(client, alone[0]).status_code == 200
    assert limits_of(venice, client) == carried
    assert rates(client) == dict.fromkeys(NAMES, TIER)


def test_v7_a_patch_keeps_what_is_counted(venice: Venice) -> None:
    """V7: another cap of the key forgets no request to any model."""
    client = venice.client()
    assert statuses(client, NAMES[0], 20) == {200: 20}
    venice.patch(client.key, consumptionLimit={"usd": 3}, limitPeriod="MONTH")
    assert chat(client, NAMES[0]).status_code == 429


def test_v7_what_the_upstream_does_not_list_changes_no_terms(venice: Venice) -> None:
    """V7: names that a client makes up are written nowhere; a priced one shares the tier."""
    client = venice.client()
    before = limits_of(venice, client)
    assert statuses(client, UNLISTED, 22) == {200: 20, 429: 2}
    assert chat(client, "made-up").status_code == 404
    assert limits_of(venice, client) == before


@pytest.mark.parametrize(("lists", "pause"), [(False, 0), (True, 2)])
def test_v7_without_a_list_models_share_the_tier(
    venice: Venice, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, lists: Any, pause: int
) -> None:
    """V7: an upstream that lists nothing, or too late, is served and not asked for it each time."""
    for memory in (catalogue._known, catalogue._silent):
        monkeypatch.delitem(memory, venice.served.services.gateway, raising=False)
    monkeypatch.setattr(upstream, "lists", lists)
    monkeypatch.setattr(upstream, "list_pause", pause)
    monkeypatch.setattr(catalogue, "WAIT_SECONDS", 1)
    asked = upstream.asked["/v1/models"]
    client = venice.client()
    assert statuses(client, NAMES[0], 12) == {200: 12}
    for _ in range(8):
        assert chat(client, NAMES[1]).status_code == 200
    assert chat(client, NAMES[1]).status_code == 429
    assert upstream.asked["/v1/models"] - asked <= 12
    for memory in (catalogue._known, catalogue._silent):
        memory.pop(venice.served.services.gateway, None)


def test_v7_limits_that_went_meanwhile_let_nothing_through(
    venice: Venice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V7: where the look was right and the decision finds them gone, the shared tier counts."""

    async def outdated(*_: Any) -> str:
        return "text"

    monkeypatch.setattr(tiers, "counted", outdated)
    client = venice.client()
    found = [chat(client, NAMES[0]).status_code for _ in range(10)]
    assert found == [200] * 10
    shared = [each for each in native_limits(venice, client) if each.get("category")]
    assert {each["kind"]: each["used"] for each in shared} == {"requests": "10", "tokens": "50"}


def test_v7_a_key_that_was_given_no_tier_keeps_to_none(venice: Venice) -> None:
    """V7: the operator's key has the limits that it was given, and no others are added."""
    body = {"name": "bot", "dialect": "venice"}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    client = venice.showing(venice.operator.post(path, json=body).json()["secret"])
    assert statuses(client, NAMES[0], 25) == {200: 25}
    assert statuses(venice.session, NAMES[0], 25) == {200: 25}
    assert rates(client) == {name: [] for name in NAMES}


# Which models a key counts by themselves.


def key_with(*more: e.LimitRule) -> Key:
    """Give a key of tiers and those rules."""
    rules = (
        *more,
        *models.tier_rules(),
        e.LimitRule(kind="failures", window=models.MINUTE, ceiling="21"),
    )
    return Key(
        key_id=new_key_id(0),
        account_id=new_account_id(),
        name="a key",
        dialect="venice",
        created_at=AT,
        updated_at=AT,
        rules=rules,
        limits=compile_rules(rules),
    )


def asks(key: Key, model: str, at: datetime) -> None:
    """Let a key count a request of a model as the ledger does."""
    changes = tiers.with_own(key, model, at)
    if changes.limits:
        key.rules, key.limits = changes.limits, compile_rules(changes.limits)
    for limit in key.limits.values():
        if limit.model == model:
            counter = key.counters.setdefault(limit.limit_id, Counted())
            counter.add_used(limit.window.bucket(at), 1, limit.window.first(at))


def test_limits_of_a_model_go_when_they_count_nothing_and_room_is_needed() -> None:
    """Idle for a minute they make room; busy ones stay; asked again they come back."""
    key = key_with()
    for number in range(tiers.ALONE_MAX):
        asks(key, f"m{number}", AT + timedelta(seconds=number))
    full = key.rules
    asks(key, "new", AT + timedelta(seconds=30))
    assert key.rules == full
    # A minute after the sub-bucket of two seconds that holds the third and the fourth.
    asks(key, "new", AT + timedelta(seconds=64))
    assert tiers.is_alone(key, "new")
    assert [tiers.is_alone(key, f"m{number}") for number in range(6)] == [False] * 4 + [True] * 2
    asks(key, "m0", AT + timedelta(seconds=65))
    assert tiers.is_alone(key, "m0")
    assert len(key.rules) < len(full)
    assert key.rules[-1].kind == "failures"


def test_what_a_reservation_holds_is_not_idle() -> None:
    """A model whose answer is still on its way keeps its limits."""
    key = key_with()
    for number in range(tiers.ALONE_MAX):
        asks(key, f"m{number}", AT)
    later = AT + timedelta(minutes=5)
    limit = key.limits[f"tokens:model=m3/{models.MINUTE}"]
    held = key.counters.setdefault(limit.limit_id, Counted())
    held.add_pending(limit.window.bucket(later), 7, limit.window.first(later))
    asks(key, "new", later)
    assert [tiers.is_alone(key, f"m{number}") for number in (2, 3)] == [False, True]


def test_own_limits_are_those_that_the_key_has_for_strangers() -> None:
    """The operator's ceiling counts, for all of them and for a model of its own."""
    special = e.LimitRule(kind="requests", window=models.MINUTE, ceiling="3", model="special")
    key = key_with(special)
    for model in ("special", "plain"):
        asks(key, model, AT)
    found = {(rule.model, rule.kind): rule.ceiling for rule in key.rules if rule.model}
    assert found["special", "requests"] == "3"
    assert found["plain", "requests"] == "20"
    assert found["special", "tokens"] == found["plain", "tokens"] == "500000"
    assert not tiers.with_own(key, "plain", AT).limits


def test_terms_that_are_full_stay_as_they_are() -> None:
    """A key of as many limits as may be gets no more of them: its strangers share the tier."""
    spare = RULES_MAX - len(key_with().rules) - 1
    key = key_with(
        *(
            e.LimitRule(kind="requests", window="day", ceiling="9", model=f"x{n}")
            for n in range(spare)
        )
    )
    asks(key, "new", AT)
    assert not tiers.is_alone(key, "new")
    assert tiers.category_of(key, "new", "text") == models.STRANGERS


def test_promise_5_what_is_counted_no_more_is_not_let_through() -> None:
    """Promise 5: limits that went between the look and the decision are noticed in the lane."""
    key, account = key_with(), Account(account_id=new_account_id(), opened_at=AT)
    with pytest.raises(VersionIsOutdated):
        tiers.permits("new")(account, key, AT)
    asks(key, "new", AT)
    tiers.permits("new")(account, key, AT)
    assert tiers.category_of(key, "new", "text") == "text"
    assert {limit_id(rule) for rule in key.rules} == set(key.limits)
