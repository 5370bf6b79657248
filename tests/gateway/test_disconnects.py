"""Clients that go away, processes that end, a ledger that is away: nothing is lost (C2, C3, C8)."""

import asyncio
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.gateway import forward, settlement
from api.gateway.forward import Bounds
from api.gateway.settlement import Ending, Settlements
from ledger.errors import LedgerUnavailable
from ledger.ids import new_account_id, new_key_id
from ledger.requests import Settle
from ledger.usage import Usage
from tests.conftest import SEED
from tests.gateway.book import book, ended, open_reservations
from tests.gateway.rig import Rig, Thin, rig
from tests.gateway.scripted import INPUT, KEY, Scripted


class Raw:
    """A client on a bare socket, that may go away when it likes."""

    def __init__(self, found: Rig, secret: str) -> None:
        """Connect."""
        self._found, self._secret = found, secret
        self._socket = socket.create_connection(("127.0.0.1", found.port), timeout=30)
        self.text = b""

    def ask(self, plan: dict[str, Any], **body: Any) -> None:
        """Send a chat completion."""
        messages = [{"role": "user", "content": json.dumps(plan)}]
        text = json.dumps({"model": "m", "messages": messages, **body}).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {self._secret}\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + text)

    def read_until(self, what: bytes, *, times: int = 1) -> None:
        """Read until something came so often."""
        while self.text.count(what) < times:
            more = self._socket.recv(65_536)
            if not more:
                return
            self.text += more

    @property
    def request_id(self) -> str:
        """Return the request's id, from the head."""
        self.read_until(b"\r\n\r\n")
        head = self.text.partition(b"\r\n\r\n")[0].decode().lower()
        return head.partition("x-request-id: ")[2].split("\r\n")[0]

    def leave(self) -> None:
        """Go away."""
        self._socket.close()


@pytest.fixture(scope="module")
def secret(gateway: Rig) -> str:
    """Return a key of an account with credit."""
    return gateway.key(gateway.account())[1]


def test_a_client_that_leaves_is_charged_what_the_upstream_says(
    gateway: Rig, secret: str, ledger_url: str, upstream: Scripted
) -> None:
    """C8: the upstream is heard out for a short while, because it still may give usage."""
    raw = Raw(gateway, secret)
    raw.ask({"tokens": 40, "pause": 0.01}, stream=True)
    raw.read_until(b" tok", times=3)
    raw.leave()
    found = ended(ledger_url, raw.request_id)
    assert found.usage == {"input": INPUT, "output": 40}
    assert found.flags == ("interrupted",)
    assert upstream.said[raw.request_id] == 40


def test_an_upstream_is_not_heard_out_for_ever(
    gateway: Rig, secret: str, ledger_url: str, upstream: Scripted
) -> None:
    """After the short while it is let go, and what came is charged and flagged."""
    usual = gateway.services.gateway._bounds
    gateway.services.gateway._bounds = Bounds(drain_seconds=1)
    try:
        raw = Raw(gateway, secret)
        raw.ask({"tokens": 10_000, "pause": 0.05}, stream=True)
        raw.read_until(b" tok", times=3)
        raw.leave()
        found = ended(ledger_url, raw.request_id)
    finally:
        gateway.services.gateway._bounds = usual
    assert found.flags == ("estimated", "interrupted")
    assert 3 <= found.output <= upstream.said[raw.request_id] <= 100
    deadline = time.monotonic() + 5
    while raw.request_id not in upstream.closed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert upstream.closed[raw.request_id] <= found.output + 10


def test_a_client_that_leaves_before_a_whole_answer_is_charged_as_reported(
    gateway: Rig, secret: str, ledger_url: str
) -> None:
    """There is nobody to send it to, and yet it was made."""
    raw = Raw(gateway, secret)
    before = set(book(ledger_url))
    raw.ask({"tokens": 6, "fail_first": 1, "how": "stall"})
    time.sleep(0.2)
    raw.leave()
    (request_id,) = set(book(ledger_url)) - before
    found = ended(ledger_url, request_id)
    assert (found.usage["output"], found.flags) == (6, ())


def test_a_client_that_reads_no_more_is_not_waited_for_without_end(
    gateway: Rig, secret: str, ledger_url: str
) -> None:
    """A full socket blocks the stream until the request's time is up; then it is settled."""
    usual = gateway.services.gateway._bounds
    gateway.services.gateway._bounds = Bounds(total_seconds=2)
    try:
        raw = Raw(gateway, secret)
        raw.ask({"tokens": 3_000, "piece": "x" * 10_000}, stream=True)
        found = ended(ledger_url, raw.request_id, seconds=15)
    finally:
        gateway.services.gateway._bounds = usual
    raw.leave()
    assert "interrupted" in found.flags
    assert found.output > 0


def test_a_slow_client_slows_the_upstream_down(
    gateway: Rig, secret: str, upstream: Scripted
) -> None:
    """Nothing is buffered: what the client does not read, the upstream cannot send."""
    usual = gateway.services.gateway._bounds
    gateway.services.gateway._bounds = Bounds(drain_seconds=0)
    try:
        raw = Raw(gateway, secret)
        raw.ask({"tokens": 20_000, "piece": "x" * 10_000}, stream=True)
        request_id = raw.request_id
    finally:
        gateway.services.gateway._bounds = usual
    # The kernel's own buffers fill first, and grow a little.
    made, before = upstream.said[request_id], -1
    while made != before:
        time.sleep(0.5)
        made, before = upstream.said[request_id], made
    assert made < 10_000
    raw.leave()


def test_a_first_piece_is_not_kept_back(gateway: Rig, secret: str) -> None:
    """A piece reaches the client while the next is not even made."""
    raw = Raw(gateway, secret)
    raw.ask({"tokens": 2, "stall_after": 1, "stall_seconds": 1}, stream=True)
    began = time.monotonic()
    raw.read_until(b" tok")
    assert time.monotonic() - began < 0.8
    raw.read_until(b"[DONE]")
    raw.leave()


def test_what_is_settled_is_settled_before_the_stream_says_so(
    gateway: Rig, secret: str, ledger_url: str
) -> None:
    """Who has read the end of a stream finds its charge."""
    for _ in range(20):
        raw = Raw(gateway, secret)
        raw.ask({"tokens": 1}, stream=True)
        raw.read_until(b"[DONE]")
        assert [each.ending for each in book(ledger_url)[raw.request_id]] == ["settled"]
        raw.leave()


def test_nothing_is_lost(gateway: Rig, ledger_url: str, upstream: Scripted) -> None:
    """Whatever clients and upstreams do: what was made is charged, or charged and flagged."""
    draw = random.Random(SEED)  # noqa: S311 - a test's dice
    plans = [_plan(draw) for _ in range(150)]
    asked = _run_all(gateway, plans)
    deadline = time.monotonic() + 20
    while open_reservations(ledger_url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert open_reservations(ledger_url) == 0
    kept = book(ledger_url)
    assert len(asked) == len(plans)
    for request_id in asked:
        (found,) = kept[request_id]
        said = upstream.said.get(request_id, 0)
        assert found.output == said, (request_id, found, said, upstream.bodies[request_id])
        assert found.ending == "settled" or not said
        assert "estimated" in found.flags or found.ending == "released" or found.usage["input"] == 7


Plan = tuple[dict[str, Any], int | None, bool]


def _run_all(gateway: Rig, plans: list[Plan]) -> list[str]:
    """Send everything, two dozen at a time; return the request ids."""
    secret = gateway.key(gateway.account())[1]

    def run(planned: Plan) -> str:
        plan, leaves_after, stream = planned
        raw = Raw(gateway, secret)
        raw.ask(plan, stream=stream)
        request_id = raw.request_id
        if leaves_after is None:
            raw.read_until(b"\r\n0\r\n\r\n" if stream else b"}")
        elif leaves_after:
            raw.read_until(b" tok", times=leaves_after)
        raw.leave()
        return request_id

    with ThreadPoolExecutor(24) as pool:
        return list(pool.map(run, plans))


def _plan(draw: random.Random) -> Plan:
    tokens = draw.randint(1, 30)
    plan: dict[str, Any] = {
        "tokens": tokens,
        "usage": draw.random() < 0.7,
        "cut": draw.random() < 0.2,
        "crlf": draw.random() < 0.2,
        "pause": draw.choice([0, 0, 0.002, 0.01]),
    }
    stream = draw.random() < 0.8
    if stream and draw.random() < 0.3:
        plan["die_after"] = draw.randint(0, tokens - 1)
        plan["mid_chunk"] = draw.random() < 0.5
    if draw.random() < 0.2:
        plan |= {"fail_first": draw.randint(1, 3), "how": draw.choice(["500", "close", "half"])}
    leaves = draw.randint(0, tokens) if stream and draw.random() < 0.4 else None
    return plan, leaves, stream


def test_an_upstream_that_resets_loses_no_more_than_was_on_its_way(
    gateway: Rig, secret: str, ledger_url: str
) -> None:
    """A reset may throw away what the kernel held: what came is charged, and flagged."""
    raw = Raw(gateway, secret)
    raw.ask({"tokens": 20, "die_after": 10, "reset": True, "pause": 0.01}, stream=True)
    raw.read_until(b"upstream_failed")
    raw.leave()
    found = ended(ledger_url, raw.request_id)
    assert 8 <= found.output <= 10
    assert found.flags == ("estimated", "interrupted")


def test_a_process_that_ends_settles_its_streams(
    upstream: Scripted, ledger_url: str, tmp_path: Path
) -> None:
    """B1, C3: streams under way are heard to the end of the grace, then settled as interrupted."""
    app = Thin(tmp_path, ledger_url, upstream_url=upstream.url, upstream_key=KEY)
    with rig(app, grace_seconds=1) as found:
        secret = found.key(found.account())[1]
        short, long, whole = (Raw(found, secret) for _ in range(3))
        short.ask({"tokens": 20, "pause": 0.02}, stream=True)
        long.ask({"tokens": 5_000, "pause": 0.02}, stream=True)
        before = set(book(ledger_url))
        short.read_until(b" tok", times=2)
        long.read_until(b" tok", times=2)
        names = set(book(ledger_url))
        whole.ask({"fail_first": 1, "how": "stall"})
        time.sleep(0.3)
        (unseen,) = set(book(ledger_url)) - names - before
        found.ask_to_stop()
        short.read_until(b"[DONE]")
        long.read_until(b"unavailable")
    assert ended(ledger_url, short.request_id).flags == ()
    cut = ended(ledger_url, long.request_id)
    assert cut.flags == ("estimated", "interrupted")
    assert cut.output == long.text.count(b" tok")
    stopped = ended(ledger_url, unseen)
    assert (stopped.output, stopped.flags) == (0, ("estimated", "interrupted"))
    assert stopped.usage["input"] > 0
    assert open_reservations(ledger_url) == 0
    for raw in (short, long, whole):
        raw.leave()


def test_a_ledger_that_is_away_at_the_end_is_written_later(
    gateway: Rig, secret: str, ledger_url: str
) -> None:
    """C2, C11: the client has its answer; the settlement is handed in until it is taken."""
    raw = Raw(gateway, secret)
    raw.ask({"tokens": 30, "pause": 0.05}, stream=True)
    raw.read_until(b" tok", times=2)
    with psycopg.connect(ledger_url) as blocker:
        # Holds every lane's head: the ledger can decide nothing.
        blocker.execute("SELECT FROM keyledger.lane_heads FOR UPDATE")
        raw.read_until(b"[DONE]")
        assert b"[DONE]" in raw.text
        assert book(ledger_url)[raw.request_id] == []
        assert len(gateway.services.gateway.settlements) == 1
    found = ended(ledger_url, raw.request_id, seconds=30)
    assert (found.output, found.flags) == (30, ())
    raw.leave()


def test_an_expired_reservation_still_settles(
    gateway: Rig, secret: str, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expiry frees what was held; what was delivered is charged all the same, and says so."""
    monkeypatch.setattr(forward, "EXPIRY_SECONDS", 1 - Bounds().total_seconds)
    raw = Raw(gateway, secret)
    raw.ask({"tokens": 20, "pause": 0.1}, stream=True)
    raw.read_until(b"[DONE]")
    expired, settled = book(ledger_url)[raw.request_id]
    assert expired.ending == "expired"
    assert (settled.ending, settled.output, settled.flags) == ("settled", 20, ("late",))
    raw.leave()


class Away:
    """A ledger that takes nothing for a while."""

    def __init__(self, times: int) -> None:
        """Refuse so often."""
        self.left = times
        self.taken: list[str] = []

    async def finish(self, _account: Any, _key: Any, how: Settle) -> None:
        """Refuse, or take."""
        await asyncio.sleep(0)
        if self.left:
            self.left -= 1
            raise LedgerUnavailable
        self.taken.append(how.request_id)


def ending(number: int) -> Ending:
    """Return an ending."""
    usage = Usage(input=1, output=number)
    how = Settle(request_id=f"r{number}", usage=usage)
    return Ending(new_account_id(), new_key_id(0), how)


def test_what_waits_is_bounded_and_what_has_no_room_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Memory is bounded; beyond it the numbers are in the log, where an operator finds them."""
    ledger: Any = Away(3)

    async def run() -> None:
        settlements = Settlements(ledger, waiting_most=2)
        for number in range(3):
            settlements.later(ending(number))
        assert len(settlements) == 2
        await settlements.close(wait_seconds=5)
        assert len(settlements) == 0

    asyncio.run(run())
    assert sorted(ledger.taken) == ["r0", "r1"]
    said = capsys.readouterr().out
    assert "settlement_has_no_room" in said
    assert "r2" in said


def test_what_cannot_be_written_before_the_end_is_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends while the ledger is away leaves the numbers in the log."""
    monkeypatch.setattr(settlement, "BACKOFF_SECONDS_MAX", 0)
    ledger: Any = Away(10**9)

    async def run() -> None:
        settlements = Settlements(ledger)
        settlements.later(ending(7))
        await settlements.close(wait_seconds=1)

    asyncio.run(run())
    said = capsys.readouterr().out
    assert "settlement_not_written" in said
    assert "'output': 7" in said
