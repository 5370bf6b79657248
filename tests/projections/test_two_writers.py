"""Two processes write to one lane: who waited for its lock sees what the other committed."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import psycopg

from ledger.errors import InvalidField, RateCardIsInForce
from ledger.ids import OPERATOR_ACCOUNT
from ledger.ratecards import RateCards
from ledger.record import card_rows, verify
from ledger.record.lanes import Writer
from ledger.server import database
from projections.registry import INLINE
from tests.projections.story import LANES, NAMES, Ledger, publish
from tests.properties import core

ROUNDS = 15
TOLD = 0.8
"""Part of the usage that says when it was."""


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


class Changes:
    """Prices that change, begin later and are withdrawn, beside usage of any time around."""

    def __init__(self, ledger: Ledger) -> None:
        """Take a ledger that has begun, and open accounts in every lane."""
        self.ledger = ledger
        self.keys = []
        self.draws = random.Random(8)  # noqa: S311 (a test that can be repeated)
        for name in NAMES:
            account = ledger.account(name)
            key = ledger.key(account, name)
            ledger.do(
                core.open_account(account), core.grant(account, "9999"), core.issue(account, key)
            )
            self.keys.append((account, key))

    async def publish(self, writer: Writer) -> None:
        """Publish other prices, from now on or from a little later, and withdraw some of these."""
        for number in range(ROUNDS):
            price = {"mini": {"input": str(number + 1), "output": "0.6"}}
            ahead = timedelta(milliseconds=self.draws.randint(100, 600))
            start = self.ledger.now() + ahead if number % 3 else None
            made = core.publish(core.a_card(price), start=start, confirm=True)
            # Where it took so long that the start is past, that is refused.
            with suppress(RateCardIsInForce, InvalidField):
                (event,) = (await writer.submit_one(made)).events
                if number % 3 == 1:
                    await writer.submit_one(core.withdraw("standard", event.body.card.version))

    async def use(self, writer: Writer) -> None:
        """Record usage of now, of a little before and of a little later, in every lane."""
        for _ in range(ROUNDS):
            moved = [timedelta(milliseconds=self.draws.randint(-600, 600)) for _ in self.keys * 3]
            now = self.ledger.now()
            times = [now + by if self.draws.random() < TOLD else None for by in moved]
            commands = [
                self.ledger.record(account, key, occurred_at=at)
                for (account, key), at in zip(self.keys * 3, times, strict=True)
            ]
            outcomes = await writer.submit(commands)
            assert not [each for each in outcomes if isinstance(each, Exception)]


def test_what_is_charged_is_what_was_in_force_as_known_then(database_url: str) -> None:
    """Whoever asks finds the version that was charged by, in every lane and process (I1, I3).

    They ask for the one in force at the service instant, as known when it was recorded.
    """
    ledger = Ledger(database_url)
    ledger.start()
    changes = Changes(ledger)

    async def story() -> None:
        async with writing(ledger) as one, writing(ledger) as other:
            await asyncio.gather(changes.publish(one), changes.use(one), changes.use(other))

    asyncio.run(story())
    cards = asyncio.run(_cards(ledger))
    charged = ledger.rows(
        "SELECT payload ->> 'card', occurred_at, recorded_at FROM events"
        " WHERE type::text = 'request_recorded'"
    )
    assert len(charged) == 2 * ROUNDS * 3 * len(NAMES)
    assert len({card for card, *_ in charged}) > ROUNDS // 3
    shown = [cards.current("standard", at, known_at) for _, at, known_at in charged]
    assert [book.reference for book in shown] == [card for card, *_ in charged]
    assert not verify.verify(ledger.url).findings


async def _cards(ledger: Ledger) -> RateCards:
    cards = RateCards()
    info = database.conninfo(ledger.url, database.READER)
    async with await psycopg.AsyncConnection.connect(info) as connection:
        await card_rows.load(connection, cards)
    return cards
