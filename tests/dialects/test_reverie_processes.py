"""reverie over several processes: revocation, rotation and the latest chat hold in every one."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import JWT_SECRET, OPERATOR_SECRET, PEPPER
from tests.faults import rig

pytestmark = pytest.mark.processes

WORKERS = 3
PASSWORD = "correct horse battery"
PATH = "/api/device/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def service(dialects_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Service]:
    """Run the service with three workers."""
    home = tmp_path_factory.mktemp("service") / "k"
    environment = {
        "KEYLEDGER_DATABASE_URL": dialects_url,
        "KEYLEDGER_ADMIN_SECRET": OPERATOR_SECRET,
        "KEYLEDGER_PEPPER": PEPPER,
        "KEYLEDGER_JWT_SECRET": JWT_SECRET,
        "KEYLEDGER_WELCOME_GRANT": "10000000 CREDIT",
    }
    with rig.Service(home, workers=WORKERS, **environment) as running:
        yield running


class Customer:
    """Somebody with 10,000,000 credits, who asks over a new connection each time."""

    def __init__(self, service: rig.Service, name: str) -> None:
        """Open an account and sign in."""
        self.service = service
        owner = {"email": f"{name}@example.com", "password": PASSWORD}
        body = {"name": "Acme", "owner": owner}
        self.account_id = self._ask(OPERATOR_SECRET, "/ledger/v1/accounts", body)["account_id"]
        login = self._ask(OPERATOR_SECRET, "/ledger/v1/login", owner)
        self.token = login["access_token"]

    def once(self, method: str, path: str, shown: str, body: Any = None) -> httpx.Response:
        """Ask over a connection of its own, so that any worker may answer."""
        headers = {"Authorization": f"Bearer {shown}"}
        url = self.service.address + path
        return httpx.request(method, url, headers=headers, json=body, timeout=30, verify=rig.TLS)

    def _ask(self, shown: str, path: str, body: Any = None) -> Any:
        found = self.once("POST", path, shown, body)
        assert found.is_success, found.text
        return found.json()

    def character(self, name: str) -> str:
        """Import a character; return its slug."""
        slug: str = self._ask(self.token, "/api/v1/characters/import", {"name": name})["slug"]
        return slug

    def key(self, name: str, character: str = "") -> Any:
        """Create a key."""
        body = {"name": name, "dialect": "reverie", "default_character": character}
        return self._ask(self.token, f"/ledger/v1/accounts/{self.account_id}/keys", body)

    def revoke(self, key: Any) -> None:
        """Revoke a key."""
        self._ask(self.token, f"/ledger/v1/keys/{key['key_id']}/revoke")

    def chat(self, shown: str, **terms: Any) -> httpx.Response:
        """Ask for a completion."""
        return self.once("POST", PATH, shown, {**CHAT, **terms})

    def balance(self) -> Any:
        """Return what is left of the credits, and what is held."""
        path = f"/ledger/v1/accounts/{self.account_id}/balances"
        found = self.once("GET", path, self.token).json()["balances"]
        return next(each for each in found if each["asset"] == "CREDIT")


def test_r15_no_worker_answers_after_a_revocation(service: rig.Service) -> None:
    """R15: clients hammer all workers; what is sent after the reply to the revocation is 401.

    Streams that were admitted before go on to their end, and all that was served is paid.
    """
    someone = Customer(service, "r15")
    key = someone.key("Bot", someone.character("Luna"))
    revoked = threading.Event()
    early: list[int] = []
    late: list[int] = []
    used: list[int] = []

    def hammer(*, stream: bool) -> None:
        while len(late) < 60:
            is_late = revoked.is_set()
            options = {"stream_options": {"include_usage": True}} if stream else {}
            found = someone.chat(key["secret"], stream=stream, **options)
            (late if is_late else early).append(found.status_code)
            if found.status_code == 200:
                used.append(_tokens(found.text, stream=stream))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(hammer, stream=bool(number % 2)) for number in range(8)]
        rig.until(lambda: len(early) >= 40, within=30)
        someone.revoke(key)
        revoked.set()
        for each in running:
            each.result()
    assert set(early) <= {200, 401}
    assert 200 in early
    assert set(late) == {401}
    left = someone.balance()
    assert left["pending"] == "0"
    assert int(left["balance"]) == 10_000_000 - sum(used)


def _tokens(text: str, *, stream: bool) -> int:
    if not stream:
        total: int = json.loads(text)["usage"]["total_tokens"]
        return total
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    streamed: int = json.loads(events[-2])["usage"]["total_tokens"]
    return streamed


def test_r16_a_swap_over_all_workers_fails_nothing(service: rig.Service) -> None:
    """R16: both keys work at once in every worker; clients swap; the first is revoked."""
    someone = Customer(service, "r16")
    slug = someone.character("Luna")
    first = someone.key("Bot", slug)
    shown = [first["secret"]]
    stop = threading.Event()
    seen: list[list[int]] = [[] for _ in range(6)]

    def hammer(mine: list[int]) -> None:
        while not stop.is_set():
            mine.append(someone.chat(shown[-1]).status_code)

    def all_go_on() -> None:
        """Wait until each has begun and ended a request since now."""
        so_far = [len(mine) for mine in seen]
        rig.until(
            lambda: all(len(mine) >= count + 5 for mine, count in zip(seen, so_far, strict=True)),
            within=60,
        )

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(hammer, mine) for mine in seen]
        all_go_on()
        shown.append(someone.key("Bot", slug)["secret"])
        all_go_on()  # so that nobody shows the first any more
        someone.revoke(first)
        all_go_on()
        stop.set()
        for each in running:
            each.result()
    assert {status for mine in seen for status in mine} == {200}
    path = f"/ledger/v1/accounts/{someone.account_id}/keys"
    keys = someone.once("GET", path, someone.token).json()["data"]
    assert [(key["name"], key["default_character"], key["status"]) for key in keys] == [
        ("Bot", slug, "active"),
        ("Bot", slug, "revoked"),
    ]
    assert someone.chat(first["secret"]).status_code == 401


def test_r14_the_latest_chat_is_known_to_every_worker(service: rig.Service) -> None:
    """R14: whichever worker noted it, web or API, the next request goes on with it."""
    someone = Customer(service, "r14")
    key = someone.key("Bot")["secret"]
    slugs = [someone.character(name) for name in ("Luna", "Sol", "Vega")]
    for turn in range(12):
        slug = slugs[turn % 3]
        first = someone.chat(someone.token if turn % 2 else key, model=slug)
        assert first.status_code == 200
        assert someone.chat(key).json()["model"] == slug
