"""ryvion's routes about accounts, keys and billing. Each calls one operation."""

from api.dialects.ryvion import billing, bodies, credentials, keys, views
from api.dialects.ryvion.credentials import Client
from api.http.exchange import Answer, answer
from api.http.routing import Ask, Routes, anybody
from ledger.ids import format_id

SECRET = {"Cache-Control": "no-store"}

routes = Routes()


@routes(
    "POST",
    "/api/v1/auth/signup",
    who=anybody,
    body=bodies.SignUp,
    answer=views.Session,
    status=201,
    refusals=(409,),
    example={"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"},
)
async def sign_up(ask: Ask[bodies.SignUp, None]) -> Answer:
    """Open an account with the welcome grant and log its owner in."""
    at, body = ask.services.clock.now(), ask.body
    opened = await ask.services.signups.open(
        email=body.email,
        password=body.password,
        name=body.name,
        client=ask.call.client_address,
        at=at,
    )
    view = views.Session(
        token=ask.services.gate.access_token(opened.account_id, opened.member_id, at),
        buyer_id=str(opened.account_id),
        email=opened.email,
        name=opened.name,
    )
    return answer(view, status=201, headers=SECRET)


@routes(
    "POST",
    "/api/v1/auth/login",
    who=anybody,
    body=bodies.LogIn,
    answer=views.Session,
    example={"email": "ada@example.com", "password": "correct horse battery"},
)
async def log_in(ask: Ask[bodies.LogIn, None]) -> Answer:
    """Log in; the token may stand wherever a key may."""
    at, body = ask.services.clock.now(), ask.body
    found = await ask.services.logins.proven(
        body.email, body.password, client=ask.call.client_address, at=at
    )
    member_id = format_id("mbr", found.member)
    view = views.Session(
        token=ask.services.gate.access_token(found.account_id, member_id, at),
        buyer_id=str(found.account_id),
        email=found.email,
        name=found.name,
    )
    return answer(view, headers=SECRET)


@routes("GET", "/api/v1/auth/me", who=credentials.allowed("me"), answer=views.Me)
async def get_me(ask: Ask[None, Client]) -> Answer:
    """Show whose credential it is."""
    person = await ask.services.queries.accounts.person_of(
        ask.caller.account_id, member_id=ask.caller.member_id
    )
    view = views.Me(buyer_id=str(ask.caller.account_id), email=person.email, name=person.name or "")
    return answer(view)


@routes(
    "POST",
    "/api/v1/auth/api-keys",
    who=credentials.allowed("keys:create"),
    body=bodies.CreateKey,
    answer=views.CreatedKey,
    status=201,
    example={"name": "my-new-key"},
)
async def create_key(ask: Ask[bodies.CreateKey, Client]) -> Answer:
    """Create a key; its secret is in this answer and nowhere else."""
    return answer(await keys.create(ask.services, ask.caller, ask.body), status=201, headers=SECRET)


@routes(
    "GET",
    "/api/v1/auth/api-keys",
    who=credentials.allowed("keys:list"),
    answer=list[views.ListedKey],
)
async def list_keys(ask: Ask[None, Client]) -> Answer:
    """List the keys that are not revoked, newest first."""
    return answer(await keys.all_of(ask.services, ask.caller))


@routes(
    "DELETE",
    "/api/v1/auth/api-keys/{id}",
    who=credentials.allowed("keys:revoke"),
    status=204,
    refusals=(404,),
)
async def revoke_key(ask: Ask[None, Client]) -> Answer:
    """Revoke a key: permanent and immediate."""
    await keys.revoke(ask.services, ask.caller, ask.path("id"))
    return Answer(b"", status=204)


@routes(
    "GET", "/api/v1/auth/billing", who=credentials.allowed("billing:read"), answer=views.Billing
)
async def get_billing(ask: Ask[None, Client]) -> Answer:
    """Show balance, hourly limits, and this month's spend by key."""
    return answer(await billing.show(ask.services, ask.caller))


@routes(
    "PUT",
    "/api/v1/auth/billing/limit",
    who=credentials.allowed("billing:write"),
    body=bodies.SpendLimit,
    answer=views.Billing,
    example={"ceiling": "2.50"},
)
async def limit_spending(ask: Ask[bodies.SpendLimit, Client]) -> Answer:
    """Set what the account lets itself spend in any hour; ``null`` lifts it."""
    return answer(await billing.limit(ask.services, ask.caller, ask.body))
