"""reverie: an account's characters behind OpenAI's API, paid from its one balance of credits.

Keys are made and revoked on the dashboard and by the native API, which the page leaves open.
"""

from api.dialects.reverie.errors import word
from api.dialects.reverie.routes import routes
from api.http.routing import Surface

SURFACE = Surface(
    name="reverie",
    routes=routes.all,
    word=word,
    headers=lambda request_id: [(b"x-request-id", request_id.encode())],
)
