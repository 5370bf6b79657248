"""reverie before a real upstream: what it is asked, and what of it nobody hears. R3, R15, R18."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Served, settings_for
from tests.gateway.scripted import INPUT, KEY, Scripted

LLM = "provider/secret-model-7b"
PATH = "/api/device/v1/chat/completions"
LUNA = {
    "name": "Luna",
    "system_prompt": "You are Luna.",
    "scenarios": [{"name": "Storm", "system_prompt": "A storm is coming."}],
}


@pytest.fixture(scope="module")
def served(
    upstream: Scripted, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the dialects before it, all characters behind one of its models."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"),
        upstream_url=upstream.url,
        upstream_key=KEY,
        upstream_model=LLM,
        upstream_read_seconds=2,
        welcome_grant="1000000 CREDIT",
    )
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


class Caller:
    """A key of an account with a character."""

    def __init__(self, served: Served, someone: Any) -> None:
        """Import the character and make the key."""
        self.web = someone.client
        self.account_id = someone.account_id
        made = self.web.post("/api/v1/characters/import", json=LUNA).json()
        self.slug, self.character = made["slug"], made["id"]
        body = {"name": "Bot", "dialect": "reverie"}
        path = f"/ledger/v1/accounts/{someone.account_id}/keys"
        self.key = self.web.post(path, json=body).json()
        self.client = served.client(self.key["secret"])

    def chat(self, **plan: Any) -> httpx.Response:
        """Chat with the character in its scenario while the upstream does as planned."""
        return self.client.post(PATH, json=self.body(**plan))

    def body(self, **plan: Any) -> dict[str, Any]:
        """Return what to ask."""
        messages = [{"role": "user", "content": json.dumps(plan)}]
        return {"model": f"{self.slug}/storm", "messages": messages}

    def balance(self) -> Any:
        """Return the credits, and what is held of them."""
        path = f"/ledger/v1/accounts/{self.account_id}/balances"
        found = self.web.get(path).json()["balances"]
        return next(
            (each["balance"], each["pending"]) for each in found if each["asset"] == "CREDIT"
        )


@pytest.fixture
def caller(served: Served, person: Any) -> Iterator[Caller]:
    """Yield a key of a fresh account with 1,000,000 credits."""
    found = Caller(served, person())
    yield found
    found.client.close()


def test_r3_the_upstream_is_asked_for_its_own_model(caller: Caller, upstream: Scripted) -> None:
    """R3: its model, the prompts first, no credential of the caller; the character's name back."""
    found = caller.chat()
    assert found.json()["model"] == f"{caller.slug}/storm"
    asked = found.headers["x-request-id"]
    body = upstream.bodies[asked]
    assert body["model"] == LLM
    assert body["messages"][0] == {
        "role": "system",
        "content": "You are Luna.\n\nA storm is coming.",
    }
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert caller.key["secret"] not in json.dumps(upstream.seen[asked])
    assert LLM not in found.text


def test_r3_no_answer_names_the_model_behind(caller: Caller) -> None:
    """R3: streams, refusals and failures of the upstream tell nothing of it, and cost nothing."""
    streamed = caller.client.post(PATH, json={**caller.body(), "stream": True})
    assert f'"model":"{caller.slug}/storm"' in streamed.text
    left = caller.balance()
    refused = caller.chat(status=400, body={"error": {"message": f"{LLM} takes no images"}})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "invalid_request")
    assert error["message"] == f"{caller.slug}/storm takes no images"
    absent = caller.chat(status=404, body={"error": {"message": f"There is no {LLM}"}})
    assert (absent.status_code, absent.json()["error"]["code"]) == (502, "upstream_error")
    failed = caller.chat(fail_first=9)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_error")
    slow = caller.chat(fail_first=9, how="stall")
    assert (slow.status_code, slow.json()["error"]["code"]) == (504, "upstream_error")
    for found in (streamed, refused, absent, failed, slow):
        assert LLM not in found.text
        assert KEY not in found.text
    assert caller.balance() == left == ("999989", "0")


def test_r14_a_failed_chat_is_none(caller: Caller) -> None:
    """R14: what no upstream answered is no chat to go on with."""
    assert caller.chat(fail_first=9).status_code == 502
    found = caller.client.post(PATH, json={"messages": caller.body()["messages"]})
    assert (found.status_code, found.json()["error"]["code"]) == (404, "no_character")
    assert caller.chat().status_code == 200
    found = caller.client.post(PATH, json={"messages": caller.body()["messages"]})
    assert found.json()["model"] == f"{caller.slug}/storm"


def test_r15_a_stream_outlives_its_key(caller: Caller) -> None:
    """R15: revoked while the upstream still writes: every token comes, and is paid."""
    body = {**caller.body(tokens=20, pause=0.05), "stream": True}
    began = time.monotonic()
    with caller.client.stream("POST", PATH, json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        path = f"/ledger/v1/keys/{caller.key['key_id']}/revoke"
        assert caller.web.post(path).status_code == 200
        revoked_after = time.monotonic() - began
        assert caller.chat().status_code == 401
        text = "\n".join(lines)
    assert time.monotonic() - began > revoked_after + 0.1
    assert text.count('"content"') >= 19
    assert text.rstrip().endswith("data: [DONE]")
    assert caller.balance() == (str(1_000_000 - INPUT - 20), "0")


@pytest.mark.parametrize("report", [{"prompt_tokens_details": {"cached_tokens": 400}}, {}])
def test_r18_cached_tokens_are_tokens(caller: Caller, operator: Any, report: Any) -> None:
    """R18: credits are tokens times the multiplier, whatever kind of tokens the provider names."""
    path = f"/ledger/v1/characters/{caller.character}"
    assert operator.patch(path, json={"multiplier": "1.2"}).status_code == 200
    counts = {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600}
    assert caller.chat(report={**counts, **report}).status_code == 200
    assert caller.balance() == (str(1_000_000 - 720), "0")
