"""An ``Idempotency-Key`` at the gateway: one request, one charge, the same answer to every retry.

Two worker processes before an upstream that does what it is told. Each test makes up keys of its
own, so they do not meet.
"""

import asyncio
import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from api.gateway import answers, once
from api.gateway.answers import Answers
from ledger.server import database
from tests.conftest import Served, settings_for
from tests.dialects.fleet import Fleet, Line, lines, running
from tests.dialects.test_conformance import DRIVERS, House
from tests.faults.rig import ROOT, TLS, end, until
from tests.gateway.book import Booked, ended
from tests.gateway.caller import Caller
from tests.gateway.scripted import INPUT, KEY, PIECE, Scripted
from tests.gateway.truthful import VOICES

pytestmark = pytest.mark.processes

CHAT = "/v1/chat/completions"
MODEL = "keyledger-small"
CONCURRENT = 200
SPENT = re.compile(r"used by request (req_[0-9a-f]{32}), charged (\S+) CAD")
OF_THE_MOMENT = re.compile(r"(x-)?ratelimit|x-venice-balance")
_numbers = itertools.count(1)


def fresh() -> str:
    """Make up an idempotency key."""
    return f"key-{next(_numbers)}"


def chat(plan: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Write a chat completion that goes as planned."""
    return {"model": MODEL, "messages": [{"role": "user", "content": json.dumps(plan)}], **more}


def bearer(secret: str, key: str = "") -> dict[str, str]:
    """Show a secret, and an idempotency key where there is one."""
    shown = {"Authorization": f"Bearer {secret}"}
    return {**shown, "Idempotency-Key": key} if key else shown


class Service:
    """The workers, their upstream, and somebody with credit."""

    def __init__(self, upstream: Scripted, fleet: Fleet, url: str) -> None:
        """Take them."""
        self.upstream = upstream
        self.fleet = fleet
        self.url = url
        self.person = fleet.person(overdraft={"USD": "unlimited"})
        fleet.grant(self.person.account_id, CAD="1000", CREDIT="1000000")
        self.house = House(fleet, fleet.operator, self.person)
        self.key_id, self.secret = self.key()

    def key(self, dialect: str = "ryvion", **terms: Any) -> tuple[str, str]:
        """Issue a key of the account; return its id and its secret."""
        path = f"/ledger/v1/accounts/{self.person.account_id}/keys"
        made = self.fleet.operator.post(path, json={"name": "bot", "dialect": dialect, **terms})
        assert made.status_code == 201, made.text
        return made.json()["key_id"], made.json()["secret"]

    @cached_property
    def lines(self) -> Sequence[Line]:
        """Return a connection to each worker."""
        return lines(self.fleet, 1)

    def post(self, body: Any, key: str, *, to: int | None = None, **more: Any) -> httpx.Response:
        """Ask for a chat completion, of a worker where one is named."""
        headers = bearer(more.pop("secret", self.secret), key)
        client = self.fleet.operator if to is None else self.lines[to].client
        return client.post(more.pop("path", CHAT), json=body, headers=headers, **more)

    def again(self, caller: Caller, key: str) -> httpx.Response:
        """Ask what a caller has asked, byte for byte."""
        headers = {**bearer(self.secret, key), "Content-Type": "application/json"}
        path = VOICES[caller.kind].path
        return self.fleet.operator.post(path, content=caller.asked, headers=headers)

    def settled(self, request_id: str) -> Booked:
        """Return the one ending of a request, which charges it."""
        found = ended(self.url, request_id)
        assert found.ending == "settled"
        return found

    def rows(self, sql: str = "SELECT count(*) FROM keyledger.gateway_answers") -> Any:
        """Ask the database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []


@pytest.fixture(scope="module")
def service(
    upstream: Scripted, dialects_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Serve for the module."""
    home = tmp_path_factory.mktemp("once") / "k"
    addresses = {"KEYLEDGER_UPSTREAM_URL": upstream.url, "KEYLEDGER_UPSTREAM_KEY": KEY}
    with running(dialects_url, home, workers=2, **addresses) as fleet:
        yield Service(upstream, fleet, dialects_url)


def request_id(found: httpx.Response) -> str:
    """Return the id that a reply names; bve writes it in its own way."""
    said = found.headers["x-request-id"]
    return said if said.startswith("req_") else f"req_{said.replace('-', '')}"


ROUTES: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("reverie", "/api/device/v1/chat/completions", {"model": "", "messages": 1}),
    ("bve", CHAT, {"model": MODEL, "messages": 1}),
    ("bve", "/v1/completions", {"model": MODEL, "prompt": "Hi"}),
    ("bve", "/v1/embeddings", {"model": "keyledger-embedding", "input": "Hi"}),
    ("bve", "/v1/responses", {"model": MODEL, "input": "Hi"}),
    ("ryvion", CHAT, {"model": MODEL, "messages": 1}),
    ("ryvion", "/v1/messages", {"model": MODEL, "messages": 1, "max_tokens": 99}),
    ("ryvion", "/v1/responses", {"model": MODEL, "input": "Hi"}),
    ("ryvion", "/v1/embeddings", {"model": "keyledger-embedding", "input": "Hi"}),
    ("ryvion", "/api/v1/memories", {"text": "Ada likes tables."}),
    ("venice", "/api/v1/chat/completions", {"model": MODEL, "messages": 1}),
    ("venice", "/api/v1/embeddings", {"model": "keyledger-embedding", "input": "Hi"}),
)
STREAMED = ("reverie", "bve", "ryvion", "venice")


def body_of(service: Service, form: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Fill a form in."""
    body = dict(form, **more)
    if body.get("model") == "":
        body["model"] = service.house.character
    if "messages" in body:
        body["messages"] = [{"role": "user", "content": "Hi"}]
    return body


@pytest.mark.parametrize(("dialect", "path", "form"), ROUTES)
def test_a_retry_at_another_worker_gets_the_same_answer(
    service: Service, dialect: str, path: str, form: Mapping[str, Any]
) -> None:
    """On every dialect: status, headers, body and request id; the upstream is asked once."""
    secret = service.key(dialect)[1]
    headers = {**DRIVERS[dialect].show(secret), "Idempotency-Key": fresh()}
    body = body_of(service, form)
    first, second = (line.client.post(path, json=body, headers=headers) for line in service.lines)
    assert first.status_code < 300, first.text
    assert "idempotent-replayed" not in first.headers
    assert second.headers.pop("idempotent-replayed") == "true"
    _alike(first, second)
    assert service.upstream.calls[request_id(first)] == 1


@pytest.mark.parametrize("dialect", STREAMED)
def test_a_stream_is_given_again_as_a_stream(service: Service, dialect: str) -> None:
    """Byte for byte, with its type and without a length."""
    form = next(form for name, path, form in ROUTES if name == dialect and "chat" in path)
    path = next(path for name, path, _ in ROUTES if name == dialect and "chat" in path)
    secret = DRIVERS[dialect].create(service.house).secret
    headers = {**DRIVERS[dialect].show(secret), "Idempotency-Key": fresh()}
    body = body_of(service, form, stream=True)
    first, second = (line.client.post(path, json=body, headers=headers) for line in service.lines)
    assert first.text.count(PIECE) == 4
    assert first.text.endswith("data: [DONE]\n\n")
    assert second.headers.pop("idempotent-replayed") == "true"
    assert second.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in second.headers
    _alike(first, second)
    assert service.settled(request_id(first)).output == 4


def _alike(first: httpx.Response, second: httpx.Response) -> None:
    assert second.status_code == first.status_code
    assert second.content == first.content
    one, other = (dict(each.headers) for each in (first, second))
    one.pop("date"), other.pop("date")
    assert {name: text for name, text in one.items() if not OF_THE_MOMENT.match(name)} == other


@pytest.mark.parametrize("path", ["message", "message/stream"])
def test_a_persona_hears_and_answers_once(service: Service, path: str) -> None:
    """foil: a message sent twice stands once in the conversation, and its events come again."""
    shown = DRIVERS["foil"].show(DRIVERS["foil"].create(service.house).secret)
    headers = {**shown, "Idempotency-Key": fresh()}
    body = {"message": "Hi", "user_session_id": "player-001"}
    url = f"{service.house.talk}/{path}"
    first, second = (line.client.post(url, json=body, headers=headers) for line in service.lines)
    assert first.status_code == 200, first.text
    assert second.headers.pop("idempotent-replayed") == "true"
    _alike(first, second)
    assert "Hi" in _history(service, shown)[-2]["content"]
    said = _history(service, shown)
    third = service.lines[0].client.post(url, json=body, headers=headers)
    assert third.content == first.content
    assert _history(service, shown) == said


def _history(service: Service, shown: Mapping[str, str]) -> list[Any]:
    query = {"user_session_id": "player-001"}
    found = service.fleet.operator.get(
        f"{service.house.talk}/history", params=query, headers=dict(shown)
    )
    messages: list[Any] = found.json()["messages"]
    return messages


def test_a_call_that_is_counted_here_counts_once(service: Service) -> None:
    """foil: a call that talks to no model is recorded in one step, and once as well."""
    shown = DRIVERS["foil"].show(DRIVERS["foil"].create(service.house).secret)
    headers = {**shown, "Idempotency-Key": fresh()}
    found = [line.client.get("/api/v1/sdk/personas", headers=headers) for line in service.lines]
    assert found[1].headers.pop("idempotent-replayed") == "true"
    _alike(*found)
    rows = service.rows(
        "SELECT count(*) FROM keyledger.events WHERE payload ->> 'request_id'"
        f" = '{request_id(found[0])}'"
    )
    assert rows == [(1,)]


def test_the_second_waits_for_the_first(service: Service) -> None:
    """Asked at the other worker while the first is under way, it gets the first's answer."""
    key, body = fresh(), chat({"tokens": 5, "pause": 0.2}, stream=True)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.post, body, key, to=0)
        time.sleep(0.3)
        second = pool.submit(service.post, body, key, to=1)
        time.sleep(0.2)
        assert not first.done()
        assert not second.done()
        one, other = first.result(), second.result()
    assert other.headers.pop("idempotent-replayed") == "true"
    _alike(one, other)
    assert service.upstream.calls[request_id(one)] == 1
    assert service.settled(request_id(one)).output == 5


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_client_that_leaves_does_not_end_the_answer(service: Service, how: str) -> None:
    """It is read to its end, charged whole, unflagged; the retry gets all of it, byte for byte."""
    key, plan = fresh(), {"tokens": 8, "pause": 0.1}
    caller = Caller(service.fleet.service.port, service.secret, idempotency_key=key)
    caller.ask("chat", plan, stream=True).read(pieces=2)
    begun = caller.body
    caller.leave(how)
    again = service.again(caller, key)
    assert again.status_code == 200, again.text
    assert again.content.startswith(begun)
    assert again.text.count(PIECE) == 8
    assert again.text.endswith("data: [DONE]\n\n")
    assert request_id(again) == caller.request_id
    found = service.settled(caller.request_id)
    assert found.usage == {"input": INPUT, "output": 8}
    assert found.flags == ()
    assert service.upstream.calls[caller.request_id] == 1


def test_a_client_that_reads_nothing_does_not_hold_the_answer_up(service: Service) -> None:
    """The upstream ends in its own time, and another connection gets the answer."""
    key, plan = fresh(), {"tokens": 60, "piece": "x" * 60_000}
    caller = Caller(
        service.fleet.service.port, service.secret, receive_bytes=4_096, idempotency_key=key
    )
    caller.ask("chat", plan, stream=True)
    again = service.again(caller, key)
    assert again.status_code == 200, again.text
    assert len(again.content) > 60 * 60_000
    assert service.settled(request_id(again)).flags == ()
    caller.leave()


def test_an_answer_too_large_to_keep_is_named(service: Service) -> None:
    """It is passed on and charged whole; the retry is told which request was charged what."""
    key = fresh()
    body = chat({"tokens": 150, "piece": "x" * 60_000}, stream=True)
    first = service.post(body, key)
    assert first.text.endswith("data: [DONE]\n\n")
    again = service.post(body, key)
    assert again.status_code == 409
    assert SPENT.search(again.text)[1] == request_id(first)  # type: ignore[index]


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_hears_the_bound_and_not_where_limits_stood(
    service: Service, *, stream: bool
) -> None:
    """The bound is of the answer; what was left of limits is of a moment that is over."""
    rules = [{"kind": "requests", "window": "day", "ceiling": "9"}]
    _, secret = service.key(limits=rules)
    key, body = fresh(), chat({"within": 3}, stream=stream)
    first = service.post(body, key, secret=secret)
    again = service.post(body, key, secret=secret)
    assert first.headers["x-ratelimit-remaining-requests"] == "8"
    assert again.headers["idempotent-replayed"] == "true"
    bound = again.headers["keyledger-output-bound"]
    assert bound == first.headers["keyledger-output-bound"]
    assert not [name for name in again.headers if "ratelimit" in name]
    other = service.post(body, fresh(), secret=secret)
    assert other.headers["x-ratelimit-remaining-requests"] == "7"


def test_another_request_under_the_same_key_is_refused(service: Service) -> None:
    """Another body, query or thing in the path is another request: 409, and nothing is charged."""
    key = fresh()
    first = service.post(chat({"tokens": 3}), key, to=0)
    for line, body, path in (
        (1, chat({"tokens": 4}), CHAT),
        (1, chat({"tokens": 3}), f"{CHAT}?a=b"),
        (0, chat({"tokens": 3}, stream=True), CHAT),
    ):
        found = service.post(body, key, to=line, path=path)
        assert found.status_code == 409, found.text
        assert found.json()["error"]["code"] == "conflict"
        assert found.headers["x-should-retry"] == "false"
    assert service.post(chat({"tokens": 3}), key).content == first.content


def test_another_thing_in_the_path_is_another_request(service: Service) -> None:
    """A route without a body is told apart by what its path names."""
    headers = bearer(service.secret, fresh())
    found = [
        service.fleet.operator.get(f"/v1/models/{model}", headers=headers)
        for model in ("one", "one", "two")
    ]
    assert [each.status_code for each in found] == [200, 200, 409]


def test_keys_and_routes_are_apart(service: Service) -> None:
    """The same text under another key, or on another route, is another request."""
    key, body = fresh(), chat({"tokens": 3})
    _, other = service.key()
    found = [
        service.post(body, key),
        service.post(body, key, secret=other),
        service.post({**body, "max_tokens": 9}, key, path="/v1/messages"),
    ]
    assert [each.status_code for each in found] == [200, 200, 200]
    assert len({request_id(each) for each in found}) == 3


def test_a_form_sent_again_may_have_another_boundary(service: Service) -> None:
    """Clients make one up each time they write a form."""
    headers = bearer(service.secret)
    base = service.fleet.operator.post(
        "/api/v1/knowledge-bases", json={"name": "Handbook"}, headers=headers
    ).json()
    headers["Idempotency-Key"] = fresh()
    path = f"/api/v1/knowledge-bases/{base.get('id', 'kb')}/documents"
    bodies = [
        service.fleet.operator.post(path, files={"file": ("a.txt", text)}, headers=headers)
        for text in (b"one", b"one", b"two")
    ]
    assert [each.status_code for each in bodies] == [200, 200, 409]
    assert bodies[1].headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "x" * 256, "é", '""'])
def test_a_malformed_key_is_refused(service: Service, key: str) -> None:
    """1 to 255 printable ASCII characters, bare or quoted: else 400, in the dialect's words."""
    headers = {**bearer(service.secret), "Idempotency-Key": key.encode("latin-1")}
    found = service.fleet.operator.post(CHAT, json=chat({}), headers=headers)
    assert found.status_code == 400
    assert "Idempotency-Key" in found.json()["error"]["message"]


def test_without_the_header_nothing_changes(service: Service) -> None:
    """No row is written, ids are new each time, and a client that leaves ends the answer."""
    before = service.rows()
    found = [service.post(chat({"tokens": 3}), "") for _ in range(2)]
    assert len({request_id(each) for each in found}) == 2
    caller = Caller(service.fleet.service.port, service.secret)
    caller.ask("chat", {"tokens": 2_000, "pause": 0.05}, stream=True).read(pieces=2).leave()
    assert "interrupted" in service.settled(caller.request_id).flags
    assert service.rows() == before


def test_a_key_that_ended_does_not_hear_what_is_kept(service: Service) -> None:
    """Promise 6: revocation bites on the next request, also where its answer is there already."""
    key_id, secret = service.key()
    key, body = fresh(), chat({"tokens": 3})
    assert service.post(body, key, secret=secret, to=0).status_code == 200
    service.fleet.operator.post(f"/ledger/v1/keys/{key_id}/revoke")
    for asked in (body, chat({"tokens": 4})):
        found = service.post(asked, key, secret=secret, to=1)
        assert found.status_code == 401, found.text
        assert PIECE not in found.text


def test_what_was_not_charged_may_be_asked_again(service: Service) -> None:
    """An upstream that fails before output releases the request: the retry is made anew, once."""
    key = fresh()
    body = chat({"tokens": 3, "fail_first": 6, "how": "500", "mark": key})
    found = [service.post(body, key, to=number % 2) for number in range(5)]
    assert [each.status_code for each in found] == [502, 502, 502, 200, 200]
    ids = [request_id(each) for each in found]
    assert ids[4] == ids[3]
    assert len(set(ids)) == 4
    endings = [ended(service.url, each).ending for each in ids]
    assert endings == ["released", "released", "released", "settled", "settled"]
    assert service.upstream.marks[key] == 7


def test_a_refused_request_may_be_asked_again(service: Service) -> None:
    """A refusal of the ledger charges nothing and is not kept: with credit the same key works."""
    person = service.fleet.person()
    path = f"/ledger/v1/accounts/{person.account_id}/keys"
    made = service.fleet.operator.post(path, json={"name": "b", "dialect": "ryvion"}).json()
    key, body = fresh(), chat({"tokens": 3})
    refused = service.post(body, key, secret=made["secret"])
    assert refused.status_code == 402, refused.text
    service.fleet.grant(person.account_id, CAD="1")
    found = service.post(body, key, secret=made["secret"])
    assert found.status_code == 200
    assert service.settled(request_id(found)).output == 3


def test_an_upstream_that_dies_midway_is_charged_once(service: Service) -> None:
    """What came is charged, and the retry gets what came, its error event included."""
    key, body = fresh(), chat({"tokens": 6, "die_after": 3}, stream=True)
    first, second = (service.post(body, key, to=number) for number in range(2))
    assert first.text.count(PIECE) == 3
    assert '"error"' in first.text
    assert second.content == first.content
    assert service.settled(request_id(first)).output == 3
    assert service.upstream.calls[request_id(first)] == 1


def test_many_at_once_are_charged_once(service: Service) -> None:
    """200 equal requests on 200 connections: one is made, the others get its answer or 409."""
    key, body = fresh(), chat({"tokens": 4, "pause": 0.1}, stream=True)
    gate = threading.Barrier(CONCURRENT)

    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=service.fleet.url, timeout=60, verify=TLS) as client:
            client.get("/health/live")
            gate.wait()
            return client.post(CHAT, json=body, headers=bearer(service.secret, key))

    before = _spent(service)
    with ThreadPoolExecutor(CONCURRENT) as pool:
        found = list(pool.map(ask, range(CONCURRENT)))
    good = [each for each in found if each.status_code == 200]
    others = [each for each in found if each.status_code != 200]
    assert len({each.content for each in good}) == 1
    (only,) = {request_id(each) for each in good}
    assert len(good) > CONCURRENT // 3
    for each in others:
        assert each.json()["error"]["code"] == "in_progress"
        assert int(each.headers["retry-after"]) > 0
    assert service.upstream.calls[only] == 1
    assert _spent(service) - before == Decimal(service.settled(only).charge)


def _spent(service: Service) -> Decimal:
    found = service.fleet.operator.get(f"/ledger/v1/accounts/{service.person.account_id}/balances")
    (mine,) = [each for each in found.json()["balances"] if each["asset"] == "CAD"]
    return 1000 - Decimal(mine["balance"])


def test_an_emptied_table_charges_nothing_again(service: Service) -> None:
    """An unlogged table is empty after a crash: the ledger alone remembers, under way and after."""
    key, body = fresh(), chat({"tokens": 6, "pause": 0.2}, stream=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.post, body, key, to=0)
        time.sleep(0.5)
        service.rows("TRUNCATE keyledger.gateway_answers")
        meanwhile = service.post(body, key, to=1)
        assert not first.done()
        one = first.result()
    assert meanwhile.status_code == 409
    assert meanwhile.json()["error"]["code"] == "in_progress"
    assert one.text.endswith("data: [DONE]\n\n")
    assert service.post(body, key, to=1).content == one.content
    service.rows("TRUNCATE keyledger.gateway_answers")
    for asked in (body, chat({"tokens": 9})):
        again = service.post(asked, key, to=1)
        assert again.status_code == 409
        charge = service.settled(request_id(one)).charge
        assert SPENT.search(again.text).groups() == (request_id(one), charge)  # type: ignore[union-attr]
        assert request_id(again) == request_id(one)
    assert service.upstream.calls[request_id(one)] == 1


def test_a_claim_taken_over_charges_nothing_any_more(service: Service) -> None:
    """Where the first was only thought dead, the ledger refuses its end: one request is charged."""
    key, body = fresh(), chat({"tokens": 8, "pause": 0.2}, stream=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.post, body, key, to=0)
        time.sleep(0.4)
        service.rows("UPDATE keyledger.gateway_answers SET until = '2020-01-01' WHERE head IS NULL")
        second = service.post(body, key, to=1)
        one = first.result()
    assert second.status_code == 200
    assert "idempotent-replayed" not in second.headers
    assert request_id(one) != request_id(second)
    assert service.settled(request_id(second)).output == 8
    assert ended(service.url, request_id(one)).ending == "released"
    assert service.post(body, key).content == second.content


SHORT = (
    {"KEYLEDGER_IDEMPOTENCY_SECONDS": "1"},
    {"KEYLEDGER_IDEMPOTENCY_SECONDS": "0"},
    {"KEYLEDGER_RETENTION_DAYS": "0"},
)


@pytest.mark.parametrize("setting", SHORT, ids=lambda each: "=".join(*each.items()))
def test_what_is_not_kept_is_named_and_never_charged_again(
    service: Service, tmp_path: Path, setting: Mapping[str, str]
) -> None:
    """After the answer's time, or where none stands at all: 409 with the request and its charge."""
    environment = {"KEYLEDGER_UPSTREAM_URL": service.upstream.url, **setting}
    kept = setting.get("KEYLEDGER_IDEMPOTENCY_SECONDS") == "1"
    with running(service.url, tmp_path / "k", **environment) as fleet:
        key, body = fresh(), chat({"tokens": 3}, stream=True)
        headers = bearer(service.secret, key)
        first = fleet.operator.post(CHAT, json=body, headers=headers)
        assert first.status_code == 200
        again = fleet.operator.post(CHAT, json=body, headers=headers)
        assert again.status_code == (200 if kept else 409)
        if kept:
            assert again.content == first.content
        else:
            rows = "SELECT count(*) FROM keyledger.gateway_answers WHERE request_id = "
            assert service.rows(f"{rows} '{request_id(first)}'") == [(0,)]
        time.sleep(1.2 if kept else 0)
        for asked in (body, chat({"tokens": 4})):
            late = fleet.operator.post(CHAT, json=asked, headers=headers)
            assert late.status_code == 409
            charge = service.settled(request_id(first)).charge
            assert SPENT.search(late.text).groups() == (request_id(first), charge)  # type: ignore[union-attr]
    # After a restart, and in another process, it is the same.
    late = service.post(body, key)
    assert SPENT.search(late.text)[1] == request_id(first)  # type: ignore[index]
    assert service.upstream.calls[request_id(first)] == 1


class Cutting:
    """A way to the service that is cut once, after so many bytes of what comes back."""

    def __init__(self, port: int, *, after: int) -> None:
        """Listen."""
        self._after: int | None = after
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=_pass, args=(near, far, None), daemon=True).start()
                back = (far, near, self._after)
                threading.Thread(target=_pass, args=back, daemon=True).start()
                self._after = None

    def stop(self) -> None:
        """End."""
        self._listener.close()


def _pass(here: socket.socket, there: socket.socket, left: int | None) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65_536):
            there.sendall(data[:left])
            left = None if left is None else left - len(data)
            if left is not None and left <= 0:
                break
    for each in (here, there):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@pytest.fixture
def cut(service: Service) -> Iterator[Callable[[int], openai.OpenAI]]:
    """Yield OpenAI's own client behind a connection that is cut once."""
    made: list[Cutting] = []

    def client(after: int) -> openai.OpenAI:
        made.append(Cutting(service.fleet.service.port, after=after))
        return openai.OpenAI(base_url=made[-1].url, api_key=service.secret)

    yield client
    for each in made:
        each.stop()


def _messages(plan: Mapping[str, Any]) -> Any:
    return chat(plan)["messages"]


def test_openai_retries_a_cut_answer_and_is_charged_once(
    service: Service, cut: Callable[[int], openai.OpenAI]
) -> None:
    """The client sends the header again by itself where no answer came, and gets the first's."""
    key = fresh()
    with cut(1) as client:
        found = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=_messages({"tokens": 5, "mark": key}),
            extra_headers={"Idempotency-Key": key},
        )
    assert found.headers["idempotent-replayed"] == "true"
    assert found.parse().choices[0].message.content == PIECE * 5
    assert service.upstream.marks[key] == 1
    assert service.settled(found.headers["x-request-id"]).output == 5


def test_openai_asks_again_for_a_cut_stream_and_is_charged_once(
    service: Service, cut: Callable[[int], openai.OpenAI]
) -> None:
    """Cut midway, the caller repeats the call with the header and reads all of it."""
    key, ids, texts = fresh(), set[str](), list[str]()
    with cut(1_000) as client:
        for _ in range(2):
            heard: list[str] = []
            with contextlib.suppress(httpx2.HTTPError, openai.APIError):
                found = client.chat.completions.with_raw_response.create(
                    model=MODEL,
                    messages=_messages({"tokens": 20, "pause": 0.05, "mark": key}),
                    stream=True,
                    extra_headers={"Idempotency-Key": key},
                )
                ids.add(found.headers["x-request-id"])
                heard.extend(
                    piece.choices[0].delta.content or "" for piece in found.parse() if piece.choices
                )
            texts.append("".join(heard))
    assert texts[0] != texts[1] == PIECE * 20
    (only,) = ids
    assert service.upstream.marks[key] == 1
    assert service.settled(only).usage == {"input": INPUT, "output": 20}


@pytest.fixture(scope="module")
def near(
    upstream: Scripted, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve in this process, over the same database."""
    home = tmp_path_factory.mktemp("near")
    settings = settings_for(home, upstream_url=upstream.url, upstream_key=KEY)
    found = Served(settings, service.url).start()
    yield found
    found.stop()


@pytest.mark.parametrize(("name", "most"), [("WAIT_SECONDS", 0.3), ("WAITING_OF_ONE_MAX", 0)])
def test_waiting_is_bounded_in_time_and_number(
    service: Service, near: Served, monkeypatch: pytest.MonkeyPatch, name: str, most: Any
) -> None:
    """Who would wait too long, or with too many, gets 409 ``in_progress`` that says when to ask."""
    monkeypatch.setattr(once if name == "WAIT_SECONDS" else answers, name, most)
    key, body = fresh(), chat({"tokens": 8, "pause": 0.2}, stream=True)
    headers = bearer(service.secret, key)
    with ThreadPoolExecutor(2) as pool, near.client(service.secret) as client:
        first = pool.submit(service.post, body, key)
        time.sleep(0.3)
        # The first that waits looks for all of them, and is there in any case.
        other = pool.submit(client.post, CHAT, json=body, headers=headers)
        time.sleep(0.1)
        second = client.post(CHAT, json=body, headers=headers)
        assert not first.done()
        assert second.status_code == 409
        assert second.json()["error"]["code"] == "in_progress"
        assert second.headers["retry-after"] == "2"
        assert first.result().status_code == 200
        assert other.result().status_code == (409 if name == "WAIT_SECONDS" else 200)


def test_what_is_kept_is_bounded(
    service: Service, near: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account keeps so many answers of so many bytes; what is beyond is named to the retry."""
    service.rows("TRUNCATE keyledger.gateway_answers")
    for name, most in (("ANSWERS_MAX", 2), ("ACCOUNT_MAX", 2_000)):
        with monkeypatch.context() as patch, near.client(service.secret) as client:
            patch.setattr(answers, name, most)
            plans = [{"tokens": 100}, {"tokens": 100}, {"tokens": 200}]
            for number, plan in enumerate(plans):
                asked = {"json": chat(plan), "headers": bearer(service.secret, f"{name}-{number}")}
                assert client.post(CHAT, **asked).status_code == 200
                again = client.post(CHAT, **asked).status_code
                assert again == (200 if number < 2 else 409), (name, number)
            service.rows("TRUNCATE keyledger.gateway_answers")


def test_what_was_kept_for_long_enough_is_deleted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job deletes what is over, dead claims an hour later, and the oldest of too much."""
    service.rows("TRUNCATE keyledger.gateway_answers")
    names = [f"forget-{number}" for number in range(4)]
    for name in names:
        assert service.post(chat({"tokens": 50}), name).status_code == 200
    age = "UPDATE keyledger.gateway_answers SET until = clock_timestamp() - interval '{}'"
    ids = [row[0] for row in service.rows(_IDS)]
    service.rows(f"{age.format('1 second')} WHERE request_id = '{ids[0]}'")
    service.rows(f"{age.format('2 seconds')}, head = NULL WHERE request_id = '{ids[1]}'")

    async def run() -> None:
        info = database.conninfo(service.url, database.APP)
        kwargs = {"autocommit": True}
        async with AsyncConnectionPool(info, kwargs=kwargs, min_size=1, open=False) as pool:
            await Answers(pool, lanes=2, seconds=1).forget()

    def forget() -> list[str]:
        asyncio.run(run())
        return [row[0] for row in service.rows(_IDS)]

    assert forget() == ids[1:]
    service.rows(f"{age.format('2 hours')}, head = NULL WHERE request_id = '{ids[1]}'")
    assert forget() == ids[2:]
    monkeypatch.setattr(answers, "ALL_MAX", 600)
    assert forget() == ids[3:]


_IDS = "SELECT request_id FROM keyledger.gateway_answers ORDER BY until"


def test_a_claim_that_outlived_its_charge_is_named(service: Service) -> None:
    """A worker that died between charge and answer leaves a claim: the retry is told the charge."""
    key, body = fresh(), chat({"tokens": 3})
    first = service.post(body, key, to=0)
    service.rows(
        "UPDATE keyledger.gateway_answers SET head = NULL, body = NULL, until = '2020-01-01'"
        f" WHERE request_id = '{request_id(first)}'"
    )
    for _ in range(2):
        again = service.post(body, key, to=1)
        assert again.status_code == 409
        charge = service.settled(request_id(first)).charge
        assert SPENT.search(again.text).groups() == (request_id(first), charge)  # type: ignore[union-attr]


@pytest.mark.faults
def test_a_killed_worker_does_not_block_the_key(service: Service, tmp_path: Path) -> None:
    """What it held is given back for good, the retry is made anew, and one request is charged."""
    environment = {"KEYLEDGER_UPSTREAM_URL": service.upstream.url}
    with running(service.url, tmp_path / "k", workers=2, **environment) as fleet:
        key, plan = fresh(), {"tokens": 40, "pause": 0.1}
        caller = Caller(fleet.service.port, service.secret, idempotency_key=key)
        caller.ask("chat", plan, stream=True).read(pieces=2)
        for worker in fleet.service.workers():
            end(worker)
        caller.leave()
        again = until(lambda: _answered(service, caller, key), within=60)
    assert again.status_code == 200, again.text
    assert again.text.count(PIECE) == 40
    assert ended(service.url, caller.request_id).ending == "released"
    assert request_id(again) != caller.request_id
    assert service.settled(request_id(again)).output == 40


def _answered(service: Service, caller: Caller, key: str) -> httpx.Response | None:
    """Try as a client does: again after no answer, and after 409 ``in_progress``."""
    found = service.again(caller, key)
    return None if found.status_code == 409 else found


EXPIRES_SOON = """
import sys

if "--worker" in sys.orig_argv:
    from api.gateway import forward

    forward.EXPIRY_SECONDS = 1
"""


@pytest.mark.faults
def test_a_request_that_ran_out_is_named_and_not_made_again(
    service: Service, tmp_path: Path
) -> None:
    """Nobody asked in time after a kill: an expired request may be settled late, so it is last."""
    (tmp_path / "sitecustomize.py").write_text(EXPIRES_SOON)
    environment = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "KEYLEDGER_UPSTREAM_URL": service.upstream.url,
        "KEYLEDGER_UPSTREAM_TOTAL_SECONDS": "3",
    }
    with running(service.url, tmp_path / "k", workers=2, **environment) as fleet:
        key = fresh()
        caller = Caller(fleet.service.port, service.secret, idempotency_key=key)
        caller.ask("chat", {"tokens": 100, "pause": 0.1}, stream=True).read(pieces=2)
        for worker in fleet.service.workers():
            end(worker)
        caller.leave()
    assert ended(service.url, caller.request_id, seconds=60).ending == "expired"
    again = until(lambda: _ended(service, caller, key), within=60)
    assert again.status_code == 409
    assert f"{caller.request_id}, which ran out of time and was charged nothing" in again.text
    assert service.upstream.calls[caller.request_id] == 1


def _ended(service: Service, caller: Caller, key: str) -> httpx.Response | None:
    found = service.again(caller, key)
    return None if "in_progress" in found.text else found


@pytest.mark.faults
def test_a_process_that_ends_in_order_is_charged_once(service: Service, tmp_path: Path) -> None:
    """What came is charged once; the retry gets it, or is told of it, and nothing is made anew."""
    environment = {"KEYLEDGER_UPSTREAM_URL": service.upstream.url}
    with running(service.url, tmp_path / "k", workers=2, **environment) as fleet:
        key = fresh()
        caller = Caller(fleet.service.port, service.secret, idempotency_key=key)
        caller.ask("chat", {"tokens": 2_000, "pause": 0.1}, stream=True).read(pieces=2)
        fleet.service.ask_to_stop()
        caller.read().leave()
        fleet.service.process.wait(60)
    assert caller.has_failed
    again = until(lambda: _ended(service, caller, key), within=60)
    found = service.settled(caller.request_id)
    assert found.output >= caller.pieces
    assert request_id(again) == caller.request_id
    if again.status_code == 200:
        assert again.content == caller.body
    else:
        assert SPENT.search(again.text).groups() == (caller.request_id, found.charge)  # type: ignore[union-attr]
    assert service.upstream.calls[caller.request_id] == 1
