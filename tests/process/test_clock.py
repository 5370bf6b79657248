"""What ends by time ends by the ledger's clock, at every door, whatever the host's says."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import clock
from ledger.server import database
from tests.conftest import Served, World, settings_for

DAY = timedelta(days=1)
LOGIN = {"email": "ada@example.com", "password": "correct horse battery"}


class Played:
    """A served ledger whose clock the test turns."""

    def __init__(self, served: Served, url: str, client: httpx.Client) -> None:
        """Take it."""
        self.served, self._url = served, url
        self.world = World(client)

    def turn(self, offset: timedelta) -> None:
        """Set the clock ahead, and let the process hear it by a read."""
        database.set_clock_offset(self._url, offset)
        self.world.get("/accounts/acct_0000000000000000000000000000000a", 404)


@pytest.fixture
def played(furnished_url: str, tmp_path: Path) -> Iterator[Played]:
    """Serve a ledger of the test's own."""
    served = Served(settings_for(tmp_path), furnished_url).start()
    with served.client() as client:
        yield Played(served, furnished_url, client)
    served.stop()


def test_a_login_ends_by_the_ledgers_clock(played: Played) -> None:
    """A token after 15 minutes, what renews it after 14 days; the host's clock stays as it is."""
    account = played.world.account(owner={**LOGIN, "name": "Ada"})
    tokens = played.world.post("/login", LOGIN)
    with played.served.client(tokens["access_token"]) as member:
        path = f"/ledger/v1/accounts/{account}"
        assert member.get(path).status_code == 200
        played.turn(timedelta(minutes=14))
        assert member.get(path).status_code == 200
        played.turn(timedelta(minutes=16))
        assert member.get(path).status_code == 401
    renewed = played.world.post("/token/refresh", {"refresh_token": tokens["refresh_token"]})
    played.turn(15 * DAY)
    with played.served.client(None) as anybody:
        asked = {"refresh_token": renewed["refresh_token"]}
        assert anybody.post("/ledger/v1/token/refresh", json=asked).status_code == 401


def test_a_key_and_a_window_end_by_the_ledgers_clock(played: Played) -> None:
    """Shown and decided alike, and ``Retry-After`` counts from when the lane decided."""
    account, world = played.world.account(), played.world
    ends = clock.format_instant(clock.now() + 2 * DAY)
    rules = [{"kind": "requests", "window": "rolling:3600", "ceiling": "1"}]
    key = world.key(account, expires_at=ends, limits=rules)
    world.record(key, "r1")
    played.turn(DAY)
    world.record(key, "r2")
    refused = world.client.post("/ledger/v1/usage", json=world.usage(key, "r3"))
    assert refused.status_code == 429
    assert 3_600 <= int(refused.headers["retry-after"]) <= 3_721
    assert world.post("/keys/verify", {"secret": key["secret"]})["valid"]
    played.turn(3 * DAY)
    assert not world.post("/keys/verify", {"secret": key["secret"]})["valid"]
    assert world.get(f"/keys/{key['key_id']}")["status"] == "expired"
    assert world.record(key, "r4", 409)["code"] == "key_is_expired"


def test_a_price_is_in_force_by_the_ledgers_clock(played: Played) -> None:
    """A card that takes effect in ten days does in ten days of the ledger."""
    world, ahead = played.world, 10 * DAY
    key: dict[str, Any] = world.key(world.account())
    starts = clock.format_instant(clock.now() + ahead)
    card = {"name": "standard", "asset": "USD", "effective_from": starts}
    world.post(
        "/rate-cards",
        {**card, "models": {"m": {"prices": {"input": "2", "output": "2", "cache_read": "0.1"}}}},
        201,
    )
    assert world.record(key, "r1")["charge"]["amount"] == "0.001"
    played.turn(ahead + DAY)
    assert world.get("/rate-cards/standard")["version"] == 2
    assert world.record(key, "r2")["charge"]["amount"] == "0.002"
