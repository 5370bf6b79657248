"""Metering over HTTP: once per id, never over, every refusal explained."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.native.usage import PART

NDJSON = {"Content-Type": "application/x-ndjson"}
CLOUD = {"Content-Type": "application/cloudevents+json"}
CLOUD_BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def test_promise_4_a_request_id_charges_once(world: Any) -> None:
    """Promise 4: the same id and content gives the same bytes again, other content is a 409."""
    key = world.key(world.account())
    body = world.usage(key, "r1")
    answers = [world.client.post("/ledger/v1/usage", json=body) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert "Idempotent-Replayed" not in answers[0].headers
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert world.record(key, "r1", 409, model="free")["code"] == "request_id_is_taken"
    balances = world.get(f"/accounts/{key['account_id']}/balances")["balances"]
    assert balances[0]["balance"] == "4.999"


def test_a_receipt_says_what_was_charged_by_which_prices(world: Any) -> None:
    """Promise 10: the charge can be recomputed from the receipt alone."""
    key = world.key(world.account())
    found = world.record(key, "r1", usage={"input": 1500, "cache_read": 1000, "output": 7})
    assert found["charge"] == {"amount": "0.001614", "asset": "USD"}
    assert found["prices"] == {"input": "1", "cache_read": "0.1", "output": "2"}
    assert found["rate_card"] == "standard/1"
    assert found["integration"] == "bot"


def test_a_providers_own_report_is_made_disjoint(world: Any) -> None:
    """D8: cached tokens inside prompt tokens are charged once, at their own price."""
    key = world.key(world.account())
    body = {
        "key_id": key["key_id"],
        "request_id": "r1",
        "model": "m",
        "provider_format": "openai_chat",
        "provider_usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
    }
    found = world.post("/usage", body)
    assert found["usage"] == {"input": 600, "cache_read": 400, "output": 10}
    body["provider_usage"]["total_tokens"] = 999
    assert world.post("/usage", {**body, "request_id": "r2"})["usage"] == found["usage"]
    body["provider_usage"] = {"prompt_tokens": 1000, "completion_tokens": -1}
    wrong = world.post("/usage", {**body, "request_id": "r3"}, 400)
    assert wrong["errors"][0]["field"] == "provider_usage.completion_tokens"
    body["provider_format"] = "minitel"
    wrong = world.post("/usage", {**body, "request_id": "r4"}, 400)
    assert wrong["errors"][0]["field"] == "provider_format"
    body["provider_usage"] = {"tokens": 3}
    del body["provider_format"]
    wrong = world.post("/usage", {**body, "request_id": "r5"}, 400)
    assert wrong["errors"][0]["field"] == "provider_usage"


def test_promise_14_reading_at_the_refusals_position_gives_its_numbers(world: Any) -> None:
    """Promise 14, B5: what a refusal says was used is what the key shows at that position."""
    rule = {"kind": "requests", "window": "lifetime", "ceiling": "2"}
    key = world.key(world.account(), limits=[rule])
    for number in range(2):
        world.record(key, f"r{number}")
    refusal = world.record(key, "r2", 429)
    shown = world.get(f"/keys/{key['key_id']}")["limits"][0]
    assert (refusal["used"], refusal["pending"]) == (shown["used"], shown["pending"])
    assert refusal["used"] == "2"
    assert refusal["resets_at"] is None


def test_promise_14_a_limit_of_each_model_shows_what_its_refusal_says(world: Any) -> None:
    """Promise 14: under the id that the refusal names; of a model without a counter, the limit's.

    ``each_model`` is taken in a body, shown, and not shown of other limits.
    """
    each = {"kind": "tokens", "window": "lifetime", "ceiling": "150", "each_model": True}
    key = world.key(world.account(), limits=[each, {**each, "each_model": False}])
    path = f"/ledger/v1/keys/{key['key_id']}"
    assert world.client.get(path).json()["limits"][1].keys().isdisjoint({"each_model", "models"})
    assert world.client.patch(path, json={"limits": [each]}).status_code == 200
    world.record(key, "r0", usage={"input": 100})
    refusal = world.record(key, "r1", 429, usage={"input": 51})
    (limit,) = world.get(f"/keys/{key['key_id']}")["limits"]
    (shown,) = limit["models"]
    assert limit["each_model"] is True
    assert shown["id"] == refusal["limit"]["id"] == "tokens:each_model=m/lifetime"
    assert refusal["limit"] == {"id": shown["id"], "kind": "tokens", "window": "lifetime"}
    assert (shown["model"], shown["used"], shown["pending"]) == ("m", "100", "0")
    assert (refusal["used"], refusal["pending"], shown["remaining"]) == ("100", "0", "50")
    other = world.record(key, "r2", 422, model="free", usage={"input": 151})
    (limit,) = world.get(f"/keys/{key['key_id']}")["limits"]
    assert other["limit"]["id"] == limit["id"] == "tokens:each_model/lifetime"
    assert (other["used"], limit["used"], limit["remaining"]) == ("0", "0", "150")
    for wrong in ({**each, "model": "m"}, {**each, "kind": "failures"}):
        found = world.client.patch(path, json={"limits": [wrong]})
        assert (found.status_code, found.json()["errors"][0]["field"]) == (400, "each_model")


def test_promise_5_credit_is_never_overspent_by_many_at_once(world: Any) -> None:
    """Promise 5, A1: of 64 requests at once on credit for exactly 20, exactly 20 pass."""
    account = world.account(welcome=False)
    world.post(f"/accounts/{account}/grants", {"amount": "0.02", "asset": "USD"}, 201)
    key = world.key(account)

    def send(number: int) -> int:
        body = world.usage(key, f"r{number}")
        return world.client.post("/ledger/v1/usage", json=body).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(send, range(64)))
    assert statuses.count(200) == 20
    assert statuses.count(402) == 44


def test_two_phases_hold_then_charge_what_was_used(world: Any) -> None:
    """A reservation holds the worst case; its settlement charges the actual and frees the rest."""
    key = world.key(world.account())
    held = world.post("/requests", world.usage(key, "r1", usage={"output": 1000}), 201)
    assert held["held"] == {"amount": "0.002", "asset": "USD"}
    balances = world.get(f"/accounts/{key['account_id']}/balances")["balances"]
    assert balances[0]["pending"] == "0.002"
    settled = world.post("/requests/r1/settle", {"key_id": key["key_id"], "usage": {"output": 10}})
    assert settled["charge"] == {"amount": "0.00002", "asset": "USD"}
    balances = world.get(f"/accounts/{key['account_id']}/balances")["balances"]
    assert (balances[0]["balance"], balances[0]["pending"]) == ("4.99998", "0")


def test_a_released_request_costs_nothing_and_stays_closed(world: Any) -> None:
    """B1: a release frees what was held; a settlement after it is a conflict."""
    key = world.key(world.account())
    world.post("/requests", world.usage(key, "r1"), 201)
    named = {"key_id": key["key_id"]}
    assert world.post("/requests/r1/release", named)["status"] == "released"
    late = world.post("/requests/r1/settle", {**named, "usage": {"input": 1}}, 409)
    assert late["code"] == "request_is_closed"
    shown = world.get(f"/requests/r1?key_id={key['key_id']}")
    assert [shown[place]["status"] for place in ("first", "last")] == ["reserved", "released"]


@pytest.mark.parametrize("ending", ["settle", "release"])
def test_a_request_ended_by_its_account_is_still_of_its_key(world: Any, ending: str) -> None:
    """What it held against the key's limits is freed, and what it used counts (A12, B1)."""
    tokens = {"kind": "tokens", "window": "day", "ceiling": "1000"}
    key = world.key(world.account(), limits=[tokens])
    world.post("/requests", world.usage(key, "r1"), 201)
    body = {"account_id": key["account_id"]}
    if ending == "settle":
        body["usage"] = {"input": 400}
    done = world.post(f"/requests/r1/{ending}", body)
    assert done["key_id"] == key["key_id"]
    (limit,) = world.get(f"/keys/{key['key_id']}")["limits"]
    used = "400" if ending == "settle" else "0"
    assert (limit["used"], limit["pending"]) == (used, "0")


def test_a_request_id_may_hold_anything_a_path_escapes(world: Any) -> None:
    """An id with slashes, spaces and accents is settled at its escaped path."""
    key = world.key(world.account())
    request_id = "gw/é 1?x#y%2F"
    world.post("/requests", world.usage(key, request_id), 201)
    escaped = "".join(f"%{byte:02X}" for byte in request_id.encode())
    body = {"key_id": key["key_id"], "usage": {"input": 1}}
    settled = world.post(f"/requests/{escaped}/settle", body)
    assert (settled["request_id"], settled["status"]) == (request_id, "settled")


def test_another_key_cannot_end_a_reservation(world: Any) -> None:
    """Promise 15: a key of the same account that did not reserve it sees no such request."""
    account = world.account()
    one, other = world.key(account), world.key(account)
    world.post("/requests", world.usage(one, "r1"), 201)
    body = {"key_id": other["key_id"], "usage": {"input": 1}}
    assert world.post("/requests/r1/settle", body, 404)["code"] == "no_such_request"


def test_promise_6_a_revoked_key_is_refused_at_the_next_request(world: Any) -> None:
    """Promise 6, G1: after the answer to a revocation nothing is admitted, by id or by secret."""
    key = world.key(world.account())
    by_secret = {"secret": key["secret"], "model": "m", "usage": {"input": 1}}
    world.post("/usage", {**by_secret, "request_id": "r1"})
    world.post(f"/keys/{key['key_id']}/revoke")
    assert world.post("/usage", {**by_secret, "request_id": "r2"}, 409)["code"] == "key_is_revoked"
    assert world.record(key, "r3", 409)["code"] == "key_is_revoked"
    verified = world.post("/keys/verify", {"secret": key["secret"]})
    assert (verified["valid"], verified["reason"]) == (False, "key_is_revoked")


def test_a_batch_has_a_result_for_each(world: Any) -> None:
    """Good items are recorded, bad ones say why, in their order; one undoes no other."""
    key = world.key(world.account())
    items: list[Any] = [world.usage(key, f"r{number}") for number in range(3)]
    items[1] = {**items[1], "usage": {"input": -1}}
    items.append(items[0])
    found = world.post("/usage", items)
    assert (found["recorded"], found["refused"]) == (3, 1)
    assert [result["ok"] for result in found["results"]] == [True, False, True, True]
    assert found["results"][1]["problem"]["errors"][0]["field"] == "usage.input"
    assert found["results"][3]["receipt"] == found["results"][0]["receipt"]


def test_a_batch_of_several_parts_is_answered_in_its_order(world: Any) -> None:
    """Keys of several lanes, unknown ones, bad items and repeats: each has its result in its place.

    The same request id far apart in the batch charges once; positions name every lane.
    """
    keys = [world.key(world.account()) for _ in range(6)]
    items: list[Any] = [world.usage(keys[n % 6], f"p{n}") for n in range(2 * PART + 10)]
    items[7] = {**items[7], "key_id": "key_00000000000000000000000000000000"}
    items[PART + 1] = {**items[PART + 1], "model": ""}
    items[-1] = items[0]
    answer = world.client.post("/ledger/v1/usage", json=items)
    found = answer.json()
    assert (found["recorded"], found["refused"]) == (len(items) - 2, 2)
    bad = [place for place, result in enumerate(found["results"]) if not result["ok"]]
    assert bad == [7, PART + 1]
    assert found["results"][7]["problem"]["code"] == "no_such_key"
    assert found["results"][-1]["replayed"]
    named = [result["receipt"]["request_id"] for result in found["results"] if result["ok"]]
    assert named == [items[n]["request_id"] for n in range(len(items)) if n not in bad]
    reached: dict[int, int] = {}
    for result in found["results"]:
        if result["ok"]:
            lane, seq = result["receipt"]["position"].values()
            reached[lane] = max(reached.get(lane, 0), seq)
    told = [part.split(":") for part in answer.headers["Ledger-Position"].split(", ")]
    assert all(int(seq) >= reached[int(lane)] for lane, seq in told)
    assert {int(lane) for lane, _ in told} == set(reached)


def test_a_batch_is_of_at_most_10000(world: Any) -> None:
    """More is 413, and nothing of it is recorded."""
    content = b"[" + b"{}," * 10_000 + b"{}]"
    assert world.client.post("/ledger/v1/usage", content=content).status_code == 413


def test_ndjson_is_read_line_by_line(world: Any) -> None:
    """A line that is no JSON fails alone."""
    key = world.key(world.account())
    lines = [json.dumps(world.usage(key, "r1")), "{", "", json.dumps(world.usage(key, "r2"))]
    body = "\r\n".join(lines)
    found = world.client.post("/ledger/v1/usage", content=body, headers=NDJSON).json()
    assert [result["ok"] for result in found["results"]] == [True, False, True]


def cloud_event(key: dict[str, Any], name: str, **terms: Any) -> dict[str, Any]:
    """Make a CloudEvent of one request."""
    data = {"key_id": key["key_id"], "model": "m", "usage": {"input": 1000}}
    event = {"specversion": "1.0", "id": name, "source": "/gw", "type": "dev.keyledger.usage"}
    return {**event, "data": data, **terms}


def test_cloudevents_are_recorded_by_source_and_id(world: Any) -> None:
    """CloudEvents 1.0: source and id together are what charges once; time is when it happened."""
    key = world.key(world.account())
    send = world.client.post
    one = send("/ledger/v1/usage", json=cloud_event(key, "1"), headers=CLOUD)
    assert one.json()["request_id"] == "/gw 1"
    again = send("/ledger/v1/usage", json=cloud_event(key, "1", extension="x"), headers=CLOUD)
    assert again.content == one.content
    batch = [cloud_event(key, "2"), cloud_event(key, "3", type="other")]
    found = send("/ledger/v1/usage", json=batch, headers=CLOUD_BATCH).json()
    assert [result["ok"] for result in found["results"]] == [True, False]


def test_an_idempotency_key_replays_a_metered_answer(world: Any) -> None:
    """The same key and body give the stored receipt, another body is 422."""
    key = world.key(world.account())
    body = world.usage(key, "r1")
    first = world.post("/usage", body, Idempotency_Key='"k 1"')
    assert world.post("/usage", body, Idempotency_Key="k 1") == first
    other = world.post("/usage", {**body, "request_id": "r2"}, 422, Idempotency_Key="k 1")
    assert other["code"] == "idempotency_key_is_taken"


def test_unknown_price_is_refused_or_recorded_and_never_zero(world: Any) -> None:
    """Promise 10, C9: without a price there is no charge, not a charge of nothing."""
    key = world.key(world.account())
    assert world.record(key, "r1", 422, model="unheard-of")["code"] == "model_is_unpriced"
    lenient = world.key(world.account(unpriced="record"))
    assert world.record(lenient, "r1", model="unheard-of")["charge"] is None
    assert world.record(lenient, "r2", model="free")["charge"]["amount"] == "0"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"usage": {"input": 1.5}}, "usage.input"),
        ({"usage": {"tokens": 1}}, "usage.tokens"),
        ({"usage": {"input": 10**13}}, "usage.input"),
        ({"usage": None}, "usage"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 256}, "request_id"),
        ({"request_id": "a\0b"}, "request_id"),
        ({"occurred_at": "2026-11-21T00:00:00"}, "occurred_at"),
        ({"occurred_at": "2026-02-30T00:00:00Z"}, "occurred_at"),
        ({"surprise": 1}, "surprise"),
        ({"secret": "ryv_x"}, "secret"),
    ],
    ids=str,
)
def test_a_bad_field_is_named(world: Any, changes: dict[str, Any], field: str) -> None:
    """Whatever is wrong with a request is 400 and names the field."""
    key = world.key(world.account())
    found = world.post("/usage", {**world.usage(key, "r1"), **changes}, 400)
    assert found["errors"][0]["field"] == field


def test_a_body_over_10_mib_is_413(world: Any) -> None:
    """It is refused while it comes, with or without a length."""

    def chunks() -> Any:
        for _ in range(11):
            yield b" " * 2**20

    for content in (b" " * (10 * 2**20 + 1), chunks()):
        assert world.client.post("/ledger/v1/usage", content=content).status_code == 413


def test_an_unknown_media_type_is_415(world: Any) -> None:
    """What we cannot read is not guessed at."""
    headers = {"Content-Type": "text/csv"}
    found = world.client.post("/ledger/v1/usage", content=b"a,b", headers=headers)
    assert found.status_code == 415


def test_what_was_done_before_is_answered_under_a_new_idempotency_key(world: Any) -> None:
    """A release, settlement or record that changes nothing more answers as it did, and is kept."""
    key = world.key(world.account())
    for name, held in (("gone", 10), ("done", 10)):
        body = {"request_id": name, "key_id": key["key_id"], "model": "m", "usage": {"input": held}}
        world.post("/requests", body, 201)
    named = {"key_id": key["key_id"]}
    used = {**named, "usage": {"input": 7}}
    record = world.usage(key, "once")
    for path, body in (
        ("/requests/gone/release", named),
        ("/requests/done/settle", used),
        ("/usage", record),
    ):
        first = world.post(path, body)
        for again in ("one", "one", "two"):
            found = world.post(path, body, Idempotency_Key=f"{path}/{again}".replace("/", "-"))
            assert found == first
