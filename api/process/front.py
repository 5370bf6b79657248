"""Who answers: the native API, or a dialect by host, by path or by the prefix of the key."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from api.dialects.bve import SURFACE as BVE
from api.dialects.foil import SURFACE as FOIL
from api.dialects.reverie import SURFACE as REVERIE
from api.dialects.ryvion import SURFACE as RYVION
from api.dialects.venice import SURFACE as VENICE
from api.gateway.once import answered_once
from api.http.exchange import Call
from api.http.failure import Failure, Kind
from api.http.openapi import document
from api.http.routing import Endpoints, Surface
from api.identity.credentials import bearer_or_api_key
from api.native.errors import word
from api.native.routing import PREFIX
from api.process.metered import METERS, metered, require_meters
from api.services import Services

SURFACES: Mapping[str, Surface] = {
    surface.name: answered_once(surface, metered(surface.name))
    for surface in (REVERIE, FOIL, BVE, RYVION, VENICE)
}

_OWNERS: Sequence[tuple[bytes, str]] = (
    (b"/api/device/v1/", "reverie"),
    (b"/api/v1/sdk/", "foil"),
    (b"/admin/", "bve"),
    (b"/api/v1/auth/", "ryvion"),
    (b"/api/v1/knowledge-bases", "ryvion"),
    (b"/api/v1/agents", "ryvion"),
    (b"/api/v1/memories", "ryvion"),
    (b"/mcp", "ryvion"),
    (b"/api/v1/api_keys", "venice"),
    (b"/api/v1/billing/", "venice"),
    (b"/api/v1/models", "venice"),
    (b"/api/v1/chat/completions", "venice"),
    (b"/api/v1/embeddings", "venice"),
    (b"/api/v1/characters", "venice"),
)
"""Beginning of a path → dialect; the first that fits."""

_IMPORT = b"/api/v1/characters/import"
"""reverie's; to read it is to ask venice for the character of this slug."""

_NATIVE = PREFIX.encode() + b"/"
_SHARED = b"/v1/"
_PREFIXES = ((b"sk-bve-", "bve"), (b"ryv_", "ryvion"), (b"rk_", "reverie"))
SHARED_DEFAULT = "bve"
"""Whose contract holds under ``/v1`` where no key tells."""
LOGIN = frozenset({b"/api/v1/auth/signup", b"/api/v1/auth/login", b"/api/v1/auth/me"})
"""One login serves all, so a pinned host serves it too; what else ryvion has there it does not."""


class Front:
    """Hands each request to its dialect."""

    def __init__(self, services: Callable[[], Services], *, native: ASGIApp) -> None:
        """Take the services, which are there once the process has started, and the native API."""
        for name, surface in SURFACES.items():
            require_meters(surface, METERS[name])
        self._services = services
        self._native = native
        self._endpoints = {name: Endpoints(surface) for name, surface in SURFACES.items()}
        self._hosts: Mapping[str, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["raw_path"].startswith(_NATIVE):
            await self._native(scope, receive, send)
            return
        services = self._services()
        if self._hosts is None:
            self._hosts = services.settings.dialects_of_hosts
        name = dialect_of(scope, self._hosts)
        if name is None:
            answer = word(Failure(Kind.ROUTE_IS_UNKNOWN))
            await answer.send(send, head=scope.get("method") == "HEAD")
            return
        failure = self._unopened(name, scope, receive)
        await self._endpoints[name](services, scope, receive, send, failure)

    def _unopened(
        self,
        name: str,
        scope: Any,  # noqa: ANN401
        receive: Receive,
    ) -> Failure | None:
        """Ask for a key where only keys of other dialects open a shared path, and none is shown."""
        path = scope["raw_path"]
        if name != SHARED_DEFAULT or self._endpoints[name].serves(path):
            return None
        pinned = self._hosts is not None and _host(scope) in self._hosts
        if pinned or not path.startswith(_SHARED) or _dialect_of_key(_shown(scope)) is not None:
            return None
        if not any(endpoints.serves(path) for endpoints in self._endpoints.values()):
            return None
        try:
            bearer_or_api_key(Call(scope, receive))
        except Failure as error:
            return error
        return Failure(Kind.CREDENTIAL_IS_MALFORMED)


def dialect_of(scope: Any, hosts: Mapping[str, str]) -> str | None:  # noqa: ANN401
    """Name the dialect that answers; None: nobody's path."""
    path: bytes = scope["raw_path"].partition(b"?")[0]
    pinned = hosts.get(_host(scope)) if hosts else None
    if pinned is not None and path not in LOGIN:
        return pinned
    if path == _IMPORT and scope["method"] not in {"GET", "HEAD"}:
        return "reverie" if "reverie" in SURFACES else None
    for beginning, name in _OWNERS:
        if path.startswith(beginning):
            return name if name in SURFACES else None
    if path.startswith(_SHARED):
        return _by_key(scope)
    return None


def _host(scope: Any) -> str:  # noqa: ANN401
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").lower()
            return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return ""


def _by_key(scope: Any) -> str:  # noqa: ANN401
    return _dialect_of_key(_shown(scope)) or SHARED_DEFAULT


def _shown(scope: Any) -> bytes:  # noqa: ANN401
    shown = b""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            shown = value[7:].strip()
            break
        if name == b"x-api-key":
            shown = value.strip()
    return shown


def _dialect_of_key(shown: bytes) -> str | None:
    for prefix, dialect in _PREFIXES:
        if shown.startswith(prefix) and dialect in SURFACES:
            return dialect
    # A login's token stands for a key with ryvion alone.
    if shown.count(b".") == 2 and "ryvion" in SURFACES:  # noqa: PLR2004
        return "ryvion"
    return None


def dialect_documents() -> Mapping[str, bytes]:
    """Give each dialect's OpenAPI document by its path."""
    return {f"/openapi/{name}.json": document(surface) for name, surface in SURFACES.items()}
