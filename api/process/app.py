"""The ASGI application: routes, errors, health, metrics, OpenAPI, and the lifespan of a process.

Every error that leaves here is problem+json, the framework's own included.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, ExceptionHandlersMap, Receive, Scope, Send

from api.http import metrics, reading
from api.http.exchange import Answer, Call
from api.http.failure import Failure, Kind, forbidden
from api.http.paths import Paths
from api.http.routing import failure_of
from api.identity.auth import NOBODY, Caller, may
from api.native import (
    accounts,
    characters,
    credit,
    credit_ledger,
    keys,
    prices,
    reports,
    sessions,
    usage,
)
from api.native.errors import CONTENT_TYPE, word
from api.native.openapi import document
from api.native.routing import ROUTES, Ask, Route
from api.process.front import Front, dialect_documents
from api.process.health import health_routes
from api.services import UNREACHABLE, Services
from api.settings import Settings
from ledger.errors import LedgerError
from ledger.ids import new_request_id

log = structlog.get_logger("keyledger.api")

MODULES = (accounts, keys, credit, credit_ledger, usage, prices, reports, characters, sessions)
"""Importing them fills ``ROUTES``."""

Serves = Callable[[], Services]


class Endpoint:
    """All methods of one path."""

    def __init__(self, routes: Sequence[Route], services: Serves) -> None:
        """Take the routes of the path."""
        self._routes = {route.method: route for route in routes}
        if "GET" in self._routes:
            self._routes["HEAD"] = self._routes["GET"]
        self._allow = ", ".join(sorted(self._routes))
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = time.perf_counter()
        method: str = scope["method"]  # type: ignore[typeddict-item]
        route = self._routes.get(method)
        if route is None:
            answer = word(_method_not_allowed(self._allow))
            await answer.send(send, head=method == "HEAD")
            return
        answer = await self._answer(route, scope, receive)
        await answer.send(send, head=method == "HEAD")
        metrics.note(route.operation, answer.status, time.perf_counter() - began)

    async def _answer(self, route: Route, scope: Scope, receive: Receive) -> Answer:
        call = Call(scope, receive)
        call.body_max = route.body_max
        services = self._services()
        try:
            caller = NOBODY
            if not route.public:
                caller = await services.gate.caller(call.header(b"authorization"))
                _require_role(caller, route.operation)
            ask: Ask[Any] = Ask(services, caller, call, route.operation)
            if route.decoder is not None:
                ask.body = reading.decode(route.decoder, await call.body())
            return await route.handler(ask)
        except (Failure, LedgerError, *UNREACHABLE) as error:
            return word(failure_of(error))
        except Exception as error:  # last-resort: a client is told nothing of our insides
            return word(_logged(error, operation=route.operation))


def _require_role(caller: Caller, operation: str) -> None:
    if not may(caller, operation):
        raise forbidden(operation, caller.role)


def _logged(error: Exception, **where: str) -> Failure:
    request_id = new_request_id()
    log.error("request_failed", **where, request_id=request_id, exc_info=error)
    return Failure(Kind.INTERNAL, members={"instance": request_id})


def _method_not_allowed(allow: str) -> Failure:
    return Failure(Kind.METHOD_IS_UNKNOWN, f"Use one of {allow}.", headers={"Allow": allow})


class Router:
    """Finds the endpoint of a path.

    Litestar 2.25 cannot give path parameters to raw ASGI handlers of HTTP requests (it looks them
    up by method and keeps them under ``asgi``), so the API is one mount. It also reads the path as
    it was sent, so that a request id may hold ``%2F``.
    """

    def __init__(self, routes: Sequence[Route], services: Serves) -> None:
        """Take every route."""
        self._paths: Paths[Endpoint] = Paths()
        by_path: dict[str, list[Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, []).append(route)
        for path, found in by_path.items():
            self._paths.add(path, Endpoint(found, services))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to its endpoint."""
        endpoint, scope["path_params"] = self._paths.find(scope["raw_path"])
        if endpoint is None:
            await word(Failure(Kind.ROUTE_IS_UNKNOWN)).send(send)
            return
        await endpoint(scope, receive, send)


class Mounted(ASGIRouteHandler):
    """A raw ASGI handler.

    Litestar 2.25 gathers a handler's exception handlers from every layer for each request, though
    they are the same each time.
    """

    _gathered: "ExceptionHandlersMap | None" = None

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        """Gather them once."""
        if self._gathered is None:
            self._gathered = super().resolve_exception_handlers()
        return self._gathered


def mounted(path: str, app: ASGIApp, *, is_mount: bool = False) -> ASGIRouteHandler:
    """Give a raw ASGI handler at a path."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return Mounted(path, copy_scope=False, is_mount=is_mount)(handle)


def on_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Word the framework's errors: no such path, no such method, a bad header."""
    kind = {404: Kind.ROUTE_IS_UNKNOWN, 405: Kind.METHOD_IS_UNKNOWN}.get(error.status_code)
    return _response(Failure(kind or Kind.INVALID_FIELD, headers=error.headers))


def on_any_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Word what nobody expected."""
    return _response(_logged(error, path=request.url.path))


def _response(failure: Failure) -> Response[bytes]:
    answer = word(failure)
    headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
    return Response(
        answer.body, status_code=answer.status, media_type=CONTENT_TYPE.decode(), headers=headers
    )


def application(
    settings: Settings,
    url: str,
    *,
    jobs: bool = True,
) -> Litestar:
    """Put the application together."""
    held: list[Services] = []

    def services() -> Services:
        return held[0]

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        opened = await Services.open(settings, url)
        held[:] = [opened]
        app.state.services = opened
        runner = None
        if jobs:
            from api.process.jobs import Jobs  # noqa: PLC0415

            runner = Jobs(opened)
            runner.start()
        try:
            yield
        finally:
            opened.stopping = True
            if runner is not None:
                await runner.stop()
            await opened.close()

    documents = {"/openapi.json": document(ROUTES), **dialect_documents()}
    # One mount for all: of several, Litestar 2.25 tries "/" first.
    front = Front(services, native=Router(ROUTES, services))
    return Litestar(
        [
            mounted("/", front, is_mount=True),
            *(mounted(path, app) for path, app in health_routes(services, documents)),
        ],
        lifespan=[lifespan],
        openapi_config=None,
        exception_handlers={HTTPException: on_http_error, Exception: on_any_error},
        logging_config=None,
        debug=False,
    )
