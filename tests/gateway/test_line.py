"""Connections to an upstream: kept, bounded, and never in doubt about where an answer ends."""

import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from api.gateway import line, table
from api.gateway.line import Pool, Where
from api.gateway.remote import HttpUpstream
from api.gateway.upstream import Outgoing, UpstreamBroke, UpstreamFailed, UpstreamTimedOut
from ledger.ids import new_account_id

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def heard(reader: asyncio.StreamReader) -> bytes:
    """Read one request."""
    return await reader.readuntil(b"\r\n\r\n")


def answering(*answers: bytes, then: str = "close") -> Serve:
    """Give a server that answers each request of a connection with the next of these."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await heard(reader)
            writer.write(answer)
            await writer.drain()
        if then == "close":
            writer.close()
        else:
            await reader.read()
            writer.close()

    return serve


def run(serve: Serve, use: Callable[[Pool], Awaitable[Any]], **terms: Any) -> tuple[Any, int]:
    """Use a pool before a server; give what came of it, and how many connections there were."""
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(counted, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limits = {"connect_seconds": 2, "read_seconds": 1, **terms}
        pool = Pool(Where("127.0.0.1", port, None), **limits)
        try:
            return await use(pool)
        finally:
            pool.close()
            server.close()
            await asyncio.sleep(0.05)

    return asyncio.run(main()), connections


async def whole(pool: Pool, most: int = 10_000) -> bytes:
    """Ask, and read the whole answer."""
    answer = await pool.send(REQUEST)
    try:
        return await answer.read(most)
    finally:
        answer.close()


async def twice(pool: Pool) -> list[bytes]:
    """Ask twice, one after the other."""
    return [await whole(pool), await whole(pool)]


def test_a_connection_is_kept() -> None:
    """Two requests, one connection."""
    assert run(answering(OK, OK), twice) == ([b"ok", b"ok"], 1)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
def test_a_connection_that_ends_is_not_used_again(first: bytes) -> None:
    """By word, by version, or because only the end tells where the answer ends."""
    assert run(answering(first), twice) == ([b"ok", b"ok"], 2)


def test_a_kept_connection_that_was_closed_costs_nothing() -> None:
    """The other end closed it between two requests: a fresh one is opened, unnoticed."""

    async def use(pool: Pool) -> list[bytes]:
        first = await whole(pool)
        await asyncio.sleep(0.1)
        return [first, await whole(pool)]

    assert run(answering(OK), use) == ([b"ok", b"ok"], 2)


def test_a_kept_connection_that_closes_under_a_request_is_asked_anew() -> None:
    """Nothing came on it, so a fresh one tells; on a fresh one nothing is tried again."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await heard(reader)
        if served in {1, 2}:
            writer.write(OK)
            await heard(reader)
        writer.close()

    async def use(pool: Pool) -> list[bytes]:
        found = await twice(pool)
        with pytest.raises(UpstreamFailed):
            await whole(pool)
        return found

    assert run(serve, use) == ([b"ok", b"ok"], 3)


def test_a_connection_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sooner than most servers close it."""
    monkeypatch.setattr(line, "KEEP_SECONDS", 0)
    assert run(answering(OK, OK, then="wait"), twice) == ([b"ok", b"ok"], 2)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n"
                b"0\r\nTrailer: x\r\n\r\n"
            ),
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
)
def test_answers_end_where_http_says(answer: bytes, body: bytes) -> None:
    """RFC 9112 §6.3: by length, by the last chunk, or at once."""
    assert run(answering(answer, OK), twice) == ([body, b"ok"], 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    ],
)
def test_what_is_no_answer_is_a_failure(answer: bytes) -> None:
    """Nothing, half a head, another protocol, what could not be metered, two lengths."""

    async def use(pool: Pool) -> None:
        with pytest.raises(UpstreamFailed):
            await whole(pool)

    run(answering(answer), use)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
    ],
)
def test_an_answer_that_ends_early_is_told_from_a_whole_one(answer: bytes) -> None:
    """Everything that came is given first; then the doubt."""

    async def use(pool: Pool) -> bytes:
        reply = await pool.send(REQUEST)
        chunks = reply.chunks()
        came = await anext(chunks)
        with pytest.raises(UpstreamBroke):
            await anext(chunks)
        return came

    assert run(answering(answer), use)[0] == b"ok"


def test_more_than_was_asked_for_is_nobodys_answer() -> None:
    """What follows an answer unasked ends the connection, and reaches no other request."""
    assert run(answering(OK + OK.replace(b"ok", b"no"), OK), twice) == ([b"ok", b"ok"], 2)


def test_silence_is_bounded_before_and_within_an_answer() -> None:
    """A second without a word, wherever it is."""

    async def use(pool: Pool) -> None:
        with pytest.raises(UpstreamTimedOut):
            await whole(pool)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    run(silent, use)
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    run(answering(half, then="wait"), use)


def test_a_reader_that_takes_its_time_is_no_silent_upstream() -> None:
    """Time that we take ourselves does not count."""
    body = b"x" * 1_000_000

    async def use(pool: Pool) -> int:
        reply = await pool.send(REQUEST)
        size = 0
        async for chunk in reply.chunks():
            size += len(chunk)
            await asyncio.sleep(0.3)
        return size

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + body
    assert run(answering(answer), use)[0] == len(body)


def test_an_answer_is_bounded() -> None:
    """Beyond the most, the connection is cut."""

    async def use(pool: Pool) -> None:
        with pytest.raises(UpstreamBroke):
            await whole(pool, most=1)

    run(answering(OK), use)


def test_connections_are_bounded_and_counted_right() -> None:
    """However they end, their places come back."""

    async def use(pool: Pool) -> int:
        asked = [asyncio.create_task(whole(pool)) for _ in range(5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        failed = [each for each in found if isinstance(each, UpstreamFailed)]
        for task in [asyncio.create_task(pool.send(REQUEST)) for _ in range(3)]:
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert await whole(pool) == b"ok"
        return len(failed)

    assert run(answering(OK), use, most=3)[0] == 2


def outgoing(**terms: Any) -> Outgoing:
    """Give a request."""
    entry = table.BY_NAME[terms.pop("name", "chat")]
    return Outgoing(entry, new_account_id(), "req_1", **terms)


def asked(use: Outgoing, *, key: str = "k", base: str = "/v1") -> bytes:
    """Send a request; give it as it was read."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await heard(reader))
        writer.write(OK)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}{base}"
        upstream = HttpUpstream(url, key, connect_seconds=1, read_seconds=1)
        await (await upstream.ask(use)).read(100)
        await upstream.close()
        server.close()

    asyncio.run(main())
    return seen[0]


def test_nothing_of_the_client_breaks_out_of_its_field() -> None:
    """Neither a path, a query, a type nor a field can begin a line of its own."""
    request = asked(
        outgoing(
            name="get_agent",
            parameters={"id": "a/../b\r\nX: y"},
            query="limit=1 HTTP/1.1\r\nX-Injected: y",
            body=b"{}",
            content_type="text/plain\r\nX-Injected: y",
            headers=[(b"accept", b"a\r\nX-Injected: y"), (b"traceparent", b"00-1")],
        )
    )
    lines = request.split(b"\r\n")
    assert lines[0].startswith(b"GET /v1/agents/a%2F..%2Fb%0D%0AX%3A%20y?limit=1%20HTTP/1.1%0D%0A")
    assert not any(each.lower().startswith(b"x-injected") for each in lines)
    assert b"traceparent: 00-1" in lines
    assert b"Authorization: Bearer k" in lines


def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends the attempt; one that is trusted does not."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("there is no openssl here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def main() -> bytes:
        server = await asyncio.start_server(answering(OK), "127.0.0.1", 0, ssl=context)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        strict = HttpUpstream(url, "k", connect_seconds=2, read_seconds=2)
        with pytest.raises(UpstreamFailed):
            await strict.ask(outgoing(document={}))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = HttpUpstream(url, "k", connect_seconds=2, read_seconds=2)
        found = await (await trusting.ask(outgoing(document={}))).read(100)
        await trusting.close()
        server.close()
        await asyncio.sleep(0.05)
        return found

    assert asyncio.run(main()) == b"ok"
