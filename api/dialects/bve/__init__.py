"""bve: an operator's surface for keys, and OpenAI's API. It counts, it does not bill.

Keys made here belong to the operator's own account, whose overdraft is unlimited.
"""

from uuid import UUID

from api.dialects.bve import routes_admin, routes_inference
from api.dialects.bve.errors import word
from api.surface.routing import Surface

_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Request-Id"),
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-expose-headers", b"X-Request-Id"),
)


def _uuid(request_id: str) -> bytes:
    return str(UUID(request_id.removeprefix("req_"))).encode()


SURFACE = Surface(
    name="bve",
    routes=[*routes_admin.routes.all, *routes_inference.routes.all],
    word=word,
    headers=lambda request_id: [(b"x-request-id", _uuid(request_id))],
    cors=_CORS,
)
