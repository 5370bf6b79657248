"""ryvion's routes about accounts, keys and billing. Each calls one operation."""

from litestar.params import JSONBody

from api.dialects.ryvion import billing, bodies, credentials, keys, views
from api.dialects.ryvion.credentials import Client
from api.http.handlers import Rendered, delete, get, post, put
from api.services import Ask
from ledger.ids import format_id


@post(
    "/api/v1/auth/signup",
    status=201,
    refusals=(409,),
    example={"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"},
)
async def sign_up(request: Ask[None], data: JSONBody[bodies.SignUp]) -> Rendered[views.Session]:
    """Open an account with the welcome grant and log its owner in."""
    services, at = request.services, request.services.clock.now()
    opened = await services.signups.open(
        email=data.email,
        password=data.password,
        name=data.name,
        client=request.client_address,
        at=at,
    )
    view = views.Session(
        token=services.gate.access_token(opened.account_id, opened.member_id, at),
        buyer_id=str(opened.account_id),
        email=opened.email,
        name=opened.name,
    )
    return Rendered(view)


@post(
    "/api/v1/auth/login",
    example={"email": "ada@example.com", "password": "correct horse battery"},
)
async def log_in(request: Ask[None], data: JSONBody[bodies.LogIn]) -> Rendered[views.Session]:
    """Log in; the token may stand wherever a key may."""
    services, at = request.services, request.services.clock.now()
    found = await services.logins.proven(
        data.email, data.password, client=request.client_address, at=at
    )
    member_id = format_id("mbr", found.member)
    view = views.Session(
        token=services.gate.access_token(found.account_id, member_id, at),
        buyer_id=str(found.account_id),
        email=found.email,
        name=found.name,
    )
    return Rendered(view)


@get("/api/v1/auth/me", guards=[credentials.allowed("me")])
async def get_me(request: Ask[Client]) -> views.Me:
    """Show whose credential it is."""
    client = request.caller
    person = await request.services.queries.accounts.person_of(
        client.account_id, member_id=client.member_id
    )
    return views.Me(buyer_id=str(client.account_id), email=person.email, name=person.name or "")


@post(
    "/api/v1/auth/api-keys",
    guards=[credentials.allowed("keys:create")],
    status=201,
    example={"name": "my-new-key"},
)
async def create_key(
    request: Ask[Client], data: JSONBody[bodies.CreateKey]
) -> Rendered[views.CreatedKey]:
    """Create a key; its secret is in this answer and nowhere else."""
    return Rendered(await keys.create(request.services, request.caller, data))


@get("/api/v1/auth/api-keys", guards=[credentials.allowed("keys:list")])
async def list_keys(request: Ask[Client]) -> list[views.ListedKey]:
    """List the keys that are not revoked, newest first."""
    return await keys.all_of(request.services, request.caller)


@delete(
    "/api/v1/auth/api-keys/{id:str}",
    guards=[credentials.allowed("keys:revoke")],
    status=204,
    refusals=(404,),
)
async def revoke_key(request: Ask[Client]) -> None:
    """Revoke a key: permanent and immediate."""
    await keys.revoke(request.services, request.caller, request.path("id"))


@get("/api/v1/auth/billing", guards=[credentials.allowed("billing:read")])
async def get_billing(request: Ask[Client]) -> views.Billing:
    """Show balance, hourly limits, and this month's spend by key."""
    return await billing.show(request.services, request.caller)


@put(
    "/api/v1/auth/billing/limit",
    guards=[credentials.allowed("billing:write")],
    example={"ceiling": "2.50"},
)
async def limit_spending(request: Ask[Client], data: JSONBody[bodies.SpendLimit]) -> views.Billing:
    """Set what the account lets itself spend in any hour; ``null`` lifts it."""
    return await billing.limit(request.services, request.caller, data)


HANDLERS = (
    sign_up,
    log_in,
    get_me,
    create_key,
    list_keys,
    revoke_key,
    get_billing,
    limit_spending,
)
