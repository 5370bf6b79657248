"""Two processes write to one lane: who waited for its lock sees what the other committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from ledger import database
from ledger.ids import OPERATOR_ACCOUNT
from ledger.lanes import Writer
from ledger.ratecards import RateCards
from projections.registry import INLINE
from tests.projections.story import LANES, Ledger, publish
from tests.properties import core

ROUNDS = 15


@asynccontextmanager
async def writing(ledger: Ledger) -> AsyncIterator[Writer]:
    """Write as a process of its own does, with rate cards of its own."""

    async def connect() -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(
            database.lane_conninfo(ledger.url), autocommit=True
        )

    writer = Writer(LANES, connect, INLINE, RateCards())
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def test_versions_of_a_rate_card_follow_one_another_over_processes(database_url: str) -> None:
    """Both publish at once, again and again: every version is there once, and nobody fails."""
    ledger = Ledger(database_url)
    ledger.start()

    async def story() -> list[object]:
        found: list[object] = []
        async with writing(ledger) as one, writing(ledger) as other:
            for number in range(ROUNDS):
                for each in (one, other):
                    # Now it has every version there is, and no reason of its own to look again.
                    await each.submit_one(core.grant(OPERATOR_ACCOUNT, "1"))
                both = (w.submit([publish(f"m{number}-{n}")]) for n, w in enumerate((one, other)))
                found += [each for (each,) in await asyncio.gather(*both)]
        return found

    outcomes = asyncio.run(story())
    assert not [each for each in outcomes if isinstance(each, Exception)]
    versions = [version for (version,) in ledger.rows("SELECT version FROM rate_cards ORDER BY 1")]
    assert versions == list(range(1, 2 * ROUNDS + 2))
