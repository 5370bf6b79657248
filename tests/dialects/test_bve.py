"""bve, promise by promise: BV1 … BV9."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

ADMIN = "/admin/api-keys"
CREATED = [
    *("id", "name", "key", "status", "rpm_limit", "rpd_limit", "monthly_limit"),
    *("monthly_token_limit", "allowed_models", "created_at"),
]
LISTED = [
    *("id", "name", "status", "rpm_limit", "rpd_limit", "monthly_limit", "monthly_token_limit"),
    *("allowed_models", "created_at", "updated_at", "revoked_at"),
]
MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOT_FOUND = {
    "error": {
        "message": "API key not found",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
}


def create(operator: httpx.Client, **terms: Any) -> dict[str, Any]:
    """Create a key."""
    found = operator.post(ADMIN, json={"name": "my-client", **terms})
    assert found.status_code == 201, found.text
    return found.json()


def test_bv1_a_key_is_created_with_the_documented_fields(operator: httpx.Client) -> None:
    """BV1: exactly ten fields, in their order, with the defaults."""
    found = operator.post(ADMIN, json={"name": "my-client"})
    made = found.json()
    assert found.status_code == 201
    assert found.headers["cache-control"] == "no-store"
    assert list(made) == CREATED
    assert re.fullmatch(r"sk-bve-[0-9a-f]{64}", made["key"])
    assert uuid.UUID(made["id"])
    assert MILLISECONDS.fullmatch(made["created_at"])
    assert (made["rpm_limit"], made["rpd_limit"]) == (60, 10_000)
    assert made["monthly_limit"] is made["monthly_token_limit"] is made["allowed_models"] is None


@pytest.mark.parametrize("length", [1, 255])
def test_bv1_a_name_has_1_to_255_characters(operator: httpx.Client, length: int) -> None:
    """BV1: both ends of the range are good."""
    assert create(operator, name="n" * length)["name"] == "n" * length


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "n" * 256}, "name"),
        ({"name": 7}, "name"),
        ({"name": "n", "rpm_limit": 0}, "rpm_limit"),
        ({"name": "n", "rpm_limit": -1}, "rpm_limit"),
        ({"name": "n", "rpm_limit": 1.5}, "rpm_limit"),
        ({"name": "n", "rpm_limit": "60"}, "rpm_limit"),
        ({"name": "n", "rpm_limit": None}, "rpm_limit"),
        ({"name": "n", "rpd_limit": 0}, "rpd_limit"),
        ({"name": "n", "monthly_limit": 0}, "monthly_limit"),
        ({"name": "n", "monthly_token_limit": -5}, "monthly_token_limit"),
        ({"name": "n", "rpd_limit": 10**13}, "rpd_limit"),
        ({"name": "n", "allowed_models": "m"}, "allowed_models"),
        ({"name": "n", "allowed_models": [7]}, "allowed_models[0]"),
        ({"name": "n", "allowed_models": [""]}, "allowed_models[0]"),
        ({"name": "n", "upstream_key": "sk-x"}, "upstream_key"),
    ],
)
def test_bv1_a_wrong_field_is_named(operator: httpx.Client, body: Any, param: str) -> None:
    """BV1: 400 ``invalid_request`` with the field as ``param``, and no key is made."""
    before = len(operator.get(ADMIN).json())
    found = operator.post(ADMIN, json=body)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert len(operator.get(ADMIN).json()) == before


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b'{"name": "a", "name": "b"}', 400, "invalid_request"),
        (b'{"name": "\xff"}', 400, "invalid_json"),
        (b'{"name": "a\\u0000"}', 400, "invalid_request"),
        (b'{"name": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "invalid_request"),
        (b'{"name": "' + b"x" * 11_000_000 + b'"}', 413, "request_too_large"),
    ],
)
def test_a_bad_body_is_refused(
    operator: httpx.Client, content: bytes, status: int, code: str
) -> None:
    """No JSON, a key twice, bad bytes, too deep, too large: in bve's words."""
    headers = {"Content-Type": "application/json"}
    found = operator.post(ADMIN, content=content, headers=headers)
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)


def test_another_media_type_is_refused(operator: httpx.Client) -> None:
    """A form is no JSON, whatever it holds."""
    found = operator.post(ADMIN, data={"name": "x"})
    assert (found.status_code, found.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_bv5_the_curl_examples_run(
    operator: httpx.Client, served: Any, page: Callable[[str], str], curl: Callable[..., Any]
) -> None:
    """BV5: every curl of the page runs verbatim but for host and secret."""
    secret = operator.headers["authorization"].removeprefix("Bearer ")
    text = page("002").replace("https://api.bve.me", served.url)
    text = text.replace("admin_bve_YOUR_ADMIN_KEY", secret)
    made = create(operator)
    commands = re.findall(r"curl (?:-X \w+ )?\S+(?: \\? ?-[Hd] (?:'[^']*'|\"[^\"]*\"))*", text)
    known = (each.replace("550e8400-e29b-41d4-a716-446655440000", made["id"]) for each in commands)
    assert [curl(command)[0] for command in known] == [201, 201, 201, 200, 200]


def test_bv6_the_list_shows_every_state_and_no_secret(operator: httpx.Client, world: Any) -> None:
    """BV6: active, suspended and revoked keys, newest first, exactly eleven fields, no secret."""
    made = [create(operator, name=f"k{number}") for number in range(3)]
    world.post(f"/keys/key_{made[1]['id'].replace('-', '')}/suspend")
    operator.post(f"{ADMIN}/{made[2]['id']}/revoke")
    found = operator.get(ADMIN)
    rows = {row["id"]: row for row in found.json()}
    assert [rows[key["id"]]["status"] for key in made] == ["active", "suspended", "revoked"]
    assert all(list(row) == LISTED for row in rows.values())
    assert rows[made[0]["id"]]["revoked_at"] is None
    assert MILLISECONDS.fullmatch(rows[made[2]["id"]]["revoked_at"])
    assert not any(key["key"] in found.text for key in made)
    times = [row["created_at"] for row in found.json()]
    assert times == sorted(times, reverse=True)


def test_bv7_a_revocation_is_permanent(operator: httpx.Client, world: Any) -> None:
    """BV7: again answers as the first time, and nothing brings the key back."""
    made = create(operator)
    first = operator.post(f"{ADMIN}/{made['id']}/revoke")
    assert first.status_code == 200
    assert list(first.json()) == ["id", "status", "revoked_at"]
    assert first.json()["status"] == "revoked"
    assert operator.post(f"{ADMIN}/{made['id']}/revoke").json() == first.json()
    world.post(f"/keys/key_{made['id'].replace('-', '')}/resume", status=409)
    assert operator.post(f"{ADMIN}/{made['id']}/revoke").json() == first.json()


@pytest.mark.parametrize(
    "key_id",
    [
        "550e8400-e29b-41d4-a716-446655440000",
        "no-uuid",
        "%00",
        "550e8400-e29b-41d4-a716-4466554400%00",
        "%ED%A0%80",
        "%2F",
        "a" * 300,
        "5" * 20_000,
    ],
    ids=lambda text: text[:40],
)
def test_bv8_an_unknown_key_is_not_found(operator: httpx.Client, key_id: str) -> None:
    """BV8: 404 with the documented body, for what is no UUID too, however long or odd."""
    found = operator.post(f"{ADMIN}/{key_id}/revoke")
    assert (found.status_code, found.json()) == (404, NOT_FOUND)


def test_bv8_another_accounts_key_is_not_found(operator: httpx.Client, world: Any) -> None:
    """BV8: a key of a customer's account is none of this surface's."""
    theirs = world.key(world.account(), dialect="bve")
    key_id = str(uuid.UUID(theirs["key_id"].removeprefix("key_")))
    found = operator.post(f"{ADMIN}/{key_id}/revoke")
    assert (found.status_code, found.json()) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ADMIN),
        ("GET", ADMIN),
        ("POST", f"{ADMIN}/550e8400-e29b-41d4-a716-446655440000/revoke"),
        ("GET", "/admin/usage"),
    ],
)
def test_bv9_only_the_operator_may(
    served: Any, operator: httpx.Client, method: str, path: str
) -> None:
    """BV9: nothing, something wrong or a client's key → 401; the secret may come without Bearer."""
    secret = operator.headers["authorization"].removeprefix("Bearer ")
    key = create(operator)["key"]
    with served.client(None) as client:
        found = client.request(method, path)
        assert (found.status_code, found.json()["error"]["code"]) == (401, "missing_api_key")
        for shown in (f"Bearer {key}", "Bearer wrong", "wrong", "Basic eDp5", key):
            found = client.request(method, path, headers={"Authorization": shown})
            assert found.status_code == 401
            assert found.json()["error"]["message"] == "Invalid admin API key"
            assert 'error="invalid_token"' in found.headers["www-authenticate"]
        found = client.request(method, path, headers={"Authorization": secret}, json={})
        assert found.status_code != 401


def test_bv9_the_operators_secret_is_no_client_key(operator: httpx.Client) -> None:
    """BV9: it opens no ``/v1`` route."""
    found = operator.get("/v1/models")
    assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")


def test_replies_let_browsers_call(served: Any) -> None:
    """CORS ``*`` and a request id on every reply to a page of elsewhere, errors included."""
    elsewhere = {"Origin": "https://example.com"}
    wanted = "authorization, content-type, x-request-id"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    with served.client(None) as client:
        before = client.options(ADMIN, headers={**elsewhere, **asks})
        assert before.status_code == 204
        allowed = before.headers["access-control-allow-headers"].lower().split(", ")
        assert set(wanted.split(", ")) <= set(allowed)
        assert "POST" in before.headers["access-control-allow-methods"].split(", ")
        found = [client.get(path, headers=elsewhere) for path in (ADMIN, "/admin/none")]
        for each in (before, *found):
            assert each.headers["access-control-allow-origin"] == "*"
            assert uuid.UUID(each.headers["x-request-id"]).version == 7
        for each in found:
            assert "X-Request-Id" in each.headers["access-control-expose-headers"]


def test_unknown_routes_and_methods_are_worded(served: Any) -> None:
    """``Route GET /v1/unknown not found``, and 405 with ``Allow``."""
    with served.client(None) as client:
        found = client.get("/v1/unknown")
        assert found.status_code == 404
        assert found.json()["error"]["message"] == "Route GET /v1/unknown not found"
        assert found.json()["error"]["code"] == "route_not_found"
        found = client.put(ADMIN)
        assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD, POST")
