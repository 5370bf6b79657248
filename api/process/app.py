"""A process's ASGI application: its lifespan, and a front that passes each request on."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from litestar.types import Receive, Scope, Send

from api import native
from api.dialects.registry import DIALECTS, OF_DIALECTS
from api.http.openapi import document
from api.http.surface import Surface
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
        own = own_paths(lambda: self.services, {at: partial(document_at, at) for at in DOCUMENTED})
        self._front = Front(own, settings.allowed_origins)

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
        except asyncio.CancelledError:
            return  # told to end before it began
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        self._started()
        await send({"type": "lifespan.startup.complete"})
        # A server that is told to end as it starts takes this away without a word.
        with contextlib.suppress(asyncio.CancelledError):
            await receive()
        services.stopping = True
        if runner is not None:
            await runner.stop()
        await services.close()
        await send({"type": "lifespan.shutdown.complete"})


DOCUMENTED: Mapping[str, tuple[Surface, type[Ask[Any]]]] = {
    "/openapi.json": (native.SURFACE, NativeAsk),
    **{f"/openapi/{name}.json": (each.surface, Ask) for name, each in DIALECTS.items()},
}
"""Where each surface's OpenAPI document is found."""


@cache
def document_at(path: str) -> bytes:
    """Write the OpenAPI document that is found at a path."""
    return document(*DOCUMENTED[path])
