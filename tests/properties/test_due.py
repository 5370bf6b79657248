"""What ran out of those who ask is written down before they are decided, however much is due."""

import asyncio
import re
import time
from datetime import timedelta

import pytest

from ledger import events as e
from ledger.ids import lane_of_account
from ledger.record import lanes
from ledger.record.batch import Outcome
from ledger.record.due import questions
from ledger.record.lanes import DUE_MAX, Writer
from ledger.server import database
from projections import rebuild
from projections.registry import INLINE, LANES_WITH_DUE
from tests.properties import core
from tests.properties.audit import check_database
from tests.properties.core import account_id, key_id
from tests.properties.postgres import connected, ledger_clock, writing
from tests.properties.test_processes import an_account, prepared
from tests.properties.workers import USAGE

DRAINED_SECONDS = 120
HOLDS = [pytest.param(3 * DUE_MAX), pytest.param(20_000, marks=pytest.mark.soak)]
TTL = timedelta(seconds=60)


def neighbours(url: str) -> tuple:
    """Return two accounts of one lane, each with a key, and the commands that make them."""
    crowd = an_account(url, "crowd", overdraft={"USD": "unlimited"})
    lane = lane_of_account(crowd[0], 2)
    name = next(
        name for name in map(str, range(99)) if lane_of_account(account_id(name), 2) == lane
    )
    return crowd, an_account(url, name, grant="0.15")


async def hold(writer: Writer, account, key, count: int) -> None:
    """Reserve as many requests that all end at about the same time."""
    made = [core.reserve(account, key, f"h{n}", USAGE, ttl_seconds=60) for n in range(count)]
    outcomes = await writer.submit(made)
    assert all(isinstance(each, Outcome) for each in outcomes)


def open_holds(url: str) -> int:
    """Count what is still reserved."""
    with connected(url) as connection:
        return connection.execute("SELECT count(*) FROM reservations").fetchone()[0]


@pytest.mark.parametrize("count", HOLDS)
def test_a_crowd_of_others_keeps_nobody_from_their_credit(database_url, count) -> None:
    """All but one hold are another account's and ended before: the one is free when it is asked."""
    crowd, mine = neighbours(database_url)
    prepared(database_url, *crowd[2], *mine[2])

    async def run() -> None:
        async with writing(database_url) as writer:
            await hold(writer, *crowd[:2], count)
            await writer.submit_one(core.reserve(*mine[:2], "mine", USAGE, ttl_seconds=60))
            at = ledger_clock(database_url)
            soon = key_id("soon", lane_of_account(mine[0], 2))
            await writer.submit_one(core.issue(mine[0], soon, expires_at=at + TTL))
            await writer.submit_one(core.grant(mine[0], "1", expires_at=at + TTL, priority=0))
            one_key = e.LimitRule(kind="active_keys", window="lifetime", ceiling="2")
            await writer.submit_one(core.set_account_limits(mine[0], one_key))
            database.set_clock_offset(database_url, 2 * TTL)
            # Its hold, its key and its grant are all behind those of the crowd.
            await writer.submit_one(core.reserve(*mine[:2], "again", USAGE))
            third = key_id("third", lane_of_account(mine[0], 2))
            await writer.submit_one(core.issue(mine[0], third))
            await drained(database_url, 1)

    asyncio.run(run())
    log = check_database(database_url)
    types = [each.body.type for each in log if each.envelope.account_id == mine[0]]
    ended = ["request_expired", "key_expired", "grant_expired"]
    assert types[-5:] == [*ended, "request_reserved", "key_issued"]
    assert rebuild.rebuild(database_url).equal


def test_a_grant_for_later_repays_at_its_hour_though_nobody_asks(database_url) -> None:
    """It does so by the job's nudge, or with the next batch of the lane, whoever sent that."""
    crowd, mine = neighbours(database_url)
    prepared(database_url, *crowd[2], *mine[2])

    async def run() -> None:
        async with writing(database_url) as writer:
            at = ledger_clock(database_url)
            await writer.submit_one(core.record(*mine[:2], "owed", USAGE, delivered=True))
            await writer.submit_one(core.record(*mine[:2], "owed too", USAGE, delivered=True))
            await writer.submit_one(core.grant(mine[0], "1", effective_at=at + TTL))
            database.set_clock_offset(database_url, 2 * TTL)
            await writer.submit_one(core.record(*crowd[:2], "other", USAGE))

    asyncio.run(run())
    log = check_database(database_url)
    (last,) = [each.body for each in log if each.envelope.account_id == mine[0]][-1:]
    assert isinstance(last, e.GrantTookEffect)
    assert last.repaid
    with connected(database_url) as connection:
        waiting = connection.execute(LANES_WITH_DUE, {"at": ledger_clock(database_url)})
        assert waiting.fetchall() == []
    assert rebuild.rebuild(database_url).equal


def test_a_lane_asks_what_its_projections_say() -> None:
    """One statement, put together from the tables of those that have something to run out."""
    asked = questions([due for each in INLINE for due in each.due])
    assert re.findall(r"FROM (\w+)", asked.past) == [
        "request_ids",
        *("reservations", "clock", "keys", "clock", "lots", "clock", "lots", "clock"),
        *("rate_cards", "at", "statement_timestamp", "clock"),
    ]


async def drained(url: str, left: int) -> None:
    """Wait until the rest is written down, which nobody asks for."""
    deadline = time.monotonic() + DRAINED_SECONDS
    while open_holds(url) > left:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("count", HOLDS)
def test_all_that_an_account_held_is_free_when_it_asks(database_url, count, monkeypatch) -> None:
    """More than one transaction takes: none of it counts against the request that asks."""
    if count <= lanes.BATCH_MAX:
        monkeypatch.setattr(lanes, "BATCH_MAX", DUE_MAX)
    ceiling = str(count)
    rules = (e.LimitRule(kind="requests", window="lifetime", ceiling=ceiling),)
    terms = {"grant": str(count * 15 // 100), "limits": rules}
    account, key, commands = an_account(database_url, "acme", **terms)
    prepared(database_url, *commands)

    async def run() -> None:
        async with writing(database_url) as writer:
            await hold(writer, account, key, count)
            database.set_clock_offset(database_url, 2 * TTL)
            usage = core.Usage(input=count * USAGE.input)
            outcome = await writer.submit_one(core.reserve(account, key, "all", usage))
            (reserved,) = outcome.events
            assert reserved.body.held == terms["grant"]

    asyncio.run(run())
    log = check_database(database_url)
    assert sum(isinstance(each.body, e.RequestExpired) for each in log) == count
    assert rebuild.rebuild(database_url).equal
