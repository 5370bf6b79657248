"""ryvion's routes about accounts: sign up, log in, and whose credential it is."""

from litestar.params import JSONBody

from api.dialects.ryvion import bodies, credentials, views
from api.dialects.ryvion.credentials import Principal
from api.http.handlers import Rendered, get, post
from api.services import Ask
from ledger.ids import format_id


@post(
    "/api/v1/auth/signup",
    status=201,
    refusals=(409,),
    example={"email": "ada@example.com", "password": "correct horse battery", "name": "Ada"},
)
async def sign_up(request: Ask[None], data: JSONBody[bodies.SignUp]) -> Rendered[views.SignedIn]:
    """Open an account with the welcome grant and log its owner in."""
    services, at = request.services, request.services.clock.now()
    opened = await services.signups.open(
        email=data.email,
        password=data.password,
        name=data.name,
        client=request.client_address,
        at=at,
    )
    view = views.SignedIn(
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
async def log_in(request: Ask[None], data: JSONBody[bodies.LogIn]) -> Rendered[views.SignedIn]:
    """Log in; the token may stand wherever a key may."""
    services, at = request.services, request.services.clock.now()
    found = await services.logins.proven(
        data.email, data.password, client=request.client_address, at=at
    )
    member_id = format_id("mbr", found.member)
    view = views.SignedIn(
        token=services.gate.access_token(found.account_id, member_id, at),
        buyer_id=str(found.account_id),
        email=found.email,
        name=found.name,
    )
    return Rendered(view)


@get("/api/v1/auth/me", guards=[credentials.usable_key_or_session("me")])
async def get_me(request: Ask[Principal]) -> views.Me:
    """Show whose credential it is."""
    principal = request.caller
    person = await request.services.queries.accounts.person_of(
        principal.account_id, member_id=principal.member_id
    )
    return views.Me(buyer_id=str(principal.account_id), email=person.email, name=person.name or "")


HANDLERS = (sign_up, log_in, get_me)
