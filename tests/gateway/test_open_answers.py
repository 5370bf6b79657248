"""An answer that the client leaves open: what is held, told and said of it, and never over."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from api.gateway.bounds import HEADER
from api.operations import SETTING_OUTPUT, Asked
from ledger import events as e
from ledger.ids import AccountId
from ledger.money import parse_pico
from ledger.pricing import ModelPrice, RateCard
from tests.gateway.book import ended
from tests.gateway.rig import Rig, Thin, rig
from tests.gateway.scripted import INPUT, Scripted
from tests.gateway.test_admission import chat
from tests.properties.postgres import events_of

MONTH = (e.LimitRule(kind="tokens", window="month", ceiling="4000"),)


def bound_of(reply: httpx.Response) -> tuple[int, str]:
    """Read what a reply says of a bound that the client did not set."""
    found = re.fullmatch(r"(\d+); reason=([a-z]+)", reply.headers[HEADER])
    assert found is not None
    return int(found[1]), found[2]


def reserved(url: str, reply: httpx.Response) -> e.RequestReserved:
    """Find the event that held a request."""
    name = reply.headers["x-request-id"]
    (found,) = [
        event.body
        for event in events_of(url)
        if isinstance(event.body, e.RequestReserved) and event.body.request_id == name
    ]
    return found


def left(rig_: Rig, account: AccountId) -> int:
    """Return what an account has left of its credit in pico."""
    found, _ = rig_.run(rig_.services.queries.accounts.one(account))
    assert found.pending("USD") == 0
    return max(found.balance("USD"), -1)


@pytest.mark.parametrize("stream", [False, True])
def test_what_credit_leaves_is_held_told_and_said(
    gateway: Rig, upstream: Scripted, ledger_url: str, *, stream: bool
) -> None:
    """A tenth of a cent pays for some 480 tokens: the upstream is told so, and the client too."""
    account = gateway.account(credit="0.001 USD")
    with gateway.client(gateway.key(account)[1]) as client:
        reply = chat(client, {"as_told": 0}, stream=stream)
    assert reply.status_code == 200
    tokens, why = bound_of(reply)
    assert why == "credit"
    assert 400 < tokens < 500
    name = reply.headers["x-request-id"]
    assert upstream.bodies[name]["max_tokens"] == tokens
    held = reserved(ledger_url, reply)
    assert held.usage.output == tokens
    # One more would not have fitted: it costs two millionths.
    assert 1_000_000_000 - parse_pico(held.held) < 2_000_000
    found = ended(ledger_url, name)
    assert (found.usage, found.flags) == ({"input": INPUT, "output": tokens}, ())


def test_a_fresh_key_can_use_what_a_month_allows(gateway: Rig, upstream: Scripted) -> None:
    """4,000 tokens a month are no reason to refuse an open request: they are what it may use."""
    account = gateway.account()
    with gateway.client(gateway.key(account, limits=MONTH)[1]) as client:
        first = chat(client, {"tokens": 1_000})
        last = chat(client, {"as_told": 0})
        spent = chat(client, {"as_told": 0})
    tokens, why = bound_of(first)
    assert (first.status_code, why) == (200, "limit")
    assert 3_900 < tokens < 4_000
    # What the first did not make of what was held for it is the second's.
    assert bound_of(last)[1] == "limit"
    assert 2_950 < bound_of(last)[0] < 4_000 - INPUT - 1_000
    assert spent.status_code == 429
    assert upstream.calls[spent.headers["x-request-id"]] == 0
    said = spent.json()["error"]["message"]
    assert re.search(r"An answer of \d+ tokens would fit, and 16 are the least\.", said)


def test_an_answer_below_sixteen_tokens_is_refused_and_said(gateway: Rig) -> None:
    """Credit for ten tokens is credit for none; the refusal names the ten."""
    account = gateway.account(credit="0.000071 USD")
    with gateway.client(gateway.key(account)[1]) as client:
        reply = client.post(
            "/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "a"}]}
        )
        assert reply.status_code == 200
    account = gateway.account(credit="0.000041 USD")
    with gateway.client(gateway.key(account)[1]) as client:
        reply = client.post(
            "/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "a"}]}
        )
    assert reply.status_code == 402
    said = reply.json()["error"]["message"]
    assert said.endswith("An answer of 12 tokens would fit, and 16 are the least.")


@pytest.mark.parametrize(
    ("served_by", "credit"),
    [
        # At 2 USD a million fifteen have room for 900 tokens, and one for what they leave.
        ("bounded", "0.0285 USD"),
        # The same of 16,384 tokens, which is the most where the operator says nothing.
        pytest.param("gateway", "0.5 USD", marks=pytest.mark.soak),
    ],
)
def test_sixteen_at_once_on_little_credit_leave_no_debt(
    served_by: str, credit: str, ledger_url: str, request: pytest.FixtureRequest
) -> None:
    """Promise 5: as much is held as there is, so whatever they make of it is paid for (A12)."""
    gateway: Rig = request.getfixturevalue(served_by)
    account = gateway.account(credit=credit)
    secret = gateway.key(account)[1]
    with ThreadPoolExecutor(16) as pool, gateway.client(secret) as client:
        ask = {"as_told": 0, "stall_after": 0, "stall_seconds": 0.3}
        replies = list(pool.map(lambda _: chat(client, ask, stream=True), range(16)))
    good = [reply for reply in replies if reply.status_code == 200]
    assert {reply.status_code for reply in replies} <= {200, 402}
    assert len(good) >= 15
    for reply in good:
        assert ended(ledger_url, reply.headers["x-request-id"]).output == bound_of(reply)[0]
    assert left(gateway, account) >= 0
    mine = [event.body for event in events_of(ledger_url) if event.envelope.account_id == account]
    assert not any(body.overage for body in mine if isinstance(body, e.RequestSettled))


@pytest.fixture(scope="module")
def bounded(
    upstream: Scripted, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """Serve a gateway whose operator bounds answers at 900 tokens, and a card that knows models."""
    home = tmp_path_factory.mktemp("bounded")
    app = Thin(home, ledger_url, upstream_url=upstream.url, max_output_tokens=900)
    with rig(app) as found:
        yield found


@pytest.mark.parametrize(
    ("terms", "settings", "body", "bound"),
    [
        ({}, {}, {}, (900, "operator")),
        ({}, {SETTING_OUTPUT: "300"}, {}, (300, "operator")),
        ({}, {SETTING_OUTPUT: "5000"}, {}, (900, "operator")),
        ({}, {}, {"max_tokens": 5_000}, (900, "operator")),
        ({"max_output_tokens": 200}, {}, {}, (200, "operator")),
        (
            {"max_output_tokens": 200},
            {SETTING_OUTPUT: "300"},
            {"max_tokens": 250},
            (200, "operator"),
        ),
        ({"max_output_tokens": 200}, {SETTING_OUTPUT: "100"}, {}, (100, "operator")),
        ({"max_output_tokens": 5_000}, {}, {}, (900, "operator")),
    ],
)
def test_the_operators_bound_is_told_and_said(
    bounded: Rig,
    upstream: Scripted,
    *,
    terms: dict[str, Any],
    settings: dict[str, str],
    body: dict[str, Any],
    bound: tuple[int, str],
) -> None:
    """For everybody, an account or a key, whether the client bounds its answer or not."""
    account = bounded.account(**terms)
    with bounded.client(bounded.key(account, settings=settings)[1]) as client:
        reply = chat(client, **body)
    assert bound_of(reply) == bound
    assert upstream.bodies[reply.headers["x-request-id"]]["max_tokens"] == bound[0]


def test_the_clients_own_bound_is_not_said(gateway: Rig, upstream: Scripted) -> None:
    """It knows that one, and the body goes on unchanged."""
    with gateway.client(gateway.key(gateway.account())[1]) as client:
        reply = chat(client, max_completion_tokens=77)
    assert HEADER not in reply.headers
    sent = upstream.bodies[reply.headers["x-request-id"]]
    assert (sent["max_completion_tokens"], sent.get("max_tokens")) == (77, None)


def test_the_models_own_maximum_is_told_and_said(gateway: Rig, upstream: Scripted) -> None:
    """As the card has it; else 16,384."""
    card = RateCard(
        name="bounds",
        version=1,
        asset="USD",
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        models={
            "short": ModelPrice(prices={"input": "1", "output": "2"}, max_output_tokens=128),
            "m": ModelPrice(prices={"input": "1", "output": "2"}),
        },
    )
    gateway.run(gateway.services.ledger.prices.publish(Asked("test"), card))
    with gateway.client(gateway.key(gateway.account(), rate_card="bounds")[1]) as client:
        short, usual = chat(client, model="short"), chat(client)
    assert bound_of(short) == (128, "model")
    assert upstream.bodies[short.headers["x-request-id"]]["max_tokens"] == 128
    assert bound_of(usual) == (16_384, "model")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "max_tokens"),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "model": "o3"},
            "max_completion_tokens",
        ),
        ("/completions", {"prompt": "a"}, "max_tokens"),
        ("/responses", {"input": "a"}, "max_output_tokens"),
    ],
)
def test_each_api_is_told_in_its_own_field(  # noqa: PLR0917 (fixtures)
    gateway: Rig, upstream: Scripted, ledger_url: str, path: str, body: dict[str, Any], field: str
) -> None:
    """Exactly what is held is told."""
    gateway.app.more = {"model": "m"}
    try:
        with gateway.client(gateway.key(gateway.account(), limits=MONTH)[1]) as client:
            reply = client.post(path, json={"model": "m", **body})
    finally:
        gateway.app.more = {}
    sent = upstream.bodies[reply.headers["x-request-id"]]
    assert sent[field] == bound_of(reply)[0] == reserved(ledger_url, reply).usage.output


def test_an_upstream_that_knows_the_other_field_only_is_told_in_that(
    gateway: Rig, upstream: Scripted, ledger_url: str
) -> None:
    """A model of OpenAI's that thinks, behind another name: asked once more, held once."""
    with gateway.client(gateway.key(gateway.account())[1]) as client:
        reply = chat(client, {"refuses": "max_tokens", "tokens": 3})
        never = chat(client, {"status": 400, "body": {"error": {"param": "max_tokens"}}})
        own = chat(client, {"refuses": "max_tokens"}, max_tokens=9)
    assert reply.status_code == 200
    name = reply.headers["x-request-id"]
    sent = upstream.bodies[name]
    assert (sent["max_completion_tokens"], sent.get("max_tokens")) == (16_384, None)
    assert upstream.calls[name] == 2
    assert ended(ledger_url, name).output == 3
    assert (never.status_code, upstream.calls[never.headers["x-request-id"]]) == (400, 2)
    # A field that the client chose is its own affair.
    assert (own.status_code, upstream.calls[own.headers["x-request-id"]]) == (400, 1)


def test_a_key_may_use_no_model_that_it_may_not_ask_for(gateway: Rig) -> None:
    """What stands in a fallback list is asked for too."""
    secret = gateway.key(gateway.account(), allowed_models=("m",))[1]
    with gateway.client(secret) as client:
        assert chat(client, models=["m"], max_tokens=9).status_code == 200
        denied = chat(client, models=["m", "free"], max_tokens=9)
    assert denied.json()["error"]["kind"] == "model_is_denied"


def test_a_characters_model_is_not_the_clients_to_choose(gateway: Rig, upstream: Scripted) -> None:
    """Behind a character the operator's model answers, whatever fallbacks a request lists."""
    gateway.app.more = {"model": "m", "upstream_model": "deep-7b", "shown_model": "tutor"}
    try:
        with gateway.client(gateway.key(gateway.account())[1]) as client:
            reply = chat(client, models=["dear"], fallbacks=["dear"], route="fallback")
    finally:
        gateway.app.more = {}
    sent = upstream.bodies[reply.headers["x-request-id"]]
    assert not {"models", "fallbacks", "route"} & sent.keys()
    assert sent["model"] == "deep-7b"


def test_context_that_the_upstream_keeps_may_be_reported(
    gateway: Rig, upstream: Scripted, ledger_url: str
) -> None:
    """It is held as the window, so a report of that much is believed and paid for."""
    usage = {"prompt_tokens": 120_000, "completion_tokens": 5, "total_tokens": 120_005}
    plan = {"tokens": 5, "report": usage}
    with gateway.client(gateway.key(gateway.account())[1]) as client:
        reply = client.post(
            "/responses",
            json={
                "model": "m",
                "input": httpx.Response(200, json=plan).text,
                "previous_response_id": "resp_1",
            },
        )
    assert reply.status_code == 200
    held = reserved(ledger_url, reply)
    assert held.usage.input >= 131_072
    name = reply.headers["x-request-id"]
    assert upstream.bodies[name]["previous_response_id"] == "resp_1"
