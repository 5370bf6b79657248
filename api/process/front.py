"""Who answers: a path of the service itself, the native API, or a dialect by host, path or key."""

from collections.abc import Mapping
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from api import native
from api.dialects.registry import DIALECTS
from api.http.asking import ONCE
from api.http.failure import Failure, Kind
from api.http.shown import bearer_or_api_key, is_token
from api.http.surface import FAILURE, Door, Surface, application
from api.native.asking import Ask as NativeAsk
from api.services import SERVICES, Ask, Services

_SHARED = "/v1/"
_DEFAULT = next(name for name, dialect in DIALECTS.items() if dialect.is_default)


class Front:
    """Hands each request to its surface."""

    def __init__(self, own: Mapping[str, ASGIApp]) -> None:
        """Take what answers the service's own paths, such as ``/health``."""
        self._own = own
        self._native = _door(native.SURFACE, NativeAsk)
        self._doors = {name: _door(dialect.surface, Ask) for name, dialect in DIALECTS.items()}
        self._hosts: Mapping[str, str] = {}

    def open(self, services: Services) -> None:
        """Give the surfaces what their handlers work with, once that is there."""
        self._hosts = services.settings.dialects_of_hosts
        for door in (self._native, *self._doors.values()):
            door.app.state[SERVICES] = services
            door.app.state[ONCE] = services.once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path: str = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        if path.startswith(native.PATHS):
            await self._native(scope, receive, send)
            return
        own = self._own.get(path)
        if own is not None:
            await own(scope, receive, send)
            return
        name = dialect_of(scope, path, self._hosts)
        # Of nobody's path the native API says so.
        door = self._native if name is None else self._doors[name]
        failure = self._unopened(scope, path) if name == _DEFAULT else None
        if failure is not None:
            # Nobody serves the path here: what is said instead.
            known: dict[str, Any] = scope  # type: ignore[assignment]
            known[FAILURE] = failure
        await door(scope, receive, send)

    def _unopened(self, scope: Scope, path: str) -> Failure | None:
        """Ask for a key where only keys of other dialects open a shared path, and none is shown."""
        if not path.startswith(_SHARED) or self._doors[_DEFAULT].serves(path):
            return None
        pinned = bool(self._hosts) and _host(scope) in self._hosts
        if pinned or _dialect_of_key(_shown(scope)) is not None:
            return None
        if not any(door.serves(path) for door in self._doors.values()):
            return None
        try:
            bearer_or_api_key(Ask(scope, _nothing, _nowhere))
        except Failure as failure:
            return failure
        return Failure(Kind.CREDENTIAL_IS_MALFORMED)


def _door(surface: Surface, request_class: type[Ask[Any]]) -> Door:
    return Door(surface, application(surface, request_class))


async def _nothing() -> Any:  # noqa: ANN401 - an ASGI message
    raise AssertionError


async def _nowhere(message: Any) -> None:  # noqa: ANN401
    raise AssertionError(message)


def dialect_of(scope: Scope, path: str, hosts: Mapping[str, str]) -> str | None:
    """Name the dialect that answers; None: nobody's path."""
    pinned = hosts.get(_host(scope)) if hosts else None
    if pinned is not None:
        return next(
            (name for name, each in DIALECTS.items() if path in each.paths_everywhere), pinned
        )
    method: str = scope["method"]  # type: ignore[typeddict-item]
    for name, each in DIALECTS.items():
        if method in each.methods_of.get(path, ()):
            return name
    for name, each in DIALECTS.items():
        if path.startswith(tuple(each.paths)):
            return name
    return (_dialect_of_key(_shown(scope)) or _DEFAULT) if path.startswith(_SHARED) else None


def _host(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").lower()
            return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return ""


def _shown(scope: Scope) -> str:
    shown = b""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            shown = value[7:].strip()
            break
        if name == b"x-api-key":
            shown = value.strip()
    return shown.decode("latin-1")


def _dialect_of_key(shown: str) -> str | None:
    for name, each in DIALECTS.items():
        if each.key_prefix and shown.startswith(each.key_prefix):
            return name
        # A login's token stands for a key with one dialect alone.
        if each.takes_tokens and is_token(shown):
            return name
    return None
