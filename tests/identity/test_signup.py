"""People open their own accounts: atomically, so often per address, or not at all."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.http.failure import Failure
from api.identity.attempts import site_of
from api.identity.signup import Signups
from api.services import Services
from api.settings import InvalidSetting, from_environment
from tests.conftest import Served, settings_for

SIGNUP = "/api/v1/auth/signup"
PER_HOUR = 5


def body(email: str, **terms: Any) -> dict[str, Any]:
    """Return what somebody sends who signs up."""
    return {"email": email, "password": "correct horse battery", "name": "Ada", **terms}


@pytest.fixture
def hosts(furnished_url: str, tmp_path: Any) -> Iterator[list[Served]]:
    """Serve one database twice, as two hosts do: nothing is shared but the database."""
    found = [
        Served(settings_for(tmp_path, signups_per_hour=PER_HOUR), furnished_url).start()
        for _ in range(2)
    ]
    yield found
    for host in found:
        host.stop()


def sign_up_together(hosts: list[Served], emails: list[str]) -> list[httpx.Response]:
    """Sign up at the same moment, by turns at each host."""
    start = threading.Barrier(len(emails))

    def one(place: int, email: str) -> httpx.Response:
        with hosts[place % len(hosts)].client(None) as client:
            start.wait()
            return client.post(SIGNUP, json=body(email), timeout=60)

    with ThreadPoolExecutor(len(emails)) as pool:
        return list(pool.map(one, range(len(emails)), emails))


def test_an_address_opens_as_many_accounts_as_it_may(hosts: list[Served]) -> None:
    """16 at once over two hosts: exactly 5 get in, and the others are told when to come back."""
    found = sign_up_together(hosts, [f"one-{number}@example.com" for number in range(16)])
    assert sorted(each.status_code for each in found) == [201] * PER_HOUR + [429] * 11
    refused = next(each for each in found if each.status_code == 429)
    assert 3_500 < int(refused.headers["retry-after"]) <= 3_600
    assert refused.json()["error"] == {
        "message": "Too many sign-ups from this address. Try again later.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    with hosts[0].client() as operator:
        accounts = operator.get("/ledger/v1/accounts").json()["data"]
        assert len(accounts) == PER_HOUR


def test_an_address_logs_in_once_however_many_sign_up(hosts: list[Served]) -> None:
    """Four at once with one address: one account, three conflicts that tell no more than needed."""
    found = sign_up_together(hosts, ["same@example.com"] * 4)
    assert sorted(each.status_code for each in found) == [201, 409, 409, 409]
    refused = next(each for each in found if each.status_code == 409)
    assert refused.json()["error"]["code"] == "conflict"
    assert "same@example.com" not in refused.text
    with hosts[0].client() as operator:
        assert len(operator.get("/ledger/v1/accounts").json()["data"]) == 1


def test_attempts_count_and_a_bad_form_does_not(hosts: list[Served]) -> None:
    """Whose addresses are known cannot be found out by trying; a typo costs nothing."""
    with hosts[0].client(None) as client:
        pasted = "mine: sk-bve-" + "a" * 64
        for wrong in ({"email": "no"}, {"password": "short"}, {"name": ""}, {"name": pasted}):
            assert client.post(SIGNUP, json={**body("x@example.com"), **wrong}).status_code == 400
        assert client.post(SIGNUP, json=body("taken@example.com")).status_code == 201
        tries = [client.post(SIGNUP, json=body("taken@example.com")).status_code for _ in range(6)]
    assert tries == [409] * (PER_HOUR - 1) + [429, 429]


def test_the_count_is_of_any_hour(furnished_url: str, tmp_path: Any) -> None:
    """An attempt counts for an hour to the microsecond, then no more; rows that are over go."""
    begin = datetime(2026, 11, 21, tzinfo=UTC)

    async def story() -> list[int]:
        services = await Services.open(
            settings_for(tmp_path, signups_per_hour=PER_HOUR), furnished_url
        )
        try:
            moments = ((0, 3), (1_800, 9), (3_599_999_999, 9), (3_600, 9), (5_400, 9))
            seen = [
                await tries(services.signups, begin + as_time(moment), count)
                for moment, count in moments
            ]
            seen.append(await services.attempts.forget(begin + timedelta(seconds=8_999)))
            seen.append(await services.attempts.forget(begin + timedelta(seconds=9_000)))
            return seen
        finally:
            await services.close()

    assert asyncio.run(story()) == [3, 2, 0, 3, 2, 0, 1]


def as_time(moment: int) -> timedelta:
    """Read seconds, or microseconds where there are many."""
    return timedelta(seconds=moment) if moment < 10**6 else timedelta(microseconds=moment)


async def tries(signups: Signups, at: datetime, count: int) -> int:
    """Try so often at an instant; return how many were let in."""
    admitted = 0
    for _ in range(count):
        with contextlib.suppress(Failure):
            await signups.admit("192.0.2.1", at)
            admitted += 1
    return admitted


def test_sign_up_is_switched_off(furnished_url: str, tmp_path: Any) -> None:
    """``KEYLEDGER_SIGNUP=off``: nobody opens an account by themselves."""
    host = Served(settings_for(tmp_path, signups_per_hour=0), furnished_url).start()
    try:
        with host.client(None) as client:
            found = client.post(SIGNUP, json=body("ada@example.com"))
        assert (found.status_code, found.json()["error"]["code"]) == (403, "forbidden")
    finally:
        host.stop()


@pytest.mark.parametrize(("text", "per_hour"), [("", 20), ("off", 0), ("OFF", 0), ("7", 7)])
def test_the_setting_is_a_number_or_off(text: str, per_hour: int) -> None:
    """How many an hour; unset is twenty."""
    assert from_environment({"KEYLEDGER_SIGNUP": text}).signups_per_hour == per_hour


@pytest.mark.parametrize("text", ["0", "-1", "on", "1.5", "1001"])
def test_another_setting_is_refused(text: str) -> None:
    """What says neither is an error at the start."""
    with pytest.raises(InvalidSetting, match="KEYLEDGER_SIGNUP"):
        from_environment({"KEYLEDGER_SIGNUP": text})


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_is_one_client(address: str, site: str) -> None:
    """Whoever has one address of a /64 has all of them."""
    assert site_of(address) == site


def test_an_operator_is_told_of_a_taken_address_too(served: Any, operator: httpx.Client) -> None:
    """By the native API: 409, nothing half done, and neighbours in the batch are unharmed."""
    owner = {"email": "owner@example.com", "password": "correct horse battery"}
    account = {"name": "Acme", "owner": owner}
    assert operator.post("/ledger/v1/accounts", json=account).status_code == 201
    before = len(operator.get("/ledger/v1/accounts").json()["data"])
    start = threading.Barrier(6)

    def one(number: int) -> httpx.Response:
        with served.client() as client:
            start.wait()
            body = account if number % 2 else {"name": f"Other {number}"}
            return client.post("/ledger/v1/accounts", json=body)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(6)))
    assert [each.status_code for each in found] == [201, 409] * 3
    assert found[1].json()["code"] == "login_is_taken"
    assert "owner@example.com" not in found[1].text
    assert len(operator.get("/ledger/v1/accounts").json()["data"]) == before + 3
