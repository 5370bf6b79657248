"""bve's route for the operator that shows what keys used."""

from datetime import date, timedelta

from api.dialects.bve import credentials, views
from api.dialects.bve.routes_keys import key_of
from api.http.handlers import get
from api.identity.auth import Caller
from api.queries import UsageTerms
from api.services import Ask
from ledger.ids import OPERATOR_ACCOUNT, KeyId

DAYS, MONTHS = 30, 12
"""How many are shown of one key."""
DAILY_ROWS, MONTHLY_ROWS = 100, 50
"""How many are shown of all keys together."""


@get("/admin/usage", guards=[credentials.operator], query=("key_id",), refusals=(404,))
async def get_usage(request: Ask[Caller]) -> views.UsageByPeriod:
    """Show what keys used by day and month of UTC: one key's, or the newest rows of all."""
    query = request.parameters()
    one = await key_of(request.services, query["key_id"]) if "key_id" in query else None
    terms = _of_all() if one is None else _of_one(one.key_id, request.services.clock.now().date())
    found = await request.services.queries.spend.of_keys(OPERATOR_ACCOUNT, terms)
    return views.usage(found)


def _of_all() -> UsageTerms:
    return UsageTerms("bve", None, days=DAILY_ROWS, months=MONTHLY_ROWS)


def _of_one(key_id: KeyId, today: date) -> UsageTerms:
    """Ask for the last days and months of UTC, today and this month among them.

    The oldest month is asked for from its first day, so that no row sums part of a month.
    """
    month = today.year * 12 + today.month - MONTHS
    return UsageTerms(
        "bve",
        key_id,
        days=DAYS,
        months=MONTHS,
        first_day=today - timedelta(days=DAYS - 1),
        first_month=date(month // 12, month % 12 + 1, 1),
    )


HANDLERS = (get_usage,)
