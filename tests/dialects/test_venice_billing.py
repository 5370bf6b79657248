"""venice: balance, daily allowance, usage history and its sums, each equal to the ledger's own."""

import asyncio
import csv
import io
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from api import services as wiring
from api.process import jobs
from ledger import clock
from tests.dialects.venice_world import KEYS, LARGE, NOWHERE, Opens, Venice, is_milliseconds

BILLING = "/api/v1/billing"
HISTORY, ANALYTICS = f"{BILLING}/usage-history", f"{BILLING}/usage-analytics"
ENTRY = {
    *("timestamp", "sku", "units", "pricePerUnitUsd", "amount", "currency", "notes"),
    "inferenceDetails",
}


def exact(reply: httpx.Response) -> Any:
    """Read a reply with its numbers as they are written."""
    assert reply.status_code == 200, reply.text
    return reply.json(parse_float=Decimal, parse_int=Decimal)


def with_services(venice: Venice, story: Callable[[wiring.Services], Awaitable[Any]]) -> Any:
    """Do something with services of their own on the served ledger, as a leader does."""

    async def run() -> Any:
        served = venice.served.services
        services = await wiring.Services.open(served.settings, served.url)
        try:
            return await story(services)
        finally:
            await services.close()

    return asyncio.run(run())


def native_spend(venice: Venice) -> dict[str, Decimal]:
    """Return what the native report says was spent, per asset."""
    path = f"/ledger/v1/accounts/{venice.account_id}/spend"
    lines = venice.operator.get(path).json()["data"]
    return {line["asset"]: Decimal(line["amount"]) for line in lines}


def test_v1_billing_is_for_admin_keys(venice: Venice) -> None:
    """V1: neither an INFERENCE key nor a session; 401 in the page's words."""
    client = venice.client()
    for path in (f"{BILLING}/balance", HISTORY, ANALYTICS):
        refused = client.get(path)
        assert (refused.status_code, refused.json()) == (401, {"error": "Admin API key required"})
        assert venice.session.get(path).status_code == 401


def test_the_balance_tells_what_pays_next(venice: Venice) -> None:
    """Spend order DIEM, bundled credits, USD; closed; numbers exact."""
    admin, client = venice.admin(), venice.client()
    expected: dict[str, Any] = {
        "canConsume": True,
        "consumptionCurrency": "USD",
        "balances": {"diem": 0, "usd": 5},
        "diemEpochAllocation": 0,
    }
    assert admin.get(f"{BILLING}/balance").json() == expected
    venice.grant("BUNDLED_CREDITS", "1")
    expected["consumptionCurrency"] = "BUNDLED_CREDITS"
    assert admin.get(f"{BILLING}/balance").json() == expected
    venice.grant("DIEM", "90.123456789012")
    expected |= {"consumptionCurrency": "DIEM", "balances": {"diem": 90.123456789012, "usd": 5}}
    assert '"diem":90.123456789012' in admin.get(f"{BILLING}/balance").text
    assert admin.get(f"{BILLING}/balance").json() == expected
    for number in range(96):
        usage = {"input": 1_000_000}
        assert venice.record(client.key, f"r{number}", usage=usage).status_code == 200
    nothing = admin.get(f"{BILLING}/balance").json()
    assert nothing["canConsume"] is True
    last = {"input": 123_457}
    assert venice.record(client.key, "last", usage=last, model="m").status_code in {200, 402}


def test_an_empty_account_can_consume_nothing(venice: Venice) -> None:
    """`consumptionCurrency` is null where nothing is left."""
    admin, client = venice.admin(), venice.client()
    assert venice.record(client.key, "r", usage={"input": 5_000_000}).status_code == 200
    assert admin.get(f"{BILLING}/balance").json() == {
        "canConsume": False,
        "consumptionCurrency": None,
        "balances": {"diem": 0, "usd": 0},
        "diemEpochAllocation": 0,
    }


def test_diem_is_granted_anew_each_day(venice: Venice) -> None:
    """DIEM refills each UTC day: today's at once, tomorrow's ahead of time, each once."""
    path = f"/ledger/v1/accounts/{venice.account_id}/allowances"
    for amount in ("10", "12"):
        found = venice.operator.put(f"{path}/DIEM", json={"amount": amount})
        assert (found.status_code, found.json()) == (200, {"asset": "DIEM", "amount": amount})
    admin, client = venice.admin(), venice.client()
    assert venice.record(client.key, "r", usage={"input": 250_000}).status_code == 200
    balance = admin.get(f"{BILLING}/balance").json()
    assert balance["balances"] == {"diem": 9.75, "usd": 5}
    assert (balance["diemEpochAllocation"], balance["consumptionCurrency"]) == (10, "DIEM")
    noon = clock.now().replace(hour=12)
    evening, morning = noon.replace(hour=22, minute=1), noon + timedelta(hours=14)

    async def days(services: wiring.Services) -> list[int]:
        first = await services.allowances.grant_due(noon)
        at_once = await asyncio.gather(
            *(services.allowances.grant_due(evening) for _ in range(4)),
        )
        return [first, sum(at_once), await services.allowances.grant_due(morning)]

    assert with_services(venice, days) == [0, 1, 0]
    grants = venice.operator.get(f"/ledger/v1/accounts/{venice.account_id}/grants").json()["data"]
    lots = [
        (g["amount"], g["effective_at"], g["expires_at"]) for g in grants if g["asset"] == "DIEM"
    ]
    today = noon.replace(hour=0, minute=0, second=0, microsecond=0)
    midnights = [f"{today + timedelta(days=day):%Y-%m-%d}T00:00:00Z" for day in range(3)]
    assert lots == [("12", midnights[1], midnights[2]), ("10", midnights[0], midnights[1])]
    # What is granted for tomorrow is not there today.
    assert admin.get(f"{BILLING}/balance").json() == balance
    assert client.get(f"{KEYS}/rate_limits").json()["data"]["balances"]["DIEM"] == 9.75
    assert venice.operator.put(f"{path}/DIEM", json={"amount": "0"}).json()["amount"] == "0"
    assert venice.operator.get(path).json()["data"] == []


def test_allowances_are_the_operators(venice: Venice) -> None:
    """Only the operator sets them; wrong ones are refused, for unknown accounts too."""
    path = f"/ledger/v1/accounts/{venice.account_id}/allowances"
    assert venice.session.put(f"{path}/DIEM", json={"amount": "1"}).status_code == 403
    for asset, amount in (("diem", "1"), ("DIEM", "-1"), ("DIEM", "1e3"), ("DIEM", "x")):
        found = venice.operator.put(f"{path}/{asset}", json={"amount": amount})
        assert found.status_code == 400, found.text
    nobody = "/ledger/v1/accounts/acct_00000000000070008000000000000009/allowances"
    assert venice.operator.put(f"{nobody}/DIEM", json={"amount": "1"}).status_code == 404
    assert venice.operator.get(nobody).status_code == 404
    venice.operator.put(f"{path}/DIEM", json={"amount": "3"})
    listed = venice.session.get(path)
    assert listed.json()["data"] == [{"asset": "DIEM", "amount": "3"}]


@pytest.fixture
def busy(venice: Venice) -> Venice:
    """Return an account that spent three assets on two models by two keys."""
    venice.grant("DIEM", "0.0025")
    venice.grant("BUNDLED_CREDITS", "0.00133")
    venice.keys = [venice.create(description="one"), venice.create(description="two")]
    for number in range(40):
        model, usage = ("m", {"input": 137, "output": 23, "cache_read": 3})
        if number % 3 == 2:
            model, usage = LARGE, {"input": 31, "output": 7}
        key = venice.keys[number % 2]
        found = venice.record(key, f"r{number}", model=model, usage=usage)
        assert found.status_code == 200, found.text
    return venice


def walk(admin: httpx.Client, **first: Any) -> list[list[dict[str, Any]]]:
    """Walk through the usage history; return the pages."""
    found = exact(admin.get(HISTORY, params=first))
    pages = [found["data"]]
    while found["nextCursor"] is not None:
        found = exact(admin.get(HISTORY, params={"cursor": found["nextCursor"]}))
        pages.append(found["data"])
    return pages


def test_the_history_adds_up_to_the_ledger(busy: Venice) -> None:
    """Ascending, closed, negative; entries of an event add up to its charge, to the last digit."""
    admin = busy.admin()
    (entries,) = walk(admin)
    sums: dict[str, Decimal] = defaultdict(Decimal)
    by_request: dict[str, Decimal] = defaultdict(Decimal)
    for entry in entries:
        assert set(entry) == ENTRY
        assert entry["amount"] < 0
        assert is_milliseconds(entry["timestamp"])
        assert entry["notes"] == "API Inference"
        assert set(entry["inferenceDetails"]) == {
            *("requestId", "inferenceExecutionTime", "promptTokens", "completionTokens")
        }
        sums[entry["currency"]] -= entry["amount"]
        by_request[entry["inferenceDetails"]["requestId"]] -= entry["amount"]
        assert abs(entry["units"] * entry["pricePerUnitUsd"] + entry["amount"]) <= Decimal("1e-11")
    assert sums == native_spend(busy)
    assert set(sums) == {"DIEM", "BUNDLED_CREDITS", "USD"}
    for request, amount in by_request.items():
        asked = {"account_id": busy.account_id}
        found = busy.operator.get(f"/ledger/v1/requests/{request}", params=asked)
        assert Decimal(found.json()["first"]["charge"]["amount"]) == amount
    stamps = [entry["timestamp"] for entry in entries]
    assert stamps == sorted(stamps)
    first = [entry for entry in entries if entry["inferenceDetails"]["requestId"] == "r0"]
    assert [(entry["sku"], entry["units"], entry["pricePerUnitUsd"]) for entry in first] == [
        ("m-llm-input-mtoken", Decimal("0.000137"), 1),
        ("m-llm-cache-read-mtoken", Decimal("0.000003"), Decimal("0.1")),
        ("m-llm-output-mtoken", Decimal("0.000023"), 2),
    ]
    assert first[0]["inferenceDetails"]["promptTokens"] == 140


def test_pages_are_cut_anywhere_and_stay_while_usage_is_written(busy: Venice) -> None:
    """A cursor stands alone; whatever the size of a page, the entries are the same ones."""
    admin = busy.admin()
    (whole,) = walk(admin)
    for size in (10, 11, 64):
        pages = walk(admin, pageSize=size)
        assert [entry for page in pages for entry in page] == whole
        assert all(len(page) == size for page in pages[:-1])
    first = exact(admin.get(HISTORY, params={"pageSize": 10}))
    params = {"cursor": first["nextCursor"]}
    before = exact(admin.get(HISTORY, params=params))
    assert busy.record(busy.keys[0], "later").status_code == 200
    assert exact(admin.get(HISTORY, params=params)) == before
    after = [entry for page in walk(admin, pageSize=10) for entry in page]
    assert after[: len(whole)] == whole
    assert len(after) == len(whole) + 1


def test_the_history_is_filtered(busy: Venice) -> None:
    """By currency and by time, from inclusive, to exclusive; windows meet without a gap."""
    admin = busy.admin()
    (whole,) = walk(admin)
    for currency in ("USD", "DIEM", "BUNDLED_CREDITS"):
        pages = walk(admin, currency=currency, pageSize=10)
        found = [entry for page in pages for entry in page]
        assert found == [entry for entry in whole if entry["currency"] == currency]
    middle = whole[len(whole) // 2]["timestamp"]
    early = [entry for page in walk(admin, endTimestamp=middle, pageSize=10) for entry in page]
    late = [entry for page in walk(admin, startTimestamp=middle, pageSize=10) for entry in page]
    assert early + late == whole
    assert early
    assert late[0]["timestamp"] >= middle


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"pageSize": 9}, "pageSize"),
        ({"pageSize": 1001}, "pageSize"),
        ({"pageSize": "x"}, "pageSize"),
        ({"currency": "EUR"}, "currency"),
        ({"startTimestamp": "2026-01-01"}, "startTimestamp"),
        ({"startTimestamp": "2026-01-01T00:00:00+01:00"}, "startTimestamp"),
        (
            {"startTimestamp": "2026-01-02T00:00:00Z", "endTimestamp": "2026-01-01T00:00:00Z"},
            "endTimestamp",
        ),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "%%%"}, "cursor"),
        ({"cursor": "A" * 513}, "cursor"),
        ({"page": 2}, "page"),
    ],
)
def test_what_the_history_cannot_take_is_refused(
    venice: Venice, params: dict[str, Any], field: str
) -> None:
    """400 with `details` of the field."""
    found = venice.admin().get(HISTORY, params=params)
    assert found.status_code == 400
    assert found.json()["error"] == "Invalid request parameters"
    assert found.json()["details"][field]["_errors"]


def test_a_cursor_is_signed_and_stands_alone(busy: Venice, opens: Opens) -> None:
    """Tampered with, of another account, or with filters beside it: 400."""
    admin = busy.admin()
    cursor = admin.get(HISTORY, params={"pageSize": 10}).json()["nextCursor"]
    middle = len(cursor) // 2
    other = "A" if cursor[middle] != "A" else "B"
    tampered = cursor[:middle] + other + cursor[middle + 1 :]
    for params in (
        {"cursor": tampered},
        {"cursor": cursor, "pageSize": 10},
        {"cursor": cursor[:-4]},
    ):
        assert admin.get(HISTORY, params=params).status_code == 400
    assert opens().admin().get(HISTORY, params={"cursor": cursor}).status_code == 400
    assert admin.get(HISTORY, params={"cursor": cursor}).status_code == 200


def test_the_history_comes_as_csv(busy: Venice) -> None:
    """`Accept: text/csv`: the same entries, the cursor in a header, a file's name."""
    admin = busy.admin()
    (whole,) = walk(admin)
    rows: list[dict[str, str]] = []
    params: dict[str, Any] = {"pageSize": 50}
    while params:
        found = admin.get(HISTORY, params=params, headers={"Accept": "text/csv"})
        assert found.headers["content-type"].startswith("text/csv")
        name = r"attachment; filename=billing-usage-history-\d{8}T\d{9}Z\.csv"
        assert re.fullmatch(name, found.headers["content-disposition"])
        rows += csv.DictReader(io.StringIO(found.text))
        cursor = found.headers.get("x-next-cursor")
        params = {"cursor": cursor} if cursor else {}
    assert [(row["sku"], Decimal(row["amount"]), row["currency"]) for row in rows] == [
        (entry["sku"], entry["amount"], entry["currency"]) for entry in whole
    ]
    assert rows[0]["inferenceDetails.requestId"] == "r0"


def test_the_history_of_a_long_account_is_read_from_marks(venice: Venice) -> None:
    """700 events: pages from the middle are found by marks, and without them just the same."""
    admin, key = venice.admin(), venice.create()
    body = [
        {
            "key_id": f"key_{key['id'].replace('-', '')}",
            "request_id": f"n{number}",
            "model": "m",
            "usage": {"input": 1},
        }
        for number in range(700)
    ]
    assert venice.operator.post("/ledger/v1/usage", json=body).status_code == 200
    without = walk(admin, pageSize=100)

    async def mark(services: wiring.Services) -> Any:
        await jobs.catch_up(services)
        async with services.pool.connection() as connection:
            rows = await connection.execute("SELECT version FROM account_marks ORDER BY version")
            return await rows.fetchall()

    assert with_services(venice, mark)
    assert walk(admin, pageSize=100) == without
    assert sum(map(len, without)) == 700
    middle = without[4][50]["timestamp"]
    found = [entry for page in walk(admin, startTimestamp=middle) for entry in page]
    flat = [entry for page in without for entry in page]
    assert found == [entry for entry in flat if entry["timestamp"] >= middle]


def test_analytics_are_zero_filled_and_equal_to_the_ledger(busy: Venice) -> None:
    """Each day is there; every breakdown adds up to what the native report says."""
    admin = busy.admin()
    found = exact(admin.get(ANALYTICS))
    assert set(found) == {
        *("lookback", "byDate", "byModel", "byModelDaily", "topModels", "byKey", "byKeyDaily"),
        "topKeyNames",
    }
    assert found["lookback"] == "7d"
    today = clock.now().date()
    days = [f"{today - timedelta(days=back)}" for back in range(7)]
    assert [day["date"] for day in found["byDate"]] == days
    assert all(day["USD"] == day["DIEM"] == 0 for day in found["byDate"][1:])
    spent = native_spend(busy)
    usd, diem = spent["USD"] + spent["BUNDLED_CREDITS"], spent["DIEM"]
    assert (found["byDate"][0]["USD"], found["byDate"][0]["DIEM"]) == (usd, diem)
    for lines in (found["byModel"], found["byKey"]):
        assert sum(line["totalUsd"] for line in lines) == usd
        assert sum(line["totalDiem"] for line in lines) == diem
        assert sum(line["totalUnits"] for line in lines) == 27 * 163 + 13 * 38
        costs = [line["totalUsd"] + line["totalDiem"] for line in lines]
        assert costs == sorted(costs, reverse=True)
    assert set(found["topModels"]) == {"m", LARGE}
    assert set(found["topKeyNames"]) == {"one", "two"}
    assert {line["apiKeyId"] for line in found["byKey"]} == {key["id"] for key in busy.keys}
    for daily, names in (
        (found["byModelDaily"], found["topModels"]),
        (found["byKeyDaily"], found["topKeyNames"]),
    ):
        assert all(set(day) == {"date", *names} for day in daily)
        assert sum(daily[0][name] for name in names) == usd + diem
        midnight = datetime(today.year, today.month, today.day, tzinfo=UTC)
        assert daily[0]["date"] == int(midnight.timestamp()) * 1000
        assert len(daily) == 7
    ranged = exact(admin.get(ANALYTICS, params={"startDate": str(today), "endDate": str(today)}))
    assert ranged["lookback"] == f"{today}:{today}"
    assert ranged["byDate"] == found["byDate"][:1]
    assert len(exact(admin.get(ANALYTICS, params={"lookback": "90d"}))["byDate"]) == 90


@pytest.mark.parametrize(
    "params",
    [
        {"lookback": "91d"},
        {"lookback": "0d"},
        {"lookback": "7"},
        {"startDate": "2026-01-01"},
        {"startDate": "2026-01-01", "endDate": "2026-04-01"},
        {"startDate": "2026-01-02", "endDate": "2026-01-01"},
        {"startDate": "2026-1-2", "endDate": "2026-01-09"},
        {"lookback": "7d", "startDate": "2026-01-01", "endDate": "2026-01-02"},
        {"days": "7"},
    ],
)
def test_analytics_of_a_wrong_range_are_refused(venice: Venice, params: dict[str, str]) -> None:
    """At most 90 days, both dates, one way to say it."""
    found = venice.admin().get(ANALYTICS, params=params)
    assert found.status_code == 400
    assert "details" in found.json()


@pytest.mark.usefixtures("busy")
def test_promise_15_a_tenant_reads_only_its_own_money(opens: Opens) -> None:
    """Promise 15: another account's ADMIN key sees none of it."""
    stranger = opens().admin()
    assert stranger.get(HISTORY).json() == {"data": [], "nextCursor": None}
    assert stranger.get(ANALYTICS).json()["byKey"] == []
    assert NOWHERE not in stranger.get(f"{BILLING}/balance").text
