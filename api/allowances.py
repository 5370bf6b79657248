"""Daily allowances: what the operator lets an account have anew each day of UTC.

A lot is granted for each day, once, by ``Credits.grant_for_day``: at once for the day on which the
allowance is set, and some time ahead for the days after it, so that it is there at midnight. What
is granted already stays: another amount counts from the next day that is not granted.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
from psycopg_pool import AsyncConnectionPool

from api.operations import Ledger
from ledger import clock
from ledger.clock import Instant
from ledger.errors import InvalidField, Refused
from ledger.ids import AccountId
from ledger.money import InvalidAmount, format_pico, parse_asset, parse_pico
from ledger.store import Statement
from projections import allowances as table

log = structlog.get_logger("keyledger.api")

DAY = timedelta(days=1)
AHEAD = timedelta(hours=2)
"""So long before midnight the next day is granted."""
PAGE = 500
_FIRST = UUID(int=0)


class Allowance(NamedTuple):
    """What an account has each day."""

    asset: str
    amount: str


class Allowances:
    """Sets allowances, and grants what is due."""

    def __init__(self, pool: AsyncConnectionPool, ledger: Ledger) -> None:
        """Take where they are kept, and what grants."""
        self._pool = pool
        self._ledger = ledger

    async def set(self, account_id: AccountId, asset: str, amount: str) -> Allowance:
        """Give an account an amount each day, from today on; zero ends it.

        Raises:
            InvalidField: Asset or amount is none.
            Refused: The account cannot be granted anything.
        """
        pico = _checked(asset, amount)
        lane, text = self._ledger.lane_of(account_id), format_pico(pico)
        if not pico:
            await self._run(table.remove(lane, account_id, asset))
            return Allowance(asset, text)
        # First the lot: an account that cannot be granted anything has no allowance.
        today = clock.now().date()
        await self._ledger.credits.grant_for_day(account_id, asset, text, today)
        await self._run(table.save(lane, account_id, asset, text))
        await self._run(table.mark(lane, account_id, asset, today))
        return Allowance(asset, text)

    async def of(self, account_id: AccountId) -> Sequence[Allowance]:
        """List an account's allowances."""
        async with self._pool.connection() as connection:
            found = await connection.execute(
                table.LIST, (self._ledger.lane_of(account_id), account_id)
            )
            return [Allowance(*row) for row in await found.fetchall()]

    async def granted_for_today(self, account_id: AccountId, asset: str, at: Instant) -> int:
        """Give how much was granted for this day alone, spent or not, in pico."""
        end = at.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        terms = (self._ledger.lane_of(account_id), account_id, asset, at, end)
        async with self._pool.connection() as connection:
            row = await (await connection.execute(table.OF_DAY, terms)).fetchone()
        assert row is not None
        return int(row[0])

    async def grant_due(self, at: Instant) -> int:
        """Grant today's allowances that are not granted yet, and soon before midnight the next."""
        days = {at.date(), (at + AHEAD).date()}
        granted = 0
        for day in sorted(days):
            for lane in range(self._ledger.lanes):
                granted += await self._grant_lane(lane, day)
        return granted

    async def _grant_lane(self, lane: int, day: date) -> int:
        granted, after = 0, _FIRST
        while True:
            async with self._pool.connection() as connection:
                terms = (lane, day, after, PAGE)
                rows = await (await connection.execute(table.DUE, terms)).fetchall()
            for account_id, asset, amount in rows:
                granted += await self._grant(lane, AccountId(account_id), asset, amount, day)
            if len(rows) < PAGE:
                return granted
            after = rows[-1][0]

    async def _grant(
        self, lane: int, account_id: AccountId, asset: str, amount: str, day: date
    ) -> bool:
        try:
            done = await self._ledger.credits.grant_for_day(account_id, asset, amount, day)
        except Refused as refusal:
            # A closed account, say: it is not tried again today.
            log.info("allowance_refused", asset=asset, code=refusal.code)
            done = None
        await self._run(table.mark(lane, account_id, asset, day))
        return done is not None and not done.replayed

    async def _run(self, statement: Statement) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(*statement)


def _checked(asset: str, amount: str) -> int:
    try:
        parse_asset(asset)
    except InvalidAmount as error:
        raise InvalidField("asset", "2 to 24 upper-case letters, digits, underscores") from error
    try:
        return parse_pico(amount)
    except InvalidAmount as error:
        problem = "a plain decimal string, at most 12 places, no sign, no exponent"
        raise InvalidField("amount", problem) from error
