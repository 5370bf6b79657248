"""The database is away, read-only, full, slow or short of a partition; the service fails closed."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import rig

from ledger.ids import parse_id

pytestmark = pytest.mark.faults

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
QUEUE_MAX, BATCH_MAX = 20_000, 5_000


@pytest.fixture(scope="module")
def name(server: rig.Postgres) -> str:
    """Return the database of this module."""
    server.create("weak", rig.TEMPLATE)
    return "weak"


@pytest.fixture(scope="module")
def service(
    server: rig.Postgres, name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[rig.Service]:
    """Yield a service whose processes outlive every fault of this module."""
    home = tmp_path_factory.mktemp("weak") / "k"
    with rig.Service(home, KEYLEDGER_DATABASE_URL=server.url(name)) as service:
        before = service.workers()
        yield service
        assert service.workers() == before, service.words()


Subject = tuple[httpx.Client, str, str]


@pytest.fixture
def subject(service: rig.Service) -> Iterator[Subject]:
    """Yield a client, an account and its key, which has been used."""
    with rig.subject(service) as found:
        client, _, key = found
        rig.answered(client.post("/usage", json=rig.usage(key, "first")))
        yield found


def refuses_everything(subject: Subject, tag: str) -> None:
    """See that every way to spend is refused with 503, and that nothing is acknowledged."""
    client, account, key = subject
    reserve = {**rig.usage(key, f"{tag}-reserve"), "ttl_seconds": 60}
    answers = [
        client.post("/usage", json=rig.usage(key, f"{tag}-record")),
        client.post("/requests", json=reserve),
        client.post(f"/accounts/{account}/keys", json={"name": "Bot", "dialect": "foil"}),
        client.post(f"/keys/{key}/revoke"),
    ]
    assert all(map(rig.is_refused_for_now, answers)), [each.text for each in answers]
    many = [rig.usage(key, f"{tag}-many-{n}") for n in range(3)]
    batch = client.post("/usage", json=many)
    if batch.status_code == 200:
        assert [item["problem"]["status"] for item in batch.json()["results"]] == [503] * 3
    else:
        assert rig.is_refused_for_now(batch), batch.text


def recovers(subject: Subject, tag: str, *, within: float) -> None:
    """See that the same request goes through again, once."""
    client, _, key = subject
    body = rig.usage(key, f"{tag}-record")
    rig.until(lambda: client.post("/usage", json=body).status_code == 200, within=within)
    again = client.post("/usage", json=body)
    assert again.headers["idempotent-replayed"] == "true"
    rig.until(lambda: client.get(f"/keys/{key}").status_code == 200, within=within)


def test_no_database_no_admission(server: rig.Postgres, name: str, subject: Subject) -> None:
    """Promise 13, A3, A4: away means 503 for all; back means back, without a restart."""
    server.stop()
    try:
        refuses_everything(subject, "away")
    finally:
        server.start()
    assert rig.events_of(server, name, "away-record") == []
    recovers(subject, "away", within=10)
    assert rig.events_of(server, name, "away-record") == ["request_recorded"]
    assert rig.events_of(server, name, "away-reserve") == []


def test_a_read_only_database_refuses(server: rig.Postgres, name: str, subject: Subject) -> None:
    """Promise 13: a database that takes no writes, as a demoted primary, admits nothing."""
    client = subject[0]

    def read_only(word: str) -> None:
        server.ask("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = {word}")
        server.ask(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )

    read_only("on")
    try:
        rig.until(lambda: client.get("/accounts").status_code == 200, within=10)
        refuses_everything(subject, "frozen")
        assert client.get("/accounts").status_code == 200, "reads go on"
    finally:
        read_only("off")
    recovers(subject, "frozen", within=10)


def test_a_locked_head_refuses_after_the_lock_time_out(
    server: rig.Postgres, name: str, subject: Subject
) -> None:
    """Promise 13: whoever cannot have the lane in time is told to come again."""
    client, _, key = subject
    with held(server, name):
        began = time.monotonic()
        answer = client.post("/usage", json=rig.usage(key, "slow-record"))
        assert rig.is_refused_for_now(answer), answer.text
        assert 5 < time.monotonic() - began < 15
        assert rig.events_of(server, name, "slow-record") == []
    recovers(subject, "slow", within=5)


@contextmanager
def held(server: rig.Postgres, database: str) -> Iterator[psycopg.Connection]:
    """Hold every lane's head, as a session that hangs would."""
    with server.connect(database) as connection, connection.transaction():
        connection.execute("SELECT lane FROM lane_heads FOR UPDATE")
        yield connection


def resident_mebibytes(pid: int) -> int:
    """Return what a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def test_a_full_queue_refuses_before_it_accepts(
    server: rig.Postgres, name: str, service: rig.Service, subject: Subject
) -> None:
    """Backpressure: beyond QUEUE_MAX nothing is accepted; all that was accepted is answered."""
    client, account, key = subject
    batch, calls = 2_000, 24

    def call(number: int) -> httpx.Response:
        items = [rig.usage(key, f"q-{number}-{n}") for n in range(batch)]
        return client.post("/usage", json=items)

    with ThreadPoolExecutor(calls) as pool, held(server, name):
        waiting = [pool.submit(call, number) for number in range(calls)]
        # Refused while the lane is still held: those need not wait for it.
        rig.until(lambda: sum(each.done() for each in waiting) >= calls - 12, within=30)
        peak = resident_mebibytes(service.workers()[0])
        early = [each.result() for each in waiting if each.done()]
    answers = [each.result() for each in waiting]
    full = [answer for answer in early if answer.json().get("code") == "queue_is_full"]
    assert full
    assert all(map(rig.is_refused_for_now, full))
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert 0 < len(accepted) * batch <= QUEUE_MAX + BATCH_MAX
    good = sum(answer.json()["recorded"] for answer in accepted)
    stored = server.ask(
        name,
        "SELECT count(*) FROM events WHERE type = 'request_recorded' AND account_id = %s",
        (parse_id("acct", account),),
    )
    assert stored == [(good + 1,)], "those accepted and the subject's first"
    assert peak < 400


class Caller:
    """Records requests one after the other until the service is gone, and sorts what came of it."""

    def __init__(self, service: rig.Service, key: str, name: str) -> None:
        """Take whom to call."""
        self.service, self.key, self.name = service, key, name
        self.acknowledged: list[str] = []
        self.unanswered: list[str] = []
        """The connection ended before a byte of answer."""
        self.cut: list[str] = []
        """An answer began and did not end."""

    def run(self) -> None:
        """Call until no connection is to be had."""
        with self.service.client() as client:
            for number in range(100_000):
                try:
                    self._call(client, f"{self.name}-{number}")
                except httpx.ConnectError:
                    return

    def _call(self, client: httpx.Client, request_id: str) -> None:
        try:
            answer = client.post("/usage", json=rig.usage(self.key, request_id))
        except httpx.RemoteProtocolError as error:
            whole = "without sending a response" in str(error)
            (self.unanswered if whole else self.cut).append(request_id)
        except (httpx.ReadError, httpx.WriteError):
            self.unanswered.append(request_id)
        else:
            if answer.status_code == 200:
                self.acknowledged.append(answer.json()["request_id"])
            else:
                assert rig.is_refused_for_now(answer), answer.text


def test_a_graceful_stop_answers_everything_accepted(
    server: rig.Postgres, tmp_path: Path, database: Callable[[], str]
) -> None:
    """Promise 3, C3: SIGTERM under load cuts no answer; what was acknowledged is in the ledger."""
    name = database()
    url = server.url(name)
    with (
        rig.Service(tmp_path / "k", workers=2, KEYLEDGER_DATABASE_URL=url) as service,
        rig.subject(service) as (_, _, key),
        ThreadPoolExecutor(16) as pool,
    ):
        callers = [Caller(service, key, f"s-{number}") for number in range(16)]
        running = [pool.submit(caller.run) for caller in callers]
        rig.until(lambda: all(len(each.acknowledged) > 5 for each in callers), within=30)
        began = time.monotonic()
        service.ask_to_stop()
        code = service.process.wait(timeout=40)
        took = time.monotonic() - began
        for each in running:
            each.result()
    stored = {row[0] for row in server.ask(name, _RECORDED)}
    assert code == 0
    assert took < 15
    for caller in callers:
        assert caller.cut == []
        assert set(caller.acknowledged) <= stored
        # A connection that ends without a byte of answer was never read from: nothing came of it.
        assert set(caller.unanswered) & stored == set()


_RECORDED = "SELECT payload ->> 'request_id' FROM events WHERE type = 'request_recorded'"


def test_a_missing_partition_refuses_until_it_is_there(
    server: rig.Postgres, name: str, service: rig.Service, subject: Subject
) -> None:
    """Promise 13, month's end: no partition for now is 503, and the job's own call mends it."""
    client, _, key = subject
    parts = server.ask(
        name, "SELECT relid::text FROM pg_partition_tree('events') WHERE isleaf ORDER BY 1"
    )
    assert len(parts) == 4, "this month and three ahead"
    this_month = parts[0][0]
    server.ask(name, f"ALTER TABLE events DETACH PARTITION {this_month}")
    server.ask(name, f"ALTER TABLE {this_month} RENAME TO past")
    answers = [client.post("/usage", json=rig.usage(key, f"p-{n}")) for n in range(3)]
    assert all(map(rig.is_refused_for_now, answers)), [each.text for each in answers]
    many = client.post("/usage", json=[rig.usage(key, f"p-m-{n}") for n in range(50)])
    assert {item["problem"]["status"] for item in many.json()["results"]} == {503}
    # As the job does it, under the service's own role.
    made = server.ask(
        name,
        "SET ROLE keyledger_app; SELECT create_events_partition(date_trunc('month', now())::date)",
    )
    assert made == [(True,)]
    rig.answered(client.post("/usage", json=rig.usage(key, "p-0")))
    assert "Traceback" not in service.words()


def test_partitions_are_made_ahead_without_stopping_writers(
    server: rig.Postgres, name: str, subject: Subject
) -> None:
    """J6: the job makes next months' partitions while a long read and the load go on."""
    client, _, key = subject
    done: list[Any] = []

    def make() -> None:
        with suppress(psycopg.errors.LockNotAvailable):
            done.append(server.ask(name, _MAKE_PARTITION))

    maker = threading.Thread(target=make)
    with server.connect(name) as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM events")
        maker.start()
        time.sleep(0.3)
        began = time.monotonic()
        rig.answered(client.post("/usage", json=rig.usage(key, "while")))
        took = time.monotonic() - began
        maker.join()
    assert done == [[(True,)]]
    assert took < 2


_MAKE_PARTITION = (
    "SET lock_timeout = '4s'; SET ROLE keyledger_app; SELECT create_events_partition('2099-01-01')"
)


@as_root
def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """Promise 13: no space left is 503, never a loss; room again is enough."""
    place = Path("/tmp") / f"keyledger-small-{os.getpid()}"  # noqa: S108 - the server's user enters
    place.mkdir(mode=0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120m,mode=0755", "tmpfs", str(place)], check=False
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip("no right to mount")
    small = rig.Postgres(place / "pg", max_wal_size="32MB", min_wal_size="32MB", wal_recycle="off")
    try:
        small.make()
        small.start()
        small.create("small")
        url = small.url("small")
        with (
            rig.Service(tmp_path / "k", KEYLEDGER_DATABASE_URL=url) as service,
            rig.subject(service) as found,
        ):
            _fill_and_empty(small, place, found)
    finally:
        small.stop()
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def _fill_and_empty(small: rig.Postgres, place: Path, found: Subject) -> None:
    client, _, key = found
    rig.answered(client.post("/usage", json=rig.usage(key, "first")))
    filler = place / "filler"
    _fill(filler)
    acknowledged, refused = _record_until_refused(client, key)
    assert refused
    filler.unlink()
    if not small._answers():
        # A server that could not write its log has stopped; whoever runs it starts it again.
        small.stop()
        small.start()
    body = rig.usage(key, "again")
    rig.until(lambda: client.post("/usage", json=body).status_code == 200, within=10)
    stored = [row[0] for row in small.ask("small", _RECORDED)]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)


def _fill(filler: Path) -> None:
    with filler.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(2**18))
            file.flush()


def _record_until_refused(client: httpx.Client, key: str) -> tuple[list[str], bool]:
    """Record until the disk is full; return what was acknowledged, and whether it came to that."""
    acknowledged: list[str] = []
    refused = 0
    for turn in range(60):
        items = [rig.usage(key, f"f-{turn}-{n}") for n in range(500)]
        answer = client.post("/usage", json=items)
        results = answer.json()["results"] if answer.status_code == 200 else []
        acknowledged += [each["receipt"]["request_id"] for each in results if each["ok"]]
        problems = [each["problem"] for each in results if not each["ok"]]
        assert {problem["status"] for problem in problems} <= {503}, problems[:3]
        assert results or rig.is_refused_for_now(answer), answer.text
        refused += bool(problems) or not results
        if refused > 3:
            break
    return acknowledged, bool(refused)


def test_a_hanging_server_is_given_up(server: rig.Postgres, name: str, subject: Subject) -> None:
    """Promise 13: a backend that is stopped (SIGSTOP) holds its callers for a bounded time."""
    client, _, key = subject
    stopped = [pid for pid in rig.children(server.pid) if f" {name} " in rig.command_of(pid)]
    assert stopped
    for pid in stopped:
        rig.end(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = client.post("/usage", json=rig.usage(key, "hang-record"))
        assert time.monotonic() - began < 35
        assert answer.status_code in {200, 503}, answer.text
        if answer.status_code == 503:
            assert rig.is_refused_for_now(answer)
    finally:
        for pid in stopped:
            rig.end(pid, signal.SIGCONT)
    recovers(subject, "hang", within=15)
