"""What a client does with the account's keys, over REST or MCP."""

from api.dialects import account_keys
from api.dialects.ryvion import bodies, scopes, views
from api.dialects.ryvion.credentials import DIALECT, Client
from api.http.failure import Failure, Kind
from api.operations import Issuer
from api.services import Services
from ledger import events as e

MISSING = "API key not found"


async def create(services: Services, client: Client, body: bodies.CreateKey) -> views.CreatedKey:
    """Create a key that may no more than the one that asks for it.

    Raises:
        Failure: It would be wider.
    """
    if scopes.is_wider(body.scope, client.scopes):
        raise Failure(Kind.SCOPE_IS_DENIED)
    issuer = Issuer(client.member_id, bool(client.only_own_keys), bounds=client.key)
    key, secret = await account_keys.issue(
        services,
        client.account_id,
        e.KeyIssued(
            by=client.actor,
            name=body.name,
            dialect=DIALECT,
            scopes=(body.scope,),
        ),
        issuer,
    )
    return views.created(key, secret)


async def all_of(services: Services, client: Client) -> list[views.ListedKey]:
    """List the keys that work or may work again, newest first: there is no field to say more."""
    found = await account_keys.keys_of(
        services, client.account_id, DIALECT, only_of=client.only_own_keys
    )
    at = services.clock.now()
    return [views.listed(key) for key in found if not key.ended(at)]


async def revoke(services: Services, client: Client, key_id: str) -> None:
    """Revoke a key for good; quiet where it is revoked.

    Raises:
        Failure: There is none of this id within sight.
    """
    key = await account_keys.key_of(
        services,
        client.account_id,
        DIALECT,
        key_id,
        missing=MISSING,
        only_of=client.only_own_keys,
    )
    await account_keys.revoke(services, key, by=client.actor)
