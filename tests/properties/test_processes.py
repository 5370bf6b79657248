"""Several processes on one database: limits, credit and request ids hold over all of them."""

import asyncio
import functools
import multiprocessing
from collections import Counter
from collections.abc import Iterator

import pytest

from ledger import events as e
from ledger.errors import LimitIsReached
from ledger.ids import OPERATOR_ACCOUNT, lane_of_account
from ledger.money import PICO_PER_UNIT
from ledger.record.batch import Command
from tests.properties import core, workers
from tests.properties.audit import check_database
from tests.properties.core import START, a_card, account_id, key_id
from tests.properties.postgres import Stored, events_of, lanes_of, writing
from tests.properties.workers import USAGE

pytestmark = pytest.mark.processes

PROCESSES = 4


@pytest.fixture(scope="module")
def pool() -> Iterator:
    """Yield four processes, started once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with context.Pool(PROCESSES, workers.enter, (barrier,)) as running:
        yield functools.partial(running.map, workers.work, chunksize=1)
        running.close()
        running.join()


def opening() -> tuple[Command, ...]:
    """Return the commands that publish the usual prices."""
    return core.open_account(OPERATOR_ACCOUNT), core.publish(a_card())


def prepared(url: str, *commands) -> None:
    """Publish the usual prices, then let commands happen."""

    async def run() -> None:
        async with writing(url) as writer:
            for command in (*opening(), *commands):
                await writer.submit_one(command)

    asyncio.run(run())


def an_account(url: str, name: str = "a", *, grant: str = "", limits=(), **terms):
    """Return an account's id, a key's, and the commands that make them."""
    account = account_id(name)
    key = key_id(name, lane_of_account(account, lanes_of(url)))
    commands = [core.open_account(account, **terms), core.issue(account, key, limits=limits)]
    if grant:
        commands.append(core.grant(account, grant))
    return account, key, commands


def total(found: list[Counter]) -> Counter:
    """Sum what the processes saw."""
    return sum(found, Counter())


def test_credit_for_k_requests_admits_exactly_k(pool, database_url) -> None:
    """64 reserves at once from four processes against credit for exactly 23 (Promise 5, A1, A8)."""
    account, key, commands = an_account(database_url, grant="3.45")
    prepared(database_url, *commands)
    seen = total(pool([("reserve", database_url, account, key, 16)] * PROCESSES))
    assert seen == {"admitted": 23, "credit_is_exhausted": 41}
    log = check_database(database_url)
    assert sum(isinstance(event.body, e.RequestReserved) for event in log) == 23


def test_a_limit_of_k_requests_admits_exactly_k(pool, database_url) -> None:
    """64 reserves at once from four processes against 23 requests a day (Promise 5, H2, H3)."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="23"),)
    unlimited = {"USD": "unlimited"}
    account, key, commands = an_account(database_url, limits=rules, overdraft=unlimited)
    prepared(database_url, *commands)
    seen = total(pool([("reserve", database_url, account, key, 16)] * PROCESSES))
    assert seen == {"admitted": 23, "limit_is_reached": 41}
    log = check_database(database_url)
    refused = [event.body for event in log if isinstance(event.body, e.RequestRefused)]
    assert sum(body.count for body in refused) == 41
    assert len(refused) <= 2 * PROCESSES


def test_one_request_id_is_charged_once_by_all(pool, database_url) -> None:
    """The same request 40 times from four processes: one charge, 39 answers (Promise 4, D1)."""
    account, key, commands = an_account(database_url, grant="9")
    prepared(database_url, *commands)
    seen = total(pool([("same_request", database_url, account, key, 10)] * PROCESSES))
    assert seen == {"admitted": 1, "replayed": 39}
    state = core.fold([x for x in check_database(database_url) if x.envelope.account_id == account])
    assert state.accounts[account].balance("USD") == 9 * PICO_PER_UNIT - 15 * PICO_PER_UNIT // 100


def test_after_a_revocation_returned_nothing_succeeds_anywhere(pool, database_url) -> None:
    """Revoked in one process; no request begun after that succeeds in another (Promise 6, G1)."""
    account, key, commands = an_account(database_url, overdraft={"USD": "unlimited"})
    prepared(database_url, *commands)
    use = ("use_until", database_url, account, key, 1.5, 1)
    revoked_at, *seen = pool([("revoke_after", database_url, account, key, 0.6), use, use, use])
    outcomes = [one for process in seen for one in process]
    before = Counter(came for begun, came in outcomes if begun < revoked_at)
    after = Counter(came for begun, came in outcomes if begun >= revoked_at)
    assert before["admitted"] > 20
    assert set(after) == {"key_is_revoked"}
    assert after["key_is_revoked"] > 20
    check_database(database_url)


def test_rotation_under_load_fails_no_request_and_makes_no_money(pool, database_url) -> None:
    """Both secrets race while the key is rotated: zero failures, one purse (A16, A17, G3)."""
    account, key, commands = an_account(database_url, grant="100000")
    prepared(database_url, *commands)
    use = ("use_until", database_url, account, key, 1.2, 1)
    rotated, *seen = pool([("rotate_and_use", database_url, account, key, 10), use, use, use])
    came = Counter(came for process in seen for _, came in process)
    assert rotated == {"admitted": 10}
    assert set(came) == {"admitted"}
    log = check_database(database_url)
    state = core.fold([event for event in log if event.envelope.account_id == account])
    spent = (came["admitted"] + 10) * 15 * PICO_PER_UNIT // 100
    assert state.accounts[account].balance("USD") + spent == 100_000 * PICO_PER_UNIT
    assert len(state.keys[key].secrets) == 11


def test_many_writers_on_few_accounts_never_deadlock(pool, database_url) -> None:
    """64 connections write to 8 hot accounts: no deadlock, no failure, nothing lost (J6, C5)."""
    made = [an_account(database_url, f"hot-{n}", overdraft={"USD": "unlimited"}) for n in range(8)]
    prepared(database_url, *(command for _, _, commands in made for command in commands))
    hot = [(account, key) for account, key, _ in made]
    seen = total(pool([("hammer", database_url, hot, 8, 12)] * PROCESSES))
    assert seen == {"admitted": PROCESSES * 8 * 12}
    assert workers.deadlocks(database_url) == 0
    log = check_database(database_url)
    assert sum(isinstance(event.body, e.RequestRecorded) for event in log) == PROCESSES * 8 * 12


def test_a_thousand_refusals_in_a_second_are_three_events_at_most(database_url) -> None:
    """Repeated refusals are counted, and their counts sum to what was refused.

    That is so also when the process ends with the last of them still held back.
    """
    rules = (e.LimitRule(kind="requests", window="day", ceiling="0"),)
    account, key, commands = an_account(database_url, limits=rules)
    prepared(database_url, *commands)

    async def run() -> None:
        async with writing(database_url) as writer:
            made = [core.record(account, key, f"r{n}", USAGE) for n in range(1_000)]
            outcomes = await writer.submit(made)
            assert all(isinstance(outcome, LimitIsReached) for outcome in outcomes)

    asyncio.run(run())
    refused = [x.body for x in check_database(database_url) if isinstance(x.body, e.RequestRefused)]
    assert len(refused) <= 3
    assert sum(body.count for body in refused) == 1_000
    assert refused[0].request_id == "r0"
    assert refused[0].count == 1


def test_stopping_while_refusals_are_decided_loses_none(database_url) -> None:
    """A process that ends in the middle of a batch still writes what that batch held back (C3)."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="0"),)
    account, key, commands = an_account(database_url, limits=rules)
    prepared(database_url, *commands)

    async def run() -> None:
        async with writing(database_url) as writer:
            made = [core.record(account, key, f"r{n}", USAGE) for n in range(200)]
            answered = asyncio.create_task(writer.submit(made))
            await asyncio.sleep(0)
        assert len(await answered) == 200

    asyncio.run(run())
    refused = [event.body for event in events_of(database_url)]
    assert sum(body.count for body in refused if isinstance(body, e.RequestRefused)) == 200


def test_refusals_held_back_are_written_without_another_request(database_url) -> None:
    """A second later the count is in the log although nobody asked again."""
    rules = (e.LimitRule(kind="requests", window="day", ceiling="0"),)
    account, key, commands = an_account(database_url, limits=rules)
    prepared(database_url, *commands)

    async def run() -> int:
        async with writing(database_url) as writer:
            await writer.submit([core.record(account, key, f"r{n}", USAGE) for n in range(50)])
            for _ in range(40):
                await asyncio.sleep(0.1)
                bodies = [event.body for event in events_of(database_url)]
                counts = [body.count for body in bodies if isinstance(body, e.RequestRefused)]
                if sum(counts) == 50:
                    break
            return sum(counts)

    assert asyncio.run(run()) == 50


def test_what_ran_out_is_recorded_before_the_next_decision(database_url) -> None:
    """A key, a grant and a reservation end by time, whoever asks next (B1).

    Each end is an event before anything else is decided in its lane.
    """
    stored = Stored(database_url, START)
    try:
        account, key, commands = an_account(database_url, grant="1")
        for command in (*opening(), *commands):
            stored.submit(command)
        soon = START.replace(minute=1)
        stored.submit(core.grant(account, "2", priority=200, expires_at=soon))
        short = key_id("short", lane_of_account(account, lanes_of(database_url)))
        stored.submit(core.issue(account, short, expires_at=soon))
        stored.submit(core.reserve(account, key, "r1", USAGE, ttl_seconds=59))
        stored.at = soon
        stored.submit(core.record(account, key, "r2", USAGE))
    finally:
        stored.close()
    mine = [x for x in check_database(database_url) if x.envelope.account_id == account]
    assert [event.body.type for event in mine[-4:]] == [
        "request_expired",
        "key_expired",
        "grant_expired",
        "request_recorded",
    ]
