"""ryvion's routes about keys. Each calls one operation."""

from litestar.params import JSONBody

from api.dialects.ryvion import bodies, credentials, keys, views
from api.dialects.ryvion.credentials import Principal
from api.http.handlers import Rendered, delete, get, post
from api.services import Ask


@post(
    "/api/v1/auth/api-keys",
    guards=[credentials.usable_key_or_session("keys:create")],
    status=201,
    example={"name": "my-new-key"},
)
async def create_key(
    request: Ask[Principal], data: JSONBody[bodies.CreateKey]
) -> Rendered[views.CreatedKey]:
    """Create a key; its secret is in this answer and nowhere else."""
    return Rendered(await keys.create(request.services, request.caller, data))


@get("/api/v1/auth/api-keys", guards=[credentials.usable_key_or_session("keys:list")])
async def list_keys(request: Ask[Principal]) -> list[views.ListedKey]:
    """List the keys that are not revoked, newest first."""
    return await keys.all_of(request.services, request.caller)


@delete(
    "/api/v1/auth/api-keys/{id:str}",
    guards=[credentials.usable_key_or_session("keys:revoke")],
    status=204,
    refusals=(404,),
)
async def revoke_key(request: Ask[Principal]) -> None:
    """Revoke a key: permanent and immediate."""
    await keys.revoke(request.services, request.caller, request.path("id"))


HANDLERS = (create_key, list_keys, revoke_key)
