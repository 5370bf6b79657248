"""Whatever is thrown away can be made anew from the events, bit for bit, while others write."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.errors import LedgerCorrupt
from ledger.record.lanes import Writer
from ledger.server import database
from projections import engine, rebuild
from projections.behind import refusals
from projections.inline import spend
from projections.registry import INLINE
from tests.projections.story import LANES, NAMES, Ledger
from tests.properties import core

INLINE_TABLES = [table.name for each in INLINE for table in each.tables]


@pytest.fixture(scope="module")
def told(databases: Any, migrated_template: str) -> Iterator[str]:
    """Yield the name of a database in which everything happened."""
    name = databases.create(migrated_template)
    Ledger(databases.url(name)).tell_everything()
    yield name
    databases.drop(name)


@pytest.fixture
def ledger(databases: Any, told: str) -> Iterator[Ledger]:
    """Yield a ledger in which everything happened, for one test."""
    name = databases.create(told)
    yield Ledger(databases.url(name))
    databases.drop(name)


def tables_that_differ(report: rebuild.RebuildReport) -> list[tuple[int, str]]:
    """Return lane and name of tables that are not the same."""
    return [(table.lane, table.table) for table in report.tables if not table.equal]


def content(ledger: Ledger) -> dict[str, list[Any]]:
    """Return every row of every inline projection."""
    return {table: sorted(ledger.rows(f"SELECT t::text FROM {table} t")) for table in INLINE_TABLES}


def test_every_inline_projection_is_rebuilt_bit_for_bit(ledger: Ledger) -> None:
    """Promise 8: row for row and digest for digest, after every kind of event, in both lanes."""
    seen: list[tuple[int, int, int]] = []
    report = rebuild.rebuild(ledger.url, progress=lambda *step: seen.append(step))
    assert tables_that_differ(report) == []
    assert report.equal
    assert {table.table for table in report.tables} == set(INLINE_TABLES)
    assert {table.lane for table in report.tables} == set(range(LANES))
    filled = {table.table for table in report.tables if table.rows}
    # No reservation is open and nothing is unpriced at the end of the stories.
    assert filled == set(INLINE_TABLES) - {"reservations", "unpriced_requests"}
    assert report.events == sum(ledger.heads().values())
    assert {step[0] for step in seen} == set(range(LANES))


def test_open_reservations_and_unpriced_requests_are_rebuilt(ledger: Ledger) -> None:
    """Promise 8: also of what is still under way."""
    account = ledger.account("acme")
    key = ledger.key(account, "bot")
    ids = [ledger.request_id() for _ in range(3)]
    ledger.do(
        core.issue(account, ledger.key(account, "second")),
        *(core.reserve(account, key, each, core.Usage(input=1000)) for each in ids),
        core.release(account, key, ids[1]),
        core.record(account, key, "late", core.Usage(input=1), model="nowhere", delivered=True),
    )
    report = rebuild.rebuild(ledger.url)
    assert report.equal, tables_that_differ(report)
    rows = {table.table: table.rows for table in report.tables if table.lane == 0}
    assert (rows["reservations"], rows["unpriced_requests"]) == (2, 1)


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_rebuild_in_small_chunks_gives_the_same(
    ledger: Ledger, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 8: where chunks end makes no difference."""
    monkeypatch.setattr("ledger.record.verify.CHUNK", chunk)
    assert rebuild.rebuild(ledger.url).equal


def test_lanes_rebuilt_side_by_side_give_the_same_report(ledger: Ledger) -> None:
    """Several processes come to what one comes to."""
    assert rebuild.rebuild(ledger.url, processes=2) == rebuild.rebuild(ledger.url, processes=1)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE balances SET posted = posted + 1 WHERE account_id = %s", "balances"),
        ("UPDATE limit_counters SET counters = '{}' WHERE subject_id = %s", "limit_counters"),
        ("UPDATE accounts SET status = 'suspended' WHERE account_id = %s", "accounts"),
        ("UPDATE lots SET remaining = remaining + 1 WHERE account_id = %s", "lots"),
        ("DELETE FROM spend WHERE account_id = %s", "spend"),
        ("UPDATE keys SET name = name || ' ' WHERE account_id = %s", "keys"),
    ],
)
def test_an_edited_row_is_found_and_named(ledger: Ledger, statement: str, table: str) -> None:
    """Promise 7, Promise 8, Promise 12: a balance or counter set by hand is found by its key."""
    account = ledger.account("ada")
    with ledger.superuser() as connection:
        assert connection.execute(statement, (account,)).rowcount
    report = rebuild.rebuild(ledger.url)
    assert tables_that_differ(report) == [(0, table)]
    (found,) = [each for each in report.tables if not each.equal]
    named = str(account) in found.first_difference
    assert named or table == "keys", found
    assert found.digest != found.digest_anew


def test_a_surplus_row_is_found(ledger: Ledger) -> None:
    """Promise 7: credit that nobody granted is found."""
    with ledger.superuser() as connection:
        connection.execute(
            "INSERT INTO balances (account_id, lane, asset, posted, pending, overdrawn,"
            " overdraft_held) VALUES (%s, 0, 'EUR', 1, 0, 0, 0)",
            (ledger.account("ada"),),
        )
    report = rebuild.rebuild(ledger.url)
    assert tables_that_differ(report) == [(0, "balances")]
    (found,) = [each for each in report.tables if not each.equal]
    assert found.rows == found.rows_anew + 1
    assert '"asset":"EUR"' in found.first_difference


def test_lost_projections_are_put_back_and_writers_go_on(ledger: Ledger) -> None:
    """Promise 8: dropped rows come back as they were; a writer with a copy reads them anew."""
    before = content(ledger)

    async def main(writer: Writer) -> None:
        for name in NAMES:
            account = ledger.account(name)
            await writer.submit_one(core.grant(account, "1"))
        with ledger.superuser() as connection:
            for table in INLINE_TABLES:
                connection.execute(f"DELETE FROM {table}")
        report = await asyncio.to_thread(rebuild.rebuild, ledger.url, replace=True)
        assert not report.equal
        assert {table.table for table in report.tables if table.replaced} >= {"balances", "keys"}
        for name in NAMES:
            account = ledger.account(name)
            await writer.submit_one(core.grant(account, "1"))

    ledger.run(main)
    assert rebuild.rebuild(ledger.url).equal
    after = content(ledger)
    assert len(after["lots"]) == len(before["lots"]) + 2 * len(NAMES)
    assert after["spend"] == before["spend"]
    assert ledger.rows("SELECT epoch FROM lane_heads") == [(1,), (1,)]


def test_what_is_equal_is_not_replaced(ledger: Ledger) -> None:
    """A replacement touches nothing that is right: no epoch moves, no writer reloads."""
    report = rebuild.rebuild(ledger.url, replace=True)
    assert report.equal
    assert not any(table.replaced for table in report.tables)
    assert ledger.rows("SELECT max(epoch) FROM lane_heads") == [(0,)]


def test_one_projection_is_rebuilt_by_itself(ledger: Ledger) -> None:
    """Any of them, without the others."""
    with ledger.superuser() as connection:
        connection.execute("UPDATE spend SET amount = amount + 1")
        connection.execute("UPDATE balances SET posted = posted + 1")
    report = rebuild.rebuild(ledger.url, [spend.PROJECTION], replace=True)
    assert {table.table for table in report.tables} == {"spend"}
    assert not report.equal
    assert {table for _, table in tables_that_differ(rebuild.rebuild(ledger.url))} == {"balances"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_rebuild_equals_the_live_rows_while_a_writer_writes(
    ledger: Ledger,
    replace: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    """Promise 8: the service goes on, and both sides are compared at one position."""
    account = ledger.account("acme")
    key = ledger.key(account, "bot")

    async def main(writer: Writer) -> list[rebuild.RebuildReport]:
        going = True
        written = 0

        async def write() -> None:
            nonlocal written
            while going:
                outcomes = await writer.submit([ledger.record(account, key) for _ in range(5)])
                assert not any(isinstance(outcome, Exception) for outcome in outcomes)
                written += len(outcomes)

        ledger_task = asyncio.create_task(write())
        reports = []
        for _ in range(3):
            before = written
            reports.append(await asyncio.to_thread(rebuild.rebuild, ledger.url, replace=replace))
            assert written > before, "the writer was held up for the whole of a rebuild"
        going = False
        await ledger_task
        return reports

    ledger.do(core.grant(account, "1000000"))
    reports = ledger.run(main)
    assert [tables_that_differ(report) for report in reports] == [[], [], []]
    assert reports[0].events < reports[1].events < reports[2].events


def test_a_broken_chain_stops_a_rebuild(ledger: Ledger) -> None:
    """Promise 12: a rebuild folds nothing that the chain does not vouch for."""
    with ledger.superuser() as connection:
        connection.execute("SET session_replication_role = replica")
        for (part,) in connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        ).fetchall():
            connection.execute(f"ALTER TABLE {part} DISABLE TRIGGER ALL")
        connection.execute(
            "UPDATE events SET payload = replace(payload::text, '100', '900')::json"
            " WHERE lane = 0 AND type = 'credit_granted' AND lane_seq = 4"
        )
        with pytest.raises(LedgerCorrupt) as caught:
            rebuild.rebuild(ledger.url, replace=True)
        assert (caught.value.lane, caught.value.seq) == (0, 4)
        connection.execute("DELETE FROM events WHERE lane = 0 AND lane_seq = 3")
    with pytest.raises(LedgerCorrupt) as caught:
        rebuild.rebuild(ledger.url)
    assert (caught.value.lane, caught.value.seq) == (0, 3)


def test_a_forged_head_stops_a_rebuild(ledger: Ledger) -> None:
    """Promise 12: the lane's chain must end in what its head says."""
    with ledger.superuser() as connection:
        connection.execute("UPDATE lane_heads SET chain = sha256('') WHERE lane = 1")
    with pytest.raises(LedgerCorrupt) as caught:
        rebuild.rebuild(ledger.url)
    assert (caught.value.lane, caught.value.seq) == (1, ledger.heads()[1])


@pytest.mark.processes
def test_a_killed_rebuild_leaves_nothing(ledger: Ledger) -> None:
    """Shadow tables go with their session, however it ends."""
    before = content(ledger)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_rebuild_for_ever, args=(ledger.url, ready))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join()
    assert rebuild.rebuild(ledger.url, replace=True).equal
    left = (
        "SELECT count(*) FROM pg_class WHERE relname = 'balances'"
        " AND relnamespace <> 'keyledger'::regnamespace"
    )
    deadline = time.monotonic() + 30
    while ledger.rows(left) != [(0,)]:
        assert time.monotonic() < deadline, "tables are left over"
        time.sleep(0.1)
    assert content(ledger) == before


def _rebuild_for_ever(url: str, ready: Any) -> None:
    def wait(*_: int) -> None:
        ready.set()
        time.sleep(600)

    rebuild.rebuild(url, replace=True, processes=1, progress=wait)


def test_comparing_needs_no_right_but_to_read(ledger: Ledger) -> None:
    """The auditor's role compares; it cannot replace."""
    assert rebuild.rebuild(ledger.url, role=database.READER).equal
    with ledger.superuser() as connection:
        connection.execute("UPDATE balances SET posted = posted + 1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rebuild.rebuild(ledger.url, role=database.READER, replace=True)


# Catching-up projections.


def test_a_catching_up_projection_is_rebuilt_up_to_its_checkpoint(ledger: Ledger) -> None:
    """Promise 8: the breach log equals its rebuild, wherever it stands; edited, it is put back."""
    projection = refusals.PROJECTION

    async def some(lane: int, limit: int) -> None:
        info = database.conninfo(ledger.url, database.APP)
        async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
            await engine.catch_up(connection, projection, lane, limit)

    asyncio.run(some(0, 60))
    half = rebuild.rebuild_catching_up(ledger.url, projection)
    assert half.lanes[0].seq == 60
    assert half.tables[0].equal
    assert asyncio.run(engine.catch_up_all(ledger.url, LANES)) == "caught up"
    report = rebuild.rebuild_catching_up(ledger.url, projection)
    assert report.equal
    assert sum(table.rows for table in report.tables) > 0
    with ledger.superuser() as connection:
        connection.execute("UPDATE refusals SET count = count + 1")
    report = rebuild.rebuild_catching_up(ledger.url, projection, replace=True)
    assert not report.equal
    assert rebuild.rebuild_catching_up(ledger.url, projection).equal


def test_a_new_version_is_filled_before_readers_see_it(ledger: Ledger) -> None:
    """Promise 8: a rebuild of a version that never ran sets its checkpoint with its rows."""
    asyncio.run(engine.catch_up_all(ledger.url, LANES))
    rows = ledger.rows("SELECT t::text FROM refusals t ORDER BY lane, lane_seq")
    newer = refusals.PROJECTION._replace(version=2)
    with ledger.superuser() as connection:
        connection.execute("UPDATE refusals SET scope = 'old'")
    rebuild.rebuild_catching_up(ledger.url, newer, replace=True)
    assert ledger.rows("SELECT t::text FROM refusals t ORDER BY lane, lane_seq") == rows
    checkpoints = dict(
        ledger.rows("SELECT lane, seq FROM projection_checkpoints WHERE version = 2")
    )
    assert checkpoints == ledger.heads()
