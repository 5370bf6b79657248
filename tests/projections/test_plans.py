"""Whoever reads events by position reads them in the order of an index, and only those it asks for.

Otherwise each chunk would read whole partitions: twice the events, four times the work.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, ClientCursor, Connection, Cursor

from ledger import clock
from ledger.record import verify
from ledger.record.lanes import Writer
from ledger.server import database
from projections import engine, rebuild
from projections.behind import refusals
from tests.projections.story import LANES, NAMES, Ledger
from tests.properties import core

Plan = dict[str, Any]

CHUNK = 1_000
"""A small part of the last month, and more than the planner by itself uses an index for."""
BEFORE = 2 * CHUNK
"""Events at the start of each month."""
LAST = 20 * CHUNK
"""Events that come after them in the last month."""
TOGETHER = 1_000
MONTHS = 3
EXPLAIN = "EXPLAIN (FORMAT JSON, COSTS OFF) "
READS = re.compile(r"\bFROM (keyledger\.)?(events|request_ids)\b")
COPIED = re.compile(r"\s*COPY \((.*)\)\s+TO STDOUT", re.DOTALL)

READERS: dict[str, Callable[[str], object]] = {
    "verify": lambda url: verify.verify(url, processes=1).intact,
    "rebuild": lambda url: rebuild.rebuild(url, processes=1).equal,
    "rebuild_catching_up": lambda url: (
        rebuild.rebuild_catching_up(url, refusals.PROJECTION, processes=1).equal
    ),
    "catch_up": lambda url: asyncio.run(engine.catch_up_all(url, LANES)) == "caught up",
}
"""Each tells whether it came to its end with nothing amiss."""


@pytest.fixture(scope="module")
def begun(databases: Any, migrated_template: str) -> Iterator[str]:
    """Return a database with a few events at the start of each of three months; not analysed."""
    name = databases.create(migrated_template)
    ledger = Ledger(databases.url(name))
    ledger.start()
    for each in NAMES:
        account = ledger.account(each)
        ledger.do(core.open_account(account, overdraft={"USD": "unlimited"}))
        ledger.do(core.issue(account, ledger.key(account, each)))
    for ahead in range(MONTHS):
        database.set_clock_offset(ledger.url, timedelta(seconds=seconds_to_month(ahead)))
        with ledger.superuser() as connection:
            for table in ("request_ids", *partitions(connection)):
                connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        record(ledger, BEFORE)
    yield name
    databases.drop(name)


@pytest.fixture(scope="module")
def filled(databases: Any, begun: str) -> Iterator[str]:
    """Return a database that most came to in the last month; not analysed."""
    name = databases.create(begun)
    fill(databases.url(name))
    yield name
    databases.drop(name)


@pytest.fixture(scope="module", params=["never", "when_the_last_month_was_small", "at_the_end"])
def ledger(databases: Any, begun: str, filled: str, request: Any) -> Iterator[Ledger]:
    """Return a ledger of three months, most of it in the last, analysed or not."""
    grows = request.param == "when_the_last_month_was_small"
    name = databases.create(begun if grows else filled)
    ledger = Ledger(databases.url(name))
    if request.param != "never":
        with ledger.superuser() as connection:
            connection.execute("VACUUM ANALYZE")
    if grows:
        fill(ledger.url)
    yield ledger
    databases.drop(name)


def fill(url: str) -> None:
    """Record what comes last, under ids that come after those of before."""
    ledger = Ledger(url)
    ledger.start_ids_at(MONTHS * BEFORE + 1)
    record(ledger, LAST)


def partitions(connection: Connection[Any]) -> list[str]:
    """Return the names of the partitions of events."""
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
    return [name for (name,) in connection.execute(query)]


def seconds_to_month(ahead: int) -> int:
    """Return how many seconds from now a month begins; 0: it is the present one."""
    now = clock.now()
    years, month = divmod(now.month - 1 + ahead, 12)
    start = datetime(now.year + years, month + 1, 2, tzinfo=UTC)
    return int((start - now).total_seconds()) if ahead else 0


def record(ledger: Ledger, times: int) -> None:
    """Record requests of every account, so that the lanes' events lie among one another."""
    accounts = [ledger.account(each) for each in NAMES]
    owners = [*zip(accounts, map(ledger.key, accounts, NAMES), strict=True)]

    async def work(writer: Writer) -> None:
        for _ in range(times // TOGETHER):
            commands = [ledger.record(*owners[n % len(owners)]) for n in range(TOGETHER)]
            found = await writer.submit(commands)
            assert not [each for each in found if isinstance(each, Exception)]

    ledger.run(work)


def text_of(query: str | bytes) -> str:
    """Return a statement as text, however it was made."""
    return query.decode() if isinstance(query, bytes) else query


def explained(query: str | bytes) -> bytes:
    """Return what asks for a statement's plan."""
    return (EXPLAIN + text_of(query)).encode()


class Plans:
    """Asks for the plan of every statement on events or request ids, where and when it is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin to listen."""
        self.found: list[tuple[str, Plan]] = []
        run, copy, run_async = Connection.execute, Cursor.copy, AsyncConnection.execute

        def execute(connection: Any, query: Any, *terms: Any, **more: Any) -> Any:
            if self._concerns(query):
                self._note(query, run(connection, explained(query), *terms).fetchone())
            return run(connection, query, *terms, **more)

        def copied(cursor: Any, statement: Any, *terms: Any, **more: Any) -> Any:
            if self._concerns(statement):
                query = COPIED.match(statement)[1]
                plan = ClientCursor(cursor.connection).execute(explained(query), *terms)
                self._note(query, plan.fetchone())
            return copy(cursor, statement, *terms, **more)

        async def execute_async(connection: Any, query: Any, *terms: Any, **more: Any) -> Any:
            if self._concerns(query):
                plan = await run_async(connection, explained(query), *terms)
                self._note(query, await plan.fetchone())
            return await run_async(connection, query, *terms, **more)

        monkeypatch.setattr(psycopg.Connection, "execute", execute)
        monkeypatch.setattr(psycopg.Cursor, "copy", copied)
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", execute_async)

    @staticmethod
    def _concerns(query: Any) -> bool:
        return isinstance(query, str | bytes) and READS.search(text_of(query)) is not None

    def _note(self, query: str | bytes, row: Any) -> None:
        self.found.append((text_of(query), row[0][0]["Plan"]))

    def nodes(self) -> Iterator[tuple[str, Plan]]:
        """Yield each part of each plan, with the statement."""
        left = list(self.found)
        while left:
            query, plan = left.pop()
            yield query, plan
            left += [(query, part) for part in plan.get("Plans", ())]


@pytest.mark.parametrize("reader", READERS)
def test_events_are_read_by_position_whatever_the_statistics(
    ledger: Ledger, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk touches its own events, by the index, in every partition, however it was analysed."""
    monkeypatch.setattr(verify, "CHUNK", CHUNK)
    held = ledger.rows("SELECT tableoid::regclass, count(*) FROM events GROUP BY 1")
    assert sorted(round(n, -2) for _, n in held) == [BEFORE, BEFORE, BEFORE + LAST]
    plans = Plans(monkeypatch)
    assert READERS[reader](ledger.url)
    assert len(plans.found) > LAST // CHUNK // 2
    for query, node in plans.nodes():
        assert node["Node Type"] != "Seq Scan", (query, node)
        # A chunk sorted as a whole would begin late, and be written to disk.
        assert node["Node Type"] != "Sort" or reader == "catch_up", (query, node)
        if node.get("Index Name", "").startswith("events_"):
            assert "lane_seq >" in node["Index Cond"], (query, node)
