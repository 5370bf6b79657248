"""Rate cards, which are all in memory, and who would lose a price."""

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
"""What was used since is thought to be used again."""
MODELS_USED_MAX = 10_000


class PriceQueries:
    """Reads of rate cards."""

    def __init__(self, reader: Reader, cards: RateCards) -> None:
        """Take where to read, and the cards of this process."""
        self._reader = reader
        self._cards = cards

    async def cards(self) -> RateCards:
        """Return the rate cards, the newest included whoever published it."""
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
        """Count the accounts that used a model lately which would lose a price."""
        if proposal.base is None:
            return 0
        terms: dict[str, Any] = {"since": at.date() - LATELY, "card": proposal.card.name}
        used = await self._reader.rows(spend.MODELS_USED, terms | {"most": MODELS_USED_MAX})
        losing = proposal.losing(name for (name,) in used)
        if not losing:
            return 0
        ((count,),) = await self._reader.rows(spend.ACCOUNTS_THAT_USED, terms | {"models": losing})
        return int(count)
