"""What is said to a model and what it answers is in conversation tables, nowhere else at rest.

Every dialect talks, streamed and not, well-formed and broken, to the sample model and to an
upstream that fails and repeats what it was told. Then every table, every log and every error is
looked through for what was said, what was answered, and every secret.
"""

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest

from ledger.server.embedded import EmbeddedPostgres, binary
from tests.conftest import TLS
from tests.dialects.fleet import Fleet, running
from tests.dialects.test_conformance import DRIVERS, House
from tests.gateway.scripted import KEY, Scripted

pytestmark = pytest.mark.processes

MODEL = "keyledger-small"
STORED = frozenset(
    {
        "characters",
        "character_scenarios",
        "character_messages",
        "gateway_resources",
        "gateway_answers",
    }
)
"""Tables that keep texts of people: characters, conversations, what the store is given, and for
minutes, in no WAL, answers under an ``Idempotency-Key``."""
REPLY_LEAST = 20
"""Characters from which on an answer is looked for."""


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _block(text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 16}


Makes = Callable[[str], dict[str, Any]]
INFERENCE: Sequence[tuple[str, Makes, bool]] = (
    ("chat/completions", _chat, True),
    ("completions", lambda text: {"prompt": text}, False),
    ("embeddings", lambda text: {"input": text, "model": "keyledger-embedding"}, False),
    ("responses", lambda text: {"input": text}, True),
    ("messages", _block, True),
)
"""Path, body, and whether it can be streamed."""
SPOKEN: Mapping[str, tuple[str, Sequence[str]]] = {
    "reverie": ("/api/device/v1", ("chat/completions",)),
    "bve": ("/v1", ("chat/completions", "completions", "embeddings", "responses")),
    "ryvion": ("/v1", tuple(path for path, _, _ in INFERENCE)),
    "venice": ("/api/v1", ("chat/completions", "embeddings")),
}


class Talk:
    """Everybody's talk with one service."""

    def __init__(self, fleet: Fleet, house: House) -> None:
        """Take the service and who uses it."""
        self.fleet = fleet
        self.house = house
        self.client = fleet.client()
        self.made = {name: driver.create(house).secret for name, driver in DRIVERS.items()}
        self.said: list[str] = []
        """What was said where nothing keeps it."""
        self.kept: list[str] = []
        """What was said in a conversation, or given to the store."""
        self.answered: list[str] = []
        self.errors: list[bytes] = []

    def mark(self, *, kept: bool = False) -> str:
        """Make up something to say that nobody else says."""
        text = f"quokka{secrets.token_hex(8)}"
        (self.kept if kept else self.said).append(text)
        return text

    def post(self, dialect: str, path: str, **parts: Any) -> httpx.Response:
        """Ask with a dialect's key; keep the answer if it is an error."""
        shown = {**DRIVERS[dialect].show(self.made[dialect]), **parts.pop("headers", {})}
        found = self.client.post(path, headers=shown, **parts)
        if found.is_error:
            self.errors.append(repr(found.headers.raw).encode() + found.content)
        return found

    def cut(self, dialect: str, path: str, body: Any) -> None:
        """Ask for a stream and go away after its first bytes."""
        shown = DRIVERS[dialect].show(self.made[dialect])
        with (
            httpx.Client(base_url=self.fleet.url, timeout=10, verify=TLS) as client,
            client.stream("POST", path, json=body, headers=shown) as found,
        ):
            assert found.status_code == 200
            next(found.iter_raw())

    def all(self) -> None:
        """Let every dialect with OpenAI's API talk, and break what can be broken."""
        for dialect, (base, paths) in SPOKEN.items():
            for path, make, streams in INFERENCE:
                if path in paths:
                    self._well(dialect, f"{base}/{path}", make, streams=streams)
                    self._badly(dialect, f"{base}/{path}", make)

    def model_of(self, dialect: str) -> str:
        """Return the model that a dialect talks to."""
        return self.house.character if dialect == "reverie" else MODEL

    def _well(self, dialect: str, path: str, make: Makes, *, streams: bool) -> None:
        model = {"model": self.model_of(dialect)}
        found = self.post(dialect, path, json={**model, **make(self.mark())})
        assert found.status_code == 200, (path, found.text)
        self._hear(found.json())
        if streams:
            body = {**model, "stream": True, **make(self.mark())}
            found = self.post(dialect, path, json=body)
            assert found.status_code == 200, (path, found.text)
            self.cut(dialect, path, {**body, **make(self.mark())})

    def _hear(self, document: Any) -> None:
        """Keep what was answered."""
        if isinstance(document, dict):
            for name, value in document.items():
                if name in {"content", "text"} and isinstance(value, str):
                    self.answered.append(value)
                self._hear(value)
        elif isinstance(document, list):
            for value in document:
                self._hear(value)

    def _badly(self, dialect: str, path: str, make: Makes) -> None:
        """Send what is refused, with something said in every part of it."""
        model = {"model": self.model_of(dialect)}
        bodies: list[dict[str, Any]] = [
            {**model, **make(self.mark()), "max_tokens": -1, "max_output_tokens": -1},
            {**model, **make(self.mark()), "stream": self.mark()},
            {**model, "messages": self.mark(), "input": {"x": self.mark()}, "prompt": 7},
            {**model, "messages": [self.mark()], "input": [[[self.mark()]]], "prompt": {}},
            {**model, "messages": [{"role": self.mark(), "content": {"a": self.mark()}}]},
            {"model": "no-such-model", **make(self.mark())},
            {"model": 7, **make(self.mark())},
        ]
        for body in bodies:
            self.post(dialect, path, json=body)
        said = {"Content-Type": "application/json"}
        whole = json.dumps({**model, **make(self.mark())})
        for content in (whole[:-2], whole + self.mark(), whole.replace("{", '{"model": "x", ', 1)):
            assert self.post(dialect, path, content=content, headers=said).status_code == 400
        text = {"Content-Type": "text/plain"}
        assert self.post(dialect, path, content=self.mark(), headers=text).status_code == 415

    def play(self) -> None:
        """Let foil talk, whose conversations are kept."""
        shown = DRIVERS["foil"].show(self.made["foil"])
        persona = self.client.get("/api/v1/sdk/personas", headers=shown).json()[0]["id"]
        base = f"/api/v1/sdk/chat/{persona}"
        player = {"user_session_id": "p", "player_name": "Alex", "player_gender": "male"}
        assert self.post("foil", f"{base}/init-session", json=player).status_code == 200
        for path in ("message", "message/stream"):
            body = {"user_session_id": "p", "message": self.mark(kept=True)}
            assert self.post("foil", f"{base}/{path}", json=body).status_code == 200
        # Of an answer that nobody waits for nothing is kept, nor of a message that is refused.
        body = {"user_session_id": "p", "message": self.mark()}
        with suppress(httpx.HTTPError):
            self.cut("foil", f"{base}/message/stream", {**body, "message": self.mark(kept=True)})
        self.post("foil", f"{base}/message", json={**body, "user_session_id": "nobody"})
        self.post("foil", f"{base}/message", json={**body, "message": [self.mark()]})
        self.post("foil", f"{base}/message", content=f'{{"message": "{self.mark()}')

    def store(self) -> None:
        """Give things to the store, and texts to characters."""
        for path, body in (
            ("knowledge-bases", {"name": self.mark(kept=True)}),
            ("agents", {"name": "Clerk", "instructions": self.mark(kept=True)}),
            ("memories", {"text": self.mark()}),
            ("knowledge-bases", {"name": [self.mark()]}),
            ("agents", {"name": self.mark(), "instructions": 7, self.mark(): self.mark()}),
        ):
            self.post("ryvion", f"/api/v1/{path}", json=body)
        prompt = {"system_prompt": self.mark(kept=True), "greeting": self.mark(kept=True)}
        body = {"name": "Luna", **prompt, "scenarios": [{"name": "Storm", **prompt}]}
        found = self.post("reverie", "/api/v1/characters/import", json=body)
        assert found.status_code == 201, found.text
        spoken = {"venice_parameters": {"character_slug": found.json()["slug"]}}
        chat = {"model": MODEL, **_chat(self.mark()), **spoken}
        assert self.post("venice", "/api/v1/chat/completions", json=chat).status_code == 200

    def fail(self) -> None:
        """Talk to an upstream that fails, and that says again what it was told."""
        for dialect, (base, _) in SPOKEN.items():
            for stream in (False, True):
                for plan in self._plans():
                    body = {"model": self.model_of(dialect), "stream": stream}
                    body |= _chat(json.dumps(plan))
                    with suppress(httpx.HTTPError):
                        self.post(dialect, f"{base}/chat/completions", json=body)

    def retry(self) -> None:
        """Ask under idempotency keys for answers that are kept for the retry."""
        for number, (dialect, (base, _)) in enumerate(SPOKEN.items()):
            for stream in (False, True):
                said = self.mark(kept=True)
                message = {"role": "assistant", "content": said}
                whole = {"status": 200, "body": {"choices": [{"index": 0, "message": message}]}}
                plan = {"tokens": 2, "piece": said} if stream else whole
                body = {"model": self.model_of(dialect), "stream": stream}
                body |= _chat(json.dumps(plan))
                headers = {"Idempotency-Key": f"{number}-{stream}"}
                for _ in range(2):
                    path = f"{base}/chat/completions"
                    found = self.post(dialect, path, json=body, headers=headers)
                    assert found.status_code == 200, found.text
                assert found.headers["idempotent-replayed"] == "true"
                self.answered.append(said)

    def converse(self) -> str:
        """Let foil talk; return what was said."""
        shown = DRIVERS["foil"].show(self.made["foil"])
        persona = self.client.get("/api/v1/sdk/personas", headers=shown).json()[0]["id"]
        base = f"/api/v1/sdk/chat/{persona}"
        player = {"user_session_id": "q", "player_name": "Alex", "player_gender": "male"}
        assert self.post("foil", f"{base}/init-session", json=player).status_code == 200
        said = self.mark(kept=True)
        body = {"user_session_id": "q", "message": said}
        assert self.post("foil", f"{base}/message", json=body).status_code == 200
        return said

    def _plans(self) -> Iterator[dict[str, Any]]:
        said = self.mark()
        yield {"status": 400, "body": {"error": {"message": f"bad: {said}", "x": KEY}}}
        yield {"fail_first": 9, "how": "500", "failing": {"said": self.mark()}}
        yield {"fail_first": 9, "how": "half", "said": self.mark()}
        yield {"tokens": 6, "die_after": 3, "piece": self.mark()}
        yield {"tokens": 4, "usage": False, "piece": self.mark()}
        yield {"tokens": 2, "error": True, "piece": self.mark()}


class Left(NamedTuple):
    """What was said, and what it left behind."""

    own: Talk
    """With the sample model."""
    others: Talk
    """With an upstream."""
    conversed: str
    """What was said in a conversation of theirs."""
    dump: str
    wal: bytes
    logs: bytes
    """Of all processes, the database's own among them."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Let everybody talk, over a database of the service's own."""
    place = tmp_path_factory.mktemp("messages")
    for parent in (place, *place.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    home = place / "k"
    with running("", home) as fleet:
        own = Talk(fleet, _house(fleet))
        own.all()
        own.play()
        own.store()
    upstream = Scripted()
    try:
        addresses = {"KEYLEDGER_UPSTREAM_URL": upstream.url, "KEYLEDGER_UPSTREAM_KEY": KEY}
        with running("", home, **addresses) as fleet:
            others = Talk(fleet, _house(fleet))
            others.fail()
            others.retry()
            conversed = others.converse()
            wal = b"".join(path.read_bytes() for path in home.rglob("pg_wal/0*"))
            url = EmbeddedPostgres(home / "postgres").url
            dumped = subprocess.run([str(binary("pg_dump")), url], capture_output=True, check=True)
            _break(url, others)
    finally:
        upstream.stop()
    logs = b"".join(path.read_bytes() for path in _logs(place))
    return Left(own, others, conversed, dumped.stdout.decode(), wal, logs)


def _house(fleet: Fleet) -> House:
    person = fleet.person(overdraft={"USD": "unlimited", "CAD": "unlimited"})
    fleet.grant(person.account_id, CREDIT="1000000", CAD="1000")
    return House(fleet, fleet.operator, person)


def _break(url: str, talk: Talk) -> None:
    """Let the database refuse rows, whose contents its error then repeats."""
    shown = DRIVERS["foil"].show(talk.made["foil"])
    persona = talk.client.get("/api/v1/sdk/personas", headers=shown).json()[0]["id"]
    base = f"/api/v1/sdk/chat/{persona}"
    player = {"user_session_id": "p", "player_name": "Alex", "player_gender": "male"}
    assert talk.post("foil", f"{base}/init-session", json=player).status_code == 200
    with psycopg.connect(url, autocommit=True, options="-c search_path=keyledger") as connection:
        connection.execute(
            "ALTER TABLE character_messages ADD CONSTRAINT nothing_fits"
            " CHECK (content = '') NOT VALID"
        )
    for path in ("message", "message/stream"):
        body = {"user_session_id": "p", "message": talk.mark()}
        talk.post("foil", f"{base}/{path}", json=body)
    talk.post("foil", f"{base}/reset", params={"user_session_id": "p"})


def _logs(place: Path) -> list[Path]:
    found = [path for path in place.rglob("*") if path.is_file() and "log" in path.name.lower()]
    return [path for path in found if "pg_" not in str(path.relative_to(place))]


def rows_by_table(dump: str) -> dict[str, str]:
    """Return the rows of every table of a dump."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in dump.splitlines():
        if line.startswith("COPY "):
            table = line.split()[1].rpartition(".")[2]
        elif line == "\\.":
            table = ""
        elif table:
            found.setdefault(table, []).append(line)
    return {table: "\n".join(lines) for table, lines in found.items()}


@pytest.mark.faults
def test_no_table_but_those_for_it_holds_a_message(left: Left) -> None:
    """Issue 3, 4: message text is never in an event, nor in any table that is not made for it."""
    tables = rows_by_table(left.dump)
    assert any(name.startswith("events") for name in tables)
    assert tables.keys() >= STORED
    elsewhere = "\n".join(rows for name, rows in tables.items() if name not in STORED)
    for talk in (left.own, left.others):
        assert len(talk.said) > 20
        for text in talk.said:
            assert text not in left.dump
            assert text.encode().hex() not in left.dump
        for text in talk.kept:
            assert text not in elsewhere
            assert text.encode().hex() not in elsewhere
    answers = [text for text in left.own.answered if len(text) >= REPLY_LEAST]
    assert answers
    for text in answers:
        assert text not in elsewhere
    # What is kept is there, or this would find nothing anywhere.
    assert sum(text in tables["character_messages"] for text in left.own.kept) >= 2
    assert sum(text in tables["gateway_resources"] for text in left.own.kept) >= 2
    assert sum(text in tables["characters"] for text in left.own.kept) == 2
    for text in left.others.answered:
        assert text.encode().hex() in tables["gateway_answers"]


@pytest.mark.faults
def test_no_wal_holds_an_answer_kept_for_a_retry(left: Left) -> None:
    """The table of such answers is unlogged: no archive or backup of the WAL gets them."""
    assert len(left.others.answered) == 2 * len(SPOKEN)
    for text in left.others.answered:
        assert text.encode() not in left.wal
    # What is logged is there, or this would find nothing anywhere.
    assert left.conversed.encode() in left.wal


@pytest.mark.faults
def test_no_log_holds_a_message(left: Left) -> None:
    """Issue 3, 4: no process writes one down, the database's own included, whatever fails."""
    assert b"request_failed" in left.logs, "a worker said that a row was refused"
    assert b"LOG:" in left.logs, "the database's own words are there"
    for talk in (left.own, left.others):
        for text in (*talk.said, *talk.kept, *talk.answered):
            if len(text) >= REPLY_LEAST:
                assert text.encode() not in left.logs


@pytest.mark.faults
def test_no_error_of_ours_repeats_a_message(left: Left) -> None:
    """A refusal names what is wrong, and does not say again what was said."""
    assert len(left.own.errors) > 50
    heard = b"\n".join(left.own.errors)
    for text in (*left.own.said, *left.own.kept):
        assert text.encode() not in heard


@pytest.mark.faults
def test_promise_11_no_secret_is_left_behind(left: Left) -> None:
    """Promise 11: of every dialect's keys, in no table, no log and no error; nor the upstream's."""
    heard = b"\n".join([*left.own.errors, *left.others.errors])
    for secret in (*left.own.made.values(), *left.others.made.values(), KEY):
        assert secret not in left.dump
        assert secret.encode() not in left.logs
        assert secret.encode() not in heard
