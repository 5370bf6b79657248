"""A process's ASGI application: its lifespan, and a front that passes each request on."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from litestar.types import Receive, Scope, Send

from api import native
from api.dialects.registry import DIALECTS, OF_DIALECTS
from api.http.openapi import document
from api.native.asking import Ask as NativeAsk
from api.process.front import Front
from api.process.health import own_paths
from api.services import Ask, Services
from api.settings import Settings


class Application:
    """The application that a server runs."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        *,
        jobs: bool = True,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the settings and the database.

        ``jobs``: whether this process runs jobs too. ``started`` is called before it serves.
        """
        self._settings = settings
        self._url = url
        self._jobs = jobs
        self._started = started
        self.services: Services
        """What handlers work with, from start-up on."""
        self._front = Front(own_paths(lambda: self.services, documents()), settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the lifespan."""
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            await self._live(receive, send)
        else:
            await self._front(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's messages
        """Open the services, serve, and close them; the server reports what goes wrong."""
        await receive()
        try:
            self.services = services = await Services.open(self._settings, self._url, OF_DIALECTS)
            self._front.open(services)
            runner = None
            if self._jobs:
                from api.process.jobs import Jobs  # noqa: PLC0415

                runner = Jobs(services)
                runner.start()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        services.stopping = True
        if runner is not None:
            await runner.stop()
        await services.close()
        await send({"type": "lifespan.shutdown.complete"})


@cache
def documents() -> Mapping[str, bytes]:
    """Return the OpenAPI document of every surface, by its path."""
    of_dialects = {
        f"/openapi/{name}.json": document(dialect.surface, Ask)
        for name, dialect in DIALECTS.items()
    }
    return MappingProxyType({"/openapi.json": document(native.SURFACE, NativeAsk), **of_dialects})
