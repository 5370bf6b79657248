"""Two hosts, several workers each, on one database: as one ledger."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest
import rig

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def name(server: rig.Postgres) -> str:
    """Return an empty database: both hosts find it as such."""
    server.create("shared")
    return "shared"


@pytest.fixture(scope="module")
def hosts(
    server: rig.Postgres, name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[rig.Service, rig.Service]]:
    """Yield two hosts that started at the same instant."""
    place = tmp_path_factory.mktemp("hosts")
    url = server.url(name)
    first, second = (
        rig.Service(place / host, workers=3, KEYLEDGER_DATABASE_URL=url) for host in "ab"
    )
    try:
        first.spawn()
        second.spawn()
        for host in (first, second):
            rig.until(host.is_ready, within=rig.READY_SECONDS)
        yield first, second
    finally:
        first.__exit__()
        second.__exit__()


Hosts = tuple[rig.Service, rig.Service]


def test_two_hosts_migrate_an_empty_database_at_once(
    server: rig.Postgres, name: str, hosts: Hosts
) -> None:
    """Both start; there is one operator's account and one version of the standard rate card."""
    counted = server.ask(name, "SELECT name, count(*) FROM rate_cards GROUP BY 1 ORDER BY 1")
    assert counted == [("foil", 1), ("reverie", 1), ("ryvion", 1), ("standard", 1)]
    opened = server.ask(name, "SELECT count(*) FROM events WHERE type = 'account_opened'")
    assert opened == [(1,)]
    assert all("Traceback" not in host.words() for host in hosts)


def test_concurrent_reserves_are_exact_across_hosts(hosts: Hosts) -> None:
    """Promise 5, A1, A8: of 64 racing reserves over six processes exactly as many as fit pass."""
    limit = {"kind": "requests", "window": "rolling:3600", "ceiling": "20"}
    with hosts[0].client() as client:
        account = rig.open_account(client, overdraft={"USD": "unlimited"})
        key = rig.issue(client, account, limits=[limit])["key_id"]

    def reserve(number: int) -> int:
        # A client of its own each, so that the calls spread over workers.
        with hosts[number % 2].client() as client:
            body = {**rig.usage(key, f"r-{number}"), "ttl_seconds": 600}
            return client.post("/requests", json=body).status_code

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(reserve, range(64)))
    assert sorted(statuses) == [201] * 20 + [429] * 44


def test_credit_is_never_overspent_across_hosts(hosts: Hosts) -> None:
    """Promise 5, A8: the last cent is spent once, whoever asks."""
    with hosts[0].client() as client:
        account = rig.open_account(client, welcome=False)
        key = rig.issue(client, account)["key_id"]
        body = {**rig.usage(key, "probe", 1_000_000), "delivered": True}
        price = rig.answered(client.post("/usage", json=body))["charge"]["amount"]
        # Pays what the probe cost and ten more of its kind.
        amount = f"{11 * int(Decimal(price) * 10**12)}".rjust(13, "0")
        grant = {"amount": f"{amount[:-12]}.{amount[-12:]}", "asset": "USD"}
        rig.answered(client.post(f"/accounts/{account}/grants", json=grant), 201)

    def record(number: int) -> int:
        with hosts[number % 2].client() as client:
            body = rig.usage(key, f"c-{number}", 1_000_000)
            return client.post("/usage", json=body).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(record, range(40)))
    assert sorted(statuses) == [200] * 10 + [402] * 30


def test_the_same_request_on_both_hosts_charges_once(hosts: Hosts) -> None:
    """Promise 4, C6: a request id sent to all processes at once has one receipt."""
    with rig.subject(hosts[0]) as (_, _, key):

        def record(number: int) -> tuple[bytes, bool]:
            with hosts[number % 2].client() as client:
                answer = client.post("/usage", json=rig.usage(key, "same"))
                assert answer.status_code == 200, answer.text
                return answer.content, "idempotent-replayed" in answer.headers

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(record, range(32)))
    assert len({body for body, _ in answers}) == 1
    assert [replayed for _, replayed in answers].count(False) == 1


def test_many_writers_on_few_keys_never_deadlock(
    server: rig.Postgres, name: str, hosts: Hosts
) -> None:
    """J6: 64 writers on 8 keys of both lanes; the database counts no deadlock."""
    keys = []
    with hosts[0].client() as client:
        for _ in range(4):
            account = rig.open_account(client, overdraft={"USD": "unlimited"})
            keys += [rig.issue(client, account)["key_id"] for _ in range(2)]

    def record(number: int) -> int:
        with hosts[number % 2].client() as client:
            items = [rig.usage(key, f"j-{number}-{key}") for key in keys[:: 1 - 2 * (number % 2)]]
            return rig.answered(client.post("/usage", json=items))["recorded"]

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(record, range(128))) == {8}
    sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert server.ask(name, sql) == [(0,)]


def test_a_revocation_on_one_host_bites_on_the_other(hosts: Hosts) -> None:
    """Promise 6, G1: after the revocation is answered no process accepts the key."""
    with rig.subject(hosts[0]) as (client, account, _):
        for turn in range(5):
            issued = rig.issue(client, account)
            body = {"model": rig.MODEL, "usage": {"input": 10}, "secret": issued["secret"]}

            def record(
                number: int, body: dict[str, object] = body, turn: int = turn
            ) -> httpx.Response:
                with hosts[number % 2].client() as other:
                    return other.post("/usage", json={**body, "request_id": f"v-{turn}-{number}"})

            with ThreadPoolExecutor(8) as pool:
                warm = list(pool.map(record, range(12)))
                assert {answer.status_code for answer in warm} == {200}
                rig.answered(client.post(f"/keys/{issued['key_id']}/revoke"))
                after = list(pool.map(record, range(100, 124)))
            assert 200 not in {answer.status_code for answer in after}


def test_the_other_host_goes_on_when_one_is_killed(
    server: rig.Postgres, name: str, hosts: Hosts
) -> None:
    """Promise 3: a host that dies takes nothing with it, and its jobs move to the other."""
    leader = "SELECT holder, until > clock_timestamp() FROM job_leader"
    # Whoever leads is the one to die.
    holder = rig.until(lambda: server.ask(name, leader), within=10)[0][0]
    pids = set(hosts[0].workers())
    dying, staying = hosts if int(holder.split(":")[1]) in pids else hosts[::-1]
    with rig.subject(staying) as (client, _, key):
        for number in range(40):
            if number == 10:
                dying.kill_all()
            rig.answered(client.post("/usage", json=rig.usage(key, f"h-{number}")))
        body = {**rig.usage(key, "short"), "ttl_seconds": 1}
        rig.answered(client.post("/requests", json=body), 201)

    def moved() -> bool:
        return any(who != holder and holds for who, holds in server.ask(name, leader))

    rig.until(moved, within=25, every=0.5)
    # The new leader's jobs work: what ran out is written down although nobody asks.
    rig.until(
        lambda: rig.events_of(server, name, "short") == ["request_reserved", "request_expired"],
        within=10,
    )
