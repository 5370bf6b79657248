"""A gateway that is asked to end under load: every row of that in how requests end, by the clock.

The service gives what is under way twenty seconds. All requests are sent at once and looked at
together, because that is how long each takes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from api.process.serve import GRACE_SECONDS, KILL_SECONDS
from tests.dialects.fleet import running
from tests.gateway.book import Booked, book, open_reservations
from tests.gateway.caller import Caller
from tests.gateway.truthful import INPUT, VOICES, Attempt, Truthful, told

pytestmark = pytest.mark.faults

SHORT = {"tokens": 60, "pause": 0.05}
LONG = {"tokens": 2_000, "pause": 0.05}
"""Tokens of 3 seconds, and of 100."""


class Ended(NamedTuple):
    """What came of everything."""

    short: Sequence[Caller]
    long: Sequence[Caller]
    whole: Sequence[Caller]
    """Asked for a whole answer that takes too long."""
    seconds: float
    """From the signal to the end."""
    code: int
    known: Mapping[str, Sequence[Booked]]
    asked: Mapping[str, Sequence[Attempt]]
    left_open: int

    def of(self, caller: Caller) -> tuple[Booked, Attempt]:
        """Return how a request ended, and what the upstream wrote of it."""
        (found,), (attempt,) = self.known[caller.request_id], self.asked[caller.request_id]
        return found, attempt


@pytest.fixture(scope="module")
def end(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """Ask for everything, send SIGTERM, hear everything to its end."""
    home = tmp_path_factory.mktemp("ends")
    upstream = Truthful(home)
    try:
        terms = {"KEYLEDGER_UPSTREAM_URL": upstream.url}
        with running(dialects_url, home / "k", workers=2, **terms) as fleet:
            person = fleet.person()
            fleet.grant(person.account_id, CAD="1000")
            path = f"/ledger/v1/accounts/{person.account_id}/keys"
            body = {"name": "bot", "dialect": "ryvion"}
            secret = fleet.operator.post(path, json=body).json()["secret"]

            def ask(plan: Mapping[str, float], *, stream: bool) -> list[Caller]:
                every = [Caller(fleet.service.port, secret) for _ in VOICES]
                asked = zip(every, VOICES, strict=True)
                return [caller.ask(kind, plan, stream=stream) for caller, kind in asked]

            whole, long = ask(LONG, stream=False), ask(LONG, stream=True)
            short = ask(SHORT, stream=True)
            for caller in (*long, *short):
                caller.read(pieces=1)
            began = time.monotonic()
            fleet.service.ask_to_stop()
            for caller in (*short, *long, *whole):
                caller.read().leave()
            code = fleet.service.process.wait(timeout=40)
            seconds = time.monotonic() - began
            known, asked = book(dialects_url), told(upstream)
            left = open_reservations(dialects_url)
            yield Ended(short, long, whole, seconds, code, known, asked, left)
    finally:
        upstream.kill()


def test_it_ends_in_order_after_its_grace(end: Ended) -> None:
    """Nobody has to kill it; nothing is held after it, and every request ended once."""
    assert end.code == 0
    assert GRACE_SECONDS - 1 < end.seconds < KILL_SECONDS
    assert end.left_open == 0
    assert {len(endings) for endings in end.known.values()} == {1}
    assert len(end.known) == 3 * len(VOICES)


def test_a_stream_within_the_grace_is_heard_to_its_end(end: Ended) -> None:
    """Its client gets all of it, and pays what the upstream says."""
    for caller in end.short:
        found, attempt = end.of(caller)
        assert caller.is_good
        assert found.usage == attempt.said == {"input": INPUT, "output": 60}
        assert found.flags == ()


def test_a_stream_that_outlasts_the_grace_pays_for_what_came(end: Ended) -> None:
    """C3: it is cut with an error event; delivered = charged, and the charge is flagged."""
    for caller in end.long:
        found, attempt = end.of(caller)
        assert caller.has_failed
        assert not caller.has_end
        assert b"service_unavailable" in caller.text
        assert found.flags == ("estimated", "interrupted")
        assert 200 <= caller.pieces == found.output <= attempt.made < 1_000
        assert attempt.said is None


def test_a_whole_answer_that_nobody_saw_costs_its_input(end: Ended) -> None:
    """B1: it was asked for and cannot be waited for: its input, flagged, and no token of output."""
    named = {caller.request_id for caller in (*end.short, *end.long)}
    unseen = end.known.keys() - named
    assert len(unseen) == len(VOICES)
    for name in unseen:
        (found,) = end.known[name]
        assert (found.ending, found.output) == ("settled", 0)
        assert found.usage["input"] > 0
        assert found.flags == ("estimated", "interrupted")
        assert len(end.asked[name]) == 1
    assert not any(caller.is_good for caller in end.whole)


def test_who_waits_for_a_whole_answer_is_told_that_the_service_ends(end: Ended) -> None:
    """503 in the dialect's words and with the request's id, not the server's own plain text."""
    for caller in end.whole:
        assert caller.status == 503, bytes(caller.text)
        assert b"service_unavailable" in caller.text
        assert caller.has_failed
        assert end.known[caller.request_id][0].flags == ("estimated", "interrupted")
