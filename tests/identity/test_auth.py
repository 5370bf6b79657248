"""Who may do what: the table of permissions, cell by cell, over HTTP."""

import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
import jwt
import pytest

from api import native
from api.identity import auth
from ledger import clock
from tests.conftest import HASHER

PASSWORD = "correct horse battery"
JWT_SECRET = "jwt-secret-of-tests, long enough for SHA-512 too: 64 characters.."


class Route(NamedTuple):
    """A route of the native API."""

    operation: str
    method: str
    path: str
    example: Any

    @classmethod
    def of(cls, handler: Any) -> "Route":
        """Read it off its handler."""
        (path,), (method,) = handler.paths, handler.http_methods
        example = handler.opt["contract"].example
        return cls(handler.handler_name, method, path.replace(":str", ""), example)


GUARDED = [Route.of(handler) for handler in native.SURFACE.handlers if handler.guards]


class People:
    """An account with one member of each role, their clients, a key, and somebody else's."""

    def __init__(self, served: Any, client: httpx.Client) -> None:
        """Make them."""
        self.client = client
        post = self._post
        self.account = post("/accounts", {"name": "Ours"})["account_id"]
        self.other = post("/accounts", {"name": "Theirs"})["account_id"]
        key = {"name": "bot", "dialect": "ryvion"}
        self.key = post(f"/accounts/{self.account}/keys", key)["key_id"]
        self.other_key = post(f"/accounts/{self.other}/keys", key)["key_id"]
        self.character = self._character(self.account)
        self.other_character = self._character(self.other)
        self.members: dict[str, str] = {}
        self.clients: dict[str, httpx.Client] = {}
        for role in auth.ROLES:
            email = f"{role}-{secrets.token_hex(4)}@example.com"
            body = {"email": email, "password": PASSWORD, "role": role}
            self.members[role] = post(f"/accounts/{self.account}/members", body)["member_id"]
            tokens = post("/login", {"email": email, "password": PASSWORD})
            self.clients[role] = served.client(tokens["access_token"])

    def _character(self, account: str) -> str:
        body = {"account_id": account, "name": "Luna"}
        return self._post("/characters", body)["character_id"]

    def _post(self, path: str, body: Any) -> Any:
        found = self.client.post(f"/ledger/v1{path}", json=body)
        assert found.is_success, found.text
        return found.json()


@pytest.fixture(scope="module")
def people(served: Any, operator: httpx.Client) -> Iterator[People]:
    """Everybody, for the module."""
    found = People(served, operator)
    yield found
    for client in found.clients.values():
        client.close()


def path_of(route: Route, people: People, *, other: bool = False) -> str:
    """Fill a route's path with ids that exist, ours or somebody else's."""
    return route.path.format(
        account_id=people.other if other else people.account,
        key_id=people.other_key if other else people.key,
        character_id=people.other_character if other else people.character,
        slug="nobody",
        member_id="mbr_" + "0" * 32,
        lot="999",
        asset="DIEM",
        request_id="none",
        name="standard",
        version="1",
        lane="0",
        seq="1",
    )


def test_every_operation_is_in_the_table_and_no_other() -> None:
    """A route that nobody gave roles would be open or dead."""
    assert {route.operation for route in GUARDED} == set(auth.PERMISSIONS)
    assert all(roles <= set(auth.ROLES) for roles in auth.PERMISSIONS.values())


@pytest.mark.parametrize("role", auth.ROLES)
@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation)
def test_a_role_may_what_the_table_says(people: People, route: Route, role: str) -> None:
    """API5: each cell of roles × operations is what PERMISSIONS says: 403 or something else."""
    # No body, so that what is allowed changes nothing where it can be helped.
    found = people.clients[role].request(route.method, path_of(route, people), content=b"!")
    allowed = role in auth.PERMISSIONS[route.operation]
    assert (found.status_code != 403) == allowed, found.text
    assert found.status_code < 500, found.text


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation)
def test_nobody_may_nothing(served: Any, people: People, route: Route) -> None:
    """Without credentials every route is 401 with a challenge and no error code (RFC 6750 §3.1)."""
    with served.client(None) as client:
        found = client.request(route.method, path_of(route, people))
    assert found.status_code == 401
    assert found.headers["WWW-Authenticate"] == 'Bearer realm="keyledger"'


OURS = [
    route
    for route in GUARDED
    if any(name in route.path for name in ("{account_id}", "{key_id}", "{character_id}"))
]


@pytest.mark.parametrize("route", OURS, ids=lambda route: route.operation)
def test_promise_15_anothers_ids_are_unknown(people: People, route: Route) -> None:
    """Promise 15, API1: another account's id gives what an id that never was gives: 404."""
    role = next(iter(sorted(auth.PERMISSIONS[route.operation])), "")
    if not role:
        pytest.skip("for the operator only")
    client = people.clients[role]
    body = route.example
    theirs = client.request(route.method, path_of(route, people, other=True), json=body)
    assert theirs.status_code == 404, theirs.text
    absent = path_of(route, people, other=True)
    for known in (people.other, people.other_key, people.other_character):
        absent = absent.replace(known, known[:-6] + "0a0000")
    never = client.request(route.method, absent, json=body)
    assert (never.status_code, never.json()) == (theirs.status_code, theirs.json())


def test_promise_15_a_member_sees_only_keys_that_it_issued(people: People) -> None:
    """Promise 15: the role `member` neither lists, reads nor revokes a colleague's key."""
    client = people.clients["member"]
    made = client.post(
        f"/ledger/v1/accounts/{people.account}/keys",
        json={"name": "mine", "dialect": "bve", "settings": {"member": "mbr_forged"}},
    )
    assert made.status_code == 201
    listed = client.get(f"/ledger/v1/accounts/{people.account}/keys").json()["data"]
    assert [key["name"] for key in listed] == ["mine"]
    for method, tail in (("GET", ""), ("POST", "/revoke"), ("POST", "/rotate")):
        assert client.request(method, f"/ledger/v1/keys/{people.key}{tail}").status_code == 404
    assert client.post(f"/ledger/v1/keys/{made.json()['key_id']}/revoke").status_code == 200


def test_only_the_operator_bounds_the_answers_of_a_key(people: People, operator: Any) -> None:
    """A member neither sets, raises nor drops the bound; a wrong one is refused by its field."""
    keys = f"/ledger/v1/accounts/{people.account}/keys"
    body = {"name": "mine", "dialect": "bve", "settings": {"max_output_tokens": "900", "a": "b"}}
    owner = people.clients["owner"]
    made = owner.post(keys, json=body).json()
    assert "max_output_tokens" not in made["settings"]
    key = f"/ledger/v1/keys/{made['key_id']}"
    bounded = operator.patch(key, json={"settings": {"max_output_tokens": "500"}})
    assert bounded.json()["settings"]["max_output_tokens"] == "500"
    for settings in ({}, {"max_output_tokens": "90000"}):
        kept = owner.patch(key, json={"settings": settings})
        assert kept.json()["settings"]["max_output_tokens"] == "500"
    assert "max_output_tokens" not in operator.patch(key, json={"settings": {}}).json()["settings"]
    for text in ("0", "many", "-1", "1e3", "1000000001"):
        for reply in (
            operator.patch(key, json={"settings": {"max_output_tokens": text}}),
            operator.post(keys, json={**body, "settings": {"max_output_tokens": text}}),
        ):
            assert reply.status_code == 400
            assert reply.json()["errors"][0]["field"] == "settings.max_output_tokens"


def test_a_removed_member_is_out_at_once(people: People, served: Any) -> None:
    """A token says who, never what they may: a removal bites before it expires."""
    email = f"gone-{secrets.token_hex(4)}@example.com"
    members = f"/ledger/v1/accounts/{people.account}/members"
    body = {"email": email, "password": PASSWORD, "role": "auditor"}
    member = people.client.post(members, json=body).json()["member_id"]
    login = {"email": email, "password": PASSWORD}
    tokens = people.client.post("/ledger/v1/login", json=login).json()
    with served.client(tokens["access_token"]) as client:
        assert client.get(f"/ledger/v1/accounts/{people.account}").status_code == 200
        assert people.client.delete(f"{members}/{member}").status_code == 200
        assert client.get(f"/ledger/v1/accounts/{people.account}").status_code == 401
    assert people.client.post("/ledger/v1/login", json=login).status_code == 401


def test_an_account_keeps_an_owner(people: People) -> None:
    """The last owner can neither leave nor become something else."""
    path = f"/ledger/v1/accounts/{people.account}/members/{people.members['owner']}"
    assert people.client.delete(path).json()["code"] == "last_owner_stays"
    assert people.client.patch(path, json={"role": "member"}).status_code == 409


def claims(people: People, **changes: Any) -> dict[str, Any]:
    """Return claims as the ledger signs them."""
    at = clock.now()
    made = {
        "iss": auth.ISSUER,
        "aud": auth.AUDIENCE,
        "sub": people.members["owner"],
        "acct": people.account,
        "iat": at,
        "exp": at + timedelta(minutes=5),
        "jti": "x",
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": clock.EARLIEST},
        {"aud": "somebody else"},
        {"iss": "somebody else"},
        {"exp": None},
        {"jti": None},
        {"sub": "mbr_00000000000000000000000000000000"},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(
    people: People, served: Any, changes: dict[str, Any]
) -> None:
    """ASVS 9.2: expiry, audience, issuer and member are looked at."""
    token = jwt.encode(claims(people, **changes), JWT_SECRET, algorithm="HS256")
    with served.client(token) as client:
        found = client.get(f"/ledger/v1/accounts/{people.account}")
    assert found.status_code == 401
    assert 'error="invalid_token"' in found.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("algorithm", "secret"), [("none", ""), ("HS512", JWT_SECRET), ("HS256", "x" * 32)]
)
def test_a_token_of_another_algorithm_or_secret_is_refused(
    people: People, served: Any, algorithm: str, secret: str
) -> None:
    """ASVS 9.1.2: the algorithm is ours to choose, not the token's."""
    token = jwt.encode(claims(people), secret or None, algorithm=algorithm)
    with served.client(token) as client:
        assert client.get(f"/ledger/v1/accounts/{people.account}").status_code == 401


def test_a_refresh_token_works_once_and_its_reuse_ends_the_family(
    people: People, operator: httpx.Client
) -> None:
    """A token that comes twice was stolen by one of the two: neither goes on."""
    email = f"twice-{secrets.token_hex(4)}@example.com"
    body = {"email": email, "password": PASSWORD, "role": "auditor"}
    operator.post(f"/ledger/v1/accounts/{people.account}/members", json=body)
    first = operator.post("/ledger/v1/login", json={"email": email, "password": PASSWORD}).json()

    def refresh(token: str) -> httpx.Response:
        return operator.post("/ledger/v1/token/refresh", json={"refresh_token": token})

    second = refresh(first["refresh_token"])
    assert second.status_code == 200
    assert refresh(first["refresh_token"]).status_code == 401
    assert refresh(second.json()["refresh_token"]).status_code == 401


def test_passwords_are_kept_as_argon2id_at_its_full_cost() -> None:
    """ASVS 11.4.2: 19 MiB, twice through. Only the tests' own people have it cheaper."""
    assert HASHER.hash("a password").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert HASHER is not auth.HASHER


def test_an_unknown_address_and_a_wrong_password_are_told_alike(
    people: People, operator: httpx.Client
) -> None:
    """ASVS 6.3.8: the same words, so that nobody learns who has an account."""
    answers = [
        operator.post("/ledger/v1/login", json={"email": email, "password": "wrong password"})
        for email in ("nobody@example.com", "owner@example.com")
    ]
    assert [found.status_code for found in answers] == [401, 401]
    assert answers[0].json() == answers[1].json()
    assert people.members
