"""Routes each request to the service itself, the native API, or a dialect by host, path or key."""

from collections.abc import Mapping, Sequence
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


_BEGINNINGS = tuple((each, name) for name, dialect in DIALECTS.items() for each in dialect.paths)
_ANY_BEGINNING = tuple(beginning for beginning, _ in _BEGINNINGS)
_METHODS = {
    (path, method): name
    for name, dialect in DIALECTS.items()
    for path, methods in dialect.methods_of.items()
    for method in methods
}
_EVERYWHERE = {
    path: name for name, dialect in DIALECTS.items() for path in dialect.paths_everywhere
}
_KEYS = tuple((each.key_prefix, name) for name, each in DIALECTS.items() if each.key_prefix)
_OF_TOKENS = next((name for name, each in DIALECTS.items() if each.takes_tokens), None)
"""The one dialect with which a login's token stands for a key."""


class Front:
    """Passes each request to its surface."""

    def __init__(self, own: Mapping[str, ASGIApp], origins: Sequence[str]) -> None:
        """Take what answers the service's own paths, such as ``/health``; whose pages may call."""
        self._own = own
        self._native = _door(native.SURFACE, NativeAsk, origins)
        self._doors = {
            name: _door(dialect.surface, Ask, origins) for name, dialect in DIALECTS.items()
        }
        self._hosts: Mapping[str, str] = {}

    def open(self, services: Services) -> None:
        """Hand the surfaces the services that their handlers work with."""
        self._hosts = services.settings.dialects_of_hosts
        for door in (self._native, *self._doors.values()):
            door.app.state[SERVICES] = services
            door.app.state[ONCE] = services.once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path: str = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        if path.startswith(native.PATHS):
            await self._native.answer(path, scope, receive, send)
        elif path in self._own:
            await self._own[path](scope, receive, send)
        else:
            await self._door_of(scope, path).answer(path, scope, receive, send)

    def _door_of(self, scope: Scope, path: str) -> Door:
        pinned = self._hosts.get(_host(scope)) if self._hosts else None
        if pinned is not None:
            return self._doors[_EVERYWHERE.get(path, pinned)]
        name = _METHODS.get((path, scope["method"])) or _by_beginning(path)  # type: ignore[typeddict-item]
        if name is not None:
            return self._doors[name]
        if not path.startswith(_SHARED):
            return self._native  # which says so of nobody's path
        name = _by_key(scope)
        if name is None and not self._doors[_DEFAULT].serves(path):
            self._ask_for_key(scope, path)
        return self._doors[name or _DEFAULT]

    def _ask_for_key(self, scope: Scope, path: str) -> None:
        """Have a key asked for where only keys of other dialects open a shared path."""
        if not any(door.serves(path) for door in self._doors.values()):
            return
        failure = Failure(Kind.CREDENTIAL_IS_MALFORMED)
        try:
            bearer_or_api_key(Ask(scope, _nothing, _nowhere))
        except Failure as found:
            failure = found
        scope[FAILURE] = failure  # type: ignore[literal-required]


def _door(surface: Surface, request_class: type[Ask[Any]], origins: Sequence[str]) -> Door:
    return Door(surface, application(surface, request_class, origins=origins))


async def _nothing() -> Any:  # noqa: ANN401 - an ASGI message
    raise AssertionError


async def _nowhere(message: Any) -> None:  # noqa: ANN401
    raise AssertionError(message)


def _by_beginning(path: str) -> str | None:
    if not path.startswith(_ANY_BEGINNING):
        return None
    return next(name for beginning, name in _BEGINNINGS if path.startswith(beginning))


def _by_key(scope: Scope) -> str | None:
    """Return the dialect whose key the headers show; None: nobody's."""
    shown = _shown(scope)
    for prefix, name in _KEYS:
        if shown.startswith(prefix):
            return name
    return _OF_TOKENS if is_token(shown) else None


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
