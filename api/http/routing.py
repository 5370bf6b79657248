"""What a dialect is to the service: its routes, its words, and the endpoint that answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog
from litestar.types import Receive, Send

from api.http import metrics, reading
from api.http.exchange import Answer, Call
from api.http.failure import Failure, Kind, invalid, of_error
from api.http.paths import Paths
from api.http.wording import OpenAIEnvelope
from api.services import UNREACHABLE, Services
from ledger.errors import LedgerCorrupt, LedgerError, LedgerUnavailable
from ledger.ids import new_request_id

log = structlog.get_logger("keyledger.api")

B = TypeVar("B")
C = TypeVar("C")


class Streamed(Protocol):
    """An answer that goes out as it comes in."""

    status: int
    headers: list[tuple[bytes, bytes]]

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send it to its end, or until the client is gone."""


Reply = Answer | Streamed
R = TypeVar("R", bound=Reply)


class Ask(Generic[B, C]):
    """One request on a dialect's path: what is asked, and by whom once that is known."""

    __slots__ = ("body", "call", "caller", "request_id", "route", "services", "surface")

    def __init__(self, services: Services, call: Call, surface: "Surface", route: "Route") -> None:
        """Begin; caller and body come later."""
        self.services = services
        self.call = call
        self.surface = surface
        self.route = route
        self.request_id = new_request_id()
        self.caller: C
        self.body: B

    def path(self, name: str) -> str:
        """Give a path parameter."""
        return self.call.path(name)

    def query(self, *names: str) -> dict[str, str]:
        """Give the query, which must hold nothing but these parameters."""
        return self.call.require_only(*names)

    def whole(self, field: str, text: str, low: int, high: int) -> int:
        """Read a whole number of a query.

        Raises:
            Failure: It is none, or out of bounds.
        """
        if (
            not (text.isascii() and text.isdecimal())
            or len(text) > len(str(high))
            or not low <= int(text) <= high
        ):
            raise invalid(field, f"must be a whole number, {low} to {high}")
        return int(text)


class Route(NamedTuple):
    """One operation of a dialect: what is served and what is documented."""

    method: str
    path: str
    handler: Callable[[Any], Awaitable[Reply]]
    who: Callable[[Any], Awaitable[Any]]
    """Tells who asks, or refuses; ``None`` inside the ask where anybody may."""
    body: Any
    """Struct of the body; None: it has none, or is read by the handler."""
    decoder: msgspec.json.Decoder[Any] | None
    answer: Any
    """Type of the answer, for the document; None: no body."""
    status: int
    query: Sequence[str]
    refusals: Sequence[int]
    """Statuses it may answer beside those of every route."""
    example: Any
    security: Sequence[str]
    """Names of security schemes; empty: anybody may."""
    required: Sequence[str]
    """Those of ``query`` that must be there."""
    other_types: Sequence[str]
    """Media types it may answer beside JSON."""
    permission: str
    """Operation of the native API whose roles may call it with a login's token."""
    documented: bool
    """Whether it stands in the OpenAPI document; another protocol describes itself."""
    body_max: int
    """Bytes of body that it takes."""
    once: bool = False
    """Whether it takes an ``Idempotency-Key``."""

    @property
    def operation(self) -> str:
        """Name it as metrics and the document do."""
        name: str = self.handler.__name__
        return name

    @property
    def summary(self) -> str:
        """Give the first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]


class Routes:
    """Collects the routes of a dialect as its modules are imported."""

    def __init__(self) -> None:
        """Begin without any."""
        self.all: list[Route] = []

    def __call__(
        self,
        method: str,
        path: str,
        *,
        who: Callable[[Any], Awaitable[Any]],
        body: Any = None,  # noqa: ANN401
        raw: bool = False,
        large: bool = False,
        answer: Any = None,  # noqa: ANN401
        status: int = 200,
        query: Sequence[str] = (),
        required: Sequence[str] = (),
        refusals: Sequence[int] = (),
        example: Any = None,  # noqa: ANN401
        other_types: Sequence[str] = (),
        permission: str = "",
        documented: bool = True,
        schemes: Sequence[str] | None = None,
    ) -> Callable[[Callable[[Any], Awaitable[Reply]]], Callable[[Any], Awaitable[Reply]]]:
        """Register a handler. ``raw``: it reads the body itself; ``body`` only documents it.

        ``large``: the body may be as large as any.
        ``schemes``: the security schemes of this path, where they are fewer than those of ``who``.
        """
        decoder = None if body is None or raw else msgspec.json.Decoder(body)

        def register(
            handler: Callable[[Any], Awaitable[Reply]],
        ) -> Callable[[Any], Awaitable[Reply]]:
            security = getattr(who, "security", ()) if schemes is None else schemes
            self.all.append(
                Route(
                    method,
                    path,
                    handler,
                    who,
                    body,
                    decoder,
                    answer,
                    status,
                    query,
                    refusals,
                    example,
                    security,
                    required,
                    other_types,
                    permission,
                    documented,
                    reading.body_max(large=large, public=who is anybody),
                )
            )
            return handler

        return register


class Surface(NamedTuple):
    """A dialect."""

    name: str
    routes: Sequence[Route]
    word: Callable[[Failure], Answer]
    """Writes a failure in the dialect's envelope."""
    headers: Callable[[str], Sequence[tuple[bytes, bytes]]]
    """Headers of every reply, given the request's id."""
    error: Any = OpenAIEnvelope
    """Type of the envelope, for the document."""
    cors: Sequence[tuple[bytes, bytes]] = ()
    """Headers of every reply that let browsers call; empty: ``OPTIONS`` is refused."""
    failed: Callable[[Ask[Any, Any], Failure], Awaitable[Failure]] | None = None
    """Is told of each failure and gives the one to answer; None: nobody asks."""


async def anybody(ask: Ask[Any, None]) -> None:  # noqa: ARG001 - as every ``who``
    """Let anybody pass."""
    return


class Endpoints:
    """All endpoints of a dialect."""

    def __init__(self, surface: Surface) -> None:
        """Take a dialect."""
        self.surface = surface
        self._paths: Paths[dict[str, Route]] = Paths()
        by_path: dict[str, dict[str, Route]] = {}
        for route in surface.routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for path, methods in by_path.items():
            self._paths.add(path, methods)

    def serves(self, raw_path: bytes) -> bool:
        """Tell whether a path is one of the dialect's."""
        return self._paths.find(raw_path)[0] is not None

    async def __call__(
        self,
        services: Services,
        scope: Any,  # noqa: ANN401
        receive: Receive,
        send: Send,
        failure: Failure | None = None,
    ) -> None:
        """Answer a request. ``failure``: what is wrong with it already where no route is meant."""
        began = time.perf_counter()
        method: str = scope["method"]
        methods, scope["path_params"] = self._paths.find(scope["raw_path"])
        call = Call(scope, receive)
        route = None if methods is None else methods.get("GET" if method == "HEAD" else method)
        request_id = ""
        if methods is not None and method == "OPTIONS" and self.surface.cors:
            reply: Reply = Answer(b"", status=204)
        elif methods is None or route is None:
            reply = self.surface.word(failure or self._misdirected(scope, methods))
        else:
            call.body_max = route.body_max
            ask: Ask[Any, Any] = Ask(services, call, self.surface, route)
            try:
                reply = await self._answer(ask)
            except asyncio.CancelledError:
                # The process ends and takes its tasks away: say so while there is somebody to hear.
                # It may have been done and charged by now, so nobody is asked to do it again.
                ending = Failure(Kind.UNAVAILABLE, "The service ends before it could answer.")
                reply = self._headed(self.surface.word(ending), ask.request_id)
                await reply.send(send)
                self._count(route, reply, began)
                raise
            request_id = ask.request_id
        self._headed(reply, request_id or new_request_id())
        if isinstance(reply, Answer):
            await reply.send(send, head=method == "HEAD")
        else:
            await reply.stream(send, receive)
        self._count(route, reply, began)

    def _count(self, route: Route | None, reply: Reply, began: float) -> None:
        name = f"{self.surface.name}.{route.operation}" if route else f"{self.surface.name}.none"
        metrics.note(name, reply.status, time.perf_counter() - began)

    def _headed(self, reply: R, request_id: str) -> R:
        reply.headers.extend(self.surface.headers(request_id))
        reply.headers.extend(self.surface.cors)
        return reply

    async def _answer(self, ask: Ask[Any, Any]) -> Reply:
        try:
            ask.caller = await ask.route.who(ask)
            if ask.route.decoder is not None:
                ask.body = await body_of(ask, ask.route.decoder)
            return await ask.route.handler(ask)
        except (Failure, LedgerError, *UNREACHABLE) as error:
            failure = failure_of(error)
        except Exception as error:  # last-resort: a client is told nothing of our insides
            _note(ask, "request_failed", error)
            failure = Failure(Kind.INTERNAL)
        return ask.surface.word(await _told(ask, failure))

    @staticmethod
    def _misdirected(scope: Any, methods: dict[str, Route] | None) -> Failure:  # noqa: ANN401
        if methods is not None:
            allow = ", ".join(sorted(methods))
            return Failure(Kind.METHOD_IS_UNKNOWN, f"Use one of {allow}.", headers={"Allow": allow})
        path = scope["raw_path"].partition(b"?")[0][:255].decode("ascii", "replace")
        return Failure(Kind.ROUTE_IS_UNKNOWN, f"Route {scope['method']} {path} not found")


async def _told(ask: Ask[Any, Any], failure: Failure) -> Failure:
    if ask.surface.failed is None:
        return failure
    try:
        return await ask.surface.failed(ask, failure)
    except Exception as error:  # last-resort: what went wrong first is what the client is told
        _note(ask, "failure_not_counted", error)
        return failure


def _note(ask: Ask[Any, Any], event: str, error: Exception) -> None:
    log.error(event, operation=ask.route.operation, request_id=ask.request_id, exc_info=error)


def failure_of(error: BaseException) -> Failure:
    """Make a failure of whatever a route raises on purpose."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, LedgerCorrupt):
        log.critical("ledger_corrupt", lane=error.lane, seq=error.seq, error=str(error))
        return Failure(Kind.INTERNAL)
    if isinstance(error, LedgerError):
        return of_error(error)
    log.warning("database_unreachable", error=str(error))
    return of_error(LedgerUnavailable())


async def body_of(ask: Ask[Any, Any], decoder: msgspec.json.Decoder[B]) -> B:
    """Read and decode a JSON body strictly.

    Raises:
        Failure: It says to be something else than JSON, is none, too large, or not of the form.
    """
    require_json(ask)
    return reading.decode(decoder, await ask.call.body())


def require_json(ask: Ask[Any, Any]) -> None:
    """Refuse a body that says to be something else than JSON.

    Raises:
        Failure: It does.
    """
    kind = ask.call.content_type
    if kind not in {"", "application/json"} and not kind.endswith("+json"):
        raise Failure(Kind.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json.")
