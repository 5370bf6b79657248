"""The credit ledger: R19, and the property that every balance follows from the one before it."""

import csv
import io
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from ledger import clock

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
USD, CREDIT = "USD", "CREDIT"
FIELDS = [
    *("time", "type", "description", "amount", "balance_after", "asset", "key_id", "integration"),
    *("model", "character", "request_id", "position"),
]


class Book:
    """An account's credit ledger, and ways to move its balances."""

    def __init__(self, served: Any, operator: httpx.Client, someone: Any) -> None:
        """Take an account without any money."""
        self.served = served
        self.operator = operator
        self.account_id = someone.account_id
        self.web = someone.client

    def post(self, path: str, body: Any = None, status: int | None = None) -> Any:
        """Post to the native API as the operator; ``status`` None: whatever comes."""
        found = self.operator.post(f"/ledger/v1{path}", json=body or {})
        if status is not None:
            assert found.status_code == status, found.text
        return found.json()

    def grant(self, amount: str, asset: str = CREDIT, **terms: Any) -> Any:
        """Add a lot."""
        body = {"amount": amount, "asset": asset, **terms}
        return self.post(f"/accounts/{self.account_id}/grants", body, 201)

    def key(self, name: str, **terms: Any) -> Any:
        """Issue a key."""
        body = {"name": name, "dialect": "reverie", **terms}
        return self.post(f"/accounts/{self.account_id}/keys", body, 201)

    def character(self, name: str) -> str:
        """Import a character with a scenario; return its slug."""
        body = {"name": name, "scenarios": [{"name": "Storm"}]}
        found = self.web.post("/api/v1/characters/import", json=body)
        assert found.status_code == 201
        slug: str = found.json()["slug"]
        return slug

    def chat(self, key: Any, model: str) -> int:
        """Chat with a key, or on the web; return the tokens that were used."""
        client = self.web if key is None else self.served.client(key["secret"])
        found = client.post("/api/device/v1/chat/completions", json={**CHAT, "model": model})
        assert found.status_code == 200, found.text
        if client is not self.web:
            client.close()
        used: int = found.json()["usage"]["total_tokens"]
        return used

    def page(self, **query: Any) -> Any:
        """Read a page as a person of the account."""
        path = f"/ledger/v1/accounts/{self.account_id}/credit-ledger"
        found = self.web.get(path, params=query)
        assert found.status_code == 200, found.text
        return found.json()

    def rows(self, limit: int = 1_000, **query: Any) -> list[dict[str, Any]]:
        """Read all pages."""
        page = self.page(limit=limit, **query)
        rows: list[dict[str, Any]] = page["data"]
        while page["has_more"]:
            page = self.page(limit=limit, after=page["next"])
            rows += page["data"]
        return rows

    def balances(self) -> dict[str, Decimal]:
        """Return the ledger's own balances."""
        found = self.web.get(f"/ledger/v1/accounts/{self.account_id}/balances").json()["balances"]
        return {each["asset"]: Decimal(each["balance"]) for each in found}

    def spend(self) -> dict[tuple[str, str], Decimal]:
        """Return the ledger's own sums by integration and asset, where there are any."""
        path = f"/ledger/v1/accounts/{self.account_id}/spend?group_by=integration"
        lines = self.web.get(path).json()["data"]
        found = {(each["integration"], each["asset"]): Decimal(each["amount"]) for each in lines}
        return {name: amount for name, amount in found.items() if amount}


@pytest.fixture
def book(
    served: Any, operator: httpx.Client, person: Callable[..., Any]
) -> Iterator[Callable[..., Book]]:
    """Return a way to open accounts without any money."""
    return lambda **terms: Book(served, operator, person(welcome=False, **terms))  # type: ignore[return-value]


def check(book: Book, rows: list[dict[str, Any]]) -> None:
    """Hold all rows of a ledger to what a ledger is."""
    left = {asset: amount for asset, amount in book.balances().items() if amount}
    newest: dict[str, Decimal] = {}
    for row in rows:
        newest.setdefault(row["asset"], Decimal(row["balance_after"]))
    assert {asset: amount for asset, amount in newest.items() if amount} == left
    before: dict[str, Decimal] = {}
    sums: Counter[tuple[str, str]] = Counter()
    for row in reversed(rows):
        assert list(row) == FIELDS
        asset, amount = row["asset"], Decimal(row["amount"])
        assert amount
        assert Decimal(row["balance_after"]) == before.get(asset, Decimal(0)) + amount
        before[asset] = Decimal(row["balance_after"])
        if row["integration"] is not None:
            sums[row["integration"], asset] -= amount  # type: ignore[assignment]
    assert dict(sums) == book.spend()
    places = [(row["position"]["lane"], row["position"]["seq"]) for row in rows]
    assert places == sorted(places, reverse=True)
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)


def test_r19_rows_name_the_key_also_after_revocation(book: Any) -> None:
    """R19: key id and name stay on the rows; sums by name add up to the total."""
    mine = book()
    mine.grant("100000", reason="Starter pack")
    luna = mine.character("Luna")
    bot, tutor = mine.key("Discord bot"), mine.key("Tutor")
    used = [mine.chat(bot, luna), mine.chat(tutor, f"{luna}/storm"), mine.chat(None, luna)]
    mine.post(f"/keys/{bot['key_id']}/revoke", status=200)
    rows = mine.rows()
    check(mine, rows)
    assert [row["type"] for row in rows] == ["Chat", "Chat", "Chat", "Purchase"]
    assert [row["amount"] for row in rows] == [*(f"-{each}" for each in reversed(used)), "100000"]
    web, api, first, pack = rows
    assert (first["key_id"], first["integration"]) == (bot["key_id"], "Discord bot")
    assert first["description"] == f"API, Discord bot: {luna}"
    assert (api["key_id"], api["integration"]) == (tutor["key_id"], "Tutor")
    assert (api["model"], api["character"]) == (f"{luna}/storm", luna)
    assert (web["description"], web["integration"]) == (f"Web: {luna}", "Web")
    assert (pack["description"], pack["key_id"], pack["model"]) == ("Starter pack", None, None)
    assert pack["balance_after"] == "100000"
    by_name: Counter[str] = Counter()
    for row in rows[:3]:
        by_name[row["integration"]] -= int(row["amount"])
    assert by_name == {"Discord bot": used[0], "Tutor": used[1], "Web": used[2]}
    assert sum(by_name.values()) == 100_000 - int(web["balance_after"])


def test_filters_leave_balances_as_they_are(book: Any) -> None:
    """Type, range, character, model, key, asset: fewer rows, the same balances."""
    mine = book()
    mine.grant("50000")
    mine.grant("5", USD, kind="promotional", reason="Hello")
    luna, sol = mine.character("Luna"), mine.character("Sol")
    bot, tutor = mine.key("Bot"), mine.key("Bot")
    for key, model in ((bot, luna), (bot, f"{luna}/storm"), (tutor, sol), (None, luna)):
        mine.chat(key, model)
    rows = mine.rows()
    check(mine, rows)

    def only(**query: Any) -> list[dict[str, Any]]:
        found = mine.rows(limit=2, **query)
        assert found == [row for row in rows if row in found]
        return found

    assert len(only(type="Chat")) == 4
    assert [row["type"] for row in only(type="Bonus")] == ["Bonus"]
    assert only(type="Expiry") == []
    assert len(only(character=luna)) == 3
    assert [row["model"] for row in only(model=f"{luna}/storm")] == [f"{luna}/storm"]
    assert len(only(key=bot["key_id"])) == 2
    assert len(only(key=tutor["key_id"], character=luna)) == 0
    assert [row["asset"] for row in only(asset=USD)] == [USD]
    assert only(**{"from": rows[1]["time"]}) == rows[:2]
    assert only(to=rows[1]["time"]) == rows[2:]
    assert only(**{"from": rows[2]["time"], "to": rows[0]["time"]}) == rows[1:3]
    today = clock.now().date()
    assert only(**{"from": str(today - timedelta(days=1))}) == rows
    assert only(**{"from": str(today + timedelta(days=2))}) == []
    assert only(to=str(today - timedelta(days=1))) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"type": "Gift"}, "type"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-12-02", "to": "2026-12-01"}, "to"),
        ({"key": "nothing"}, "key"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"after": "x"}, "after"),
        ({"after": "A" * 60}, "after"),
        ({"after": "!" * 9_000}, "after"),
        ({"other": "1"}, "other"),
    ],
)
def test_a_query_that_is_none_is_refused(book: Any, query: dict[str, str], field: str) -> None:
    """400 that names the parameter."""
    mine = book()
    path = f"/ledger/v1/accounts/{mine.account_id}/credit-ledger"
    found = mine.web.get(path, params=query)
    assert found.status_code == 400, found.text
    assert found.json()["errors"][0]["field"] == field


def test_a_cursor_is_of_one_account_and_one_list(book: Any) -> None:
    """Signed: nobody changes what it holds, or reads another account by it (promise 15)."""
    mine, other = book(), book()
    for each in (mine, other):
        each.grant("1")
        each.grant("2")
    cursor = mine.page(limit=1)["next"]
    assert mine.page(after=cursor)["data"][0]["amount"] == "1"
    path = f"/ledger/v1/accounts/{other.account_id}/credit-ledger"
    assert other.web.get(path, params={"after": cursor}).status_code == 400
    assert mine.web.get(path).status_code == 404
    swapped = cursor[:-4] + ("AAAA" if cursor[-4:] != "AAAA" else "BBBB")
    own = f"/ledger/v1/accounts/{mine.account_id}/credit-ledger"
    assert mine.web.get(own, params={"after": swapped}).status_code == 400
    assert mine.web.get(own, params={"after": cursor, "type": "Chat"}).status_code == 400
    filtered = mine.page(limit=1, type="Purchase")["next"]
    assert mine.page(after=filtered, type="Purchase") == mine.page(after=filtered)


def test_pages_stay_what_they_are_while_usage_is_written(book: Any) -> None:
    """What comes between two pages shifts nothing and is in neither."""
    mine = book()
    for amount in range(1, 8):
        mine.grant(str(amount))
    rows = mine.rows()
    page = mine.page(limit=3)
    seen = page["data"]
    while page["has_more"]:
        mine.grant("100")
        page = mine.page(limit=3, after=page["next"])
        seen += page["data"]
    assert seen == rows
    check(mine, mine.rows())


def test_csv_has_the_same_rows(book: Any) -> None:
    """``Accept: text/csv``: the same columns, the cursor in a header, no formula of a client."""
    mine = book()
    mine.grant("50000", reason="=1+1")
    mine.chat(mine.key("+Bot"), mine.character("Luna"))
    path = f"/ledger/v1/accounts/{mine.account_id}/credit-ledger"
    accept = {"Accept": "text/csv"}
    found = mine.web.get(path, headers=accept)
    assert found.headers["content-type"] == "text/csv; charset=utf-8"
    assert "x-next-cursor" not in found.headers
    lines = list(csv.DictReader(io.StringIO(found.text)))
    rows = mine.rows()
    assert list(lines[0]) == FIELDS
    for line, row in zip(lines, rows, strict=True):
        for name in ("time", "type", "amount", "balance_after", "asset"):
            assert line[name] == row[name]
        assert line["position"] == f"{row['position']['lane']}:{row['position']['seq']}"
    assert (lines[0]["integration"], lines[1]["description"]) == ("'+Bot", "'=1+1")
    first = mine.web.get(path, headers=accept, params={"limit": 1})
    rest = mine.web.get(path, headers=accept, params={"after": first.headers["x-next-cursor"]})
    assert first.text + rest.text.partition("\r\n")[2] == found.text


def test_a_daily_allowance_is_a_daily_login(book: Any) -> None:
    """What an account has anew each day says so, and what is left of it expires."""
    mine = book()
    path = f"/ledger/v1/accounts/{mine.account_id}/allowances/{CREDIT}"
    assert mine.operator.put(path, json={"amount": "10"}).status_code == 200
    mine.grant("5", kind="adjustment", reason="Sorry")
    mine.post(
        f"/accounts/{mine.account_id}/adjustments",
        {"amount": "-2", "asset": CREDIT, "reason": "Oops"},
        201,
    )
    lot = mine.grant("3", kind="promotional", reason="")["lot"]
    mine.post(f"/accounts/{mine.account_id}/grants/{lot}/void", {"reason": "Meant another"}, 200)
    rows = mine.rows()
    check(mine, rows)
    assert [(row["type"], row["description"], row["amount"]) for row in rows] == [
        ("Adjustment", f"Grant {lot} withdrawn: Meant another", "-3"),
        ("Bonus", "Bonus", "3"),
        ("Adjustment", "Oops", "-2"),
        ("Adjustment", "Sorry", "5"),
        ("Daily login", f"Allowance of {clock.now().date()}", "10"),
    ]


def test_what_a_request_held_of_a_grant_that_ended_expires_with_it(book: Any) -> None:
    """Withdrawn under a hold: the rest goes at once, the held part as the request ends."""
    mine = book()
    lot, key = mine.grant("100")["lot"], mine.key("Bot")
    held = {"key_id": key["key_id"], "model": "luna", "usage": {"input": 30}}
    for name in ("a", "b"):
        mine.post("/requests", {**held, "request_id": name}, 201)
    mine.post(f"/accounts/{mine.account_id}/grants/{lot}/void", status=200)
    mine.post("/requests/a/settle", {"key_id": key["key_id"], "usage": {"input": 20}}, 200)
    mine.post("/requests/b/release", {"key_id": key["key_id"]}, 200)
    rows = mine.rows()
    check(mine, rows)
    assert [(row["type"], row["amount"], row["integration"]) for row in rows] == [
        ("Expiry", "-30", None),
        ("Expiry", "-10", None),
        ("Chat", "-20", "Bot"),
        ("Adjustment", "-40", None),
        ("Purchase", "100", None),
    ]
    assert mine.rows(limit=1) == rows
    assert [row["amount"] for row in mine.rows(key=key["key_id"])] == ["-20"]


class Story:
    """Things that happen to an account by chance, the same for the same seed."""

    def __init__(self, mine: Book, seed: int) -> None:
        """Take an account, and give it keys of two dialects."""
        self.mine = mine
        self.chance = random.Random(seed)  # noqa: S311 - a test's
        self.keys = [mine.key("Bot"), mine.key("Tutor"), mine.key("Bot", dialect="venice")]
        self.lots: list[int] = []
        self.holds: list[tuple[str, str]] = []

    def move(self, name: str) -> None:
        """Do one thing that moves a balance, or is refused."""
        does = (self.grant, self.grant, self.void, self.adjust, self.reserve, self.reserve)
        does += (self.settle, self.release, self.record, self.record)
        self.chance.choice(does)(name)

    def _asset(self) -> str:
        return self.chance.choice((CREDIT, CREDIT, USD, "CAD"))

    def grant(self, _: str) -> None:
        """Add a lot that may end soon."""
        terms: dict[str, Any] = {"kind": self.chance.choice(("paid", "promotional"))}
        if self.chance.randint(0, 2) == 0:
            terms["expires_at"] = (clock.now() + timedelta(milliseconds=400)).isoformat()
        asset = self._asset()
        amount = str(self.chance.randint(1, 4_000 if asset == CREDIT else 3))
        self.lots.append(self.mine.grant(amount, asset, **terms)["lot"])

    def void(self, _: str) -> None:
        """Withdraw a lot."""
        if self.lots:
            lot = self.chance.choice(self.lots)
            self.mine.post(f"/accounts/{self.mine.account_id}/grants/{lot}/void")

    def adjust(self, _: str) -> None:
        """Add or take away by hand."""
        amount = f"{self.chance.choice(('', '-'))}{self.chance.randint(1, 3)}.5"
        body = {"amount": amount, "asset": self._asset(), "reason": "r"}
        self.mine.post(f"/accounts/{self.mine.account_id}/adjustments", body)

    def _metered(self, name: str) -> dict[str, Any]:
        key, used = self.chance.choice(self.keys), self.chance.randint(0, 900)
        body = {"key_id": key["key_id"], "request_id": name}
        if key["dialect"] != "reverie":
            return {**body, "model": "m", "usage": {"input": used * 1_000}}
        return {
            **body,
            "model": self.chance.choice(("luna", "sol/storm")),
            "usage": {"input": used},
            "condition": self.chance.choice(("", "x1_1")),
        }

    def reserve(self, name: str) -> None:
        """Hold a worst case."""
        body = self._metered(name)
        self.mine.post("/requests", {**body, "ttl_seconds": 60})
        self.holds.append((name, body["key_id"]))

    def settle(self, _: str) -> None:
        """Charge what was held, less or more."""
        if self.holds:
            name, key = self.holds.pop(self.chance.randrange(len(self.holds)))
            body = {"key_id": key, "usage": {"input": self.chance.randint(0, 900)}}
            self.mine.post(f"/requests/{name}/settle", body)

    def release(self, _: str) -> None:
        """Give back what was held."""
        if self.holds:
            name, key = self.holds.pop(self.chance.randrange(len(self.holds)))
            self.mine.post(f"/requests/{name}/release", {"key_id": key})

    def record(self, name: str) -> None:
        """Charge at once."""
        self.mine.post("/usage", self._metered(name))


@pytest.mark.parametrize("seed", range(6))
def test_balance_after_is_the_balance_before_and_the_amount(book: Any, seed: int) -> None:
    """The property, over whatever moves a balance: whole, by pages of any size, and filtered."""
    mine = book(pays_with=[USD, "CAD"], overdraft={USD: "3", CREDIT: "5000"}, unpriced="record")
    story = Story(mine, seed)
    for step in range(60):
        story.move(f"{seed}-{step}")
    # What is to end does, and is written down before the next decision.
    time.sleep(0.5)
    story.record(f"{seed}-last")
    rows = mine.rows()
    check(mine, rows)
    assert len(rows) > 15
    assert mine.rows(limit=story.chance.randint(1, 7)) == rows
    credit = [row for row in rows if row["asset"] == CREDIT]
    assert mine.rows(limit=3, asset=CREDIT) == credit
    for key in story.keys:
        found = mine.rows(limit=5, key=key["key_id"])
        assert found == [row for row in rows if row["key_id"] == key["key_id"]]


def test_what_one_asset_repays_of_another_shows_in_both(book: Any) -> None:
    """At par, as two movements; what a grant repays of its own asset moves no balance."""
    mine = book(pays_with=[USD, CREDIT], overdraft={CREDIT: "5000"})
    key = mine.key("Bot")
    line = {"key_id": key["key_id"], "request_id": "r1", "model": "luna", "usage": {"input": 9}}
    mine.post("/usage", line)
    owed = -mine.balances()[CREDIT]
    assert owed > 0
    granted = mine.grant("10", USD)
    rows = mine.rows()
    check(mine, rows)
    assert mine.balances() == {CREDIT: 0, USD: 10 - owed}
    assert Decimal(granted["remaining"]) == 10 - owed
    moved = [(row["type"], row["asset"], Decimal(row["amount"])) for row in rows[:3]]
    assert moved == [
        ("Adjustment", CREDIT, owed), ("Adjustment", USD, -owed), ("Purchase", USD, 10)
    ]  # fmt: skip


def test_a_long_history_goes_on_page_by_page(book: Any) -> None:
    """More events than are read at once: nothing lost between reads, and bounded."""
    mine = book()
    mine.grant("100000")
    key = mine.key("Bot")
    lines = [
        {"key_id": key["key_id"], "request_id": f"r{n}", "model": "luna", "usage": {"input": 1}}
        for n in range(1_300)
    ]
    found = mine.operator.post("/ledger/v1/usage", json=lines)
    assert found.json()["recorded"] == 1_300
    rows = mine.rows(limit=700)
    check(mine, rows)
    assert len(rows) == 1_301
    assert [row["amount"] for row in mine.rows(type="Purchase")] == ["100000"]
    assert mine.rows(limit=499) == rows


def test_only_who_may_see_money_sees_it(book: Any, served: Any) -> None:
    """The role ``member`` sees its own keys and no balance sheet."""
    mine = book()
    login = {"email": f"m-{mine.account_id[-12:]}@example.com", "password": "correct horse battery"}
    mine.post(f"/accounts/{mine.account_id}/members", {**login, "role": "member"}, 201)
    token = mine.post("/login", login, 200)["access_token"]
    with served.client(token) as client:
        path = f"/ledger/v1/accounts/{mine.account_id}/credit-ledger"
        assert client.get(path).status_code == 403
    with served.client(None) as client:
        assert client.get(path).status_code == 401
