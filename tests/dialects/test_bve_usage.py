"""bve's usage: of one key 30 days and 12 months, of all together the newest rows, however many."""

import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import httpx
import pytest

from api.dialects.bve import routes_usage
from ledger import clock
from ledger.clock import format_milliseconds
from ledger.ids import OPERATOR_ACCOUNT, KeyId, format_id
from ledger.usage import CLASSES, INPUT_TOKENS, OUTPUT_TOKENS
from tests.dialects.test_bve import create

USAGE = "/admin/usage"
OPERATOR = f"/ledger/v1/accounts/{format_id('acct', OPERATOR_ACCOUNT)}"
COUNTS = ["requestCount", "promptTokens", "completionTokens", "totalTokens", "updatedAt"]
BATCH = 9_000
_numbers = itertools.count(1)

Line = tuple[str, date, int]
"""A key's UUID, a day, and input tokens; there are two of output."""


@pytest.fixture
def used(operator: httpx.Client) -> Callable[..., None]:
    """Return a way to have keys use something on days gone by, many at once."""

    def record(*lines: Line, model: str = "keyledger-small") -> None:
        bodies = [
            {
                "request_id": f"past-{next(_numbers)}",
                "key_id": format_id("key", uuid.UUID(key_id)),
                "model": model,
                "usage": {"input": tokens, "output": 2},
                "occurred_at": datetime.combine(day, time(12), tzinfo=UTC).isoformat(),
                "delivered": True,
            }
            for key_id, day, tokens in lines
        ]
        for start in range(0, len(bodies), BATCH):
            part = bodies[start : start + BATCH]
            found = operator.post("/ledger/v1/usage", json=part, timeout=60)
            assert found.status_code == 200, found.text
            assert found.json()["recorded"] == len(part), found.text[:500]

    return record


def usage(operator: httpx.Client, **query: str) -> dict[str, Any]:
    """Ask for usage, which has two lists."""
    found = operator.get(USAGE, params=query)
    assert found.status_code == 200, found.text
    assert list(found.json()) == ["daily", "monthly"]
    return found.json()


def day_before(days: int) -> date:
    """Return a day of UTC, so many before today."""
    return clock.now().date() - timedelta(days=days)


def month_before(months: int) -> date:
    """Return the first day of a month of UTC, so many before this one."""
    first = clock.now().date().replace(day=1)
    for _ in range(months):
        first = (first - timedelta(days=1)).replace(day=1)
    return first


def test_rows_have_the_documented_fields(operator: httpx.Client, used: Any) -> None:
    """Eight fields each in camelCase; models are summed, tokens counted by what they are."""
    key_id = create(operator)["id"]
    used((key_id, day_before(0), 5), (key_id, day_before(0), 6))
    used((key_id, day_before(0), 7), model="keyledger-large")
    found = usage(operator, key_id=key_id)
    (day,), (month,) = found["daily"], found["monthly"]
    assert list(day) == ["id", "keyId", "date", *COUNTS]
    assert list(month) == ["id", "keyId", "yearMonth", *COUNTS]
    assert (day["date"], month["yearMonth"]) == (f"{day_before(0)}", f"{day_before(0):%Y-%m}")
    for row in (day, month):
        assert row["keyId"] == key_id
        assert [row[name] for name in COUNTS[:4]] == [3, 18, 6, 24]
    assert len({uuid.UUID(row["id"]) for row in (day, month)}) == 2
    assert usage(operator, key_id=key_id) == found


def test_tokens_of_every_kind_are_tokens(operator: httpx.Client, world: Any) -> None:
    """Each class of usage counts where it belongs; what is no token counts nowhere."""
    key_id = create(operator)["id"]
    each = {name: 1 for name in CLASSES if name != "requests"}
    key = {"key_id": format_id("key", uuid.UUID(key_id))}
    world.record(key, "all-kinds", usage=each, delivered=True)
    (row,) = usage(operator, key_id=key_id)["daily"]
    assert (row["requestCount"], row["promptTokens"]) == (1, len(INPUT_TOKENS))
    assert row["completionTokens"] == len(OUTPUT_TOKENS)


def test_one_keys_days_are_the_last_30(operator: httpx.Client, used: Any) -> None:
    """Thirty days of UTC with today, not the last thirty with a row, and no other key's."""
    key_id, other = (create(operator)["id"] for _ in range(2))
    used(*((key_id, day_before(days), days + 1) for days in (0, 3, 29, 30, 45)))
    used((other, day_before(1), 9))
    rows = usage(operator, key_id=key_id)["daily"]
    assert [row["date"] for row in rows] == [f"{day_before(days)}" for days in (0, 3, 29)]
    assert [row["promptTokens"] for row in rows] == [1, 4, 30]
    assert {row["keyId"] for row in rows} == {key_id}


def test_one_keys_months_are_the_last_12_and_whole(operator: httpx.Client, used: Any) -> None:
    """This month and eleven before, the oldest from its first day; the twelfth before is none."""
    key_id = create(operator)["id"]
    oldest = month_before(11)
    within = (oldest, oldest + timedelta(days=27), day_before(0))
    used(*((key_id, day, 10) for day in (*within, oldest - timedelta(days=1))))
    rows = usage(operator, key_id=key_id)["monthly"]
    assert [row["yearMonth"] for row in rows] == [f"{day_before(0):%Y-%m}", f"{oldest:%Y-%m}"]
    assert [row["promptTokens"] for row in rows] == [10, 20]


@pytest.mark.parametrize(
    ("today", "first_day", "first_month"),
    [
        (date(2026, 11, 21), date(2026, 10, 23), date(2025, 12, 1)),
        (date(2026, 12, 1), date(2026, 11, 2), date(2026, 1, 1)),
        (date(2026, 1, 31), date(2026, 1, 2), date(2025, 2, 1)),
        (date(2028, 3, 1), date(2028, 2, 1), date(2027, 4, 1)),
    ],
)
def test_the_window_of_one_key(today: date, first_day: date, first_month: date) -> None:
    """At ends of months and years, and after a leap day."""
    asked = routes_usage._of_one(KeyId(uuid.UUID(int=0)), today)
    assert (asked.first_day, asked.first_month) == (first_day, first_month)
    assert (asked.days, asked.months) == (30, 12)


def test_of_all_keys_the_newest_rows(operator: httpx.Client, used: Any, world: Any) -> None:
    """All keys: 100 rows of days, 50 of months, newest first, of this surface's keys only."""
    ids = [create(operator)["id"] for _ in range(60)]
    strange = world.post(f"{OPERATOR[10:]}/keys", {"name": "x", "dialect": "ryvion"}, 201)
    used(*((key_id, day_before(days), 1) for key_id in ids for days in (40, 1, 0)))
    used((str(uuid.UUID(strange["key_id"][4:])), day_before(0), 1))
    found = usage(operator)
    assert (len(found["daily"]), len(found["monthly"])) == (100, 50)
    days = [(row["date"], row["keyId"]) for row in found["daily"]]
    months = [(row["yearMonth"], row["keyId"]) for row in found["monthly"]]
    assert days == sorted(days, reverse=True)
    assert months == sorted(months, reverse=True)
    assert {day for day, _ in days} == {f"{day_before(0)}", f"{day_before(1)}"}
    assert {month for month, _ in months} == {f"{day_before(0):%Y-%m}"}
    listed = {row["id"] for row in operator.get("/admin/api-keys").json()}
    assert {key_id for _, key_id in days} <= listed
    assert len([day for day, key_id in days if day == f"{day_before(0)}" and key_id in ids]) == 60


def test_usage_grows_without_end(operator: httpx.Client, used: Any) -> None:
    """J5: 28 keys used daily for a year are no reason to answer nothing."""
    ids = [create(operator)["id"] for _ in range(28)]
    used(*((key_id, day_before(days), 1) for key_id in ids for days in range(366)))
    found = usage(operator)
    assert (len(found["daily"]), len(found["monthly"])) == (100, 50)
    one = usage(operator, key_id=ids[0])
    assert (len(one["daily"]), len(one["monthly"])) == (30, 12)
    assert [row["requestCount"] for row in one["daily"]] == [1] * 30
    whole = [(month_before(back - 1) - month_before(back)).days for back in range(1, 12)]
    assert [row["requestCount"] for row in one["monthly"][1:]] == whole


def test_updated_at_is_until_when_a_row_is_right(operator: httpx.Client, used: Any) -> None:
    """The time of the newest event that the sums hold: it moves when something is recorded."""

    def newest() -> str:
        event = operator.get(f"{OPERATOR}/events", params={"limit": 1}).json()["data"][0]
        return format_milliseconds(datetime.fromisoformat(event["recorded_at"]))

    key_id = create(operator)["id"]
    used((key_id, day_before(2), 1))
    first = newest()
    rows = usage(operator, key_id=key_id)
    assert {row["updatedAt"] for row in (*rows["daily"], *rows["monthly"])} == {first}
    used((key_id, day_before(0), 1))
    rows = usage(operator)
    assert {row["updatedAt"] for row in (*rows["daily"], *rows["monthly"])} == {newest()}
    assert newest() > first


def test_usage_of_an_unknown_key(operator: httpx.Client, world: Any) -> None:
    """404, also for a customer's key; one that was never used has no rows."""
    theirs = world.key(world.account(), dialect="bve")["key_id"]
    for key_id in ("no-uuid", str(uuid.UUID(int=7)), str(uuid.UUID(theirs[4:]))):
        found = operator.get(USAGE, params={"key_id": key_id})
        assert (found.status_code, found.json()["error"]["code"]) == (404, "not_found")
    fresh = usage(operator, key_id=create(operator)["id"])
    assert fresh == {"daily": [], "monthly": []}
