"""bve for clients: limits, allowed models, OpenAI's own client. BV2, BV3, BV4, BV7."""

import concurrent.futures
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest

from ledger import clock
from ledger.clock import format_milliseconds
from tests.dialects.fleet import native

CHAT = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def client_of(served: Any, operator: httpx.Client) -> Iterator[Callable[..., httpx.Client]]:
    """Yield a way to make a key on given terms and a client that shows it."""
    opened: list[httpx.Client] = []

    def make(**terms: Any) -> httpx.Client:
        found = operator.post("/admin/api-keys", json={"name": "my-client", **terms})
        assert found.status_code == 201, found.text
        client = served.client(found.json()["key"])
        client.headers["x-key-id"] = found.json()["id"]
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


def chat(client: httpx.Client, **terms: Any) -> httpx.Response:
    """Ask for a completion."""
    return client.post("/v1/chat/completions", json={**CHAT, **terms})


def statuses(client: httpx.Client, count: int, **terms: Any) -> list[int]:
    """Ask so many times at once."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sorted(pool.map(lambda _: chat(client, **terms).status_code, range(count)))


def refusal(found: httpx.Response) -> tuple[int, str, str]:
    """Return status, code and message of a refusal."""
    error = found.json()["error"]
    return found.status_code, error["code"], error["message"]


def test_bv2_the_61st_request_of_a_minute_is_refused(client_of: Any) -> None:
    """BV2: the default of 60 holds with requests sent at once; another key is unaffected."""
    client = client_of()
    assert statuses(client, 75) == [200] * 60 + [429] * 15
    found = chat(client)
    said = "Rate limit exceeded: requests per minute"
    assert refusal(found) == (429, "rate_limit_exceeded", said)
    assert found.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(found.headers["retry-after"]) <= 62
    assert chat(client_of()).status_code == 200


def test_bv2_the_101st_request_of_a_day_is_refused(client_of: Any) -> None:
    """BV2: ``rpd_limit: 100``."""
    client = client_of(rpm_limit=1000, rpd_limit=100)
    assert statuses(client, 110) == [200] * 100 + [429] * 10
    assert refusal(chat(client))[2] == "Rate limit exceeded: requests per day"


def test_bv3_the_monthly_limit_of_requests(client_of: Any) -> None:
    """BV3: the request after the last of the month is refused."""
    client = client_of(rpm_limit=1000, monthly_limit=20)
    assert statuses(client, 25) == [200] * 20 + [429] * 5
    assert refusal(chat(client))[2] == "Monthly request limit exceeded"


def test_bv3_tokens_stop_at_the_limit(client_of: Any, operator: httpx.Client) -> None:
    """BV3: with reservations counted, no sum of tokens ever passes the limit."""
    client = client_of(rpm_limit=10_000, monthly_token_limit=600)
    found = statuses(client, 40, max_tokens=20)
    assert set(found) == {200, 429}
    assert refusal(chat(client, max_tokens=500))[2] == "Monthly token limit exceeded"
    usage = operator.get("/admin/usage", params={"key_id": client.headers["x-key-id"]}).json()
    assert usage["monthly"][0]["totalTokens"] <= 600
    assert usage["monthly"][0]["requestCount"] == found.count(200)
    assert list(usage["daily"][0]) == [
        *("id", "keyId", "date", "requestCount", "promptTokens", "completionTokens"),
        *("totalTokens", "updatedAt"),
    ]


def test_bv4_only_allowed_models(client_of: Any) -> None:
    """BV4: listed ones work, others are 403; the list is filtered; ``[]`` allows none."""
    client = client_of(allowed_models=["keyledger-small"])
    assert chat(client).status_code == 200
    assert refusal(chat(client, model="keyledger-large"))[:2] == (403, "model_not_allowed")
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["keyledger-small"]
    assert client.get("/v1/models/keyledger-small").status_code == 200
    assert client.get("/v1/models/keyledger-large").status_code == 404
    nothing = client_of(allowed_models=[])
    assert refusal(chat(nothing))[:2] == (403, "model_not_allowed")
    assert nothing.get("/v1/models").json()["data"] == []
    everything = client_of()
    assert chat(everything, model="keyledger-large").status_code == 200
    assert len(everything.get("/v1/models").json()["data"]) == 3


def test_bv7_a_revoked_key_is_refused_on_the_next_call(
    client_of: Any, operator: httpx.Client, world: Any
) -> None:
    """BV7: 403 ``api_key_revoked``, and ``api_key_suspended`` while suspended."""
    client = client_of()
    key_id = client.headers["x-key-id"]
    native = f"/keys/key_{key_id.replace('-', '')}"
    assert chat(client).status_code == 200
    world.post(f"{native}/suspend")
    assert refusal(chat(client))[:2] == (403, "api_key_suspended")
    assert refusal(client.get("/v1/models"))[:2] == (403, "api_key_suspended")
    world.post(f"{native}/resume")
    assert chat(client).status_code == 200
    operator.post(f"/admin/api-keys/{key_id}/revoke")
    assert refusal(chat(client))[:2] == (403, "api_key_revoked")
    assert refusal(client.get("/v1/models"))[:2] == (403, "api_key_revoked")


def test_bv6_an_expired_key_is_a_revoked_one(client_of: Any, operator: httpx.Client) -> None:
    """BV6: the page knows three states. Since its expiry a key is revoked, wherever one looks."""
    client = client_of()
    key_id = client.headers["x-key-id"]
    ends = clock.now() + timedelta(seconds=1)
    terms = {"expires_at": ends.isoformat()}
    assert operator.patch(native(key_id), json=terms).status_code == 200
    assert row_of(operator, key_id)["status"] == "active"
    time.sleep((ends - clock.now()).total_seconds() + 0.01)
    expected = ("revoked", format_milliseconds(ends))
    for _ in range(2):
        row = row_of(operator, key_id)
        assert (row["status"], row["revoked_at"]) == expected
        for found in (client.get("/v1/models"), chat(client)):
            assert refusal(found) == (403, "api_key_revoked", "API key has been revoked")
            assert "www-authenticate" not in found.headers
        revoked = operator.post(f"/admin/api-keys/{key_id}/revoke").json()
        assert (revoked["status"], revoked["revoked_at"]) == expected


def test_a_secret_that_was_replaced_is_unknown(client_of: Any, operator: httpx.Client) -> None:
    """Its key lives on, which the list says too: 401, and not that the key is revoked."""
    client = client_of()
    key_id = client.headers["x-key-id"]
    path = f"{native(key_id)}/rotate"
    assert operator.post(path, json={"grace_seconds": 0}).status_code == 200
    for found in (client.get("/v1/models"), chat(client)):
        assert refusal(found) == (401, "invalid_api_key", "Invalid API key")
    assert row_of(operator, key_id)["status"] == "active"


def row_of(operator: httpx.Client, key_id: str) -> dict[str, Any]:
    """Return a key as the list shows it."""
    return next(row for row in operator.get("/admin/api-keys").json() if row["id"] == key_id)


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Basic eDp5"}, "invalid_api_key"),
        ({"Authorization": "Bearer"}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-bve-" + "0" * 64}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-bve-short"}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-proj-something"}, "invalid_api_key"),
    ],
)
def test_a_bad_key_is_told_from_none(served: Any, shown: dict[str, str], code: str) -> None:
    """401, with a challenge."""
    with served.client(None) as client:
        for found in (client.get("/v1/models", headers=shown), chat_with(client, shown)):
            assert refusal(found)[:2] == (401, code)
            assert found.headers["www-authenticate"].startswith("Bearer")


def chat_with(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    """Ask for a completion with these headers."""
    return client.post("/v1/chat/completions", json=CHAT, headers=headers)


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("chat/completions", {"messages": CHAT["messages"]}, "model", "invalid_request"),
        ("chat/completions", {"model": "keyledger-small"}, "messages", "invalid_request"),
        ("chat/completions", {**CHAT, "max_tokens": -1}, "max_tokens", "invalid_request"),
        ("chat/completions", {**CHAT, "max_tokens": 1.5}, "max_tokens", "invalid_request"),
        ("chat/completions", {**CHAT, "n": 10**9}, "n", "invalid_request"),
        (
            "completions",
            {"model": "keyledger-small", "prompt": "x", "stream": True},
            "stream",
            "unsupported_streaming_completion",
        ),
    ],
)
def test_a_bad_request_names_the_field(
    client_of: Any, path: str, body: Any, param: str, code: str
) -> None:
    """400 with ``param``, and nothing is charged."""
    found = client_of().post(f"/v1/{path}", json=body)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("scheme", ["Basic cGF0OnBhdA==", "Bearer", "Bearer nonsense"])
def test_two_headers_that_differ_are_refused(served: Any, client_of: Any, scheme: str) -> None:
    """400: one credential is shown, whatever the scheme of the other is; equal ones are one."""
    secret = client_of().headers["authorization"].removeprefix("Bearer ")
    with served.client(None) as client:
        shown = {"Authorization": scheme, "X-API-Key": secret}
        for found in (client.get("/v1/models", headers=shown), chat_with(client, shown)):
            assert refusal(found)[:2] == (400, "invalid_request")
            assert 'error="invalid_request"' in found.headers["www-authenticate"]
        found = chat_with(client, {"X-API-Key": secret})
        assert refusal(found)[:2] == (401, "missing_api_key")
        both = {"Authorization": f"Bearer {secret}", "X-API-Key": secret}
        assert chat_with(client, both).status_code == 200


def test_a_keys_budget_is_no_rate(client_of: Any, operator: httpx.Client) -> None:
    """429 ``insufficient_quota`` without Retry-After: the month may end, but waiting is no cure."""
    client = client_of()
    limits = [{"kind": "spend", "window": "month", "ceiling": "0.0001"}]
    path = native(client.headers["x-key-id"])
    assert operator.patch(path, json={"limits": limits}).status_code == 200
    found = next(found for _ in range(100) if (found := chat(client, max_tokens=9)).is_error)
    assert refusal(found)[:2] == (429, "insufficient_quota")
    assert "retry-after" not in found.headers


def test_an_unknown_model_is_not_found(client_of: Any) -> None:
    """404, whoever says so."""
    found = chat(client_of(), model="no-such-model")
    assert found.status_code == 404


def test_metered_replies_say_what_is_left(client_of: Any) -> None:
    """OpenAI's and the IETF's headers, exact."""
    client = client_of(rpm_limit=7, monthly_token_limit=100_000)
    found = chat(client, max_tokens=10)
    assert found.headers["x-ratelimit-limit-requests"] == "7"
    assert found.headers["x-ratelimit-remaining-requests"] == "6"
    assert found.headers["x-ratelimit-limit-tokens"] == "100000"
    assert "q=7;w=60" in found.headers["ratelimit-policy"]
    assert "r=6" in found.headers["ratelimit"]
    assert "retry-after" not in found.headers


def test_openais_client_works(served: Any, client_of: Any) -> None:
    """The ``openai`` SDK: models, chat, streaming, embeddings, responses, completions."""
    secret = client_of().headers["authorization"].removeprefix("Bearer ")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=secret, max_retries=0) as client:
        assert "keyledger-small" in {model.id for model in client.models.list()}
        assert client.models.retrieve("keyledger-small").id == "keyledger-small"
        messages: Any = CHAT["messages"]
        whole = client.chat.completions.create(model="keyledger-small", messages=messages)
        text = whole.choices[0].message.content
        parts = client.chat.completions.create(
            model="keyledger-small",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(parts)
        streamed = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
        assert streamed == text
        assert chunks[-1].usage == whole.usage
        vectors = client.embeddings.create(model="keyledger-embedding", input=["a", "b"])
        assert len(vectors.data) == 2
        assert client.responses.create(model="keyledger-small", input="Hi").output_text
        assert client.completions.create(model="keyledger-small", prompt="Hi").choices[0].text
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no-such-model")
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="keyledger-small", prompt="Hi", stream=True)


def test_a_stream_without_usage_asked_has_none(client_of: Any) -> None:
    """What we asked the upstream for is not shown to anyone who did not."""
    client = client_of()
    with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as found:
        lines = [line for line in found.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line[6:]) for line in lines[:-1])
