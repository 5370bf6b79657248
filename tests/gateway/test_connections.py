"""How connections end on both sides of the service: in order, by a reset, half; and slowly."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.dialects.fleet import running
from tests.faults.rig import until
from tests.gateway.book import Booked, book, ended, open_reservations
from tests.gateway.caller import WAYS, Caller
from tests.gateway.truthful import INPUT, VOICES, Attempt, Truthful, told

pytestmark = pytest.mark.processes

PACED = {"tokens": 50, "pause": 0.02}
"""A second of tokens."""
SLOW_BYTES = 4_096
"""So many are read one at a time, with a pause after each."""
SLOW_SECONDS = 0.0005


class World(NamedTuple):
    """An upstream, a worker before it, and a key with credit."""

    upstream: Truthful
    url: str
    port: int
    secret: str

    def ask(self, kind: str, plan: Mapping[str, Any], *, stream: bool = True) -> Caller:
        """Send a request over a connection of its own."""
        return Caller(self.port, self.secret).ask(kind, plan, stream=stream)

    def ended(self, caller: Caller) -> tuple[Booked, Attempt]:
        """Return how a request ended, and what the upstream wrote of the one time it was asked."""
        found = ended(self.url, caller.request_id)
        (attempt,) = told(self.upstream)[caller.request_id]
        return found, attempt


@pytest.fixture(scope="module")
def world(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve for the module."""
    home = tmp_path_factory.mktemp("connections")
    upstream = Truthful(home)
    terms = {"KEYLEDGER_UPSTREAM_URL": upstream.url, "KEYLEDGER_UPSTREAM_READ_SECONDS": "5"}
    try:
        with running(dialects_url, home / "k", **terms) as fleet:
            person = fleet.person()
            fleet.grant(person.account_id, CAD="1000")
            path = f"/ledger/v1/accounts/{person.account_id}/keys"
            made = fleet.operator.post(path, json={"name": "bot", "dialect": "ryvion"})
            yield World(upstream, dialects_url, fleet.service.port, made.json()["secret"])
    finally:
        upstream.kill()


def at_once(work: Callable[..., Any], *choices: Any) -> list[Any]:
    """Do something for every combination, all at once."""
    every = list(itertools.product(*choices))
    with ThreadPoolExecutor(len(every)) as pool:
        return list(pool.map(lambda chosen: work(*chosen), every))


def test_a_client_that_leaves_a_stream_is_charged_what_the_upstream_says(world: World) -> None:
    """C8: by FIN, by RST or of its own half alone: the upstream is heard out and believed."""

    def leave(kind: str, how: str) -> tuple[str, Caller]:
        caller = world.ask(kind, PACED).read(pieces=3)
        caller.leave(how)
        return how, caller

    for how, caller in at_once(leave, VOICES, WAYS):
        found, attempt = world.ended(caller)
        assert 3 <= caller.pieces < 50, how
        assert not caller.has_end, how
        assert found.usage == attempt.said == {"input": INPUT, "output": 50}, how
        assert found.flags == ("interrupted",), how


def test_a_client_that_leaves_before_a_whole_answer_is_charged_for_it(world: World) -> None:
    """It was asked for and made; how the asker went makes no difference, and nothing is flagged."""
    before = set(book(world.url))

    def leave(kind: str, how: str) -> None:
        caller = world.ask(kind, {"tokens": 12, "pause": 0.06}, stream=False)
        time.sleep(0.15)
        caller.leave(how)
        assert not caller.is_good

    at_once(leave, VOICES, WAYS)
    until(lambda: not open_reservations(world.url), within=10)
    known = book(world.url)
    fresh = known.keys() - before
    assert len(fresh) == len(VOICES) * len(WAYS)
    asked = told(world.upstream)
    for name in fresh:
        (found,), (attempt,) = known[name], asked[name]
        assert (found.ending, found.flags) == ("settled", ())
        assert found.usage == attempt.said == {"input": INPUT, "output": 12}


def test_an_upstream_that_ends_midway_is_charged_what_it_gave(world: World) -> None:
    """By FIN, by RST or of its own half alone: what came is charged, and the client is told."""

    def stay(kind: str, how: str) -> tuple[str, Caller]:
        plan = {**PACED, "end_after": 15, "how": how}
        return how, world.ask(kind, plan).read()

    for how, caller in at_once(stay, VOICES, WAYS):
        found, attempt = world.ended(caller)
        assert caller.is_whole, how
        assert caller.has_failed, how
        assert b"upstream_error" in caller.text, how
        assert not caller.has_end, how
        assert found.output == caller.pieces, how
        # A reset may throw away the last that came.
        assert 13 <= found.output <= attempt.made == 15, how
        assert found.output == 15 or how == "rst"
        assert found.flags == ("estimated", "interrupted"), how
        if how == "half":
            # The gateway gives its own half up as well.
            until(lambda: world.ended(caller)[1].closed, within=5)  # noqa: B023
        caller.leave()


def test_both_ends_go_away(world: World) -> None:
    """First the client, then the upstream while it is heard out: what passed is charged, once."""

    def leave(kind: str, ours: str, theirs: str) -> Caller:
        caller = world.ask(kind, {**PACED, "end_after": 30, "how": theirs}).read(pieces=3)
        caller.leave(ours)
        return caller

    for caller in at_once(leave, VOICES, WAYS, ("fin", "rst")):
        found, attempt = world.ended(caller)
        assert found.flags == ("estimated", "interrupted")
        assert caller.pieces <= found.output <= attempt.made == 30
        assert found.output >= 28
        assert attempt.said is None


def test_a_connection_outlives_what_others_did_to_theirs(world: World) -> None:
    """After resets on either side the next request is as good as the first."""
    for kind in VOICES:
        caller = world.ask(kind, {"tokens": 5}).read()
        found, attempt = world.ended(caller)
        assert caller.is_good
        assert (found.usage, found.flags) == (attempt.said, ())
        caller.leave()


@pytest.mark.parametrize("kind", VOICES)
def test_a_client_that_reads_byte_by_byte_gets_every_byte(world: World, kind: str) -> None:
    """However slowly: the same bytes, charged what the upstream says, and nothing is flagged."""
    plan = {"tokens": 400}
    quick = world.ask(kind, plan).read()
    quick.leave()
    slow = Caller(world.port, world.secret, receive_bytes=2_048).ask(kind, plan, stream=True)
    while not (slow.is_over or slow.is_whole):
        for _ in range(512):
            slow.read_on(1)
            if len(slow.text) < SLOW_BYTES:
                time.sleep(SLOW_SECONDS)
            if slow.text.endswith(b"0\r\n\r\n"):
                break
    slow.leave()
    assert slow.pieces == 400
    assert events(slow) == events(quick)
    for caller in (quick, slow):
        found, attempt = world.ended(caller)
        assert found.usage == attempt.said == {"input": INPUT, "output": 400}
        assert (found.ending, found.flags) == ("settled", ())


def events(caller: Caller) -> bytes:
    """Return the events of a stream, whatever chunks they came in."""
    body, out = bytes(caller.text.partition(b"\r\n\r\n")[2]), b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        out, body = out + rest[:length], rest[length + 2 :]
    return out


def test_a_client_that_leaves_slowly_is_charged_what_the_upstream_says(world: World) -> None:
    """Byte by byte to the third token, then a reset: a slow reader has no other rule."""
    caller = Caller(world.port, world.secret, receive_bytes=2_048)
    caller.ask("chat", PACED, stream=True)
    while caller.pieces < 3:
        caller.read_on(1)
    caller.leave("rst")
    found, attempt = world.ended(caller)
    assert found.usage == attempt.said == {"input": INPUT, "output": 50}
    assert found.flags == ("interrupted",)
