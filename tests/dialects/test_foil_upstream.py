"""foil before a real upstream: what that gets wrong is its failure, in foil's words."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.dialects.foil.talk import _text_of
from api.http.failure import Failure, Kind
from tests.conftest import Served, settings_for
from tests.dialects.test_foil import Game, message_of
from tests.gateway import scripted
from tests.gateway.book import ended, open_reservations
from tests.gateway.scripted import KEY, Scripted

FAILED = (502, "The model service failed")


@pytest.fixture(scope="module")
def served(
    upstream: Scripted, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the dialects before it."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"), upstream_url=upstream.url, upstream_key=KEY
    )
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


@pytest.fixture
def game(served: Served, person: Callable[..., Any]) -> Iterator[Game]:
    """A game of its own for each test."""
    made = Game(served, person())
    yield made
    for client in made.clients:
        client.close()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a way to have the upstream stream, or not, whatever it is asked."""

    def make(*, really: bool) -> None:
        asked = scripted.Answer.__init__

        def overruled(self: Any, server: Any, request: str, document: Any, *rest: Any) -> None:
            asked(self, server, request, {**document, "stream": really}, *rest)

        monkeypatch.setattr(scripted.Answer, "__init__", overruled)

    return make


def history(game: Game, client: httpx.Client) -> list[str]:
    """Return what was said in the session."""
    query = {"user_session_id": "player-001"}
    found = client.get(f"{game.chat}/history", params=query).json()
    return [each["content"] for each in found["messages"]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "an answer",
        {"choices": None},
        {"choices": []},
        {"choices": [{}]},
        {"choices": ["x"]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 7}}]},
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_the_upstreams_failure(game: Game, body: Any) -> None:
    """A 200 that is no completion: 502, and nothing of it is kept as said.

    It counts, and says so; an empty one is no answer at all, and what was held is given back.
    """
    client = game.client()
    game.begin(client)
    before = history(game, client)
    found = game.say(client, json.dumps({"status": 200, "body": body}))
    assert (found.status_code, message_of(found)) == FAILED
    assert found.headers.get("x-ratelimit-remaining-requests") == ("29" if body else None)
    assert history(game, client) == before


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"choices":' + b"[" * 100_000])
def test_what_is_no_json_is_no_answer(body: bytes) -> None:
    """Nor is what cannot be decoded at all."""
    with pytest.raises(Failure) as caught:
        _text_of(body)
    assert caught.value.kind is Kind.UPSTREAM_FAILED


def test_a_model_may_answer_with_nothing(game: Game) -> None:
    """A completion without text is one."""
    client = game.client()
    game.begin(client)
    body = {"choices": [{"message": {"role": "assistant", "content": None}}]}
    found = game.say(client, json.dumps({"status": 200, "body": body}))
    assert (found.status_code, found.json()["message"]) == (200, "")


def test_a_stream_that_nobody_asked_for_is_no_answer(
    game: Game, streams: Any, ledger_url: str
) -> None:
    """502 and no event of it; what the upstream made is settled, nothing stays reserved."""
    client = game.client()
    game.begin(client)
    before = history(game, client)
    streams(really=True)
    found = game.say(client, json.dumps({"tokens": 5}))
    assert (found.status_code, message_of(found)) == FAILED
    assert history(game, client) == before
    booked = ended(ledger_url, found.headers["x-request-id"])
    assert (booked.ending, booked.output) == ("settled", 5)
    assert booked.flags[0] == "estimated"
    assert open_reservations(ledger_url) == 0


def test_a_whole_answer_where_a_stream_was_asked_for(game: Game, streams: Any) -> None:
    """502 in foil's envelope: the client reads events, and this is none."""
    client = game.client()
    game.begin(client)
    streams(really=False)
    body = {"message": json.dumps({"tokens": 5}), "user_session_id": "player-001"}
    found = client.post(f"{game.chat}/message/stream", json=body)
    assert (found.status_code, message_of(found)) == FAILED
    assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("plan", "status", "message"),
    [
        ({"status": 422, "body": {"detail": [{"msg": "no"}]}}, 400, "Invalid field"),
        ({"status": 400, "body": {"error": {"message": "too long"}}}, 400, "too long"),
        ({"status": 429, "body": {}, "headers": {"Retry-After": "7"}}, 429, "Rate limit exceeded"),
        ({"fail_first": 9}, 502, "The model service failed"),
    ],
)
@pytest.mark.parametrize("path", ["message", "message/stream"])
def test_an_upstreams_refusal_is_worded(
    game: Game, path: str, plan: dict[str, Any], status: int, message: str
) -> None:
    """Whatever its envelope is, the client reads foil's."""
    client = game.client()
    game.begin(client)
    body = {"message": json.dumps(plan), "user_session_id": "player-001"}
    found = client.post(f"{game.chat}/{path}", json=body)
    assert (found.status_code, message_of(found)) == (status, message)
    assert found.headers.get("retry-after") == ("7" if status == 429 else None)
