"""Credit of accounts: lots granted and voided, adjustments, daily allowances."""

from datetime import UTC, date, datetime, time, timedelta

from api.operations.asked import Asked, Done, fingerprint
from api.operations.dispatch import Dispatcher, Rule, account_now
from ledger import accounts
from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId
from ledger.money import Amount, format_pico
from ledger.record.bound_rows import AllowanceRow
from ledger.record.store import Row
from ledger.requests import Facts
from ledger.state import Account


class Credits:
    """Operations on credit."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take the dispatcher."""
        self._dispatcher = dispatcher

    async def grant(
        self, asked: Asked[Account], account_id: AccountId, terms: e.CreditGranted
    ) -> Done[Account]:
        """Add a lot of credit."""
        return await self._change(
            asked, account_id, lambda facts, at: credit.grant(facts.account, terms, at=at)
        )

    async def set_allowance(
        self, by: str, account_id: AccountId, asset: str, amount: str, day: date
    ) -> None:
        """Grant an account an amount each day from this one on; ``0`` ends it.

        The row and the day's grant come with the event, in one command. A day that is granted
        already is not granted again.
        """
        row = AllowanceRow(self._dispatcher.lane_of(account_id), account_id, asset)
        ends = amount == "0"
        event = e.AllowanceSet(by=by, asset=asset, amount=amount)

        def alone(facts: Facts, at: Instant) -> list[e.AnyEvent]:  # noqa: ARG001
            accounts.require_not_closed(facts.account)
            return [event]

        def granting(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            return [event, *_grant_of_day(facts, asset, amount, day, at)]

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [row.delete() if ends else row.save(amount, day)]

        if not ends:
            done = await self._dispatcher.change(
                _once(asset, day), account_id, granting, account_now, rows=rows
            )
            if not done.replayed:
                return
        # Today's is granted already, or the allowance has ended.
        await self._dispatcher.change(Asked(by), account_id, alone, account_now, rows=rows)

    async def grant_allowance(
        self, account_id: AccountId, asset: str, amount: str, day: date
    ) -> bool:
        """Grant a daily allowance for a day of UTC, once; return whether it was not granted yet.

        The lot is there from the day's first instant to its last; it may be granted ahead.
        """
        row = AllowanceRow(self._dispatcher.lane_of(account_id), account_id, asset)

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            return _grant_of_day(facts, asset, amount, day, at)

        def rows(recorded: list[Recorded]) -> list[Row]:  # noqa: ARG001
            return [row.mark(day)]

        once = _once(asset, day)
        done = await self._dispatcher.change(once, account_id, rule, account_now, rows=rows)
        return not done.replayed

    async def void(
        self, asked: Asked[Account], account_id: AccountId, lot: int, *, reason: str
    ) -> Done[Account]:
        """Withdraw what is left of a grant."""
        return await self._change(
            asked,
            account_id,
            lambda facts, _at: credit.void(facts.account, lot, by=asked.by, reason=reason),
        )

    async def adjust(
        self, asked: Asked[Account], account_id: AccountId, amount: Amount, *, reason: str
    ) -> Done[Account]:
        """Add credit as an adjustment, or take it away if the amount is negative."""
        text = format_pico(abs(amount.pico))

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            if not reason.strip():
                raise InvalidField("reason", "must have 1 to 500 characters")
            if amount.pico < 0:
                return credit.reduce(
                    facts.account, amount.asset, text, by=asked.by, reason=reason, at=at
                )
            terms = e.CreditGranted(
                by=asked.by,
                lot=0,
                asset=amount.asset,
                amount=text,
                kind="adjustment",
                reason=reason,
            )
            return credit.grant(facts.account, terms, at=at)

        return await self._change(asked, account_id, rule)

    async def _change(
        self, asked: Asked[Account], account_id: AccountId, rule: Rule
    ) -> Done[Account]:
        return await self._dispatcher.change(asked, account_id, rule, account_now)


def _once(asset: str, day: date) -> Asked[Account]:
    # No caller can send a line feed in an Idempotency-Key.
    return Asked("system", f"\nallowance/{asset}/{day}", fingerprint("allowance", asset))


def _grant_of_day(
    facts: Facts, asset: str, amount: str, day: date, at: Instant
) -> list[e.AnyEvent]:
    start = datetime.combine(day, time.min, tzinfo=UTC)
    terms = e.CreditGranted(
        by="system",
        lot=0,
        asset=asset,
        amount=amount,
        kind="promotional",
        effective_at=start,
        expires_at=start + timedelta(days=1),
        reason=f"Allowance of {day}",
    )
    return credit.grant(facts.account, terms, at=at)
