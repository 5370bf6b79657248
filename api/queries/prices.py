"""Rate cards, which are all in memory, and how many accounts would lose a price."""

from datetime import timedelta
from typing import Any

from api.queries.reader import Reader
from ledger.clock import Instant
from ledger.errors import NoSuchRateCard
from ledger.pricing import RateCard
from ledger.ratecards import Proposal, RateCards
from ledger.record import card_rows
from projections.inline import spend

LATELY = timedelta(days=30)
"""A model used within this time is expected to be used again."""
MODELS_USED_MAX = 10_000


class PriceQueries:
    """Reads of rate cards."""

    def __init__(self, reader: Reader, cards: RateCards) -> None:
        """Take the reader, and this process's rate cards."""
        self._reader = reader
        self._cards = cards

    async def cards(self) -> RateCards:
        """Return the rate cards, including the newest, whoever published it."""
        async with self._reader.pool.connection() as connection:
            count = await (await connection.execute(card_rows.COUNT)).fetchone()
            if count is not None and count[0] != self._cards.count:
                await card_rows.load(connection, self._cards)
        return self._cards

    async def version(self, name: str, number: int) -> RateCard:
        """Find a version of a rate card, withdrawn or not.

        Raises:
            NoSuchRateCard: There is none.
        """
        versions = (await self.cards()).versions(name)
        if not 1 <= number <= len(versions):
            raise NoSuchRateCard
        return versions[number - 1]

    async def in_force(self, name: str, at: Instant, known_at: Instant | None) -> RateCard:
        """Find the version in force at an instant, as known at another; None: now.

        Raises:
            NoSuchRateCard: There is none.
        """
        found = (await self.cards()).current(name, at, known_at)
        if found is None:
            raise NoSuchRateCard
        return found.card

    async def accounts_losing(self, proposal: Proposal, at: Instant) -> int:
        """Count the accounts that recently used a model that would lose a price."""
        if proposal.base is None:
            return 0
        parameters: dict[str, Any] = {"since": at.date() - LATELY, "card": proposal.card.name}
        used = await self._reader.rows(spend.MODELS_USED, parameters | {"most": MODELS_USED_MAX})
        losing = proposal.losing(name for (name,) in used)
        if not losing:
            return 0
        ((count,),) = await self._reader.rows(
            spend.ACCOUNTS_THAT_USED, parameters | {"models": losing}
        )
        return int(count)
