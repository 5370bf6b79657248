"""Who answers: by host, by path, by the prefix of a key; and headers that disagree."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Served, settings_for
from tests.dialects.test_conformance import CHAT, DRIVERS, House, asks

PASSWORD = "correct horse battery"
HOSTS = {name: f"{name}.example.com" for name in DRIVERS}
OWN = {
    "reverie": "/api/device/v1/models",
    "foil": "/api/v1/sdk/personas",
    "bve": "/admin/api-keys",
    "ryvion": "/api/v1/auth/api-keys",
    "venice": "/api/v1/api_keys",
}
"""A path of each dialect that wants a credential."""
SHARED = {"reverie": "/v1/models", "bve": "/v1/models", "ryvion": "/v1/models"}


@pytest.fixture(scope="module")
def served(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve with a host for each dialect, and any other for all."""
    hosts = ", ".join(f"{host}={name}" for name, host in HOSTS.items())
    settings = settings_for(tmp_path_factory.mktemp("home"), hosts=hosts)
    found = Served(settings, ledger_url).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def house(served: Any, operator: httpx.Client, person: Callable[..., Any]) -> House:
    """The service and somebody with an account."""
    unlimited = {"USD": "unlimited", "CAD": "unlimited", "CREDIT": "unlimited"}
    return House(served, operator, person(overdraft=unlimited))


@pytest.fixture(scope="module")
def nobody(served: Any) -> Iterator[httpx.Client]:
    """A client that shows nothing by itself."""
    with served.client(None) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    """Show a secret."""
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("at", DRIVERS)
@pytest.mark.parametrize("of", DRIVERS)
def test_a_pinned_host_speaks_one_dialect(nobody: httpx.Client, of: str, at: str) -> None:
    """Its own paths are there, those of others are not, and either is said in its envelope."""
    found = nobody.get(OWN[of], headers={"Host": HOSTS[at]})
    assert found.status_code == (401 if of == at else 404)
    assert DRIVERS[at].message(found.json())


@pytest.mark.parametrize("at", DRIVERS)
def test_a_pinned_host_serves_the_login_and_no_more_of_ryvion(
    house: House, nobody: httpx.Client, at: str
) -> None:
    """Keys and billing are ryvion's, though they stand beside the login that all have."""
    of_ryvion = {**bearer(DRIVERS["ryvion"].create(house).secret), "Host": HOSTS[at]}
    assert nobody.get("/api/v1/auth/me", headers=of_ryvion).status_code == 200
    key = "/api/v1/auth/api-keys/0190a5c0-0000-7000-8000-000000000000"
    for method, path, own in (
        ("GET", "/api/v1/auth/api-keys", 200),
        ("POST", "/api/v1/auth/api-keys", 400),
        ("DELETE", key, 404),
        ("GET", "/api/v1/auth/billing", 200),
        ("PUT", "/api/v1/auth/billing/limit", 400),
        ("GET", "/api/v1/auth/nothing", 404),
        ("GET", "/api/v1/auth/me/", 404),
    ):
        body = {} if method in {"POST", "PUT"} else None
        found = nobody.request(method, path, json=body, headers=of_ryvion)
        assert found.status_code == (own if at == "ryvion" else 404), (path, found.text)
        assert found.is_success or DRIVERS[at].message(found.json())


@pytest.mark.parametrize(("of", "at"), [(of, at) for of in DRIVERS for at in DRIVERS if of != at])
def test_a_pinned_host_refuses_the_keys_of_others(
    house: House, nobody: httpx.Client, of: str, at: str
) -> None:
    """The 5 × 5 matrix by hosts: reading, metered and managing, in either header, are 401.

    Also under ``/v1``, where elsewhere the key's prefix would choose.
    """
    made = DRIVERS[of].create(house)
    for method, path, body in asks(DRIVERS[at], house):
        for shown in (bearer(made.secret), {"X-API-Key": made.secret}):
            headers = {**shown, "Host": HOSTS[at]}
            found = nobody.request(method, path, json=body, headers=headers)
            assert found.status_code == 401, (path, found.text)
            assert DRIVERS[at].message(found.json())
            assert found.headers["www-authenticate"].startswith("Bearer ")
    assert house.operator.get(house.native(made.key_id)).json()["last_used_at"] is None


@pytest.mark.parametrize("host", ["EXAMPLE.venice.example.com", "127.0.0.1", "localhost:8321"])
def test_another_host_speaks_all_dialects(nobody: httpx.Client, host: str) -> None:
    """A host that nobody pinned is unaffected: the path decides."""
    for name, path in OWN.items():
        found = nobody.get(path, headers={"Host": host})
        assert found.status_code == 401
        assert DRIVERS[name].message(found.json())


@pytest.mark.parametrize("name", DRIVERS)
def test_a_pinned_host_is_known_in_any_case_and_with_a_port(
    nobody: httpx.Client, name: str
) -> None:
    """RFC 9110 §4.2.3: the host's name has no case, and its port is not part of it."""
    for host in (HOSTS[name].upper(), f"{HOSTS[name]}:8321"):
        other = OWN["venice" if name == "foil" else "foil"]
        found = nobody.get(other, headers={"Host": host})
        assert found.status_code == 404
        assert DRIVERS[name].message(found.json())


@pytest.mark.parametrize("host", [*HOSTS.values(), "other.example.com"])
def test_one_login_serves_every_host(nobody: httpx.Client, host: str) -> None:
    """Sign up, log in and look at oneself, whatever the host is pinned to."""
    at = {"Host": host}
    who = {"email": f"somebody@{host}", "password": PASSWORD}
    path = "/api/v1/auth"
    found = nobody.post(f"{path}/signup", json={**who, "name": "Pat"}, headers=at)
    assert found.status_code == 201, found.text
    found = nobody.post(f"{path}/login", json=who, headers=at)
    assert found.status_code == 200, found.text
    found = nobody.get(f"{path}/me", headers={**at, **bearer(found.json()["token"])})
    assert found.json()["email"] == who["email"]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_pinned_hosts_keys_work_there(house: House, nobody: httpx.Client, name: str) -> None:
    """A key of the dialect does what it does elsewhere, reading and metered."""
    driver = DRIVERS[name]
    shown = {**driver.show(driver.create(house).secret), "Host": HOSTS[name]}
    for method, path, body in asks(driver, house)[:2]:
        found = nobody.request(method, path, json=body, headers=shown)
        assert found.status_code == 200, found.text


@pytest.mark.parametrize("host", [*HOSTS.values(), "other.example.com"])
def test_health_documents_and_the_native_api_are_everybodys(
    operator: httpx.Client, host: str
) -> None:
    """No host takes them away."""
    paths = ("/health", "/health/ready", "/openapi.json", "/openapi/foil.json", "/ledger/v1/lanes")
    for path in paths:
        assert operator.get(path, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_path_goes_by_the_keys_prefix(
    house: House, nobody: httpx.Client, name: str
) -> None:
    """``/v1``: ``rk_``, ``sk-bve-``, ``ryv_`` each find their own dialect."""
    secret = DRIVERS[name].create(house).secret
    found = nobody.get("/v1/models", headers=bearer(secret))
    assert found.status_code == 200, found.text
    owners = {model["owned_by"] for model in found.json()["data"]}
    assert (owners == {"reverie"}) == (name == "reverie")
    # Of the three, ryvion alone takes the other header (Y3).
    found = nobody.get("/v1/models", headers={"X-API-Key": secret})
    assert found.status_code == (200 if name == "ryvion" else 401)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"Authorization": "Bearer pk_live_" + "0" * 32}, "invalid_api_key"),
        ({"Authorization": "Basic cGF0OnBhdA=="}, "invalid_api_key"),
        ({"Authorization": "Bearer sk-bve-" + "0" * 64}, "invalid_api_key"),
    ],
)
def test_a_shared_path_falls_to_bves_words(
    nobody: httpx.Client, path: str, shown: dict[str, str], code: str
) -> None:
    """Without a key, or with one of no known prefix, ``/v1`` keeps bve's contract.

    Also where bve itself has no such path; with its own key it says so.
    """
    method = "GET" if path == "/v1/models" else "POST"
    headers = {**shown, "Origin": "https://example.com"}
    found = nobody.request(method, path, headers=headers, json=CHAT if method == "POST" else None)
    elsewhere = path == "/v1/messages" and "sk-bve-" in shown.get("Authorization", "")
    assert found.status_code == (404 if elsewhere else 401)
    assert found.json()["error"]["code"] == ("route_not_found" if elsewhere else code)
    assert found.headers["access-control-allow-origin"] == "*"


def test_a_shared_path_that_nobody_has_is_not_there(nobody: httpx.Client) -> None:
    """404 in bve's envelope, whether or not something is shown."""
    for shown in ({}, bearer("nonsense")):
        found = nobody.get("/v1/nothing", headers=shown)
        assert found.status_code == 404
        assert found.json()["error"]["code"] == "route_not_found"


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages", "/api/v1/auth/me"])
def test_headers_that_disagree_are_refused(
    house: House, nobody: httpx.Client, name: str, path: str
) -> None:
    """RFC 6750 §2, Y3: two credentials that differ, whatever their schemes: 400, both good or not.

    On ryvion's paths and on shared ones. Equal ones twice are harmless where both headers count.
    """
    good, other = (DRIVERS[name].create(house).secret for _ in range(2))
    foreign = DRIVERS["ryvion" if name != "ryvion" else "bve"].create(house).secret
    method = "POST" if path == "/v1/messages" else "GET"
    for first, second in (
        (f"Bearer {good}", other),
        (f"Bearer {good}", "nonsense"),
        (f"Bearer {good}", foreign),
        (f"Bearer {foreign}", good),
        ("Bearer nonsense", good),
    ):
        shown = {"Authorization": first, "X-API-Key": second}
        found = nobody.request(method, path, headers=shown)
        if path == "/v1/messages" and first.startswith(("Bearer sk-bve-", "Bearer rk_")):
            assert found.status_code == 404  # theirs is no such path
            continue
        assert found.status_code == 400, (first[:12], second[:6], found.text)
        assert found.json()["error"]["code"] == "invalid_request"
        assert 'error="invalid_request"' in found.headers["www-authenticate"]


def test_another_scheme_beside_a_key_is_refused(house: House, nobody: httpx.Client) -> None:
    """Nothing that is shown is overlooked: not a Basic one, not a Bearer without a token."""
    secret = DRIVERS["ryvion"].create(house).secret
    for first in ("Basic cGF0OnBhdA==", "Bearer"):
        for path in ("/v1/models", "/api/v1/auth/me"):
            shown = {"Authorization": first, "X-API-Key": secret}
            assert nobody.get(path, headers=shown).status_code == 400
    same = {**bearer(secret), "X-API-Key": secret}
    assert nobody.get("/v1/models", headers=same).status_code == 200


def test_the_importers_path_is_read_as_a_character(house: House, nobody: httpx.Client) -> None:
    """``GET /api/v1/characters/import`` is venice's character ``import``; ``POST`` is reverie's."""
    path = "/api/v1/characters/import"
    venice = bearer(DRIVERS["venice"].create(house).secret)
    reverie = bearer(DRIVERS["reverie"].create(house).secret)
    assert nobody.get(path, headers=venice).json() == {"error": "Character not found"}
    found = nobody.post(path, json={"name": "Import"}, headers=reverie)
    assert (found.status_code, found.json()["slug"]) == (201, "import")
    found = nobody.get(path, headers=venice)
    assert found.status_code == 200
    assert (found.json()["object"], found.json()["data"]["slug"]) == ("character", "import")
    assert nobody.head(path, headers=venice).status_code == 200
    assert nobody.get(path, headers=reverie).status_code == 401
    assert nobody.post(path, json={"name": "Import"}, headers=venice).status_code == 401
