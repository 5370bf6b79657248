"""A counter in which nothing counts leaves no trace in its table."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger import events as e
from ledger.ids import AccountId, KeyId
from ledger.record.lanes import Writer
from ledger.server import database
from projections import rebuild
from tests.projections.story import SMALL, Ledger
from tests.properties import core

REQUESTS = e.LimitRule(kind="requests", window="rolling:60", ceiling="1")
Owned = tuple[AccountId, KeyId]


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """Yield a ledger in which something can be bought."""
    found = Ledger(database_url)
    found.start()
    yield found
    assert rebuild.rebuild(database_url).equal


def holder(ledger: Ledger, name: str, *, of_account: bool) -> Owned:
    """Open an account with a key; one of the two may have one request under way."""
    account = ledger.account(name)
    key = ledger.key(account, name)
    ledger.do(
        core.open_account(account, limits=(REQUESTS,) if of_account else ()),
        core.grant(account, "100"),
        core.issue(account, key, limits=() if of_account else (REQUESTS,)),
    )
    return account, key


def limited(owned: Owned, *rules: e.LimitRule, of_account: bool) -> Any:
    """Set the limits of the account or of the key."""
    if of_account:
        return core.set_account_limits(owned[0], *rules)
    return core.set_key_limits(*owned, *rules)


def pending(ledger: Ledger) -> list[str]:
    """Return every counter in the table that holds something."""
    return [
        counters
        for (counters,) in ledger.rows("SELECT counters::text FROM limit_counters")
        if '"pending":{"' in counters
    ]


async def races(ledger: Ledger, writer: Writer, owned: Owned, times: int, **about: bool) -> None:
    """End a hold while its limit is dropped and set again, in either order and one commit."""
    for number in range(times):
        request = ledger.request_id()
        await writer.submit_one(core.reserve(*owned, request, SMALL))
        ended = core.release(*owned, request)
        if number % 3:
            ended = core.settle(*owned, request, SMALL)
        both = [ended, limited(owned, **about)]
        if number % 2:
            both.reverse()
        await asyncio.gather(*(writer.submit_one(command) for command in both))
        # What another process would read, and what it would go by.
        assert pending(ledger) == []
        database.set_clock_offset(ledger.url, timedelta(seconds=65 * (number + 1)))
        await writer.submit_one(limited(owned, REQUESTS, **about))


@pytest.mark.parametrize(
    "times", [pytest.param(12), pytest.param(200, marks=pytest.mark.soak)], ids=str
)
@pytest.mark.parametrize("of_account", [True, False])
def test_a_hold_that_ends_as_its_limit_is_dropped_leaves_nothing_pending(
    ledger: Ledger, times: int, *, of_account: bool
) -> None:
    """No hold of nobody stands in the table, so that nothing is refused for it ever after."""
    owned = holder(ledger, "acme-1", of_account=of_account)
    ledger.run(lambda writer: races(ledger, writer, owned, times, of_account=of_account))


@pytest.mark.parametrize("of_account", [True, False])
def test_a_limit_that_is_dropped_once_nothing_counts_takes_its_row_along(
    ledger: Ledger, *, of_account: bool
) -> None:
    """Promise 8: use, wait, drop the limit: the table says what the events say."""
    owned = holder(ledger, "acme-2", of_account=of_account)
    ledger.do(core.record(*owned, "r1", SMALL))
    database.set_clock_offset(ledger.url, timedelta(hours=1))
    ledger.do(limited(owned, of_account=of_account))
    found = ledger.rows(
        "SELECT counters::text FROM limit_counters WHERE subject_id = %s", owned[not of_account]
    )
    assert found == ([] if of_account else [("{}",)])


def test_a_key_that_only_failed_takes_its_row_along(ledger: Ledger) -> None:
    """Promise 8: it was never used, and had a counter all the same."""
    failures = e.LimitRule(kind="failures", window="rolling:60", ceiling="9")
    account, key = owned = holder(ledger, "acme-3", of_account=True)
    ledger.do(core.set_key_limits(*owned, failures))
    ledger.submit(core.record(account, key, "r1", SMALL, model="dear"))
    database.set_clock_offset(ledger.url, timedelta(hours=1))
    ledger.do(core.set_key_limits(*owned))
    assert ledger.rows("SELECT 1 FROM limit_counters WHERE subject_id = %s", key) == []
