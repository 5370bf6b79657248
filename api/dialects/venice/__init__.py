"""venice: keys with consumption limits, billing, wallet sign-in, and an OpenAI-like API.

All under ``/api/v1``; camelCase. Every request of a key that fails counts against the key's limit
on failures, wherever it failed.
"""

from api.dialects.venice import (
    routes_billing,
    routes_characters,
    routes_inference,
    routes_keys,
    routes_limits,
    routes_models,
    routes_wallet,
)
from api.dialects.venice.credentials import count_failure
from api.dialects.venice.errors import Error, word
from api.http.routing import Surface

_MODULES = (
    routes_keys,
    routes_wallet,
    routes_limits,
    routes_billing,
    routes_models,
    routes_characters,
    routes_inference,
)

SURFACE = Surface(
    name="venice",
    routes=[route for module in _MODULES for route in module.routes.all],
    word=word,
    headers=lambda request_id: [(b"x-request-id", request_id.encode())],
    error=Error,
    failed=count_failure,
)
