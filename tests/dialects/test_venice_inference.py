"""venice: models, characters, chat and embeddings; caps held by reservations. V7, V9, V12."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

from api.dialects.venice.models import KNOWN
from ledger import clock
from tests.dialects.venice_world import (
    EMBEDDING,
    KEYS,
    LARGE,
    RATES,
    SMALL,
    Opens,
    Venice,
    together,
)

CHAT, MODELS = "/api/v1/chat/completions", "/api/v1/models"
HELLO = {"model": SMALL, "messages": [{"role": "user", "content": "Hello"}]}
BALANCE = (
    "Insufficient USD or Diem balance to complete request."
    " Visit https://venice.ai/settings/api to add credits."
)
SPEND = (
    "API key {0} spend limit exceeded. Your account may still have {0} balance, but this API key"
    " has reached its configured {0} spending limit."
)


def chat(client: httpx.Client, **terms: Any) -> httpx.Response:
    """Ask for a completion."""
    return client.post(CHAT, json={**HELLO, **terms})


def events_of(venice: Venice, kind: str) -> list[dict[str, Any]]:
    """Return the bodies of an account's events of a kind, newest first."""
    found = venice.operator.get(f"/ledger/v1/accounts/{venice.account_id}/events")
    return [event for event in found.json()["data"] if event["type"] == kind]


# Models.


def test_models_are_everybodys_with_prices(served: Any, venice: Venice) -> None:
    """Anybody may list models, priced per million; a bad credential is a 401 all the same."""
    with served.client(None) as nobody:
        found = nobody.get(MODELS)
        assert found.status_code == 200
        assert found.json()["object"] == "list"
        shown = {model["id"]: model for model in found.json()["data"]}
        assert set(shown) == {SMALL, LARGE, EMBEDDING}
        pricing = shown[LARGE]["model_spec"]["pricing"]
        assert pricing == {
            "input": {"usd": 2, "diem": 2},
            "output": {"usd": 8, "diem": 8},
            "cache_input": {"usd": 1, "diem": 1},
        }
        assert shown[SMALL]["model_spec"]["privacy"] == "private"
        typed = nobody.get(MODELS, params={"type": "embedding"}).json()
        assert (typed["type"], [m["id"] for m in typed["data"]]) == ("embedding", [EMBEDDING])
        traits = nobody.get(f"{MODELS}/traits").json()
        assert traits["data"] == {
            "default": LARGE,
            "most_intelligent": LARGE,
            "fastest": SMALL,
        }
        mapping = nobody.get(f"{MODELS}/compatibility_mapping").json()
        assert mapping["data"]["gpt-4o"] == LARGE
        assert nobody.get(MODELS, params={"type": "x"}).status_code == 400
        assert nobody.get(f"{MODELS}/{SMALL}").json()["id"] == SMALL
        absent = nobody.get(f"{MODELS}/none")
        assert (absent.status_code, absent.json()) == (
            404,
            {"error": "Specified model not found: none"},
        )
    bad = venice.showing("VENICE_INFERENCE_KEY_nonsense")
    for path in (MODELS, f"{MODELS}/traits", f"{MODELS}/compatibility_mapping"):
        refused = bad.get(path)
        assert (refused.status_code, refused.json()) == (401, {"error": "Authentication failed"})
        assert venice.session.get(path).status_code == 200


def priced_by(venice: Venice, name: str, asset: str, price: str) -> None:
    """Publish a rate card of one price for everything, and charge the account by it."""
    prices = {"input": price, "output": price}
    body = {"name": name, "asset": asset, "models": {SMALL: {"prices": prices}}}
    assert venice.operator.post("/ledger/v1/rate-cards", json=body).status_code == 201
    path = f"/ledger/v1/accounts/{venice.account_id}"
    changed = venice.operator.patch(path, json={"rate_card": name})
    assert changed.status_code == 200, changed.text


def pricing_of(client: httpx.Client) -> dict[str, Any]:
    """Return the prices that are shown, by model."""
    found = client.get(MODELS)
    assert found.status_code == 200, found.text
    return {model["id"]: model["model_spec"]["pricing"] for model in found.json()["data"]}


def test_models_are_priced_as_who_asks_is_charged(served: Any, venice: Venice) -> None:
    """A key and a login see their own card, and its models; nobody in particular the standard."""
    client = venice.client()
    priced_by(venice, "friends", "USD", "3")
    price = {"usd": 3, "diem": 3}
    own = {SMALL: {"input": price, "output": price, "cache_input": price}}
    assert pricing_of(client) == pricing_of(venice.session) == own
    assert client.get(f"{MODELS}/{SMALL}").json()["model_spec"]["pricing"] == own[SMALL]
    assert client.get(f"{MODELS}/{LARGE}").status_code == 404
    used = chat(client).json()["usage"]
    (settled,) = events_of(venice, "request_settled")
    tokens = used["prompt_tokens"] + used["completion_tokens"]
    assert Decimal(settled["payload"]["charge"]) * 10**6 == 3 * tokens
    rates = client.get(RATES).json()["data"]["rateLimits"]
    assert [each["apiModelId"] for each in rates] == [SMALL]
    with served.client(None) as nobody:
        assert set(pricing_of(nobody)) == {SMALL, LARGE, EMBEDDING}
        assert pricing_of(nobody)[SMALL]["input"] == {"usd": 0.1, "diem": 0.1}


def test_a_keys_own_card_goes_before_its_accounts(venice: Venice) -> None:
    """As it does where the key is charged."""
    priced_by(venice, "family", "USD", "2")
    body = {"name": "bot", "dialect": "venice", "rate_card": "standard"}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    client = venice.showing(venice.operator.post(path, json=body).json()["secret"])
    assert pricing_of(client)[SMALL]["input"] == {"usd": 0.1, "diem": 0.1}


def test_prices_in_another_currency_are_not_shown_as_usd(venice: Venice) -> None:
    """There is no rate of exchange: the models are listed, and no price is made up."""
    priced_by(venice, "canada", "CAD", "4")
    assert pricing_of(venice.client()) == {SMALL: {}}


def test_privacy_hides_and_refuses_models(venice: Venice) -> None:
    """A key of private models lists those alone; another model is a 403, priced or not."""
    client = venice.client(modelPrivacy="PRIVATE_TEXT")
    assert {m["id"] for m in client.get(MODELS).json()["data"]} == {SMALL, LARGE, EMBEDDING}
    refused = chat(client, model="m")
    assert refused.status_code == 403
    assert set(refused.json()) == {"error"}
    assert chat(client).status_code == 200
    venice.patch(client.key, modelPrivacy="ALL")
    # Priced, but unknown to the built-in upstream.
    unknown = chat(client, model="m")
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"error": "Specified model not found: m"},
    )


# Chat and embeddings.


def test_a_chat_is_charged_and_tells_what_is_left(venice: Venice) -> None:
    """Limits with resets in Unix milliseconds; balances as strings, as before the request."""
    client = venice.client()
    venice.grant("DIEM", "0.5")
    found = chat(client)
    assert found.status_code == 200, found.text
    headers = found.headers
    assert headers["x-ratelimit-limit-requests"] == "500"
    assert headers["x-ratelimit-remaining-requests"] == "499"
    assert headers["x-ratelimit-limit-tokens"] == "1000000"
    now = int(clock.now().timestamp() * 1000)
    for kind in ("requests", "tokens"):
        assert now < int(headers[f"x-ratelimit-reset-{kind}"]) <= now + 63_000
    assert (headers["x-venice-balance-usd"], headers["x-venice-balance-diem"]) == ("5", "0.5")
    assert "RateLimit-Policy" in headers
    usage = found.json()["usage"]
    (settled,) = events_of(venice, "request_settled")
    charge = Decimal(settled["payload"]["charge"])
    assert (
        charge
        == (usage["prompt_tokens"] * Decimal("0.1") + usage["completion_tokens"] * Decimal("0.4"))
        / 10**6
    )
    again = chat(client)
    assert Decimal(again.headers["x-venice-balance-diem"]) == Decimal("0.5") - charge
    assert again.headers["x-ratelimit-remaining-requests"] == "498"


def test_a_stream_carries_the_same_headers(venice: Venice) -> None:
    """Streamed through, charged as much as the same reply in one piece."""
    client = venice.client()
    with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as found:
        assert found.status_code == 200
        assert found.headers["x-venice-balance-usd"] == "5"
        assert found.headers["x-ratelimit-limit-requests"] == "500"
        text = "".join(found.iter_text())
    assert text.endswith("data: [DONE]\n\n")
    chat(client)
    charges = {event["payload"]["charge"] for event in events_of(venice, "request_settled")}
    assert len(charges) == 1


def test_a_model_of_others_is_stood_in_for(venice: Venice) -> None:
    """The compatibility mapping holds where the built-in models answer; booked as what answered."""
    found = chat(venice.client(), model="gpt-4o")
    assert found.status_code == 200, found.text
    (settled,) = events_of(venice, "request_settled")
    assert settled["payload"]["model"] == LARGE


def test_a_session_may_stand_where_a_key_does(venice: Venice) -> None:
    """Calls of a login are booked on the account's own key, which no list shows."""
    assert chat(venice.session).status_code == 200
    assert venice.session.get(KEYS).json()["data"] == []
    admin = venice.admin()
    by_key = admin.get("/api/v1/billing/usage-analytics").json()["byKey"]
    assert [(line["apiKeyId"], line["description"]) for line in by_key] == [(None, "Web App")]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "Invalid JSON request"),
        (b'{"messages":[]}', 400, "model is required"),
        (b'{"model":"keyledger-small","messages":[]}', 400, "Invalid request parameters"),
        (b'{"model":"keyledger-small"}', 400, "Invalid request parameters"),
        (
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
            400,
            "Invalid request parameters",
        ),
        (b'{"model":"none","messages":[{"role":"user","content":"x"}]}', 404, "none"),
        (
            b'{"model":"m","messages":[],"venice_parameters":{"character_slug":"nobody-at-all"}}',
            404,
            "No character could be found from the provided character_slug",
        ),
        (
            b'{"model":"m","messages":[],"venice_parameters":5}',
            400,
            "Invalid request parameters",
        ),
    ],
)
def test_wrong_requests_are_worded_and_count_as_failures(
    venice: Venice, body: bytes, status: int, error: str
) -> None:
    """Each in the page's words; 20 of them and the key waits."""
    client = venice.client()
    for _ in range(20):
        found = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
        assert found.status_code == status, found.text
        assert found.json()["error"].endswith(error)
        assert ("details" in found.json()) == (error == "Invalid request parameters")
    blocked = chat(client)
    assert blocked.status_code == 429
    assert blocked.json()["error"].startswith("Too many failed attempts (> 20)")
    assert "Retry-After" in blocked.headers
    assert chat(venice.client()).status_code == 200


def test_framework_errors_speak_venice(venice: Venice) -> None:
    """404, 405, 413, 415 on venice's paths come in its envelope."""
    client = venice.client()
    assert client.get(f"{KEYS}/a/b").json()["error"]
    assert client.get("/api/v1/billing/none").status_code == 404
    assert client.get("/api/v1/billing/none").json()["error"]
    wrong = client.put(KEYS)
    assert (wrong.status_code, wrong.json()) == (405, {"error": "Method not allowed"})
    assert wrong.headers["Allow"] == "DELETE, GET, HEAD, PATCH, POST"
    kind = client.post(CHAT, content=b"x", headers={"Content-Type": "text/plain"})
    assert (kind.status_code, kind.json()) == (415, {"error": "Invalid request content-type"})
    large = client.post(CHAT, content=b" " * (10 * 1024 * 1024 + 1))
    assert large.status_code == 413
    assert large.json() == {
        "code": "PAYLOAD_TOO_LARGE",
        "error": "The request payload is too large. Please reduce the size of your request.",
    }


# Money.


def test_an_empty_account_and_a_reached_cap_say_different_things(venice: Venice) -> None:
    """402: the account has nothing left; the key's cap on USD or on DIEM leaves nothing."""
    capped = venice.client(consumptionLimit={"usd": 0})
    refused = chat(capped)
    assert (refused.status_code, refused.json()) == (402, {"error": SPEND.format("USD")})
    assert "Retry-After" not in refused.headers
    venice.grant("DIEM", "1")
    assert chat(capped).status_code == 200
    venice.patch(capped.key, consumptionLimit={"diem": 0, "usd": None})
    refused = chat(capped)
    assert (refused.status_code, refused.json()) == (402, {"error": SPEND.format("DIEM")})
    rule = {"kind": "spend", "window": "month", "ceiling": "0"}
    body = {"name": "bot", "dialect": "venice", "limits": [rule]}
    made = venice.operator.post(f"/ledger/v1/accounts/{venice.account_id}/keys", json=body)
    refused = chat(venice.showing(made.json()["secret"]))
    assert (refused.status_code, refused.json()) == (402, {"error": SPEND.format("USD")})
    free = venice.client()
    assert chat(free).status_code == 200
    for number, usage in enumerate(({"input": 5_999_000}, {"input": 900})):
        assert venice.record(free.key, f"r{number}", usage=usage).status_code == 200
    empty = chat(free, max_tokens=100_000)
    assert (empty.status_code, empty.json()) == (402, {"error": BALANCE})
    assert "Retry-After" not in empty.headers


def test_v12_reservations_count_against_a_cap(venice: Venice) -> None:
    """V12: 40 chats at once whose worst case is 0.0004 each, under 0.002: at most five are let in.

    Each holds its worst case until it is settled, so however many finish early, what is spent
    stays below the cap at every moment.
    """
    client = venice.client(consumptionLimit={"usd": 0.002})
    found = together(40, lambda _: chat(client, max_tokens=1000).status_code)
    counts = Counter(found)
    assert counts[200] >= 4
    assert counts[200] + counts[402] + counts[429] == 40
    spent = Decimal(venice.details(client.key)["currentPeriodUsage"]["usd"])
    assert spent <= Decimal("0.002")
    reserved = events_of(venice, "request_reserved")
    assert len(reserved) == counts[200]


def test_v12_a_days_cap_holds_after_the_month_was_chosen(venice: Venice) -> None:
    """V12: each period has its own count; moving a cap moves nothing of what was spent."""
    client = venice.client(consumptionLimit={"diem": 0.5}, limitPeriod="LIFETIME")
    venice.grant("DIEM", "5")
    assert venice.record(client.key, "a", usage={"input": 400_000}).status_code == 200
    assert venice.record(client.key, "b", usage={"input": 200_000}).status_code == 429
    venice.patch(client.key, limitPeriod="MONTH", consumptionLimit={"diem": 0.6})
    assert venice.record(client.key, "c", usage={"input": 200_000}).status_code == 200
    assert venice.details(client.key)["currentPeriodUsage"]["diem"] == "0.6000"


def test_v7_tiers_hold(venice: Venice) -> None:
    """V7: 50 requests a minute of a model of tier M; the reply says when.

    No model of the built-in ones is of tier L or S: those of an upstream are of L, and
    ``test_venice_tiers`` holds it.
    """
    assert {model.tier for model in KNOWN.values()} == {"XS", "M"}
    client = venice.client()
    found = together(55, lambda _: chat(client, model=LARGE, max_tokens=1).status_code)
    assert Counter(found) == {200: 50, 429: 5}
    refused = chat(client, model=LARGE, max_tokens=1)
    assert (refused.status_code, refused.json()) == (429, {"error": "Rate limit exceeded"})
    assert refused.headers["x-ratelimit-limit-requests"] == "50"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.headers["x-ratelimit-reset-requests"]) > clock.now().timestamp() * 1000
    assert 1 <= int(refused.headers["Retry-After"]) <= 63
    assert chat(client).status_code == 200
    rows = venice.admin().get(f"{RATES}/log").json()["data"]
    assert [(row["modelId"], row["rateLimitType"]) for row in rows] == [(LARGE, "RPM")] * 6


# Characters.


@pytest.fixture
def luna(venice: Venice) -> Iterator[dict[str, Any]]:
    """Publish a character of the operator's account, whose slug is ``import``."""
    body = {
        "name": "Import",
        "description": "Keeps the harbour's books.",
        "system_prompt": "You are Import, who keeps the harbour's books.",
        "account_id": venice.account_id,
    }
    made = venice.operator.post("/ledger/v1/characters", json=body)
    assert made.status_code == 201, made.text
    path = f"/ledger/v1/characters/{made.json()['character_id']}"
    assert venice.operator.post(f"{path}/publish").status_code == 200
    yield made.json()
    assert venice.operator.post(f"{path}/withdraw").status_code == 200


def test_characters_are_listed_and_shown(venice: Venice, opens: Opens, luna: Any) -> None:
    """Public ones for everybody with a key; a slug may be `import`; none is a 404."""
    client = opens().client()
    listed = client.get("/api/v1/characters", params={"search": "harbour"}).json()
    assert listed["object"] == "list"
    (row,) = listed["data"]
    assert (row["slug"], row["id"]) == ("import", luna["character_id"])
    assert set(row) == {
        *("adult", "author", "createdAt", "description", "featured", "id", "name", "shareUrl"),
        *("photoUrl", "slug", "stats", "tags", "updatedAt", "webEnabled", "modelId"),
    }
    shown = client.get("/api/v1/characters/import")
    assert shown.json() == {"object": "character", "data": row}
    assert venice.account_id.removeprefix("acct_") not in shown.text
    absent = client.get("/api/v1/characters/import-of-nothing")
    assert (absent.status_code, absent.json()) == (404, {"error": "Character not found"})
    for params in ({"limit": 0}, {"sortBy": "x"}, {"isAdult": "maybe"}, {"other": 1}):
        assert client.get("/api/v1/characters", params=params).status_code == 400
    assert client.get("/api/v1/characters", params={"isAdult": "true"}).json()["data"] == []


def test_a_character_speaks_in_a_chat(opens: Opens, luna: Any) -> None:
    """`venice_parameters.character_slug`: its prompt comes first, and is paid for."""
    other = opens()
    client = other.client()
    plain = chat(client).json()
    spoken = chat(client, venice_parameters={"character_slug": luna["slug"]}).json()
    assert spoken["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    assert spoken["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]
    body = {"messages": HELLO["messages"], "venice_parameters": {"character_slug": luna["slug"]}}
    assert client.post(CHAT, json=body).json()["model"] == SMALL
    # Without a message there is nothing to answer, whoever speaks.
    assert client.post(CHAT, json={**body, "messages": []}).status_code == 400
    events = other.operator.get(f"/ledger/v1/accounts/{other.account_id}/events").text
    assert "harbour" not in events


# OpenAI's own client.


def test_openais_client_works_unchanged(venice: Venice) -> None:
    """PyPI openai with only base URL and key: models, chat, stream, embeddings, errors."""
    made = venice.create(consumptionLimit={"usd": 1})
    with openai.OpenAI(
        base_url=f"{venice.served.url}/api/v1", api_key=made["apiKey"], max_retries=0
    ) as client:
        names = {model.id for model in client.models.list()}
        assert names == {SMALL, LARGE, EMBEDDING}
        assert client.models.retrieve(SMALL).id == SMALL
        messages: Any = [{"role": "user", "content": "Say something."}]
        reply = client.chat.completions.create(model=SMALL, messages=messages)
        whole = reply.choices[0].message.content
        stream = client.chat.completions.create(model=SMALL, messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole
        vectors = client.embeddings.create(model=EMBEDDING, input=["a", "b"])
        assert len(vectors.data) == 2
        assert vectors.usage.prompt_tokens > 0
        with pytest.raises(openai.NotFoundError) as absent:
            client.chat.completions.create(model="none", messages=messages)
        assert absent.value.response.json() == {"error": "Specified model not found: none"}
        venice.session.delete(KEYS, params={"id": made["id"]})
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.response.json() == {"error": "Authentication failed"}
