"""Daily allowances: credit that the operator grants an account each UTC day.

One lot is granted per day: at once for the day on which the allowance is set, and some
time ahead for the days after it, so that it is there at midnight. Each is one command of the
account's lane: event, row and grant are written together or not at all. What is granted already
stays: a new amount counts from the next day that is not granted yet.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import SmallInteger, Uuid, and_, bindparam, select

from api.operations.ledger import Ledger
from ledger.clock import DatabaseClock, Instant
from ledger.errors import InvalidField, Refused
from ledger.ids import AccountId
from ledger.money import InvalidAmount, format_pico, parse_asset, parse_pico
from ledger.record.bound_rows import ALLOWANCES, AllowanceRow
from ledger.server.tables import compiled
from projections.inline import credits as credit
from projections.inline.accounts import ACCOUNTS

log = structlog.get_logger("keyledger.api")

DAY = timedelta(days=1)
AHEAD = timedelta(hours=2)
"""How long before midnight the next day is granted."""
PAGE = 500
_FIRST = UUID(int=0)

_set = ALLOWANCES.c
_lane, _account = bindparam("lane", type_=SmallInteger), bindparam("account", type_=Uuid)
LIST = compiled(
    select(_set.asset, _set.amount)
    .where(_set.lane == _lane, _set.account_id == _account)
    .order_by(_set.asset)
)
_of_account = and_(ACCOUNTS.c.lane == _set.lane, ACCOUNTS.c.account_id == _set.account_id)
# Few are due at a time: granting one makes it not due. A closed account's never is.
DUE = compiled(
    select(_set.account_id, _set.asset, _set.amount)
    .join(ACCOUNTS, _of_account)
    .where(
        _set.lane == _lane,
        _set.granted_through < bindparam("day"),
        ACCOUNTS.c.status != "closed",
        _set.account_id > bindparam("after"),
    )
    .order_by(_set.account_id, _set.asset)
    .limit(bindparam("most"))
)


class Allowance(NamedTuple):
    """Credit that an account receives each day."""

    asset: str
    amount: str


class Allowances:
    """Sets allowances, and grants what is due."""

    def __init__(self, pool: AsyncConnectionPool, ledger: Ledger, clock: DatabaseClock) -> None:
        """Take where they are kept, the operations that grant them, and the clock."""
        self._pool = pool
        self._clock = clock
        self._ledger = ledger

    async def set(self, by: str, account_id: AccountId, asset: str, amount: str) -> Allowance:
        """Grant an account an amount each day, from today on; zero ends it.

        Raises:
            InvalidField: The asset or the amount is invalid.
            Refused: The account cannot be granted anything.
        """
        text = format_pico(_checked(asset, amount))
        await self._ledger.credits.set_allowance(
            by, account_id, asset, text, self._clock.now().date()
        )
        return Allowance(asset, text)

    async def of(self, account_id: AccountId) -> Sequence[Allowance]:
        """List an account's allowances."""
        async with self._pool.connection() as connection:
            parameters = {"lane": self._ledger.lane_of(account_id), "account": account_id}
            found = await connection.execute(LIST, parameters)
            return [Allowance(*row) for row in await found.fetchall()]

    async def granted_for_today(self, account_id: AccountId, asset: str, at: Instant) -> int:
        """Return how much was granted for just this day, spent or not, in pico."""
        end = at.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        parameters = {
            "lane": self._ledger.lane_of(account_id),
            "account": account_id,
            "asset": asset,
            "at": at,
            "end": end,
        }
        async with self._pool.connection() as connection:
            row = await (await connection.execute(credit.OF_DAY, parameters)).fetchone()
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
                parameters = {"lane": lane, "day": day, "after": after, "most": PAGE}
                rows = await (await connection.execute(DUE, parameters)).fetchall()
            for account_id, asset, amount in rows:
                granted += await self._grant(lane, AccountId(account_id), asset, amount, day)
            if len(rows) < PAGE:
                return granted
            after = rows[-1][0]

    async def _grant(
        self, lane: int, account_id: AccountId, asset: str, amount: str, day: date
    ) -> bool:
        try:
            granted = await self._ledger.credits.grant_allowance(account_id, asset, amount, day)
        except Refused as refusal:
            # Closed meanwhile, or too many grants open: the next run tries again.
            log.info("allowance_refused", asset=asset, code=refusal.code)
            return False
        if not granted:
            # The allowance was ended and set again: its row does not know about the day's grant.
            async with self._pool.connection() as connection:
                await connection.execute(*AllowanceRow(lane, account_id, asset).mark(day))
        return granted


def _checked(asset: str, amount: str) -> int:
    try:
        parse_asset(asset)
    except InvalidAmount as error:
        raise InvalidField("asset", "must have 2 to 24 upper-case letters, digits, _") from error
    try:
        return parse_pico(amount)
    except InvalidAmount as error:
        problem = "must be a plain decimal string with at most 12 places, no sign, no exponent"
        raise InvalidField("amount", problem) from error
