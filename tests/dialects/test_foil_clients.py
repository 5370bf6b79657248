"""foil's own client, PyPI ``foilengine``, in the newest version and the one of the page's date.

Each is installed into a directory of its own, for one environment cannot hold both.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.dialects.fleet import native

pytestmark = pytest.mark.processes

SCRIPT = """
import asyncio, dataclasses, inspect, json, sys, time
import foilengine

base_url, key, few, draft, kind = sys.argv[1:6]
is_async = kind == "async"
Client = foilengine.AsyncFoilEngineClient if is_async else foilengine.FoilEngineClient
STRANGE = "550e8400-e29b-41d4-a716-446655440000"

def opened(secret, **terms):
    return Client(api_key=secret, base_url=base_url, **{"max_retries": 0, **terms})

async def call(resource, name, *args, **terms):
    found = getattr(resource, name + "_async" * is_async)(*args, **terms)
    if hasattr(found, "__aiter__"):
        return [each async for each in found]
    if inspect.isgenerator(found):
        return list(found)
    return await found if inspect.isawaitable(found) else found

def plain(found):
    return [plain(each) for each in found] if isinstance(found, list) else dataclasses.asdict(found)

async def refused(resource, name, *args, **terms):
    try:
        await call(resource, name, *args, **terms)
    except foilengine.FoilEngineError as error:
        wait = getattr(error, "retry_after", None)
        return [type(error).__name__, error.status_code, error.message, wait]

async def talk(client, persona, player, **terms):
    said = {}
    said["init"] = plain(
        await call(client.chat, "init_session", persona, player, "Alex", "non-binary", **terms)
    )
    terms = terms or {"machine_id": said["init"]["machine_id"]}
    said["message"] = plain(
        await call(client.chat, "send_message", persona, "Good morning", player, **terms)
    )
    if hasattr(client.chat, "send_message_stream"):
        events = await call(
            client.chat, "send_message_stream", persona, "And now?", player, **terms
        )
        said["events"] = [each.event_type for each in events]
        said["streamed"] = "".join(e.data["text"] for e in events if e.event_type == "text_delta")
        said["done"] = plain(events[-1].data)
    said["session"] = plain(await call(client.chat, "get_session", persona, player, **terms))
    said["history"] = plain(await call(client.chat, "get_history", persona, player, **terms))
    said["machines"] = plain(await call(client.machines, "list", persona, player))
    said["reset"] = plain(await call(client.chat, "reset", persona, player, **terms))
    return said

async def errors_of(client, persona):
    chat, nobody = client.chat, opened("pk_live_" + "0" * 32)
    begin = ("p", "Alex", "male")
    made = {
        "wrong key": await refused(nobody.personas, "list"),
        "draft": await refused(chat, "init_session", draft, *begin),
        "no persona": await refused(chat, "init_session", STRANGE, *begin),
        "no machine": await refused(chat, "init_session", persona, *begin, machine_id=STRANGE),
        "no session": await refused(chat, "get_session", persona, "nobody"),
        "no gender": await refused(chat, "init_session", persona, "p", "Alex", "robot"),
    }
    other = opened(few)
    await call(other.chat, "init_session", persona, *begin)
    made["too often"] = await refused(other.chat, "init_session", persona, *begin)
    if hasattr(client, "validate_llm_key"):
        own = opened(key, llm_api_key="sk-of-the-player")
        made["own model"] = await refused(Validates(own), "validate_llm_key")
    return made

class Validates:
    def __init__(self, client):
        self.validate_llm_key = self.validate_llm_key_async = client.validate_llm_key

def waits_of(persona):
    waits = []
    time.sleep = waits.append
    with opened(few, max_retries=1) as client:
        try:
            client.chat.get_session(persona, "p")
        except foilengine.RateLimitError as error:
            return [waits, error.retry_after]

async def main():
    client = opened(key)
    said = {"personas": plain(await call(client.personas, "list"))}
    persona = said["personas"][0]["id"]
    said["talk"] = await talk(client, persona, "player-001")
    machine = said["talk"]["init"]["machine_id"]
    said["by machine"] = await talk(client, persona, "player-002", machine_id=machine)
    said["errors"] = await errors_of(client, persona)
    said["waits"] = None if is_async else waits_of(persona)
    closed = client.close()
    if is_async:
        await closed
    print(json.dumps(said))

asyncio.run(main())
"""


@pytest.fixture(scope="module", params=["0.4.0", "0.1.0"])
def foilengine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a version of the client; skips where no index can be reached."""
    place = tmp_path_factory.mktemp("foilengine")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place)]
    done = subprocess.run(
        [*command, f"foilengine=={request.param}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"foilengine {request.param} cannot be installed")
    return place


class Game(NamedTuple):
    """What the client needs of an account."""

    key: str
    few: str
    """A key that may ask once a minute."""
    draft: str
    """A persona that is not published."""


@pytest.fixture
def game(person: Callable[..., Any], operator: httpx.Client) -> Game:
    """Open an account with a published persona and a draft, and make two keys."""
    owner = person().client
    ids = []
    for name in ("Barista", "Draft"):
        made = owner.post("/ledger/v1/characters", json={"name": name}).json()
        ids.append(made["character_id"])
    assert owner.post(f"/ledger/v1/characters/{ids[0]}/publish").status_code == 200
    keys = [owner.post("/api/v1/sdk/api-keys", json={"name": "Game"}).json() for _ in range(2)]
    limit = {"kind": "requests", "window": "rolling:60", "ceiling": "1"}
    limited = operator.patch(native(keys[1]["id"]), json={"limits": [limit]})
    assert limited.status_code == 200, limited.text
    return Game(keys[0]["key"], keys[1]["key"], ids[1].rpartition("_")[2])


@pytest.fixture(params=["sync", "async"])
def said(request: pytest.FixtureRequest, foilengine: Path, served: Any, game: Game) -> Any:
    """Let the client make every call that it has, and return what it made of the answers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, served.url, *game, request.param],
        env={**os.environ, "PYTHONPATH": str(foilengine)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_call_of_the_client_works(said: Any) -> None:
    """Every call, with a machine and without, answers built into the client's closed objects.

    And everything that goes wrong is an error of the client's own classes.
    """
    assert [each["name"] for each in said["personas"]] == ["Barista"]
    for talk in (said["talk"], said["by machine"]):
        require_talk(talk)
    require_errors(said["errors"])
    if said["waits"] is not None:
        (wait,), told = said["waits"]
        assert 1 <= told <= wait <= 62


def require_talk(talk: Any) -> None:
    """Make sure that a conversation went as it should."""
    assert "Alex" in talk["init"]["message"]
    assert talk["message"]["message"]
    if "events" in talk:
        assert (talk["events"][0], talk["events"][-1]) == ("metadata", "done")
        assert talk["streamed"] == talk["done"]["message"]
    assert talk["history"]["messages"][1]["content"] == "Good morning"
    machine_id = talk["init"]["machine_id"]
    assert {talk["session"]["machine_id"], talk["machines"][0]["machine_id"]} == {machine_id}
    ids = {talk[name]["session_id"] for name in ("init", "message", "session", "history", "reset")}
    assert len(ids) == 1


def require_errors(errors: Any) -> None:
    """Make sure that the client knows each error, and how long to wait where that helps."""
    kinds = {name: tuple(error[:2]) for name, error in errors.items()}
    assert kinds == {
        "wrong key": ("AuthenticationError", 401),
        "draft": ("ForbiddenError", 403),
        "no persona": ("NotFoundError", 404),
        "no machine": ("NotFoundError", 404),
        "no session": ("NotFoundError", 404),
        "no gender": ("BadRequestError", 400),
        "too often": ("RateLimitError", 429),
        # A player's own key for a language model is taken nowhere here.
        **({"own model": ("NotFoundError", 404)} if "own model" in errors else {}),
    }
    assert all(message for _, _, message, _ in errors.values())
    waits = {name: error[3] for name, error in errors.items() if error[3] is not None}
    assert waits.keys() == {"too often"}
    assert 1 <= waits["too often"] <= 62
