"""`kill -9` of a worker of the gateway under load: the last row of how requests end.

A reservation lives for the request's time and a minute. Here that minute is two seconds: a file
that Python reads at its start says so to every worker, and everything else is the real service.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import NamedTuple

import psycopg
import pytest

from tests.conftest import SEED
from tests.dialects.fleet import Fleet, running
from tests.faults.rig import ROOT, end, until
from tests.gateway.book import Booked, book, open_reservations
from tests.gateway.caller import Caller
from tests.gateway.truthful import VOICES, Attempt, Truthful, told

pytestmark = pytest.mark.faults

CALLERS = 16
LOAD_SECONDS = 6
KILLS = 4
TOTAL_SECONDS = 4
MORE_SECONDS = 2
LEADERLESS_SECONDS = 25
"""Until another process leads where the leader was killed, and lets lanes write what ran out."""
SHORTER = f"""
import sys

if "--worker" in sys.orig_argv:
    from api.gateway import forward

    forward.EXPIRY_SECONDS = {MORE_SECONDS}
"""


class Heard(NamedTuple):
    """What a client got."""

    request_id: str
    pieces: int
    is_good: bool


class Load(NamedTuple):
    """What came of everything."""

    heard: Sequence[Heard]
    known: Mapping[str, Sequence[Booked]]
    asked: Mapping[str, Sequence[Attempt]]
    spent: Decimal
    url: str

    def ended(self, ending: str) -> dict[str, Booked]:
        """Return the requests that ended so."""
        found = {name: endings[0] for name, endings in self.known.items()}
        return {name: each for name, each in found.items() if each.ending == ending}


class Service(NamedTuple):
    """Two workers before an upstream that never dies."""

    upstream: Truthful
    fleet: Fleet
    secret: str
    account: str
    """Its path."""

    def balance(self) -> tuple[Decimal, Decimal]:
        """Return the credit, and what of it is held."""
        found = self.fleet.operator.get(f"{self.account}/balances").json()["balances"]
        (mine,) = [each for each in found if each["asset"] == "CAD"]
        return Decimal(mine["balance"]), Decimal(mine["pending"])


@pytest.fixture(scope="module")
def service(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve for the module."""
    home = tmp_path_factory.mktemp("workers")
    (home / "sitecustomize.py").write_text(SHORTER)
    upstream = Truthful(home)
    terms = {
        "PYTHONPATH": f"{home}:{ROOT}",
        "KEYLEDGER_UPSTREAM_URL": upstream.url,
        "KEYLEDGER_UPSTREAM_TOTAL_SECONDS": str(TOTAL_SECONDS),
    }
    try:
        with running(dialects_url, home / "k", workers=2, **terms) as fleet:
            person = fleet.person()
            fleet.grant(person.account_id, CAD="1000")
            account = f"/ledger/v1/accounts/{person.account_id}"
            body = {"name": "bot", "dialect": "ryvion"}
            secret = fleet.operator.post(f"{account}/keys", json=body).json()["secret"]
            yield Service(upstream, fleet, secret, account)
    finally:
        upstream.kill()


def _kill(fleet: Fleet, draw: random.Random) -> None:
    """Kill a worker, once both are there, and wait until it is started again."""
    workers = until(lambda: len(found := fleet.service.workers()) == 2 and found, within=20)
    victim = draw.choice(workers)
    end(victim)
    until(lambda: victim not in fleet.service.workers(), within=20)


def _one(service: Service, draw: random.Random) -> Heard | None:
    """Ask for something and stay to its end, whoever ends it; None: nobody listened."""
    kind, stream = draw.choice(list(VOICES)), draw.random() < 0.75
    plan = {"tokens": draw.randint(1, 40), "pause": draw.choice([0, 0.005, 0.02])}
    try:
        caller = Caller(service.fleet.service.port, service.secret)
        caller.ask(kind, plan, stream=stream)
    except ConnectionError:
        return None
    caller.read().leave()
    return Heard(caller.request_id, caller.pieces, caller.is_good)


@pytest.fixture(scope="module")
def load(service: Service, dialects_url: str) -> Load:
    """Kill workers while clients ask; wait until nothing is open although nobody asks any more."""
    over, draw = threading.Event(), random.Random(SEED)  # noqa: S311 - a test's dice

    def ask(number: int) -> list[Heard]:
        mine, found = random.Random(SEED + number), []  # noqa: S311 - a test's dice
        while not over.is_set():
            found.append(_one(service, mine))
        return [each for each in found if each is not None]

    before, _ = service.balance()
    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask, number) for number in range(CALLERS)]
        try:
            for _ in range(KILLS):
                time.sleep(draw.uniform(0.5, LOAD_SECONDS / KILLS))
                _kill(service.fleet, draw)
        finally:
            over.set()
        heard = [each for caller in callers for each in caller.result()]
    within = TOTAL_SECONDS + MORE_SECONDS + LEADERLESS_SECONDS
    until(lambda: not open_reservations(dialects_url), within=within)
    after, held = until(lambda: _quiet(service), within=10)
    assert held == 0
    asked = told(service.upstream)
    return Load(heard, book(dialects_url), asked, before - after, dialects_url)


def _quiet(service: Service) -> tuple[Decimal, Decimal] | None:
    found = service.balance()
    return found if found[1] == 0 else None


def test_what_was_acknowledged_is_charged_once_as_the_upstream_said(load: Load) -> None:
    """Promise 3: who read the end of an answer finds it charged, once, whoever died after it."""
    good = [each for each in load.heard if each.is_good]
    for each in good:
        (found,) = load.known[each.request_id]
        (attempt,) = load.asked[each.request_id]
        assert (found.ending, found.flags) == ("settled", ()), each
        assert found.usage == attempt.said, each
        assert each.pieces == attempt.made, each
    assert len(good) >= 100


def test_what_a_kill_cut_off_expires_and_costs_nothing(load: Load) -> None:
    """A reservation of a killed process is given back: one ending, no usage, no charge."""
    assert {len(endings) for endings in load.known.values()} == {1}
    expired = load.ended("expired")
    assert len(expired) >= KILLS
    good = {each.request_id for each in load.heard if each.is_good}
    assert not good & expired.keys()
    assert {(found.charge, *found.usage) for found in expired.values()} == {("",)}
    cut = {each.request_id for each in load.heard if each.pieces and not each.is_good}
    assert cut & expired.keys()
    # Cut off, and yet charged: it was settled, and the kill took the last words.
    for name in cut - expired.keys():
        (found,) = load.known[name]
        assert (found.ending, found.usage) == ("settled", load.asked[name][0].said)
    kinds = Counter(found[0].ending for found in load.known.values())
    assert kinds.keys() == {"settled", "expired"}


def test_a_reservation_expires_after_its_time_and_not_before(load: Load) -> None:
    """The request's time and what is added to it: somebody might still have settled it."""
    with psycopg.connect(load.url) as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM ended.recorded_at - began.recorded_at)"
            " FROM keyledger.events began JOIN keyledger.events ended"
            " ON ended.payload ->> 'request_id' = began.payload ->> 'request_id'"
            " WHERE began.type = 'request_reserved' AND ended.type = 'request_expired'"
        ).fetchall()
    lived = [seconds for (seconds,) in rows]
    assert len(lived) == len(load.ended("expired"))
    assert min(lived) >= TOTAL_SECONDS + MORE_SECONDS


def test_no_upstream_hears_twice_of_a_request(load: Load) -> None:
    """D1: whoever serves next asks nobody anew for what the killed one had asked."""
    assert {len(attempts) for attempts in load.asked.values()} == {1}
    assert load.asked.keys() <= load.known.keys()
    assert load.ended("settled").keys() <= load.asked.keys()


def test_money_is_what_was_charged(load: Load) -> None:
    """Promise 7: the account lost the sum of the charges and nothing that a kill left behind."""
    charged = [Decimal(found.charge) for found in load.ended("settled").values()]
    assert sum(charged) == load.spent > 0


def test_the_service_goes_on(service: Service, load: Load) -> None:
    """After all that two workers serve, and a request is one."""
    assert load.heard
    assert len(service.fleet.service.workers()) == 2
    port = service.fleet.service.port
    caller = Caller(port, service.secret).ask("messages", {"tokens": 3}, stream=True).read()
    assert caller.is_good
    assert caller.pieces == 3
    caller.leave()
