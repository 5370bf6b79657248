"""A surface of its own routes, asked as a server asks: paths, methods, bodies, words."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from litestar.params import JSONBody

from api.http.answers import Answer
from api.http.asking import ONCE, Ask
from api.http.failure import Failure, Kind
from api.http.handlers import ENDING, Rendered, delete, get, guard, hot, post
from api.http.openapi import document
from api.http.surface import Door, Surface, application
from ledger.errors import LedgerUnavailable, NoSuchKey


class Thing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent."""

    name: str
    n: int = 0


class Asker(NamedTuple):
    """Who asks."""

    name: str


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)


@guard("key")
async def known(ask: Ask[Any]) -> Asker:
    """Let pass who says a name."""
    name = ask.header(b"x-name")
    if name is None:
        raise Failure(Kind.CREDENTIAL_IS_MISSING, "Who are you?")
    return Asker(name)


@get("/things")
async def list_things() -> list[str]:
    """List."""
    return ["all"]


@get("/things/{id:str}", query=("x",))
async def get_thing(request: Ask[None]) -> dict[str, Any]:
    """Show one."""
    return {"id": request.path("id"), "query": request.parameters()}


@get("/things/import")
async def get_import() -> str:
    """Show what stands beside a parameter."""
    return "import"


@get("/things/{id:str}/parts/{part:str}")
async def get_part(request: Ask[None]) -> dict[str, str]:
    """Show a part."""
    return {"id": request.path("id"), "part": request.path("part")}


@get("/store/{rest:path}")
async def get_rest(request: Ask[None]) -> dict[str, str]:
    """Show what is deep."""
    return {"rest": request.path("rest")}


@post("/things", guards=[known], status=201, example={"name": "a"})
async def make_thing(request: Ask[Asker], data: JSONBody[Thing]) -> Rendered[Thing]:
    """Make one."""
    return Rendered(data, headers={"X-By": request.caller.name})


@post("/maybe", guards=[known])
async def maybe(data: JSONBody[Thing | None] = None) -> dict[str, bool]:
    """Take a body or none."""
    return {"there": data is not None}


@delete("/things/{id:str}", guards=[known])
async def break_thing(request: Ask[Asker]) -> dict[str, str]:
    """Fail in a way of the path's choice."""
    raise ERRORS[request.path("id")]


@hot("POST", "/fast", guards=[known], takes=Thing, gives=Thing)
async def be_fast(ask: Ask[Asker]) -> Answer:
    """Answer before anything is read."""
    body = await ask.body()
    if body == b"wait":
        await asyncio.sleep(60)
    return Answer(b'{"by":"%b"}' % ask.caller.name.encode(), status=202)


ERRORS = {
    "failure": Failure(Kind.CONFLICT, "No."),
    "ledger": NoSuchKey(),
    "away": LedgerUnavailable(),
    "bug": ZeroDivisionError("secret insides"),
}
STATUSES = {
    Kind.CREDENTIAL_IS_MISSING: 401,
    Kind.CREDENTIAL_IS_UNKNOWN: 401,
    Kind.ROUTE_IS_UNKNOWN: 404,
    Kind.METHOD_IS_UNKNOWN: 405,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED_MEDIA_TYPE: 415,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}


def word(failure: Failure) -> Answer:
    """Write a failure as no other surface does."""
    said = json.dumps({"toy": failure.kind.value, "said": failure.said}).encode()
    return Answer(said, status=STATUSES.get(failure.kind, 400), headers=failure.headers)


HANDLERS = (
    *(list_things, get_thing, get_import, get_part, get_rest),
    *(make_thing, maybe, break_thing, be_fast),
)
TOY = Surface(
    name="toy",
    title="Toy",
    handlers=HANDLERS,
    word=word,
    headers=lambda request_id: [(b"x-toy", request_id.encode())],
    error=dict,
)
CLOSED = TOY._replace(shares=False)


def ask(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    surface: Surface = TOY,
    origins: Sequence[str] = ("*",),
    cancel: bool = False,
    **headers: str,
) -> Reply:
    """Ask as a server does, and read everything that comes back."""
    door = Door(surface, application(surface, Ask, origins=origins))
    door.app.state[ONCE] = None
    sent: list[Any] = []
    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": raw,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        task = asyncio.create_task(door(scope, receive, send))
        if cancel:
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task

    asyncio.run(run())
    start, *rest = sent
    return Reply(start["status"], dict(start["headers"]), b"".join(each["body"] for each in rest))


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/things", ["all"]),
        ("/things/7", {"id": "7", "query": {}}),
        ("/things/7?x=1", {"id": "7", "query": {"x": "1"}}),
        ("/things/import", "import"),
        ("/things/a%2Fb", {"id": "a/b", "query": {}}),
        ("/things/%C3%A4", {"id": "ä", "query": {}}),
        ("/things/7/parts/8", {"id": "7", "part": "8"}),
        ("/store/a/b", {"rest": "a/b"}),
    ],
)
def test_a_path_is_found_as_it_was_sent(path: str, answer: Any) -> None:
    """A fixed segment goes before a parameter, and a slash that is written out is no segment."""
    found = ask("GET", path)
    assert (found.status, found.json) == (200, answer)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/thing", "/things/", "/things//", "//things", "/things/7/parts"),
        *("/things//parts/8", "/store", "/schema", "/schema/openapi.json"),
    ],
)
def test_a_path_is_not_found(path: str) -> None:
    """What nobody added is nobody's; no empty segment is tidied away; no page of Litestar's is."""
    found = ask("GET", path)
    assert (found.status, found.json["toy"]) == (404, "route_is_unknown")
    assert path in found.json["said"]


def test_another_method_says_which_there_are() -> None:
    """405 names what is served, HEAD with GET; OPTIONS is refused where nothing is shared."""
    found = ask("PATCH", "/things")
    assert (found.status, found.headers[b"allow"]) == (405, b"GET, HEAD, POST")
    assert ask("OPTIONS", "/things", surface=CLOSED).status == 405


def test_head_is_get_without_a_body() -> None:
    """The length is that of the body that GET has."""
    whole, head = ask("GET", "/things"), ask("HEAD", "/things")
    assert (head.status, head.body) == (200, b"")
    assert head.headers[b"content-length"] == b"%d" % len(whole.body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"name":"a","n":"5"}', "n: Expected `int`, got `str`"),
        (b'{"name":"a","n":5.0}', ""),
        (b'{"name":"a","name":"b"}', "name: is sent twice"),
        (b'{"name":"a","more":1}', "more: is not a known field"),
        (b'{"name":"a\\u0000"}', ""),
        (b"", "The body is empty."),
        (b"null", "Expected `object`, got `null`"),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_a_body_is_read_strictly(body: bytes, said: str) -> None:
    """What Litestar's own reading lets pass is refused, in the surface's words."""
    found = ask("POST", "/things", body, x_name="ada")
    assert found.status == 400, found.body
    assert said in found.json["said"]


def test_what_is_good_is_taken() -> None:
    """A body of the form reaches the handler; an optional one may be left out."""
    found = ask("POST", "/things", b'{"name":"a"}', x_name="ada")
    assert (found.status, found.json) == (201, {"name": "a", "n": 0})
    assert found.headers[b"x-by"] == b"ada"
    assert found.headers[b"x-toy"].startswith(b"req_")
    assert ask("POST", "/maybe", x_name="ada").json == {"there": False}
    assert ask("POST", "/maybe", b'{"name":"a"}', x_name="ada").json == {"there": True}


def test_nobodys_body_is_not_read() -> None:
    """Who asks is found out before a byte of the body is."""
    found = ask("POST", "/things", b"!" * 2_000_000)
    assert (found.status, found.json["toy"]) == (401, "credential_is_missing")


def test_a_body_has_the_type_and_size_that_its_route_takes() -> None:
    """Another media type is 415, a larger one 413 and the connection is closed."""
    assert ask("POST", "/things", b"{}", x_name="a", content_type="text/xml").status == 415
    large = ask("POST", "/things", b" " * 2_000_000, x_name="a")
    assert (large.status, large.headers[b"connection"]) == (413, b"close")


THING = b'{"name":"a","n":3}'


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(THING, mtime=0)),
        ("x-gzip", gzip.compress(THING[:4], mtime=0) + gzip.compress(THING[4:], mtime=0)),
        ("Deflate", zlib.compress(THING)),
        ("identity", THING),
    ],
)
def test_a_compressed_body_is_the_body_that_it_says(coding: str, body: bytes) -> None:
    """Gzip and deflate (RFC 9110, 8.4.1), by ordinary routes and hot ones."""
    found = ask("POST", "/things", body, x_name="ada", content_encoding=coding)
    assert (found.status, found.json) == (201, {"name": "a", "n": 3})
    assert ask("POST", "/fast", body, x_name="ada", content_encoding=coding).status == 202


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"\x0b", 415),
        ("gzip, gzip", b"", 415),
        ("gzip", THING, 400),
        ("gzip", gzip.compress(THING, mtime=0)[:-4], 400),
        ("deflate", zlib.compress(bytes(200 * 2**20)), 413),
    ],
    ids=["other", "twice", "plain", "cut", "bomb"],
)
def test_another_coding_a_false_one_and_a_bomb_are_refused(
    coding: str, body: bytes, status: int
) -> None:
    """The bound of a body holds for what it comes to; what accepts codings says which."""
    found = ask("POST", "/things", body or b"x", x_name="ada", content_encoding=coding)
    assert found.status == status
    assert (b"accept-encoding" in found.headers) == (status == 415)


def test_replies_are_kept_nowhere_and_are_what_they_say() -> None:
    """``no-store`` and ``nosniff``, on answers of either kind and on refusals."""
    asked = (ask("GET", "/things"), ask("POST", "/fast", b"!", x_name="a"), ask("GET", "/none"))
    for found in asked:
        assert found.headers[b"cache-control"] == b"no-store"
        assert found.headers[b"x-content-type-options"] == b"nosniff"


def test_a_query_holds_what_the_route_documents() -> None:
    """Another parameter, or one twice, is refused."""
    assert ask("GET", "/things/7?y=1").status == 400
    assert ask("GET", "/things/7?x=1&x=2").status == 400


@pytest.mark.parametrize(
    ("name", "status"), [("failure", 409), ("ledger", 401), ("away", 503), ("bug", 500)]
)
def test_whatever_goes_wrong_is_worded(name: str, status: int) -> None:
    """Ours, the ledger's and nobody's; a client is told nothing of our insides."""
    found = ask("DELETE", f"/things/{name}", x_name="ada")
    assert found.status == status
    assert b"secret insides" not in found.body
    assert found.headers[b"x-toy"].startswith(b"req_")


def test_a_hot_route_is_guarded_documented_and_worded_like_any() -> None:
    """Its function is given the request alone, and the same ladder words what goes wrong."""
    assert ask("POST", "/fast", b"!", x_name="ada").json == {"by": "ada"}
    assert ask("POST", "/fast", b"!").status == 401
    assert ask("GET", "/fast").status == 405
    assert ask("POST", "/fast", b" " * 2_000_000, x_name="ada").status == 413
    written = json.loads(document(TOY, Ask))
    assert written["paths"]["/fast"]["post"]["operationId"] == "be_fast"


def test_who_waits_as_the_process_ends_is_told_so() -> None:
    """The task is taken away, and still there is an answer."""
    found = ask("POST", "/fast", b"wait", x_name="ada", cancel=True)
    assert (found.status, found.json["said"]) == (503, ENDING)


ELSEWHERE = "https://a.example"


def test_a_page_of_elsewhere_may_call() -> None:
    """A preflight is answered, whatever the client sends; replies and refusals carry the header."""
    preflight = ask(
        "OPTIONS",
        "/things",
        origin=ELSEWHERE,
        access_control_request_method="POST",
        access_control_request_headers="authorization, idempotency-key, x-stainless-os",
    )
    assert preflight.status == 204
    allowed = preflight.headers[b"access-control-allow-headers"].split(b", ")
    assert {b"idempotency-key", b"x-stainless-os"} <= set(allowed)
    for path, name, status in (("/things", "a", 200), ("/nothing", "a", 404)):
        found = ask("GET", path, origin=ELSEWHERE, x_name=name)
        assert (found.status, found.headers[b"access-control-allow-origin"]) == (status, b"*")
        exposed = found.headers[b"access-control-expose-headers"].lower()
        assert b"retry-after" in exposed
        assert b"x-ratelimit-remaining-requests" in exposed
    fast = ask("POST", "/fast", b"!", origin=ELSEWHERE, x_name="ada")
    assert fast.headers[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-origin" not in ask("GET", "/things").headers


def test_only_the_origins_of_the_setting_may_call() -> None:
    """Another page is told nothing that its browser would let it read."""
    ours = ("https://app.example",)
    for origin, allowed in (("https://app.example", True), ("https://app.example.evil", False)):
        found = ask("GET", "/things", origins=ours, origin=origin)
        assert (b"access-control-allow-origin" in found.headers) == allowed


def test_where_a_cookie_is_read_no_page_of_elsewhere_calls() -> None:
    """A surface that does not share says nothing to a preflight, and lets nobody read."""
    preflight = ask(
        "OPTIONS",
        "/things",
        surface=CLOSED,
        origin=ELSEWHERE,
        access_control_request_method="POST",
    )
    assert preflight.status == 405
    found = ask("GET", "/things", surface=CLOSED, origin=ELSEWHERE)
    assert b"access-control-allow-origin" not in found.headers


def test_every_handler_is_ours() -> None:
    """Each reads ``data`` by the strict reader and keeps what each error meets."""
    app = application(TOY, Ask)
    for route in app.routes:
        for handler in route.route_handlers:
            if "contract" in handler.opt and "data" in handler.parsed_fn_signature.parameters:
                assert handler.resolve_data_dto().__name__ == "Strict"
