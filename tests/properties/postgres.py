"""The writer over a real PostgreSQL, as tests drive it; the databases come from conftest.

Nothing here is a double: the schema is migrated, the roles are the service's own.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import AsyncConnection

from ledger import clock, database, store
from ledger.batch import Command, Outcome
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import Refused
from ledger.lanes import Writer
from ledger.ratecards import RateCards
from projections.registry import INLINE


def create_partitions(url: str, *months: str) -> None:
    """Make partitions for months outside the usual ones, for tests that turn the clock."""
    with psycopg.connect(database.conninfo(url, database.APP)) as connection:
        for month in months:
            connection.execute("SELECT create_events_partition(%s::date)", (month,))


@contextmanager
def connected(url: str, role: str = database.APP) -> Iterator[psycopg.Connection]:
    """Give a connection as one of the service's roles."""
    with psycopg.connect(database.conninfo(url, role), autocommit=True) as connection:
        yield connection


def lanes_of(url: str) -> int:
    """Tell how many lanes a database has."""
    with connected(url) as connection:
        return database.lanes_of(connection)


def writer_of(
    url: str, cards: RateCards | None = None, now: Callable[[], Instant] = clock.now
) -> Writer:
    """Make a writer over a database, not yet started."""
    info = database.lane_conninfo(url)

    async def connect() -> AsyncConnection:
        connection = await AsyncConnection.connect(info, autocommit=True)
        connection.prepare_threshold = 0
        return connection

    return Writer(lanes_of(url), connect, INLINE, cards or RateCards(), now)


@asynccontextmanager
async def writing(url: str, now: Callable[[], Instant] = clock.now):
    """Give a running writer."""
    writer = writer_of(url, now=now)
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
        """Start a writer whose clock stands at ``at``."""
        self.url = url
        self.at = at
        self._runner = asyncio.Runner()
        self._writer = writer_of(url, now=lambda: self.at)
        self._runner.run(self._start())

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
