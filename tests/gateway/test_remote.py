"""An upstream over HTTP: connections kept and bounded, and no doubt about where an answer ends."""

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from api.gateway import remote, table
from api.gateway.remote import Connections, HttpUpstream, RemoteAnswer
from api.gateway.upstream import Outgoing, UpstreamBroke, UpstreamFailed, UpstreamTimedOut
from ledger.ids import new_account_id

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def heard(reader: asyncio.StreamReader) -> bytes:
    """Read one request, body and all."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


def answering(*answers: bytes, then: str = "close") -> Serve:
    """Return a server that answers each request of a connection with the next of these."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await heard(reader)
            writer.write(answer)
            await writer.drain()
        if then == "wait":
            await reader.read()

    return serve


def run(
    serve: Serve, use: Callable[[HttpUpstream], Awaitable[Any]], *, key: str = "k", **terms: int
) -> tuple[Any, int]:
    """Use an upstream over a server; return what came of it, and the number of connections."""
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(counted, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        upstream = HttpUpstream(
            url, key, Connections(**{"connect_seconds": 2, "read_seconds": 1, **terms})
        )
        try:
            return await use(upstream)
        finally:
            await upstream.close()
            server.close()
            await asyncio.sleep(0.05)

    return asyncio.run(main()), connections


def outgoing(**terms: Any) -> Outgoing:
    """Return a request."""
    entry = table.BY_NAME[terms.pop("name", "chat")]
    terms = {"document": {}} | terms if entry.method == "POST" else terms
    return Outgoing(entry, new_account_id(), "req_1", **terms)


async def ask(upstream: HttpUpstream, **terms: Any) -> RemoteAnswer:
    """Ask for anything."""
    return await upstream.ask(outgoing(**terms))


async def whole(upstream: HttpUpstream, most: int = 10_000) -> bytes:
    """Ask, and read the whole answer."""
    answer = await ask(upstream)
    try:
        return await answer.read(most)
    finally:
        answer.close()


async def twice(upstream: HttpUpstream) -> list[bytes]:
    """Ask twice, one after the other."""
    return [await whole(upstream), await whole(upstream)]


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

    async def use(upstream: HttpUpstream) -> list[bytes]:
        first = await whole(upstream)
        await asyncio.sleep(0.1)
        return [first, await whole(upstream)]

    assert run(answering(OK), use) == ([b"ok", b"ok"], 2)


def closing(reset: bool) -> Serve:  # noqa: FBT001
    """Return a server that answers once on two connections, then hears a request and hangs up."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await heard(reader)
        if served in {1, 2}:
            writer.write(OK)
            await heard(reader)
        if reset:
            writer.transport.abort()

    return serve


@pytest.mark.parametrize("reset", [False, True])
def test_a_kept_connection_that_closes_under_a_request_is_asked_anew(reset: bool) -> None:  # noqa: FBT001
    """Nothing came on it, so a fresh one tells; on a fresh one nothing is tried again."""

    async def use(upstream: HttpUpstream) -> list[bytes]:
        found = await twice(upstream)
        with pytest.raises(UpstreamFailed):
            await whole(upstream)
        return found

    assert run(closing(reset), use) == ([b"ok", b"ok"], 3)


def test_several_kept_connections_may_be_stale_at_once() -> None:
    """A server that began anew closes all of them: each is found out, and no request fails."""
    stale, served, all_there = 5, 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        is_fresh = served > stale
        if served == stale:
            all_there.set()
        await heard(reader)
        await all_there.wait()
        writer.write(OK)
        if not is_fresh:
            await heard(reader)

    async def use(upstream: HttpUpstream) -> bytes:
        await asyncio.gather(*(whole(upstream) for _ in range(stale)))
        return await whole(upstream)

    assert run(serve, use) == (b"ok", stale + 1)


def test_a_long_body_is_asked_anew_from_its_beginning() -> None:
    """What is written piece by piece is written again from the first, and whole."""
    seen: list[bytes] = []
    body = b"x" * (2 * remote.PIECE_BYTES) + b"y"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await heard(reader)).partition(b"\r\n\r\n")[2])
        writer.write(OK)
        seen.append((await heard(reader)).partition(b"\r\n\r\n")[2])

    async def use(upstream: HttpUpstream) -> list[bytes]:
        sent = [await ask(upstream, document=None, body=body) for _ in range(2)]
        return [await each.read(10) for each in sent]

    assert run(serve, use) == ([b"ok", b"ok"], 2)
    assert seen == [body, body, body]


def test_a_connection_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sooner than most servers close it."""
    monkeypatch.setattr(remote, "KEEP_SECONDS", 0.1)

    async def use(upstream: HttpUpstream) -> list[bytes]:
        first = await whole(upstream)
        await asyncio.sleep(0.3)
        return [first, await whole(upstream)]

    assert run(answering(OK, OK, then="wait"), use) == ([b"ok", b"ok"], 2)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (CHUNKED + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: x\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
)
def test_answers_end_where_http_says(answer: bytes, body: bytes) -> None:
    """RFC 9112 §6.3: by length, by the last chunk, or at once."""
    assert run(answering(answer, OK), twice) == ([body, b"ok"], 1)


def encoded(name: str, body: bytes) -> bytes:
    """Write an answer whose body is encoded although nobody asked for it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gzip", gzip.compress(b"ok", mtime=0)),
        ("X-GZip", gzip.compress(b"ok", mtime=0)),
        ("deflate", zlib.compress(b"ok")),
        ("gzip", gzip.compress(b"o", mtime=0) + gzip.compress(b"k", mtime=0)),
    ],
)
def test_what_comes_encoded_unasked_is_decoded(name: str, body: bytes) -> None:
    """Where anybody can; the connection goes on afterwards."""
    assert run(answering(encoded(name, body), OK), twice) == ([b"ok", b"ok"], 1)


def test_a_small_body_that_decodes_to_much_is_read_in_pieces_and_not_beyond_its_bound() -> None:
    """A megabyte of nothing takes a kilobyte, and a bound is one of what is read."""
    bomb = encoded("gzip", gzip.compress(bytes(64 * remote.PIECE_BYTES)))

    async def use(upstream: HttpUpstream) -> list[int]:
        with pytest.raises(UpstreamBroke):
            await whole(upstream, most=remote.PIECE_BYTES)
        return [len(piece) async for piece in (await ask(upstream)).chunks()]

    sizes, _ = run(answering(bomb), use)
    assert sum(sizes) == 64 * remote.PIECE_BYTES
    assert max(sizes) <= remote.PIECE_BYTES


@pytest.mark.parametrize("body", [b"ok", b"", gzip.compress(b"ok" * 99, mtime=0)[:-3]])
def test_an_encoded_body_that_is_none_or_is_cut_is_no_answer(body: bytes) -> None:
    """What it said until then is not the whole of it."""

    async def use(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamBroke):
            await whole(upstream)

    run(answering(encoded("gzip", body)), use)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    ],
)
def test_what_is_no_answer_is_a_failure(answer: bytes) -> None:
    """Nothing, half a head, another protocol, too much of a head, what could not be metered."""

    async def use(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamFailed) as caught:
            await whole(upstream)
        assert not caught.value.timed_out

    run(answering(answer), use)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"9\r\nok",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_ends_early_is_told_from_a_whole_one(answer: bytes, reset: bool) -> None:  # noqa: FBT001
    """What came before is given first; then the doubt."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(answer)
        await asyncio.sleep(0.1)
        if reset:
            writer.transport.abort()

    async def use(upstream: HttpUpstream) -> bytes:
        reply = await ask(upstream)
        chunks = reply.chunks()
        came = await anext(chunks)
        with pytest.raises(UpstreamBroke):
            await anext(chunks)
        reply.close()
        return came

    assert run(serve, use)[0] == b"ok"


@pytest.mark.parametrize("pause_seconds", [0, 0.1])
def test_a_body_that_stops_being_http_is_no_whole_one(pause_seconds: float) -> None:
    """A chunk without a size, seen at once or later: it ends in a time-out at the latest."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await asyncio.sleep(pause_seconds)
        writer.write(b"zz\r\n")
        await reader.read()

    async def use(upstream: HttpUpstream) -> None:
        async with asyncio.timeout(3):
            with pytest.raises((UpstreamBroke, UpstreamFailed)):
                await whole(upstream)

    run(serve, use)


def test_more_than_was_asked_for_is_nobodys_answer() -> None:
    """What follows an answer unasked ends the connection, and reaches no other request."""
    assert run(answering(OK + OK.replace(b"ok", b"no"), OK), twice) == ([b"ok", b"ok"], 2)


@pytest.mark.parametrize("unasked", [OK.replace(b"ok", b"no"), b"no\r\n"])
def test_what_comes_on_an_idle_connection_is_nobodys_answer(unasked: bytes) -> None:
    """A whole answer, or no HTTP at all: a word between two requests ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(OK)
        await asyncio.sleep(0.1)
        writer.write(unasked)
        await heard(reader)
        writer.write(OK.replace(b"ok", b"no"))

    async def use(upstream: HttpUpstream) -> list[bytes]:
        first = await whole(upstream)
        await asyncio.sleep(0.3)
        return [first, await whole(upstream)]

    assert run(serve, use) == ([b"ok", b"ok"], 2)


def test_silence_is_bounded_before_and_within_an_answer() -> None:
    """A second without a word, wherever it is."""

    async def use(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamTimedOut):
            await whole(upstream)

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    run(silent, use)
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    run(answering(half, then="wait"), use)


def test_a_reader_that_takes_its_time_is_no_silent_upstream() -> None:
    """Time that we take ourselves does not count."""
    body = b"x" * 2_000_000

    async def use(upstream: HttpUpstream) -> int:
        reply = await ask(upstream)
        size = 0
        async for chunk in reply.chunks():
            size += len(chunk)
            await asyncio.sleep(0.3)
        reply.close()
        return size

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + body
    assert run(answering(answer), use)[0] == len(body)


def test_a_reader_that_reads_nothing_makes_the_upstream_wait() -> None:
    """What nobody takes is not gathered here."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    async def use(upstream: HttpUpstream) -> int:
        reply = await ask(upstream)
        for _ in range(100):
            before = sent
            await asyncio.sleep(0.1)
            if sent == before:
                break
        held = reply._response.content.total_bytes
        reply.close()
        return held

    assert run(serve, use, read_seconds=30)[0] <= 4 * remote.BUFFER_BYTES
    assert sent < 64 * 1024 * 1024


def test_an_answer_is_bounded() -> None:
    """Beyond the most, the connection is cut."""

    async def use(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamBroke):
            await whole(upstream, most=1)

    run(answering(OK), use)


def test_what_is_let_go_of_midway_ends_its_connection() -> None:
    """The upstream hears that nobody listens, and the next request gets a connection of its own."""

    async def use(upstream: HttpUpstream) -> bytes:
        reply = await ask(upstream)
        assert await anext(reply.chunks()) == b"no"
        reply.close()
        return await whole(upstream)

    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await heard(reader)
        writer.write(OK if served > 1 else OK.replace(b": 2", b": 9").replace(b"ok", b"no"))
        assert not await reader.read()

    assert run(serve, use) == (b"ok", 2)


def test_connections_are_bounded_and_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds none free waits as long as for a connection; places come back however they end."""
    monkeypatch.setattr(remote, "CONNECTIONS_MAX", 3)
    free = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        await free.wait()
        writer.write(OK)

    async def use(upstream: HttpUpstream) -> int:
        asked = [asyncio.create_task(whole(upstream)) for _ in range(5)]
        await asyncio.sleep(1.5)
        failed = [each for each in asked if each.done()]
        assert all(isinstance(each.exception(), UpstreamTimedOut) for each in failed)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        free.set()
        for _ in range(5):
            assert await whole(upstream) == b"ok"
        return len(failed)

    assert run(serve, use, connect_seconds=1, read_seconds=5)[0] == 2


def test_a_connection_that_nobody_takes_times_out() -> None:
    """A listener whose queue is full lets nobody in."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            held = [socket.socket() for _ in range(4)]
            for each in held:
                each.setblocking(False)  # noqa: FBT003
                each.connect_ex(server.getsockname())
            url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
            upstream = HttpUpstream(url, "k", Connections(connect_seconds=1, read_seconds=9))
            with pytest.raises(UpstreamTimedOut):
                await ask(upstream)
            await upstream.close()
            for each in held:
                each.close()

    asyncio.run(main())


def test_nobody_there_is_a_failure() -> None:
    """A port where nobody listens, and a client that is closed."""

    async def use(upstream: HttpUpstream) -> None:
        nobody = HttpUpstream("http://127.0.0.1:9/v1", "", upstream._connections)
        with pytest.raises(UpstreamFailed) as caught:
            await ask(nobody)
        assert not caught.value.timed_out
        await upstream.close()
        with pytest.raises(UpstreamFailed):
            await ask(upstream)

    run(answering(), use)


def asked(use: Outgoing, *, key: str = "k", answer: bytes = OK) -> tuple[bytes, RemoteAnswer]:
    """Send a request; give it as it was read, and the answer."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await heard(reader))
        writer.write(answer)

    async def ask_once(upstream: HttpUpstream) -> RemoteAnswer:
        reply = await upstream.ask(use)
        await reply.read(100)
        return reply

    reply, connections = run(serve, ask_once, key=key)
    assert connections == 1
    return seen[0], reply


def lines_of(request: bytes) -> list[bytes]:
    """Return the lines of a request's head."""
    return request.partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_an_upstream_is_told_these_things_and_no_others() -> None:
    """Nothing that the client library would add of itself: no Accept, no type of no body."""
    use = outgoing(document={"a": 1}, headers=[(b"cookie", b"a"), (b"authorization", b"b")])
    request, _ = asked(use)
    names = sorted(line.partition(b":")[0].lower() for line in lines_of(request)[1:])
    assert names == sorted(
        [
            *(b"host", b"user-agent", b"accept-encoding", b"authorization", b"x-request-id"),
            *(b"content-type", b"content-length", b"keyledger-account"),
        ]
    )
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"Accept-Encoding: identity" in lines_of(request)
    assert b"Content-Type: application/json" in lines_of(request)
    assert request.endswith(b'\r\n\r\n{"a":1}')


def test_who_has_no_key_shows_none() -> None:
    """A GET without a body says no type, no length and no credential."""
    use = outgoing(name="get_agent", parameters={"id": "x"})
    names = {line.partition(b":")[0].lower() for line in lines_of(asked(use, key="")[0])[1:]}
    assert names == {
        *(b"host", b"user-agent", b"accept-encoding", b"x-request-id", b"keyledger-account")
    }


def test_nothing_of_the_client_breaks_out_of_its_field() -> None:
    """Neither a path, a query, a type nor a field can begin a line of its own."""
    request, _ = asked(
        outgoing(
            name="get_agent",
            parameters={"id": "a/../b\r\nX: y"},
            query="limit=1 HTTP/1.1\r\nX-Injected: y#z&q=%2e\xe9",
            body=b"{}",
            content_type="text/plain\r\nX-Injected: y",
            headers=[
                (b"accept", b"a\r\nX-Injected: y"),
                (b"tracestate", b"a\nX-Injected: y"),
                (b"openai-beta", b"\xff\x00"),
                (b"traceparent", b"00-1"),
            ],
        )
    )
    lines = lines_of(request)
    assert lines[0] == (
        b"GET /v1/agents/a%2F..%2Fb%0D%0AX%3A%20y?limit=1%20HTTP/1.1%0D%0AX-Injected:%20y%23z"
        b"&q=%2e%C3%A9 HTTP/1.1"
    )
    assert not any(each.lower().startswith(b"x-injected") for each in lines)
    assert not any(each.lower().startswith((b"openai-beta", b"accept:")) for each in lines)
    assert b"traceparent: 00-1" in lines
    assert b"Authorization: Bearer k" in lines
    assert b"Content-Type: application/octet-stream" in lines


def test_a_path_is_not_rewritten() -> None:
    """A name of dots is a name, and leads nowhere else."""
    request, _ = asked(outgoing(name="get_agent", parameters={"id": ".."}))
    assert lines_of(request)[0] == b"GET /v1/agents/.. HTTP/1.1"


def test_a_client_hears_these_things_and_no_others() -> None:
    """An allow-list, and of it only what is plain text."""
    answer = (
        b"HTTP/1.1 429 Slow\r\nRETRY-After: 3\r\nSet-Cookie: a=b\r\nX-Other: c\r\n"
        b"OpenAI-Processing-Ms: 12\r\nOpenAI-Version: \xff\x01\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 0\r\n\r\n"
    )
    _, reply = asked(outgoing(), answer=answer)
    assert reply.status == 429
    assert reply.content_type == "text/plain; charset=utf-8"
    assert reply.headers == {"retry-after": "3", "openai-processing-ms": "12"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """The operator's key goes where the operator sent it, and nowhere else."""
    answer = b"HTTP/1.1 %d Gone\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    _, reply = asked(outgoing(), answer=answer)
    assert reply.status == status


def test_no_cookie_is_kept() -> None:
    """One account's session at the provider is not the next one's."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await heard(reader))
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n"))

    assert run(serve, twice)[0] == [b"ok", b"ok"]
    assert len(seen) == 2
    assert not any(b"cookie" in each.lower() for each in seen)


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor a login of ``.netrc`` comes between."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert run(answering(OK), whole)[0] == b"ok"


def test_upstreams_share_what_is_open_and_not_their_keys() -> None:
    """One connection, and on it each shows its own key."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await heard(reader))
            writer.write(OK)

    async def use(upstream: HttpUpstream) -> None:
        other = HttpUpstream(upstream._base, "other", upstream._connections, number=1)
        await whole(upstream)
        await whole(other)
        assert (upstream.name, other.name) == ("upstream-0", "upstream-1")
        assert other.scrub(b"an other word of k") == b"an *** word of k"

    assert run(serve, use)[1] == 1
    shown = [line for each in seen for line in lines_of(each) if line.startswith(b"Authorization")]
    assert shown == [b"Authorization: Bearer k", b"Authorization: Bearer other"]


def test_who_has_no_upstream_does_not_load_the_client() -> None:
    """Nor does whoever only starts a process."""
    code = "import sys, api.process.app, api.services; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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

    async def asked_at(url: str) -> bytes:
        upstream = HttpUpstream(url, "k", Connections(connect_seconds=2, read_seconds=2))
        try:
            return await whole(upstream)
        finally:
            await upstream.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(OK)(reader, writer)
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamFailed):
            await asked_at(f"https://localhost:{port}/v1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(UpstreamFailed):
            await asked_at(f"https://127.0.0.1:{port}/v1")
        found = await asked_at(f"https://localhost:{port}/v1")
        server.close()
        await asyncio.sleep(0.1)
        return found

    assert asyncio.run(main()) == b"ok"
