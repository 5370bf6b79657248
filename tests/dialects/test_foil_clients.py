"""foil's own client, PyPI ``foilengine``, in the newest version and the one of the page's date.

Each is installed into a directory of its own, for one environment cannot hold both.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import dataclasses, json, sys
import foilengine

base_url, key, draft = sys.argv[1:4]
client = foilengine.FoilEngineClient(api_key=key, base_url=base_url, max_retries=0)
said = {}
personas = client.personas.list()
said["personas"] = [dataclasses.asdict(each) for each in personas]
persona = personas[0].id
begun = client.chat.init_session(persona, "player-001", "Alex", "non-binary")
said["init"] = dataclasses.asdict(begun)
answer = client.chat.send_message(
    persona, "Good morning", "player-001", machine_id=begun.machine_id
)
said["message"] = dataclasses.asdict(answer)
if hasattr(client.chat, "send_message_stream"):
    events = list(client.chat.send_message_stream(persona, "And now?", "player-001"))
    said["events"] = [each.event_type for each in events]
    said["streamed"] = "".join(e.data["text"] for e in events if e.event_type == "text_delta")
    said["done"] = dataclasses.asdict(events[-1].data)
said["session"] = dataclasses.asdict(client.chat.get_session(persona, "player-001"))
said["history"] = dataclasses.asdict(client.chat.get_history(persona, "player-001"))
said["machines"] = [dataclasses.asdict(m) for m in client.machines.list(persona, "player-001")]
said["reset"] = dataclasses.asdict(client.chat.reset(persona, "player-001"))
errors = {}
for name, call in {
    "wrong key": lambda: foilengine.FoilEngineClient(
        api_key="pk_live_" + "0" * 32, base_url=base_url, max_retries=0
    ).personas.list(),
    "draft": lambda: client.chat.init_session(draft, "p", "Alex", "male"),
    "no session": lambda: client.chat.get_session(persona, "nobody"),
}.items():
    try:
        call()
    except foilengine.FoilEngineError as error:
        errors[name] = [type(error).__name__, str(error)]
said["errors"] = errors
client.close()
print(json.dumps(said))
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


def test_every_call_of_the_client_works(
    foilengine: Path, served: Any, person: Callable[..., Any]
) -> None:
    """Every call, answers built into the client's closed objects, errors as its own classes."""
    owner = person()
    ids = []
    for name in ("Barista", "Draft"):
        made = owner.client.post("/ledger/v1/characters", json={"name": name}).json()
        ids.append(made["character_id"])
    assert owner.client.post(f"/ledger/v1/characters/{ids[0]}/publish").status_code == 200
    key = owner.client.post("/api/v1/sdk/api-keys", json={"name": "Game"}).json()["key"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, served.url, key, ids[1].rpartition("_")[2]],
        env={**os.environ, "PYTHONPATH": str(foilengine)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [each["name"] for each in said["personas"]] == ["Barista"]
    assert "Alex" in said["init"]["message"]
    assert said["message"]["message"]
    if "events" in said:
        assert (said["events"][0], said["events"][-1]) == ("metadata", "done")
        assert said["streamed"] == said["done"]["message"]
    assert said["history"]["messages"][1]["content"] == "Good morning"
    assert said["machines"][0]["machine_id"] == said["init"]["machine_id"]
    assert said["reset"]["session_id"] == said["init"]["session_id"]
    kinds = {name: error[0] for name, error in said["errors"].items()}
    assert kinds == {
        "wrong key": "AuthenticationError",
        "draft": "ForbiddenError",
        "no session": "NotFoundError",
    }
