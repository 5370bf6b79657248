"""foil's key management: with the token of a login, never with a key."""

from litestar.params import JSONBody

from api.dialects import account_keys
from api.dialects.foil import bodies, credentials, views
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import Rendered, delete, get, post
from api.identity.auth import Caller
from api.operations import Issuer
from api.services import Ask
from ledger import events as e


@post(
    "/api/v1/sdk/api-keys",
    guards=[credentials.session],
    permission="issue_key",
    status=201,
    example={"name": "My Game - Production"},
)
async def create_key(
    request: Ask[Caller], data: JSONBody[bodies.CreateKey]
) -> Rendered[views.CreatedKey]:
    """Create a key; its secret is in this answer and nowhere else."""
    caller = request.caller
    if not data.name.strip():
        raise invalid("name", "may not be blank")
    assert caller.account_id is not None
    terms = e.KeyIssued(by=caller.actor, name=data.name, dialect="foil")
    issuer = Issuer(caller.member_id, bool(caller.only_own_keys))
    key, secret = await account_keys.issue(request.services, caller.account_id, terms, issuer)
    return Rendered(views.created(key, secret))


@get("/api/v1/sdk/api-keys", guards=[credentials.session], permission="list_keys")
async def list_keys(request: Ask[Caller]) -> list[views.ListedKey]:
    """List the account's keys that work, newest first."""
    caller = request.caller
    assert caller.account_id is not None
    found = await account_keys.keys_of(
        request.services, caller.account_id, "foil", only_of=caller.only_own_keys
    )
    at = request.services.clock.now()
    return [views.listed(key) for key in found if not key.ended(at)]


@delete(
    "/api/v1/sdk/api-keys/{key_id:str}",
    guards=[credentials.session],
    permission="revoke_key",
    status=204,
    refusals=(404,),
)
async def delete_key(request: Ask[Caller]) -> None:
    """Revoke a key; it stops working at once."""
    caller = request.caller
    assert caller.account_id is not None
    key = await account_keys.key_of(
        request.services,
        caller.account_id,
        "foil",
        request.path("key_id"),
        missing="API key not found",
        only_of=caller.only_own_keys,
    )
    if key.ended(request.services.clock.now()):
        raise Failure(Kind.NOT_FOUND, "API key not found")
    await account_keys.revoke(request.services, key, by=caller.actor)


HANDLERS = (create_key, list_keys, delete_key)
