"""The writer over a real PostgreSQL, as tests drive it; the databases come from conftest.

Nothing here is a double: the schema is migrated, the roles are the service's own.
"""

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import AsyncConnection

from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import Refused
from ledger.ratecards import RateCards
from ledger.record import store
from ledger.record.batch import Command, Outcome
from ledger.record.lanes import Writer
from ledger.server import database
from projections.registry import INLINE


def create_partitions(url: str, *months: str) -> None:
    """Make partitions for months outside the usual ones, for tests that turn the clock."""
    with psycopg.connect(database.conninfo(url, database.APP)) as connection:
        for month in months:
            connection.execute("SELECT create_events_partition(%s::date)", (month,))


@contextmanager
def connected(url: str, role: str = database.APP) -> Iterator[psycopg.Connection]:
    """Yield a connection as one of the service's roles."""
    with psycopg.connect(database.conninfo(url, role), autocommit=True) as connection:
        yield connection


def lanes_of(url: str) -> int:
    """Return how many lanes a database has."""
    with connected(url) as connection:
        return database.lanes_of(connection)


def ledger_clock(url: str) -> Instant:
    """Ask a database what its clock says."""
    with connected(url) as connection:
        return connection.execute("SELECT ledger_clock()").fetchone()[0]


STILL = """
    CREATE OR REPLACE FUNCTION keyledger.ledger_clock() RETURNS timestamptz LANGUAGE sql STABLE
    RETURN (SELECT value::timestamptz FROM keyledger.database_facts WHERE name = 'still_clock')
"""


class StillClock:
    """A database's clock that stands where the test puts it, to the microsecond.

    For what happens exactly at an instant, and what is compared byte for byte. All else turns the
    clock by its offset.
    """

    def __init__(self, url: str, at: Instant) -> None:
        """Stop the clock of a database of this test's own."""
        self._facts = psycopg.connect(database.conninfo(url, database.APP), autocommit=True)
        self.stand(at)
        with connected(url, database.OWNER) as connection:
            connection.execute(STILL)

    def stand(self, at: Instant) -> None:
        """Put it there."""
        self._facts.execute(
            "INSERT INTO database_facts (name, value) VALUES ('still_clock', %s)"
            " ON CONFLICT ON CONSTRAINT fact_has_one_value DO UPDATE SET value = EXCLUDED.value",
            (at.isoformat(),),
        )

    def close(self) -> None:
        """Let go of it."""
        self._facts.close()


def writer_of(url: str, cards: RateCards | None = None) -> Writer:
    """Make a writer over a database, not yet started."""
    info = database.lane_conninfo(url)

    async def connect() -> AsyncConnection:
        connection = await AsyncConnection.connect(info, autocommit=True)
        connection.prepare_threshold = 0
        return connection

    return Writer(lanes_of(url), connect, INLINE, cards or RateCards())


@asynccontextmanager
async def writing(url: str):
    """Yield a running writer."""
    writer = writer_of(url)
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def events_of(url: str) -> list[Recorded]:
    """Read every event, lane by lane, in order."""
    with connected(url) as connection:
        found: list[Recorded] = []
        for lane in range(database.lanes_of(connection)):
            rows = connection.execute(store.FEED, (lane, 0, 2**62)).fetchall()
            found += [store.stored(row).recorded for row in rows]
        return found


async def outcome_of(writer: Writer, command: Command) -> Outcome | Refused:
    """Submit one command; a refusal is an answer."""
    try:
        return await writer.submit_one(command)
    except Refused as refused:
        return refused


class Stored:
    """A database driven command by command, with a clock that the test turns."""

    def __init__(self, url: str, at: Instant) -> None:
        """Start a writer over a database whose clock stands at ``at``."""
        self.url = url
        self._at = at
        self._clock = StillClock(url, at)
        self._runner = asyncio.Runner()
        self._writer = writer_of(url)
        self._runner.run(self._start())

    @property
    def at(self) -> Instant:
        """Return where the clock stands."""
        return self._at

    @at.setter
    def at(self, at: Instant) -> None:
        self._at = at
        self._clock.stand(at)

    async def _start(self) -> None:
        self._writer.start()

    def submit(self, command: Command) -> Outcome | Refused:
        """Decide and append one command."""
        return self._runner.run(outcome_of(self._writer, command))

    @property
    def log(self) -> list[Recorded]:
        """Everything recorded so far."""
        return events_of(self.url)

    def settle_down(self) -> None:
        """Wait until nothing is under way."""
        self._runner.run(asyncio.sleep(0))

    def close(self) -> None:
        """Stop the writer."""
        self._runner.run(self._writer.stop())
        self._runner.close()
        self._clock.close()
