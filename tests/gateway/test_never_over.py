"""Promise 5 with answers left open, through the gateway of four processes on one database.

Before an upstream that keeps its bound nothing is ever over; before one that breaks it, what is
over is what it reported beyond the hold, event by event.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest

from ledger import events as e
from ledger.codec import Recorded
from ledger.ids import parse_id
from ledger.limits import compile_rules
from ledger.money import format_pico, parse_pico
from ledger.usage import output_tokens, tokens
from tests.conftest import SEED
from tests.dialects.fleet import Fleet, running
from tests.gateway.scripted import INPUT, Scripted
from tests.properties.postgres import events_of

pytestmark = pytest.mark.processes

WORKERS = 4
CALLERS = 24
REQUESTS = 240
BEYOND = 500
"""Tokens that an upstream makes beyond its bound."""
LONG = 100_000_000_000
"""Pico: credit for answers of thousands of tokens."""
ALL_OF_IT = 0.2
"""Share of answers that are as long as they may be, or longer."""
CREDIT = ("0.001", "0.004", "0.02", "1")
LIMITS: tuple[list[dict[str, Any]], ...] = (
    [],
    [{"kind": "tokens", "window": "month", "ceiling": "4000"}],
    [{"kind": "spend", "window": "day", "ceiling": "0.003", "assets": ["USD"]}],
    [
        {"kind": "tokens", "window": "rolling:3600", "ceiling": "9000"},
        {"kind": "requests", "window": "day", "ceiling": "30"},
    ],
)


class Tenant(NamedTuple):
    """An account with a key."""

    account_id: UUID
    secret: str
    credit: int
    """Pico."""
    rules: tuple[e.LimitRule, ...]


class Load(NamedTuple):
    """What came of everything."""

    tenants: Mapping[UUID, Tenant]
    replies: Sequence[httpx.Response]
    said: Mapping[str, int]
    """Request id → tokens that the upstream says it made."""
    log: Sequence[Recorded]


def a_tenant(fleet: Fleet, credit: str, limits: list[dict[str, Any]]) -> Tenant:
    """Open an account with so much credit and a key with these limits."""
    opened = fleet.operator.post("/ledger/v1/accounts", json={"name": "Acme", "limits": []}).json()
    account = f"/ledger/v1/accounts/{opened['account_id']}"
    fleet.grant(opened["account_id"], USD=credit)
    body = {"name": "bot", "dialect": "bve", "limits": limits}
    secret = fleet.operator.post(f"{account}/keys", json=body).json()["secret"]
    rules = tuple(
        e.LimitRule(**{**each, "assets": tuple(each.get("assets", ()))}) for each in limits
    )
    return Tenant(parse_id("acct", opened["account_id"]), secret, parse_pico(credit), rules)


def ask(client: httpx.Client, tenant: Tenant, draw: random.Random, beyond: int) -> httpx.Response:
    """Ask for an answer left open, of any API, whole or streamed."""
    length = {"as_told": beyond} if draw.random() < ALL_OF_IT else {"within": draw.randint(1, 300)}
    stalls = {"stall_after": 0, "stall_seconds": draw.choice([0, 0.05, 0.2])}
    text = json.dumps({**length, **stalls})
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        # Of those that have much to make, the whole answer comes sooner.
        "stream": tenant.credit < LONG and draw.random() < 0.5,
        "n": draw.choice([1, 1, 1, 2, 3]),
    }
    shown = {"Authorization": f"Bearer {tenant.secret}"}
    return client.post("/v1/chat/completions", json=body, headers=shown)


def run(fleet: Fleet, upstream: Scripted, url: str, beyond: int) -> Load:
    """Let everybody ask at once."""
    client = fleet.client()
    made = [a_tenant(fleet, credit, limits) for credit in CREDIT for limits in LIMITS]
    before = set(upstream.said)

    def one(number: int) -> httpx.Response:
        draw = random.Random(SEED + number)  # noqa: S311 - a test's dice
        return ask(client, draw.choice(made), draw, beyond)

    with ThreadPoolExecutor(CALLERS) as pool:
        replies = list(pool.map(one, range(REQUESTS)))
    tenants = {each.account_id: each for each in made}
    log = [event for event in events_of(url) if event.envelope.account_id in tenants]
    said = {name: made for name, made in upstream.said.items() if name not in before}
    return Load(tenants, replies, said, log)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Yield an upstream."""
    found = Scripted()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def fleet(
    upstream: Scripted, dialects_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Serve by four processes before it."""
    home: Path = tmp_path_factory.mktemp("never-over")
    terms = {"KEYLEDGER_UPSTREAM_URL": upstream.url, "KEYLEDGER_WELCOME_GRANT": "0"}
    with running(dialects_url, home, workers=WORKERS, **terms) as found:
        yield found


@pytest.fixture(scope="module")
def kept(fleet: Fleet, upstream: Scripted, dialects_url: str) -> Load:
    """Ask before an upstream that keeps its bound."""
    return run(fleet, upstream, dialects_url, 0)


@pytest.fixture(scope="module")
def broken(fleet: Fleet, upstream: Scripted, kept: Load, dialects_url: str) -> Load:  # noqa: ARG001
    """Ask before an upstream that makes more than it is told."""
    return run(fleet, upstream, dialects_url, BEYOND)


def test_all_of_it_happened(kept: Load, broken: Load) -> None:
    """Answers were bounded by models, credit and limits, and some were refused."""
    for load in (kept, broken):
        bounds = [reply.headers.get("keyledger-output-bound", "") for reply in load.replies]
        reasons = {bound.partition("reason=")[2] for bound in bounds}
        assert reasons == {"", "model", "credit", "limit"}
        assert {reply.status_code for reply in load.replies} == {200, 429}
        ended = [event.body for event in load.log if isinstance(event.body, e.RequestSettled)]
        assert len(ended) == sum(reply.status_code == 200 for reply in load.replies) > 50


def test_nothing_is_over_before_an_upstream_that_keeps_its_bound(kept: Load) -> None:
    """At every event position posted and pending stay within credit and every limit."""
    check_within(kept)
    settled = [event.body for event in kept.log if isinstance(event.body, e.RequestSettled)]
    assert not any(body.overage for body in settled)
    for body in settled:
        assert output_tokens(body.usage) == kept.said[body.request_id]


def test_what_is_over_is_what_was_reported_beyond_the_hold(broken: Load) -> None:
    """Each settlement's overage is its charge less what was held for it, to the pico."""
    held = {
        event.body.request_id: event.body
        for event in broken.log
        if isinstance(event.body, e.RequestReserved)
    }
    over = 0
    for event in broken.log:
        body = event.body
        if not isinstance(body, e.RequestSettled):
            continue
        reserved = held[body.request_id]
        assert body.usage.input == INPUT
        assert output_tokens(body.usage) == broken.said[body.request_id]
        charge = INPUT * 1_000_000 + output_tokens(body.usage) * 2_000_000
        assert parse_pico(body.charge) == charge
        beyond = charge - parse_pico(reserved.held)
        assert body.overage == (format_pico(beyond) if beyond > 0 else "")
        over += max(beyond, 0)
    assert over > 0
    check_within(broken)


def check_within(load: Load) -> None:
    """Hold every admission to credit and limits, by brute force from the events alone.

    What an upstream made beyond its bound was delivered, so it may be over; the next admission
    counts it.
    """
    for tenant in load.tenants.values():
        mine = [event for event in load.log if event.envelope.account_id == tenant.account_id]
        spent, pending, counted = 0, {}, defaultdict(int)
        for event in mine:
            body = event.body
            if isinstance(body, e.RequestReserved):
                pending[body.request_id] = body
                spent_now = spent + sum(parse_pico(each.held) for each in pending.values())
                assert spent_now <= tenant.credit
                for limit in compile_rules(tenant.rules).values():
                    held = sum(quantity(limit.kind, each) for each in pending.values())
                    assert counted[limit.kind] + held <= limit.ceiling
            elif isinstance(body, e.RequestReleased | e.RequestExpired):
                del pending[body.request_id]
            elif isinstance(body, e.RequestSettled):
                del pending[body.request_id]
                spent += parse_pico(body.charge)
                for kind in ("requests", "tokens", "spend"):
                    counted[kind] += quantity(kind, body)
        assert not pending


def quantity(kind: str, body: e.RequestReserved | e.RequestSettled) -> int:
    """Return what a request counts for."""
    if kind == "requests":
        return 1
    if kind == "tokens":
        return tokens(body.usage)
    return parse_pico(body.held if isinstance(body, e.RequestReserved) else body.charge)
