"""foil's key management: with the token of a login, never with a key."""

from api.dialects import account_keys
from api.dialects.foil import bodies, credentials, views
from api.http.exchange import Answer, answer
from api.http.failure import Failure, Kind, invalid
from api.http.routing import Ask, Routes
from api.identity.auth import Caller
from api.operations import Issuer
from ledger import events as e

routes = Routes()


@routes(
    "POST",
    "/api/v1/sdk/api-keys",
    who=credentials.login,
    permission="issue_key",
    body=bodies.CreateKey,
    answer=views.CreatedKey,
    status=201,
    example={"name": "My Game - Production"},
)
async def create_key(ask: Ask[bodies.CreateKey, Caller]) -> Answer:
    """Create a key; its secret is in this answer and nowhere else."""
    if not ask.body.name.strip():
        raise invalid("name", "may not be blank")
    assert ask.caller.account_id is not None
    terms = e.KeyIssued(by=ask.caller.actor, name=ask.body.name, dialect="foil")
    issuer = Issuer(ask.caller.member_id, bool(ask.caller.only_own_keys))
    key, secret = await account_keys.issue(ask.services, ask.caller.account_id, terms, issuer)
    return answer(views.created(key, secret), status=201, headers={"Cache-Control": "no-store"})


@routes(
    "GET",
    "/api/v1/sdk/api-keys",
    who=credentials.login,
    permission="list_keys",
    answer=list[views.ListedKey],
)
async def list_keys(ask: Ask[None, Caller]) -> Answer:
    """List the account's keys that work, newest first."""
    assert ask.caller.account_id is not None
    found = await account_keys.keys_of(
        ask.services, ask.caller.account_id, "foil", only_of=ask.caller.only_own_keys
    )
    at = ask.services.clock.now()
    return answer([views.listed(key) for key in found if not key.ended(at)])


@routes(
    "DELETE",
    "/api/v1/sdk/api-keys/{key_id}",
    who=credentials.login,
    permission="revoke_key",
    status=204,
    refusals=(404,),
)
async def delete_key(ask: Ask[None, Caller]) -> Answer:
    """Revoke a key; it stops working at once."""
    assert ask.caller.account_id is not None
    key = await account_keys.key_of(
        ask.services,
        ask.caller.account_id,
        "foil",
        ask.path("key_id"),
        missing="API key not found",
        only_of=ask.caller.only_own_keys,
    )
    if key.ended(ask.services.clock.now()):
        raise Failure(Kind.NOT_FOUND, "API key not found")
    await account_keys.revoke(ask.services, key, by=ask.caller.actor)
    return Answer(b"", status=204)
