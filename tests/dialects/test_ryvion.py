"""ryvion, promise by promise: Y1 … Y9 and Y11; Y10 is in ``tests/mcp``."""

import re
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from api.dialects.ryvion.dialect import DIALECT
from api.dialects.ryvion.errors import amount
from api.dialects.ryvion.scopes import MATRIX, allows, is_wider
from api.http.handlers import Handler
from tests.conftest import TLS, Served, settings_for

AUTH = "/api/v1/auth"
KEYS = f"{AUTH}/api-keys"
PASSWORD = "correct horse battery"
MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
REQUEST = re.compile(r"req_[0-9a-f]{32}")
SECRET = re.compile(r"ryv_[0-9A-Za-z]{36}")
CHAT = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]}
EMBEDDING = {"model": "keyledger-embedding", "input": "Hello"}
HEADERS = ("bearer", "x-api-key")
SCOPES = ("buyer", "read-only", "write-only")
NOBODYS = "0190a5c0-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def served(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve with the welcome that a new account is given by default, and no bound on sign-ups."""
    settings = settings_for(
        tmp_path_factory.mktemp("home"), welcome_grant="5 USD, 5 CAD", signups_per_hour=1_000
    )
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


@pytest.fixture(params=HEADERS)
def header(request: pytest.FixtureRequest) -> str:
    """Name the header that shows the credential: what holds of one holds of the other (Y3)."""
    return request.param


def shown(header: str, secret: str) -> dict[str, str]:
    """Show a credential."""
    return {"Authorization": f"Bearer {secret}"} if header == "bearer" else {"X-API-Key": secret}


class Buyer(NamedTuple):
    """Somebody who signed up."""

    served: Served
    token: str
    buyer_id: str
    email: str

    def client(self, secret: str = "", header: str = "bearer") -> httpx.Client:
        """Return a client with a key, or with the token."""
        headers = shown(header, secret or self.token)
        return httpx.Client(base_url=self.served.url, headers=headers, timeout=20, verify=TLS)

    def key(self, scope: str = "buyer", name: str = "k") -> dict[str, Any]:
        """Create a key by the token."""
        with self.client() as client:
            found = client.post(KEYS, json={"name": name, "scope": scope})
        assert found.status_code == 201, found.text
        return found.json()

    @property
    def account_id(self) -> str:
        """Return the account's id as the native API writes it."""
        return f"acct_{uuid.UUID(self.buyer_id).hex}"


@pytest.fixture(scope="module")
def sign_up(served: Served) -> Callable[..., Buyer]:
    """Return a way to open an account."""

    def make(name: str = "Ada") -> Buyer:
        email = f"ada-{secrets.token_hex(6)}@example.com"
        body = {"email": email, "password": PASSWORD, "name": name}
        with served.client(None) as client:
            found = client.post(f"{AUTH}/signup", json=body)
        assert found.status_code == 201, found.text
        return Buyer(served, found.json()["token"], found.json()["buyer_id"], email)

    return make


@pytest.fixture
def buyer(sign_up: Callable[..., Buyer]) -> Buyer:
    """Return somebody who signed up."""
    return sign_up()


def error(found: httpx.Response) -> dict[str, Any]:
    """Return the error of a reply, whose envelope is OpenAI's to the letter."""
    assert list(found.json()) == ["error"], found.text
    assert list(found.json()["error"]) == ["message", "type", "param", "code"]
    return found.json()["error"]


def code(found: httpx.Response) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return found.status_code, error(found)["code"]


# Accounts.


def test_y5_signing_up_opens_an_account_with_a_free_tier(
    served: Served, world: Any, operator: httpx.Client
) -> None:
    """Y5: no card, the welcome grant, and a metered call works right away."""
    body = {"email": " Ada.L@Example.com ", "password": PASSWORD, "name": "Ada"}
    with served.client(None) as client:
        found = client.post(f"{AUTH}/signup", json=body)
        assert found.status_code == 201, found.text
        assert list(found.json()) == ["token", "buyer_id", "email", "name"]
        assert found.headers["cache-control"] == "no-store"
        made = found.json()
        assert (made["email"], made["name"]) == ("ada.l@example.com", "Ada")
        client.headers["Authorization"] = f"Bearer {made['token']}"
        secret = client.post(KEYS, json={"name": "first"}).json()["key"]
        client.headers["Authorization"] = f"Bearer {secret}"
        answered = client.post("/v1/chat/completions", json=CHAT)
        assert answered.status_code == 200, answered.text
    account = world.get(f"/accounts/acct_{uuid.UUID(made['buyer_id']).hex}")
    spent = {each["asset"]: each["balance"] for each in account["balances"]}
    assert spent["USD"] == "5"
    assert 4 < float(spent["CAD"]) < 5
    assert [limit["id"] for limit in account["limits"]] == [
        "spend:CAD/rolling:3600",
        "key_creations/rolling:60",
        "active_keys/lifetime",
    ]
    events = operator.get(f"/ledger/v1/accounts/{account['account_id']}/events").json()["data"]
    first = [event["type"] for event in reversed(events)][:5]
    assert first[:3] == ["account_opened", "member_added", "login_set"]
    assert first[3:] == ["credit_granted", "credit_granted"]
    assert "ada.l@example.com" not in str(events)


def test_logging_in_gives_the_same(buyer: Buyer, served: Served) -> None:
    """The four fields of signing up, and a token that works."""
    with served.client(None) as client:
        body = {"email": buyer.email.upper(), "password": PASSWORD}
        found = client.post(f"{AUTH}/login", json=body)
        assert found.status_code == 200
        assert {**found.json(), "token": ""} == {
            "token": "",
            "buyer_id": buyer.buyer_id,
            "email": buyer.email,
            "name": "Ada",
        }
        assert found.headers["cache-control"] == "no-store"
        token = found.json()["token"]
        me = client.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {token}"})
        assert me.status_code == 200


def test_a_wrong_password_and_an_unknown_address_are_alike(buyer: Buyer, served: Served) -> None:
    """The same text, and a password is hashed in either case."""
    wrong = {"email": buyer.email, "password": "not the password"}
    unknown = {"email": "nobody@example.com", "password": "not the password"}
    spent: dict[str, float] = {}
    with served.client(None) as client:
        for body in (wrong, unknown):
            replies = []
            best = 1e9
            for _ in range(5):
                began = time.process_time()
                replies.append(client.post(f"{AUTH}/login", json=body))
                best = min(best, time.process_time() - began)
            assert {code(each) for each in replies} == {(401, "invalid_api_key")}
            messages = {error(each)["message"] for each in replies}
            assert messages == {"The address or the password is not right."}
            spent[body["email"]] = best
    least, most = sorted(spent.values())
    assert most < 2 * least + 0.02


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("signup", {"email": "a@b.c", "password": PASSWORD}, "name"),
        ("signup", {"email": "a@b.c", "password": "short", "name": "A"}, "password"),
        ("signup", {"email": "a@b.c", "password": "p" * 129, "name": "A"}, "password"),
        ("signup", {"email": "nowhere", "password": PASSWORD, "name": "A"}, "email"),
        ("signup", {"email": "a@b.c", "password": PASSWORD, "name": ""}, "name"),
        ("signup", {"email": "a@b.c", "password": PASSWORD, "name": "A", "role": "x"}, "role"),
        ("login", {"email": "a@b.c"}, "password"),
        ("login", {"email": "a@b.c", "password": 7}, "password"),
    ],
)
def test_a_wrong_field_is_named(
    served: Served, path: str, body: dict[str, Any], param: str
) -> None:
    """400 with the field as ``param``."""
    with served.client(None) as client:
        found = client.post(f"{AUTH}/{path}", json=body)
    assert code(found) == (400, "invalid_request")
    assert error(found)["param"] == param


# Y1, Y2, Y3: who asks.


class Route(NamedTuple):
    """A route of the dialect."""

    method: str
    path: str
    is_guarded: bool


def route(handler: Handler) -> Route:
    """Return the route that a handler serves."""
    (method,), (path,) = handler.http_methods, handler.paths
    return Route(method, path.replace(":str}", "}"), bool(handler.guards))


ROUTES = {handler.handler_name: route(handler) for handler in DIALECT.surface.handlers}


def routes() -> list[tuple[str, str]]:
    """Return every route that needs a credential."""
    return [
        (route.method, re.sub(r"{\w+}", NOBODYS, route.path))
        for route in ROUTES.values()
        if route.is_guarded
    ]


def test_only_logging_in_needs_no_credential() -> None:
    """Y1: no other route is without one."""
    free = [route.path for route in ROUTES.values() if not route.is_guarded]
    assert free == [f"{AUTH}/signup", f"{AUTH}/login"]


@pytest.mark.parametrize(("method", "path"), routes())
def test_y1_every_route_needs_authentication(served: Served, method: str, path: str) -> None:
    """Y1, Y11: nothing, something wrong or another dialect's → 401 with a challenge."""
    checked = "ryv_" + "0" * 30
    wrong = ["ryv_short", checked + "000000", "a.b.c"]
    if not path.startswith("/v1/"):
        wrong += ["sk-bve-" + "a" * 64, "nothing"]
    with served.client(None) as client:
        if not path.startswith("/v1/"):
            # Under /v1 nobody knows yet whose contract it is.
            found = client.request(method, path)
            assert code(found) == (401, "missing_api_key")
            assert found.headers["www-authenticate"] == 'Bearer realm="keyledger"'
        for secret in wrong:
            for header in HEADERS:
                found = client.request(method, path, headers=shown(header, secret))
                assert code(found) == (401, "invalid_api_key")
                assert error(found)["message"] == "Invalid API key"
                assert 'error="invalid_token"' in found.headers["www-authenticate"]


def test_y1_a_host_of_its_own_speaks_ryvion(
    ledger_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Y1: where the host tells whose contract holds, /v1 too words a missing credential so."""
    settings = settings_for(tmp_path_factory.mktemp("home"), hosts="127.0.0.1=ryvion")
    host = Served(settings, ledger_url).start()
    try:
        with host.client(None) as client:
            for method, path in routes():
                found = client.request(method, path)
                assert code(found) == (401, "missing_api_key")
                assert found.headers["www-authenticate"] == 'Bearer realm="keyledger"'
    finally:
        host.stop()


def test_y3_two_credentials_that_disagree_are_refused(buyer: Buyer) -> None:
    """Y3: 400 ``invalid_request``; the same one twice is one."""
    one, other = buyer.key()["key"], buyer.key()["key"]
    for path in (f"{AUTH}/me", "/v1/models"):
        with buyer.client(one) as client:
            assert client.get(path, headers={"X-API-Key": one}).status_code == 200
            found = client.get(path, headers={"X-API-Key": other})
            assert code(found) == (400, "invalid_request")
            basic = {"Authorization": "Basic eDp5", "X-API-Key": one}
            assert code(client.get(path, headers=basic)) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{AUTH}/me", None),
        ("GET", KEYS, None),
        ("GET", f"{AUTH}/billing", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/embeddings", EMBEDDING),
        ("POST", "/v1/chat/completions", {"model": "no-such-model", "messages": []}),
        ("GET", f"/api/v1/agents/{NOBODYS}", None),
    ],
)
def test_y3_both_headers_get_equal_replies(
    sign_up: Callable[..., Buyer], method: str, path: str, body: Any
) -> None:
    """Y3: byte for byte, whether a key or a login's token is shown."""
    somebody = sign_up()
    for secret in (somebody.key()["key"], somebody.token):
        replies = []
        for header in HEADERS:
            with somebody.client(secret, header) as client:
                found = client.request(method, path, json=body)
                replies.append(
                    (
                        found.status_code,
                        re.sub(rb'"(last_used|created)\w*":[^,}]*', b"", found.content),
                    )
                )
        assert replies[0] == replies[1]


def test_y3_both_headers_share_one_limit(buyer: Buyer, operator: httpx.Client) -> None:
    """Y3: what one header used up the other does not have."""
    made = buyer.key()
    key_id = f"key_{uuid.UUID(made['id']).hex}"
    limits = [{"kind": "requests", "window": "rolling:60", "ceiling": "4"}]
    changed = operator.patch(f"/ledger/v1/keys/{key_id}", json={"limits": limits})
    assert changed.status_code == 200, changed.text
    statuses = []
    for turn in range(6):
        with buyer.client(made["key"], HEADERS[turn % 2]) as client:
            found = client.post("/v1/embeddings", json=EMBEDDING)
            statuses.append(found.status_code)
    assert statuses == [200] * 4 + [429] * 2
    assert found.headers["ratelimit"].startswith('"key:requests/rolling:60";r=0;t=')
    assert int(found.headers["retry-after"]) <= 62
    assert error(found) == {
        "message": "Rate limit exceeded: requests per minute",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


def test_y2_the_stock_client_works(buyer: Buyer) -> None:
    """Y2: PyPI ``openai``: models, chat, stream, embeddings; only base URL and key are ours."""
    key = buyer.key()["key"]
    with openai.OpenAI(base_url=f"{buyer.served.url}/v1", api_key=key, max_retries=0) as client:
        names = [model.id for model in client.models.list()]
        assert "keyledger-small" in names
        assert client.models.retrieve("keyledger-small").id == "keyledger-small"
        messages = [{"role": "user", "content": "What is a ledger?"}]
        whole = client.chat.completions.create(model="keyledger-small", messages=messages)
        assert whole.usage is not None
        chunks = list(
            client.chat.completions.create(
                model="keyledger-small",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        vectors = client.embeddings.create(model="keyledger-embedding", input=["a", "b"])
        assert len(vectors.data) == 2
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="no-such-model", messages=messages)
        assert missing.value.code == "model_not_found"


def test_y11_the_stock_client_tells_errors_apart(buyer: Buyer) -> None:
    """Y11: 401, 403 and 429 are three classes of the SDK."""
    base = f"{buyer.served.url}/v1"
    client = openai.OpenAI(base_url=base, api_key="ryv_wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    reader = buyer.key("read-only")["key"]
    with openai.OpenAI(base_url=base, api_key=reader, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError) as denied:
            client.embeddings.create(model="keyledger-embedding", input="a")
        assert denied.value.code == "insufficient_scope"


# Y4, Y6, Y7, Y9: keys.


def test_y6_a_key_creates_a_key(buyer: Buyer, header: str) -> None:
    """Y6, Y4: with an existing key; exactly five fields, the scope ``buyer`` by default."""
    with buyer.client(buyer.key()["key"], header) as client:
        found = client.post(KEYS, json={"name": "my-new-key"})
        assert found.status_code == 201, found.text
        assert list(found.json()) == ["id", "name", "key", "scope", "created_at"]
        made = found.json()
        assert (made["name"], made["scope"]) == ("my-new-key", "buyer")
        assert uuid.UUID(made["id"])
        assert SECRET.fullmatch(made["key"])
        assert MILLISECONDS.fullmatch(made["created_at"])
        assert found.headers["cache-control"] == "no-store"
        client.headers.update(shown(header, made["key"]))
        assert client.get("/v1/models").status_code == 200


def test_y6_keys_are_listed(sign_up: Callable[..., Buyer], header: str) -> None:
    """Y6: newest first, exactly six fields."""
    somebody = sign_up()
    made = [somebody.key(scope, name=scope) for scope in SCOPES]
    with somebody.client(made[0]["key"], header) as client:
        client.post("/v1/embeddings", json=EMBEDDING)
        rows = client.get(KEYS).json()
    assert [row["id"] for row in rows] == [each["id"] for each in reversed(made)]
    fields = ["id", "name", "scope", "prefix", "created_at", "last_used_at"]
    assert all(list(row) == fields for row in rows)
    assert [row["scope"] for row in rows] == ["write-only", "read-only", "buyer"]
    assert all(
        key["key"].startswith(row["prefix"]) for key, row in zip(made, rows[::-1], strict=True)
    )
    assert [len(row["prefix"]) for row in rows] == [8, 8, 8]
    assert MILLISECONDS.fullmatch(rows[2]["last_used_at"])
    assert rows[0]["last_used_at"] is None


def test_y4_a_secret_is_shown_once(sign_up: Callable[..., Buyer], operator: httpx.Client) -> None:
    """Y4: no list, no detail and no event holds it again, not even a part long enough to matter."""
    somebody = sign_up()
    made = somebody.key()
    random = made["key"].removeprefix("ryv_")[4:-6]
    with somebody.client() as client:
        seen = [client.get(path).text for path in (KEYS, f"{AUTH}/me", f"{AUTH}/billing")]
    native = f"/ledger/v1/accounts/{somebody.account_id}"
    seen += [operator.get(f"{native}/keys").text, operator.get(f"{native}/events").text]
    assert not any(made["key"] in text or random in text for text in seen)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "n" * 256}, "name"),
        ({"name": 7}, "name"),
        ({"name": " "}, "name"),
        ({"name": "n", "scope": "admin"}, "scope"),
        ({"name": "n", "scope": ""}, "scope"),
        ({"name": "n", "scope": None}, "scope"),
        ({"name": "n", "scope": ["buyer"]}, "scope"),
        ({"name": "n", "scopes": "buyer"}, "scopes"),
    ],
)
def test_y6_a_wrong_field_is_named(buyer: Buyer, header: str, body: Any, param: str) -> None:
    """Y6: an unknown scope, a missing name, another field: 400, and no key is made."""
    with buyer.client(header=header) as client:
        before = len(client.get(KEYS).json())
        found = client.post(KEYS, json=body)
        assert code(found) == (400, "invalid_request")
        assert error(found)["param"] == param
        assert len(client.get(KEYS).json()) == before


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b'{"name":"a","name":"b"}', 400, "invalid_request"),
        (b'{"name":"\xff"}', 400, "invalid_json"),
        (b'{"name":"' + b"n" * 10_485_760 + b'"}', 413, "request_too_large"),
    ],
)
def test_a_bad_body_is_worded(buyer: Buyer, content: bytes, status: int, expected: str) -> None:
    """No JSON, no object, a key twice, bad bytes, too large: in OpenAI's envelope."""
    with buyer.client() as client:
        found = client.post(KEYS, content=content, headers={"Content-Type": "application/json"})
        assert code(found) == (status, expected)


def test_the_frameworks_errors_are_worded(buyer: Buyer) -> None:
    """404, 405 with ``Allow``, 415; each with a request id."""
    with buyer.client() as client:
        replies = [
            (client.get(f"{AUTH}/nothing"), 404, "route_not_found"),
            (client.put(KEYS), 405, "method_not_allowed"),
            (client.post(KEYS, data={"name": "x"}), 415, "unsupported_media_type"),
            (
                client.post("/v1/chat/completions", data={"model": "x"}),
                415,
                "unsupported_media_type",
            ),
        ]
    for found, status, expected in replies:
        assert code(found) == (status, expected)
        assert REQUEST.fullmatch(found.headers["x-request-id"])
    assert replies[1][0].headers["allow"] == "GET, HEAD, POST"


def test_y7_a_revoked_key_is_invalid_at_once(buyer: Buyer, header: str) -> None:
    """Y7: by either header, on metered routes and others; again answers as before."""
    made = buyer.key()
    asks = [
        ("GET", f"{AUTH}/me", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/embeddings", EMBEDDING),
        ("POST", "/mcp", {}),
    ]
    with buyer.client() as owner, buyer.client(made["key"], header) as client:
        for method, path, body in asks[:-1]:
            assert client.request(method, path, json=body).status_code == 200
        revoked = owner.delete(f"{KEYS}/{made['id']}")
        assert (revoked.status_code, revoked.content) == (204, b"")
        assert "content-length" not in revoked.headers
        for method, path, body in asks:
            assert code(client.request(method, path, json=body)) == (401, "invalid_api_key")
        assert made["id"] not in [row["id"] for row in owner.get(KEYS).json()]
        assert owner.delete(f"{KEYS}/{made['id']}").status_code == 204


def test_y7_no_request_succeeds_after_the_revocation_returned(buyer: Buyer) -> None:
    """Y7: eight clients hammer while it happens; what began after it is refused."""
    made = buyer.key()
    revoked = threading.Event()
    started = threading.Barrier(9)

    def hammer(header: str) -> list[int]:
        late: list[int] = []
        with buyer.client(made["key"], header) as client:
            assert client.get(f"{AUTH}/me").status_code == 200
            started.wait()
            while len(late) < 3:
                after = revoked.is_set()
                status = client.get(f"{AUTH}/me").status_code
                if after:
                    late.append(status)
        return late

    with ThreadPoolExecutor(8) as pool, buyer.client() as owner:
        running = [pool.submit(hammer, HEADERS[number % 2]) for number in range(8)]
        try:
            started.wait(30)
            deleted = owner.delete(f"{KEYS}/{made['id']}")
        finally:
            revoked.set()
        late = [status for each in running for status in each.result()]
    assert deleted.status_code == 204
    assert set(late) == {401}


def test_y9_rotation_overlaps(buyer: Buyer, header: str) -> None:
    """Y9: a new key beside the old one; then the old one goes and the new one stays."""
    old = buyer.key(name="old")
    with buyer.client(old["key"], header) as client:
        new = client.post(KEYS, json={"name": "new"}).json()
        assert client.get("/v1/models").status_code == 200
    with buyer.client(new["key"], header) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.delete(f"{KEYS}/{old['id']}").status_code == 204
        assert client.get("/v1/models").status_code == 200
    with buyer.client(old["key"], header) as client:
        assert client.get("/v1/models").status_code == 401


def test_a_connection_lives_on_after_a_204(buyer: Buyer) -> None:
    """Nothing follows its head: the server ends a connection on which anything did."""
    made = buyer.key()
    host, _, port = buyer.served.url.removeprefix("http://").partition(":")
    head = f"HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {buyer.token}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"DELETE {KEYS}/{made['id']} {head}\r\n".encode())
        reply = connection.recv(65_536)
        assert reply.startswith(b"HTTP/1.1 204 ")
        assert reply.endswith(b"\r\n\r\n")
        connection.sendall(f"GET {AUTH}/me {head}\r\n".encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("key_id", [NOBODYS, "no-uuid", "key_1"])
def test_an_unknown_key_is_not_found(buyer: Buyer, key_id: str) -> None:
    """404, for an id that is no UUID too."""
    with buyer.client() as client:
        assert code(client.delete(f"{KEYS}/{key_id}")) == (404, "not_found")


def test_promise_15_another_accounts_key_is_as_absent(
    buyer: Buyer, sign_up: Callable[..., Buyer]
) -> None:
    """Promise 15: another's key cannot be revoked, and answers as one that never was."""
    other = sign_up()
    theirs = other.key()
    with buyer.client() as client:
        absent = client.delete(f"{KEYS}/{NOBODYS}")
        found = client.delete(f"{KEYS}/{theirs['id']}")
        assert (found.status_code, found.content) == (absent.status_code, absent.content)
        assert theirs["id"] not in client.get(KEYS).text
    with other.client(theirs["key"]) as client:
        assert client.get("/v1/models").status_code == 200


# Y8: scopes.

BODIES: dict[str, Any] = {
    "chat": CHAT,
    "completions": {"model": "keyledger-small", "prompt": "Hello"},
    "responses": {"model": "keyledger-small", "input": "Hello"},
    "messages": {**CHAT, "max_tokens": 16},
    "embeddings": EMBEDDING,
    "create_key": {"name": "made", "scope": "read-only"},
    "limit_spending": {"ceiling": "1"},
    "create_knowledge_base": {"name": "kb"},
    "upload_document": {"text": "Some text."},
    "create_agent": {"name": "agent"},
    "create_memory": {"text": "Some text."},
}
OPERATIONS: dict[str, str] = {
    "chat": "inference",
    "completions": "inference",
    "responses": "inference",
    "messages": "inference",
    "embeddings": "inference",
    "list_models": "models:read",
    "get_model": "models:read",
    "list_knowledge_bases": "knowledge-bases:read",
    "get_knowledge_base": "knowledge-bases:read",
    "list_documents": "knowledge-bases:read",
    "create_knowledge_base": "knowledge-bases:manage",
    "delete_knowledge_base": "knowledge-bases:manage",
    "upload_document": "knowledge-bases:upload",
    "list_agents": "agents",
    "create_agent": "agents",
    "get_agent": "agents",
    "delete_agent": "agents",
    "list_memories": "memories:read",
    "get_memory": "memories:read",
    "create_memory": "memories:manage",
    "delete_memory": "memories:manage",
    "get_billing": "billing:read",
    "limit_spending": "billing:write",
    "create_key": "keys:create",
    "list_keys": "keys:list",
    "revoke_key": "keys:revoke",
    "get_me": "me",
}
"""Route → the operation it is, as the page's table reads: written down once more, on purpose."""
CONTRACT: dict[str, set[str]] = {
    "inference": {"buyer", "write-only"},
    "models:read": {"buyer", "read-only"},
    "knowledge-bases:read": {"buyer", "read-only"},
    "knowledge-bases:manage": {"buyer"},
    "knowledge-bases:upload": {"buyer", "write-only"},
    "agents": {"buyer"},
    "memories:read": {"buyer", "read-only"},
    "memories:manage": set(),
    "billing:read": {"buyer", "read-only"},
    "billing:write": {"buyer"},
    "keys:create": {"buyer"},
    "keys:list": {"buyer"},
    "keys:revoke": {"buyer"},
    "me": {"buyer", "read-only", "write-only"},
}
"""Operation → scopes that the contract names for it. What it does not name, no key may."""


def test_y8_the_table_is_the_contracts() -> None:
    """Y8: cell by cell, compared with what is written down here."""
    assert {operation: set(scopes) for operation, scopes in MATRIX.items()} == CONTRACT


def test_y8_every_route_is_a_cell_of_the_contract() -> None:
    """Y8: no route is forgotten, and no operation is without a route."""
    guarded = {name for name, route in ROUTES.items() if route.is_guarded} - {"speak_mcp"}
    assert guarded == OPERATIONS.keys()
    assert set(OPERATIONS.values()) == CONTRACT.keys()


@pytest.fixture(scope="module")
def scoped(sign_up: Callable[..., Buyer]) -> tuple[Buyer, dict[str, str]]:
    """Return an account with a key of each scope, and its token."""
    somebody = sign_up()
    secrets_ = {scope: somebody.key(scope)["key"] for scope in SCOPES}
    return somebody, {**secrets_, "session": somebody.token}


@pytest.mark.parametrize("scope", [*SCOPES, "session"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_y8_the_matrix_holds_cell_by_cell(
    scoped: tuple[Buyer, dict[str, str]], header: str, operation: str, scope: str
) -> None:
    """Y8: allowed → anything but 401 and 403; not named → 403 ``insufficient_scope``."""
    somebody, known = scoped
    route = ROUTES[operation]
    path = route.path.replace("{model}", "keyledger-small").replace("{id}", NOBODYS)
    with somebody.client(known[scope], header) as client:
        found = client.request(route.method, path, json=BODIES.get(operation))
    if scope == "session" or scope in CONTRACT[OPERATIONS[operation]]:
        expected = {404} if "{id}" in path or NOBODYS in path else {200, 201}
        assert found.status_code in expected, found.text
        return
    assert code(found) == (403, "insufficient_scope")
    assert error(found)["message"] == "Insufficient scope for the requested action"
    assert 'error="insufficient_scope"' in found.headers["www-authenticate"]


def test_y8_the_pages_two_roles(buyer: Buyer, header: str) -> None:
    """Y8: a production service writes and cannot read; a monitoring dashboard the other way."""
    service, dashboard = buyer.key("write-only")["key"], buyer.key("read-only")["key"]
    with buyer.client(service, header) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert client.get(f"{AUTH}/billing").status_code == 403
        assert client.get("/v1/models").status_code == 403
    with buyer.client(dashboard, header) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get(f"{AUTH}/billing").status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 403


def test_y8_a_denial_is_recorded_and_charges_nothing(
    sign_up: Callable[..., Buyer], operator: httpx.Client
) -> None:
    """Y8: the event log has the refusal, with the key, on metered routes and others."""
    somebody = sign_up()
    made = somebody.key("read-only")
    with somebody.client(made["key"]) as client:
        assert client.post("/v1/embeddings", json=EMBEDDING).status_code == 403
        assert client.get(KEYS).status_code == 403
        time.sleep(1.1)
        assert client.delete(f"{KEYS}/{made['id']}").status_code == 403
    events = operator.get(f"/ledger/v1/accounts/{somebody.account_id}/events").json()["data"]
    refused = [each for each in events if each["type"] == "request_refused"]
    assert sum(each["payload"].get("count", 1) for each in refused) >= 2
    assert {each["payload"]["reason"] for each in refused} == {"scope_is_denied"}
    assert {each["key_id"] for each in refused} == {f"key_{uuid.UUID(made['id']).hex}"}
    assert not any(each["type"].startswith("request_re") and each not in refused for each in events)


def test_y8_no_scope_is_wider_than_itself() -> None:
    """Y8: what is wider than what follows from the matrix alone."""
    wider = {(one, than) for one in SCOPES for than in SCOPES if is_wider(one, (than,))}
    assert wider == {
        ("buyer", "read-only"),
        ("buyer", "write-only"),
        ("read-only", "write-only"),
        ("write-only", "read-only"),
    }
    assert not any(is_wider(scope, ()) for scope in SCOPES)
    assert not allows(("unheard-of",), "me")


def test_y8_a_key_does_not_shed_its_bounds_by_making_another(buyer: Buyer, world: Any) -> None:
    """Y8: models, limits and expiry of the key that asks hold for the key it makes."""
    bound = world.key(
        buyer.account_id,
        allowed_models=["keyledger-small"],
        expires_at="2090-01-01T00:00:00Z",
        limits=[{"kind": "requests", "window": "day", "ceiling": "2"}],
    )
    with buyer.client(bound["secret"]) as client:
        made = client.post(KEYS, json={"name": "child"}).json()
    child = world.get(f"/keys/key_{uuid.UUID(made['id']).hex}")
    assert child["allowed_models"] == ["keyledger-small"]
    assert child["expires_at"] == "2090-01-01T00:00:00Z"
    assert [limit["id"] for limit in child["limits"]] == ["requests/day"]
    with buyer.client(made["key"]) as client:
        assert code(client.post("/v1/embeddings", json=EMBEDDING)) == (403, "model_not_allowed")


# Roles of sessions.


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("finance", {"list_keys", "get_billing", "limit_spending", "get_me", "list_models"}),
        ("auditor", {"list_keys", "get_billing", "get_me", "list_models"}),
        ("member", {"create_key", "list_keys", "get_me", "list_models", "embeddings"}),
    ],
)
def test_a_session_may_what_its_role_may(
    buyer: Buyer, operator: httpx.Client, role: str, allowed: set[str]
) -> None:
    """A token has every scope, and no more rights than its member has natively."""
    email = f"{role}-{secrets.token_hex(6)}@example.com"
    body = {"email": email, "password": PASSWORD, "role": role, "name": role}
    added = operator.post(f"/ledger/v1/accounts/{buyer.account_id}/members", json=body)
    assert added.status_code == 201, added.text
    asked = ("create_key", "list_keys", "get_billing", "limit_spending", "get_me")
    with buyer.served.client(None) as client:
        login = client.post(f"{AUTH}/login", json={"email": email, "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {login.json()['token']}"
        assert client.get(f"{AUTH}/me").json()["email"] == email
        seen = set()
        for operation in (*asked, "list_models", "embeddings"):
            route = ROUTES[operation]
            found = client.request(route.method, route.path, json=BODIES.get(operation))
            if found.status_code == 403:
                assert code(found) == (403, "insufficient_role")
            else:
                assert found.status_code in {200, 201}, found.text
                seen.add(operation)
    assert seen == allowed


class Member(NamedTuple):
    """Somebody with a role in another's account."""

    member_id: str
    email: str
    token: str


@pytest.fixture
def join(buyer: Buyer, operator: httpx.Client) -> Callable[[str], Member]:
    """Return a way to let somebody into the buyer's account with a role."""

    def make(role: str) -> Member:
        email = f"{role}-{secrets.token_hex(6)}@example.com"
        body = {"email": email, "password": PASSWORD, "role": role, "name": "M"}
        added = operator.post(f"/ledger/v1/accounts/{buyer.account_id}/members", json=body)
        assert added.status_code == 201, added.text
        login = operator.post(f"{AUTH}/login", json={"email": email, "password": PASSWORD})
        return Member(added.json()["member_id"], email, login.json()["token"])

    return make


def test_the_role_member_sees_its_own_keys_only(
    buyer: Buyer, join: Callable[[str], Member]
) -> None:
    """By its login, and by a key that it made, no other's key is listed or revoked."""
    member, owners = join("member"), buyer.key(name="owners")
    with buyer.client(member.token) as client:
        own = client.post(KEYS, json={"name": "own"}).json()
    for secret in (member.token, own["key"]):
        with buyer.client(secret) as client:
            assert [row["id"] for row in client.get(KEYS).json()] == [own["id"]]
            assert client.get(f"{AUTH}/me").json()["email"] == member.email
            assert client.delete(f"{KEYS}/{owners['id']}").status_code == 404
    with buyer.client() as client:
        assert {own["id"], owners["id"]} <= {row["id"] for row in client.get(KEYS).json()}


OF_ACCOUNT = ("create_key", "list_keys", "revoke_key", "get_billing", "limit_spending")
"""Routes on the account itself."""
MANAGES: dict[str, set[str]] = {
    "owner": {*OF_ACCOUNT},
    "finance": {"list_keys", "get_billing", "limit_spending"},
    "auditor": {"list_keys", "get_billing"},
    "member": {"create_key", "list_keys", "revoke_key"},
    "": set(),
}
"""Role → what it may do there, by its login and by any key it made; empty: who has left."""


def managed(client: httpx.Client) -> set[str]:
    """Ask each route on the account itself; return those that no role kept from answering."""
    done = set()
    for operation in OF_ACCOUNT:
        route = ROUTES[operation]
        path = route.path.replace("{id}", NOBODYS)
        found = client.request(route.method, path, json=BODIES.get(operation))
        if found.status_code == 403:
            assert code(found) == (403, "insufficient_role")
        else:
            assert found.status_code in {200, 201, 404}, found.text
            done.add(operation)
    return done


def test_y8_a_key_may_no_more_than_who_made_it(
    buyer: Buyer, join: Callable[[str], Member], header: str
) -> None:
    """Y8: a member gets no further by a key that it made, nor by a key that such a key made.

    Nor by one made natively, which has no scope that could be too narrow.
    """
    member = join("member")
    native = f"/ledger/v1/accounts/{buyer.account_id}/keys"
    with buyer.client(member.token) as client:
        assert managed(client) == MANAGES["member"]
        made = client.post(KEYS, json={"name": "made", "scope": "buyer"}).json()["key"]
        unscoped = client.post(native, json={"name": "n", "dialect": "ryvion"}).json()["secret"]
    with buyer.client(made, header) as client:
        child = client.post(KEYS, json={"name": "child"}).json()["key"]
    for secret in (made, child, unscoped):
        with buyer.client(secret, header) as client:
            assert managed(client) == MANAGES["member"]
            assert client.post("/v1/embeddings", json=EMBEDDING).status_code == 200
    with buyer.client() as client:
        assert client.get(f"{AUTH}/billing").json()["hourly_limit"]["own"] is None


def test_y8_what_a_member_may_no_longer_its_keys_may_no_longer(
    buyer: Buyer, join: Callable[[str], Member], operator: httpx.Client
) -> None:
    """Y8: from the next request on, by whatever role and after it left; its integration goes on."""
    member = join("owner")
    with buyer.client(member.token) as client:
        made = client.post(KEYS, json={"name": "made"}).json()["key"]
    place = f"/ledger/v1/accounts/{buyer.account_id}/members/{member.member_id}"
    with buyer.client(made) as client:
        for role, may in MANAGES.items():
            method, body = ("PATCH", {"role": role}) if role else ("DELETE", None)
            changed = operator.request(method, place, json=body)
            assert changed.status_code == 200, changed.text
            assert managed(client) == may
            assert client.post("/v1/embeddings", json=EMBEDDING).status_code == 200
    # A scope that is narrower than the role stays what it was.
    with buyer.client(buyer.key("read-only")["key"]) as client:
        assert code(client.post(KEYS, json={"name": "x"})) == (403, "insufficient_scope")


def test_y8_what_a_role_keeps_a_key_from_is_recorded(
    buyer: Buyer, join: Callable[[str], Member], operator: httpx.Client
) -> None:
    """Y8: the event log has the refusal, with the key."""
    with buyer.client(join("member").token) as client:
        made = client.post(KEYS, json={"name": "made"}).json()
    with buyer.client(made["key"]) as client:
        assert client.put(f"{AUTH}/billing/limit", json={"ceiling": "0"}).status_code == 403
    events = operator.get(f"/ledger/v1/accounts/{buyer.account_id}/events").json()["data"]
    refused = [each for each in events if each["type"] == "request_refused"]
    assert [each["key_id"] for each in refused] == [f"key_{uuid.UUID(made['id']).hex}"]
    assert [each["payload"]["reason"] for each in refused] == ["scope_is_denied"]


def test_me_shows_whose_credential_it_is(buyer: Buyer, header: str, world: Any) -> None:
    """Three fields, by key and by token; an account that nobody logs in to has no address."""
    for secret in (buyer.key()["key"], buyer.token):
        with buyer.client(secret, header) as client:
            assert client.get(f"{AUTH}/me").json() == {
                "buyer_id": buyer.buyer_id,
                "email": buyer.email,
                "name": "Ada",
            }
    nobodys = world.account(name="Robots")
    with buyer.client(world.key(nobodys)["secret"], header) as client:
        found = client.get(f"{AUTH}/me").json()
    assert found == {
        "buyer_id": str(uuid.UUID(nobodys.removeprefix("acct_"))),
        "email": None,
        "name": "Robots",
    }


# Money.


def test_velocity_is_refused_in_the_documented_words(
    sign_up: Callable[..., Buyer], header: str
) -> None:
    """Y11: 5.00 CAD in any hour: the documented body to the letter, and how long to wait."""
    somebody = sign_up()
    big = {**CHAT, "model": "keyledger-large", "max_tokens": 700_000}
    with somebody.client(somebody.key()["key"], header) as client:
        found = client.post("/v1/chat/completions", json=big)
        assert found.status_code == 429, found.text
        assert found.json() == {
            "error": {
                "message": "Spending velocity limit exceeded. Current limit: $5.00 CAD/hour.",
                "type": "rate_limit_error",
                "param": None,
                "code": "spending_velocity_exceeded",
            }
        }
        # Alone it is more than the limit: no wait helps.
        assert "retry-after" not in found.headers


def test_velocity_is_exact_with_many_at_once(
    sign_up: Callable[..., Buyer], operator: httpx.Client
) -> None:
    """Promise 5: 24 at once, by both headers and a session; never more than the ceiling is held."""
    somebody = sign_up()
    rules = [{"kind": "spend", "window": "rolling:3600", "ceiling": "0.1", "assets": ["CAD"]}]
    url = f"/ledger/v1/accounts/{somebody.account_id}/limits"
    assert operator.put(url, json={"limits": rules}).status_code == 200
    made = somebody.key()["key"]
    # Two of them fill the ceiling, so that three that meet are enough.
    body = {**CHAT, "model": "keyledger-large", "max_tokens": 6_000}
    start = threading.Barrier(24)

    def one(number: int) -> httpx.Response:
        secret = somebody.token if number % 3 == 2 else made
        with somebody.client(secret, HEADERS[number % 2]) as client:
            start.wait()
            return client.post("/v1/chat/completions", json=body, timeout=60)

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(one, range(24)))
    assert {each.status_code for each in found} == {200, 429}
    refused = next(each for each in found if each.status_code == 429)
    assert error(refused)["code"] == "spending_velocity_exceeded"
    assert "$0.10 CAD/hour" in error(refused)["message"]
    assert 0 < int(refused.headers["retry-after"]) <= 3_720
    events = operator.get(f"/ledger/v1/accounts/{somebody.account_id}/events?limit=200").json()
    held: dict[str, int] = {}
    most = 0
    for event in reversed(events["data"]):
        payload = event["payload"]
        if event["type"] in {"request_reserved", "request_settled"}:
            held[payload["request_id"]] = pico(payload.get("held") or payload["charge"])
        most = max(most, sum(held.values()))
    assert 0 < most <= pico("0.1")


def pico(text: str) -> int:
    """Read an amount."""
    whole, _, places = text.partition(".")
    return int(whole) * 10**12 + int(places.ljust(12, "0"))


def test_an_empty_balance_asks_nobody_to_wait(
    sign_up: Callable[..., Buyer], operator: httpx.Client
) -> None:
    """Y11: a lack of money is neither 401, 403 nor 429."""
    somebody = sign_up()
    url = f"/ledger/v1/accounts/{somebody.account_id}"
    body = {"amount": "-5", "asset": "CAD", "reason": "test"}
    assert operator.post(f"{url}/adjustments", json=body).status_code in {200, 201}
    with somebody.client() as client:
        found = client.post("/v1/chat/completions", json=CHAT)
        assert code(found) == (402, "insufficient_balance")
        assert "retry-after" not in found.headers


def test_billing_shows_balance_limits_and_spend_by_key(
    sign_up: Callable[..., Buyer], header: str
) -> None:
    """Billing: CAD, the hourly limits, this month's spend by key; it adds up."""
    somebody = sign_up()
    one, other = somebody.key(name="one"), somebody.key(name="other")
    for key, times in ((one, 1), (other, 2)):
        with somebody.client(key["key"], header) as client:
            for _ in range(times):
                assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    with somebody.client(one["key"], header) as client:
        found = client.get(f"{AUTH}/billing").json()
    fields = ["currency", "balance", "pending", "hourly_limit", "since", "spend"]
    assert list(found) == fields
    assert (found["currency"], found["pending"]) == ("CAD", "0")
    spend = {line["name"]: line for line in found["spend"]}
    assert {name: line["requests"] for name, line in spend.items()} == {"one": 1, "other": 2}
    spent = sum(pico(line["amount"]) for line in found["spend"])
    assert pico(found["balance"]) == pico("5") - spent
    assert found["hourly_limit"]["ceiling"] == "5"
    assert found["hourly_limit"]["own"] is None
    assert pico(found["hourly_limit"]["remaining"]) == pico("5") - spent


def test_an_account_limits_its_own_spending_below_the_operators(
    sign_up: Callable[..., Buyer], header: str, operator: httpx.Client
) -> None:
    """Billing: its own ceiling holds beside the operator's, is never above it, and is lifted."""
    somebody = sign_up()
    limit, body = f"{AUTH}/billing/limit", {**CHAT, "model": "keyledger-large", "max_tokens": 6_000}
    with somebody.client(somebody.key()["key"], header) as client:
        found = client.put(limit, json={"ceiling": "5.01"})
        assert code(found) == (400, "invalid_request")
        assert error(found)["param"] == "ceiling"
        assert error(found)["message"] == "ceiling: at most 5"
        for wrong in ("-1", "1e3", "nan", "", "five", 1):
            assert code(client.put(limit, json={"ceiling": wrong})) == (400, "invalid_request")
        found = client.put(limit, json={"ceiling": "0.01"})
        assert found.json()["hourly_limit"] == {"ceiling": "5", "own": "0.01", "remaining": "0.01"}
        refused = client.post("/v1/chat/completions", json=body)
        assert error(refused)["message"].endswith("Current limit: $0.01 CAD/hour.")
        # What the operator sets later leaves the account's own as it is.
        rules = [{"kind": "spend", "window": "rolling:3600", "ceiling": "4", "assets": ["CAD"]}]
        url = f"/ledger/v1/accounts/{somebody.account_id}/limits"
        assert operator.put(url, json={"limits": rules}).status_code == 200
        shown_ = client.get(f"{AUTH}/billing").json()["hourly_limit"]
        assert (shown_["ceiling"], shown_["own"]) == ("4", "0.01")
        found = client.put(limit, json={"ceiling": None})
        assert found.json()["hourly_limit"]["own"] is None
        assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("units", "asset", "text"),
    [
        (5 * 10**12, "CAD", "$5.00 CAD"),
        (5_250_000_000_000, "USD", "$5.25 USD"),
        (5_125_000_000_000, "CAD", "$5.125 CAD"),
        (10**11, "CAD", "$0.10 CAD"),
        (7 * 10**12, "CREDIT", "7.00 CREDIT"),
        (10**12, "", "1.00"),
    ],
)
def test_an_amount_has_cents(units: int, asset: str, text: str) -> None:
    """``$5.00 CAD``: made of the ceiling that holds, never cut."""
    assert amount(units, asset) == text


# What goes through the gateway.


def test_a_metered_reply_names_what_is_left(buyer: Buyer, operator: httpx.Client) -> None:
    """OpenAI's headers and the IETF's, on a key with limits."""
    made = buyer.key()
    limits = [{"kind": "requests", "window": "rolling:60", "ceiling": "9"}]
    key_id = f"key_{uuid.UUID(made['id']).hex}"
    operator.patch(f"/ledger/v1/keys/{key_id}", json={"limits": limits})
    with buyer.client(made["key"]) as client:
        found = client.post("/v1/embeddings", json=EMBEDDING)
        assert found.headers["x-ratelimit-limit-requests"] == "9"
        assert found.headers["x-ratelimit-remaining-requests"] == "8"
        assert found.headers["ratelimit"].startswith('"key:requests/rolling:60";r=8')
        assert REQUEST.fullmatch(found.headers["x-request-id"])


def test_what_a_spending_limit_leaves_is_shown_with_billing(sign_up: Callable[..., Buyer]) -> None:
    """No form of header has a unit for money: none is sent, and billing says it to the pico."""
    somebody = sign_up()
    with somebody.client(somebody.key()["key"]) as client:
        found = client.post("/v1/chat/completions", json=CHAT)
        assert found.status_code == 200, found.text
        assert not [name for name in found.headers if "ratelimit" in name]
        shown_ = client.get(f"{AUTH}/billing").json()
    spent = sum(pico(line["amount"]) for line in shown_["spend"])
    assert spent > 0
    assert pico(shown_["hourly_limit"]["remaining"]) == pico("5") - spent


def test_knowledge_bases_agents_and_memories_are_the_accounts_own(
    buyer: Buyer, sign_up: Callable[..., Buyer], header: str
) -> None:
    """Promise 15: made, read and deleted by one account, absent for another."""
    other = sign_up()
    with buyer.client(header=header) as client, other.client(header=header) as stranger:
        base = client.post("/api/v1/knowledge-bases", json={"name": "Handbook"})
        assert base.status_code == 201, base.text
        place = f"/api/v1/knowledge-bases/{base.json()['id']}"
        document = client.post(f"{place}/documents", json={"text": "Keys are shown once."})
        assert document.status_code == 201, document.text
        assert len(client.get(f"{place}/documents").json()["data"]) == 1
        for kind, body in (("agents", {"name": "Clerk"}), ("memories", {"text": "Tables."})):
            made = client.post(f"/api/v1/{kind}", json=body)
            assert made.status_code == 201, made.text
            assert stranger.get(f"/api/v1/{kind}/{made.json()['id']}").status_code == 404
            assert stranger.get(f"/api/v1/{kind}").json()["data"] == []
        assert code(stranger.get(place)) == (404, "not_found")
        assert stranger.delete(place).status_code == 404
        assert client.delete(place).status_code == 200
        assert client.get(place).status_code == 404


# The page.


def test_the_pages_curls_run(
    buyer: Buyer, page: Callable[[str], str], curl: Callable[..., Any]
) -> None:
    """Y3, Y6: every curl of the page, verbatim but for host and secret."""
    text = page("003").replace("https://api.ryvion.ai", buyer.served.url)
    key = buyer.key()["key"]
    text = text.replace("EXISTING_API_KEY", key).replace("YOUR_API_KEY", key)
    commands = re.findall(r"curl .*?(?:[\"'](?=\n[A-Z]|\n*$))", text, re.DOTALL)
    assert len(commands) == 4
    found = [curl(command) for command in commands]
    assert [status for status, _ in found] == [200, 201, 200, 200]
    assert '"name":"my-new-key"' in found[1][1]
    assert buyer.buyer_id in found[3][1]
