"""Promise 11: a secret is in the reply that shows it and in its owner's hands, nowhere else."""

import base64
import io
import json
import logging
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import psycopg
import pytest
import rig
import structlog

from api.process import logs
from ledger import codec, secrets
from ledger.secrets import REDACTED
from ledger.server.embedded import EmbeddedPostgres, binary
from tests.conftest import SEED

pytestmark = pytest.mark.processes

DIALECTS = ("reverie", "foil", "bve", "ryvion", "venice")
PASSWORD = "correct horse battery staple"
OTHER_PASSWORD = "a pass word of another member"
REFUSED_MIN = {"each": 80, "all": 300}
"""How many answers name a field, by how many of the secrets each operation is sent."""
KEPT = ("pepper", "jwt-secret")
"""Files of the data directory whose purpose is to keep a secret."""


class Run(NamedTuple):
    """What a busy service left behind."""

    sent: str
    """How many of the secrets each operation was sent: each one of them, or all."""
    home: Path
    words: bytes
    """Everything its processes wrote to stdout and stderr."""
    dump: bytes
    """Every table as text."""
    answers: bytes
    """Every reply that need not show a secret."""
    echoes: bytes
    """Replies to requests whose field names were secrets."""
    issued: list[str]
    tokens: list[str]
    operator: str
    kept: list[str]


class Listener:
    """Sends requests and keeps what came back."""

    def __init__(self, client: httpx.Client) -> None:
        """Take the operator's client."""
        self.client = client
        self.heard = io.BytesIO()
        self.echoes = io.BytesIO()
        """Answers that name a field of the caller's own invention."""

    def send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """Send a request and keep its answer."""
        return self._sent(self.heard, method, path, **parts)

    def ask(self, method: str, path: str, **parts: Any) -> None:
        """Send what a model answers; an answer may repeat what was said, an error may not."""
        answer = self.client.request(method, path, **parts)
        if answer.is_error:
            self.heard.write(repr(answer.headers.raw).encode() + answer.content + b"\n")

    def echo(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """Send a request whose field names are secrets."""
        return self._sent(self.echoes, method, path, **parts)

    def _sent(self, kept: io.BytesIO, method: str, path: str, **parts: Any) -> httpx.Response:
        answer = self.client.request(method, path, **parts)
        kept.write(repr(answer.headers.raw).encode() + answer.content + b"\n")
        return answer


@pytest.fixture(scope="module", params=["each", pytest.param("all", marks=pytest.mark.soak)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Let a service with its own database live through what secrets live through.

    Each operation is sent one of the secrets, in turn, or all of them.
    """
    place = tmp_path_factory.mktemp("secrets")
    for parent in (place, *place.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    unset = {f"KEYLEDGER_{name}": "" for name in ("ADMIN_SECRET", "PEPPER", "JWT_SECRET")}
    with rig.Service(place / "k", workers=2, **unset) as service:
        shown = re.findall(r"^ +(\S{20,})$", service.words(), re.MULTILINE)
        assert len(shown) == 1, "the operator's secret is shown once"
        with service.client(shown[0]) as client:
            listener = Listener(client)
            account = rig.open_account(
                client,
                overdraft={"USD": "unlimited"},
                owner={"email": "owner@example.com", "password": PASSWORD},
            )
            issued = [rig.issue(client, account, dialect) for dialect in DIALECTS]
            given = [key["secret"] for key in issued]
            given += _rotate(listener, issued)
            tokens = _log_in(listener, account)
            _use(listener, issued, given)
            _misuse(listener, service, given)
            given += _plant(
                listener, service, account, [shown[0], *tokens], whole=request.param == "all"
            )
            _break(listener, service, given)
        url = EmbeddedPostgres(service.home / "postgres").url
        dump = subprocess.run([str(binary("pg_dump")), url], capture_output=True, check=True)
    with service.log.open("rb") as log:
        words = log.read()
    kept = [(service.home / name).read_text() for name in KEPT]
    return Run(
        sent=request.param,
        home=service.home,
        words=words,
        dump=dump.stdout,
        answers=listener.heard.getvalue(),
        echoes=listener.echoes.getvalue(),
        issued=given,
        tokens=tokens,
        operator=shown[0],
        kept=kept,
    )


def _rotate(listener: Listener, issued: list[dict[str, Any]]) -> list[str]:
    """Rotate each key; the reply that shows the new secret is not kept."""
    made = []
    for key in issued:
        path = f"/keys/{key['key_id']}/rotate"
        made.append(
            rig.answered(listener.client.post(path, json={"grace_seconds": 3600}))["secret"]
        )
        named = {"Idempotency-Key": f"again-{key['key_id']}"}
        first = rig.answered(listener.client.post(path, json={"grace_seconds": 60}, headers=named))
        made.append(first["secret"])
        again = listener.send("POST", path, json={"grace_seconds": 60}, headers=named)
        assert again.headers["idempotent-replayed"] == "true"
        assert not rig.answered(again).get("secret")
    return made


def _log_in(listener: Listener, account: str) -> list[str]:
    """Log members in, rightly and wrongly; return the tokens."""
    member = {"email": "m@example.com", "password": OTHER_PASSWORD, "role": "member"}
    rig.answered(listener.send("POST", f"/accounts/{account}/members", json=member), 201)
    listener.send("POST", f"/accounts/{account}/members", json=member)
    listener.send("POST", "/login", json={"email": "nobody@example.com", "password": PASSWORD})
    listener.send("POST", "/login", json={"email": PASSWORD, "password": PASSWORD})
    listener.send("POST", "/login", json={"email": "m@example.com", "password": PASSWORD})
    found: list[str] = []
    for email, password in (("owner@example.com", PASSWORD), ("m@example.com", OTHER_PASSWORD)):
        body = {"email": email, "password": password}
        answer = listener.client.post("/login", json=body)
        assert answer.is_success, answer.text
        found += [answer.json()["access_token"], answer.json()["refresh_token"]]
    return found


def _use(listener: Listener, issued: list[dict[str, Any]], given: list[str]) -> None:
    """Use every secret as it is meant: record, verify, list, and after the revocation."""
    for number, secret in enumerate(given):
        body = {"model": rig.MODEL, "usage": {"input": 10}, "secret": secret}
        for turn in range(2):
            listener.send("POST", "/usage", json={**body, "request_id": f"u-{number}-{turn}"})
        listener.send("POST", "/requests", json={**body, "request_id": f"r-{number}"})
        listener.send("POST", "/keys/verify", json={"secret": secret})
    for key in issued:
        listener.send("GET", f"/keys/{key['key_id']}")
        listener.send("GET", f"/accounts/{key['account_id']}/keys")
        listener.send("GET", f"/accounts/{key['account_id']}/events")
    rig.answered(listener.send("POST", f"/keys/{issued[0]['key_id']}/revoke"))
    rig.answered(listener.send("POST", f"/keys/{issued[1]['key_id']}/suspend"))
    for number, secret in enumerate(given):
        body = {"model": rig.MODEL, "usage": {"input": 10}, "secret": secret}
        listener.send("POST", "/usage", json={**body, "request_id": f"late-{number}"})
        listener.send("POST", "/usage", json={**body, "request_id": "x" * 300})
        listener.send("POST", "/usage", json={**body, "usage": {"inputs": 1}})
        listener.send("POST", "/usage", json={**body, "model": 7})
        listener.send("POST", "/usage", json=[{**body, "request_id": f"many-{number}"}, body])
        listener.send("POST", "/keys/verify", json={"secret": secret[:-1] + "!"})
        listener.send("POST", "/keys/verify", json={"secret": [secret]})
        listener.send("POST", "/keys/verify", content=f'{{"secret": "{secret}"')


def _misuse(listener: Listener, service: rig.Service, given: list[str]) -> None:
    """Send secrets where they do not belong: paths, queries, headers, broken requests."""
    for secret in [*given, PASSWORD.replace(" ", "-")]:
        for path in (f"/keys/{secret}", f"/accounts/{secret}", f"/{secret}", f"/keys/{secret}%00"):
            listener.send("GET", path)
            listener.send("GET", path, headers={"Authorization": f"Bearer {secret}"})
        listener.send("GET", "/accounts", params={"after": secret})
        listener.send("GET", "/accounts", params={"limit": secret})
        listener.echo("GET", "/accounts", params={secret: "1"})
        listener.echo("POST", "/accounts", json={"name": "A", secret: 1})
        listener.send("DELETE", f"/keys/{secret}")
        listener.send("GET", "/accounts", headers={"Authorization": f"Basic {secret}"})
        listener.send("GET", "/accounts", headers={"Authorization": secret})
        listener.send("GET", "/accounts", headers={"Authorization": f"Bearer a.{secret}.c"})
        listener.send("POST", "/accounts", json={"name": "A"}, headers={"Idempotency-Key": b"\xe9"})
        listener.send("PATCH", f"/keys/{secret}", json={}, headers={"If-Match": secret})
        for place in ("/api/v1/models", "/v1/models", "/api/v1/api_keys", "/v1/chat/completions"):
            shown = {"Authorization": f"Bearer {secret}", "X-API-Key": secret}
            listener.send("GET", service.address + place, headers=shown)
            listener.send("POST", service.address + place, headers=shown, json={"model": secret})
        for broken in (
            f"GET /{secret} HTTP/9.9\r\n\r\n",
            f"GET /a b {secret} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization {secret}\r\n\r\n",
            f"POST /ledger/v1/usage HTTP/1.1\r\nHost: x\r\nContent-Length: x{secret}\r\n\r\n",
        ):
            listener.heard.write(_raw(service.port, broken.encode()))


WIDE = {"limits": [{"kind": "requests", "window": "day", "ceiling": "1000000"}]}
TERMS: dict[str, dict[str, Any]] = {
    "reverie": {},
    "foil": WIDE,
    "bve": {},
    "ryvion": {},
    "venice": {"settings": {"apiKeyType": "ADMIN"}},
}
FURTHER = ("user", "service_tier", "stop", "metadata", "previous_response_id", "input", "voice")
"""Fields that inference takes and no schema names."""


def _plant(
    listener: Listener, service: rig.Service, account: str, others: list[str], *, whole: bool
) -> list[str]:
    """Send secrets as every text that any documented route takes; return those of new keys."""
    made = [rig.issue(listener.client, account, name, **TERMS[name]) for name in DIALECTS]
    ids = {"account_id": account, "key_id": made[0]["key_id"]}
    operator = listener.client.headers["Authorization"]
    native = listener.client.get(f"{service.address}/openapi.json").json()
    for turns in _turns([made[0]["secret"], *others[:3]], whole=whole):
        _plant_in(listener, service, native, ids, turns, operator)
    for name, key in zip(DIALECTS, made, strict=True):
        document = listener.client.get(f"{service.address}/openapi/{name}.json").json()
        shown = operator if name == "bve" else f"Bearer {key['secret']}"
        for turns in _turns([key["secret"], others[0]], whole=whole):
            _plant_in(listener, service, document, ids, turns, shown)
        own = f"Bearer {key['secret']}"
        # With its own key as the model: the oldest leak of them all.
        chat = {"model": key["secret"], "messages": [{"role": "user", "content": "Hello"}]}
        for path in ("/v1/chat/completions", "/api/v1/chat/completions"):
            headers = {"Authorization": own}
            listener.send("POST", service.address + path, json=chat, headers=headers)
    return [key["secret"] for key in made]


def _turns(known: list[str], *, whole: bool) -> list[Iterator[str]]:
    """Return which secret each operation is sent, once over all operations or once per secret."""
    if whole:
        return [repeat(secret) for secret in known]
    chance = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    return [cycle(chance.sample(known, len(known)))]


def _plant_in(  # noqa: PLR0917
    listener: Listener,
    service: rig.Service,
    document: dict[str, Any],
    ids: dict[str, str],
    turns: Iterator[str],
    authorization: str,
) -> None:
    headers = {"Authorization": authorization}
    for path, operations in document["paths"].items():
        names = re.findall(r"{(\w+)}", path)
        real = {name: ids.get(name, "1") for name in names}
        for method, operation in operations.items():
            secret = next(turns)
            for filled in ({**real, name: quote(secret, safe="")} for name in names):
                url = service.address + path.format(**filled)
                listener.send(method, url, json={}, headers=headers)
            if "requestBody" not in operation:
                continue
            content = operation["requestBody"]["content"].get("application/json", {})
            url = service.address + path.format(**real)
            is_open = "properties" not in _resolved(document, content.get("schema") or {})
            send = listener.ask if is_open else listener.send
            for number, body in enumerate(planted(document, content, ids, secret)):
                # With the header an answer is kept for its retry, and a change's reply for good.
                once = {"Idempotency-Key": f"{url} {number}"[-200:]} if number % 2 else {}
                send(method, url, json=body, headers={**headers, **once})


def planted(
    document: dict[str, Any], content: dict[str, Any], ids: dict[str, str], secret: str
) -> Iterator[Any]:
    """Yield a route's example with a secret in each place that takes a text."""
    example = content.get("example") or {}
    if isinstance(example, dict):
        example = {**example, **{name: ids[name] for name in ids.keys() & example.keys()}}
        # A secret takes the place of an id, so that the request is somebody's.
        example.pop("secret", None)
    schema = content.get("schema") or {}
    yield from _planted(document, schema, example, secret, 4)
    if isinstance(example, dict) and "properties" not in _resolved(document, schema):
        for name in (*example, *FURTHER):
            yield {**example, name: secret}
            yield {**example, name: {"k": secret, secret: "v"}}
            yield {**example, name: [secret]}


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _planted(
    document: dict[str, Any], schema: dict[str, Any], example: Any, secret: str, depth: int
) -> Iterator[Any]:
    schema = _resolved(document, schema)
    if not depth:
        return
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _planted(document, each, example, secret, depth)
    kind = schema.get("type", "string" if not schema else "")
    if kind == "string":
        yield secret
        yield f"x {secret}"
    if kind == "array":
        items = schema.get("items") or {}
        yield from ([v] for v in _planted(document, items, None, secret, depth - 1))
    if kind == "object":
        whole = example if isinstance(example, dict) else {}
        for name, part in schema.get("properties", {}).items():
            values = _planted(document, part, whole.get(name), secret, depth - 1)
            yield from ({**whole, name: value} for value in values)
        further = schema.get("additionalProperties")
        if isinstance(further, dict):
            yield {secret: "1"}
            yield from ({"a": v} for v in _planted(document, further, None, secret, depth - 1))


def _raw(port: int, sent: bytes) -> bytes:
    """Send bytes that are no request and give what comes back."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        heard = b""
        try:
            while part := line.recv(4096):
                heard += part
        except OSError:
            pass
        return heard


def _break(listener: Listener, service: rig.Service, given: list[str]) -> None:
    """Use secrets while the database dies, so that errors are logged."""
    server = EmbeddedPostgres(service.home / "postgres")
    pid = server._postmaster()
    assert pid is not None
    rig.end(pid)
    for number, secret in enumerate(given):
        body = {"model": rig.MODEL, "usage": {"input": 10}, "secret": secret}
        listener.send("POST", "/usage", json={**body, "request_id": f"down-{number}"})
    listener.send("POST", "/login", json={"email": "m@example.com", "password": OTHER_PASSWORD})
    rig.until(service.is_ready, within=30)
    # A statement that fails is written to the server's own log: with nothing of ours in it.
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE keyledger.key_secrets CASCADE")
    listener.send("POST", "/keys/verify", json={"secret": given[0]})
    member = {"email": "z@example.com", "password": OTHER_PASSWORD, "name": "Z"}
    listener.send("POST", "/accounts", json={"name": "Z", "owner": member})


def forms(secret: str) -> list[bytes]:
    """Return the ways in which a secret may be written down."""
    whole = secret.encode()
    body = re.sub(r"^(?:rk_|ryv_|VENICE_\w+_KEY_|pk_live_|sk-bve-|admin_)", "", secret).encode()
    return [
        whole,
        body,
        quote(secret, safe="").encode(),
        whole.hex().encode(),
        base64.b64encode(whole).rstrip(b"=")[:-1],
    ]


def leaks(text: bytes, secret: str) -> list[str]:
    """Return what surrounds a secret in a text."""
    found = []
    for form in forms(secret):
        place = text.find(form)
        if place >= 0:
            found.append(repr(text[max(0, place - 120) : place + len(form) + 40]))
    return found


@pytest.mark.faults
def test_no_answer_shows_a_secret_again(run: Run) -> None:
    """Promise 11: but for the reply that made it, no reply holds a secret or a password."""
    known = [*run.issued, *run.tokens, PASSWORD, OTHER_PASSWORD, run.operator, *run.kept]
    for secret in known:
        assert leaks(run.answers, secret) == []


@pytest.mark.faults
def test_what_holds_a_secret_is_refused_by_name(run: Run) -> None:
    """Promise 11: the answer names the field; so many were tried that no door was left out."""
    refused = run.answers.count(codec.IS_SECRET.encode())
    assert refused > REFUSED_MIN[run.sent], refused


@pytest.mark.faults
def test_no_error_repeats_a_secret(run: Run) -> None:
    """Promise 11: an error that names what was sent does not name a secret."""
    for secret in run.issued:
        assert leaks(run.echoes, secret) == []


@pytest.mark.faults
def test_no_log_line_holds_a_secret(run: Run) -> None:
    """Promise 11: not on stdout, not on stderr, of no process, however the request was broken."""
    for secret in [*run.issued, *run.tokens, PASSWORD, OTHER_PASSWORD, *run.kept]:
        assert leaks(run.words, secret) == []
    assert run.words.count(run.operator.encode()) == 1, "shown once, when it was made"


@pytest.mark.faults
def test_no_table_holds_a_secret(run: Run) -> None:
    """Promise 11, G7: a dump of every table gives away nothing that opens anything."""
    assert b"COPY keyledger.events" in run.dump
    everything = [*run.issued, *run.tokens, PASSWORD, OTHER_PASSWORD, run.operator, *run.kept]
    for secret in everything:
        assert leaks(run.dump, secret) == []
    assert not secrets.is_in(run.dump.decode())


@pytest.mark.faults
def test_no_file_of_the_data_directory_holds_a_secret(run: Run) -> None:
    """Promise 11: not in tables, indexes, the write-ahead log or the server's log, as bytes."""
    files = [path for path in run.home.rglob("*") if path.is_file() and path.name not in KEPT]
    assert any("pg_wal" in path.parts for path in files)
    everything = [*run.issued, *run.tokens, PASSWORD, OTHER_PASSWORD, run.operator, *run.kept]
    needles = re.compile(b"|".join(re.escape(secret.encode()) for secret in everything))
    for path in files:
        assert not needles.search(path.read_bytes()), path
    for name in KEPT:
        assert (run.home / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("form", secrets.FORMATS)
def test_a_log_line_hides_every_secret(
    form: secrets.Format, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise 11: in words, in fields, in their names, deep inside, in the trace of an error."""
    secret = secrets.generate(form)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure()
        log = structlog.get_logger("test")
        try:
            raise ValueError(f"bad key {secret}")  # noqa: TRY301 - to be logged
        except ValueError:
            log.exception("failed", header=f"Bearer {secret}", deep={secret: [{"x": secret}]})
        logging.getLogger("library").warning("seen %s in %r", secret, {"key": secret})
        log.info(f"GET /keys/{secret}?again={secret}", body=secret.encode())  # noqa: G004
    finally:
        root.handlers[:], root.level = before, level
        structlog.reset_defaults()
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 3
    assert all(json.loads(line) for line in written.splitlines())
    assert secret not in written
    assert written.count(REDACTED) >= 8
