"""Credit of accounts: lots granted and voided, adjustments, daily allowances."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from api import views
from api.operations.asked import Asked, Done, fingerprint
from api.operations.desk import Desk, Rule
from ledger import credits as credit
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.ids import AccountId
from ledger.metering import Facts
from ledger.money import Amount, format_pico


class Credits:
    """Operations on credit."""

    def __init__(self, desk: Desk) -> None:
        """Take where changes are handed in."""
        self._desk = desk

    async def grant(self, asked: Asked, account_id: AccountId, terms: e.CreditGranted) -> Done:
        """Add a lot of credit."""
        done, _ = await self._desk.change(
            asked,
            account_id,
            lambda facts, at: credit.grant(facts.account, terms, at=at),
            lambda _facts, recorded, _at: views.grant_of_event(recorded[0]),
        )
        return done

    async def grant_for_day(
        self, account_id: AccountId, asset: str, amount: str, day: date
    ) -> Done:
        """Grant a daily allowance for a day of UTC, once however often it is asked for.

        The lot is there from the day's first instant to its last; it may be granted ahead.
        """
        start = datetime.combine(day, time.min, tzinfo=UTC)
        # No caller can send a line feed in an Idempotency-Key.
        asked = Asked("system", f"\nallowance/{asset}/{day}", fingerprint("allowance", asset))
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
        return await self.grant(asked, account_id, terms)

    async def void(self, asked: Asked, account_id: AccountId, lot: int, *, reason: str) -> Done:
        """Withdraw what is left of a grant."""
        return await self._change(
            asked,
            account_id,
            lambda facts, _at: credit.void(facts.account, lot, by=asked.by, reason=reason),
        )

    async def adjust(
        self, asked: Asked, account_id: AccountId, amount: Amount, *, reason: str
    ) -> Done:
        """Add credit as an adjustment, or take it away where the amount is negative."""
        text = format_pico(abs(amount.pico))

        def rule(facts: Facts, at: Instant) -> list[e.AnyEvent]:
            if not reason.strip():
                raise InvalidField("reason", "1 to 500 characters")
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

    async def _change(self, asked: Asked, account_id: AccountId, rule: Rule) -> Done:
        done, _ = await self._desk.change(asked, account_id, rule, _balances)
        return done


def _balances(facts: Facts, recorded: list[Recorded], at: Instant) -> Any:  # noqa: ANN401
    assert facts.account is not None
    return {
        "events": [event.body.type for event in recorded],
        "balances": views.balance_views(facts.account, at),
    }
