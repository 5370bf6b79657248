"""One suite for six surfaces, the native API among them: what each promises, in its own words."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest

from ledger.errors import LedgerUnavailable
from ledger.server import database

CHAT = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hi"}]}
CHARACTER = "the character of the house"
PLAYER = {"user_session_id": "player-001", "player_name": "Alex", "player_gender": "male"}
SDK = "/api/v1/sdk"
LARGE = b'{"name": "' + b"x" * 11_000_000 + b'"}'


class Bad(NamedTuple):
    """A body that no route takes."""

    content: bytes
    content_type: str
    status: int
    """What refuses it."""


BAD_BODIES = [
    Bad(b"{", "application/json", 400),
    Bad(b"[]", "application/json", 400),
    Bad(b'"text"', "application/json", 400),
    Bad(b'{"name": 7, "apiKeyType": 7}', "application/json", 400),
    Bad(b'{"unknown_field_of_nobody": 1}', "application/json", 400),
    Bad(b'{"name": "a", "name": "a"}', "application/json", 400),
    Bad(b"\xff\xfe", "application/json", 400),
    Bad(b'{"name": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "application/json", 400),
    Bad(LARGE, "application/json", 413),
    Bad(b"name=x", "application/x-www-form-urlencoded", 415),
    Bad(b"<name/>", "text/xml", 415),
]


class House:
    """The service with an operator and somebody who has an account."""

    def __init__(self, served: Any, operator: httpx.Client, person: Any) -> None:
        """Take them."""
        self.served = served
        self.operator = operator
        self.person = person
        self.character = self._publish()

    def _publish(self) -> str:
        made = self.person.client.post("/ledger/v1/characters", json={"name": "Barista"}).json()
        path = f"/ledger/v1/characters/{made['character_id']}/publish"
        assert self.person.client.post(path).status_code == 200
        slug: str = made["slug"]
        return slug

    @cached_property
    def talk(self) -> str:
        """Begin the player's session with a persona of foil; return its path."""
        shown = DRIVERS["foil"].show(DRIVERS["foil"].create(self).secret)
        with self.served.client(None) as client:
            persona = client.get(f"{SDK}/personas", headers=shown).json()[0]["id"]
            path = f"{SDK}/chat/{persona}"
            begun = client.post(f"{path}/init-session", json=PLAYER, headers=shown)
        assert begun.status_code == 200, begun.text
        return path

    def native(self, key_id: str) -> str:
        """Return the native path of a key by its UUID."""
        return f"/ledger/v1/keys/key_{UUID(key_id).hex}"


ELSEWHERE = "https://elsewhere.example.com"
"""Where the page comes from that calls: CORS headers are for such a one."""


class Made(NamedTuple):
    """A key that was just made."""

    key_id: str
    """Its UUID."""
    secret: str
    reply: httpx.Response


class Driver(NamedTuple):
    """How one dialect is driven: nothing here decides, each line is from its page."""

    create: Callable[[House], Made]
    listed: Callable[[House], httpx.Response]
    revoke: Callable[[House, str], httpx.Response]
    show: Callable[[str], dict[str, str]]
    """Headers that show a secret."""
    reads: str
    """A path that every key may get."""
    metered: tuple[str, Any]
    """A path and a body that are metered."""
    manages: tuple[str, str]
    """A method and path that takes a body, with the manager's credential."""
    manager: Callable[[House], httpx.Client]
    elsewhere: str
    """A path of the dialect that does not exist."""
    message: Callable[[Any], Any]
    """The message in its envelope."""
    refused: frozenset[int]
    """Statuses of a key that does not work."""
    talks: Callable[[House], tuple[str, Any]]
    """A path and a body that are posted, for a model to answer and the lane to meter."""
    request_id: str | None = r"req_[0-9a-f]{32}"
    """What ``X-Request-Id`` looks like on every reply; None: there is none."""
    content_type: str = "application/json"
    """Of an error."""
    uses: Callable[[House, str], httpx.Response] | None = None
    """How a key's secret is used where no path takes it as a credential."""


def _bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def _made(reply: httpx.Response, key_id: Any, secret: Any) -> Made:
    return Made(str(UUID(key_id.removeprefix("key_"))), secret, reply)


def _create(path: str, body: Any, *, operator: bool = False) -> Callable[[House], Made]:
    def create(house: House) -> Made:
        client = house.operator if operator else house.person.client
        reply = client.post(path, json=body)
        assert reply.status_code in {200, 201}, reply.text
        made = reply.json().get("data", reply.json())
        return _made(reply, made["id"], made.get("key", made.get("apiKey")))

    return create


def _create_native(house: House) -> Made:
    path = f"/ledger/v1/accounts/{house.person.account_id}/keys"
    reply = house.person.client.post(path, json={"name": "bot", "dialect": "reverie"})
    assert reply.status_code == 201, reply.text
    return _made(reply, reply.json()["key_id"], reply.json()["secret"])


def _chats(path: str) -> Callable[[House], tuple[str, Any]]:
    return lambda _house: (path, CHAT)


def _openai(body: Any) -> Any:
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["code"]
    return body["error"]["message"]


def _foil(body: Any) -> Any:
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message"]
    return body["error"]["message"]


def _venice(body: Any) -> Any:
    assert body.keys() <= {"error", "code", "details"}
    assert isinstance(body["error"], str)
    return body["error"]


DRIVERS: Mapping[str, Driver] = {
    "reverie": Driver(
        create=_create_native,
        listed=lambda house: house.person.client.get(
            f"/ledger/v1/accounts/{house.person.account_id}/keys"
        ),
        revoke=lambda house, key_id: house.person.client.post(f"{house.native(key_id)}/revoke"),
        show=_bearer,
        reads="/api/device/v1/models",
        metered=("/api/device/v1/chat/completions", {**CHAT, "model": CHARACTER}),
        manages=("POST", "/api/v1/characters/import"),
        manager=lambda house: house.person.client,
        elsewhere="/api/device/v1/nothing",
        message=_openai,
        refused=frozenset({401}),
        talks=lambda house: (
            "/api/device/v1/chat/completions",
            {**CHAT, "model": house.character},
        ),
    ),
    "foil": Driver(
        create=_create("/api/v1/sdk/api-keys", {"name": "bot"}),
        listed=lambda house: house.person.client.get("/api/v1/sdk/api-keys"),
        revoke=lambda house, key_id: house.person.client.delete(f"/api/v1/sdk/api-keys/{key_id}"),
        show=lambda secret: {"X-API-Key": secret},
        reads="/api/v1/sdk/personas",
        metered=("/api/v1/sdk/personas", None),
        manages=("POST", "/api/v1/sdk/api-keys"),
        manager=lambda house: house.person.client,
        elsewhere="/api/v1/sdk/nothing",
        message=_foil,
        refused=frozenset({401}),
        talks=lambda house: (
            f"{house.talk}/message",
            {"message": "Hi", "user_session_id": PLAYER["user_session_id"]},
        ),
    ),
    "bve": Driver(
        create=_create("/admin/api-keys", {"name": "bot"}, operator=True),
        listed=lambda house: house.operator.get("/admin/api-keys"),
        revoke=lambda house, key_id: house.operator.post(f"/admin/api-keys/{key_id}/revoke"),
        show=_bearer,
        reads="/v1/models",
        metered=("/v1/chat/completions", CHAT),
        manages=("POST", "/admin/api-keys"),
        manager=lambda house: house.operator,
        elsewhere="/admin/nothing",
        message=_openai,
        refused=frozenset({401, 403}),
        talks=_chats("/v1/chat/completions"),
        request_id=r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    ),
    "ryvion": Driver(
        create=_create("/api/v1/auth/api-keys", {"name": "bot"}),
        listed=lambda house: house.person.client.get("/api/v1/auth/api-keys"),
        revoke=lambda house, key_id: house.person.client.delete(f"/api/v1/auth/api-keys/{key_id}"),
        show=_bearer,
        reads="/v1/models",
        metered=("/v1/chat/completions", CHAT),
        manages=("POST", "/api/v1/auth/api-keys"),
        manager=lambda house: house.person.client,
        elsewhere="/api/v1/auth/nothing",
        message=_openai,
        refused=frozenset({401}),
        talks=_chats("/v1/chat/completions"),
    ),
    "venice": Driver(
        create=_create("/api/v1/api_keys", {"apiKeyType": "INFERENCE", "description": "bot"}),
        listed=lambda house: house.person.client.get("/api/v1/api_keys"),
        revoke=lambda house, key_id: house.person.client.delete(
            "/api/v1/api_keys", params={"id": key_id}
        ),
        show=_bearer,
        reads="/api/v1/api_keys/rate_limits",
        metered=("/api/v1/chat/completions", CHAT),
        manages=("POST", "/api/v1/api_keys"),
        manager=lambda house: house.person.client,
        elsewhere="/api/v1/api_keys/a/b/c",
        message=_venice,
        refused=frozenset({401}),
        talks=_chats("/api/v1/chat/completions"),
    ),
}


def _problem(body: Any) -> Any:
    assert list(body)[:5] == ["type", "title", "status", "detail", "code"]
    assert body["type"].endswith("/" + body["code"])
    return body["detail"]


def _use_natively(house: House, secret: str) -> httpx.Response:
    """Have a request of a key's recorded, as a platform does that is shown the secret."""
    usage = {"input": 1}
    body = {"request_id": f"r{next(NUMBERS)}", "secret": secret, "model": CHAT["model"]}
    return house.operator.post("/ledger/v1/usage", json={**body, "usage": usage})


NUMBERS = itertools.count()
NATIVE = Driver(
    create=_create_native,
    listed=DRIVERS["reverie"].listed,
    revoke=DRIVERS["reverie"].revoke,
    show=_bearer,
    reads="/ledger/v1/rate-cards",
    metered=("/ledger/v1/usage", None),
    manages=("POST", "/ledger/v1/accounts"),
    manager=lambda house: house.operator,
    elsewhere="/ledger/v1/nothing",
    message=_problem,
    refused=frozenset({404, 409}),
    talks=_chats("/ledger/v1/usage"),
    request_id=None,
    content_type="application/problem+json",
    uses=_use_natively,
)
"""Dialect zero: callers are the operator and members, and a key's secret stands in the body."""
SURFACES: Mapping[str, Driver] = {"native": NATIVE, **DRIVERS}


@pytest.fixture(scope="module")
def house(served: Any, operator: httpx.Client, person: Callable[..., Any]) -> House:
    """The service and its people, for the module."""
    made = House(served, operator, person())
    for client in (operator, made.person.client):
        client.headers["Origin"] = ELSEWHERE
    for asset, amount in (("CAD", "5"), ("CREDIT", "20000")):
        body = {"asset": asset, "amount": amount}
        path = f"/ledger/v1/accounts/{made.person.account_id}/grants"
        assert operator.post(path, json=body).status_code == 201
    return made


@pytest.fixture(scope="module")
def nobody(served: Any) -> Iterator[httpx.Client]:
    """A client that shows nothing by itself."""
    with served.client(None) as client:
        client.headers["Origin"] = ELSEWHERE
        yield client


@pytest.fixture(params=SURFACES)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each surface in turn."""
    return SURFACES[request.param]


@pytest.fixture(params=DRIVERS)
def dialect(request: pytest.FixtureRequest) -> Driver:
    """Each dialect in turn: what is asked by a key's own credential, through the gateway."""
    return DRIVERS[request.param]


def credential(driver: Driver, house: House, made: Made) -> dict[str, str]:
    """Return headers that show who may read: the key, or natively the operator."""
    if driver.uses is None:
        return driver.show(made.secret)
    return {"Authorization": house.operator.headers["Authorization"]}


def read(driver: Driver, house: House, client: httpx.Client, secret: str) -> httpx.Response:
    """Use a key without metering, where the surface has such a use."""
    if driver.uses is not None:
        return driver.uses(house, secret)
    return client.get(driver.reads, headers=driver.show(secret))


def metered(driver: Driver, house: House, client: httpx.Client, secret: str) -> httpx.Response:
    """Make a metered call."""
    if driver.uses is not None:
        return driver.uses(house, secret)
    path, body = driver.metered
    if body is not None and body["model"] == CHARACTER:
        body = {**body, "model": house.character}
    headers = driver.show(secret)
    if body is None:
        return client.get(path, headers=headers)
    return client.post(path, json=body, headers=headers)


def test_a_secret_is_shown_once(driver: Driver, house: House) -> None:
    """It is in the reply that made it, which nobody may store, and in no list."""
    made = driver.create(house)
    assert made.reply.text.count(made.secret) == 1
    assert made.reply.headers["cache-control"] == "no-store"
    listed = driver.listed(house)
    assert listed.status_code == 200
    assert made.key_id in listed.text or UUID(made.key_id).hex in listed.text
    assert made.secret not in listed.text
    native = house.operator.get(house.native(made.key_id))
    assert native.status_code == 200
    assert made.secret not in native.text


def test_a_key_works_at_once(driver: Driver, house: House, nobody: httpx.Client) -> None:
    """Reading and metered calls, right after it was made."""
    made = driver.create(house)
    found = read(driver, house, nobody, made.secret)
    assert found.status_code == 200, found.text
    found = metered(driver, house, nobody, made.secret)
    assert found.status_code == 200, found.text


def test_promise_6_a_revoked_key_is_refused_on_the_next_request(
    driver: Driver, house: House, nobody: httpx.Client
) -> None:
    """Both on reading and on metered calls, in the dialect's envelope."""
    made = driver.create(house)
    assert read(driver, house, nobody, made.secret).status_code == 200
    assert driver.revoke(house, made.key_id).status_code in {200, 204}
    for found in (
        read(driver, house, nobody, made.secret),
        metered(driver, house, nobody, made.secret),
    ):
        assert found.status_code in driver.refused
        assert driver.message(found.json())


def test_a_suspended_key_rests(driver: Driver, house: House, nobody: httpx.Client) -> None:
    """Refused while suspended, works again when resumed."""
    made = driver.create(house)
    assert house.operator.post(f"{house.native(made.key_id)}/suspend").status_code == 200
    for found in (
        read(driver, house, nobody, made.secret),
        metered(driver, house, nobody, made.secret),
    ):
        assert found.status_code in driver.refused
        assert driver.message(found.json())
    assert house.operator.post(f"{house.native(made.key_id)}/resume").status_code == 200
    assert read(driver, house, nobody, made.secret).status_code == 200


def test_a_rotated_key_has_two_secrets_for_a_while(
    driver: Driver, house: House, nobody: httpx.Client
) -> None:
    """Both work in the grace period; without one only the new secret does."""
    made = driver.create(house)
    path = f"{house.native(made.key_id)}/rotate"
    rotated = house.operator.post(path, json={"grace_seconds": 3600})
    assert rotated.status_code == 200, rotated.text
    for secret in (made.secret, rotated.json()["secret"]):
        assert read(driver, house, nobody, secret).status_code == 200
    again = house.operator.post(path, json={"grace_seconds": 0}).json()["secret"]
    for secret in (made.secret, rotated.json()["secret"]):
        found = read(driver, house, nobody, secret)
        assert found.status_code in driver.refused
        assert metered(driver, house, nobody, secret).status_code in driver.refused
    assert read(driver, house, nobody, again).status_code == 200


def asks(driver: Driver, house: House) -> list[tuple[str, str, Any]]:
    """Return a request that reads, one that is metered, one that manages: method, path, body."""
    return [("GET", driver.reads, None), ("POST", *driver.talks(house)), (*driver.manages, {})]


@pytest.mark.parametrize(("of", "at"), list(itertools.product(DRIVERS, DRIVERS)))
def test_a_key_works_in_its_own_dialect_only(
    house: House, nobody: httpx.Client, of: str, at: str
) -> None:
    """The 5 × 5 matrix, reading, metered and managing: another dialect refuses the secret.

    Under ``/v1`` the key's prefix chooses the dialect, so what is asked there is the key's own;
    reverie has no language model by a name of its own. ``test_front`` has the same by hosts.
    """
    shown = DRIVERS[at].show(DRIVERS[of].create(house).secret)
    for method, path, body in asks(DRIVERS[at], house):
        if of == at and (method, path) == DRIVERS[at].manages:
            continue  # whoever manages keys there, each page says for itself
        found = nobody.request(method, path, json=body, headers=shown)
        shared = path.startswith("/v1/") and of in {"bve", "ryvion", "reverie"}
        answered = 404 if shared and of == "reverie" and method == "POST" else 200
        assert found.status_code == (answered if of == at or shared else 401), (path, found.text)


def test_a_bad_credential_is_refused(driver: Driver, nobody: httpx.Client) -> None:
    """None, and something mistyped: 401 with a challenge that tells them apart."""
    found = nobody.get(driver.reads)
    assert found.status_code == 401
    assert "error=" not in found.headers["www-authenticate"]
    found = nobody.get(driver.reads, headers=driver.show("mistyped"))
    assert found.status_code == 401
    assert 'error="invalid_token"' in found.headers["www-authenticate"]
    assert driver.message(found.json())


def worded(driver: Driver, found: httpx.Response) -> Any:
    """Return the message of an error, whose envelope and headers are the dialect's."""
    if driver.request_id is None:
        assert "x-request-id" not in found.headers
    else:
        assert re.fullmatch(driver.request_id, found.headers["x-request-id"])
    assert found.headers["content-type"] == driver.content_type
    assert found.headers["access-control-allow-origin"] == "*"
    message = driver.message(found.json())
    assert message
    return message


@pytest.mark.parametrize("bad", BAD_BODIES)
def test_a_bad_body_is_worded_by_the_dialect(driver: Driver, house: House, bad: Bad) -> None:
    """No JSON, wrong types, too deep, too large, another media type: its envelope, no key made."""
    before = len(driver.listed(house).text)
    headers = {"Content-Type": bad.content_type}
    found = driver.manager(house).request(*driver.manages, content=bad.content, headers=headers)
    assert found.status_code == bad.status, found.text
    assert worded(driver, found)
    assert len(driver.listed(house).text) == before


@pytest.mark.parametrize("bad", BAD_BODIES)
def test_a_bad_body_of_a_metered_request_is_worded_by_the_dialect(
    dialect: Driver, house: House, nobody: httpx.Client, bad: Bad
) -> None:
    """The same where a model would answer; the key has used nothing."""
    path, _ = dialect.talks(house)
    made = dialect.create(house)
    headers = {**dialect.show(made.secret), "Content-Type": bad.content_type}
    found = nobody.post(path, content=bad.content, headers=headers)
    assert found.status_code == bad.status, found.text
    assert worded(dialect, found)
    assert house.operator.get(house.native(made.key_id)).json()["last_used_at"] is None


def test_a_metered_requests_path_and_method_are_worded_by_the_dialect(
    dialect: Driver, house: House, nobody: httpx.Client
) -> None:
    """404 below the path, 405 with ``Allow`` on it; by a good key, which finds the dialect."""
    path, body = dialect.talks(house)
    shown = dialect.show(dialect.create(house).secret)
    found = nobody.post(f"{path}/nothing", json=body, headers=shown)
    assert found.status_code == 404
    assert worded(dialect, found)
    for method in ("GET", "PUT", "DELETE"):
        found = nobody.request(method, path, headers=shown)
        assert (found.status_code, found.headers["allow"]) == (405, "POST")
        assert worded(dialect, found)


def test_unknown_paths_are_worded_by_the_dialect(driver: Driver, nobody: httpx.Client) -> None:
    """404 in its envelope, whoever asks."""
    found = nobody.get(driver.elsewhere)
    assert found.status_code == 404
    assert worded(driver, found)


def test_wrong_methods_are_worded_by_the_dialect(
    driver: Driver, house: House, nobody: httpx.Client
) -> None:
    """405 with ``Allow`` in its envelope."""
    shown = credential(driver, house, driver.create(house))
    found = nobody.request("PROPFIND", driver.reads, headers=shown)
    assert found.status_code == 405
    assert "GET" in found.headers["allow"]
    assert worded(driver, found)


def explode(*_: Any, **__: Any) -> None:
    """Fail as nobody expected."""
    message = "the insides"
    raise ArithmeticError(message)


def test_what_nobody_expected_is_worded_by_the_dialect(
    driver: Driver, house: House, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 in its envelope, without a word about our insides."""
    made = driver.create(house)
    monkeypatch.setattr(house.served.services.queries.keys, "one", explode)
    monkeypatch.setattr(house.served.services.resolver, "secret", explode)
    found = read(driver, house, nobody, made.secret)
    assert found.status_code == 500
    assert "insides" not in worded(driver, found)


def test_a_database_that_is_gone_is_worded_by_the_dialect(
    driver: Driver, house: House, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 13: 503 with Retry-After in its envelope."""
    made = driver.create(house)

    def gone(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(house.served.services.resolver, "secret", gone)
    found = read(driver, house, nobody, made.secret)
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) >= 1
    assert driver.message(found.json())


def test_what_nobody_expected_of_a_metered_request_is_worded_by_the_dialect(
    dialect: Driver, house: House, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 where the gateway breaks: its envelope, no word about our insides, nothing used."""
    path, body = dialect.talks(house)
    made = dialect.create(house)
    monkeypatch.setattr(house.served.services.gateway, "serve", explode)
    found = nobody.post(path, json=body, headers=dialect.show(made.secret))
    assert found.status_code == 500
    assert "insides" not in worded(dialect, found)
    assert house.operator.get(house.native(made.key_id)).json()["last_used_at"] is None


def test_a_ledger_that_is_gone_refuses_metered_requests_in_the_dialects_words(
    dialect: Driver, house: House, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 13: 503 with Retry-After where nothing could be held."""
    path, body = dialect.talks(house)
    made = dialect.create(house)

    async def gone(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(house.served.services.ledger.calls, "hold", gone)
    found = nobody.post(path, json=body, headers=dialect.show(made.secret))
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) >= 1
    assert worded(dialect, found)


def test_a_clock_that_is_off_refuses_at_every_door_until_it_is_right(
    dialect: Driver, house: House, nobody: httpx.Client, ledger_url: str
) -> None:
    """Promise 13: 503 with Retry-After, in the dialect's words and natively; then all goes on."""
    path, body = dialect.talks(house)
    made = dialect.create(house)
    shown = dialect.show(made.secret)
    natively = {"request_id": made.key_id, "key_id": f"key_{UUID(made.key_id).hex}", "model": "m"}
    usage = {**natively, "usage": {"input": 1}, "delivered": True}
    database.set_clock_offset(ledger_url, -timedelta(hours=1))
    try:
        found = nobody.post(path, json=body, headers=shown)
        refused = house.operator.post("/ledger/v1/usage", json=usage)
    finally:
        database.set_clock_offset(ledger_url, timedelta(0))
    assert (found.status_code, found.headers["retry-after"]) == (503, "5")
    assert worded(dialect, found)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["code"] == "clock_is_off"
    assert nobody.post(path, json=body, headers=shown).status_code == 200
    assert house.operator.post("/ledger/v1/usage", json=usage).status_code == 200


def test_promise_15_accounts_do_not_see_each_others_keys(
    driver: Driver, house: House, person: Callable[..., Any], served: Any, operator: httpx.Client
) -> None:
    """Another account lists none of them and cannot revoke one."""
    if driver is DRIVERS["bve"]:
        pytest.skip("bve's keys are all of the operator's own account")
    made = driver.create(house)
    other = House(served, operator, person())
    listed = driver.listed(other).text
    assert made.key_id not in listed
    assert UUID(made.key_id).hex not in listed
    assert driver.revoke(other, made.key_id).status_code in {400, 404}
    with served.client(None) as client:
        assert read(driver, house, client, made.secret).status_code == 200


def test_v10_an_account_that_the_operator_opens_has_the_limits_on_keys_too(
    served: Any, operator: httpx.Client
) -> None:
    """V10, V11: without a word about them; the operator may lift them, or open one without any."""
    owner = {"email": "v10@example.com", "password": "correct horse battery"}
    opened = operator.post("/ledger/v1/accounts", json={"name": "Acme", "owner": owner}).json()
    place = f"/ledger/v1/accounts/{opened['account_id']}"
    limits = {each["id"]: each["ceiling"] for each in opened["limits"]}
    assert limits == {"key_creations/rolling:60": "20", "active_keys/lifetime": "500"}
    token = operator.post("/ledger/v1/login", json=owner).json()["access_token"]
    body = {"apiKeyType": "INFERENCE", "description": "bot"}
    with served.client(token) as client:
        statuses = [client.post("/api/v1/api_keys", json=body).status_code for _ in range(21)]
        assert statuses == [200] * 20 + [429]
        bound = {"kind": "active_keys", "window": "lifetime", "ceiling": "20"}
        assert operator.put(f"{place}/limits", json={"limits": [bound]}).status_code == 200
        found = client.post("/api/v1/api_keys", json=body)
        assert (found.status_code, _venice(found.json())) == (400, "API key limit reached")
        assert operator.put(f"{place}/limits", json={"limits": []}).status_code == 200
        assert client.post("/api/v1/api_keys", json=body).status_code == 200
    without = {"name": "Acme", "limits": []}
    assert operator.post("/ledger/v1/accounts", json=without).json()["limits"] == []


def test_heads_have_no_body(driver: Driver, house: House, nobody: httpx.Client) -> None:
    """``HEAD`` answers as ``GET`` does, without the body."""
    made = driver.create(house)
    found = nobody.head(driver.reads, headers=credential(driver, house, made))
    assert (found.status_code, found.content) == (200, b"")
