"""Whether this process is alive, and whether it can serve."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import psycopg
from litestar.types import ASGIApp, Receive, Scope, Send
from psycopg_pool import PoolTimeout
from psycopg_pool.errors import PoolClosed

from api.http import metrics
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.native.errors import word
from api.process import job_rows
from api.services import Ask, Services
from ledger.clock import format_instant
from ledger.server import database_facts

READY_TIMEOUT_SECONDS = 0.25
HEALTH = b"application/health+json"


async def live(_services: Services, _ask: Ask[None]) -> Answer:
    """Say that the process answers, without asking the database."""
    return Answer(b'{"status":"pass"}', content_type=HEALTH)


async def ready(services: Services, _ask: Ask[None]) -> Answer:
    """Say whether the process can serve: a connection within 250 ms, the schema, the jobs."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            checks = await _checks(services)
    except (TimeoutError, psycopg.Error, PoolTimeout, PoolClosed, OSError) as error:
        return _health("fail", {"database": [{"status": "fail", "output": type(error).__name__}]})
    failing = services.stopping or any(
        check["status"] == "fail" for found in checks.values() for check in found
    )
    return _health("fail" if failing else "pass", checks)


def _health(status: str, checks: dict[str, Any]) -> Answer:
    body = msgspec.json.encode({"status": status, "checks": checks})
    headers = {} if status == "pass" else {"Retry-After": "1"}
    return Answer(
        body, status=200 if status == "pass" else 503, content_type=HEALTH, headers=headers
    )


async def _checks(services: Services) -> dict[str, list[dict[str, Any]]]:
    async with services.pool.connection(timeout=READY_TIMEOUT_SECONDS) as connection:
        version = await (await connection.execute(database_facts.SCHEMA_VERSION)).fetchone()
        runs = await (await connection.execute(job_rows.RUNS)).fetchall()
    found = version[0] if version else None
    waiting = sum(lane.waiting for lane in services.writer.lanes)
    return {
        "schema": [
            {"status": "pass" if found == services.schema else "fail", "observedValue": found}
        ],
        "lanes": [{"status": "pass", "observedValue": len(services.writer.lanes)}],
        "queue": [{"status": "pass", "observedValue": waiting}],
        "jobs": [
            {
                "status": "warn" if outcome.startswith("failed") else "pass",
                "componentId": job,
                "time": format_instant(finished or started),
                "output": outcome,
            }
            for job, started, finished, outcome in runs
        ],
    }


async def measured(services: Services, ask: Ask[None]) -> Answer:
    """Return the metrics, for the operator only."""
    await services.gate.require_operator(ask.header(b"authorization"))
    return Answer(metrics.text(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


Check = Callable[[Services, Ask[None]], Any]


def own_paths(
    services: Callable[[], Services], documents: Mapping[str, Callable[[], bytes]]
) -> Mapping[str, ASGIApp]:
    """Return what answers the paths that no surface has. ``documents``: path → what writes it."""
    checks: Mapping[str, Check] = {
        "/health": live,
        "/health/live": live,
        "/health/ready": ready,
        "/metrics": measured,
        **{path: _documented(write) for path, write in documents.items()},
    }
    return {path: _reading(check, services) for path, check in checks.items()}


def _documented(write: Callable[[], bytes]) -> Check:
    async def document(_services: Services, _ask: Ask[None]) -> Answer:
        # In a thread, because the first time it takes a while; most workers never write one.
        text = await asyncio.to_thread(write)
        return Answer(text, content_type=b"application/vnd.oai.openapi+json; version=3.1")

    return document


def _reading(check: Check, services: Callable[[], Services]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]  # type: ignore[typeddict-item]
        if method not in {"GET", "HEAD"}:
            headers = {"Allow": "GET, HEAD"}
            await word(Failure(Kind.METHOD_IS_UNKNOWN, "Use GET.", headers=headers)).send(send)
            return
        try:
            answer = await check(services(), Ask(scope, receive, send))
        except Failure as failure:
            answer = word(failure)
        await answer.send(send, head=method == "HEAD")

    return app
