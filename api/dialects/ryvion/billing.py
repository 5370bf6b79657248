"""What an account has and spends, and the limit it sets for itself, over REST or MCP."""

from collections import defaultdict
from datetime import date
from uuid import UUID

from api.dialects.ryvion import bodies, views
from api.dialects.ryvion.credentials import Principal
from api.operations import OWN_WINDOW, Asked
from api.queries import SpendLine, SpendTerms
from api.services import Services
from ledger import standing
from ledger.clock import Instant
from ledger.money import format_pico
from ledger.state import Account

CURRENCY = "CAD"


async def show(services: Services, principal: Principal) -> views.Billing:
    """Show balance, hourly limits, and this month's spend by key."""
    at = services.clock.now()
    account, _ = await services.queries.accounts.one(principal.account_id)
    since = at.date().replace(day=1)
    return views.Billing(
        currency=CURRENCY,
        balance=format_pico(account.balance(CURRENCY)),
        pending=format_pico(account.pending(CURRENCY)),
        hourly_limit=_hourly(account, at),
        since=since.isoformat(),
        spend=await _spend(services, principal, since),
    )


async def limit(services: Services, principal: Principal, body: bodies.SpendLimit) -> views.Billing:
    """Set or lift the account's own hourly limit; show what holds then.

    Raises:
        InvalidField: It is above the operator's.
    """
    await services.ledger.accounts.limit_own_spending(
        Asked(principal.actor), principal.account_id, body.ceiling, asset=CURRENCY
    )
    return await show(services, principal)


def _hourly(account: Account, at: Instant) -> views.OwnLimit:
    ceilings: dict[bool, int] = {}
    left: list[int] = []
    for rule, found in zip(account.rules, standing.of_limits(account, at), strict=True):
        if rule.kind != "spend" or rule.window != OWN_WINDOW:
            continue
        if rule.category or rule.model or rule.each_model:
            continue
        if rule.assets and CURRENCY not in rule.assets:
            continue
        left.append(found.remaining)
        ceilings[rule.own] = min(found.ceiling, ceilings.get(rule.own, found.ceiling))
    return views.OwnLimit(
        ceiling=format_pico(ceilings[False]) if False in ceilings else None,
        own=format_pico(ceilings[True]) if True in ceilings else None,
        remaining=format_pico(min(left)) if left else None,
    )


async def _spend(services: Services, principal: Principal, since: date) -> list[views.KeySpend]:
    terms = SpendTerms(day=False, integration=True, model=False, key=True, start=since, end=None)
    lines, _ = await services.queries.spend.sums(principal.account_id, terms)
    # A key that was renamed has a line for each name.
    by_key: dict[UUID, list[SpendLine]] = defaultdict(list)
    for line in lines:
        if line.asset == CURRENCY and line.key_id is not None:
            by_key[line.key_id].append(line)
    return [
        views.KeySpend(
            id=str(key_id),
            name=" / ".join(line.integration or "" for line in found),
            requests=sum(line.requests for line in found),
            amount=format_pico(sum(line.amount for line in found)),
        )
        for key_id, found in by_key.items()
    ]
