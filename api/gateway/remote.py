"""A service over HTTP behind the gateway: what it is told, and how."""

import re
import ssl
from urllib.parse import quote, urlsplit

from api.gateway.line import Answer, Pool, Where
from api.gateway.upstream import REQUEST_HEADERS, Outgoing
from ledger.ids import format_id

ACCOUNT_HEADER = "Keyledger-Account"
"""Tells an upstream whose knowledge bases, agents and memories are meant."""

_REQUEST_HEADERS = frozenset(name.encode() for name in REQUEST_HEADERS)
_UNSAFE = re.compile(r"[^!-~]")
_LINE_BREAK = re.compile(rb"[\r\n\0]")


class HttpUpstream:
    """A service that speaks OpenAI's protocol."""

    def __init__(
        self, base: str, key: str, *, connect_seconds: int, read_seconds: int, number: int = 0
    ) -> None:
        """Take where it is, such as ``https://host/v1``, and what to show to it; empty: nothing."""
        split = urlsplit(base)
        is_safe = split.scheme == "https"
        assert split.hostname is not None
        tls = ssl.create_default_context() if is_safe else None
        where = Where(split.hostname, split.port or (443 if is_safe else 80), tls)
        self.name = f"upstream-{number}"
        self._path = split.path.rstrip("/")
        self._key = key.encode()
        self._fixed = _fixed(split.netloc, key)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._pool = Pool(where, connect_seconds=connect_seconds, read_seconds=read_seconds)

    async def ask(self, outgoing: Outgoing) -> Answer:
        """Send a request."""
        body = outgoing.body
        lines = [self._head(outgoing)]
        for name, value in outgoing.headers:
            if name in _REQUEST_HEADERS and not _LINE_BREAK.search(value):
                lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(f"X-Request-Id: {outgoing.request_id}\r\n".encode("ascii"))
        if outgoing.entry.of_account:
            account = format_id("acct", outgoing.account_id)
            lines.append(f"{ACCOUNT_HEADER}: {account}\r\n".encode())
        if body:
            kind = outgoing.content_type or "application/json"
            kind = "application/octet-stream" if _UNSAFE.search(kind.replace(" ", "")) else kind
            lines.append(f"Content-Type: {kind}\r\n".encode("ascii"))
        if body or outgoing.entry.method == "POST":
            lines.append(b"Content-Length: %d\r\n" % len(body))
        return await self._pool.send(b"%b\r\n%b" % (b"".join(lines), body))

    def _head(self, outgoing: Outgoing) -> bytes:
        method, fixed = outgoing.entry.method, outgoing.entry.upstream_path
        if "{" in fixed or outgoing.query:
            return self._first_lines(method, outgoing.path)
        found = self._heads.get((method, fixed))
        if found is None:
            found = self._heads[method, fixed] = self._first_lines(method, fixed)
        return found

    def _first_lines(self, method: str, path: str) -> bytes:
        target = _UNSAFE.sub(lambda match: quote(match[0]), self._path + path)
        return f"{method} {target} HTTP/1.1\r\n".encode("ascii") + self._fixed

    def scrub(self, text: bytes) -> bytes:
        """Take the operator's key out of a text."""
        return text.replace(self._key, b"***") if self._key and self._key in text else text

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _fixed(host: str, key: str) -> bytes:
    """Give the header fields of every request."""
    lines = [f"Host: {host}", "User-Agent: keyledger", "Accept-Encoding: identity"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
