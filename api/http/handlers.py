"""What a route is: a Litestar handler, its guards, and what the document says about it.

``get``, ``post`` … make ordinary handlers. ``hot`` makes one that is documented like any other and
answered by a middleware before Litestar reads anything: for the routes with the most traffic.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar

from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.params import BodyKwarg
from litestar.types import ASGIApp, ExceptionHandlersMap, Guard, Receive, Scope, Send

from api.http import metrics, reading
from api.http.answers import Answer
from api.http.asking import ONCE, SURFACE, Ask, Surfaced, request_id_of
from api.http.failure import Failure, Kind

T = TypeVar("T")
_JSON = BodyKwarg(media_type=RequestEncodingType.JSON)
ENDING = "The service is shutting down and could not answer."


class Streamed(Protocol):
    """An answer that goes out as it comes in."""

    status: int
    headers: list[tuple[bytes, bytes]]

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end, or until the client is gone."""


Reply = Answer | Streamed


class Contract(NamedTuple):
    """What a route promises besides its types."""

    query: Sequence[str] = ()
    required: Sequence[str] = ()
    """Those of ``query`` that must be sent."""
    refusals: Sequence[int] = ()
    """Statuses it may answer besides those of every route."""
    example: Any = None
    """An example of a valid body."""
    other_types: Sequence[str] = ()
    """Media types it may answer besides JSON."""
    body_types: Sequence[str] = ("application/json",)
    body_max: int = reading.ORDINARY_BODY_MAX
    """Bytes of the largest body that it takes."""
    permission: str = ""
    """Operation that the role behind a login's token has to allow."""


class Handler(HTTPRouteHandler):
    """Litestar's handler, with its exception handlers gathered and its guards copied only once.

    Both are the same for every request.
    """

    _gathered: "ExceptionHandlersMap | None" = None

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        """Gather them once."""
        if self._gathered is None:
            self._gathered = super().resolve_exception_handlers()
        return self._gathered

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Run every guard, none of them in a thread."""
        for guard in self.resolve_guards():
            await guard(connection, self)  # type: ignore[misc]


def route(
    method: str,
    path: str,
    *,
    guards: Sequence[Guard] = (),
    status: int = 200,
    large: bool = False,
    documented: bool = True,
    middleware: Sequence[Any] = (),
    **terms: Any,  # noqa: ANN401 - fields of ``Contract``
) -> Callable[[Any], Handler]:
    """Make a handler from a function. Its name is the operation, its docstring the summary.

    ``large``: the body may have the largest size. Without ``guards`` anybody may call it.
    """
    most = reading.body_max(large=large, public=not guards)

    def make(function: Any) -> Handler:  # noqa: ANN401 - any handler
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        schemes = [scheme for guard in guards for scheme in getattr(guard, "schemes", ())]
        made: Any = Handler(
            path,
            http_method=method,  # type: ignore[arg-type]
            guards=list(guards),
            status_code=status,
            middleware=middleware,
            include_in_schema=documented,
            summary=summary,
            response_description=summary,
            # An empty name: no credential is needed.
            security=[{scheme: []} if scheme else {} for scheme in schemes],
            opt={
                "contract": Contract(body_max=most, **terms),
                "operation": function.__name__,
            },
        )
        handler: Handler = made(function)
        return handler

    return make


get, post, put, patch, delete = (
    partial(route, method) for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
)


def guard(*schemes: str) -> Callable[[Callable[[Any], Awaitable[Any]]], Guard]:
    """Make a guard from a function that finds out who asks, or refuses.

    ``schemes``: names of security schemes, for the document; an empty one: no credential is needed.
    """

    def make(who: Callable[[Any], Awaitable[Any]]) -> Guard:
        async def find(connection: Any, _handler: Any) -> None:  # noqa: ANN401
            connection.scope["user"] = await who(connection)

        find.schemes, find.who = schemes, who  # type: ignore[attr-defined]
        find.__doc__, find.__name__ = who.__doc__, who.__name__
        return find

    return make


Answering = Callable[[Any], Awaitable[Reply]]


def hot(
    method: str,
    path: str,
    *,
    takes: Any = dict[str, Any],  # noqa: ANN401 - types for the document
    gives: Any = dict[str, Any],  # noqa: ANN401
    **terms: Any,  # noqa: ANN401 - as of ``route``
) -> Callable[[Answering], Handler]:
    """Make a handler whose function is given only the request and answers by itself.

    ``takes`` and ``gives`` are the types in the document; ``takes`` None: there is no body.
    """

    def make(answer: Answering) -> Handler:
        async def bodiless(request: Request[Any, Any, Any]) -> Any:  # noqa: ANN401
            raise AssertionError(request)  # answered before

        async def documents(request: Request[Any, Any, Any], data: Any) -> Any:  # noqa: ANN401
            raise AssertionError(request, data)  # answered before

        function = bodiless if takes is None else documents
        function.__name__ = function.__qualname__ = answer.__name__
        function.__module__, function.__doc__ = answer.__module__, answer.__doc__
        function.__annotations__["return"] = gives
        if takes is not None:
            function.__annotations__["data"] = Annotated[takes, _JSON]
        middleware = partial(_Answers, answer=answer)
        made = route(method, path, middleware=[middleware], **terms)(function)
        made.opt["answer"] = answer
        return made

    return make


class _Answers:
    """The middleware that answers a hot route."""

    def __init__(self, app: ASGIApp, answer: Answering) -> None:  # noqa: ARG002 - as Litestar calls
        """Take what answers; ``app``, Litestar's own way, is never called."""
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Errors go to the exception handlers, like those of any handler."""
        began = time.perf_counter()
        ask: Ask[Any] = scope["litestar_app"].request_class(scope, receive, send)  # type: ignore[assignment]
        surface: Surfaced = ask.app.state[SURFACE]
        handler = ask.route_handler
        try:
            await handler.authorize_connection(ask)
            if "once" in handler.opt:
                reply = await ask.app.state[ONCE](ask, self._answer)
            else:
                reply = await self._answer(ask)
        except asyncio.CancelledError:
            await ending(surface, scope, send)
            raise
        await sending(reply, surface, scope)(scope, receive, send)
        name = f"{surface.name}.{ask.operation}" if surface.name else ask.operation
        metrics.note(name, reply.status, time.perf_counter() - began)


_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")


def headers_of(surface: Surfaced, scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    """Return what every reply of a surface shows: that it is what it says, and is kept nowhere."""
    own = () if surface.headers is None else surface.headers(request_id_of(scope))
    return (_NOSNIFF, _NO_STORE, *own)


async def ending(surface: Surfaced, scope: Scope, send: Send) -> None:
    """Answer that the process is ending, before the server cancels the task.

    The request may have been done and charged by now, so the client is not asked to retry.
    """
    answer = surface.word(Failure(Kind.UNAVAILABLE, ENDING))
    answer.headers.extend(headers_of(surface, scope))
    await answer.send(send)


class Rendered(Response[T], Generic[T]):
    """What a handler answers: a struct, or bytes that are JSON already, with its own headers."""

    def to_asgi_response(  # type: ignore[override]
        self,
        app: Litestar | None,  # noqa: ARG002 - as Litestar calls it
        request: Request[Any, Any, Any],
        *,
        status_code: int | None = None,
        **_: Any,  # noqa: ANN401
    ) -> ASGIApp:
        """Encode it, None as an empty body, and add the headers of every reply of the surface."""
        surface: Surfaced = request.app.state[SURFACE]
        body: Any = self.content
        if not isinstance(body, bytes):
            body = b"" if body is None else surface.encode(body)
        answer = Answer(body, status=self.status_code or status_code or 200)
        answer.add(self.headers)
        return sending(answer, surface, request.scope)


class Passed(Rendered[T]):
    """A reply that is made already, such as the gateway's, whole or streamed."""

    def __init__(self, reply: Reply) -> None:
        """Take it."""
        super().__init__(None)  # type: ignore[arg-type]
        self._reply = reply

    def to_asgi_response(  # type: ignore[override]
        self,
        app: Litestar | None,  # noqa: ARG002
        request: Request[Any, Any, Any],
        **_: Any,  # noqa: ANN401
    ) -> ASGIApp:
        """Pass it on, with the headers of every reply of the surface."""
        return sending(self._reply, request.app.state[SURFACE], request.scope)


def sending(reply: Reply, surface: Surfaced, scope: Scope) -> ASGIApp:
    """Return what sends a reply with its surface's headers."""
    reply.headers.extend(headers_of(surface, scope))

    async def send_it(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if isinstance(reply, Answer):
            await reply.send(send)
        else:
            await reply.stream(send, receive)

    return send_it
