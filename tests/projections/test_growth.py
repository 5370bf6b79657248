"""A request costs the same however much came before it: no statement of a lane reads the past."""

import asyncio
from collections.abc import Sequence

import pytest

from ledger.ids import AccountId, KeyId
from ledger.record.lanes import Writer
from tests.projections.story import SMALL, Ledger
from tests.properties import core

READ = (
    "SELECT coalesce(sum(seq_tup_read), 0) + coalesce(sum(idx_tup_fetch), 0),"
    " (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes)"
    " FROM pg_stat_user_tables"
)
FLUSH_SECONDS = 1.1
"""PostgreSQL tells what a connection has read about once a second, when it has done something."""
TOGETHER = 20
HISTORY = 1_500


TABLES = ("request_ids", "reservations")


@pytest.fixture(params=["never", "when_small"])
def ledger(database_url: str, request: pytest.FixtureRequest) -> Ledger:
    """Return a ledger whose tables were analysed never, or when they were small and not since.

    The plans of prepared statements are made then, and kept.
    """
    ledger = Ledger(database_url)
    account, key = ledger.start()
    ledger.do(core.grant(account, "1000000"), core.set_key_limits(account, key))
    with ledger.superuser() as connection:
        for table in TABLES:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    if request.param == "when_small":
        ledger.run(lambda writer: turn(writer, ledger, account, key))
        with ledger.superuser() as connection:
            for table in TABLES:
                connection.execute(f"VACUUM ANALYZE {table}")
    return ledger


def test_a_request_reads_as_much_after_many_as_after_few(ledger: Ledger) -> None:
    """Reserved and settled together, recorded, released: tuples read do not grow with history."""
    account = ledger.account("acme")
    key = ledger.key(account, "bot")

    async def measured(writer: Writer) -> tuple[int, int]:
        # The plans of prepared statements are settled after a few uses.
        for _ in range(8):
            await turn(writer, ledger, account, key)
        few = await read_by_a_turn(writer, ledger, account, key)
        for _ in range(HISTORY // TOGETHER):
            await turn(writer, ledger, account, key)
        return few, await read_by_a_turn(writer, ledger, account, key)

    few, many = ledger.run(measured)
    assert many < 2 * few + TOGETHER, (few, many)


async def turn(writer: Writer, ledger: Ledger, account: AccountId, key: KeyId) -> None:
    """Let some requests be reserved, then all of them end."""
    names = [ledger.request_id() for _ in range(TOGETHER)]
    held = await writer.submit([core.reserve(account, key, name, SMALL) for name in names])
    ends = [
        core.settle(account, key, name, SMALL) if number % 4 else core.release(account, key, name)
        for number, name in enumerate(names)
    ]
    ended = await writer.submit([*ends, ledger.record(account, key)])
    require_outcomes([*held, *ended])


def require_outcomes(results: Sequence[object]) -> None:
    """Make sure that nothing was refused."""
    assert not [each for each in results if isinstance(each, Exception)]


async def read_by_a_turn(writer: Writer, ledger: Ledger, account: AccountId, key: KeyId) -> int:
    """Return how many tuples and index entries the server reads for one turn."""
    before = await read(writer, ledger, account, key)
    await turn(writer, ledger, account, key)
    return await read(writer, ledger, account, key) - before


async def read(writer: Writer, ledger: Ledger, account: AccountId, key: KeyId) -> int:
    """Return what the server has read by now; the lane's connection tells when it is used again."""
    await asyncio.sleep(FLUSH_SECONDS)
    await writer.submit([ledger.record(account, key)])
    await asyncio.sleep(0.1)
    ((tuples, entries),) = ledger.rows(READ)
    return int(tuples + entries)
