"""A surface: one Litestar application with its own words for everything that goes wrong."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import structlog
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.types import Receive, Scope, Send

from api.http import metrics
from api.http.answers import Answer
from api.http.asking import SURFACE, Ask, Strict, request_id_of
from api.http.cors import WithOrigin, shared_with
from api.http.failure import Failure, Kind, of_error
from api.http.handlers import Handler, Passed, Rendered, ending, headers_of
from ledger.errors import LedgerCorrupt, LedgerError, LedgerUnavailable
from ledger.server.database import UNREACHABLE

log = structlog.get_logger("keyledger.api")

FAILURE = "keyledger.failure"
"""Name under which the scope holds the failure to word, once a hook has looked at it."""
NOWHERE = "/\0"
"""A path that no route has."""


class Surface(NamedTuple):
    """What all routes of a surface share."""

    name: str
    """Its name in metrics and keys; empty: the native API, whose operations have no prefix."""
    title: str
    handlers: Sequence[Handler]
    word: Callable[[Failure], Answer]
    """Writes a failure in the surface's envelope. Must not raise."""
    error: Any
    """Type of the envelope, for the document."""
    headers: Callable[[str], Sequence[tuple[bytes, bytes]]] | None = None
    """Headers of every reply, given the request's id; None: there are none."""
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
    """Writes a view as JSON."""
    error_type: str = "application/json"
    always: Sequence[int] = (400, 401, 403, 429, 503)
    """Statuses that every route may answer."""
    description: str = ""
    describe: Callable[[str, dict[str, Any], Handler], None] | None = None
    """Given the path, adds to an operation of the document what only this surface says."""
    components: Mapping[str, Any] = MappingProxyType({})
    """Further components of the document."""
    shares: bool = True
    """Whether pages of other origins may call. Not where a cookie is read."""
    failed: Callable[[Any, Failure], Awaitable[Failure]] | None = None
    """Called with each failure; returns the one to answer. None: no hook."""


def request_id_header(request_id: str) -> Sequence[tuple[bytes, bytes]]:
    """Return the header that shows a reply's request id, as most surfaces do."""
    return ((b"x-request-id", request_id.encode()),)


def application(
    surface: Surface, request_class: type[Ask[Any]], *, origins: Sequence[str] = ("*",)
) -> Litestar:
    """Put a surface together. Its ``state`` has yet to receive what its handlers work with.

    ``origins``: the origins whose pages may call, if the surface shares.
    """
    refuse = _refusing(surface)
    hooks: list[Any] = [] if surface.failed is None else [_telling(surface)]
    app = Litestar(
        list(surface.handlers),
        request_class=request_class,
        response_class=Rendered,
        dto=Strict,
        return_dto=None,
        exception_handlers={Exception: refuse, HTTPException: refuse},
        after_exception=hooks,
        cors_config=shared_with(origins) if surface.shares else None,
        openapi_config=None,
        state=State({SURFACE: surface}),
        logging_config=None,
        debug=False,
    )
    if surface.shares:
        cors: Any = app.asgi_handler
        app.asgi_handler = WithOrigin(cors, cors.app)
    return app


def failure_of(error: BaseException, scope: Scope | None = None) -> Failure:
    """Make a failure from any error: ours, the ledger's, the framework's, or an unknown one."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, LedgerCorrupt):
        log.critical("ledger_corrupt", lane=error.lane, seq=error.seq, error=str(error))
        return Failure(Kind.INTERNAL)
    if isinstance(error, LedgerError):
        return of_error(error)
    if isinstance(error, UNREACHABLE):
        log.warning("database_unreachable", error=str(error))
        return of_error(LedgerUnavailable())
    if isinstance(error, HTTPException) and scope is not None:
        return _of_framework(error, scope)
    told = request_id_of(scope) if scope is not None else ""
    log.error("request_failed", operation=_operation(scope), request_id=told, exc_info=error)
    return Failure(Kind.INTERNAL, members={"instance": told})


def _of_framework(error: HTTPException, scope: Scope) -> Failure:
    match error:
        case NotFoundException():
            path = scope["raw_path"].partition(b"?")[0][:255].decode("ascii", "replace")
            return Failure(Kind.ROUTE_IS_UNKNOWN, f"Route {_method(scope)} {path} not found")
        case MethodNotAllowedException():
            return _of_method(error)
        case ValidationException():
            # The only handler parameter that Litestar fills is ``data``, and it is empty.
            return Failure(Kind.INVALID_JSON, "The body is empty.")
        case _:
            return Failure(Kind.INVALID_FIELD, error.detail)


def _method(scope: Scope) -> str:
    method: str = scope["method"]  # type: ignore[typeddict-item]
    return method.upper()


def _operation(scope: Scope | None) -> str:
    handler = None if scope is None else scope.get("route_handler")
    return "none" if handler is None else str(handler.handler_name)


def _of_method(error: MethodNotAllowedException) -> Failure:
    """Name the allowed methods: HEAD wherever there is GET; OPTIONS is the framework's."""
    given = (error.headers or {}).get("allow", "").split(", ")
    methods = {*given, *(["HEAD"] if "GET" in given else [])} - {"OPTIONS", ""}
    allow = ", ".join(sorted(methods))
    return Failure(Kind.METHOD_IS_UNKNOWN, f"Use one of {allow}.", headers={"Allow": allow})


def _refusing(surface: Surface) -> Any:  # noqa: ANN401 - Litestar's type of an exception handler
    """Word every error. Litestar awaits no exception handler, so this one may not wait."""

    def refuse(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        known: dict[str, Any] = request.scope  # type: ignore[assignment]
        failure = known.get(FAILURE) or failure_of(error, scope=request.scope)
        return Passed(surface.word(failure))

    return refuse


def _telling(surface: Surface) -> Any:  # noqa: ANN401 - Litestar's type of a hook
    """Have the surface look at each failure before it is worded."""

    async def tell(error: Exception, scope: Scope) -> None:
        known: dict[str, Any] = scope  # type: ignore[assignment]
        failure = known[FAILURE] = failure_of(error, scope=scope)
        assert surface.failed is not None
        if "route_handler" not in known:
            return
        ask = scope["litestar_app"].request_class(scope, _nothing, _nowhere)
        try:
            known[FAILURE] = await surface.failed(ask, failure)
        except Exception as worse:  # last-resort: the client is told what went wrong first
            log.exception("failure_not_counted", operation=_operation(scope), exc_info=worse)

    return tell


async def _nothing() -> Any:  # noqa: ANN401 - an ASGI message
    return {"type": "http.disconnect"}


async def _nowhere(message: Any) -> None:  # noqa: ANN401
    raise AssertionError(message)


def _path(handler: Handler) -> str:
    (path,) = handler.paths
    return path


def _pattern(handler: Handler) -> str:
    path = re.escape(_path(handler)).replace(r"\:", ":")
    return re.sub(r"\\{\w+:path\\}", ".+", re.sub(r"\\{\w+:str\\}", "[^/]+", path))


class Door:
    """What stands around a surface's ordinary routes: HEAD, metrics, the end of the process."""

    def __init__(self, surface: Surface, app: Litestar) -> None:
        """Take a surface and its application."""
        self.surface = surface
        self.app = app
        self._hot = frozenset(
            (_path(handler), next(iter(handler.http_methods)))
            for handler in surface.handlers
            if "answer" in handler.opt and "{" not in _path(handler)
        )

        self._served = re.compile("|".join(map(_pattern, surface.handlers)))

    def serves(self, path: str) -> bool:
        """Return whether a path is one of the surface's."""
        return self._served.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        await self.answer(path, scope, receive, send)

    async def answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a path, which is routed as it was sent."""
        scope["path"] = path
        if (path, scope["method"]) in self._hot:  # type: ignore[typeddict-item]
            await self.app(scope, receive, send)
            return
        if "//" in path or path.endswith("/"):
            scope["path"] = NOWHERE  # Litestar would normalise it, and serve it
        method = _method(scope)
        # What Litestar answers itself, a preflight, shows the request's id too.
        shown = headers_of(self.surface, scope) if method == "OPTIONS" else ()
        began, sent = time.perf_counter(), _Sent(send, head=method == "HEAD", shown=shown)
        if method == "HEAD":
            scope = _as("GET", scope)
        elif method == "OPTIONS" and not self.surface.shares:
            # Litestar would answer, but it does not know a method of this name.
            scope = _as("options", scope)
        try:
            await self.app(scope, receive, sent)
        except asyncio.CancelledError:
            if not sent.status:
                await ending(self.surface, scope, send)
            raise
        handler: Any = scope.get("route_handler")
        if handler is None or "answer" not in handler.opt:
            name = f"{self.surface.name}.{_operation(scope)}".removeprefix(".")
            metrics.note(name, sent.status, time.perf_counter() - began)


def _as(method: str, scope: Scope) -> Scope:
    """Return a copy of a request with another method; for HEAD the server needs its own."""
    changed: Any = {**scope, "method": method}
    asked: Scope = changed
    return asked


class _Sent:
    """Sends messages on; notes the status, and drops the body of an answer to HEAD."""

    __slots__ = ("_head", "_send", "_shown", "status")

    def __init__(self, send: Send, *, head: bool, shown: Sequence[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._head = head
        self._shown = shown
        """Headers that the reply has to have."""
        self.status = 0

    async def __call__(self, message: Any) -> None:  # noqa: ANN401 - an ASGI message
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = [each for each in self._shown if each not in message["headers"]]
            message = {**message, "headers": [*message["headers"], *more]} if more else message
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)
