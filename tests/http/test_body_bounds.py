"""Each route takes a body no larger than it needs, and says so before the body is sent."""

import socket
from collections.abc import Iterable
from typing import Any

import pytest

from api import native
from api.dialects.registry import DIALECTS
from api.http import reading

KIB, MIB = 2**10, 2**20
LARGE = {
    "record_usage",
    "publish_rate_card",
    "import_rate_card",
    "bve.create_chat_completion",
    "bve.create_completion",
    "bve.create_embedding",
    "bve.create_response",
    "reverie.create_chat_completion",
    "venice.create_chat_completion",
    "venice.create_embeddings",
}
"""Beside the rows of the gateway's table, all of which ryvion serves."""


def bounds() -> Iterable[tuple[str, bool, int]]:
    """Yield every route's name, whether anybody may call it, and its bound."""
    surfaces = [native.SURFACE, *(dialect.surface for dialect in DIALECTS.values())]
    for surface in surfaces:
        for handler in surface.handlers:
            name = f"{surface.name}.{handler.handler_name}".removeprefix(".")
            yield name, not handler.guards, handler.opt["contract"].body_max


def test_every_route_has_the_bound_of_its_kind() -> None:
    """64 KiB where anybody may call, 10 MiB where the content may be large, else 1 MiB."""
    for name, public, most in bounds():
        if public:
            assert most == reading.PUBLIC_BODY_MAX == 64 * KIB, name
        elif name not in LARGE and (not name.startswith("ryvion.") or most < 10 * MIB):
            assert most == reading.ORDINARY_BODY_MAX == MIB, name
    large = {name for name, _, most in bounds() if most == reading.BODY_MAX == 10 * MIB}
    assert {name for name in large if not name.startswith("ryvion.")} == LARGE
    assert "ryvion.create_key" not in large


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/ledger/v1/login", 64 * KIB),
        ("/api/v1/auth/login", 64 * KIB),
        ("/api/v1/auth/signup", 64 * KIB),
        ("/api/v1/api_keys/generate_web3_key", 64 * KIB),
        ("/ledger/v1/accounts", MIB),
        ("/admin/api-keys", MIB),
        ("/ledger/v1/rate-cards", 10 * MIB),
        ("/ledger/v1/usage", 10 * MIB),
    ],
)
def test_a_body_over_its_bound_is_413_and_one_within_is_read(
    world: Any, path: str, most: int
) -> None:
    """With a length and without one."""

    def pieces(content: bytes) -> Iterable[bytes]:
        for start in range(0, len(content), 32 * KIB):
            yield content[start : start + 32 * KIB]

    headers = {"Content-Type": "application/json"}
    for size in (most, most + 1):
        content = b'"' + b"x" * (size - 2) + b'"'
        for sent in (content, pieces(content)):
            found = world.client.post(path, content=sent, headers=headers)
            assert (found.status_code == 413) == (size > most), found.text[:200]


@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"])
def test_a_body_that_says_to_be_too_large_is_refused_before_it_comes(world: Any, more: str) -> None:
    """Nobody is asked to send what will not be read."""
    url = world.client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as caller:
        head = f"POST /api/v1/auth/login HTTP/1.1\r\nHost: h\r\n{more}Content-Length: 65537\r\n\r\n"
        caller.sendall(head.encode())
        reply = b""
        while part := caller.recv(65_536):
            reply += part
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in reply.lower()
