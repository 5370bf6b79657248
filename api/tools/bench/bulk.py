"""Bulk ingest: batches of requests, one JSON object per line, posted over HTTP."""

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from api.tools.bench.fleet import API, BenchService, bodies_of

TIMEOUT_SECONDS = 300


class BatchFailed(RuntimeError):
    """A batch was not recorded whole."""


def batches_of(keys: Sequence[str], first: int, batch: int, batches: int) -> list[bytes]:
    """Render batches; their requests are numbered from ``first`` on."""
    parts = bodies_of(keys)
    made = []
    for start in range(first, first + batch * batches, batch):
        lines = []
        for number in range(start, start + batch):
            before, after = parts[number % len(parts)]
            lines.append(b"%b%012x%b" % (before, number, after))
        made.append(b"\n".join(lines))
    return made


def post_all(service: BenchService, batches: Sequence[bytes], at_once: int) -> float:
    """Post batches, some at once; return the seconds until all were recorded.

    Raises:
        BatchFailed: A batch was refused, or one of its requests.
    """

    def post(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=TIMEOUT_SECONDS)
        headers = {
            "Authorization": f"Bearer {service.secret}",
            "Content-Type": "application/x-ndjson",
        }
        for batch in batches[number::at_once]:
            connection.request("POST", f"{API}/usage", batch, headers)
            reply = connection.getresponse()
            answer = reply.read()
            recorded = batch.count(b"\n") + 1
            if not answer.startswith(b'{"recorded":%d,"refused":0,' % recorded):
                raise BatchFailed(f"{reply.status} {answer[:500]!r}")
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(post, range(at_once)))
    return time.perf_counter() - began
