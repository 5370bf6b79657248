"""Upstreams that are killed and clients that leave, over real processes: nothing is lost (C1, C8).

What each upstream made is in a file that it wrote before it sent it. Every request of the ledger is
held against that file, whatever happened to it.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from tests.conftest import SEED
from tests.dialects.fleet import Fleet, running
from tests.faults.rig import until
from tests.gateway.book import Booked, book, open_reservations
from tests.gateway.caller import WAYS, Caller
from tests.gateway.truthful import INPUT, VOICES, Attempt, Truthful, told

pytestmark = pytest.mark.faults

REQUESTS = 600
CALLERS = 24
DRAIN_SECONDS = 5
"""As the gateway's README says: an upstream is heard out for so long."""
LONG = {"tokens": 400, "pause": 0.05}
"""Tokens of 20 seconds."""
PRICES = {"input": Decimal("0.1"), "output": Decimal("0.4")}
"""Of the model per million tokens, in CAD."""


class World(NamedTuple):
    """Two upstreams, two workers before them, and a key with credit."""

    upstreams: Sequence[Truthful]
    fleet: Fleet
    url: str
    account_id: str
    secret: str

    def ask(self, kind: str, plan: Mapping[str, Any], *, stream: bool) -> Caller:
        """Send a request over a connection of its own."""
        return Caller(self.fleet.service.port, self.secret).ask(kind, plan, stream=stream)

    def balance(self) -> tuple[Decimal, Decimal]:
        """Return the credit, and what of it is held."""
        path = f"/ledger/v1/accounts/{self.account_id}/balances"
        found = self.fleet.operator.get(path).json()["balances"]
        (mine,) = [each for each in found if each["asset"] == "CAD"]
        return Decimal(mine["balance"]), Decimal(mine["pending"])

    def nothing_is_open(self) -> None:
        """Wait until every request has ended."""
        until(lambda: not open_reservations(self.url), within=25)


@pytest.fixture(scope="module")
def world(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve for the module."""
    home = tmp_path_factory.mktemp("upstreams")
    upstreams = [Truthful(home, f"upstream-{number}") for number in range(2)]
    terms = {
        "KEYLEDGER_UPSTREAM_URL": ",".join(each.url for each in upstreams),
        "KEYLEDGER_UPSTREAM_READ_SECONDS": "10",
    }
    try:
        with running(dialects_url, home / "k", workers=2, **terms) as fleet:
            person = fleet.person()
            fleet.grant(person.account_id, CAD="1000")
            body = {"name": "bot", "dialect": "ryvion"}
            path = f"/ledger/v1/accounts/{person.account_id}/keys"
            secret = fleet.operator.post(path, json=body).json()["secret"]
            yield World(upstreams, fleet, dialects_url, person.account_id, secret)
    finally:
        for each in upstreams:
            each.kill()


class Planned(NamedTuple):
    """What one client does."""

    kind: str
    plan: Mapping[str, Any]
    stream: bool
    leaves_after: int | None
    """Tokens; None: it stays to the end."""
    how: str


class Heard(NamedTuple):
    """What came of it for the client."""

    planned: Planned
    request_id: str
    """Empty: it left before any head came."""
    status: int
    pieces: int
    is_good: bool
    has_failed: bool


def _plan(draw: random.Random, number: int) -> Planned:
    kind, stream = draw.choice(list(VOICES)), draw.random() < 0.65
    tokens = draw.randint(1, 30)
    plan = {"tokens": tokens, "usage": draw.random() < 0.75, "tag": number}
    plan["pause"] = draw.choice([0, 0.005, 0.01, 0.03])
    leaves = draw.randint(0, tokens) if draw.random() < 0.4 else None
    if stream and draw.random() < 0.04:
        plan |= LONG
        leaves = draw.randint(1, 5)
    return Planned(kind, plan, stream, leaves, draw.choice(WAYS))


def _do(world: World, planned: Planned) -> Heard:
    caller = world.ask(planned.kind, planned.plan, stream=planned.stream)
    if planned.leaves_after is None:
        caller.read()
    elif planned.leaves_after and planned.stream:
        caller.read(pieces=planned.leaves_after)
    elif planned.how == "rst":
        # A reset at once would take the request back from the socket where it was not read yet.
        time.sleep(0.05)
    caller.leave(planned.how)
    return Heard(
        planned,
        caller.request_id,
        caller.status,
        caller.pieces,
        caller.is_good,
        caller.has_failed,
    )


class Killer(threading.Thread):
    """Kills one upstream or the other at random moments, and starts it again."""

    def __init__(self, upstreams: Sequence[Truthful]) -> None:
        """Take whom."""
        super().__init__(daemon=True)
        self._upstreams = upstreams
        self._draw = random.Random(SEED)  # noqa: S311 - a test's dice
        self.is_done = threading.Event()
        self.kills = 0

    def run(self) -> None:
        """Go on until told; in the end both run."""
        draw = self._draw
        while not self.is_done.wait(draw.uniform(0.05, 0.3)):
            chosen = draw.choice([self._upstreams[:1], self._upstreams[1:], self._upstreams])
            for each in chosen:
                each.kill()
                self.kills += 1
            self.is_done.wait(draw.uniform(0, 0.3))
            for each in chosen:
                each.start()


@pytest.fixture(scope="module")
def storm(world: World) -> tuple[list[Heard], Decimal]:
    """Send everything while upstreams die; return what clients heard, and what it cost."""
    draw = random.Random(SEED)  # noqa: S311 - a test's dice
    plans = [_plan(draw, number) for number in range(REQUESTS)]
    before, _ = world.balance()
    killer = Killer(world.upstreams)
    killer.start()
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            heard = list(pool.map(lambda planned: _do(world, planned), plans))
    finally:
        killer.is_done.set()
        killer.join()
    assert killer.kills >= 10
    world.nothing_is_open()
    after, held = world.balance()
    assert held == 0
    return heard, before - after


class Case(NamedTuple):
    """A request as the ledger, the upstreams and the client have it."""

    found: Booked
    attempts: Sequence[Attempt]
    heard: Heard | None

    @property
    def answered(self) -> Attempt:
        """Return the attempt that answered: none is made after it."""
        return self.attempts[-1]


@pytest.fixture(scope="module")
def cases(world: World, storm: tuple[list[Heard], Decimal]) -> Sequence[Case]:
    """Return every request of the ledger, each with its one ending."""
    heard, _ = storm
    known, asked = book(world.url), told(*world.upstreams)
    assert asked.keys() <= known.keys()
    assert {len(endings) for endings in known.values()} == {1}
    by_tag = {each.planned.plan["tag"]: each for each in heard}
    by_id = {each.request_id: each for each in heard if each.request_id}
    by_id |= {name: by_tag[attempts[0].tag] for name, attempts in asked.items()}
    assert {each.request_id for each in heard} - {""} <= known.keys()
    return [Case(found, asked.get(name, ()), by_id.get(name)) for name, (found,) in known.items()]


def test_every_request_is_known_and_ended_once(
    cases: Sequence[Case], storm: tuple[list[Heard], Decimal]
) -> None:
    """None is missing, none is open, none ended twice: each is charged or given back."""
    heard, _ = storm
    gone_early = sum(not each.request_id for each in heard)
    assert REQUESTS - gone_early <= len(cases) <= REQUESTS
    assert {case.found.ending for case in cases} == {"settled", "released"}
    # Who never came to be asked, and is known to no upstream, left or was answered 502.
    assert all(case.heard or case.found.ending == "released" for case in cases)


def test_what_is_not_flagged_is_what_the_upstream_said(cases: Sequence[Case]) -> None:
    """Charged usage equals the upstream's own count to the token, once, however often it died."""
    exact = [case for case in cases if _is_exact(case)]
    for case in exact:
        assert case.found.usage == case.answered.said, case
        assert case.heard is not None
        if case.heard.is_good:
            assert case.found.flags == (), case
            assert case.heard.pieces == case.answered.made, case
    assert sum(case.found.flags == () for case in exact) >= REQUESTS // 5
    assert sum(case.found.flags == ("interrupted",) for case in exact) >= 5
    assert any(len(case.attempts) > 1 for case in exact)


def _is_exact(case: Case) -> bool:
    return case.found.ending == "settled" and "estimated" not in case.found.flags


def test_what_is_estimated_lies_between_delivered_and_produced(cases: Sequence[Case]) -> None:
    """A flagged charge is no less than the client got, and no more than the upstream made.

    Who stayed pays for exactly what came.
    """
    estimated = [case for case in cases if "estimated" in case.found.flags]
    for case in estimated:
        heard, output = case.heard, case.found.output
        assert heard is not None
        assert heard.pieces <= output <= case.answered.made, case
        assert case.found.usage["input"] > 0
        if heard.planned.leaves_after is None:
            assert output == heard.pieces, case
        if heard.is_good:
            assert output == case.answered.made, case
            assert case.found.flags == ("estimated",), case
        elif heard.planned.leaves_after is None:
            assert case.found.flags == ("estimated", "interrupted"), case
    both = [case for case in estimated if "interrupted" in case.found.flags]
    assert {case.heard.planned.kind for case in both if case.heard} == VOICES.keys()
    assert sum(bool(case.heard and case.heard.pieces) for case in both) >= 10


def test_what_is_given_back_was_given_to_nobody(cases: Sequence[Case]) -> None:
    """A released request gave its client no token: a failure, or it was gone."""
    released = [case for case in cases if case.found.ending == "released"]
    for case in released:
        if case.heard is not None:
            assert case.heard.pieces == 0, case
            assert case.heard.status in {0, 502, 504}, case
            assert case.heard.status or case.heard.planned.leaves_after is not None
    assert len(released) >= 5


def test_who_stays_is_told_how_it_ended(storm: tuple[list[Heard], Decimal]) -> None:
    """A client that stays has the whole answer or an error, never silence and never both."""
    heard, _ = storm
    stayed = [each for each in heard if each.planned.leaves_after is None]
    for each in stayed:
        assert each.request_id, each
        assert each.is_good != each.has_failed, each
    ends = Counter((each.is_good, each.status) for each in stayed)
    assert ends[False, 200] >= 5
    assert ends[False, 502] >= 5


def test_no_upstream_is_asked_without_bound(cases: Sequence[Case]) -> None:
    """Two upstreams have a turn each, and a connection that was kept is replaced by a fresh one."""
    assert max(len(case.attempts) for case in cases) <= 4
    for case in cases:
        if case.heard is not None and case.heard.pieces and case.heard.planned.stream:
            # What reached a client is not made once more.
            assert case.answered.made >= case.heard.pieces


def test_the_tokens_add_up_to_the_money(
    cases: Sequence[Case], storm: tuple[list[Heard], Decimal]
) -> None:
    """Promise 7: what the account lost is the sum of the charges, and those are tokens times price.

    Of the answers, made = charged exactly + charged by estimate + what a kill took on its way.
    """
    _, cost = storm
    settled = [case for case in cases if case.found.ending == "settled"]
    assert sum(Decimal(case.found.charge) for case in settled) == cost
    priced = sum(
        units * PRICES[name] for case in settled for name, units in case.found.usage.items()
    )
    assert priced / 10**6 == cost
    made = dict.fromkeys((False, True), 0)
    charged = dict(made)
    for case in settled:
        is_flagged = "estimated" in case.found.flags
        made[is_flagged] += case.answered.made
        charged[is_flagged] += case.found.output
    assert charged[False] == made[False]
    assert charged[True] <= made[True]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_drain_runs_out(world: World, how: str) -> None:
    """Who left is charged what came until the drain was over; then the upstream is let go of."""
    began = time.monotonic()
    callers = [world.ask(kind, LONG, stream=True).read(pieces=3) for kind in VOICES]
    left = time.monotonic()
    for caller in callers:
        caller.leave(how)
    world.nothing_is_open()
    ended = time.monotonic()
    assert DRAIN_SECONDS - 0.5 < ended - left < DRAIN_SECONDS + 5
    most = 2 + (ended + 0.5 - began) / LONG["pause"]
    known = book(world.url)
    until(lambda: all(_answering(world, each).closed for each in callers), within=5)
    for caller in callers:
        (found,) = known[caller.request_id]
        attempt = _answering(world, caller)
        assert found.flags == ("estimated", "interrupted")
        # Of 20 tokens a second, five seconds' worth, less what a busy machine holds up.
        assert caller.pieces + 40 <= found.output <= attempt.made <= most
        assert attempt.made - found.output < 20
        assert attempt.said is None


def _answering(world: World, caller: Caller) -> Attempt:
    return told(*world.upstreams)[caller.request_id][-1]


def test_an_upstream_that_is_killed_in_a_drain_is_charged_what_came(world: World) -> None:
    """Client and upstream gone, one after the other: what passed is charged, once, and flagged."""
    callers = [world.ask(kind, LONG, stream=True).read(pieces=3) for kind in VOICES]
    for caller in callers:
        caller.leave("rst")
    time.sleep(1)
    for each in world.upstreams:
        each.kill()
    world.nothing_is_open()
    known = book(world.url)
    for caller in callers:
        (found,) = known[caller.request_id]
        attempt = _answering(world, caller)
        assert found.flags == ("estimated", "interrupted")
        assert caller.pieces + 5 <= found.output <= attempt.made < 60
        assert found.usage["input"] == INPUT or caller.kind != "messages"
    for each in world.upstreams:
        each.start()
