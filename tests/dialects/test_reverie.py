"""reverie: characters behind OpenAI's API, one balance of credits. R1 to R20."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, get_type_hints

import httpx
import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from api.dialects.reverie.bodies import FIELDS
from ledger import clock, secrets

BASE = "/api/device/v1"
HELLO = [{"role": "user", "content": "Hello"}]
LUNA = {
    "name": "Luna",
    "description": "Keeps the lighthouse.",
    "greeting": "Welcome, {player}.",
    "system_prompt": "You are Luna, who keeps the lighthouse.",
    "scenarios": [
        {"name": "Storm", "system_prompt": "A storm is coming."},
        {"name": "Harbour", "description": "A calm evening."},
    ],
}


class Customer:
    """Somebody with an account that has credits, and their keys."""

    def __init__(self, served: Any, operator: httpx.Client, someone: Any, credit: str) -> None:
        """Give them credits."""
        self.served = served
        self.operator = operator
        self.account_id = someone.account_id
        self.web = someone.client
        """Shows the login's token: the web chat."""
        self.token = someone.token
        self.opened: list[httpx.Client] = []
        if credit:
            self.grant(credit)

    def grant(self, amount: str, **terms: Any) -> None:
        """Let the operator add credits."""
        body = {"amount": amount, "asset": "CREDIT", **terms}
        path = f"/ledger/v1/accounts/{self.account_id}/grants"
        assert self.operator.post(path, json=body).status_code == 201

    def native(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Ask the native API as the person."""
        found = self.web.request(method, f"/ledger/v1{path}", json=body)
        assert found.status_code == status, found.text
        return found.json()

    def key(self, name: str = "Discord bot", **terms: Any) -> Any:
        """Create a key as the dashboard does."""
        body = {"name": name, "dialect": "reverie", **terms}
        return self.native("POST", f"/accounts/{self.account_id}/keys", body, 201)

    def client(self, key: Any = None, **terms: Any) -> httpx.Client:
        """Return a client that shows a key: this one, or another on given terms."""
        found = self.served.client((key or self.key(**terms))["secret"])
        self.opened.append(found)
        return found

    def character(self, **terms: Any) -> str:
        """Import a character; return its slug."""
        found = self.web.post("/api/v1/characters/import", json={**LUNA, **terms})
        assert found.status_code == 201, found.text
        return found.json()["slug"]

    def character_id(self, slug: str) -> str:
        """Return the id by which the native API knows a character."""
        return self.native("GET", f"/characters/by-slug/{slug}")["character_id"]

    def spent(self) -> Counter[str]:
        """Sum the debits in credits by integration, as the ledger has them."""
        path = f"/accounts/{self.account_id}/spend?group_by=integration"
        sums: Counter[str] = Counter()
        for line in self.native("GET", path)["data"]:
            assert line["asset"] in {"CREDIT", ""}
            sums[line["integration"]] += int(line["amount"])
        return sums

    def balance(self) -> int:
        """Return what is left of the credits."""
        found = self.native("GET", f"/accounts/{self.account_id}/balances")["balances"]
        return next(int(each["balance"]) for each in found if each["asset"] == "CREDIT")

    def close(self) -> None:
        """Close what was opened."""
        for client in self.opened:
            client.close()


@pytest.fixture
def customer(
    served: Any, operator: httpx.Client, person: Callable[..., Any]
) -> Iterator[Callable[..., Customer]]:
    """Yield a way to make customers, with 100,000 credits and no other money."""
    made: list[Customer] = []

    def make(credit: str = "100000") -> Customer:
        made.append(Customer(served, operator, person(welcome=False), credit))
        return made[-1]

    yield make
    for each in made:
        each.close()


def chat(client: httpx.Client, base: str = BASE, **terms: Any) -> httpx.Response:
    """Ask for a completion."""
    return client.post(f"{base}/chat/completions", json={"messages": HELLO, **terms})


def tokens(found: httpx.Response) -> int:
    """Return how many tokens a completion used, which must have come."""
    assert found.status_code == 200, found.text
    total: int = found.json()["usage"]["total_tokens"]
    return total


def refusal(found: httpx.Response) -> tuple[int, str, str | None]:
    """Return status, code and field of a refusal in OpenAI's envelope."""
    assert set(found.json()) == {"error"}
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return found.status_code, error["code"], error["param"]


def listed(client: httpx.Client, base: str = BASE) -> list[str]:
    """Return the ids of all models that are listed."""
    found = client.get(f"{base}/models")
    assert found.status_code == 200, found.text
    return [model["id"] for model in found.json()["data"]]


def test_r1_one_key_works_everywhere(customer: Any) -> None:
    """R1, R11: chat, models and the importer take the same Bearer; the page's /v1 does too."""
    client = customer().client()
    made = client.post("/api/v1/characters/import", json=LUNA)
    assert made.status_code == 201
    slug = made.json()["slug"]
    for base in (BASE, "/v1"):
        assert listed(client, base)[0] == slug
        assert client.get(f"{base}/models/{slug}").json()["id"] == slug
        assert chat(client, base, model=slug).status_code == 200


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic cmtfeDp5"},
        {"Authorization": "Bearer sk-proj-0123456789abcdef"},
        {"Authorization": "Bearer rk_short"},
        {"Authorization": "Bearer rk_" + "0" * 36},
        {"Authorization": "Bearer a.b.c"},
        {"X-API-Key": "rk_" + "0" * 36},
    ],
)
def test_r2_r11_nothing_else_proves_anybody(served: Any, shown: dict[str, str]) -> None:
    """R2, R11: a provider's key, another scheme, a mistyped key: 401 on every route."""
    with served.client(None) as client:
        client.headers.update(shown)
        for found in (
            client.get(f"{BASE}/models"),
            client.get(f"{BASE}/models/luna"),
            chat(client, model="luna"),
            client.post("/api/v1/characters/import", json=LUNA),
        ):
            assert refusal(found) == (401, "invalid_api_key", None)
            assert found.headers["www-authenticate"].startswith("Bearer")


def test_r11_the_real_key_under_another_scheme_is_refused(served: Any, customer: Any) -> None:
    """R11: only Bearer; on the shared path two headers may not show different keys."""
    secret = customer().key()["secret"]
    with served.client(None) as client:
        for shown in ({"Authorization": f"Basic {secret}"}, {"X-API-Key": secret}):
            assert refusal(client.get(f"{BASE}/models", headers=shown))[0] == 401
            assert client.get("/v1/models", headers=shown).status_code == 401
        both = {"Authorization": f"Bearer {secret}", "X-API-Key": "another"}
        assert refusal(client.get("/v1/models", headers=both))[:2] == (400, "invalid_request")
        assert client.get(f"{BASE}/models", headers=both).status_code == 200


@pytest.mark.parametrize("scheme", ["Basic cGF0OnBhdA==", "Bearer", "Bearer nonsense"])
def test_r11_two_headers_that_differ_are_refused(served: Any, customer: Any, scheme: str) -> None:
    """R11: on the shared path one credential is shown, whatever the scheme of the other is."""
    secret = customer().key()["secret"]
    shown = {"Authorization": scheme, "X-API-Key": secret}
    with served.client(None) as client:
        for found in (
            client.get("/v1/models", headers=shown),
            client.post("/v1/chat/completions", json={"messages": HELLO}, headers=shown),
        ):
            assert refusal(found)[:2] == (400, "invalid_request")
            assert 'error="invalid_request"' in found.headers["www-authenticate"]
        both = {"Authorization": f"Bearer {secret}", "X-API-Key": secret}
        assert client.get("/v1/models", headers=both).status_code == 200
        assert refusal(client.get(f"{BASE}/models", headers=shown))[0] == 401


@pytest.mark.parametrize(
    "field", ["api_key", "openai_api_key", "provider_key", "provider", "base_url", "byok", "x"]
)
def test_r2_r20_no_field_takes_a_providers_key(customer: Any, field: str) -> None:
    """R2, R20: any field that is none of OpenAI's is refused by name, and its value not told."""
    someone = customer()
    client, slug = someone.client(), someone.character()
    key = "sk-proj-0123456789abcdef"
    for found in (
        chat(client, model=slug, **{field: key}),
        client.post("/api/v1/characters/import", json={**LUNA, field: key}),
        client.post(
            "/api/v1/characters/import",
            json={"name": "x", "scenarios": [{"name": "y", field: key}]},
        ),
        client.get(f"{BASE}/models", params={field: key}),
    ):
        status, code, param = refusal(found)
        assert (status, code) == (400, "invalid_request")
        assert field in param
        assert key not in found.text
    assert someone.spent() == {}


def test_r2_every_field_of_openais_client_is_taken() -> None:
    """R2, R4: what stock clients may send is known; a new field of theirs fails here."""
    theirs = set(get_type_hints(CompletionCreateParamsBase)) | {"stream"}
    assert theirs <= FIELDS


def test_r3_a_model_is_a_character_and_never_an_llm(customer: Any) -> None:
    """R3: a language model's name is 404, ours as well; nothing of it is shown or charged."""
    someone = customer()
    client, slug = someone.client(), someone.character()
    for model in ("gpt-4o", "keyledger-small", f"{slug}/nowhere", f"{slug}/", "LUNA", "é" * 300):
        assert refusal(chat(client, model=model)) == (404, "model_not_found", "model")
    assert refusal(client.get(f"{BASE}/models/gpt-4o")) == (404, "model_not_found", "model")
    found = chat(client, model=slug)
    assert found.json()["model"] == slug
    assert "keyledger-small" not in found.text
    with client.stream(
        "POST",
        f"{BASE}/chat/completions",
        json={"model": slug, "messages": HELLO, "stream": True},
    ) as stream:
        text = stream.read().decode()
    assert f'"model":"{slug}"' in text
    assert "keyledger-small" not in text


@pytest.mark.parametrize("model", ["", 7, ["luna"], {}])
def test_r12_a_model_that_is_no_name_is_an_error(customer: Any, model: Any) -> None:
    """R12: only a model that is left out, or null, is stood in for."""
    someone = customer()
    client = someone.client(default_character=someone.character())
    assert refusal(chat(client, model=model)) == (400, "invalid_request", "model")
    assert chat(client, model=None).status_code == 200


def test_r4_openais_client_works(served: Any, customer: Any) -> None:
    """R4: the ``openai`` SDK completes, streams, lists and retrieves models, raises its errors."""
    someone = customer()
    slug = someone.character()
    secret = someone.key()["secret"]
    with openai.OpenAI(base_url=f"{served.url}{BASE}", api_key=secret, max_retries=0) as client:
        assert slug in {model.id for model in client.models.list()}
        assert client.models.retrieve(f"{slug}/storm").id == f"{slug}/storm"
        messages: Any = HELLO
        whole = client.chat.completions.create(model=slug, messages=messages, temperature=0.5)
        assert whole.model == slug
        text = whole.choices[0].message.content
        chunks = list(
            client.chat.completions.create(
                model=slug,
                messages=messages,
                temperature=0.5,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert {chunk.model for chunk in chunks} == {slug}
        parts = [each.choices[0].delta.content or "" for each in chunks if each.choices]
        assert "".join(parts) == text
        assert chunks[-1].usage == whole.usage
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(model="gpt-4o", messages=messages)
        assert raised.value.code == "model_not_found"
    with (
        openai.OpenAI(base_url=f"{served.url}{BASE}", api_key="sk-x", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "invalid_api_key"


def test_r5_the_importer_creates_a_character(customer: Any) -> None:
    """R5: 201 with a slug that works as model at once; once for an Idempotency-Key."""
    someone = customer()
    client = someone.client()
    once = {"Idempotency-Key": "import-1"}
    made = client.post("/api/v1/characters/import", json=LUNA, headers=once)
    assert made.status_code == 201
    shown = made.json()
    assert list(shown) == [
        *("id", "slug", "name", "description", "greeting", "system_prompt", "scenarios"),
        "created_at",
    ]
    assert [each["slug"] for each in shown["scenarios"]] == ["storm", "harbour"]
    again = client.post("/api/v1/characters/import", json=LUNA, headers=once)
    assert (again.status_code, again.json()) == (201, shown)
    assert again.headers["idempotent-replayed"] == "true"
    other = client.post("/api/v1/characters/import", json=LUNA).json()
    assert other["slug"] != shown["slug"]
    assert client.post("/api/v1/characters/import", json={"name": "Bare"}).status_code == 201
    nulls = {"name": "Nulls", "description": None, "greeting": None, "scenarios": None}
    assert client.post("/api/v1/characters/import", json=nulls).status_code == 201
    for body, field in (
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "scenarios": [{}]}, "scenarios[0].name"),
        ({"name": "x", "multiplier": "10.0"}, "multiplier"),
        ({"name": "x", "system_prompt": "x" * 40_000}, "system_prompt"),
    ):
        found = client.post("/api/v1/characters/import", json=body)
        assert refusal(found) == (400, "invalid_request", field)
    found = client.post("/api/v1/characters/import", content=b"{")
    assert refusal(found)[:2] == (400, "invalid_json")


def test_the_importers_path_reads_as_venices(customer: Any) -> None:
    """README: GET asks venice for the character ``import``; other methods are reverie's."""
    client = customer().client()
    found = client.get("/api/v1/characters/import")
    assert (found.status_code, found.json()["error"]) == (401, "Authentication failed")
    assert refusal(client.put("/api/v1/characters/import"))[:2] == (405, "method_not_allowed")


def test_r6_names_may_repeat_and_each_key_is_revoked_alone(customer: Any) -> None:
    """R6: two keys of one name; one is revoked by its id, the other works on."""
    someone = customer()
    slug = someone.character()
    first, second = someone.key("Tablet"), someone.key("Tablet")
    keys = someone.native("GET", f"/accounts/{someone.account_id}/keys")["data"]
    assert [key["name"] for key in keys if key["dialect"] == "reverie"].count("Tablet") == 2
    clients = someone.client(first), someone.client(second)
    assert [chat(client, model=slug).status_code for client in clients] == [200, 200]
    someone.native("POST", f"/keys/{first['key_id']}/revoke")
    assert [chat(client, model=slug).status_code for client in clients] == [401, 200]


def test_r7_r12_the_default_character_stands_in_and_a_model_wins(customer: Any) -> None:
    """R7, R12: usage is booked on the default character, or on the one that is named."""
    someone = customer()
    tutor, bot = someone.character(name="Tutor"), someone.character(name="Bot")
    client = someone.client(default_character=tutor)
    assert chat(client).json()["model"] == tutor
    assert chat(client, model=f"{bot}/storm").json()["model"] == f"{bot}/storm"
    path = f"/accounts/{someone.account_id}/spend?group_by=model"
    lines = someone.native("GET", path)["data"]
    assert {line["model"] for line in lines} == {tutor, f"{bot}/storm"}
    assert chat(client).json()["model"] == tutor


def test_r7_a_default_character_must_be_there(customer: Any) -> None:
    """R7: one that the account may not talk to is refused; one that goes away is told of."""
    someone, other = customer(), customer()
    theirs, mine = other.character(name="Hidden"), someone.character(name="Mine")
    path = f"/accounts/{someone.account_id}/keys"
    for name in (theirs, "nobody", "No Slug"):
        body = {"name": "x", "dialect": "reverie", "default_character": name}
        found = someone.native("POST", path, body, 400)
        assert found["errors"][0]["field"] == "default_character"
    key = someone.key(default_character=mine)
    client = someone.client(key)
    found = someone.native("PATCH", f"/keys/{key['key_id']}", {"default_character": theirs}, 400)
    assert found["errors"][0]["field"] == "default_character"
    someone.native("DELETE", f"/characters/{someone.character_id(mine)}")
    assert refusal(chat(client)) == (404, "no_character", "model")
    assert refusal(client.get(f"{BASE}/models")) == (404, "no_character", "model")
    assert someone.native("PATCH", f"/keys/{key['key_id']}", {"default_character": ""})
    assert mine not in listed(client)


def test_r8_a_key_expires_after_its_date(customer: Any) -> None:
    """R8: a date means the end of that day of UTC; an instant that instant; none never."""
    someone = customer()
    slug = someone.character()
    day = clock.now().date() + timedelta(days=2)
    by_date = someone.key(expires_at=day.isoformat())
    assert by_date["expires_at"] == f"{day + timedelta(days=1)}T00:00:00Z"
    soon = clock.now() + timedelta(seconds=1.5)
    by_instant = someone.key(expires_at=soon.isoformat())
    client = someone.client(by_instant)
    assert chat(client, model=slug).status_code == 200
    assert chat(someone.client(by_date), model=slug).status_code == 200
    time.sleep(max((soon - clock.now()).total_seconds(), 0) + 0.05)
    assert refusal(chat(client, model=slug)) == (401, "invalid_api_key", None)
    assert refusal(client.get(f"{BASE}/models")) == (401, "invalid_api_key", None)
    changed = someone.native(
        "PATCH", f"/keys/{by_date['key_id']}", {"expires_at": f"{day + timedelta(days=5)}"}
    )
    assert changed["expires_at"] == f"{day + timedelta(days=6)}T00:00:00Z"
    never = someone.native("PATCH", f"/keys/{by_date['key_id']}", {"expires_at": None})
    assert never["expires_at"] is None
    for text in ("2026-13-01", "2026-02-30", "20901231", "2001-01-01", "9999-12-31", "x"):
        body = {"name": "x", "dialect": "reverie", "expires_at": text}
        someone.native("POST", f"/accounts/{someone.account_id}/keys", body, 400)


def test_r9_r10_a_key_is_shown_once(customer: Any) -> None:
    """R9, R10: every key begins with rk_; no route shows it again."""
    someone = customer()
    key = someone.key()
    assert key["secret"].startswith("rk_")
    form = secrets.recognise(key["secret"])
    assert form is not None
    assert form.dialect == "reverie"
    client = someone.client(key)
    slug = someone.character()
    for found in (
        someone.web.get(f"/ledger/v1/keys/{key['key_id']}"),
        someone.web.get(f"/ledger/v1/accounts/{someone.account_id}/keys"),
        someone.web.get(f"/ledger/v1/accounts/{someone.account_id}/events"),
        someone.web.get(f"/ledger/v1/accounts/{someone.account_id}/credit-ledger"),
        client.get(f"{BASE}/models"),
        chat(client, model=slug),
    ):
        assert found.status_code == 200
        assert key["secret"] not in found.text


def test_r13_the_defaults_scenarios_are_the_models(customer: Any) -> None:
    """R13: the list is the scenarios; each works as model; a character without any is its own."""
    someone = customer()
    slug, bare = someone.character(), someone.character(name="Bare", scenarios=[])
    someone.character(name="Other")
    client = someone.client(default_character=slug)
    models = [f"{slug}/storm", f"{slug}/harbour"]
    for base in (BASE, "/v1"):
        assert listed(client, base) == models
    rows = client.get(f"{BASE}/models").json()["data"]
    assert {tuple(row) for row in rows} == {("id", "object", "created", "owned_by")}
    for model in models:
        assert chat(client, model=model).json()["model"] == model
        assert client.get(f"{BASE}/models/{model}").json()["id"] == model
        escaped = model.replace("/", "%2F")
        assert client.get(f"{BASE}/models/{escaped}").json()["id"] == model
    assert listed(someone.client(default_character=bare)) == [bare]


def test_without_a_default_own_and_public_characters_are_the_models(customer: Any) -> None:
    """README: the account's own and public characters; no draft of another, nothing withdrawn."""
    someone, other = customer(), customer()
    mine, gone = someone.character(name="Mine"), someone.character(name="Gone")
    public, draft = other.character(name="Public"), other.character(name="Draft")
    for slug, way in ((gone, "publish"), (gone, "withdraw")):
        someone.native("POST", f"/characters/{someone.character_id(slug)}/{way}")
    other.native("POST", f"/characters/{other.character_id(public)}/publish")
    client = someone.client()
    found = listed(client)
    assert {mine, public} <= set(found)
    assert not {gone, draft} & set(found)
    assert refusal(chat(client, model=draft))[:2] == (404, "model_not_found")
    assert refusal(chat(client, model=gone))[:2] == (404, "model_not_found")
    assert chat(client, model=public).status_code == 200
    only = someone.client(allowed_models=[mine])
    assert listed(only) == [mine]
    assert refusal(only.get(f"{BASE}/models/{public}"))[:2] == (404, "model_not_found")
    assert refusal(chat(only, model=public))[:2] == (403, "model_not_allowed")
    assert listed(someone.client(allowed_models=[])) == []


def test_r14_the_latest_chat_stands_in(customer: Any) -> None:
    """R14: the later of two chats wins, a newer web chat included; no chat at all is 404."""
    someone = customer()
    client = someone.client()
    assert refusal(chat(client)) == (404, "no_character", "model")
    first, second, third = (someone.character(name=name) for name in ("One", "Two", "Three"))
    assert refusal(chat(client)) == (404, "no_character", "model")
    assert chat(client, model=first).status_code == 200
    assert chat(client).json()["model"] == first
    with client.stream(
        "POST",
        f"{BASE}/chat/completions",
        json={"model": f"{second}/storm", "messages": HELLO, "stream": True},
    ) as stream:
        stream.read()
    assert chat(client).json()["model"] == f"{second}/storm"
    assert chat(someone.web, model=third).status_code == 200
    assert chat(client).json()["model"] == third
    someone.native("POST", f"/characters/{someone.character_id(first)}/chats")
    assert chat(client).json()["model"] == first
    assert refusal(chat(client, model="nobody"))[0] == 404
    assert chat(client).json()["model"] == first


def test_r14_what_was_refused_is_no_chat(customer: Any) -> None:
    """R14: without credits, or with a bad request, the latest chat stays what it was."""
    someone = customer(credit="")
    slug = someone.character()
    client = someone.client()
    assert refusal(chat(client, model=slug)) == (402, "insufficient_credits", None)
    assert refusal(chat(client)) == (404, "no_character", "model")
    someone.grant("100000")
    assert refusal(chat(client, model=slug, max_tokens=-1)) == (
        *(400, "invalid_request"),
        "max_tokens",
    )
    found = client.post(f"{BASE}/chat/completions", json={"model": slug, "messages": []})
    assert refusal(found) == (400, "invalid_request", "messages")
    assert refusal(chat(client)) == (404, "no_character", "model")


def test_r15_a_revoked_key_is_refused_and_told_nothing(customer: Any) -> None:
    """R15: the next request on every route; not even which characters there are."""
    someone = customer()
    slug = someone.character()
    key = someone.key(default_character=slug)
    client = someone.client(key)
    assert chat(client).status_code == 200
    someone.native("POST", f"/keys/{key['key_id']}/revoke")
    for found in (
        chat(client),
        chat(client, model=slug),
        chat(client, model="nobody"),
        client.get(f"{BASE}/models"),
        client.get(f"{BASE}/models/{slug}"),
        client.post("/api/v1/characters/import", json=LUNA),
    ):
        assert refusal(found) == (401, "invalid_api_key", None)


def test_r15_an_admitted_stream_finishes_and_is_settled(customer: Any) -> None:
    """R15: revoked in the middle, the stream goes on to its end and is paid."""
    someone = customer()
    slug = someone.character()
    key = someone.key()
    client = someone.client(key)
    body = {"model": slug, "messages": HELLO, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with client.stream("POST", f"{BASE}/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        seen = [next(lines)]
        someone.native("POST", f"/keys/{key['key_id']}/revoke")
        seen += list(lines)
    events = [line[6:] for line in seen if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    used = json.loads(events[-2])["usage"]["total_tokens"]
    assert someone.spent() == {"Discord bot": used}
    found = someone.native("GET", f"/accounts/{someone.account_id}/balances")["balances"]
    assert next(each for each in found if each["asset"] == "CREDIT")["pending"] == "0"
    assert refusal(chat(client, model=slug))[0] == 401


def test_r17_every_call_debits_the_one_balance(customer: Any) -> None:
    """R17: all keys and the web spend the same credits, a token a credit, by events."""
    someone = customer()
    slug = someone.character()
    before = someone.balance()
    callers = [someone.client(name="A"), someone.client(name="B"), someone.web]
    used = [tokens(chat(caller, model=slug)) for caller in callers]
    assert someone.balance() == before - sum(used)
    assert someone.spent() == {"A": used[0], "B": used[1], "Web": used[2]}
    found = someone.native("GET", f"/accounts/{someone.account_id}/events")["data"]
    charges = [e["payload"]["charge"] for e in found if e["type"] == "request_settled"]
    assert charges == [str(each) for each in reversed(used)]


def test_r17_when_the_credits_are_spent_nothing_more_is_answered(customer: Any) -> None:
    """402 ``insufficient_credits``, without Retry-After, whole and streamed; 200 after a top-up."""
    someone = customer(credit="")
    slug = someone.character()
    for caller in (someone.client(), someone.web):
        for stream in (False, True):
            found = chat(caller, model=slug, stream=stream)
            assert refusal(found) == (402, "insufficient_credits", None)
            assert "retry-after" not in found.headers
    someone.grant("100000")
    assert chat(someone.client(), model=slug).status_code == 200


def test_r17_a_keys_own_budget_is_no_rate(customer: Any) -> None:
    """R17: 429 ``insufficient_quota``, which a client tells from a rate by its lack of a wait."""
    someone = customer()
    slug = someone.character()
    budget = {"kind": "spend", "window": "month", "ceiling": "500", "assets": ["CREDIT"]}
    rate = {"kind": "requests", "window": "rolling:60", "ceiling": "1"}
    client, terms = someone.client(limits=[budget]), {"model": slug, "max_tokens": 9}
    found = next(found for _ in range(100) if (found := chat(client, **terms)).is_error)
    assert refusal(found)[:2] == (429, "insufficient_quota")
    assert found.json()["error"]["type"] == "insufficient_quota"
    assert "retry-after" not in found.headers
    client = someone.client(limits=[rate])
    assert chat(client, model=slug).status_code == 200
    found = chat(client, model=slug)
    assert refusal(found)[:2] == (429, "rate_limit_exceeded")
    assert 1 <= int(found.headers["retry-after"]) <= 62


@pytest.mark.parametrize(
    ("multiplier", "tenths"), [("1.0", 10), ("1.1", 11), ("1.2", 12), ("10.0", 100)]
)
def test_r18_the_web_and_the_api_pay_the_same(
    customer: Any, operator: httpx.Client, multiplier: str, tenths: int
) -> None:
    """R18: equal tokens, equal debits: tokens times the character's multiplier, no surcharge."""
    someone = customer()
    slug = someone.character()
    path = f"/ledger/v1/characters/{someone.character_id(slug)}"
    assert operator.patch(path, json={"multiplier": multiplier}).status_code == 200
    debits = []
    for caller in (someone.client(), someone.web):
        before = credits_left(someone)
        used = tokens(chat(caller, model=f"{slug}/storm"))
        debits.append((used, before - credits_left(someone)))
    assert debits[0] == debits[1]
    assert debits[0][1] == debits[0][0] * tenths


def credits_left(someone: Customer) -> int:
    """Return the balance in tenths of a credit."""
    found = someone.native("GET", f"/accounts/{someone.account_id}/balances")["balances"]
    text = next(each["balance"] for each in found if each["asset"] == "CREDIT")
    whole, _, tenths = text.partition(".")
    return int(whole) * 10 + int(tenths or "0")


def test_the_characters_prompt_goes_first(customer: Any) -> None:
    """README: its prompt, and the scenario's after it, are read by the model and paid for."""
    someone = customer()
    plain = someone.character(name="Plain", system_prompt="", scenarios=[])
    slug = someone.character()
    client = someone.client()
    used = [
        chat(client, model=model).json()["usage"]["prompt_tokens"]
        for model in (plain, slug, f"{slug}/storm")
    ]
    assert used == sorted(set(used))


def test_a_role_that_may_not_chat_is_told_so(customer: Any, served: Any) -> None:
    """A session may do what the same person may on the native API."""
    someone = customer()
    slug = someone.character()
    email = f"auditor-{time.monotonic_ns()}@example.com"
    body = {"email": email, "password": "correct horse battery", "role": "auditor"}
    someone.native("POST", f"/accounts/{someone.account_id}/members", body, 201)
    login = {"email": email, "password": "correct horse battery"}
    found = someone.operator.post("/ledger/v1/login", json=login).json()
    with served.client(found["access_token"]) as auditor:
        assert listed(auditor)[0] == slug
        assert refusal(chat(auditor, model=slug))[:2] == (403, "forbidden")
        made = auditor.post("/api/v1/characters/import", json=LUNA)
        assert refusal(made)[:2] == (403, "forbidden")


def test_what_costs_nothing_makes_no_key(customer: Any) -> None:
    """Only a chat needs a key to be booked on; the web's is made at the first one."""
    someone = customer()
    slug = someone.character()
    listed(someone.web)
    path = f"/accounts/{someone.account_id}/keys"
    assert someone.native("GET", path)["data"] == []
    assert chat(someone.web, model=slug).status_code == 200
    assert [key["name"] for key in someone.native("GET", path)["data"]] == ["Web"]


def test_promise_15_another_accounts_draft_is_as_absent_as_nothing(customer: Any) -> None:
    """The same answer, to the letter but for the name that was asked for."""
    someone, other = customer(), customer()
    theirs = other.character(name="Secret")
    client = someone.client()
    found, absent = chat(client, model=theirs), chat(client, model="nothing")
    assert found.status_code == absent.status_code == 404
    assert found.text == absent.text.replace("nothing", theirs)


def test_the_frameworks_errors_are_in_openais_envelope(customer: Any) -> None:
    """README: 404, 405, 415, 413 and JSON that is none."""
    client = customer().client()
    assert refusal(client.get(f"{BASE}/nothing"))[:2] == (404, "route_not_found")
    wrong = client.post(f"{BASE}/models", json={})
    assert refusal(wrong)[:2] == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD"
    path = f"{BASE}/chat/completions"
    found = client.post(path, content=b"x", headers={"Content-Type": "text/plain"})
    assert refusal(found)[:2] == (415, "unsupported_media_type")
    twice = b'{"messages": [], "messages": []}'
    assert refusal(client.post(path, content=twice))[0] == 400
    assert refusal(client.post(path, content=b"{"))[:2] == (400, "invalid_json")
    assert refusal(client.post(path, content=b"[]"))[:2] == (400, "invalid_request")
    assert refusal(client.post(path, content=b"[" * 100_000))[0] == 400
    assert refusal(client.post(path, content=b" " * (11 << 20)))[:2] == (413, "request_too_large")
    assert client.get(f"{BASE}/models").headers["x-request-id"].startswith("req_")
