"""A gateway served by uvicorn with a thin surface of its own: what a dialect does, and no more."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from api.gateway import headers, table, wishes
from api.gateway.forward import Admission, Bounds, GatewayRequest
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.handlers import Handler, guard, hot
from api.http.surface import Door, Surface, application
from api.operations import Asked
from api.services import Ask, Services
from ledger import events as e
from ledger.ids import AccountId, KeyId, new_account_id, new_request_id
from ledger.money import parse_amount
from tests.conftest import TLS, settings_for

STATUSES = {
    Kind.CREDENTIAL_IS_UNKNOWN: 401,
    Kind.SCOPE_IS_DENIED: 403,
    Kind.RATE_IS_LIMITED: 429,
    Kind.BUDGET_IS_EXHAUSTED: 429,
    Kind.BALANCE_IS_EXHAUSTED: 402,
    Kind.CONFLICT: 409,
    Kind.MODEL_IS_UNKNOWN: 404,
    Kind.NOT_FOUND: 404,
    Kind.UPSTREAM_FAILED: 502,
    Kind.UPSTREAM_TIMED_OUT: 504,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}


def worded(failure: Failure) -> bytes:
    """Write a failure as this surface does."""
    said = {"kind": failure.kind.value, "field": failure.field, "message": failure.detail}
    return json.dumps({"error": said}).encode()


@guard()
async def nobody(_ask: Ask[None]) -> None:
    """Let the gateway find out whose key it is."""


class Thin:
    """The application."""

    def __init__(self, home: Path, url: str, **settings: Any) -> None:
        """Take what to open."""
        self.settings = settings_for(home, **settings)
        self.url = url
        self.services: Services
        self.bounds = Bounds()
        self.more: dict[str, Any] = {}
        """What each work has besides."""
        self.permits: Any = None
        self.next_id: Callable[[], str] = new_request_id
        surface = Surface(
            name="thin",
            title="Thin",
            handlers=[self._handler(entry) for entry in table.ENTRIES],
            word=self._word,
            headers=lambda request_id: [(b"x-request-id", request_id.encode())],
            error=dict,
        )
        self.door = Door(surface, application(surface, Ask))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self.door(scope, receive, send)

    @staticmethod
    def _word(failure: Failure) -> Answer:
        status = STATUSES.get(failure.kind, 400)
        return Answer(worded(failure), status=status, headers=failure.headers)

    def _handler(self, entry: table.RouteEntry) -> Handler:
        async def serve(ask: Ask[None]) -> Any:
            ask.request_id = self.next_id()
            return await self._reply(entry, ask)

        serve.__name__ = entry.name
        path = "/v1" + re.sub(
            r"{(\w+)\*}", r"{\1:path}", re.sub(r"{(\w+)}", r"{\1:str}", entry.path)
        )
        takes = dict[str, Any] if entry.method == "POST" else None
        return hot(entry.method, path, takes=takes, guards=[nobody], large=True)(serve)

    async def _reply(self, entry: table.RouteEntry, ask: Ask[None]) -> Any:
        services = self.services
        secret = (ask.header(b"authorization") or "").removeprefix("Bearer ")
        proof = await services.resolver.secret(secret)
        admission = Admission(*proof, "key", permits=self.permits)
        body = await ask.body()
        work = GatewayRequest(
            ask.request_id,
            entry,
            document=wishes.decode(body) if entry.meter.format else None,
            body=b"" if entry.meter.format else body,
            content_type=ask.header(b"content-type") or "",
            parameters={name: ask.segment(name) for name in ask.path_params},
            query=ask.scope["query_string"].decode(),
            headers=ask.scope["headers"],
        )._replace(**self.more)
        return await services.gateway.serve(
            admission, work, wording=worded, decorate=headers.limits
        )

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self.services = await Services.open(self.settings, self.url)
        self.services.gateway._bounds = self.bounds
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.services.close()
        await send({"type": "lifespan.shutdown.complete"})


class Rig:
    """The application, served in a thread."""

    def __init__(self, app: Thin, *, grace_seconds: int | None = None) -> None:
        """Serve it."""
        self.app = app
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="on",
            http="httptools",
            timeout_graceful_shutdown=grace_seconds,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def ask_to_stop(self) -> None:
        """Begin to end."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End, and wait for it."""
        self.ask_to_stop()
        self._thread.join(40)
        assert not self._thread.is_alive()
        self._socket.close()

    def run(self, coroutine: Any) -> Any:
        """Run something in the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    @property
    def services(self) -> Services:
        """Return what it works with."""
        return self.app.services

    def account(self, credit: str = "5 USD", **terms: Any) -> AccountId:
        """Open an account."""
        account_id = new_account_id()
        ledger = self.services.ledger
        opened = e.AccountOpened(by="test", **terms)
        self.run(
            ledger.accounts.open(
                Asked("test"), opened, name="Acme", account_id=account_id, welcome=False
            )
        )
        if credit:
            amount = parse_amount(credit)
            self.run(ledger.credits.adjust(Asked("test"), account_id, amount, reason="test"))
        return account_id

    def key(self, account_id: AccountId, **terms: Any) -> tuple[KeyId, str]:
        """Issue a key; return its id and its secret."""
        issued = e.KeyIssued(by="test", **{"name": "bot", "dialect": "bve", **terms})
        made = self.run(self.services.ledger.keys.issue(Asked("test"), account_id, issued))
        return made.key.key_id, made.secret

    def client(self, secret: str) -> httpx.Client:
        """Return a client that shows a secret."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=30,
            verify=TLS,
        )


@contextlib.contextmanager
def rig(app: Thin, **terms: Any) -> Iterator[Rig]:
    """Serve for a while."""
    made = Rig(app, **terms)
    try:
        yield made
    finally:
        made.stop()
