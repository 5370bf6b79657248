"""Events say who acted, and in which role; a key that a key made says which."""

import secrets
from typing import Any
from uuid import UUID

import pytest

from ledger.record import verify
from projections import rebuild

PASSWORD = "correct horse battery"


def events(world: Any, account: str, kind: str) -> list[dict[str, Any]]:
    """Return the payloads of an account's events of a type, newest first."""
    found = world.get(f"/accounts/{account}/events?limit=100")["data"]
    return [event["payload"] for event in found if event["type"] == kind]


def member(world: Any, served: Any, account: str, role: str) -> tuple[str, Any]:
    """Let somebody join; return their id and client."""
    email = f"{role}-{secrets.token_hex(4)}@example.com"
    body = {"email": email, "password": PASSWORD, "role": role}
    member_id = world.post(f"/accounts/{account}/members", body, 201)["member_id"]
    tokens = world.post("/login", {"email": email, "password": PASSWORD})
    return member_id, served.client(tokens["access_token"])


def test_events_name_the_operator_and_time(world: Any) -> None:
    """The break-glass secret is ``operator``; what nobody asked for is ``system``."""
    account = world.account()
    world.key(account)
    assert [each["by"] for each in events(world, account, "account_opened")] == ["operator"]
    assert [each["by"] for each in events(world, account, "credit_granted")] == ["system"]
    assert [each["by"] for each in events(world, account, "key_issued")] == ["operator"]


@pytest.mark.parametrize("role", ["owner", "member"])
def test_events_name_a_member_by_role_and_id(world: Any, served: Any, role: str) -> None:
    """A person acts in a role: it stands beside their id, and nothing else about them."""
    account = world.account()
    member_id, client = member(world, served, account, role)
    with client:
        body = {"name": "bot", "dialect": "ryvion"}
        made = client.post(f"/ledger/v1/accounts/{account}/keys", json=body)
        assert made.status_code == 201, made.text
    (issued,) = events(world, account, "key_issued")
    assert issued["by"] == f"{role}:{member_id}"
    assert made.json()["parent"] is None


def test_the_role_is_that_of_the_moment(world: Any, served: Any) -> None:
    """Who is made an owner acts as one from then on; what was done before stays as it was."""
    account = world.account()
    member_id, client = member(world, served, account, "member")
    path = f"/ledger/v1/accounts/{account}/keys"
    with client:
        client.post(path, json={"name": "one", "dialect": "ryvion"})
        role = {"role": "owner"}
        changed = world.client.patch(
            f"/ledger/v1/accounts/{account}/members/{member_id}", json=role
        )
        assert changed.status_code == 200, changed.text
        client.post(path, json={"name": "two", "dialect": "ryvion"})
    acted = {each["name"]: each["by"] for each in events(world, account, "key_issued")}
    assert acted == {"one": f"member:{member_id}", "two": f"owner:{member_id}"}


def test_who_signs_up_owns_the_account_they_open(world: Any, served: Any) -> None:
    """The first event of an account is by its owner, whose login it binds."""
    email = f"new-{secrets.token_hex(4)}@example.com"
    body = {"email": email, "password": PASSWORD, "name": "New"}
    with served.client(None) as client:
        made = client.post("/api/v1/auth/signup", json=body)
    assert made.status_code == 201, made.text
    account = "acct_" + UUID(made.json()["buyer_id"]).hex
    (added,) = events(world, account, "member_added")
    member_id = added["member_id"]
    for kind in ("account_opened", "member_added", "login_set"):
        assert [each["by"] for each in events(world, account, kind)] == [f"owner:{member_id}"]


MAKING: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "ryvion": ("/api/v1/auth/api-keys", {"scopes": ["buyer"]}, {"name": "child"}),
    "venice": (
        "/api/v1/api_keys",
        {"settings": {"apiKeyType": "ADMIN"}},
        {"description": "child", "apiKeyType": "INFERENCE"},
    ),
}
"""Dialects in which a key makes keys: where, by what key, and what it sends."""


@pytest.mark.parametrize("dialect", MAKING)
def test_a_key_that_a_key_made_names_it(world: Any, served: Any, dialect: str) -> None:
    """``parent`` is in its event and in what is shown of it, after a rebuild too."""
    path, terms, body = MAKING[dialect]
    account = world.account()
    key = world.key(account, dialect=dialect, **terms)
    with served.client(key["secret"]) as client:
        made = client.post(path, json=body)
    assert made.is_success, made.text
    listed = world.get(f"/accounts/{account}/keys")["data"]
    parents = {each["name"]: each["parent"] for each in listed}
    assert parents == {"child": key["key_id"], "bot": None}
    issued = {each["name"]: each for each in events(world, account, "key_issued")}
    assert issued["child"]["by"] == f"key:{key['key_id']}"
    assert issued["child"]["parent"] == key["key_id"]
    assert "parent" not in issued["bot"]


def acted(world: Any, account: str, kind: str) -> list[tuple[str, int]]:
    """Return who made an account's requests, with the number of the secret, oldest first."""
    found = events(world, account, kind)
    return [(each["by"], each.get("secret", 0)) for each in reversed(found)]


def test_metered_requests_name_who_reported_them_and_what_proved_the_key(world: Any) -> None:
    """The operator names a key, or shows its secret: then its number stands in the event."""
    account = world.account()
    key = world.key(account)
    world.record(key, "by-id")
    proven = {"model": "m", "usage": {"input": 1}, "secret": key["secret"]}
    world.post("/usage", {**proven, "request_id": "by-secret"})
    rotated = world.post(f"/keys/{key['key_id']}/rotate", {"grace_seconds": 60})
    batch = [{**proven, "secret": rotated["secret"], "request_id": f"b{n}"} for n in range(3)]
    world.post("/usage", batch)
    one = ("operator", 0)
    assert acted(world, account, "request_recorded") == [
        one,
        ("operator", 1),
        *[("operator", 2)] * 3,
    ]
    # The same request proven by another secret is the same request.
    assert world.post("/usage", {**proven, "request_id": "b0"})["request_id"] == "b0"
    for name in ("a", "b"):
        world.post("/requests", {**proven, "request_id": name}, 201)
    world.post("/requests/a/settle", {"key_id": key["key_id"], "usage": {"input": 1}})
    world.post("/requests/b/release", {"key_id": key["key_id"]})
    assert acted(world, account, "request_reserved") == [("operator", 1)] * 2
    assert acted(world, account, "request_settled") == [one]
    assert acted(world, account, "request_released") == [one]
    world.post("/usage", {**proven, "model": "none", "request_id": "c"}, 422)
    assert acted(world, account, "request_refused") == [("operator", 1)]


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("dialect", "path"),
    [("ryvion", "/v1/chat/completions"), ("venice", "/api/v1/chat/completions")],
)
def test_calls_name_the_key_and_the_secret_that_proved_it(
    world: Any, served: Any, dialect: str, path: str
) -> None:
    """Through the gateway a key acts for itself; the service settles what it was served."""
    account = world.account(unpriced="record")
    key = world.key(account, dialect=dialect)
    rotated = world.post(f"/keys/{key['key_id']}/rotate", {"grace_seconds": 60})
    for secret in (key["secret"], rotated["secret"]):
        with served.client(secret) as client:
            assert client.post(path, json=CHAT).status_code in {200, 400, 404}
    world.post(f"/keys/{key['key_id']}/suspend")
    with served.client(rotated["secret"]) as client:
        assert client.post(path, json=CHAT).status_code in {401, 403}
    kinds = ("request_reserved", "request_refused")
    made = [each for kind in kinds for each in acted(world, account, kind)]
    assert made[-1] == ("key", 2)
    assert {("key", 1), ("key", 2)} == set(made)
    ended = [
        each
        for kind in ("request_settled", "request_released")
        for each in acted(world, account, kind)
    ]
    assert set(ended) <= {("system", 0)}


def test_calls_of_a_session_name_the_member(world: Any, served: Any) -> None:
    """A login acts through a key of its account: the event says who it was."""
    account = world.account(unpriced="record")
    member_id, client = member(world, served, account, "owner")
    with client:
        client.post("/v1/chat/completions", json=CHAT)
    made = acted(world, account, "request_reserved") + acted(world, account, "request_refused")
    assert set(made) == {(f"owner:{member_id}", 0)}


def test_accounts_say_whether_they_are_for_tests_or_the_operators_own(world: Any) -> None:
    """``test`` and ``internal`` are set when an account opens, and shown from then on."""
    ordinary = world.account()
    account = world.account(test=True, internal=True)
    for each, is_it in ((ordinary, False), (account, True)):
        shown = world.get(f"/accounts/{each}")
        assert (shown["test"], shown["internal"]) == (is_it, is_it)
    (opened,) = events(world, account, "account_opened")
    assert (opened["test"], opened["internal"]) == (True, True)
    world.post(f"/accounts/{account}/suspend")
    assert world.get(f"/accounts/{account}")["test"] is True


def test_a_grant_says_what_was_paid_for_it(world: Any) -> None:
    """Cost, currency and the payment's id stay with the lot, spent or not."""
    account = world.account(welcome=False)
    paid = {"cost": "19.990", "currency": "EUR", "payment_reference": "pi_3Nabc"}
    grant = {"amount": "25", "asset": "USD", **paid}
    shown = world.post(f"/accounts/{account}/grants", grant, 201)
    assert {name: shown[name] for name in paid} == {**paid, "cost": "19.99"}
    world.post(f"/accounts/{account}/grants", {"amount": "1", "asset": "USD"}, 201)
    world.post(f"/accounts/{account}/grants/1/void")
    second, first = world.get(f"/accounts/{account}/grants")["data"]
    assert {name: first[name] for name in paid} == {**paid, "cost": "19.99"}
    assert {name: second[name] for name in paid} == dict.fromkeys(paid)
    assert events(world, account, "credit_granted")[-1]["cost"] == "19.99"


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"cost": "1"}, "currency"),
        ({"currency": "EUR"}, "cost"),
        ({"cost": "1e3", "currency": "EUR"}, "cost"),
        ({"cost": "-1", "currency": "EUR"}, "cost"),
        ({"cost": "1", "currency": "eur"}, "currency"),
        ({"payment_reference": "x" * 256}, "payment_reference"),
    ],
)
def test_a_payment_that_says_nothing_is_refused(
    world: Any, terms: dict[str, str], field: str
) -> None:
    """The answer names the field; nothing is granted."""
    account = world.account(welcome=False)
    grant = {"amount": "25", "asset": "USD", **terms}
    found = world.client.post(f"/ledger/v1/accounts/{account}/grants", json=grant)
    assert found.status_code in {400, 422}, found.text
    assert field in found.text
    assert world.get(f"/accounts/{account}/grants")["data"] == []


def test_all_of_it_is_verified_and_rebuilt(ledger_url: str, world: Any) -> None:
    """What the tests above left is intact, and every projection follows from events."""
    world.account(test=True)
    assert verify.verify(ledger_url).findings == []
    assert rebuild.rebuild(ledger_url).equal
