"""What a principal does with the account's keys, over REST or MCP."""

from api.dialects import account_keys
from api.dialects.ryvion import bodies, scopes, views
from api.dialects.ryvion.credentials import DIALECT, Principal
from api.http.failure import Failure, Kind
from api.operations import Issuer
from api.services import Services
from ledger import events as e

MISSING = "API key not found"


async def create(
    services: Services, principal: Principal, body: bodies.CreateKey
) -> views.CreatedKey:
    """Create a key that may do no more than the one that asks for it.

    Raises:
        Failure: It would be wider.
    """
    if scopes.is_wider(body.scope, principal.scopes):
        raise Failure(Kind.SCOPE_IS_DENIED)
    issuer = Issuer(principal.member_id, bool(principal.only_own_keys), bounds=principal.key)
    key, secret = await account_keys.issue(
        services,
        principal.account_id,
        e.KeyIssued(
            by=principal.actor,
            name=body.name,
            dialect=DIALECT,
            scopes=(body.scope,),
        ),
        issuer,
    )
    return views.created(key, secret)


async def all_of(services: Services, principal: Principal) -> list[views.ListedKey]:
    """List the keys that work or may work again, newest first: the page shows no status."""
    found = await account_keys.keys_of(
        services, principal.account_id, DIALECT, only_of=principal.only_own_keys
    )
    at = services.clock.now()
    return [views.listed(key) for key in found if not key.ended(at)]


async def revoke(services: Services, principal: Principal, key_id: str) -> None:
    """Revoke a key for good; again, it changes nothing.

    Raises:
        Failure: There is none of this id among those shown.
    """
    key = await account_keys.key_of(
        services,
        principal.account_id,
        DIALECT,
        key_id,
        missing=MISSING,
        only_of=principal.only_own_keys,
    )
    await account_keys.revoke(services, key, by=principal.actor)
