"""Every row of the table of reports: as it is read, through the gateway, and by the native API."""

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from api.gateway import replies, sse, table, tally
from api.gateway.tally import StreamTally
from api.gateway.wishes import Wish
from api.operations import Asked
from ledger import clock
from ledger.pricing import ConditionPrice, ModelPrice, RateCard
from ledger.reports import Reading
from ledger.usage import CLASSES, Usage
from tests.conftest import World
from tests.gateway.book import ended, settlement
from tests.gateway.reported import ANY, ROWS, WHOLE, Row
from tests.gateway.rig import Rig
from tests.gateway.scripted import Scripted

PRICES = {name: str(place + 1) for place, name in enumerate(CLASSES)}
"""Of every model of the rate card: each class has a price of its own."""
PRIORITY = {name: str(place + 101) for place, name in enumerate(CLASSES)}
"""The same under the condition ``priority``, the only one that the card knows."""
OTHER = "claude-opus"
"""Another model that the card knows."""

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def asked(row: Row, text: str) -> dict[str, Any]:
    """Return the body of a request whose last message is a text."""
    messages = [{"role": "user", "content": text}]
    body: dict[str, Any] = {"model": "m", "stream": row.is_stream}
    match row.route:
        case "responses" | "embeddings":
            return body | {"input": text}
        case "completions":
            return body | {"prompt": text}
        case _:
            return body | {"messages": messages, "max_tokens": 1_000}


def is_as_told(usage: dict[str, int], told: dict[str, int]) -> bool:
    """Compare usage with a row's, whose estimates may be of any size."""
    figures = {name: ANY if told.get(name) == ANY else number for name, number in usage.items()}
    return figures == told


def of(usage: Usage) -> dict[str, int]:
    """Return the classes of a usage that are not 0."""
    return {name: number for name in CLASSES if (number := getattr(usage, name))}


def read(row: Row, wish: Wish) -> Reading | None:
    """Read a row as the gateway does; None: it is a failure."""
    meter = table.BY_NAME[row.route].meter
    if not row.is_stream:
        if replies.failure_of(meter, row.media_type, row.body.encode()):
            return None
        return replies.of_reply(meter, wish, row.body.encode())
    held = b"".join(each.encode() + b"\n\n" for each in row.events)
    begins = tally.begins(meter, held.split(b"\n\n")[0])
    for end in range(len(row.events) + 1):
        begins = tally.begins(meter, b"\n\n".join(held.split(b"\n\n")[:end]) + b"\n\n")
        if begins is not None:
            break
    if begins is False or (begins is None and tally.says_nothing(held)):
        return None
    seen = StreamTally(meter, wish)
    for event in sse.events(held):
        seen.take(event)
    return seen.reading(whole=not seen.failed)


@every_row
def test_a_report_is_read_as_the_table_says(row: Row) -> None:
    """API10, C9, D8: usage, what is doubted, what is estimated, and what sets the price."""
    wish = table.BY_NAME[row.route].meter.read(asked(row, "hello"))
    found = read(row, wish)
    assert (found is None) is row.fails
    if found is None:
        return
    assert is_as_told(of(found.usage), row.usage), of(found.usage)
    assert found.doubts == row.doubts
    assert found.estimated is row.estimated
    assert found.condition == row.condition
    assert (found.served_model or "m") == row.served
    assert {model: of(usage) for model, usage in found.others} == row.others


def test_the_table_is_large_and_covers_every_route() -> None:
    """Sixty rows at least, whole and streamed, over five routes."""
    assert len(ROWS) >= 60
    assert {(row.route, row.is_stream) for row in ROWS} >= {
        *((route, False) for route in ("chat", "responses", "messages", "completions")),
        *((route, True) for route in ("chat", "responses", "messages", "completions")),
        ("embeddings", False),
    }


@pytest.fixture(scope="module")
def client(gateway: Rig) -> Iterator[httpx.Client]:
    """Yield a client whose usage has a price in every class."""
    card = RateCard(
        name="reported",
        version=1,
        asset="USD",
        effective_from=clock.EARLIEST,
        models={
            "m": ModelPrice(
                prices=PRICES, conditions={"priority": ConditionPrice(prices=PRIORITY)}
            ),
            OTHER: ModelPrice(prices=PRICES),
        },
    )
    gateway.run(gateway.services.ledger.prices.publish(Asked("test"), card))
    _, secret = gateway.key(gateway.account("5000 USD", rate_card="reported"))
    with gateway.client(secret) as found:
        yield found


def plan_of(row: Row) -> dict[str, Any]:
    """Tell the scripted upstream what to answer."""
    more = {"content_type": row.media_type} if row.media_type else {}
    if row.is_stream:
        return {"events": row.events, **more}
    return {"status": 200, "raw": row.body, **more}


def charge_of(usage: dict[str, int], row: Row) -> str:
    """Add up by hand what usage costs, other models' included."""
    prices = PRIORITY if row.condition == "priority" else PRICES
    spent = [(prices[name], number) for name, number in usage.items()]
    for other in row.others.values():
        spent += [(PRICES[name], number) for name, number in other.items()]
    total = sum((Decimal(price) * number for price, number in spent), Decimal(0))
    return f"{(total / 10**6).normalize():f}"


def kept_report(url: str, digest: str) -> dict[str, Any] | None:
    """Return the report that is kept beside an event, by the digest that the event holds."""
    with psycopg.connect(url) as connection:
        kept = connection.execute("SELECT report FROM keyledger.provider_reports").fetchall()
    for (text,) in kept:
        if hashlib.sha256(text.encode()).hexdigest() == digest:
            found: dict[str, Any] = json.loads(text)
            return found
    return None


@every_row
def test_a_report_is_charged_through_the_gateway(
    client: httpx.Client, ledger_url: str, upstream: Scripted, row: Row
) -> None:
    """What an upstream says is charged as the table has it; a failure is a 502, and is not."""
    path = table.BY_NAME[row.route].path
    reply = client.post(path, json=asked(row, json.dumps(plan_of(row))))
    request_id = reply.headers["x-request-id"]
    found = ended(ledger_url, request_id)
    assert reply.status_code == (502 if row.fails else 200), reply.text
    assert found.ending == ("released" if row.fails else "settled")
    assert upstream.calls[request_id] == (2 if row.fails else 1)
    if row.fails:
        return
    assert is_as_told(found.usage, row.usage), found.usage
    assert found.charge == charge_of(found.usage, row)
    told = {"estimated": row.estimated, "interrupted": row.interrupted}
    told |= {"other_model": row.served != "m"}
    assert found.flags == tuple(name for name, holds in told.items() if holds)
    body = settlement(ledger_url, request_id)
    assert tuple(body.get("doubts", ())) == row.doubts
    assert body.get("condition", "") == ("priority" if row.condition == "priority" else "")
    assert body.get("served_model", "m") == row.served
    others = {
        o["model"]: {n: u for n, (u, _) in o["lines"].items()} for o in body.get("others", ())
    }
    assert others == row.others
    assert bool(body.get("report")) is bool(kept_report(ledger_url, body.get("report", "")))
    if row.route in {"chat", "completions"} and row.is_stream:
        assert "prompt_tokens" not in reply.text


@pytest.fixture(scope="module")
def native(operator: httpx.Client) -> World:
    """Say things to the native API, for one module."""
    return World(operator)


@pytest.fixture(scope="module")
def key_id(native: World) -> str:
    """Return a key whose usage has a price in every class."""
    models = {
        "m": {"prices": PRICES, "conditions": {"priority": {"prices": PRIORITY}}},
        OTHER: {"prices": PRICES},
    }
    native.post("/rate-cards", {"name": "native", "asset": "USD", "models": models}, 201)
    key: str = native.key(native.account(rate_card="native"))["key_id"]
    return key


@pytest.mark.parametrize(
    "row",
    [row for row in WHOLE if row.natively and not row.estimated and not row.fails],
    ids=lambda row: row.name,
)
def test_a_report_is_charged_by_the_native_api(native: World, key_id: str, row: Row) -> None:
    """The same reply, handed in by whoever forwarded it, is read by the same rules."""
    reply = json.loads(row.body)
    body = {"request_id": row.name, "key_id": key_id, "model": "m", "provider_usage": reply}
    receipt = native.post("/usage", body)
    assert receipt["usage"] == row.usage
    assert receipt["charge"]["amount"] == charge_of(row.usage, row)
    assert tuple(receipt.get("doubts", ())) == row.doubts
    assert receipt.get("served_model", "m") == row.served
    others = {other["model"]: other["usage"] for other in receipt.get("others", ())}
    assert others == row.others
    assert native.post("/usage", body) == receipt


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({"prompt_tokens": 10, "completion_tokens": "5"}, "completion_tokens"),
        ({"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 4}, "prompt_tokens"),
        ({"prompt_tokens": 10, "completion_tokens": None}, "completion_tokens"),
        ({"output_tokens": 5}, "input_tokens"),
        ({"input_tokens": 5}, "output_tokens"),
        ({"total_tokens": 9}, "prompt_tokens"),
        ({"inputTokens": 1.5, "outputTokens": 2}, "inputTokens"),
        ({"seconds": "long"}, "seconds"),
    ],
)
def test_a_report_without_a_defensible_reading_is_refused_by_its_field(
    native: World, key_id: str, report: dict[str, Any], field: str
) -> None:
    """Nothing is guessed where nothing is known of what passed, and nothing is written."""
    body = {"request_id": "r", "key_id": key_id, "model": "m", "provider_usage": report}
    problem = native.post("/usage", body, 400)
    assert problem["errors"][0]["field"] == f"provider_usage.{field}"
