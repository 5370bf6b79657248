"""The connection between service and database breaks at every place it can break at."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import proxy
import pytest
import rig

pytestmark = pytest.mark.faults


class Setting(NamedTuple):
    """A service that reaches its database through a proxy."""

    server: rig.Postgres
    database: str
    proxy: proxy.Proxy
    service: rig.Service
    client: httpx.Client
    key: str

    def record(self, request_id: str) -> httpx.Response:
        """Record a request."""
        return self.client.post("/usage", json=rig.usage(self.key, request_id))

    def events_of(self, request_id: str) -> list[str]:
        """Return the events about a request."""
        return rig.events_of(self.server, self.database, request_id)


@pytest.fixture(scope="module")
def setting(server: rig.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Yield a service behind a proxy, with an account and a key that have spent something."""
    # Tests of a module may come back to a worker after others: each time a database of its own.
    name = f"proxied_{os.urandom(4).hex()}"
    server.create(name, rig.TEMPLATE)
    between = proxy.Proxy(server.port)
    url = server.url(name, port=between.port)
    home: Path = tmp_path_factory.mktemp("network") / "k"
    with (
        rig.Service(home, KEYLEDGER_DATABASE_URL=url) as service,
        rig.subject(service) as (client, _, key),
    ):
        found = Setting(server, name, between, service, client, key)
        rig.answered(found.record("warm"))
        yield found
    between.stop()


@pytest.fixture(autouse=True)
def whole(setting: Setting) -> Iterator[None]:
    """Begin and end with a network that works, and with the same processes."""
    before = setting.service.workers()
    yield
    setting.proxy.armed, setting.proxy.closed = "", False
    rig.until(lambda: setting.record("whole").status_code == 200, within=10)
    assert setting.service.workers() == before


def broken(setting: Setting, where: str, request_id: str) -> httpx.Response:
    """Record a request whose batch meets a break."""
    setting.proxy.broke = 0
    setting.proxy.armed = where
    answer = setting.record(request_id)
    assert setting.proxy.broke == 1
    return answer


@pytest.mark.parametrize("where", ["after_commit", "half_of_the_reply"])
def test_a_lost_acknowledgement_is_resolved_from_the_lane_head(
    setting: Setting, where: str
) -> None:
    """Promise 3, B4: COMMIT was sent and its reply lost; the head tells that the batch is in."""
    for turn in range(3):
        request_id = f"{where}-{turn}"
        answer = broken(setting, where, request_id)
        receipt = rig.answered(answer)
        assert setting.events_of(request_id) == ["request_recorded"]
        again = setting.record(request_id)
        assert again.headers["idempotent-replayed"] == "true"
        assert rig.answered(again) == receipt


@pytest.mark.parametrize("where", ["before_commit", "half_of_the_append"])
def test_a_batch_cut_before_its_commit_is_refused_and_not_written(
    setting: Setting, where: str
) -> None:
    """Promise 13, C11: nothing of the batch is in, 503 says so, a repeat charges once."""
    for turn in range(3):
        request_id = f"{where}-{turn}"
        answer = broken(setting, where, request_id)
        assert rig.is_refused_for_now(answer), answer.text
        assert answer.json()["code"] == "ledger_is_unavailable"
        assert setting.events_of(request_id) == []
        rig.answered(setting.record(request_id))
        assert setting.events_of(request_id) == ["request_recorded"]


def test_a_silent_connection_is_given_up(setting: Setting) -> None:
    """Promise 13: a black hole swallows the batch; the answer is 503 and comes in bounded time."""
    began = time.monotonic()
    answer = broken(setting, "black_hole", "hole")
    assert time.monotonic() - began < 40
    if answer.status_code == 200:
        pytest.fail("acknowledged although nothing reached the database")
    assert rig.is_refused_for_now(answer), answer.text
    assert setting.events_of("hole") == []
    rig.answered(setting.record("hole"))
    assert setting.events_of("hole") == ["request_recorded"]


def test_nothing_is_admitted_while_the_network_is_gone(setting: Setting) -> None:
    """A3, A4, promise 13: no reserve passes without the database; reads are refused as well."""
    setting.proxy.closed = True
    body = {**rig.usage(setting.key, "gone"), "ttl_seconds": 60}
    with ThreadPoolExecutor(8) as pool:
        reserves = [
            pool.submit(setting.client.post, "/requests", json={**body, "request_id": f"gone-{n}"})
            for n in range(6)
        ]
        reads = [pool.submit(setting.client.get, f"/keys/{setting.key}") for _ in range(2)]
        answers = [each.result() for each in reserves + reads]
    assert all(map(rig.is_refused_for_now, answers)), [answer.text for answer in answers]
    setting.proxy.closed = False
    assert not any(setting.events_of(f"gone-{n}") for n in range(6))
    rig.answered(setting.client.get(f"/keys/{setting.key}"))


def test_a_break_in_a_full_batch_answers_every_caller(setting: Setting) -> None:
    """Promise 3: of many callers in one broken batch each gets one answer, and it is true."""
    answers: dict[str, int] = {}
    done = threading.Event()

    def arm() -> None:
        while not done.is_set():
            setting.proxy.armed = setting.proxy.armed or next(turns)
            time.sleep(0.05)

    turns: Iterator[str] = iter(["after_commit", "before_commit", "half_of_the_append"] * 100)
    breaker = threading.Thread(target=arm)
    breaker.start()

    def call(number: int) -> None:
        answers[f"full-{number}"] = setting.record(f"full-{number}").status_code

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(400)))
    done.set()
    breaker.join()
    setting.proxy.armed = ""
    assert set(answers.values()) == {200, 503}
    rows = setting.server.ask(
        setting.database,
        "SELECT payload ->> 'request_id', count(*) FROM events"
        " WHERE payload ->> 'request_id' LIKE 'full-%%' GROUP BY 1",
    )
    stored = dict(rows)
    assert set(stored.values()) == {1}
    assert {name for name, status in answers.items() if status == 200} <= set(stored)


def test_an_idle_pool_recovers_soon_after_an_outage(setting: Setting) -> None:
    """Promise 13: reads work within seconds of the network's return, however long it was away."""
    setting.proxy.closed = True
    until_down = time.monotonic() + 9
    while time.monotonic() < until_down:
        assert setting.client.get(f"/keys/{setting.key}").status_code == 503
    setting.proxy.closed = False
    back = time.monotonic()
    rig.until(
        lambda: setting.client.get(f"/keys/{setting.key}").status_code == 200, within=5, every=0.2
    )
    assert time.monotonic() - back < 5
