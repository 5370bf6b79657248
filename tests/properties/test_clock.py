"""One clock: the database's decides and is recorded, whatever clocks processes have."""

import asyncio
import functools
import multiprocessing
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from ledger import events as e
from ledger.errors import ClockIsOff, IncompatibleDatabase, KeyIsExpired
from ledger.record.store import LOCK_HEAD
from ledger.server import database
from tests.properties import core, workers
from tests.properties.audit import check_database
from tests.properties.core import account_id, key_id
from tests.properties.postgres import connected, events_of, ledger_clock, outcome_of, writing
from tests.properties.test_processes import an_account, prepared
from tests.properties.workers import USAGE

DAY = timedelta(days=1)
HOURLY = (
    e.LimitRule(kind="requests", window="rolling:3600", ceiling="3"),
    e.LimitRule(kind="requests", window="month", ceiling="9"),
)


@pytest.fixture
def elsewhere() -> Iterator:
    """Run jobs in another process, one at a time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, workers.enter, (context.Barrier(1),)) as running:
        yield functools.partial(running.apply, workers.work)
        running.close()
        running.join()


def record(url: str, account, key, *requests: str) -> list[str]:
    """Record requests one after another; say what came of each."""

    async def run() -> list[str]:
        async with writing(url) as writer:
            made = [core.record(account, key, request, USAGE) for request in requests]
            return [workers.code(await outcome_of(writer, command)) for command in made]

    return asyncio.run(run())


@pytest.mark.processes
def test_a_writer_whose_clock_is_40_days_ahead_freezes_no_window(elsewhere, database_url) -> None:
    """It is refused and records nothing; others go on, in the windows of the database's clock."""
    terms = {"overdraft": {"USD": "unlimited"}, "limits": HOURLY}
    account, key, commands = an_account(database_url, **terms)
    prepared(database_url, *commands)
    assert record(database_url, account, key, "r1") == ["admitted"]
    ahead = ("use_with_clock", database_url, account, key, 40 * DAY, 2)
    assert elsewhere((ahead,)) == ["clock_is_off", "clock_is_off"]
    assert record(database_url, account, key, "r2", "r3", "r4") == [
        *("admitted", "admitted"),
        "limit_is_reached",
    ]
    log = check_database(database_url)
    assert log[-1].envelope.recorded_at <= ledger_clock(database_url)
    assert {each.envelope.recorded_at - log[0].envelope.recorded_at < DAY for each in log} == {True}


@pytest.mark.processes
def test_what_a_process_takes_for_the_time_is_recorded_nowhere(elsewhere, database_url) -> None:
    """A clock that is four minutes ahead is let write, and what it writes bears no trace of it."""
    account, key, commands = an_account(database_url, grant="9")
    prepared(database_url, *commands)
    before = ledger_clock(database_url)
    ahead = ("use_with_clock", database_url, account, key, timedelta(minutes=4), 3)
    assert elsewhere((ahead,)) == ["admitted"] * 3
    after = ledger_clock(database_url)
    recorded = [each.envelope.recorded_at for each in events_of(database_url)][-3:]
    assert all(before <= at <= after for at in recorded)


def test_the_clock_is_read_once_the_lane_is_locked(database_url) -> None:
    """A batch that waited for the lock decides as of when it got it: the key has ended by then."""
    account, key, commands = an_account(database_url, overdraft={"USD": "unlimited"})
    prepared(database_url, *commands)
    lane = int.from_bytes(key.bytes[-2:])
    ends = timedelta(seconds=0.4)

    async def run() -> None:
        async with writing(database_url) as writer:
            short = key_id("short", lane)
            expires_at = ledger_clock(database_url) + ends
            await writer.submit_one(core.issue(account, short, expires_at=expires_at))
            with connected(database_url) as holding, holding.transaction():
                holding.execute(LOCK_HEAD, (lane,))
                asked = asyncio.create_task(
                    outcome_of(writer, core.record(account, short, "r1", USAGE))
                )
                await asyncio.sleep(2 * ends.total_seconds())
                assert not asked.done()
                released = ledger_clock(database_url)
            assert isinstance(await asked, KeyIsExpired)
            (*_, expired, refused) = events_of(database_url)
            assert isinstance(expired.body, e.KeyExpired)
            assert refused.envelope.recorded_at > expired.envelope.recorded_at >= released

    asyncio.run(run())


@pytest.mark.parametrize(("back", "came"), [(timedelta(seconds=3), None), (DAY, ClockIsOff)])
def test_a_clock_behind_the_head_is_off_until_it_is_right(database_url, back, came) -> None:
    """A little is made good by microseconds; more is refused, and nothing is restarted after it."""
    account, key, commands = an_account(database_url, grant="9")
    prepared(database_url, *commands)
    database.set_clock_offset(database_url, DAY)

    async def run() -> None:
        async with writing(database_url) as writer:
            await writer.submit_one(core.record(account, key, "r1", USAGE))
            database.set_clock_offset(database_url, DAY - back)
            try:
                await writer.submit_one(core.record(account, key, "r2", USAGE))
                assert came is None
            except ClockIsOff:
                assert came is ClockIsOff
            database.set_clock_offset(database_url, DAY + timedelta(seconds=1))
            await writer.submit_one(core.record(account, key, "r3", USAGE))

    asyncio.run(run())
    log = check_database(database_url)
    requests = [each.body.request_id for each in log if isinstance(each.body, e.RequestRecorded)]
    assert requests == (["r1", "r3"] if came else ["r1", "r2", "r3"])


def test_an_offset_plays_months(database_url) -> None:
    """Each month gets its partition, limits their windows, and what runs out does so (F1, F2)."""
    terms = {"overdraft": {"USD": "unlimited"}, "limits": HOURLY[1:]}
    account, key, commands = an_account(database_url, **terms)
    prepared(database_url, *commands)

    async def run() -> list[int]:
        months = []
        async with writing(database_url) as writer:
            for ahead in range(0, 400, 40):
                database.set_clock_offset(database_url, ahead * DAY)
                for number in range(10):
                    command = core.record(account, key, f"r{ahead}-{number}", USAGE)
                    months.append(workers.code(await outcome_of(writer, command)))
        return months

    assert asyncio.run(run()) == [*["admitted"] * 9, "limit_is_reached"] * 10
    check_database(database_url)
    at = ledger_clock(database_url)
    assert timedelta(days=359) < at - ledger_clock_of_server(database_url) < timedelta(days=361)


def ledger_clock_of_server(url: str):
    """Ask what the server's own clock says."""
    with connected(url) as connection:
        return connection.execute("SELECT statement_timestamp()").fetchone()[0]


def test_only_a_database_made_for_tests_has_an_offset(databases) -> None:
    """Any other refuses it, and refuses to become one."""
    name = databases.create()
    url = databases.url(name)
    try:
        database.upgrade(url, lanes=1)
        for refused in (
            lambda: database.set_clock_offset(url, DAY),
            lambda: database.upgrade(url, for_tests=True),
        ):
            with pytest.raises(IncompatibleDatabase, match="not made for tests"):
                refused()
        assert abs(ledger_clock(url) - ledger_clock_of_server(url)) < DAY
    finally:
        databases.drop(name)


def test_what_a_process_heard_goes_on_without_the_hosts_clock(database_url) -> None:
    """Reads have the clock that came with the last batch and what was counted since."""
    account, _, commands = an_account(database_url)
    database.set_clock_offset(database_url, 30 * DAY)
    prepared(database_url, *commands)

    async def run() -> None:
        async with writing(database_url) as writer:
            await writer.submit_one(core.grant(account, "1"))
            time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs
            late = ledger_clock(database_url) - writer.clock.now()
            assert abs(late) < timedelta(seconds=1)

    asyncio.run(run())
    assert account_id("a") == account
