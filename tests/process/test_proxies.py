"""Whose address counts: the connection's, or what a trusted proxy says of it."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from api.http.answers import Answer
from api.http.asking import Ask
from api.process.serve import configured
from api.settings import InvalidSetting, Settings, from_environment
from tests.conftest import Served, settings_for

NAME = "KEYLEDGER_TRUSTED_PROXIES"
SIGNUP = "/api/v1/auth/signup"
MINE = "127.0.0.1"
"""Where the tests' own connections come from."""


@contextlib.contextmanager
def serving(url: str, home: Path, trusted: str) -> Iterator[httpx.Client]:
    """Serve a ledger at which one address may sign up once an hour."""
    settings = settings_for(home, signups_per_hour=1, trusted_proxies=trusted)
    host = Served(settings, url).start()
    try:
        with host.client(None) as client:
            yield client
    finally:
        host.stop()


def sign_up(client: httpx.Client, name: str, *forwarded: str) -> int:
    """Sign up with headers that a proxy may have written; return the status."""
    body = {"email": f"{name}@example.com", "password": "correct horse battery", "name": "Ada"}
    headers = [("X-Forwarded-For", value) for value in forwarded]
    return client.post(SIGNUP, json=body, headers=headers).status_code


def test_people_behind_a_trusted_proxy_are_told_apart(furnished_url: str, tmp_path: Path) -> None:
    """Each has the share of one address, whatever they wrote into the header themselves."""
    with serving(furnished_url, tmp_path, "10.0.0.0/8, 127.0.0.1") as client:
        assert sign_up(client, "a", "192.0.2.1") == 201
        assert sign_up(client, "b", "192.0.2.1") == 429
        assert sign_up(client, "c", "192.0.2.2") == 201
        assert sign_up(client, "d", "203.0.113.9, 192.0.2.2") == 429
        assert sign_up(client, "e", "203.0.113.8, 192.0.2.2, 10.1.2.3") == 429
        assert sign_up(client, "f") == 201


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8", "192.0.2.0/24,::1"])
def test_a_header_of_somebody_else_changes_nothing(
    furnished_url: str, tmp_path: Path, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting, and from whom it does not name: the connection's address counts."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serving(furnished_url, tmp_path, trusted) as client:
        assert sign_up(client, "a", "192.0.2.1") == 201
        assert sign_up(client, "b", "192.0.2.2") == 429
        assert sign_up(client, "c", "203.0.113.9, 10.0.0.1") == 429
        assert sign_up(client, "d") == 429


async def _who(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the client's address."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    await Answer(Ask(scope, receive, send).client_address.encode()).send(send)


@contextlib.contextmanager
def asking(trusted: str, listening: socket.socket) -> Iterator[int]:
    """Serve that as Keyledger is served; return the port."""
    networks = Settings(trusted_proxies=trusted).trusted_networks
    server = uvicorn.Server(configured(_who, networks))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    listening.close()


@pytest.fixture(scope="module")
def behind() -> Iterator[int]:
    """A server that trusts this machine, one network, and one address of IPv6."""
    listening = socket.create_server((MINE, 0))
    with asking("127.0.0.1,10.0.0.0/8,2001:db8::7", listening) as port:
        yield port


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ((), MINE),
        (("192.0.2.1",), "192.0.2.1"),
        (("203.0.113.9, 192.0.2.1",), "192.0.2.1"),
        (("203.0.113.9", "192.0.2.1"), "192.0.2.1"),
        (("192.0.2.1, 10.0.0.7, 10.255.0.7",), "192.0.2.1"),
        (("192.0.2.1, 2001:db8::7",), "192.0.2.1"),
        (("192.0.2.1, 2001:db8::8",), "2001:db8::8"),
        (("192.0.2.1, 11.0.0.7",), "11.0.0.7"),
        (("192.0.2.1:4711",), "192.0.2.1"),
        (("[2001:db8::8]:4711",), "2001:db8::8"),
        (("192.0.2.1, 10.0.0.7:4711",), "192.0.2.1"),
        (("10.0.0.8, 10.0.0.7",), "10.0.0.8"),
        (("",), MINE),
        (("192.0.2.1,",), MINE),
    ],
    ids=str,
)
def test_the_nearest_that_is_not_trusted_is_the_client(
    behind: int, forwarded: Sequence[str], client: str
) -> None:
    """Proxies append: what stands before the first stranger is that stranger's own invention."""
    headers = [("X-Forwarded-For", value) for value in forwarded]
    assert httpx.get(f"http://{MINE}:{behind}/", headers=headers).text == client


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no socket for both here")
def test_a_proxy_is_known_by_its_ipv4_address_on_a_socket_of_ipv6() -> None:
    """There it connects as ::ffff:127.0.0.1, and is no other for it."""
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    headers = {"X-Forwarded-For": "192.0.2.1"}
    with asking("127.0.0.0/8", listening) as port:
        assert httpx.get(f"http://{MINE}:{port}/", headers=headers).text == "192.0.2.1"
        assert httpx.get(f"http://[::1]:{port}/", headers=headers).text == "::1"


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_by_default_nobody_is_trusted(text: str) -> None:
    """An empty setting names nobody, and uvicorn is not asked to look at the header."""
    settings = from_environment({NAME: text})
    assert settings.trusted_networks == []
    assert not configured(_who, settings.trusted_networks).proxy_headers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("proxy.example.com", "'proxy.example.com' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.0/8,10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("10.0.0.7:80", "'10.0.0.7:80' does not appear"),
        ("10.0.0.7 10.0.0.8", "does not appear"),
        ("10.0.0.0/33", "does not appear"),
        ("*", "'*' does not appear"),
        ("0.0.0.0/0", "is everybody"),
        ("::/0", "is everybody"),
    ],
)
def test_another_setting_is_refused(text: str, says: str) -> None:
    """Otherwise uvicorn would take it for a name that never fits, or believe everybody."""
    with pytest.raises(InvalidSetting) as refused:
        from_environment({NAME: text})
    assert str(refused.value).startswith(f"{NAME}: ")
    assert says in str(refused.value)
