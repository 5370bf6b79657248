"""ryvion before an upstream that keeps knowledge bases, agents and memories: Y8, A9.

The upstream is told whose they are and gets every body as it was sent; what a key's scope does not
name, it never hears of.
"""

import email
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import pytest

from api.gateway.table import ENTRIES
from tests.conftest import Served, settings_for
from tests.faults.rig import TLS

KEY = "upstream-secret-key-of-tests"
BASE = "/api/v1"
THING = "thing 1/2"
THERE = "thing%201%2F2"
"""The same as a segment of a path."""
SCOPES = ("buyer", "read-only", "write-only")
EVERYBODY = frozenset(SCOPES)
BINARY = bytes(range(256)) * 64


class Told(NamedTuple):
    """A request as the upstream got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Keeper:
    """A server that keeps nothing, but says that it does, and remembers what it was asked."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.told: dict[str, list[Told]] = {}
        """Request id → how often and what it was asked."""
        keeper = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                keeper.answer(self)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - as http.server names them

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        """Note what is asked, and answer as a keeper would."""
        headers = {name.lower(): value for name, value in asked.headers.items()}
        body = asked.rfile.read(int(headers.get("content-length", "0")))
        found = Told(asked.command, asked.path, headers, body)
        self.told.setdefault(headers["x-request-id"], []).append(found)
        status, document = self._reply(found)
        text = json.dumps(document).encode()
        asked.send_response(status)
        asked.send_header("Content-Type", "application/json; charset=utf-8")
        asked.send_header("Content-Length", str(len(text)))
        asked.end_headers()
        asked.wfile.write(text)

    @staticmethod
    def _reply(found: Told) -> tuple[int, Any]:
        if "absent" in found.path:
            return 404, {"error": {"message": "No such thing", "param": "id"}}
        if b"too much" in found.body:
            return 413, {"error": {"message": "That is too much"}}
        owner = {"id": THING, "account": found.headers.get("keyledger-account")}
        if found.method == "POST":
            return 201, {**owner, "bytes": len(found.body)}
        if found.method == "DELETE":
            return 200, {**owner, "deleted": True}
        return 200, {**owner, "object": "list", "data": [], "has_more": False}

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    """Yield the upstream."""
    found = Keeper()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def served(
    keeper: Keeper, ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the dialects before it."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"),
        upstream_url=keeper.url,
        upstream_key=KEY,
        welcome_grant="5 CAD",
    )
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


class Tenant:
    """An account with a key of each scope."""

    def __init__(self, served: Served, person: Any) -> None:
        """Make the keys by the token of a login."""
        self.account_id, self.token = person.account_id, person.token
        self._served = served
        self.known = {"session": person.token}
        for scope in SCOPES:
            body = {"name": scope, "scope": scope}
            made = person.client.post(f"{BASE}/auth/api-keys", json=body)
            assert made.status_code == 201, made.text
            self.known[scope] = made.json()["key"]

    def ask(self, scope: str, method: str, path: str, **parts: Any) -> httpx.Response:
        """Ask with the key of a scope."""
        shown = {"Authorization": f"Bearer {self.known[scope]}", **parts.pop("headers", {})}
        url = self._served.url + BASE + path
        return httpx.request(method, url, headers=shown, timeout=20, verify=TLS, **parts)


@pytest.fixture(scope="module")
def tenant(served: Served, person: Any) -> Tenant:
    """Return an account for the module."""
    return Tenant(served, person())


def told(keeper: Keeper, reply: httpx.Response) -> Told:
    """Return what the upstream was asked for a reply, once."""
    (found,) = keeper.told[reply.headers["x-request-id"]]
    return found


READERS, WRITERS = frozenset({"buyer", "read-only"}), frozenset({"buyer", "write-only"})
BUYER, NO_KEY = frozenset({"buyer"}), frozenset()


class Route(NamedTuple):
    """A row of the page's table."""

    method: str
    path: str
    body: Any
    allowed: frozenset[str]
    """Scopes of keys that may."""


ROUTES: tuple[Route, ...] = (
    Route("GET", "/knowledge-bases", None, READERS),
    Route("POST", "/knowledge-bases", {"name": "Handbook"}, BUYER),
    Route("GET", f"/knowledge-bases/{THERE}", None, READERS),
    Route("DELETE", f"/knowledge-bases/{THERE}", None, BUYER),
    Route("GET", f"/knowledge-bases/{THERE}/documents", None, READERS),
    Route("POST", f"/knowledge-bases/{THERE}/documents", {"text": "Once."}, WRITERS),
    Route("GET", "/agents", None, BUYER),
    Route("POST", "/agents", {"name": "Clerk", "instructions": "Be brief."}, BUYER),
    Route("GET", f"/agents/{THERE}", None, BUYER),
    Route("DELETE", f"/agents/{THERE}", None, BUYER),
    Route("GET", "/memories", None, READERS),
    Route("POST", "/memories", {"text": "Ada likes tables."}, NO_KEY),
    Route("GET", f"/memories/{THERE}", None, READERS),
    Route("DELETE", f"/memories/{THERE}", None, NO_KEY),
)
"""The page's table, written down once more."""


@pytest.mark.parametrize("scope", [*SCOPES, "session"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_y8_an_allowed_call_reaches_the_upstream_and_no_other(
    keeper: Keeper, tenant: Tenant, scope: str, route: Route
) -> None:
    """Y8: what a scope names goes on as it is and for the account; the rest nobody hears of."""
    before = len(keeper.told)
    reply = tenant.ask(scope, route.method, route.path, json=route.body)
    if scope != "session" and scope not in route.allowed:
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")
        assert len(keeper.told) == before
        return
    assert reply.status_code == (201 if route.body else 200), reply.text
    found = told(keeper, reply)
    assert (found.method, found.path) == (route.method, f"/v1{route.path}")
    assert found.headers["keyledger-account"] == tenant.account_id
    assert reply.json()["account"] == tenant.account_id
    assert reply.json()["id"] == THING
    assert found.headers["authorization"] == f"Bearer {KEY}"
    assert tenant.known[scope] not in str(found)
    assert found.body == (reply.request.content if route.body else b"")
    assert found.headers.get("content-type") == ("application/json" if route.body else None)


def test_no_route_of_an_accounts_own_is_forgotten(tenant: Tenant) -> None:
    """Every row of the gateway's table that belongs to an account is asked above."""
    own = [entry for entry in ENTRIES if entry.of_account]
    asked = {(route.method, route.path.replace(THERE, "{id}")) for route in ROUTES}
    assert {(entry.method, entry.path) for entry in own} == asked
    assert tenant.known.keys() == EVERYBODY | {"session"}


@pytest.mark.parametrize("scope", ["buyer", "write-only"])
def test_a_multipart_upload_arrives_byte_for_byte(
    keeper: Keeper, tenant: Tenant, scope: str
) -> None:
    """Its boundary stays as it was written, and by it the upstream takes the body apart."""
    text = "Schlüssel".encode("utf-16")
    files = {
        "file": ("keys.bin", BINARY, "application/octet-stream"),
        "note": ("note.txt", text, "text/plain; charset=utf-16"),
    }
    form = httpx.Request("POST", "http://x/", files=files, data={"name": "keys"})
    kind, body = form.headers["content-type"], form.read()
    path = f"/knowledge-bases/{THERE}/documents"
    reply = tenant.ask(scope, "POST", path, content=body, headers={"Content-Type": kind})
    assert reply.status_code == 201, reply.text
    found = told(keeper, reply)
    assert found.headers["content-type"] == kind
    assert found.body == body
    head = f"Content-Type: {found.headers['content-type']}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + found.body).get_payload()
    kept = {part.get_param("name", header="content-disposition"): part for part in parts}
    assert kept.keys() == {"file", "note", "name"}
    assert kept["file"].get_payload(decode=True) == BINARY
    assert kept["note"].get_content_charset() == "utf-16"


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=MixedCase-And_09.Signs",
        'multipart/form-data; boundary="with spaces, and: signs?"',
        "Multipart/Form-Data;BOUNDARY=tight",
        "text/plain; charset=ISO-8859-1",
        'text/plain;charset="utf-8"; format=flowed',
        "text/markdown; charset=UTF-8; variant=GFM",
        "application/pdf",
    ],
)
def test_a_media_type_keeps_its_parameters(keeper: Keeper, tenant: Tenant, kind: str) -> None:
    """What the body is, the client knows: type, case and parameters go on as they came."""
    text = "Größe: 5 € zählen".encode("latin-1", "replace")
    path = f"/knowledge-bases/{THERE}/documents"
    reply = tenant.ask("write-only", "POST", path, content=text, headers={"Content-Type": kind})
    assert reply.status_code == 201, reply.text
    found = told(keeper, reply)
    assert found.headers["content-type"] == kind
    assert found.body == text


def test_a_large_upload_arrives_whole(keeper: Keeper, tenant: Tenant) -> None:
    """Nine megabytes, in pieces; one more byte than is taken is refused and nobody hears of it."""
    path = f"/knowledge-bases/{THERE}/documents"
    large = (BINARY * 600)[: 9 * 1024 * 1024]
    reply = tenant.ask("buyer", "POST", path, content=large)
    assert reply.status_code == 201, reply.text
    assert told(keeper, reply).body == large
    before = len(keeper.told)
    reply = tenant.ask("buyer", "POST", path, content=b"x" * (10 * 1024 * 1024 + 1))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert len(keeper.told) == before


@pytest.mark.parametrize("thing", ["knowledge-bases", "agents", "memories"])
def test_a_page_is_asked_for_as_it_was(keeper: Keeper, tenant: Tenant, thing: str) -> None:
    """The query goes on with the path."""
    query = "limit=2&after=a%2Fb%20c"
    reply = tenant.ask("buyer", "GET", f"/{thing}?{query}")
    assert told(keeper, reply).path == f"/v1/{thing}?{query}"


def test_promise_15_the_upstream_is_told_whose_things_are_meant(
    keeper: Keeper, served: Served, person: Any, tenant: Tenant
) -> None:
    """Promise 15: whatever a client says of itself, the account is that of its key."""
    other = Tenant(served, person())
    forged = {"Keyledger-Account": tenant.account_id}
    for scope in ("buyer", "read-only", "session"):
        reply = other.ask(scope, "GET", "/memories", headers=forged)
        assert told(keeper, reply).headers["keyledger-account"] == other.account_id
        assert reply.json()["account"] == other.account_id


@pytest.mark.parametrize("way", ["%2e%2e", "a%2F..%2Fb", "..%2Fchat", "%2E"])
def test_no_path_leads_elsewhere(keeper: Keeper, tenant: Tenant, way: str) -> None:
    """A part of a path that an upstream may read as a way up reaches none."""
    before = len(keeper.told)
    reply = tenant.ask("buyer", "GET", f"/agents/{way}")
    assert reply.status_code == 404
    assert len(keeper.told) == before


@pytest.mark.parametrize("thing", ["knowledge-bases", "agents", "memories"])
def test_what_the_upstream_does_not_have_is_not_found(tenant: Tenant, thing: str) -> None:
    """Its refusals are said in ryvion's words."""
    reply = tenant.ask("buyer", "GET", f"/{thing}/absent")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (404, "not_found")
    assert "No such thing" in error["message"]
    path = f"/knowledge-bases/{THERE}/documents"
    reply = tenant.ask("buyer", "POST", path, content=b"too much")
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_y8_refused_and_unpriced_calls_cost_nothing(tenant: Tenant, operator: Any) -> None:
    """Y8: without a price they are admitted and not metered; a refusal is recorded with its key."""
    account = f"/ledger/v1/accounts/{tenant.account_id}"
    assert tenant.ask("buyer", "GET", "/agents").status_code == 200
    assert tenant.ask("read-only", "GET", "/agents").status_code == 403
    balances = operator.get(f"{account}/balances").json()["balances"]
    assert [each["balance"] for each in balances if each["asset"] == "CAD"] == ["5"]
    events = operator.get(f"{account}/events?limit=200").json()["data"]
    kinds = {event["type"] for event in events if event["type"].startswith("request_")}
    assert kinds == {"request_refused"}
    reasons = {e["payload"]["reason"] for e in events if e["type"] == "request_refused"}
    assert reasons == {"scope_is_denied"}
