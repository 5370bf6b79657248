"""Every dialect over four worker processes: revocation, rotation under load, limits to the last.

Each test holds connections whose other ends are known, some to every worker, and uses all at once.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
import pytest

from ledger.ids import OPERATOR_ACCOUNT, format_id
from tests.conftest import OPERATOR_SECRET
from tests.dialects.fleet import Fleet, Line, Member, at_once, lines, native, running
from tests.dialects.scene import PLAYER, bearer
from tests.dialects.test_conformance import DRIVERS, House, Made, metered
from tests.faults.rig import until

pytestmark = pytest.mark.processes

WORKERS = 4
EACH = 2
"""Connections to every worker."""
LATE = 6
"""Requests on each connection after a revocation."""
LOAD = 24
"""Requests on each connection while a key rotates."""
MILLION = 1_000_000
PRICES = {"keyledger-small": ("0.1", "0.4"), "keyledger-large": ("2", "8")}
"""Of the sample models, in and out, per million tokens: in USD, and in CAD with ryvion."""
SHORT = {
    "model": "keyledger-small",
    "max_tokens": 4,
    "messages": [{"role": "user", "content": "Hello"}],
}
SDK = "/api/v1/sdk"
KEYS = "/api/v1/api_keys"


@pytest.fixture(scope="module")
def fleet(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four workers, for the module."""
    home = tmp_path_factory.mktemp("service") / "k"
    with running(dialects_url, home, workers=WORKERS) as found:
        yield found


@pytest.fixture(scope="module")
def house(fleet: Fleet) -> House:
    """The service and somebody with credit of every kind."""
    person = fleet.person()
    fleet.grant(person.account_id, USD="50", CAD="50", CREDIT="5000000")
    return House(fleet, fleet.operator, person)


@pytest.fixture
def held(fleet: Fleet) -> Sequence[Line]:
    """Connections to all four workers."""
    found = lines(fleet, EACH)
    assert len({line.worker for line in found}) == WORKERS
    return found


class Sent(NamedTuple):
    """One request of a client that hammers."""

    place: int
    """Which connection."""
    is_metered: bool
    is_late: bool
    """It began after the revocation had been answered."""
    status: int


class Hammer:
    """Clients that never rest: on every connection a read, a metered call, and so on."""

    def __init__(self, house: House, dialect: str, secret: str, held: Sequence[Line]) -> None:
        """Take a key's secret and where to use it."""
        self.house = house
        self.driver = DRIVERS[dialect]
        self.secret = secret
        self.held = held
        self.sent: list[Sent] = []
        self.revoked = threading.Event()
        self.given_up = threading.Event()

    def has_begun(self) -> bool:
        """Return whether both routes have answered on every connection."""
        good = {(sent.place, sent.is_metered) for sent in list(self.sent) if sent.status == 200}
        return len(good) == 2 * len(self.held)

    def run(self, place: int) -> None:
        """Go on until some requests have been sent late."""
        late = 0
        for turn in itertools.count():
            is_late = self.revoked.is_set()
            status = self._ask(self.held[place].client, turn % 2).status_code
            self.sent.append(Sent(place, bool(turn % 2), is_late, status))
            late += is_late
            if late == LATE or self.given_up.is_set():
                return

    def _ask(self, client: httpx.Client, metering: int) -> httpx.Response:
        if metering:
            return metered(self.driver, self.house, client, self.secret)
        return client.get(self.driver.reads, headers=self.driver.show(self.secret))


@pytest.mark.parametrize("dialect", DRIVERS)
def test_no_worker_answers_after_a_revocation(
    fleet: Fleet, house: House, held: Sequence[Line], dialect: str
) -> None:
    """Promise 6, R15, FO3, BV7, Y7, V5: nothing that began after the revocation's reply succeeds.

    On reading and on metered routes, in each of four workers.
    """
    driver = DRIVERS[dialect]
    made = driver.create(house)
    fleet.lift(made.key_id)
    hammer = Hammer(house, dialect, made.secret, held)
    with ThreadPoolExecutor(len(held)) as pool:
        runs = [pool.submit(hammer.run, place) for place in range(len(held))]
        try:
            until(hammer.has_begun, within=30)
            assert driver.revoke(house, made.key_id).status_code in {200, 204}
            hammer.revoked.set()
        except BaseException:
            hammer.given_up.set()
            raise
        for run in runs:
            run.result()
    early = {sent.status for sent in hammer.sent if not sent.is_late}
    assert early <= {200, *driver.refused}
    late = [sent for sent in hammer.sent if sent.is_late]
    assert Counter(sent.place for sent in late) == dict.fromkeys(range(len(held)), LATE)
    assert {sent.is_metered for sent in late} == {True, False}
    assert {sent.status for sent in late} <= driver.refused


def chat_of(dialect: str, house: House) -> Callable[[httpx.Client, str, int], httpx.Response]:
    """Return a way to make a short metered call of a dialect, as a numbered player."""
    persona = house.persona if dialect == "foil" else ""

    def chat(client: httpx.Client, secret: str, place: int) -> httpx.Response:
        shown = DRIVERS[dialect].show(secret)
        if dialect == "foil":
            said = {"message": "Hello", "user_session_id": f"player-{place}"}
            return client.post(f"{SDK}/chat/{persona}/message", json=said, headers=shown)
        model = house.character if dialect == "reverie" else SHORT["model"]
        path = DRIVERS[dialect].metered[0]
        return client.post(path, json={**SHORT, "model": model}, headers=shown)

    return chat


def cost_of(reply: httpx.Response, dialect: str, model: str = "keyledger-small") -> Decimal:
    """Return what a reply says that it cost: its tokens at the price."""
    if dialect == "foil":
        return Decimal(0)
    said = reply.json()["usage"]
    if dialect == "reverie":
        return Decimal(said["total_tokens"])
    price_in, price_out = map(Decimal, PRICES[model])
    return (said["prompt_tokens"] * price_in + said["completion_tokens"] * price_out) / MILLION


ASSETS = {"reverie": "CREDIT", "foil": "USD", "bve": "USD", "ryvion": "CAD", "venice": "USD"}


class Purse:
    """What an account has of an asset, and what a key of it was charged."""

    def __init__(self, fleet: Fleet, account_id: str, asset: str) -> None:
        """Take whose and of what."""
        self._operator = fleet.operator
        self._path = f"/ledger/v1/accounts/{account_id}"
        self._asset = asset

    def balance(self) -> Decimal:
        """Return the balance once nothing is held."""
        return until(self._settled, within=10)[0]

    def _settled(self) -> tuple[Decimal] | None:
        found = self._operator.get(f"{self._path}/balances").json()["balances"]
        (mine,) = [each for each in found if each["asset"] == self._asset]
        return (Decimal(mine["balance"]),) if Decimal(mine["pending"]) == 0 else None

    def charged(self, key_id: str) -> tuple[int, Decimal]:
        """Return requests and sum of the charges of a key, from the projection of spend."""
        found = self._operator.get(f"{self._path}/spend", params={"group_by": "key"}).json()
        named = native(key_id).rpartition("/")[2]
        rows = [row for row in found["data"] if row.get("key_id") == named]
        amounts = [Decimal(row["amount"]) for row in rows]
        return sum(row["requests"] for row in rows), sum(amounts, Decimal(0))


class Rotation:
    """A key that changes its secret while clients use it, each with the one it knows."""

    def __init__(self, house: House, made: Made) -> None:
        """Begin with the first secret."""
        self._house = house
        self._made = made
        self.secrets = [made.secret]
        self.done = 0

    def known(self, number: int) -> str:
        """Return a client's secret: the newest, or with every other request the one before it."""
        newest = len(self.secrets) - 1
        return self.secrets[max(0, newest - number % 2)]

    def rotate(self) -> None:
        """Give the key another secret; those before go on for a while."""
        path = f"{native(self._made.key_id)}/rotate"
        found = self._house.operator.post(path, json={"grace_seconds": 600})
        assert found.status_code == 200, found.text
        self.secrets.append(found.json()["secret"])


@pytest.mark.parametrize("dialect", DRIVERS)
def test_nothing_fails_while_a_key_rotates(
    fleet: Fleet, house: House, held: Sequence[Line], dialect: str
) -> None:
    """R16, Y9: four secrets within a load on four workers, no failure, and spend conserved.

    Charges by the projection = tokens of the replies at the price = change of the balance.
    """
    made = DRIVERS[dialect].create(house)
    fleet.lift(made.key_id)
    if dialect == "foil":
        house.persona = begin(held, made.secret)
    chat = chat_of(dialect, house)
    of_operator = format_id("acct", OPERATOR_ACCOUNT)
    account_id = of_operator if dialect == "bve" else house.person.account_id
    purse = Purse(fleet, account_id, ASSETS[dialect])
    before = purse.balance()
    rotation = Rotation(house, made)
    total = LOAD * len(held)

    def one(client: httpx.Client, number: int) -> httpx.Response:
        found = chat(client, rotation.known(number), number % len(held))
        rotation.done += 1
        return found

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(at_once, held, total, one)
        for turn in (1, 2, 3):
            until(lambda: load.done() or rotation.done >= turn * total // 5, within=30)  # noqa: B023
            rotation.rotate()
        replies = load.result()
    assert Counter(reply.status_code for reply in replies) == {200: total}
    said = sum((cost_of(reply, dialect) for reply in replies), Decimal(0))
    assert before - purse.balance() == said
    # Of foil also the list of personas and the beginnings were counted.
    extra = 1 + len(held) if dialect == "foil" else 0
    until(lambda: purse.charged(made.key_id)[0] >= total + extra, within=10)
    assert purse.charged(made.key_id) == (total + extra, said)
    assert dialect == "foil" or said > 0


def begin(held: Sequence[Line], secret: str) -> str:
    """Begin a session of foil for each connection, and return the persona's path segment."""
    shown = {"X-API-Key": secret}
    persona = held[0].client.get(f"{SDK}/personas", headers=shown).json()[0]["id"]
    for place, line in enumerate(held):
        body = {**PLAYER, "user_session_id": f"player-{place}"}
        path = f"{SDK}/chat/{persona}/init-session"
        assert line.client.post(path, json=body, headers=shown).status_code == 200
    return persona


def statuses(found: Sequence[httpx.Response]) -> Counter[int]:
    """Count answers by status."""
    return Counter(reply.status_code for reply in found)


def test_fo8_thirty_messages_and_fo9_sixty_others_a_minute(
    house: House, held: Sequence[Line]
) -> None:
    """FO8, FO9: of 45 messages 30 pass, of 80 other calls 60, in four workers, each apart.

    Another key of the account has its own.
    """
    create = DRIVERS["foil"].create
    first, second = create(house).secret, create(house).secret
    house.persona = begin(held, second)
    say = chat_of("foil", house)
    found = at_once(held, 45, lambda client, number: say(client, first, number % len(held)))
    assert statuses(found) == {200: 30, 429: 15}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in found if reply.is_error)
    look = {"X-API-Key": first}
    found = at_once(held, 80, lambda client, _: client.get(f"{SDK}/personas", headers=look))
    assert statuses(found) == {200: 60, 429: 20}
    assert say(held[0].client, second, 0).status_code == 200


@pytest.mark.parametrize(
    ("terms", "passed", "words"),
    [
        ({}, 60, "Rate limit exceeded: requests per minute"),
        ({"rpm_limit": 500, "rpd_limit": 100}, 100, "Rate limit exceeded: requests per day"),
        ({"rpm_limit": 500, "monthly_limit": 40}, 40, "Monthly request limit exceeded"),
    ],
    ids=["60 a minute by default", "100 a day", "40 a month"],
)
def test_bve_counts_requests_over_processes(
    house: House, held: Sequence[Line], terms: Mapping[str, int], passed: int, words: str
) -> None:
    """BV2, BV3: per minute (60 unless said), per day and per month of UTC: exactly so many pass."""
    secret = bve_key(house, **terms)
    chat = chat_of("bve", house)
    found = at_once(held, passed + 30, lambda client, number: chat(client, secret, number))
    assert statuses(found) == {200: passed, 429: 30}
    assert {reply.json()["error"]["message"] for reply in found if reply.is_error} == {words}


def bve_key(house: House, **terms: int) -> str:
    """Create a key of bve on some terms; return its secret."""
    made = house.operator.post("/admin/api-keys", json={"name": "bot", **terms})
    assert made.status_code == 201, made.text
    return made.json()["key"]


def test_bve_counts_monthly_tokens_over_processes(house: House, held: Sequence[Line]) -> None:
    """BV3: tokens of a month never exceed the ceiling, and go on until none would fit.

    What a request might use is held while it runs, so no moment lets two workers past it.
    """
    ceiling = 600
    secret = bve_key(house, rpm_limit=500, monthly_token_limit=ceiling)
    chat = chat_of("bve", house)
    found = at_once(held, 96, lambda client, number: chat(client, secret, number))
    while found[-1].status_code == 200:
        found.append(chat(held[0].client, secret, 0))
    good = [reply.json()["usage"]["total_tokens"] for reply in found if reply.status_code == 200]
    assert statuses(found).keys() == {200, 429}
    assert sum(good) <= ceiling
    words = {reply.json()["error"]["message"] for reply in found if reply.is_error}
    assert words == {"Monthly token limit exceeded"}
    assert ceiling - sum(good) < 60, "one more would have fitted"


def record(house: House, made: Made, number: int, **usage: int) -> dict[str, Any]:
    """Return the body that records usage of a key, exactly priced."""
    key_id = native(made.key_id).rpartition("/")[2]
    named = {"key_id": key_id, "request_id": f"{house.person.email}-{key_id}-{number}"}
    return {**named, "model": "keyledger-large", "usage": usage}


def customer(fleet: Fleet, *limits: Mapping[str, Any], **amounts: str) -> House:
    """Return somebody with limits of their account and some credit, beside the operator."""
    person: Member = fleet.person(limits=list(limits), pays_with=["DIEM", "USD"])
    fleet.grant(person.account_id, **amounts)
    return House(fleet, fleet.operator, person)


def hourly(ceiling: str) -> dict[str, Any]:
    """Return ryvion's limit of an account's spend in any hour."""
    return {"kind": "spend", "window": "rolling:3600", "ceiling": ceiling, "assets": ["CAD"]}


def test_y11_five_dollars_an_hour_over_processes(fleet: Fleet, held: Sequence[Line]) -> None:
    """Y11: 64 charges of 0.10 CAD at once by two keys of an account: 50 pass, 5.00 CAD is spent."""
    buyer = customer(fleet, hourly("5"), CAD="100")
    keys = [DRIVERS["ryvion"].create(buyer) for _ in range(2)]

    def spend(client: httpx.Client, number: int) -> httpx.Response:
        body = record(buyer, keys[number % 2], number, input=50_000)
        return client.post("/ledger/v1/usage", json=body, headers=operator())

    found = at_once(held, 64, spend)
    assert statuses(found) == {200: 50, 429: 14}
    assert Purse(fleet, buyer.person.account_id, "CAD").balance() == 95


def operator() -> dict[str, str]:
    """Show the operator's secret."""
    return bearer(OPERATOR_SECRET)


def test_y11_no_chat_spends_above_the_hours_ceiling(fleet: Fleet, held: Sequence[Line]) -> None:
    """Y11: chats of two keys, by either header, never sum to more than a small ceiling."""
    ceiling = Decimal("0.002")
    buyer = customer(fleet, hourly(str(ceiling)), CAD="100")
    keys = [DRIVERS["ryvion"].create(buyer).secret for _ in range(2)]

    def chat(client: httpx.Client, number: int) -> httpx.Response:
        secret = keys[number % 2]
        shown = bearer(secret) if number % 3 else {"X-API-Key": secret}
        body = {**SHORT, "model": "keyledger-large"}
        return client.post("/v1/chat/completions", json=body, headers=shown)

    found = at_once(held, 96, chat)
    while found[-1].status_code == 200:
        found.append(chat(held[0].client, 0))
    good = [reply for reply in found if reply.status_code == 200]
    assert statuses(found).keys() == {200, 429}
    spent = sum((cost_of(reply, "ryvion", "keyledger-large") for reply in good), Decimal(0))
    assert 0 < spent <= ceiling
    assert ceiling - spent < Decimal("0.0003"), "one more would have fitted"
    assert Purse(fleet, buyer.person.account_id, "CAD").balance() == 100 - spent


@pytest.mark.parametrize("period", ["EPOCH", "MONTH", "LIFETIME"])
def test_v12_a_cap_of_every_period_holds_over_processes(
    fleet: Fleet, held: Sequence[Line], period: str
) -> None:
    """V12: per day, month and lifetime, 40 charges of 0.10 USD under a cap of 1 USD: exactly 10."""
    tenant = customer(fleet, USD="10")
    made = venice_key(tenant, period, 1)

    def spend(client: httpx.Client, number: int) -> httpx.Response:
        body = record(tenant, made, number, input=50_000)
        return client.post("/ledger/v1/usage", json=body, headers=operator())

    assert statuses(at_once(held, 40, spend)) == {200: 10, 429: 30}
    assert used(tenant, made) == 1


def venice_key(tenant: House, period: str, usd: object) -> Made:
    """Create a key of venice with a cap."""
    terms = {"consumptionLimit": {"usd": usd}, "limitPeriod": period}
    body = {"apiKeyType": "INFERENCE", "description": "capped", **terms}
    made = tenant.person.client.post(KEYS, json=body)
    assert made.status_code == 200, made.text
    return Made(made.json()["data"]["id"], made.json()["data"]["apiKey"], made)


def used(tenant: House, made: Made) -> Decimal:
    """Return what a key spent of its cap, as its details say."""
    found = tenant.person.client.get(f"{KEYS}/{made.key_id}").json()["data"]
    return Decimal(found["currentPeriodUsage"]["usd"])


def test_v12_no_chat_spends_above_a_cap(fleet: Fleet, held: Sequence[Line]) -> None:
    """V12: chats on four workers never sum to more than the cap, and say whose limit it is."""
    tenant = customer(fleet, USD="10")
    made = venice_key(tenant, "EPOCH", 0.0001)
    fleet.lift(made.key_id, *caps(fleet, made))
    chat = chat_of("venice", tenant)
    found = at_once(held, 64, lambda client, number: chat(client, made.secret, number))
    good = [reply for reply in found if reply.status_code == 200]
    spent = sum((cost_of(reply, "venice") for reply in good), Decimal(0))
    assert statuses(found).keys() == {200, 402}
    assert 0 < spent <= Decimal("0.0001")
    assert len({reply.text for reply in found if reply.is_error}) == 1


def caps(fleet: Fleet, made: Made) -> list[dict[str, Any]]:
    """Return a key's limits on spending, without those on how often it asks and fails."""
    found = fleet.operator.get(native(made.key_id)).json()["limits"]
    names = ("kind", "window", "ceiling", "assets")
    return [{name: each[name] for name in names} for each in found if each["kind"] == "spend"]


def test_twenty_creations_a_minute_whatever_the_dialect(fleet: Fleet, held: Sequence[Line]) -> None:
    """V10: 40 creations at once, on four dialects' paths and in four workers, make exactly 20."""
    limit = {"kind": "key_creations", "window": "rolling:60", "ceiling": "20"}
    owner = customer(fleet, limit)
    found = at_once(held, 40, lambda client, number: create(client, owner, number))
    assert sorted(statuses(found)) in ([200, 201, 429], [201, 429])
    assert sum(reply.is_success for reply in found) == 20
    assert all("retry-after" in reply.headers for reply in found if reply.is_error)
    assert active_keys(owner) == 20


def create(client: httpx.Client, owner: House, number: int) -> httpx.Response:
    """Create a key on one of four paths."""
    paths = (
        (KEYS, {"apiKeyType": "INFERENCE", "description": "x"}),
        ("/api/v1/auth/api-keys", {"name": "x"}),
        (f"{SDK}/api-keys", {"name": "x"}),
        (
            f"/ledger/v1/accounts/{owner.person.account_id}/keys",
            {"name": "x", "dialect": "reverie"},
        ),
    )
    # By the number of the round, so that each connection asks on every path.
    path, body = paths[(number // (WORKERS * EACH)) % len(paths)]
    return client.post(path, json=body, headers=bearer(owner.person.token))


def active_keys(owner: House) -> int:
    """Return how many keys of an account are active."""
    return owner.operator.get(f"/ledger/v1/accounts/{owner.person.account_id}").json()[
        "active_keys"
    ]


def test_five_hundred_active_keys_whatever_the_dialect(fleet: Fleet, held: Sequence[Line]) -> None:
    """V11: at 495 active keys, 20 creations at once make exactly 5; a revocation makes room."""
    limit = {"kind": "active_keys", "window": "lifetime", "ceiling": "500"}
    owner = customer(fleet, limit)
    made = at_once(held, 495, lambda client, number: create(client, owner, number))
    assert all(reply.is_success for reply in made)
    found = at_once(held, 20, lambda client, number: create(client, owner, number))
    assert sum(reply.is_success for reply in found) == 5
    assert active_keys(owner) == 500
    oldest = made[0].json()["data"]["id"]
    assert owner.operator.post(f"{native(oldest)}/revoke").status_code == 200
    assert create(held[0].client, owner, 0).status_code == 200


def test_the_last_fifty_breaches_over_processes(fleet: Fleet, held: Sequence[Line]) -> None:
    """V8: 60 breaches of 50 requests a minute, caused on four workers: the log lists 50."""
    tenant = customer(fleet, USD="10")
    body = {"apiKeyType": "ADMIN", "description": "x"}
    admin = tenant.person.client.post(KEYS, json=body).json()["data"]
    busy = DRIVERS["venice"].create(tenant)
    chat = {**SHORT, "model": "keyledger-large", "max_tokens": 1}
    path = DRIVERS["venice"].metered[0]

    def ask(client: httpx.Client, _: int) -> httpx.Response:
        return client.post(path, json=chat, headers=bearer(busy.secret))

    assert statuses(at_once(held, 110, ask)) == {200: 50, 429: 60}
    found = held[0].client.get(f"{KEYS}/rate_limits/log", headers=bearer(admin["apiKey"]))
    rows = found.json()["data"]
    assert len(rows) == 50
    assert {(row["apiKeyId"], row["rateLimitType"]) for row in rows} == {(busy.key_id, "RPM")}
