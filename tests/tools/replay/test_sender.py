"""Sending: in order, once each, resumed, retried, counted."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.tools.replay import fleet as fleets
from api.tools.replay import sender
from api.tools.replay.fleet import Fleet
from api.tools.replay.sender import BATCH, SINGLE, Item, Options, SenderIsRefused, ServiceIsGone
from api.tools.replay.tally import Latencies, ReplayTally
from api.tools.replay.traces import Trace, open_trace
from ledger.money import PICO_PER_UNIT

SECRET = "operator-secret-of-tests"


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Return 400 requests of 1,000 and 500 tokens: 0.002 USD each under the model m."""
    file = tmp_path / "even.csv"
    rows = [
        f"2023-11-16 18:{number // 60:02}:{number % 60:02}.0000000,1000,500\n"
        for number in range(400)
    ]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
    return open_trace(str(file), seed=1)


def mustered(world: Any, seed: int, tight: int = 0) -> Fleet:
    """Open a fleet whose keys use the model m."""

    def post(path: str, body: Any, idempotency_key: str) -> Any:
        headers = {"Idempotency-Key": idempotency_key}
        return world.client.post(f"/ledger/v1{path}", json=body, headers=headers).json()

    return fleets.muster(fleets.plan(seed, ["m"], tight_requests=tight), post)


def feed(world: Any, lane: int) -> Iterator[Any]:
    """Read a lane's events."""
    page = {"has_more": True, "next": "0"}
    while page["has_more"]:
        page = world.get(f"/lanes/{lane}/events?limit=1000&after={page['next']}")
        yield from page["data"]


def replay(url: str, trace: Trace, fleet: Fleet, **terms: Any) -> ReplayTally:
    """Send a trace."""
    tally = ReplayTally()
    requests = sender.items(trace, fleet, sender.recent_beginning(fleet))
    options = Options(url=url, secret=SECRET, **terms)
    asyncio.run(sender.send(requests, fleet.senders, options, tally, lambda: None))
    return tally


@pytest.mark.parametrize(("mode", "seed"), [(SINGLE, 11), (BATCH, 12)])
def test_a_second_run_charges_nothing_again(
    served: Any, world: Any, trace: Trace, mode: str, seed: int
) -> None:
    """Promise 4: the same seed sends the same ids, and the answers say that they are replayed."""
    fleet = mustered(world, seed)
    first = replay(served.url, trace, fleet, mode=mode)
    assert (first.charged, first.replayed, first.refused.total()) == (400, 0, 0)
    assert first.totals == {"USD": 400 * PICO_PER_UNIT // 500}
    second = replay(served.url, trace, fleet, mode=BATCH if mode == SINGLE else SINGLE)
    assert (second.charged, second.replayed) == (0, 400)
    assert second.totals == {}
    assert second.totals_replayed == first.totals


def test_a_run_that_was_cut_is_continued(served: Any, world: Any, trace: Trace) -> None:
    """What was sent is replayed, the rest is charged."""
    fleet = mustered(world, 13)
    cut = trace._replace(rows=lambda: (row for row in trace.rows() if int(row.identity) <= 150))
    assert replay(served.url, cut, fleet).charged == 150
    rest = replay(served.url, trace, fleet)
    assert (rest.replayed, rest.charged) == (150, 250)


def test_refusals_are_counted_by_reason_and_key(served: Any, world: Any, trace: Trace) -> None:
    """The tight key is refused from its limit on, and nobody else."""
    fleet = mustered(world, 14, tight=3)
    tally = replay(served.url, trace, fleet)
    tight = sum(
        fleet.senders[fleet.sender_of(str(n))].planned.integration == "free-trial"
        for n in range(1, 401)
    )
    assert dict(tally.refused) == {("limit_is_reached", "free-trial"): tight - 3}
    assert tally.sent == 400


def test_one_key_is_recorded_in_the_order_of_arrival(served: Any, world: Any, trace: Trace) -> None:
    """However many connections there are."""
    fleet = mustered(world, 15)
    replay(served.url, trace, fleet, connections=16)
    times: dict[str, list[tuple[int, str]]] = {}
    for lane in (0, 1):
        for event in feed(world, lane):
            if event["type"] == "request_recorded":
                place = (event["position"]["seq"], event["occurred_at"])
                times.setdefault(event["key_id"], []).append(place)
    of_fleet = [times[s.key_id] for s in fleet.senders if s.key_id in times]
    assert sum(map(len, of_fleet)) == 400
    for each in of_fleet:
        assert [at for _, at in sorted(each)] == sorted(at for _, at in each)


def test_speed_is_kept(served: Any, world: Any, trace: Trace) -> None:
    """400 seconds at 400 times their speed take a second."""
    fleet = mustered(world, 16)
    assert replay(served.url, trace, fleet, speed=400).seconds >= 0.99


def test_another_secret_ends_the_run(served: Any, world: Any, trace: Trace) -> None:
    """It would be refused 400 times otherwise."""
    fleet = mustered(world, 17)
    options = Options(url=served.url, secret="wrong")
    requests = sender.items(trace, fleet, sender.recent_beginning(fleet))
    with pytest.raises(SenderIsRefused, match="401"):
        asyncio.run(sender.send(requests, fleet.senders, options, ReplayTally(), lambda: None))


class Unsteady:
    """A service that is busy, hangs up, or answers, in turn; it notes what it was sent."""

    def __init__(self) -> None:
        """Begin."""
        self.seen: list[str] = []
        self.answered: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))["request_id"]
                self.seen.append(request)
                turn = self.seen.count(request)
                if turn == 1:
                    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}")
                elif turn == 2:
                    return
                else:
                    self.answered.append(request)
                    body = b'{"charge":{"amount":"0.5","asset":"USD"}}'
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                    writer.write(body)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


def requests_of(count: int) -> Iterator[tuple[int, Item]]:
    """Yield requests of two keys in turn."""
    for number in range(count):
        body = json.dumps({"request_id": f"r{number}"}).encode()
        yield 0, Item(number % 2, body)


def senders_of(count: int) -> list[Any]:
    """Return keys that there are nowhere."""
    plan = fleets.plan(1, ["m"], keys=count, tight_requests=0)
    return [fleets.Sender(f"key_{n}", "acct", "A", "", key) for n, key in enumerate(plan.keys)]


def test_busy_and_broken_answers_are_tried_again_under_the_same_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request is answered once in the end, those of a key still in their order."""
    monkeypatch.setattr(sender, "RETRY_FIRST_SECONDS", 0.001)
    service, tally = Unsteady(), ReplayTally()

    async def run() -> None:
        server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = Options(url=f"http://127.0.0.1:{port}", secret="any", connections=4)
        async with server:
            await sender.send(requests_of(20), senders_of(2), options, tally, lambda: None)

    asyncio.run(run())
    assert sorted(service.answered) == sorted(f"r{number}" for number in range(20))
    for key in (0, 1):
        of_key = [int(name[1:]) for name in service.answered if int(name[1:]) % 2 == key]
        assert of_key == sorted(of_key)
    assert (tally.charged, tally.retries) == (20, 40)


def test_a_service_that_is_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without any answer, and in words."""
    monkeypatch.setattr(sender, "GIVE_UP_SECONDS", 0.05)
    monkeypatch.setattr(sender, "RETRY_FIRST_SECONDS", 0.02)
    options = Options(url="http://127.0.0.1:9", secret="any")
    with pytest.raises(ServiceIsGone, match="does not answer"):
        asyncio.run(
            sender.send(requests_of(3), senders_of(2), options, ReplayTally(), lambda: None)
        )


def test_quantiles_are_close_whatever_the_scale() -> None:
    """To one part in 128, in little memory."""
    latencies = Latencies()
    for microseconds in range(1, 100_001):
        latencies.add(microseconds)
    assert abs(latencies.quantile(50) - 50_000) < 50_000 / 100
    assert abs(latencies.quantile(99) - 99_000) < 99_000 / 100
    assert len(latencies._buckets) < 2_000
