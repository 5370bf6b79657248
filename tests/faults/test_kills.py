"""`kill -9` of every process at random moments, under load, and then an account of it all."""

import asyncio
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import rig

from ledger.record import verify
from ledger.server.database import SCHEMA
from ledger.server.embedded import EmbeddedPostgres
from projections import rebuild
from tests.conftest import SEED

pytestmark = pytest.mark.faults

ACCOUNTS = 4
KEYS = 3
CALLERS = 12
KILLS = ("worker", "backend", "terminated", "postmaster", "supervisor", "everything")
"""What is killed, at random moments and in random order, once in each round."""
THERE_SECONDS = 40
"""For a target that is being started again to be there."""


class Call:
    """One request to the service, repeated until it is answered."""

    def __init__(self, path: str, body: dict[str, Any], request_id: str, kind: str) -> None:
        """Take what is sent."""
        self.path, self.body, self.request_id, self.kind = path, body, request_id, kind
        self.attempts = 0
        self.receipt: dict[str, Any] | None = None
        """The first answer that was acknowledged."""

    def __repr__(self) -> str:
        """Name it."""
        return f"{self.kind} {self.request_id} after {self.attempts}"


class Load:
    """Callers who mix requests, note every answer, and come again where none came."""

    def __init__(self, service: rig.Service, keys: list[str]) -> None:
        """Take whom to call, as which keys."""
        self.service, self.keys = service, keys
        self.calls: list[Call] = []
        self.stopped = False
        self.client: httpx.AsyncClient

    async def run(self) -> None:
        """Call until stopped; return when everything was answered."""
        headers = {"Authorization": f"Bearer {rig.OPERATOR}"}
        base = self.service.address + "/ledger/v1"
        async with httpx.AsyncClient(
            base_url=base, headers=headers, timeout=60, verify=rig.TLS
        ) as self.client:
            await asyncio.gather(*(self._caller(number) for number in range(CALLERS)))

    async def _caller(self, number: int) -> None:
        chance = random.Random(SEED + number)  # noqa: S311 - to be repeated, not to be secret
        turn = 0
        while not self.stopped:
            turn += 1
            await self._one(chance, f"{number}-{turn}", chance.choice(self.keys))

    async def _one(self, chance: random.Random, name: str, key: str) -> None:
        body = rig.usage(key, name, chance.randint(1, 5000))
        kind = chance.choice(["record", "record", "settle", "release", "leave"])
        if kind == "record":
            await self._until_answered(Call("/usage", body, name, "recorded"))
            return
        ttl = 2 if kind == "leave" else 3600
        await self._until_answered(
            Call("/requests", {**body, "ttl_seconds": ttl}, name, "reserved")
        )
        if kind == "settle":
            used = {"key_id": key, "usage": {"input": chance.randint(1, 5000)}}
            await self._until_answered(Call(f"/requests/{name}/settle", used, name, "settled"))
        elif kind == "release":
            gone = {"key_id": key}
            await self._until_answered(Call(f"/requests/{name}/release", gone, name, "released"))

    async def _until_answered(self, call: Call) -> None:
        self.calls.append(call)
        deadline = time.monotonic() + 60
        while call.receipt is None:
            assert time.monotonic() < deadline, call
            call.attempts += 1
            try:
                answer = await self.client.post(call.path, json=call.body)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 503:
                assert rig.is_refused_for_now(answer), answer.text
                await asyncio.sleep(0.1)
                continue
            assert answer.status_code in {200, 201}, (call, answer.text)
            call.receipt = answer.json()


class Killer:
    """Kills one thing after the other, at moments that a seed chooses."""

    def __init__(self, service: rig.Service, rounds: int) -> None:
        """Take whose processes to kill, and how often each."""
        self.service = service
        self.rounds = rounds
        self.server = EmbeddedPostgres(service.home / "postgres")
        self.chance = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
        self.done: list[str] = []

    async def run(self) -> None:
        """Kill everything on the list; wait for what is away, being started again."""
        targets = [*KILLS] * self.rounds
        self.chance.shuffle(targets)
        for target in targets:
            await asyncio.sleep(self.chance.uniform(0.2, 1.2))
            kill = getattr(self, f"_{target}")
            await asyncio.to_thread(rig.until, kill, within=THERE_SECONDS)
            self.done.append(target)

    def _worker(self) -> bool:
        workers = self.service.workers()
        if workers:
            rig.end(self.chance.choice(workers))
        return bool(workers)

    def _postmaster(self) -> bool:
        pid = self.server._postmaster()
        if pid is not None:
            rig.end(pid)
        return pid is not None

    def _backend(self) -> bool:
        pid = self.server._postmaster()
        serving = [
            child
            for child in rig.children(pid or 0)
            if " keyledger keyledger " in rig.command_of(child)
        ]
        if serving:
            rig.end(self.chance.choice(serving))
        return bool(serving)

    def _terminated(self) -> bool:
        try:
            with psycopg.connect(self.server.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
        except psycopg.OperationalError:
            return False
        return True

    def _supervisor(self) -> bool:
        """Kill the supervisor alone; whoever watches it starts it again at once."""
        self.service.kill()
        return self._again()

    def _everything(self) -> bool:
        """Kill every process, as a machine that loses its power does."""
        pid = self.server._postmaster()
        self.service.kill_all()
        if pid is not None:
            rig.end(pid)
        return self._again()

    def _again(self) -> bool:
        rig.until(lambda: not any(map(rig.lives, self.service.orphans)), within=25)
        self.service.start()
        return True


@pytest.fixture
def service(tmp_path: Path) -> Iterator[rig.Service]:
    """Yield a service with its own embedded database."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with rig.Service(tmp_path / "k", workers=2) as service:
        yield service


@pytest.mark.parametrize("rounds", [1, pytest.param(6, marks=pytest.mark.soak)])
def test_kills_at_random_moments_lose_and_double_nothing(service: rig.Service, rounds: int) -> None:
    """Promises 2, 3, 4 and 7, C1 to C3, B1: what was acknowledged is there, once, as it was."""
    with service.client() as client:
        keys = []
        for number in range(ACCOUNTS):
            account = rig.open_account(client, f"A{number}", overdraft={"USD": "unlimited"})
            keys += [rig.issue(client, account)["key_id"] for _ in range(KEYS)]
    load, killer = Load(service, keys), Killer(service, rounds)

    async def both() -> None:
        loading = asyncio.create_task(load.run())
        await killer.run()
        await asyncio.sleep(1)
        load.stopped = True
        await loading

    asyncio.run(both())
    assert len(killer.done) == rounds * len(KILLS)
    assert sum(call.attempts > 1 for call in load.calls), "no call ever met a kill"
    url = killer.server.url
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}") as connection:
        _repeats_give_the_same_answer(service, load)
        _every_answer_is_an_event(connection, load)
        _reservations_end(connection, load)
        _sums_agree(connection, load)
    report = verify.verify(url)
    assert report.intact, report.findings
    _rebuilds_agree(url)


def _repeats_give_the_same_answer(service: rig.Service, load: Load) -> None:
    """Promise 4: any request sent once more gets its first answer, and nothing is added."""
    chance = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    done = [call for call in load.calls if call.kind == "recorded"]
    with service.client() as client:
        for call in chance.sample(done, min(len(done), 100)):
            answer = client.post(call.path, json=call.body)
            assert answer.headers["idempotent-replayed"] == "true"
            assert answer.json() == call.receipt, call


def _every_answer_is_an_event(connection: psycopg.Connection, load: Load) -> None:
    """Promise 3: once each, at the position and with the charge that was answered."""
    rows = connection.execute(
        "SELECT payload ->> 'request_id', replace(type::text, 'request_', ''), lane, lane_seq,"
        " coalesce(payload -> 'charge' ->> 'amount', payload ->> 'charge')"
        " FROM events WHERE type::text LIKE 'request_%' AND type <> 'request_refused'"
    ).fetchall()
    stored: dict[tuple[str, str], tuple[int, int, str | None]] = {}
    for request_id, kind, *rest in rows:
        assert (request_id, kind) not in stored, f"twice: {kind} {request_id}"
        stored[request_id, kind] = tuple(rest)
    for call in load.calls:
        assert call.receipt is not None
        assert call.receipt["status"] == call.kind, call
        lane, seq, charge = stored[call.request_id, call.kind]
        assert call.receipt["position"] == {"lane": lane, "seq": seq}, call
        if call.kind in {"recorded", "settled"}:
            assert charge is not None
            assert Decimal(call.receipt["charge"]["amount"]) == Decimal(charge), call
    asked = {(call.request_id, call.kind) for call in load.calls}
    assert {found for found in stored if found[1] != "expired"} == asked


def _reservations_end(connection: psycopg.Connection, load: Load) -> None:
    """B1: what was left open expires, once, although nobody asks; nothing stays held."""
    closed = {call.request_id for call in load.calls if call.kind in {"settled", "released"}}
    left = {call.request_id for call in load.calls if call.kind == "reserved"} - closed

    def none_open() -> bool:
        return connection.execute("SELECT count(*) FROM reservations").fetchone() == (0,)

    rig.until(none_open, within=30, every=0.5)
    rows = connection.execute(
        "SELECT payload ->> 'request_id' FROM events WHERE type = 'request_expired'"
    ).fetchall()
    assert sorted(row[0] for row in rows) == sorted(left)
    held = connection.execute("SELECT sum(pending), sum(overdraft_held) FROM balances").fetchone()
    assert held == (0, 0)


def _sums_agree(connection: psycopg.Connection, load: Load) -> None:
    """Promise 7: what clients were told they paid is what the log and the roll-up say."""
    told = sum(
        Decimal(call.receipt["charge"]["amount"])
        for call in load.calls
        if call.receipt and call.kind in {"recorded", "settled"}
    )
    for sql in (
        "SELECT trunc(sum((payload ->> 'charge')::numeric * 1e12)) FROM events",
        "SELECT sum(amount) FROM spend",
    ):
        row = connection.execute(sql).fetchone()
        assert row is not None
        assert row[0].scaleb(-12) == told


def _rebuilds_agree(url: str) -> None:
    """Promise 8: projections folded anew equal those that lived through the kills."""
    report = rebuild.rebuild(url)
    assert report.equal, [table for table in report.tables if not table.equal]
