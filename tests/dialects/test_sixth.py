"""A sixth dialect is a folder: nothing outside it is touched, and everything knows it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import api

ROOT = Path(api.__file__).parents[1]

FOLDER = {
    "__init__.py": '"""toy: a dialect of one route."""\n',
    "key_format.py": '''
"""How the secrets of toy's keys look."""

from ledger.secrets import HEX, Format

FORMATS = (Format("toy", "toy_", HEX, 40, checked=False),)
''',
    "dialect.py": '''
"""All that others know of toy: its record."""

from typing import Any

from api.dialects.dialect import Dialect, opening_card
from api.dialects.forwarding import forward
from api.http import shown
from api.http.handlers import Reply, guard, hot
from api.http.surface import Surface, request_id_header
from api.http.wording import OPENAI_WORDS, OpenAIEnvelope, openai_answer
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.events import LimitRule
from ledger.model_names import OTHERS
from ledger.pricing import ModelPrice


@guard("key")
async def client(ask: Ask[Any]) -> KeyCaller:
    """Find the key that is shown."""
    return await ask.services.credentials.proven(shown.bearer(ask), "toy")


@hot("POST", "/toy/talk", guards=[client])
async def talk(ask: Ask[KeyCaller]) -> Reply:
    """Complete a chat."""
    return await forward(ask, "chat")


DIALECT = Dialect(
    surface=Surface(
        name="toy",
        title="Keyledger: toy",
        handlers=[talk],
        word=lambda failure: openai_answer(OPENAI_WORDS, failure),
        headers=request_id_header,
        error=OpenAIEnvelope,
    ),
    paths=("/toy/",),
    card=opening_card("toy", "USD", {OTHERS: ModelPrice(prices={"input": "1", "output": "1"})}),
    key_limits=(LimitRule(kind="requests", window="day", ceiling="7"),),
    meters={"talk": "chat"},
)
''',
}

TRIES = """
import asyncio, json, sys
from pathlib import Path
from click.testing import CliRunner
from ledger.server import database
from tests.conftest import Served, OPERATOR_SECRET, settings_for
from api.cli.key import issue
from api.process import furnishing
from api.services import Services

url, home = sys.argv[1], Path(sys.argv[2])


async def price():
    services = await Services.open(settings_for(home), url)
    try:
        await furnishing.price_dialects(services)
    finally:
        await services.close()


asyncio.run(price())
served = Served(settings_for(home), url).start()
try:
    with served.client() as operator:
        opened = operator.post("/ledger/v1/accounts", json={"name": "Acme"}).json()
        path = f"/ledger/v1/accounts/{opened['account_id']}"
        grant = {"asset": "USD", "amount": "5", "kind": "paid"}
        operator.post(path + "/grants", json=grant).raise_for_status()
        key = operator.post(path + "/keys", json={"name": "bot", "dialect": "toy"}).json()
        card = operator.get("/ledger/v1/rate-cards/toy")
        document = operator.get("/openapi/toy.json").json()
        spend = lambda: operator.get(path + "/spend?group_by=key").json()["data"]
        chat = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]}
        with served.client(key["secret"]) as client:
            said = client.post("/toy/talk", json=chat)
            again = [
                client.post("/toy/talk", json=chat, headers={"Idempotency-Key": "k"})
                for _ in range(2)
            ]
        with served.client("toy_" + "0" * 40) as client:
            unknown = client.post("/toy/talk", json=chat)
        booked = spend()
finally:
    served.stop()
choices = next(option for option in issue.params if option.name == "dialect").type.choices
print(json.dumps({
    "prefix": key["secret"][:4],
    "limits": [[each["window"], each["ceiling"]] for each in key["limits"]],
    "card": card.status_code,
    "said": said.status_code,
    "unknown": [unknown.status_code, unknown.json()["error"]["type"]],
    "once": [each.headers.get("idempotent-replayed") for each in again],
    "same": again[0].content == again[1].content,
    "requests": [line["requests"] for line in booked],
    "documented": list(document["paths"]),
    "cli": "toy" in choices,
}))
"""


@pytest.mark.processes
def test_a_sixth_dialect_touches_one_folder(furnished_url: str, tmp_path: Path) -> None:
    """Its paths, keys, meters, limits, card, document and command come from its record alone."""
    for package in ("ledger", "projections", "api", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package)
    folder = tmp_path / "api" / "dialects" / "toy"
    folder.mkdir()
    for name, text in FOLDER.items():
        (folder / name).write_text(text.lstrip())
    script = tmp_path / "tries.py"
    script.write_text(TRIES)
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, script, furnished_url, tmp_path / "home"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "prefix": "toy_",
        "limits": [["day", "7"]],
        "card": 200,
        "said": 200,
        "unknown": [401, "authentication_error"],
        "once": [None, "true"],
        "same": True,
        "requests": [2],
        "documented": ["/toy/talk"],
        "cli": True,
    }
