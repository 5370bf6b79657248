"""ryvion's routes about billing. Each calls one operation."""

from litestar.params import JSONBody

from api.dialects.ryvion import billing, bodies, credentials, views
from api.dialects.ryvion.credentials import Principal
from api.http.handlers import get, put
from api.services import Ask


@get("/api/v1/auth/billing", guards=[credentials.usable_key_or_session("billing:read")])
async def get_billing(request: Ask[Principal]) -> views.Billing:
    """Show balance, hourly limits, and this month's spend by key."""
    return await billing.show(request.services, request.caller)


@put(
    "/api/v1/auth/billing/limit",
    guards=[credentials.usable_key_or_session("billing:write")],
    example={"ceiling": "2.50"},
)
async def limit_spending(
    request: Ask[Principal], data: JSONBody[bodies.SpendLimit]
) -> views.Billing:
    """Set what the account lets itself spend in any hour; ``null`` lifts it."""
    return await billing.limit(request.services, request.caller, data)


HANDLERS = (get_billing, limit_spending)
