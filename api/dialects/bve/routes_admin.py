"""bve's routes for the operator: make, list, revoke keys; what they used."""

from datetime import timedelta

from api.auth import Caller
from api.dialects.bve import bodies, credentials, views
from api.exchange import Answer, answer
from api.queries import SpendTerms
from api.surface import account_keys
from api.surface.routing import Ask, Routes
from api.wiring import Services
from ledger import clock
from ledger import events as e
from ledger.clock import format_milliseconds
from ledger.ids import OPERATOR_ACCOUNT
from ledger.state import Key

DAILY_ROWS, MONTHLY_ROWS = (30, 100), (12, 50)
"""Of one key, and of all together."""

routes = Routes()


@routes(
    "POST",
    "/admin/api-keys",
    who=credentials.operator,
    body=bodies.CreateKey,
    answer=views.CreatedKey,
    status=201,
    example={"name": "my-client", "rpm_limit": 60, "rpd_limit": 10_000},
)
async def create_key(ask: Ask[bodies.CreateKey, Caller]) -> Answer:
    """Create a key; its secret is in this answer and nowhere else."""
    body = ask.body
    terms = e.KeyIssued(
        by=ask.caller.actor,
        name=body.name,
        dialect="bve",
        allowed_models=body.allowed_models,
        limits=_limits(body),
    )
    key, secret = await account_keys.issue(ask.services, OPERATOR_ACCOUNT, terms)
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
    return answer(view, status=201, headers={"Cache-Control": "no-store"})


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


@routes("GET", "/admin/api-keys", who=credentials.operator, answer=list[views.ListedKey])
async def list_keys(ask: Ask[None, Caller]) -> Answer:
    """List all keys, newest first: active, suspended and revoked."""
    at = clock.now()
    return answer([views.listed(key, at) for key in await _keys(ask.services)])


@routes(
    "POST",
    "/admin/api-keys/{id}/revoke",
    who=credentials.operator,
    answer=views.RevokedKey,
    refusals=(404,),
)
async def revoke_key(ask: Ask[None, Caller]) -> Answer:
    """Revoke a key: permanent and immediate. Again, it answers as the first time."""
    key = await _key(ask.services, ask.path("id"))
    ended = await account_keys.revoke(ask.services, key, by=ask.caller.actor)
    view = views.RevokedKey(
        id=str(key.key_id), status="revoked", revoked_at=format_milliseconds(ended)
    )
    return answer(view)


async def _key(services: Services, text: str) -> Key:
    return await account_keys.key_of(
        services, OPERATOR_ACCOUNT, "bve", text, missing="API key not found"
    )


async def _keys(services: Services) -> list[Key]:
    return await account_keys.keys_of(services, OPERATOR_ACCOUNT, "bve")


@routes(
    "GET",
    "/admin/usage",
    who=credentials.operator,
    answer=views.Usage,
    query=("key_id",),
    refusals=(404,),
)
async def get_usage(ask: Ask[None, Caller]) -> Answer:
    """Show what keys used by day and month of UTC: one key's, or the newest rows of all."""
    query = ask.query("key_id")
    one = await _key(ask.services, query["key_id"]) if "key_id" in query else None
    keys = [one] if one is not None else await _keys(ask.services)
    today = clock.now().date()
    terms = SpendTerms(
        day=True,
        integration=False,
        model=False,
        key=True,
        start=today - timedelta(days=366),
        end=None,
    )
    lines, _ = await ask.services.queries.spend_lines(OPERATOR_ACCOUNT, terms)
    shown = {key.key_id for key in keys}
    last_used = {key.key_id: key.last_used_at for key in keys if key.last_used_at is not None}
    most = (DAILY_ROWS[one is None], MONTHLY_ROWS[one is None])
    lines = [line for line in lines if line.key_id in shown]
    return answer(views.usage(lines, last_used, most))
