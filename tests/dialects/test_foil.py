"""foil, promise by promise: FO1 … FO10."""

import concurrent.futures
import functools
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger import clock
from tests.conftest import TLS

KEYS = "/api/v1/sdk/api-keys"
UNKNOWN = "550e8400-e29b-41d4-a716-446655440000"
SDK = "/api/v1/sdk"
SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BEGUN = [
    *("session_id", "user_session_id", "persona_name", "persona_description", "player_name"),
    *("player_gender", "message", "machine_id"),
]
SAID = [
    *("message", "current_state", "score", "outcome", "decision", "follow_up", "session_id"),
]
STANDING = [
    *("session_id", "persona_id", "machine_id", "current_state", "score", "outcome"),
    *("player_name", "player_gender", "started_at", "last_message_at"),
]
MESSAGE = [
    *("id", "role", "content", "state_key_at_time", "score_at_time", "decision"),
    *("follow_up_triggered", "created_at"),
]
PLAYER = {"player_name": "Alex", "player_gender": "non-binary"}


class Game:
    """Somebody's account with a published persona, and a way to make clients with keys."""

    def __init__(self, served: Any, person: Any) -> None:
        """Open it."""
        self._served = served
        self.person = person
        self.clients: list[httpx.Client] = [person.client]
        self.persona = self.publish("Grumpy Barista")

    def publish(self, name: str, *, publish: bool = True) -> dict[str, Any]:
        """Make a persona, and publish it."""
        body = {"name": name, "description": "A coffee shop NPC with a bad attitude"}
        made = self.person.client.post("/ledger/v1/characters", json=body)
        assert made.status_code == 201, made.text
        if publish:
            path = f"/ledger/v1/characters/{made.json()['character_id']}/publish"
            done = self.person.client.post(path)
            assert done.status_code == 200, done.text
        return made.json()

    def make_key(self, name: str = "My Game - Production") -> dict[str, Any]:
        """Create a key."""
        found = self.person.client.post(KEYS, json={"name": name})
        assert found.status_code == 201, found.text
        return found.json()

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client that shows a key; a fresh one where none is given."""
        headers = {"X-API-Key": key or self.make_key()["key"]}
        made = httpx.Client(base_url=self._served.url, headers=headers, timeout=20, verify=TLS)
        self.clients.append(made)
        return made

    @property
    def chat(self) -> str:
        """Return the persona's path."""
        return f"{SDK}/chat/{uuid_of(self.persona)}"

    def begin(self, client: httpx.Client, player: str = "player-001") -> dict[str, Any]:
        """Begin a session."""
        body = {"user_session_id": player, **PLAYER}
        found = client.post(f"{self.chat}/init-session", json=body)
        assert found.status_code == 200, found.text
        return found.json()

    def say(self, client: httpx.Client, text: str = "Hi", player: str = "player-001") -> Any:
        """Say something."""
        return client.post(
            f"{self.chat}/message", json={"message": text, "user_session_id": player}
        )


def uuid_of(character: dict[str, Any]) -> str:
    """Return a character's id as the SDK has it."""
    text = character["character_id"]
    return str(uuid.UUID(text.rpartition("_")[2]))


@pytest.fixture
def game(served: Any, person: Callable[..., Any]) -> Iterator[Game]:
    """A game of its own for each test."""
    made = Game(served, person())
    yield made
    for client in made.clients:
        client.close()


def message_of(found: httpx.Response) -> str:
    """Return the message of an error, which has nothing else."""
    body = found.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message"]
    said: str = body["error"]["message"]
    return said


def test_fo1_a_key_is_created_with_exactly_five_fields(game: Game) -> None:
    """FO1: ``pk_live_`` and 32 hex digits; the type prefix as ``key_prefix``."""
    found = game.person.client.post(KEYS, json={"name": "My Game - Production"})
    made = found.json()
    assert found.status_code == 201
    assert list(made) == ["id", "name", "key", "key_prefix", "created_at"]
    assert re.fullmatch(r"pk_live_[0-9a-f]{32}", made["key"])
    assert made["key_prefix"] == "pk_live_"
    assert uuid.UUID(made["id"])
    assert SECONDS.fullmatch(made["created_at"])
    assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "  "}, {"name": 7}, []])
def test_fo1_a_blank_or_missing_name_is_refused(game: Game, body: Any) -> None:
    """FO1: 400, and no key is made."""
    found = game.person.client.post(KEYS, json=body)
    assert found.status_code == 400
    assert message_of(found)
    assert game.person.client.get(KEYS).json() == []


def test_fo2_a_key_is_shown_once(game: Game) -> None:
    """FO2: the list has four fields and no secret."""
    made = game.make_key()
    found = game.person.client.get(KEYS)
    (row,) = found.json()
    assert row == {name: made[name] for name in ("id", "name", "key_prefix", "created_at")}
    assert made["key"] not in found.text


def test_fo3_sdk_requests_need_a_key_in_its_header(game: Game, served: Any, world: Any) -> None:
    """FO3: none, garbage, revoked, another dialect's, Bearer only → 401 with a challenge."""
    made = game.make_key()
    revoked = game.make_key()
    assert game.person.client.delete(f"{KEYS}/{revoked['id']}").status_code == 204
    other = world.key(world.account(), dialect="ryvion")["secret"]
    shown: list[dict[str, str]] = [
        {},
        {"X-API-Key": "garbage"},
        {"X-API-Key": "pk_live_" + "0" * 32},
        {"X-API-Key": revoked["key"]},
        {"X-API-Key": other},
        {"Authorization": f"Bearer {made['key']}"},
        {"Authorization": f"Bearer {game.person.token}"},
    ]
    with served.client(None) as client:
        for headers in shown:
            for method, path in (("GET", f"{SDK}/personas"), ("POST", f"{game.chat}/message")):
                found = client.request(method, path, headers=headers)
                assert found.status_code == 401, (headers, path)
                assert message_of(found) == "Invalid or missing API key"
                assert found.headers["www-authenticate"].startswith("Bearer")


def test_fo3_key_management_takes_no_key(game: Game, served: Any) -> None:
    """FO3: an ``X-API-Key`` or a ``pk_live_`` Bearer manages nothing."""
    made = game.make_key()
    with served.client(None) as client:
        for headers in (
            {},
            {"X-API-Key": made["key"]},
            {"Authorization": f"Bearer {made['key']}"},
        ):
            assert client.get(KEYS, headers=headers).status_code == 401
            assert client.post(KEYS, json={"name": "x"}, headers=headers).status_code == 401
            assert client.delete(f"{KEYS}/{made['id']}", headers=headers).status_code == 401


def test_fo3_key_management_tells_nothing_shown_from_something_wrong(
    game: Game, served: Any
) -> None:
    """FO3: RFC 6750 §3.1: the challenge has no error code where no credential was sent."""
    made = game.make_key()
    wrong = [
        {"X-API-Key": made["key"]},
        {"Authorization": f"Bearer {made['key']}"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic cGF0OnBhdA=="},
    ]
    with served.client(None) as client:
        for method, path in (("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/{made['id']}")):
            found = client.request(method, path)
            assert (found.status_code, message_of(found)) == (401, "Sign in to manage API keys")
            assert found.headers["www-authenticate"] == 'Bearer realm="keyledger"'
            for headers in wrong:
                found = client.request(method, path, headers=headers)
                assert (found.status_code, message_of(found)) == (401, "Sign in to manage API keys")
                assert 'error="invalid_token"' in found.headers["www-authenticate"]


def test_fo4_a_persona_must_be_ones_own_and_published(
    game: Game, person: Callable[..., Any], served: Any
) -> None:
    """FO4: not owned and not published → 403; an unknown id → 404."""
    client = game.client()
    draft = game.publish("Draft", publish=False)
    theirs = Game(served, person())
    body = {"user_session_id": "p", **PLAYER}
    for character in (draft, theirs.persona):
        found = client.post(f"{SDK}/chat/{uuid_of(character)}/init-session", json=body)
        assert found.status_code == 403
        assert message_of(found)
    for unknown in (UNKNOWN, "no-uuid"):
        found = client.post(f"{SDK}/chat/{unknown}/init-session", json=body)
        assert found.status_code == 404


def test_fo5_the_list_shows_published_personas(game: Game) -> None:
    """FO5: a bare array; drafts and others' personas are absent."""
    game.publish("Draft", publish=False)
    (row,) = game.client().get(f"{SDK}/personas").json()
    assert list(row) == ["id", "name", "description", "created_at", "updated_at"]
    assert (row["id"], row["name"]) == (uuid_of(game.persona), "Grumpy Barista")
    assert SECONDS.fullmatch(row["updated_at"])


def test_fo6_a_session_begins_as_documented(game: Game) -> None:
    """FO6: eight fields, the greeting names the player; the same id starts afresh."""
    client = game.client()
    begun = game.begin(client)
    assert list(begun) == BEGUN
    assert "Alex" in begun["message"]
    assert begun["persona_name"] == "Grumpy Barista"
    assert game.say(client).status_code == 200
    again = game.begin(client)
    assert again["session_id"] != begun["session_id"]
    history = client.get(f"{game.chat}/history", params={"user_session_id": "player-001"}).json()
    assert [each["content"] for each in history["messages"]] == [again["message"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"player_gender": "robot"},
        {"player_name": ""},
        {"user_session_id": ""},
        {"user_session_id": 7},
        {"player_name": "a\x00b"},
        {"user_session_id": "x" * 256},
    ],
)
def test_fo6_a_wrong_field_is_named(game: Game, changes: dict[str, Any]) -> None:
    """FO6: 400, and no session begins."""
    client = game.client()
    body = {"user_session_id": "p", **PLAYER, **changes}
    found = client.post(f"{game.chat}/init-session", json=body)
    assert found.status_code == 400
    assert next(iter(changes)) in message_of(found)


def test_a_conversation_is_kept(game: Game) -> None:
    """Message, session, history, machines and reset, each with exactly its fields."""
    client, query = game.client(), {"user_session_id": "player-001"}
    begun = game.begin(client)
    said = game.say(client, "Good morning")
    assert said.status_code == 200, said.text
    assert list(said.json()) == SAID
    standing = client.get(f"{game.chat}/session", params=query).json()
    assert list(standing) == STANDING
    assert standing["machine_id"] == begun["machine_id"]
    history = client.get(f"{game.chat}/history", params=query).json()
    assert list(history) == [
        *("session_id", "persona_id", "messages", "current_state", "score", "outcome"),
        *("player_name", "player_gender", "started_at", "last_message_at"),
    ]
    assert all(list(each) == MESSAGE for each in history["messages"])
    texts = [(each["role"], each["content"]) for each in history["messages"]]
    assert texts == [
        ("assistant", begun["message"]),
        ("user", "Good morning"),
        ("assistant", said.json()["message"]),
    ]
    (machine,) = client.get(f"{game.chat}/machines", params=query).json()
    assert (machine["machine_id"], machine["has_session"]) == (begun["machine_id"], True)
    reset = client.post(f"{game.chat}/reset", params=query)
    assert list(reset.json()) == ["session_id", "message"]
    history = client.get(f"{game.chat}/history", params=query).json()
    assert len(history["messages"]) == 1


def test_a_message_is_streamed(game: Game) -> None:
    """metadata, text_delta …, done; and what was said is kept."""
    client = game.client()
    game.begin(client)
    body = {"message": "Hi", "user_session_id": "player-001"}
    with client.stream("POST", f"{game.chat}/message/stream", json=body) as found:
        assert found.status_code == 200
        assert found.headers["content-type"].startswith("text/event-stream")
        text = found.read().decode()
    events = [each.split("\n") for each in text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in events]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert names[0] == "metadata"
    assert names[-1] == "done"
    assert set(names[1:-1]) == {"text_delta"}
    assert list(data[-1]) == SAID
    assert list(data[0]) == SAID[1:]
    assert "".join(each["text"] for each in data[1:-1]) == data[-1]["message"]
    query = {"user_session_id": "player-001"}
    history = client.get(f"{game.chat}/history", params=query).json()["messages"]
    assert history[-1]["content"] == data[-1]["message"]


def test_a_session_that_is_not_there(game: Game) -> None:
    """404, and without the query 400."""
    client = game.client()
    for name in ("session", "history"):
        path = f"{game.chat}/{name}"
        assert client.get(path, params={"user_session_id": "nobody"}).status_code == 404
        assert client.get(path).status_code == 400
    assert game.say(client, player="nobody").status_code == 404
    other = {"user_session_id": "p", "machine_id": UNKNOWN}
    assert client.get(f"{game.chat}/session", params=other).status_code == 404


def test_fo7_keys_belong_to_their_creators_account(game: Game, person: Callable[..., Any]) -> None:
    """FO7: another account neither sees nor revokes them."""
    made = game.make_key()
    other = person()
    assert other.client.get(KEYS).json() == []
    for unknown in (made["id"], UNKNOWN, "no-uuid"):
        found = other.client.delete(f"{KEYS}/{unknown}")
        assert (found.status_code, message_of(found)) == (404, "API key not found")
    assert game.client(made["key"]).get(f"{SDK}/personas").status_code == 200
    deleted = game.person.client.delete(f"{KEYS}/{made['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert game.client(made["key"]).get(f"{SDK}/personas").status_code == 401
    assert game.person.client.delete(f"{KEYS}/{made['id']}").status_code == 404


def test_fo2_an_expired_key_is_gone(game: Game, world: Any) -> None:
    """FO2: neither listed nor there to be deleted, from the moment that it stops working."""
    made = game.make_key()
    ends = clock.now() + timedelta(seconds=1)
    path = f"/ledger/v1/keys/key_{uuid.UUID(made['id']).hex}"
    terms = {"expires_at": ends.isoformat()}
    assert world.client.patch(path, json=terms).status_code == 200
    assert [row["id"] for row in game.person.client.get(KEYS).json()] == [made["id"]]
    time.sleep((ends - clock.now()).total_seconds() + 0.01)
    assert game.person.client.get(KEYS).json() == []
    assert game.client(made["key"]).get(f"{SDK}/personas").status_code == 401
    found = game.person.client.delete(f"{KEYS}/{made['id']}")
    assert (found.status_code, message_of(found)) == (404, "API key not found")


def at_once(count: int, call: Callable[[], httpx.Response]) -> list[int]:
    """Make so many calls at once; return their statuses, sorted."""
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        return sorted(each.status_code for each in pool.map(lambda _: call(), range(count)))


def test_fo8_the_31st_message_of_a_minute_is_refused(game: Game) -> None:
    """FO8: 429 with Retry-After; another key is unaffected; general calls still work (FO9)."""
    client = game.client()
    game.begin(client)
    assert at_once(36, lambda: game.say(client)) == [200] * 30 + [429] * 6
    found = game.say(client)
    assert (found.status_code, message_of(found)) == (429, "Rate limit exceeded")
    assert 1 <= int(found.headers["retry-after"]) <= 62
    other = game.client()
    game.begin(other)
    assert game.say(other).status_code == 200
    query = {"user_session_id": "player-001"}
    assert client.get(f"{game.chat}/history", params=query).status_code == 200


def test_fo9_the_61st_general_call_of_a_minute_is_refused(game: Game) -> None:
    """FO9: init, history, reset and listing share 60, apart from chat."""
    client = game.client()
    game.begin(client)
    query = {"user_session_id": "player-001"}
    calls = at_once(65, lambda: client.get(f"{game.chat}/history", params=query))
    assert calls == [200] * 59 + [429] * 6
    found = client.post(f"{game.chat}/reset", params=query)
    assert found.status_code == 429
    assert "retry-after" in found.headers
    assert game.say(client).status_code == 200


def limits_of(found: httpx.Response) -> tuple[str, ...]:
    """Return what a reply's headers say of the limit on requests."""
    left = re.fullmatch(r'"key:requests:\w+/rolling:60";r=(\d+);t=\d+', found.headers["ratelimit"])
    assert left is not None
    names = ("limit", "remaining")
    return (*(found.headers[f"x-ratelimit-{name}-requests"] for name in names), left[1])


def test_every_metered_reply_says_what_is_left(game: Game) -> None:
    """OpenAI's and the IETF's headers: exact, of the limit that the call counts against.

    A call that counted and found nothing says so too.
    """
    client, query = game.client(), {"user_session_id": "player-001"}
    body = {**query, **PLAYER}
    calls = [
        lambda: client.get(f"{SDK}/personas"),
        lambda: client.post(f"{game.chat}/init-session", json=body),
        *(
            functools.partial(client.get, f"{game.chat}/{name}", params=query)
            for name in ("session", "history", "machines")
        ),
        lambda: client.post(f"{game.chat}/reset", params=query),
        lambda: client.get(f"{game.chat}/session", params={"user_session_id": "nobody"}),
    ]
    for number, call in enumerate(calls, 1):
        found = call()
        assert found.status_code == (404 if number == len(calls) else 200), found.text
        assert limits_of(found) == ("60", str(60 - number), str(60 - number))
        assert found.headers["ratelimit-policy"] == '"key:requests:general/rolling:60";q=60;w=60'
        assert re.fullmatch(r"(1m)?[\d.]+s", found.headers["x-ratelimit-reset-requests"])
        assert "retry-after" not in found.headers
    assert limits_of(game.say(client)) == ("30", "29", "29")


def test_a_refusal_by_a_limit_says_what_is_left(game: Game, world: Any) -> None:
    """Nothing, and how long that lasts, on general calls as on messages."""
    made = game.make_key()
    client = game.client(made["key"])
    limits = [
        {"kind": "requests", "window": "rolling:60", "ceiling": "1", "category": category}
        for category in ("general", "chat")
    ]
    path = f"/ledger/v1/keys/key_{uuid.UUID(made['id']).hex}"
    assert world.client.patch(path, json={"limits": limits}).status_code == 200
    game.begin(client)
    assert game.say(client).status_code == 200
    for found in (client.get(f"{SDK}/personas"), game.say(client)):
        assert (found.status_code, message_of(found)) == (429, "Rate limit exceeded")
        wait = int(found.headers["retry-after"])
        assert re.search(rf'/rolling:60";r=0;t={wait}$', found.headers["ratelimit"])


def test_fo10_the_dashboard_does_not_count(game: Game) -> None:
    """FO10: managing keys and personas uses up nothing of a key."""
    client = game.client()
    for _ in range(40):
        assert game.person.client.get(KEYS).status_code == 200
        assert game.person.client.get("/ledger/v1/characters").status_code == 200
    assert at_once(60, lambda: client.get(f"{SDK}/personas")) == [200] * 60


def test_the_pages_curl_examples_run(
    game: Game, served: Any, page: Callable[[str], str], curl: Callable[..., Any]
) -> None:
    """Every curl of the page, verbatim but for host, secret and persona."""
    made = game.make_key()
    text = page("001").replace("https://your-api-url", served.url)
    text = text.replace("<your_jwt_token>", game.person.token)
    text = text.replace("pk_live_...", made["key"]).replace("{persona_id}", uuid_of(game.persona))
    commands = re.findall(r"^curl .*?(?=Response:)", text, re.MULTILINE | re.DOTALL)
    answers = [curl(command) for command in commands]
    assert [status for status, _ in answers] == [201, 200, 200]
    assert list(json.loads(answers[2][1])) == BEGUN
