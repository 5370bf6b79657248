"""bve: an operator's surface for keys, and OpenAI's API. It counts, it does not bill.

Keys made here belong to the operator's own account, whose overdraft is unlimited.
"""

from api.dialects.bve import routes_admin, routes_inference
from api.dialects.bve.errors import word
from api.http.routing import Surface

_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Request-Id"),
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-expose-headers", b"X-Request-Id"),
)


def _uuid(request_id: str) -> bytes:
    # As str(UUID(…)) writes it; every reply has one.
    digits = request_id.removeprefix("req_")
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts).encode()


SURFACE = Surface(
    name="bve",
    routes=[*routes_admin.routes.all, *routes_inference.routes.all],
    word=word,
    headers=lambda request_id: [(b"x-request-id", _uuid(request_id))],
    cors=_CORS,
)
