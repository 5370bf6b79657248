"""bve's routes for the operator's keys: make, list, revoke."""

from litestar.params import JSONBody

from api.dialects import account_keys
from api.dialects.bve import bodies, credentials, views
from api.http.handlers import Rendered, get, post
from api.identity.auth import Caller
from api.operations import Issuer
from api.services import Ask, Services
from ledger import events as e
from ledger.clock import format_milliseconds
from ledger.ids import OPERATOR_ACCOUNT
from ledger.state import Key


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
    # Not ``request.path``: text that cannot be an id is the id of no key either (BV8).
    key = await key_of(request.services, request.segment("id"))
    ended = await account_keys.revoke(request.services, key, by=request.caller.actor)
    return views.RevokedKey(
        id=str(key.key_id), status="revoked", revoked_at=format_milliseconds(ended)
    )


async def key_of(services: Services, text: str) -> Key:
    """Find one of bve's keys by its UUID.

    Raises:
        Failure: There is none.
    """
    return await account_keys.key_of(
        services, OPERATOR_ACCOUNT, "bve", text, missing="API key not found"
    )


async def _keys(services: Services) -> list[Key]:
    return await account_keys.keys_of(services, OPERATOR_ACCOUNT, "bve")


HANDLERS = (create_key, list_keys, revoke_key)
