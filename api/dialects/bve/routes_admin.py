"""bve's routes for the operator: make, list, revoke keys; what they used."""

from datetime import date, timedelta

from litestar.params import JSONBody

from api.dialects import account_keys
from api.dialects.bve import bodies, credentials, views
from api.http.handlers import Rendered, get, post
from api.identity.auth import Caller
from api.operations import Issuer
from api.queries import UsageTerms
from api.services import Ask, Services
from ledger import events as e
from ledger.clock import format_milliseconds
from ledger.ids import OPERATOR_ACCOUNT, KeyId
from ledger.state import Key

DAYS, MONTHS = 30, 12
"""Of one key."""
DAILY_ROWS, MONTHLY_ROWS = 100, 50
"""Of all keys together."""


@post(
    "/admin/api-keys",
    guards=[credentials.operator],
    status=201,
    example={"name": "my-client", "rpm_limit": 60, "rpd_limit": 10_000},
)
async def create_key(
    request: Ask[Caller], data: JSONBody[bodies.CreateKey]
) -> Rendered[views.CreatedKey]:
    """Create a key; its secret is in this answer and nowhere else."""
    body = data
    terms = e.KeyIssued(
        by=request.caller.actor,
        name=body.name,
        dialect="bve",
        allowed_models=body.allowed_models,
        limits=_limits(body),
    )
    key, secret = await account_keys.issue(request.services, OPERATOR_ACCOUNT, terms, Issuer())
    view = views.CreatedKey(
        id=str(key.key_id),
        name=body.name,
        key=secret,
        status="active",
        rpm_limit=body.rpm_limit,
        rpd_limit=body.rpd_limit,
        monthly_limit=body.monthly_limit,
        monthly_token_limit=body.monthly_token_limit,
        allowed_models=body.allowed_models,
        created_at=format_milliseconds(key.created_at),
    )
    return Rendered(view)


def _limits(body: bodies.CreateKey) -> tuple[e.LimitRule, ...]:
    ceilings = (
        ("requests", "rolling:60", body.rpm_limit),
        ("requests", "day", body.rpd_limit),
        ("requests", "month", body.monthly_limit),
        ("tokens", "month", body.monthly_token_limit),
    )
    return tuple(
        e.LimitRule(kind=kind, window=window, ceiling=str(ceiling))
        for kind, window, ceiling in ceilings
        if ceiling is not None
    )


@get("/admin/api-keys", guards=[credentials.operator])
async def list_keys(request: Ask[Caller]) -> list[views.ListedKey]:
    """List all keys, newest first: active, suspended and revoked."""
    at = request.services.clock.now()
    return [views.listed(key, at) for key in await _keys(request.services)]


@post("/admin/api-keys/{id:str}/revoke", guards=[credentials.operator], refusals=(404,))
async def revoke_key(request: Ask[Caller]) -> views.RevokedKey:
    """Revoke a key: permanent and immediate. Again, it answers as the first time."""
    # Not by ``request.path``: what can be no id at all is the id of no key, too (BV8).
    key = await _key(request.services, request.segment("id"))
    ended = await account_keys.revoke(request.services, key, by=request.caller.actor)
    return views.RevokedKey(
        id=str(key.key_id), status="revoked", revoked_at=format_milliseconds(ended)
    )


async def _key(services: Services, text: str) -> Key:
    return await account_keys.key_of(
        services, OPERATOR_ACCOUNT, "bve", text, missing="API key not found"
    )


async def _keys(services: Services) -> list[Key]:
    return await account_keys.keys_of(services, OPERATOR_ACCOUNT, "bve")


@get("/admin/usage", guards=[credentials.operator], query=("key_id",), refusals=(404,))
async def get_usage(request: Ask[Caller]) -> views.Usage:
    """Show what keys used by day and month of UTC: one key's, or the newest rows of all."""
    query = request.parameters()
    one = await _key(request.services, query["key_id"]) if "key_id" in query else None
    terms = _of_all() if one is None else _of_one(one.key_id, request.services.clock.now().date())
    found = await request.services.queries.spend.of_keys(OPERATOR_ACCOUNT, terms)
    return views.usage(found)


def _of_all() -> UsageTerms:
    return UsageTerms("bve", None, days=DAILY_ROWS, months=MONTHLY_ROWS)


def _of_one(key_id: KeyId, today: date) -> UsageTerms:
    """Ask for the last days and months of UTC, today and this month among them.

    The oldest month is asked for from its first day, so that no row is the sum of a part.
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


HANDLERS = (create_key, list_keys, revoke_key, get_usage)
