"""ryvion: OpenAI's API, keys with three scopes, a login that serves every dialect, and MCP."""

from api.dialects.ryvion import routes_gateway, routes_mcp
from api.dialects.ryvion.errors import word
from api.dialects.ryvion.routes import routes
from api.http.routing import Surface

MODULES = (routes_gateway, routes_mcp)
"""Importing them fills ``routes``."""

SURFACE = Surface(
    name="ryvion",
    routes=routes.all,
    word=word,
    headers=lambda request_id: [(b"x-request-id", request_id.encode())],
)
