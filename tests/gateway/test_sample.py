"""The built-in sample, by OpenAI's own client where it has one: deterministic, honestly counted."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from api.gateway import tokens
from tests.gateway.book import ended
from tests.gateway.rig import Rig

ASKED: Any = [{"role": "user", "content": "What is a ledger?"}]


@pytest.fixture(scope="module")
def secret(built_in: Rig) -> str:
    """Return a key of an account with credit."""
    return built_in.key(built_in.account())[1]


@pytest.fixture(scope="module")
def client(built_in: Rig, secret: str) -> Iterator[openai.OpenAI]:
    """Yield OpenAI's client: only base URL and key are ours."""
    with openai.OpenAI(base_url=built_in.url, api_key=secret, max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def plain(built_in: Rig, secret: str) -> Iterator[httpx.Client]:
    """Yield a plain client."""
    with built_in.client(secret) as found:
        yield found


def test_the_same_question_has_the_same_answer_streamed_or_not(client: openai.OpenAI) -> None:
    """Text and counts are the same in both forms."""
    whole = client.chat.completions.create(model="keyledger-small", messages=ASKED)
    stream = client.chat.completions.create(
        model="keyledger-small",
        messages=ASKED,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == tokens.count(text)
    assert whole.usage.prompt_tokens == tokens.count("What is a ledger?") + 4
    other = client.chat.completions.create(model="keyledger-large", messages=ASKED)
    assert other.choices[0].message.content != text


def test_max_tokens_stop_and_n_are_honoured(client: openai.OpenAI) -> None:
    """And the reason says which it was."""
    short = client.chat.completions.create(
        model="keyledger-small", messages=ASKED, max_tokens=3, n=2
    )
    assert [choice.finish_reason for choice in short.choices] == ["length", "length"]
    assert short.usage is not None
    assert short.usage.completion_tokens == 6
    first, second = (choice.message.content or "" for choice in short.choices)
    assert first != second
    word = first.split()[1]
    stopped = client.chat.completions.create(model="keyledger-small", messages=ASKED, stop=word)
    assert word not in (stopped.choices[0].message.content or "")
    assert stopped.choices[0].finish_reason == "stop"


def test_legacy_completions(client: openai.OpenAI) -> None:
    """Every prompt has its answers, streamed too."""
    found = client.completions.create(model="keyledger-small", prompt=["a", "b"], max_tokens=4, n=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage is not None
    assert found.usage.completion_tokens == 16
    stream = client.completions.create(
        model="keyledger-small", prompt=["a", "b"], max_tokens=4, n=2, stream=True
    )
    texts = ["", "", "", ""]
    for part in stream:
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [choice.text for choice in found.choices]


def test_responses(client: openai.OpenAI) -> None:
    """OpenAI's newer form, whole and streamed."""
    found = client.responses.create(model="keyledger-small", input="Hello")
    with client.responses.stream(model="keyledger-small", input="Hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == found.output_text
    assert final.usage == found.usage
    assert events[0].type == "response.created"
    cut = client.responses.create(model="keyledger-small", input="Hello", max_output_tokens=2)
    assert (cut.status, cut.usage and cut.usage.output_tokens) == ("incomplete", 2)


def test_embeddings_are_unit_vectors_in_either_form(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself; both forms hold the same numbers."""
    model = "keyledger-embedding"
    packed = client.embeddings.create(model=model, input=["one", "two"], dimensions=32)
    plain = client.embeddings.create(
        model=model, input=["one", "two"], dimensions=32, encoding_format="float"
    )
    vectors = [each.embedding for each in packed.data]
    assert [len(vector) for vector in vectors] == [32, 32]
    assert [each.embedding for each in plain.data] == vectors
    assert vectors[0] != vectors[1]
    for vector in vectors:
        assert math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-6)
    assert packed.usage.prompt_tokens == 2
    assert len(client.embeddings.create(model=model, input="one").data[0].embedding) == 256


def test_models(client: openai.OpenAI) -> None:
    """Three, and one by its name."""
    names = [model.id for model in client.models.list()]
    assert names == ["keyledger-small", "keyledger-large", "keyledger-embedding"]
    assert client.models.retrieve("keyledger-large").id == "keyledger-large"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_messages_in_anthropics_form(plain: httpx.Client, dialects_url: str) -> None:
    """Whole and streamed alike, and charged alike."""
    body = {"model": "keyledger-small", "max_tokens": 9, "messages": ASKED}
    whole = plain.post("/messages", json=body)
    found = whole.json()
    assert found["stop_reason"] == "max_tokens"
    assert found["usage"]["output_tokens"] == 9
    streamed = plain.post("/messages", json={**body, "stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.split("\n") if line[:5] == "data:"]
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == found["content"][0]["text"]
    one, two = (ended(dialects_url, r.headers["x-request-id"]) for r in (whole, streamed))
    assert one == two
    assert one.flags == ()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", {"model": "gpt-4o", "messages": ASKED}, 404),
        ("/chat/completions", {"model": "keyledger-embedding", "messages": ASKED}, 404),
        ("/chat/completions", {"model": "keyledger-small", "messages": ASKED, "stop": 3}, 400),
        ("/completions", {"model": "keyledger-small", "prompt": "a", "echo": True}, 400),
        ("/embeddings", {"model": "keyledger-embedding", "input": "a", "dimensions": 0}, 200),
        ("/embeddings", {"model": "keyledger-embedding", "input": "a", "dimensions": -1}, 400),
        ("/embeddings", {"model": "keyledger-embedding", "input": "a", "dimensions": "8"}, 400),
        ("/embeddings", {"model": "keyledger-embedding", "input": "a", "encoding_format": 1}, 400),
        (
            "/responses",
            {"model": "keyledger-small", "input": "a", "previous_response_id": "x"},
            400,
        ),
    ],
)
def test_what_the_sample_does_not_do_it_refuses(
    plain: httpx.Client, path: str, body: dict[str, Any], status: int
) -> None:
    """As a provider would, in its envelope, and nothing is charged."""
    reply = plain.post(path, json=body)
    assert reply.status_code == status, reply.text


def test_the_store_keeps_an_accounts_things(plain: httpx.Client) -> None:
    """Knowledge bases with documents, agents, memories: made, listed, shown, deleted."""
    base = plain.post("/knowledge-bases", json={"name": "Docs", "metadata": {"a": "b"}})
    assert base.status_code == 201, base.text
    place = f"/knowledge-bases/{base.json()['id']}"
    assert plain.get(place).json() == base.json()
    text = {"Content-Type": "text/plain; charset=utf-8"}
    assert plain.post(f"{place}/documents", content="Some text", headers=text).status_code == 201
    named = plain.post(f"{place}/documents", json={"name": "two", "text": "More"})
    listed = plain.get(f"{place}/documents?limit=1").json()
    assert (len(listed["data"]), listed["has_more"]) == (1, True)
    after = plain.get(f"{place}/documents?after={listed['last_id']}").json()
    assert [each["id"] for each in after["data"]] == [named.json()["id"]]
    assert plain.delete(place).json()["deleted"] is True
    assert plain.get(f"{place}/documents").status_code == 404
    assert plain.delete(place).status_code == 404
    memory = plain.post("/memories", json={"text": "Likes tea"}).json()
    assert plain.get(f"/memories/{memory['id']}").json()["text"] == "Likes tea"
    agent = plain.post("/agents", json={"name": "A", "instructions": "Be brief"}).json()
    assert [each["id"] for each in plain.get("/agents").json()["data"]] == [agent["id"]]


def test_anothers_things_are_as_absent_as_nothing(built_in: Rig, plain: httpx.Client) -> None:
    """Promise 15: no list and no id shows what another account keeps."""
    made = plain.post("/knowledge-bases", json={"name": "Mine"}).json()
    place = f"/knowledge-bases/{made['id']}"
    with built_in.client(built_in.key(built_in.account())[1]) as other:
        assert other.get("/knowledge-bases").json()["data"] == []
        absent = [
            other.get(place),
            other.get(f"{place}/documents"),
            other.post(f"{place}/documents", json={"text": "x"}),
            other.delete(place),
        ]
        nothing = other.get("/knowledge-bases/00000000-0000-7000-8000-000000000009")
    assert {reply.status_code for reply in absent} == {404}
    assert absent[0].json() == nothing.json()
    assert plain.get(place).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/agents", {}),
        ("/agents", {"name": "a", "text": "of a memory"}),
        ("/agents", {"name": "x" * 256}),
        ("/agents", {"name": "a", "colour": "red"}),
        ("/agents", {"name": "a", "metadata": {str(n): "x" for n in range(17)}}),
        ("/agents", {"name": "a", "metadata": {"a": "x" * 256}}),
        ("/memories", {"text": ""}),
        ("/memories", {"text": "x" * (16 * 1024 + 1)}),
        ("/memories", "no object"),
    ],
)
def test_what_is_kept_is_bounded(plain: httpx.Client, path: str, body: Any) -> None:
    """Every text has a most, every kind its fields."""
    assert plain.post(path, json=body).status_code == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x", "colour=red"])
def test_a_bad_page_is_refused(plain: httpx.Client, query: str) -> None:
    """F6: a parameter that nobody reads is refused."""
    assert plain.get(f"/agents?{query}").status_code == 400


def test_how_much_is_kept_is_exact_under_concurrency(
    built_in: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many at once exactly as many are kept as there is room for."""
    import asyncio  # noqa: PLC0415

    from api.beside import resources  # noqa: PLC0415

    monkeypatch.setattr(resources, "KEPT_MAX", 5)
    services = built_in.services
    keeper = resources.Resources(services.pool, services.lanes, services.clock)
    account = built_in.account()

    async def many() -> list[Any]:
        adding = [keeper.add(account, "agent", "{}") for _ in range(20)]
        return await asyncio.gather(*adding, return_exceptions=True)

    made = built_in.run(many())
    kept = [each for each in made if isinstance(each, resources.Resource)]
    refused = [each for each in made if isinstance(each, resources.TooMany)]
    assert (len(kept), len(refused)) == (5, 15)
    built_in.run(keeper.delete(account, "agent", kept[0].resource_id))
    built_in.run(keeper.add(account, "agent", "{}"))
