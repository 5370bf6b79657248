"""venice: keys and their limits as its page says; V1 … V8, V10 … V12."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.dialects.venice.dialect import DIALECT
from api.identity.auth import PERMISSIONS, ROLES
from ledger import clock, secrets
from tests.conftest import TLS
from tests.dialects.venice_world import (
    EMBEDDING,
    KEYS,
    LARGE,
    NEW,
    NO_LIMITS,
    NOWHERE,
    RATES,
    ROW,
    SMALL,
    Opens,
    Venice,
    is_milliseconds,
    together,
)

DENIED = (403, {"error": "Unauthorized access"})
"""What a role forbids."""
CHAT = {"model": SMALL, "messages": [{"role": "user", "content": "Hello"}]}
EMBED = {"model": EMBEDDING, "input": "Hello"}

# Keys.


def test_v1_keys_are_managed_by_an_admin_key_or_a_session(venice: Venice) -> None:
    """V1: an INFERENCE key on each managing route is a 401 that says which key is needed."""
    inference = venice.client()
    key_id = inference.key["id"]
    calls = [
        ("GET", KEYS, None),
        ("POST", KEYS, {"apiKeyType": "INFERENCE", "description": "x"}),
        ("PATCH", KEYS, {"id": key_id, "description": "x"}),
        ("DELETE", f"{KEYS}?id={key_id}", None),
        ("GET", f"{KEYS}/{key_id}", None),
    ]
    for method, path, body in calls:
        found = inference.request(method, path, json=body)
        assert (found.status_code, found.json()) == (401, {"error": "Admin API key required"})
        assert found.headers["WWW-Authenticate"].startswith("Bearer realm=")
    admin = venice.admin()
    assert admin.get(KEYS).status_code == venice.session.get(KEYS).status_code == 200
    assert admin.get(f"{KEYS}/{key_id}").json()["data"]["id"] == key_id


@pytest.mark.parametrize("shown", [None, "Bearer nonsense", "Basic YTpi", "Bearer a.b.c"])
def test_v1_who_shows_nothing_good_is_refused(served: Any, shown: str | None) -> None:
    """V1: 401 in the page's words, with a challenge that has an error code only where one is."""
    headers = {} if shown is None else {"Authorization": shown}
    found = httpx.get(f"{served.url}{KEYS}", headers=headers, verify=TLS)
    assert (found.status_code, found.json()) == (401, {"error": "Authentication failed"})
    assert ("invalid_token" in found.headers["WWW-Authenticate"]) == (shown is not None)


def test_v1_a_key_of_another_dialect_is_refused(venice: Venice) -> None:
    """V1: only venice's keys work here."""
    body = {"name": "bot", "dialect": "ryvion"}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    secret = venice.operator.post(path, json=body).json()["secret"]
    found = venice.showing(secret).get(RATES)
    assert (found.status_code, found.json()) == (401, {"error": "Authentication failed"})


@pytest.mark.parametrize("role", ROLES)
def test_v1_a_login_manages_keys_as_far_as_its_role_may(venice: Venice, role: str) -> None:
    """V1: every role lists; who may not make, change or revoke keys is a 403, and does nothing."""
    login = venice.member(role)
    mine = login if role in {"owner", "member"} else venice.session
    made = venice.create(client=mine)
    assert login.get(KEYS).status_code == 200
    changes = [
        ("POST", KEYS, {"apiKeyType": "INFERENCE", "description": "x"}),
        ("PATCH", KEYS, {"id": made["id"], "description": "x"}),
        ("DELETE", f"{KEYS}?id={made['id']}", None),
    ]
    for method, path, body in changes:
        found = login.request(method, path, json=body)
        if login is mine:
            assert found.status_code == 200, found.text
        else:
            assert (found.status_code, found.json()) == DENIED
            assert "WWW-Authenticate" not in found.headers
    rows = venice.session.get(KEYS).json()["data"]
    assert [row["description"] for row in rows] == (["x"] if login is mine else ["a key"])
    for path in ("/api/v1/billing/balance", f"{RATES}/log"):
        found = login.get(path)
        assert (found.status_code, found.json()) == (401, {"error": "Authentication failed"})


@pytest.mark.parametrize("role", ROLES)
def test_a_login_asks_models_only_where_its_role_may_spend(venice: Venice, role: str) -> None:
    """Who could issue a key may do what a key does; for others a 403, and nothing is charged."""
    login = venice.member(role)
    spends = role in {"owner", "member"}
    for path, body in (("/api/v1/chat/completions", CHAT), ("/api/v1/embeddings", EMBED)):
        found = login.post(path, json=body)
        if spends:
            assert found.status_code == 200, found.text
        else:
            assert (found.status_code, found.json()) == DENIED
    for path in (RATES, "/api/v1/characters", "/api/v1/models", f"/api/v1/models/{SMALL}"):
        assert login.get(path).status_code == 200
    assert login.get("/api/v1/characters/nobody").status_code == 404
    balance = venice.admin().get("/api/v1/billing/balance").json()["balances"]["usd"]
    assert (balance < 5) == spends


def test_v1_every_route_that_takes_a_login_says_which_roles_may() -> None:
    """V1: the permission is one of the native API's; a route that takes no login has none."""
    for handler in DIALECT.surface.handlers:
        takes_logins = {"session": []} in handler.security
        permission = handler.opt["contract"].permission
        assert (permission in PERMISSIONS) == takes_logins, handler.handler_name


def test_v1_a_member_sees_and_makes_only_their_own(venice: Venice) -> None:
    """V1: the role `member` manages keys it issued, and can make none that manages others'."""
    other = venice.create(description="of the owner")
    member = venice.member("member")
    assert member.get(KEYS).json() == {"object": "list", "data": []}
    own = venice.create(client=member)
    assert [row["id"] for row in member.get(KEYS).json()["data"]] == [own["id"]]
    assert member.get(f"{KEYS}/{other['id']}").json() == {"error": "API key not found"}
    assert member.delete(KEYS, params={"id": other["id"]}).status_code == 400
    refused = member.post(KEYS, json={"apiKeyType": "ADMIN", "description": "x"})
    assert (refused.status_code, refused.json()) == DENIED
    native = f"/ledger/v1/accounts/{venice.account_id}/keys"
    settings = {"apiKeyType": "ADMIN"}
    body = {"name": "x", "dialect": "venice", "settings": settings}
    assert member.post(native, json=body).status_code == 400
    changed = member.patch(
        f"/ledger/v1/keys/key_{UUID(own['id']).hex}", json={"settings": settings}
    )
    assert changed.status_code == 200
    assert changed.json()["settings"]["apiKeyType"] == "INFERENCE"


@pytest.mark.parametrize("becomes", ["member", "finance", None])
def test_v1_an_admin_key_may_no_more_than_who_made_it(venice: Venice, becomes: str | None) -> None:
    """V1: once its maker may not manage keys, it does not either; nor does one that it made."""
    owner = venice.member("owner")
    made = venice.create(client=owner, apiKeyType="ADMIN")
    first = venice.showing(made["apiKey"])
    second = venice.showing(venice.create(client=first, apiKeyType="ADMIN")["apiKey"])
    assert [each.get(KEYS).status_code for each in (first, second)] == [200, 200]
    members = f"/ledger/v1/accounts/{venice.account_id}/members"
    listed = venice.operator.get(members).json()["data"]
    (who,) = [each["member_id"] for each in listed if each["email"].startswith("owner-")]
    if becomes is None:
        changed = venice.operator.delete(f"{members}/{who}")
    else:
        changed = venice.operator.patch(f"{members}/{who}", json={"role": becomes})
    assert changed.is_success, changed.text
    for client in (first, second):
        for path in (KEYS, "/api/v1/billing/balance"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()) == DENIED


def test_v2_lists_are_masked(venice: Venice) -> None:
    """V2: a list tells the last six characters of a secret and no more; newest first, closed."""
    first = venice.create(description="first")
    second = venice.create(description="second", apiKeyType="ADMIN")
    found = venice.session.get(KEYS)
    assert not secrets.is_in(found.text)
    listed = found.json()
    assert set(listed) == {"object", "data"}
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == [second["id"], first["id"]]
    for row, made in zip(listed["data"], (second, first), strict=True):
        assert set(row) == ROW | {"usage"}
        assert row["last6Chars"] == made["apiKey"][-6:]
        assert row["apiKeyType"] == made["apiKeyType"]
        assert is_milliseconds(row["createdAt"])
        assert row["expiresAt"] is row["lastUsedAt"] is None
        assert row["consumptionLimits"] == NO_LIMITS
        assert row["usage"] == {
            "trailingSevenDays": {"usd": "0.0000", "vcu": "0.0000", "diem": "0.0000"}
        }


def test_v2_lists_leave_out_what_ended(venice: Venice) -> None:
    """V2: revoked and expired keys are in no list."""
    soon = clock.now() + timedelta(seconds=2)
    revoked, expiring = venice.create(), venice.create(expiresAt=f"{soon:%Y-%m-%dT%H:%M:%S}Z")
    stays = venice.create()
    assert venice.session.delete(KEYS, params={"id": revoked["id"]}).status_code == 200
    time.sleep(2.1)
    assert [row["id"] for row in venice.session.get(KEYS).json()["data"]] == [stays["id"]]
    changed = venice.patch(expiring, 400, description="late")
    assert changed == {"error": "API key not found or expired"}
    assert venice.showing(expiring["apiKey"]).get(RATES).status_code == 401


def test_v3_the_reply_of_create_has_the_only_copy(venice: Venice) -> None:
    """V3: exactly these fields; the secret is nowhere else; nothing may store the reply."""
    body = {
        "apiKeyType": "INFERENCE",
        "description": "Example API Key",
        "expiresAt": "2031-06-01",
        "consumptionLimit": {"usd": 50, "diem": 10.25, "vcu": 30},
        "limitPeriod": "MONTH",
        "modelPrivacy": "PRIVATE_TEXT",
    }
    found = venice.session.post(KEYS, json=body)
    assert found.status_code == 200
    assert found.headers["Cache-Control"] == "no-store"
    assert set(found.json()) == {"success", "data"}
    made = found.json()["data"]
    assert set(made) == NEW
    assert found.json()["success"] is True
    assert '"usd":50,"diem":10.25,"vcu":null' in found.text
    assert made["expiresAt"] == "2031-06-01T00:00:00.000Z"
    assert made["apiKey"].startswith("VENICE_INFERENCE_KEY_")
    assert secrets.recognise(made["apiKey"]) is not None
    shown = venice.details(made)
    assert "apiKey" not in shown
    assert {name: shown[name] for name in ("limitPeriod", "modelPrivacy", "expiresAt")} == {
        "limitPeriod": "MONTH",
        "modelPrivacy": "PRIVATE_TEXT",
        "expiresAt": "2031-06-01T00:00:00.000Z",
    }
    events = venice.operator.get(f"/ledger/v1/accounts/{venice.account_id}/events").text
    for text in (venice.session.get(KEYS).text, str(shown), events):
        assert made["apiKey"] not in text
    assert venice.showing(made["apiKey"]).get(RATES).status_code == 200
    assert venice.create(apiKeyType="ADMIN")["apiKey"].startswith("VENICE_ADMIN_KEY_")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"apiKeyType": "OWNER"}, "apiKeyType"),
        ({"apiKeyType": None}, "apiKeyType"),
        ({"description": "x" * 65}, "description"),
        ({"description": " "}, "description"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
        ({"expiresAt": "2031-02-30"}, "expiresAt"),
        ({"expiresAt": "2031-06-01T00:00:00+01:00"}, "expiresAt"),
        ({"expiresAt": "2020-01-01"}, "expiresAt"),
        ({"consumptionLimit": {"usd": -1}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"usd": "5"}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"diem": 10_000_000_000}}, "consumptionLimit.diem"),
        ({"consumptionLimit": {"usd": 9999999999.5}}, "consumptionLimit.usd"),
        ({"consumptionLimit": {"vcu": True}}, "consumptionLimit.vcu"),
        ({"consumptionLimit": {"eur": 1}}, "consumptionLimit.eur"),
        ({"limitPeriod": "WEEK"}, "limitPeriod"),
        ({"modelPrivacy": "SOME"}, "modelPrivacy"),
        ({"name": "x"}, "name"),
    ],
)
def test_bodies_are_closed_and_say_which_field_is_wrong(
    venice: Venice, change: dict[str, Any], field: str
) -> None:
    """A wrong or unknown field is a 400 with `details`, nested by the field's name."""
    said = venice.create(400, **change)
    assert said["error"] == "Invalid request parameters"
    found = said["details"]
    for part in field.split("."):
        assert found["_errors"] == []
        found = found[part]
    assert len(found["_errors"]) == 1
    assert set(found) == {"_errors"}


def test_v4_each_field_is_patched_alone(venice: Venice) -> None:
    """V4: description, expiresAt, consumptionLimit (and period, privacy): all others stay."""
    made = venice.create(consumptionLimit={"usd": 5, "diem": 3}, expiresAt="2031-01-01")
    expected = {name: value for name, value in venice.details(made).items() if name in ROW}
    usd = {"usd": 7.5, "diem": 3, "vcu": None}
    changes = [
        ({"description": "Updated"}, {"description": "Updated"}),
        ({"expiresAt": "2032-02-03T04:05:06.789Z"}, {"expiresAt": "2032-02-03T04:05:06.789Z"}),
        ({"consumptionLimit": {"usd": 7.5}}, {"consumptionLimits": usd}),
        ({"consumptionLimit": {}}, {}),
        ({"limitPeriod": "LIFETIME"}, {"limitPeriod": "LIFETIME"}),
        ({"modelPrivacy": "PRIVATE_ONLY"}, {"modelPrivacy": "PRIVATE_ONLY"}),
        ({"consumptionLimit": {"diem": None}}, {"consumptionLimits": {**usd, "diem": None}}),
        ({"consumptionLimit": {"vcu": 9}}, {"consumptionLimits": {**usd, "diem": 9}}),
        ({"expiresAt": ""}, {"expiresAt": None}),
        ({"modelPrivacy": "ALL"}, {"modelPrivacy": "ALL"}),
    ]
    for change, effect in changes:
        answered = venice.patch(made, **change)
        expected.update(effect)
        assert answered == {"success": True, "data": expected}
        assert {k: v for k, v in venice.details(made).items() if k in ROW} == expected
    assert venice.patch(made, expiresAt="2031-01-01")["data"]["expiresAt"] is not None
    assert venice.patch(made, expiresAt=None)["data"]["expiresAt"] is None


def test_v4_what_cannot_be_patched_is_refused(venice: Venice) -> None:
    """V4: another type, an unknown field, an unknown key: 400."""
    made = venice.create()
    for change in ({"apiKeyType": "ADMIN"}, {"apiKey": "x"}, {"consumptionLimit": None}):
        said = venice.patch(made, 400, **change)
        assert said["error"] == "Invalid request parameters"
    for absent in (NOWHERE, "nonsense"):
        said = venice.patch({"id": absent}, 400, description="x")
        assert said == {"error": "API key not found or expired"}
    assert venice.session.patch(KEYS, json={"description": "x"}).json()["details"]["id"]


def test_v5_a_revoked_key_is_refused_at_once(venice: Venice) -> None:
    """V5: refused from the next request on; again, or unknown, is a 400."""
    client, admin = venice.client(), venice.admin()
    assert client.get(RATES).status_code == 200
    done = admin.delete(KEYS, params={"id": client.key["id"]})
    assert (done.status_code, done.json()) == (200, {"success": True})
    assert client.get(RATES).json() == {"error": "Authentication failed"}
    for absent in (client.key["id"], NOWHERE, "nonsense"):
        again = admin.delete(KEYS, params={"id": absent})
        assert (again.status_code, again.json()) == (400, {"error": "API key could not be found"})
    gone = admin.get(f"{KEYS}/{client.key['id']}")
    assert (gone.status_code, gone.json()) == (400, {"error": "API key not found"})


def test_v5_the_body_may_name_the_key(venice: Venice) -> None:
    """V5: `DELETE` takes `?id=` or `{"id": …}`; two that differ, or none, are refused."""
    made, other = venice.create(), venice.create()
    session = venice.session
    path = f"{KEYS}?id={other['id']}"
    assert session.request("DELETE", path, json={"id": made["id"]}).status_code == 400
    assert session.delete(KEYS).json()["details"]["id"]["_errors"] == ["is required"]
    assert session.request("DELETE", KEYS, json={"id": made["id"], "x": 1}).status_code == 400
    assert session.request("DELETE", KEYS, json={"id": made["id"]}).json() == {"success": True}
    assert [row["id"] for row in session.get(KEYS).json()["data"]] == [other["id"]]


def test_v5_of_many_at_once_one_revokes(venice: Venice) -> None:
    """V5: sixteen clients revoke one key; one is told that it did."""
    made = venice.create()
    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(venice.session.delete, KEYS, params={"id": made["id"]}) for _ in range(16)
        ]
        found = Counter(each.result().status_code for each in asked)
    assert found == {200: 1, 400: 15}


def test_promise_15_another_accounts_key_is_as_absent_as_none(venice: Venice, opens: Opens) -> None:
    """Promise 15: same status, same words, for another's key as for one that never was."""
    stranger = opens()
    made = venice.create()
    for method, path, body in (
        ("GET", f"{KEYS}/{{}}", None),
        ("DELETE", f"{KEYS}?id={{}}", None),
        ("PATCH", KEYS, {"id": "{}", "description": "mine"}),
    ):
        replies = []
        for key_id in (made["id"], NOWHERE):
            filled = body and {**body, "id": key_id}
            found = stranger.session.request(method, path.format(key_id), json=filled)
            replies.append((found.status_code, found.json()))
        assert replies[0] == replies[1]
        assert replies[0][0] == 400
    assert venice.details(made)["description"] == "a key"


def test_v6_details_are_the_ledgers_own_numbers(venice: Venice) -> None:
    """V6: usage in strings of four places, equal to the native reports; limits and expiry."""
    venice.grant("DIEM", "0.0015")
    made = venice.create(consumptionLimit={"usd": 2, "diem": 1}, expiresAt="2031-01-01")
    for number in range(5):
        assert venice.record(made, f"r{number}", usage={"input": 1234}).status_code == 200
    shown = venice.details(made)
    path = f"/ledger/v1/accounts/{venice.account_id}/spend?group_by=key"
    lines = venice.operator.get(path).json()["data"]
    spent = {line["asset"]: Decimal(line["amount"]) for line in lines}
    assert sum(spent.values()) == Decimal("0.00617")
    assert spent["DIEM"] == Decimal("0.0015")
    strings = {"usd": "0.0047", "diem": "0.0015"}
    assert shown["usage"] == {"trailingSevenDays": {**strings, "vcu": "0.0000"}}
    assert shown["currentPeriodUsage"] == strings
    assert shown["expiresAt"] == "2031-01-01T00:00:00.000Z"
    assert is_milliseconds(shown["lastUsedAt"])
    assert set(shown) == ROW | {"usage", "currentPeriodUsage"}
    listed = venice.session.get(KEYS).json()["data"]
    assert listed == [shown]


def test_v6_a_cap_that_is_set_later_finds_what_was_spent(venice: Venice) -> None:
    """V6, V12: a cap set late, or moved to another period, counts what the period has seen."""
    made = venice.create()
    assert venice.record(made, "r1").status_code == 200
    assert "currentPeriodUsage" not in venice.details(made)
    venice.patch(made, consumptionLimit={"usd": 0.0015})
    assert venice.details(made)["currentPeriodUsage"] == {"usd": "0.0010", "diem": "0.0000"}
    assert venice.record(made, "r2").status_code == 429
    for period in ("MONTH", "LIFETIME", "EPOCH"):
        venice.patch(made, limitPeriod=period)
        assert venice.details(made)["currentPeriodUsage"]["usd"] == "0.0010"
        assert venice.record(made, f"r-{period}").status_code == 429
    venice.patch(made, consumptionLimit={"usd": 0.002})
    assert venice.record(made, "r3").status_code == 200


# Limits of an account.


def test_v10_twenty_keys_a_minute(opens: Opens) -> None:
    """V10: of 30 creations at once 20 are made; the others are a 429; per account."""
    venice = opens("key_creations")
    body = {"apiKeyType": "INFERENCE", "description": "x"}
    clients = [venice.showing(venice.token) for _ in range(30)]
    found = together(30, lambda number: clients[number].post(KEYS, json=body))
    assert Counter(reply.status_code for reply in found) == {200: 20, 429: 10}
    refused = next(reply for reply in found if reply.status_code == 429)
    assert refused.json() == {"error": "Rate limit exceeded"}
    assert 1 <= int(refused.headers["Retry-After"]) <= 62
    assert opens("key_creations").create()


def test_v11_five_hundred_active_keys(opens: Opens) -> None:
    """V11: at 495 active keys, 20 creations at once make exactly 5; the 501st is a 400."""
    venice = opens("active_keys")
    clients = [venice.showing(venice.token) for _ in range(20)]
    body = {"apiKeyType": "INFERENCE", "description": "x"}

    def make(number: int) -> None:
        for _ in range(number, 495, 20):
            assert clients[number].post(KEYS, json=body).status_code == 200

    together(20, make)
    found = together(20, lambda number: clients[number].post(KEYS, json=body))
    assert Counter(reply.status_code for reply in found) == {200: 5, 400: 15}
    refused = next(reply for reply in found if reply.status_code == 400)
    assert refused.json() == {"error": "API key limit reached"}
    rows = venice.session.get(KEYS).json()["data"]
    assert len(rows) == 500
    assert venice.session.delete(KEYS, params={"id": rows[0]["id"]}).status_code == 200
    venice.create()
    venice.create(400)


# What a key may still do.


def test_v7_a_key_sees_balances_and_tiers(venice: Venice) -> None:
    """V7: the current key's own; balances are the account's, or what a cap leaves of them."""
    client = venice.client(consumptionLimit={"usd": 2, "diem": 100}, expiresAt="2031-01-01")
    venice.grant("DIEM", "10.5")
    venice.grant("BUNDLED_CREDITS", "1.25")
    asked = client.get(RATES)
    assert asked.status_code == 200, asked.text
    data = asked.json()["data"]
    assert set(asked.json()) == {"data"}
    assert data["accessPermitted"] is True
    assert data["apiTier"] == {"id": "paid", "isCharged": True}
    assert data["balances"] == {"USD": 2, "DIEM": 10.5, "BUNDLED_CREDITS": 1.25}
    assert data["keyExpiration"] == "2031-01-01T00:00:00.000Z"
    tomorrow = (clock.now() + timedelta(days=1)).date()
    assert data["nextEpochBegins"] == f"{tomorrow}T00:00:00.000Z"
    tiers = {each["apiModelId"]: each["rateLimits"] for each in data["rateLimits"]}
    assert tiers == {
        SMALL: [{"amount": 500, "type": "RPM"}, {"amount": 1_000_000, "type": "TPM"}],
        LARGE: [{"amount": 50, "type": "RPM"}, {"amount": 750_000, "type": "TPM"}],
        EMBEDDING: [{"amount": 500, "type": "RPM"}, {"amount": 1_000_000, "type": "TPM"}],
    }
    # 10.5 DIEM and 1.25 bundled are spent first: 1.75 of the cap of 2 is left beyond them.
    assert venice.record(client.key, "r1", usage={"input": 11_000_000}).status_code == 200
    left = client.get(RATES).json()["data"]["balances"]
    assert left == {"USD": 1.5, "DIEM": 0, "BUNDLED_CREDITS": 0.75}


def test_v7_a_key_with_nothing_left_may_not_ask(venice: Venice) -> None:
    """V7: `usd: 0` forbids spending USD; without anything else the key is of no use."""
    client = venice.client(consumptionLimit={"usd": 0})
    data = client.get(RATES).json()["data"]
    assert data["accessPermitted"] is False
    assert data["balances"] == {"USD": 0, "DIEM": 0}
    assert data["keyExpiration"] is None
    venice.grant("DIEM", "1")
    assert client.get(RATES).json()["data"]["accessPermitted"] is True
    assert venice.record(client.key, "r1").status_code == 200
    assert venice.record(client.key, "r2", usage={"input": 1_000_000}).status_code == 422


def test_v7_a_session_sees_its_own(venice: Venice) -> None:
    """V7: a session may stand where a key does; nothing caps it."""
    assert venice.session.get(RATES).json()["data"]["balances"] == {"USD": 5, "DIEM": 0}


def test_v8_the_last_fifty_breaches(venice: Venice) -> None:
    """V8: of 60 caused 50 are listed: newest first, the right key, model and type; own alone."""
    admin, busy, other = venice.admin(), venice.client(), venice.client()
    usage = {"input": 1}
    for number in range(50):
        assert venice.record(busy.key, f"ok{number}", model=LARGE, usage=usage).status_code == 200
    assert venice.record(other.key, "large", model=LARGE, usage={"input": 750_001}).status_code in {
        422,
        429,
    }
    for number in range(60):
        refused = venice.record(busy.key, f"no{number}", model=LARGE, usage=usage)
        assert refused.status_code == 429, refused.text
    log = admin.get(f"{RATES}/log")
    assert log.status_code == 200, log.text
    assert set(log.json()) == {"object", "data"}
    rows = log.json()["data"]
    assert len(rows) == 50
    assert all(is_milliseconds(row["timestamp"]) for row in rows)
    assert [row["timestamp"] for row in rows] == sorted(
        (row["timestamp"] for row in rows), reverse=True
    )
    expected = {
        "apiKeyId": busy.key["id"],
        "modelId": LARGE,
        "rateLimitTier": "paid",
        "rateLimitType": "RPM",
    }
    assert all({k: v for k, v in row.items() if k != "timestamp"} == expected for row in rows)


def test_v8_each_type_of_breach(venice: Venice, opens: Opens) -> None:
    """V8: tokens, requests and failures by their names; spending is none of them; tenants apart."""
    admin, client = venice.admin(), venice.client()
    tokens = {"input": 400_000}
    assert venice.record(client.key, "a", model=LARGE, usage=tokens).status_code == 200
    assert venice.record(client.key, "b", model=LARGE, usage={"input": 90_000}).status_code == 200
    assert venice.record(client.key, "c", model=LARGE, usage=tokens).status_code == 429
    venice.patch(client.key, consumptionLimit={"usd": 1})
    assert venice.record(client.key, "d", usage={"input": 200_000}).status_code == 429
    rows = admin.get(f"{RATES}/log").json()["data"]
    assert [(row["rateLimitType"], row["modelId"]) for row in rows] == [("TPM", LARGE)]
    assert opens().admin().get(f"{RATES}/log").json() == {"object": "list", "data": []}
    for refused in (venice.session, client):
        found = refused.get(f"{RATES}/log")
        assert found.status_code == 401


def test_v8_a_breach_is_named_by_its_window(venice: Venice) -> None:
    """V8: what counts over a day or longer is no limit a minute; what has no word is not listed."""
    admin = venice.admin()
    rules = {
        ("requests", "rolling:60"): "RPM",
        ("requests", "rolling:3600"): "RPM",
        ("requests", "rolling:86400"): "RPD",
        ("requests", "day"): "RPD",
        ("requests", "month"): "RPD",
        ("requests", "lifetime"): "RPD",
        ("tokens", "rolling:60"): "TPM",
        ("tokens", "rolling:3600"): "TPM",
        ("tokens", "day"): "RPD",
        ("tokens", "lifetime"): "RPD",
    }
    listed = []
    for kind, window in rules:
        limit = {"kind": kind, "window": window, "ceiling": "1"}
        body = {"name": window, "dialect": "venice", "limits": [limit]}
        path = f"/ledger/v1/accounts/{venice.account_id}/keys"
        key = venice.operator.post(path, json=body).json()
        usage = {"key_id": key["key_id"], "model": SMALL, "usage": {"input": 1}}
        for number, status in ((1, 200), (2, 429)):
            asked = {**usage, "request_id": f"{kind}-{window}-{number}"}
            assert venice.operator.post("/ledger/v1/usage", json=asked).status_code == status
        shown = venice.showing(key["secret"]).get(RATES).json()["data"]["rateLimits"]
        listed += [rate["type"] for rate in shown[0]["rateLimits"]]
    rows = admin.get(f"{RATES}/log").json()["data"]
    assert [row["rateLimitType"] for row in reversed(rows)] == list(rules.values())
    assert listed == ["RPM", "RPD", "RPD", "TPM"]


def test_after_twenty_failures_the_next_request_is_too_many(venice: Venice) -> None:
    """20 failed requests are answered each as it failed; then the key waits, and it is logged."""
    client, admin = venice.client(), venice.admin()
    for _ in range(20):
        assert client.get(KEYS).json() == {"error": "Admin API key required"}
    for path in (KEYS, RATES):
        blocked = client.get(path)
        assert blocked.status_code == 429
        assert blocked.json() == {
            "error": "Too many failed attempts (> 20) resulting in a non-success status code."
            " Please wait 30 seconds and try again."
        }
        assert 1 <= int(blocked.headers["Retry-After"]) <= 32
    rows = admin.get(f"{RATES}/log").json()["data"]
    assert [(row["rateLimitType"], row["apiKeyId"]) for row in rows] == [
        ("FAILED_REQUESTS", client.key["id"])
    ] * 2


def test_nineteen_failures_are_not_too_many(venice: Venice) -> None:
    """After 19 failed requests the key still works; another key is not held to them."""
    client, other = venice.client(), venice.client()
    for _ in range(19):
        assert client.patch(KEYS, content=b"{").status_code == 401
    assert client.get(RATES).status_code == 200
    assert client.get(KEYS).status_code == 401
    assert client.get(RATES).status_code == 429
    assert other.get(RATES).status_code == 200


def test_failures_count_over_many_at_once(venice: Venice) -> None:
    """Of 60 failing requests at once 20 fail each in its own way, and few events tell of all."""
    client, admin = venice.client(), venice.admin()
    found = together(60, lambda _: client.get(KEYS).status_code)
    assert Counter(found) == {401: 20, 429: 40}
    assert len(admin.get(f"{RATES}/log").json()["data"]) == 40
    path = f"/ledger/v1/accounts/{venice.account_id}/events"
    events = venice.operator.get(path).json()["data"]
    refused = [event["payload"] for event in events if event["type"] == "request_refused"]
    failed = [each for each in refused if each["reason"] == "request_failed"]
    assert len(failed) == 20
    assert sum(each.get("count", 1) for each in refused) == 60
    assert len(refused) <= 24


def test_a_key_without_that_limit_may_fail_as_it_likes(venice: Venice) -> None:
    """A key that the operator issued has the limits that it was given, and no others."""
    body = {"name": "bot", "dialect": "venice", "settings": {"apiKeyType": "ADMIN"}}
    path = f"/ledger/v1/accounts/{venice.account_id}/keys"
    made = venice.operator.post(path, json=body).json()
    assert made["secret"].startswith("VENICE_ADMIN_KEY_")
    client = venice.showing(made["secret"])
    for _ in range(30):
        assert client.get(f"{KEYS}/nothing").status_code == 400
    (row,) = client.get(KEYS).json()["data"]
    assert (row["apiKeyType"], row["limitPeriod"]) == ("ADMIN", "EPOCH")
    assert row["consumptionLimits"] == NO_LIMITS
    changed = venice.patch(row, consumptionLimit={"usd": 1})
    assert changed["data"]["consumptionLimits"] == {**NO_LIMITS, "usd": 1}


def test_v12_a_cap_holds_under_concurrency(venice: Venice) -> None:
    """V12: 64 requests of 0.001 at once under a cap of 0.01: ten; held ones count as well."""
    client = venice.client(consumptionLimit={"usd": 0.01}, limitPeriod="MONTH")
    found = together(64, lambda number: venice.record(client.key, f"r{number}").status_code)
    assert Counter(found) == {200: 10, 429: 54}
    assert venice.details(client.key)["currentPeriodUsage"] == {"usd": "0.0100", "diem": "0.0000"}
    # 54 requests were refused: the key waits now, whatever it asks.
    assert client.get(RATES).status_code == 429
