"""Wrong passwords are counted: by whom, for whom, on every host alike. Right ones never are."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from api.http.failure import Failure
from api.identity import auth
from api.identity.attempts import AttemptLimit
from api.native.errors import document
from api.services import Services
from tests.conftest import Served, settings_for
from tests.dialects.fleet import running

SIGNUP = "/api/v1/auth/signup"
LOGIN = "/api/v1/auth/login"
NATIVE = "/ledger/v1/login"
OWNER = "owner@example.com"
NOBODY = "nobody@example.com"
PASSWORD = "correct horse battery"
WRONG = "wrong horse battery"
PROXY = "127.0.0.1"
"""Who asks says where it stands, as behind a proxy."""
EVERYWHERE = [f"198.51.100.{number}" for number in range(20)]
BEGIN = datetime(2026, 11, 21, tzinfo=UTC)

Guess = tuple[str, str, str]
"""An e-mail address, a password, and the network address it comes from."""


@pytest.fixture
def hosts(furnished_url: str, tmp_path: Path) -> Iterator[list[Served]]:
    """Serve one database twice, and let an owner open an account."""
    settings = settings_for(tmp_path, trusted_proxies=PROXY)
    found = [Served(settings, furnished_url).start() for _ in range(2)]
    with found[0].client(None) as client:
        body = {"email": OWNER, "password": PASSWORD, "name": "Ada"}
        assert client.post(SIGNUP, json=body).status_code == 201
    yield found
    for host in found:
        host.stop()


def log_in(client: httpx.Client, guess: Guess, path: str = LOGIN) -> httpx.Response:
    """Try once."""
    email, password, address = guess
    body = {"email": email, "password": password}
    return client.post(path, json=body, headers={"X-Forwarded-For": address}, timeout=60)


def together(hosts: Sequence[Served], guesses: Sequence[Guess]) -> list[httpx.Response]:
    """Try all at the same moment, by turns at each host."""
    start = threading.Barrier(len(guesses))

    def one(place: int, guess: Guess) -> httpx.Response:
        with hosts[place % len(hosts)].client(None) as client:
            start.wait()
            return log_in(client, guess)

    with ThreadPoolExecutor(len(guesses)) as pool:
        return list(pool.map(one, range(len(guesses)), guesses))


def statuses(found: Sequence[httpx.Response]) -> list[int]:
    """Return the statuses in order of size."""
    return sorted(each.status_code for each in found)


def test_a_login_is_guessed_at_so_often_from_everywhere(hosts: list[Served]) -> None:
    """20 addresses at once over two hosts: 8 guesses are looked at, the others come back later."""
    found = together(hosts, [(OWNER, WRONG, address) for address in EVERYWHERE])
    assert statuses(found) == [401] * auth.FAILURES_OF_A_LOGIN + [429] * 12
    refused = next(each for each in found if each.status_code == 429)
    assert 200 < int(refused.headers["retry-after"]) <= 300
    assert "www-authenticate" not in refused.headers
    assert refused.json()["error"] == {
        "message": "Too many failed logins. Try again later.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


def test_an_address_guesses_so_often_at_everybody(hosts: list[Served]) -> None:
    """One password for 40 logins, most of them nobody's: 30 guesses are looked at."""
    guesses = [(f"{number}@example.com", WRONG, "192.0.2.1") for number in range(39)]
    found = together(hosts, [*guesses, (OWNER, WRONG, "192.0.2.1")])
    assert statuses(found) == [401] * auth.FAILURES_AT_A_SITE + [429] * 10
    with hosts[0].client(None) as client:
        assert log_in(client, (OWNER, PASSWORD, "192.0.2.1")).status_code == 429
        assert log_in(client, (OWNER, PASSWORD, "192.0.2.2")).status_code == 200


def test_one_stranger_locks_no_owner_out(hosts: list[Served]) -> None:
    """Whoever hammers at a login from one address, its owner logs in from another."""
    found = together(hosts, [(OWNER, WRONG, "192.0.2.1")] * 20)
    assert statuses(found) == [401] * auth.FAILURES_OF_A_LOGIN_AT_A_SITE + [429] * 15
    with hosts[1].client(None) as client:
        owners = [(OWNER, password, "192.0.2.2") for password in (WRONG, WRONG, PASSWORD)]
        assert [log_in(client, guess).status_code for guess in owners] == [401, 401, 200]


def test_a_network_of_ipv6_is_one_address(hosts: list[Served]) -> None:
    """Whoever has a /64 has no more guesses for it."""
    with hosts[0].client(None) as client:
        guesses = [(OWNER, WRONG, f"2001:db8:1:2::{number}") for number in range(1, 8)]
        found = [log_in(client, guess).status_code for guess in guesses]
    assert found == [401] * auth.FAILURES_OF_A_LOGIN_AT_A_SITE + [429] * 2


def test_what_is_limited_is_told_alike(
    hosts: list[Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASVS 6.3.8: right, wrong or nobody's: the same words, and no password is looked at."""
    for email in (OWNER, NOBODY):
        assert 429 in statuses(together(hosts, [(email, WRONG, each) for each in EVERYWHERE]))

    def looked(*_: object) -> None:
        raise AssertionError

    for host in hosts:
        monkeypatch.setattr(host.services.logins, "_verify", looked)
    asked = [(OWNER, PASSWORD, "192.0.2.1"), (OWNER, WRONG, "192.0.2.1")]
    with hosts[0].client(None) as client:
        found = [log_in(client, each) for each in (*asked, (NOBODY, WRONG, "192.0.2.1"))]
    assert statuses(found) == [429] * 3
    assert len({each.content for each in found}) == 1
    assert len({frozenset(each.headers) for each in found}) == 1


def test_right_passwords_never_count(hosts: list[Served]) -> None:
    """However often somebody logs in, at once too, as many failures are left as before."""
    right = (OWNER, PASSWORD, "192.0.2.1")
    for _ in range(2):
        assert statuses(together(hosts, [right] * 20)) == [200] * 20
    found = together(hosts, [(OWNER, WRONG, "192.0.2.1")] * 8)
    assert statuses(found) == [401] * auth.FAILURES_OF_A_LOGIN_AT_A_SITE + [429] * 3


def test_both_logins_are_one_count(hosts: list[Served]) -> None:
    """Who is refused by the dialect is refused by the native API, in problem+json."""
    with hosts[0].client(None) as client:
        turns = [(LOGIN, NATIVE)[number % 2] for number in range(5)]
        found = [log_in(client, (OWNER, WRONG, "192.0.2.1"), path) for path in turns]
        assert statuses(found) == [401] * 5
        for password in (WRONG, PASSWORD):
            refused = log_in(client, (OWNER.upper(), password, "192.0.2.1"), NATIVE)
            assert refused.status_code == 429
            assert 200 < int(refused.headers["retry-after"]) <= 300
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["code"] == "too_many_attempts"
            assert refused.json()["detail"] == "Too many failed logins. Try again later."


def test_a_bad_form_does_not_count(hosts: list[Served]) -> None:
    """What is no address is told so, however often."""
    with hosts[0].client(None) as client:
        found = [log_in(client, ("nowhere", WRONG, "192.0.2.1")) for _ in range(40)]
    assert statuses(found) == [400] * 40


@contextlib.asynccontextmanager
async def opened(url: str, home: Path) -> Any:
    """Open the service without a socket; the owner has an account."""
    services = await Services.open(settings_for(home), url)
    try:
        await services.signups.open(
            email=OWNER, password=PASSWORD, name="Ada", client="192.0.2.9", at=BEGIN
        )
        yield services
    finally:
        await services.close()


async def outcome(
    services: Services, password: str, at: datetime, client: str = "192.0.2.1"
) -> tuple[int, str]:
    """Try at an instant; return the status and ``Retry-After``."""
    try:
        await services.logins.proven(OWNER, password, client=client, at=at)
    except Failure as problem:
        return document(problem)[0], problem.headers.get("Retry-After", "")
    return 200, ""


def test_the_count_is_of_any_five_minutes(furnished_url: str, tmp_path: Path) -> None:
    """A failure counts for five minutes to the microsecond; what was refused counts nothing."""

    async def story() -> list[list[tuple[int, str]]]:
        async with opened(furnished_url, tmp_path) as services:
            found = []
            for seconds, microseconds, times in ((0, 0, 2), (200, 0, 5), (299, 999_999, 9)):
                at = BEGIN + timedelta(seconds=seconds, microseconds=microseconds)
                found.append([await outcome(services, WRONG, at) for _ in range(times)])
            for seconds, password in ((300, PASSWORD), (300, WRONG), (300, WRONG), (301, PASSWORD)):
                found.append(
                    [await outcome(services, password, BEGIN + timedelta(seconds=seconds))]
                )
            return found

    first, second, third, *rest = asyncio.run(story())
    assert first == [(401, "")] * 2
    assert second == [(401, "")] * 3 + [(429, "100")] * 2
    assert third == [(429, "1")] * 9
    assert rest == [[(200, "")], [(401, "")], [(401, "")], [(429, "199")]]


def test_a_guess_that_is_right_too_late_is_refused(furnished_url: str, tmp_path: Path) -> None:
    """Of many at once the right one is no success while the wrong ones are refused already."""

    async def story() -> tuple[tuple[int, str], list[int]]:
        async with opened(furnished_url, tmp_path) as services:
            look_up, others = services.logins._found, []

            async def overtaken(kept: str, password: str) -> Any:
                services.logins._found = look_up
                others.extend([await outcome(services, WRONG, BEGIN, each) for each in EVERYWHERE])
                return await look_up(kept, password)

            services.logins._found = overtaken
            found = await outcome(services, PASSWORD, BEGIN)
            return found, [status for status, _ in others]

    found, others = asyncio.run(story())
    assert others == [401] * auth.FAILURES_OF_A_LOGIN + [429] * 12
    assert found == (429, "300")


def test_what_one_bound_refuses_counts_for_none(furnished_url: str, tmp_path: Path) -> None:
    """Else a stranger who is refused would still use up what the owner has."""
    narrow, wide = (AttemptLimit(str(most), most, timedelta(minutes=5)) for most in (1, 3))

    async def tries(
        services: Services, bounds: Sequence[AttemptLimit], at: datetime, times: int
    ) -> int:
        admitted = 0
        for _ in range(times):
            with contextlib.suppress(Failure):
                await services.attempts.count(bounds, at, refusal="")
                admitted += 1
        return admitted

    async def story() -> list[int]:
        async with opened(furnished_url, tmp_path) as services:
            found = []
            for hours, bounds in enumerate(([narrow, wide], [wide, narrow])):
                at = BEGIN + timedelta(hours=hours)
                found.append(await tries(services, bounds, at, 5))
                found.append(await tries(services, [wide], at, 5))
            return found

    assert asyncio.run(story()) == [1, 2, 1, 2]


@pytest.mark.faults
def test_workers_count_as_one_and_write_nothing_down(furnished_url: str, tmp_path: Path) -> None:
    """Two workers, as started from the environment: 8 of 24; no log and no count says whose."""
    email, password = "somebody-else@example.com", "a horse of another colour"
    with running(
        furnished_url, tmp_path / "k", workers=2, KEYLEDGER_TRUSTED_PROXIES="127.0.0.0/8"
    ) as fleet:
        clients = [fleet.client() for _ in range(24)]
        places = [f"198.51.100.{number}" for number in range(24)]
        with ThreadPoolExecutor(24) as pool:
            guesses = [(email, password, place) for place in places]
            found = list(pool.map(log_in, clients, guesses))
    assert statuses(found) == [401] * auth.FAILURES_OF_A_LOGIN + [429] * 16
    said = fleet.service.words()
    assert "listening" in said
    with psycopg.connect(furnished_url) as connection:
        rows = connection.execute("SELECT subject_hash FROM keyledger.attempts").fetchall()
    assert len(rows) == 1 + 2 * auth.FAILURES_OF_A_LOGIN
    kept = said + str([bytes(hashed) for (hashed,) in rows])
    for word in (email, password, "somebody-else", "198.51.100"):
        assert word not in kept


def test_a_burst_of_guesses_is_not_hashed(furnished_url: str, tmp_path: Path) -> None:
    """Of 60 at once no more are hashed than may fail, and what was at it when they had failed."""

    async def story() -> tuple[list[int], int]:
        async with opened(furnished_url, tmp_path) as services:
            logins, hashed = services.logins, []
            verify = logins._verify

            def counted(found: str, password: str) -> bool:
                hashed.append(found)
                return verify(found, password)

            logins._verify = counted
            found = await asyncio.gather(*(outcome(services, WRONG, BEGIN) for _ in range(60)))
            return sorted(status for status, _ in found), len(hashed)

    found, hashed = asyncio.run(story())
    most = auth.FAILURES_OF_A_LOGIN_AT_A_SITE
    assert found == [401] * most + [429] * (60 - most)
    assert most <= hashed < most + auth.HASHES_AT_ONCE
