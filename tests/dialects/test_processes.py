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
FOREVER = {"USD": "unlimited"}


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
    """Clients that never rest: on every connection a read, a metered call, a read …"""

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
        """Tell whether both routes have answered on every connection."""
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
    """Promise 6, R15, F7, B12, Y9, V5: nothing that began after the revocation's reply succeeds.

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
    """Give a way to make a short metered call of a dialect, as a numbered player."""
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
    """Give what a reply says that it cost: its tokens at the price."""
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
        """Give the balance once nothing is held."""
        return until(self._settled, within=10)[0]

    def _settled(self) -> tuple[Decimal] | None:
        found = self._operator.get(f"{self._path}/balances").json()["balances"]
        (mine,) = [each for each in found if each["asset"] == self._asset]
        return (Decimal(mine["balance"]),) if Decimal(mine["pending"]) == 0 else None

    def charged(self, key_id: str) -> tuple[int, Decimal]:
        """Give requests and sum of the charges of a key, from the projection of spend."""
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
        """Give a client's secret: the newest, or with every other request the one before it."""
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
    """R16: four secrets within a load on four workers, no failure, and spend conserved.

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
    extra = len(held) if dialect == "foil" else 0
    until(lambda: purse.charged(made.key_id)[0] >= total + extra, within=10)
    assert purse.charged(made.key_id) == (total + extra, said)
    assert dialect == "foil" or said > 0


def begin(held: Sequence[Line], secret: str) -> str:
    """Begin a session of foil for each connection, and give the persona's path segment."""
    shown = {"X-API-Key": secret}
    persona = held[0].client.get(f"{SDK}/personas", headers=shown).json()[0]["id"]
    for place, line in enumerate(held):
        body = {**PLAYER, "user_session_id": f"player-{place}"}
        path = f"{SDK}/chat/{persona}/init-session"
        assert line.client.post(path, json=body, headers=shown).status_code == 200
    return persona
