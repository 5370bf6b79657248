"""foil: personas of a game. Keys are managed by login, used in ``X-API-Key``; calls are counted."""

from api.dialects.foil import routes_keys, routes_sdk
from api.dialects.foil.errors import Envelope, word
from api.http.routing import Surface

SURFACE = Surface(
    name="foil",
    routes=[*routes_keys.routes.all, *routes_sdk.routes.all],
    word=word,
    headers=lambda request_id: [(b"x-request-id", request_id.encode())],
    error=Envelope,
)
