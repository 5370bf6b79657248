"""Accounts, keys, credit, prices and reports over HTTP."""

from typing import Any

import msgspec
import pytest

from api import native
from api.http import openapi
from api.http.surface import application
from api.native.asking import Ask
from ledger import secrets


def test_promise_11_a_secret_is_shown_once_and_never_replayed(world: Any) -> None:
    """Promise 11, G4: the reply that made a key has its secret; a replay has the rest of it."""
    account = world.account()
    body = {"name": "bot", "dialect": "bve"}
    first = world.post(f"/accounts/{account}/keys", body, 201, Idempotency_Key="k")
    again = world.post(f"/accounts/{account}/keys", body, 201, Idempotency_Key="k")
    assert secrets.recognise(first["secret"]) is not None
    assert again == {**first, "secret": None}
    for path in (f"/keys/{first['key_id']}", f"/accounts/{account}/keys"):
        shown = world.client.get(f"/ledger/v1{path}").text
        assert not secrets.is_in(shown)
    events = world.client.get(f"/ledger/v1/accounts/{account}/events").text
    assert not secrets.is_in(events)


def test_the_answer_with_a_secret_is_not_to_be_stored(world: Any) -> None:
    """ASVS 14.3.2: no cache keeps a secret."""
    account = world.account()
    body = {"name": "bot", "dialect": "foil"}
    found = world.client.post(f"/ledger/v1/accounts/{account}/keys", json=body)
    assert found.headers["Cache-Control"] == "no-store"


def test_an_account_opened_twice_under_one_key_is_one_account(world: Any) -> None:
    """D5: `Idempotency-Key` holds for opening too, though the account is not there yet."""
    first = world.post("/accounts", {"name": "Once"}, 201, Idempotency_Key="open-once")
    assert world.post("/accounts", {"name": "Once"}, 201, Idempotency_Key="open-once") == first
    other = world.post("/accounts", {"name": "Twice"}, 422, Idempotency_Key="open-once")
    assert other["code"] == "idempotency_key_is_taken"
    assert first["balances"][0]["balance"] == "5"


def test_one_idempotency_key_serves_two_accounts(world: Any) -> None:
    """Keys are per account: two customers may choose the same one."""
    made = [
        world.post(f"/accounts/{world.account()}/grants", grant, 201, Idempotency_Key="g")
        for grant in ({"amount": "1", "asset": "USD"}, {"amount": "2", "asset": "USD"})
    ]
    assert [grant["amount"] for grant in made] == ["1", "2"]


def test_if_match_guards_against_a_lost_update(world: Any) -> None:
    """A change of an older version is 412; without If-Match it is taken."""
    key = world.key(world.account())
    path = f"/ledger/v1/keys/{key['key_id']}"
    etag = world.client.get(path).headers["ETag"]
    headers = {"If-Match": etag}
    assert world.client.patch(path, json={"name": "b"}, headers=headers).status_code == 200
    assert world.client.patch(path, json={"name": "c"}, headers=headers).status_code == 412
    assert world.client.patch(path, json={"name": "d"}).json()["name"] == "d"


def test_rotation_keeps_the_key_its_limits_and_its_credit(world: Any) -> None:
    """A16, A17, G3: another secret of the same key; what was used stays used; grace is kept."""
    rule = {"kind": "requests", "window": "lifetime", "ceiling": "2"}
    key = world.key(world.account(), limits=[rule])
    world.record(key, "r1")
    rotated = world.post(f"/keys/{key['key_id']}/rotate", {"grace_seconds": 60})
    assert rotated["key_id"] == key["key_id"]
    assert rotated["secret"] != key["secret"]
    assert rotated["limits"][0]["used"] == "1"
    for secret in (key["secret"], rotated["secret"]):
        assert world.post("/keys/verify", {"secret": secret})["valid"]
    world.post(f"/keys/{key['key_id']}/rotate")
    retired = world.post("/keys/verify", {"secret": rotated["secret"]})
    assert (retired["code"], retired["reason"]) == ("EXPIRED", "secret_is_retired")


@pytest.mark.parametrize(
    ("secret", "code"),
    [("", "NOT_FOUND"), ("ryv_x", "NOT_FOUND"), ("\u00e9" * 50, "NOT_FOUND")],
)
def test_what_is_no_secret_verifies_as_unknown(world: Any, secret: str, code: str) -> None:
    """A mistyped secret is told as an unknown one."""
    assert world.post("/keys/verify", {"secret": secret})["code"] == code


def test_verify_says_why_a_key_is_no_good(world: Any) -> None:
    """Suspended keys, suspended accounts, missing scopes and models have their codes."""
    account = world.account()
    key = world.key(account, scopes=["read"], allowed_models=["m"])
    ask = {"secret": key["secret"]}
    assert world.post("/keys/verify", ask)["code"] == "VALID"
    denied = world.post("/keys/verify", {**ask, "scope": "write"})
    assert denied["code"] == "INSUFFICIENT_PERMISSIONS"
    assert world.post("/keys/verify", {**ask, "model": "n"})["code"] == "FORBIDDEN"
    world.post(f"/keys/{key['key_id']}/suspend")
    assert world.post("/keys/verify", ask)["reason"] == "key_is_suspended"
    world.post(f"/keys/{key['key_id']}/resume")
    world.post(f"/accounts/{account}/suspend", {"reason": "Unpaid"})
    assert world.post("/keys/verify", ask)["reason"] == "account_is_suspended"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount": "1e5", "asset": "USD"}, "amount"),
        ({"amount": "-1", "asset": "USD"}, "amount"),
        ({"amount": "0", "asset": "USD"}, "amount"),
        ({"amount": 1, "asset": "USD"}, "amount"),
        ({"amount": "1", "asset": "usd"}, "asset"),
        ({"amount": "1", "asset": "USD", "kind": "gift"}, "kind"),
        ({"amount": "1", "asset": "USD", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ],
    ids=str,
)
def test_a_wrong_grant_names_its_field(world: Any, body: dict[str, Any], field: str) -> None:
    """Amounts are plain decimal strings; nothing is guessed."""
    found = world.post(f"/accounts/{world.account()}/grants", body, 400)
    assert found["errors"][0]["field"] == field


def test_credit_is_granted_voided_and_adjusted(world: Any) -> None:
    """What is granted, voided and taken away adds up, and each is listed."""
    account = world.account(welcome=False)
    lot = world.post(f"/accounts/{account}/grants", {"amount": "3", "asset": "USD"}, 201)["lot"]
    adjustment = {"amount": "-1.25", "asset": "USD", "reason": "Refund"}
    found = world.post(f"/accounts/{account}/adjustments", adjustment, 201)
    assert found["balances"][0]["balance"] == "1.75"
    too_much = {**adjustment, "amount": "-2"}
    assert world.post(f"/accounts/{account}/adjustments", too_much, 402)["available"] == "1.75"
    world.post(f"/accounts/{account}/grants/{lot}/void", {"reason": "Mistake"})
    listed = world.get(f"/accounts/{account}/grants")["data"]
    assert [(grant["lot"], grant["status"]) for grant in listed] == [(lot, "voided")]
    assert world.post(f"/accounts/{account}/grants/{lot}/void", None, 404)


def test_promise_7_spend_adds_up_however_it_is_cut(world: Any) -> None:
    """Promise 7, E2: any grouping of a range sums to the whole of it, to the last digit."""
    account = world.account()
    keys = [world.key(account, name=name) for name in ("a", "b")]
    for number in range(6):
        model = "m" if number % 3 else "free"
        world.record(keys[number % 2], f"r{number}", model=model, usage={"input": number})

    def total(group_by: str) -> tuple[int, str]:
        lines = world.get(f"/accounts/{account}/spend?group_by={group_by}")["data"]
        micro = sum(round(1e6 * 1e6 * float(line["amount"])) for line in lines)
        return sum(line["requests"] for line in lines), str(micro)

    totals = {total(group) for group in ("", "model", "integration,model", "day,key,model")}
    assert totals == {(6, str(12 * 10**6))}


def test_events_are_listed_newest_first_without_a_gap(world: Any) -> None:
    """Promise 2: an account's versions are 1, 2, 3 …, page by page."""
    account = world.account()
    key = world.key(account)
    for number in range(5):
        world.record(key, f"r{number}")
    versions, after = [], ""
    while True:
        page = world.get(f"/accounts/{account}/events?limit=3{after}")
        versions += [event["version"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['next']}"
    assert versions == list(range(len(versions), 0, -1))
    assert len(versions) == 8
    wrong = world.client.get(f"/ledger/v1/accounts/{account}/events?after=999999")
    assert wrong.status_code == 400


def test_a_lane_is_a_feed(world: Any) -> None:
    """Promise 2: a lane's positions are read 1, 2, 3 … and each again by its position."""
    world.account()
    lane = next(lane for lane in world.get("/lanes") if lane["seq"])
    page = world.get(f"/lanes/{lane['lane']}/events?limit=1000")
    seqs = [event["position"]["seq"] for event in page["data"]]
    assert seqs == list(range(1, len(seqs) + 1))
    assert world.get(f"/lanes/{lane['lane']}/events/1") == page["data"][0]


def test_keys_and_accounts_are_paged(world: Any) -> None:
    """Every key is on exactly one page, newest first."""
    account = world.account()
    made = [world.key(account)["key_id"] for _ in range(5)]
    seen, after = [], ""
    while True:
        page = world.get(f"/accounts/{account}/keys?limit=2{after}")
        seen += [key["key_id"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['next']}"
    assert seen == made[::-1]
    assert any(found["account_id"] == account for found in world.get("/accounts")["data"])


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=x", "other=1"])
def test_a_wrong_query_is_400(world: Any, query: str) -> None:
    """F6: a parameter that would be ignored is refused."""
    account = world.account()
    found = world.client.get(f"/ledger/v1/accounts/{account}/keys?{query}")
    assert found.status_code == 400
    assert found.json()["errors"][0]["field"] == query.partition("=")[0]


def test_rate_cards_are_versions(world: Any) -> None:
    """Promise 10, I6: what is published stays; what looks like a mistake must be confirmed."""
    card = {"name": "house", "asset": "USD", "models": {"h": {"prices": {"input": "1"}}}}
    assert world.post("/rate-cards", card, 201)["version"] == 1
    again = world.post("/rate-cards", {**card, "source": "again"}, 201)
    assert (again["version"], again["published"]) == (1, False)
    dear = {**card, "models": {"h": {"prices": {"input": "100"}}}}
    refused = world.post("/rate-cards", dear, 409)
    assert refused["code"] == "prices_are_suspicious"
    assert "input of h from 1 to 100" in refused["reasons"][0]
    tried = world.post("/rate-cards", {**dear, "dry_run": True}, 200)
    assert (tried["published"], tried["recorded_at"]) == (False, None)
    assert tried["reasons"] == refused["reasons"]
    done = world.post("/rate-cards", {**dear, "confirm": True}, 201)
    assert done["published"]
    assert [(c["old"], c["new"]) for c in done["changes"]] == [("1", "100")]
    version = done["version"]
    change = world.get(f"/rate-cards/house/diff?from=1&to={version}")[0]
    assert (change["old"], change["new"]) == ("1", "100")
    assert world.get("/rate-cards/house")["version"] == version
    assert world.get("/rate-cards/house/versions/1")["models"]["h"]["prices"]["input"] == "1"
    wrong = {**card, "models": {"h": {"prices": {"inputs": "1"}}}}
    found = world.post("/rate-cards", wrong, 400)
    assert found["errors"][0]["field"] == "models.h.prices.inputs"


def test_publishing_says_how_many_accounts_lose_a_price(world: Any) -> None:
    """Those that used the model in the last 30 days are counted, by the card they are priced by."""
    models = {name: {"prices": {"input": "1"}} for name in ("kept", "gone", "unused")}
    card = {"name": "counted", "asset": "USD", "models": models}
    world.post("/rate-cards", card, 201)
    for used in (["gone", "gone"], ["gone", "kept"], ["kept"]):
        key = world.key(world.account(rate_card="counted"), dialect="bve")["key_id"]
        for number, model in enumerate(used):
            body = {"request_id": f"r{number}", "key_id": key, "model": model}
            world.post("/usage", {**body, "usage": {"input": 1}}, 200)
    less = {**card, "models": {"kept": models["kept"]}}
    stays = world.post("/rate-cards", {**less, "dry_run": True}, 200)
    assert (stays["accounts_losing_a_price"], stays["models"]) == (0, 3)
    refused = world.post("/rate-cards", {**less, "replace": True}, 409)
    assert refused["reasons"] == [
        "2 names would have no price: gone, unused.",
        "2 accounts have used a model in the last 30 days that loses a price.",
    ]
    done = world.post("/rate-cards", {**less, "replace": True, "confirm": True}, 201)
    assert (done["accounts_losing_a_price"], done["models"]) == (2, 1)


def test_past_prices_are_not_published(world: Any) -> None:
    """What had a price in the past keeps it, and the answer names what would change them."""
    card = {"name": "past", "asset": "USD", "models": {"h": {"prices": {"input": "1"}}}}
    first = {**card, "effective_from": "2020-01-01T00:00:00Z"}
    world.post("/rate-cards", first, 201)
    dearer = {**card, "models": {"h": {"prices": {"input": "2"}}}}
    refused = world.post("/rate-cards", {**dearer, "effective_from": "2021-01-01T00:00:00Z"}, 400)
    assert refused["errors"][0]["field"] == "effective_from"
    assert "re-rating" in refused["detail"]
    more = {**card, "models": {"i": {"prices": {"input": "3"}}}}
    world.post("/rate-cards", {**more, "effective_from": "2021-01-01T00:00:00Z"}, 201)
    asked = "/rate-cards/past?as_of=2020-06-01T00:00:00Z"
    assert list(world.get(asked)["models"]) == ["h"]
    assert list(world.get("/rate-cards/past")["models"]) == ["h", "i"]


UNKNOWN = "USDD"
SPEND = {"kind": "spend", "window": "month", "ceiling": "1", "assets": [UNKNOWN]}


@pytest.mark.parametrize(
    ("method", "place", "body", "field"),
    [
        ("POST", "/accounts", {"name": "n", "pays_with": [UNKNOWN]}, "pays_with"),
        ("POST", "/accounts", {"name": "n", "overdraft": {UNKNOWN: "1"}}, "overdraft"),
        ("POST", "/accounts", {"name": "n", "limits": [SPEND]}, "limits[0].assets"),
        ("PATCH", "{account}", {"pays_with": ["USD", UNKNOWN]}, "pays_with"),
        ("PUT", "{account}/limits", {"limits": [SPEND]}, "limits[0].assets"),
        ("POST", "{account}/grants", {"amount": "1", "asset": UNKNOWN}, "asset"),
        (
            "POST",
            "{account}/adjustments",
            {"amount": "1", "asset": UNKNOWN, "reason": "r"},
            "asset",
        ),
        ("PUT", "{account}/allowances/USDD", {"amount": "1"}, "asset"),
        (
            "POST",
            "{account}/keys",
            {"name": "k", "dialect": "bve", "limits": [SPEND]},
            "limits[0].assets",
        ),
        ("POST", "/rate-cards", {"name": "typo", "asset": UNKNOWN, "models": {}}, "asset"),
        (
            "POST",
            "/rate-cards",
            {"name": "typo", "asset": UNKNOWN, "models": {}, "dry_run": True},
            "asset",
        ),
    ],
)
def test_an_asset_that_nobody_declared_is_refused(
    world: Any, method: str, place: str, body: dict[str, Any], field: str
) -> None:
    """A slip of the pen makes no currency, at any door that brings one in."""
    path = "/ledger/v1" + place.replace("{account}", f"/accounts/{world.account()}")
    found = world.client.request(method, path, json=body)
    assert found.status_code == 400, found.text
    (error,) = found.json()["errors"]
    assert error["field"] == field
    assert "USDD is not a known asset" in error["problem"]


def test_what_can_pay_for_nothing_is_not_spendable(world: Any) -> None:
    """It is in the balance; it is spendable where the account pays with it or prices are in it."""
    account = world.account()
    for asset in ("USD", "CAD", "ISK"):
        grant = {"amount": "5", "asset": asset}
        world.post(f"/accounts/{account}/grants", grant, 201)
    card = {"name": "canadian", "asset": "CAD", "models": {"h": {"prices": {"input": "1"}}}}
    world.post("/rate-cards", card, 201)

    def shown() -> dict[str, tuple[str, str]]:
        balances = world.get(f"/accounts/{account}/balances")["balances"]
        return {each["asset"]: (each["balance"], each["spendable"]) for each in balances}

    assert shown()["ISK"] == ("5", "0")
    assert shown()["CAD"] == ("5", "5")
    assert shown()["USD"][0] == shown()["USD"][1]
    changed = world.client.patch(
        f"/ledger/v1/accounts/{account}", json={"pays_with": ["USD", "ISK"]}
    )
    assert changed.status_code == 200, changed.text
    assert shown()["ISK"] == ("5", "5")


def test_price_tables_of_others_are_imported_exactly(world: Any) -> None:
    """LiteLLM's price per token becomes a price per million without passing a float."""
    data = {"x": {"input_cost_per_token": 7.5e-08, "output_cost_per_token": 3e-07}}
    body = {"source": "litellm", "name": "lite", "data": data}
    world.post("/rate-cards/import", body, 201)
    prices = world.get("/rate-cards/lite")["models"]["x"]["prices"]
    assert prices == {"input": "0.075", "output": "0.3"}


def test_accounts_are_changed_suspended_and_closed(world: Any) -> None:
    """Terms and limits are replaced, a suspended account's keys stop, a closed one stays closed."""
    account = world.account()
    key = world.key(account)
    path = f"/ledger/v1/accounts/{account}"
    changed = world.client.patch(path, json={"name": "Acme Ltd", "overdraft": {"USD": "1"}}).json()
    assert (changed["name"], changed["overdraft"]) == ("Acme Ltd", {"USD": "1"})
    limits = {"limits": [{"kind": "spend", "window": "day", "ceiling": "0.001"}]}
    assert world.client.put(f"{path}/limits", json=limits).json()["limits"][0]["used"] == "0"
    world.record(key, "r1")
    assert world.record(key, "r2", 429)["scope"] == "account"
    world.post(f"/accounts/{account}/suspend")
    assert world.record(key, "r3", 403)["code"] == "account_is_suspended"
    world.post(f"/accounts/{account}/resume")
    world.post(f"/accounts/{account}/close", {"reason": "Left"})
    assert world.post(f"/accounts/{account}/resume", None, 409)["code"] == "account_is_closed"


def test_the_longest_answer_of_an_account_is_the_operators_to_say(world: Any) -> None:
    """Left out it stays, 0 lifts it, and what is no such number is refused by its name."""
    account = world.account(max_output_tokens=900)

    def change(**terms: Any) -> Any:
        return world.client.patch(f"/ledger/v1/accounts/{account}", json=terms).json()

    assert world.get(f"/accounts/{account}")["max_output_tokens"] == 900
    assert change(unpriced="record")["max_output_tokens"] == 900
    assert change(max_output_tokens=0)["max_output_tokens"] == 0
    assert change(max_output_tokens=-1)["errors"][0]["field"] == "max_output_tokens"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/ledger/v1", 404),
        ("GET", "/ledger/v1x", 404),
        ("GET", "/ledger/v1/accounts/", 404),
        ("PUT", "/ledger/v1/accounts", 405),
        ("POST", "/health/live", 405),
        ("GET", "/ledger/v1/accounts/acct_x", 404),
        ("GET", "/ledger/v1/keys/key_00000000000000000000000000ffffff", 404),
    ],
)
def test_what_is_not_there_is_a_problem(world: Any, method: str, path: str, status: int) -> None:
    """RFC 9457: the framework's errors are problem+json too, and 405 says what is allowed."""
    found = world.client.request(method, path)
    assert found.status_code == status
    assert found.headers["Content-Type"] == "application/problem+json"
    assert found.json()["status"] == status
    assert ("Allow" in found.headers) == (status == 405)


def test_health_metrics_and_the_document(world: Any, served: Any) -> None:
    """Live and ready need no credentials, metrics do, and no label names a key or an account."""
    with served.client(None) as stranger:
        assert stranger.get("/health/live").json()["status"] == "pass"
        assert stranger.get("/health/ready").status_code == 200
        assert stranger.get("/metrics").status_code == 401
        assert stranger.get("/openapi.json").json()["openapi"] == "3.1.0"
    key = world.key(world.account())
    world.record(key, "r1")
    text = world.client.get("/metrics").text
    assert 'operation="record_usage"' in text
    assert key["key_id"] not in text
    assert key["account_id"] not in text


def test_every_route_is_documented_with_an_example_that_decodes() -> None:
    """The document is made from the table that serves; its examples are real bodies."""
    described = msgspec.json.decode(openapi.document(native.SURFACE, Ask))
    app = application(native.SURFACE, Ask)
    handlers = [each for route in app.routes for each in route.route_handlers]
    for handler in handlers:
        if "contract" not in handler.opt:
            continue  # Litestar's own OPTIONS
        (path,), (method,) = handler.paths, handler.http_methods
        assert method.lower() in described["paths"][path.replace(":str", "")]
        example = handler.opt["contract"].example
        if example is not None:
            body = msgspec.json.encode(example)
            data = handler.parsed_fn_signature.parameters["data"]
            msgspec.json.decode(body, type=data.annotation)
    names = [handler.handler_name for handler in native.SURFACE.handlers]
    assert len(set(names)) == len(names)


def test_every_answer_says_its_position(world: Any) -> None:
    """An answer about an account carries the lane position that it reflects."""
    account = world.account()
    paths = ("", "/keys", "/grants", "/balances", "/spend", "/events", "/members", "/refusals")
    for path in paths:
        found = world.client.get(f"/ledger/v1/accounts/{account}{path}")
        lane, seq = found.headers["Ledger-Position"].split(":")
        assert int(lane) in {0, 1}
        assert int(seq) > 0 or path == "/refusals"
