"""Work that is due by time, done by one leader among all processes.

It creates partitions, lets lanes record what expired, drives catching-up projections, prices
what had no price, and deletes what was kept for long enough.

Leadership is a lease in a row. Nothing here is needed for a decision to be right: a missing leader
makes reports stale, but never admissions wrong.
"""

import os
import secrets as random
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from psycopg import AsyncConnection

from api.beside import login_rows
from api.process import job_rows
from api.services import Services, hear
from ledger import clock, rating
from ledger import events as e
from ledger.codec import Recorded
from ledger.record import store, texts
from ledger.server import database_facts
from projections import engine
from projections.inline import unpriced
from projections.registry import LANES_WITH_DUE

log = structlog.get_logger("keyledger.jobs")

LEASE = timedelta(seconds=15)
RENEW_SECONDS = 4
RATE_AT_ONCE = 500

Work = Callable[[Services], Awaitable[str]]


class Job(NamedTuple):
    """Something to do at intervals."""

    name: str
    every: timedelta
    work: Work
    """Does it, and returns a few words about the result."""
    due: Callable[[Services], Awaitable[bool]] | None = None
    """Returns whether there is anything to do; if not, no run is recorded. None: always."""


async def create_partitions(services: Services) -> str:
    """Create this month's partition of events and the next three."""
    async with services.pool.connection() as connection:
        row = await (await connection.execute(database_facts.CREATE_PARTITIONS)).fetchone()
    return f"{row[0] if row else 0} new"


async def expire_what_is_due(services: Services) -> str:
    """Let idle lanes record reservations, keys and grants that expired."""
    async with services.pool.connection() as connection:
        parameters = {"at": services.clock.now()}
        rows = await (await connection.execute(LANES_WITH_DUE, parameters)).fetchall()
    for (lane,) in rows:
        services.writer.lanes[lane].nudge()
    return f"{len(rows)} lanes"


async def rate_unpriced(services: Services) -> str:
    """Price requests that were recorded without a price, if a card has one now."""
    rated = 0
    await services.queries.prices.cards()
    for lane in range(services.lanes):
        after = 0
        while True:
            async with services.pool.connection() as connection:
                found = await connection.execute(
                    unpriced.NEXT, {"lane": lane, "after": after, "most": RATE_AT_ONCE}
                )
                rows = await found.fetchall()
            for row in rows:
                rated += await _rate(services, lane, row[0])
            if len(rows) < RATE_AT_ONCE:
                break
            after = rows[-1][0]
    return f"{rated} rated"


async def _rate(services: Services, lane: int, seq: int) -> bool:
    async with services.pool.connection() as connection:
        chain = await _lacking(connection, lane, seq)
    # Most wait for a price that no card has: that can be seen without asking the lane.
    if not chain or not rating.ratable(services.cards, chain[0], chain[-1]):
        return False
    return await services.ledger.requests.rate(chain[0], chain[-1])


async def _lacking(connection: AsyncConnection[Any], lane: int, seq: int) -> list[Recorded]:
    """Read an event that lacks a price, and the events it rated, back to the request."""
    chain: list[Recorded] = []
    while (found := await store.find_event(connection, lane, seq)) is not None:
        chain.append(found.recorded)
        if not isinstance(found.recorded.body, e.RequestRated):
            break
        seq = found.recorded.body.rated_seq
    return chain


async def catch_up(services: Services) -> str:
    """Drive the catching-up projections."""
    return await engine.catch_up_all(services.url, services.lanes)


async def is_behind(services: Services) -> bool:
    """Return whether a catching-up projection has events to take: one query, no lock."""
    async with services.pool.connection() as connection:
        return await engine.is_behind(connection)


async def grant_allowances(services: Services) -> str:
    """Grant daily allowances: today's, and shortly before midnight tomorrow's."""
    return f"{await services.allowances.grant_due(services.clock.now())} granted"


async def forget_tokens(services: Services) -> str:
    """Delete expired refresh tokens."""
    async with services.pool.connection() as connection:
        done = await connection.execute(login_rows.FORGET_REFRESH, {"at": services.clock.now()})
    return f"{done.rowcount} gone"


async def forget_reports(services: Services) -> str:
    """Delete providers' usage reports that were kept for long enough."""
    kept = timedelta(days=services.settings.raw_report_days)
    gone = 0
    async with services.pool.connection() as connection:
        for lane in range(services.lanes):
            done = await connection.execute(texts.FORGET_REPORTS, {"lane": lane, "kept": kept})
            gone += done.rowcount
    return f"{gone} gone"


async def forget_conversations(services: Services) -> str:
    """Delete message text that was kept for long enough, and idle sessions."""
    messages, sessions = await services.conversations.forget()
    return f"{messages} messages, {sessions} sessions gone"


async def forget_answers(services: Services) -> str:
    """Delete answers that were kept for a retry for long enough, or exceed the bounds."""
    return f"{await services.answers.forget()} gone"


async def forget_attempts(services: Services) -> str:
    """Delete counts of sign-ups and failed logins that no longer matter."""
    return f"{await services.attempts.forget(services.clock.now())} gone"


async def forget_wallet_tokens(services: Services) -> str:
    """Delete wallets' used sign-in tokens that expired."""
    return f"{await services.wallets.forget(services.clock.now())} gone"


JOBS: Sequence[Job] = (
    Job("create_partitions", timedelta(minutes=10), create_partitions),
    Job("expire_what_is_due", timedelta(seconds=2), expire_what_is_due),
    Job("catch_up", timedelta(seconds=1), catch_up, is_behind),
    Job("rate_unpriced", timedelta(seconds=30), rate_unpriced),
    Job("grant_allowances", timedelta(seconds=30), grant_allowances),
    Job("forget_tokens", timedelta(hours=1), forget_tokens),
    Job("forget_answers", timedelta(seconds=30), forget_answers),
    Job("forget_attempts", timedelta(hours=1), forget_attempts),
    Job("forget_wallet_tokens", timedelta(hours=1), forget_wallet_tokens),
    Job("forget_reports", timedelta(hours=1), forget_reports),
    Job("forget_conversations", timedelta(minutes=10), forget_conversations),
)


class Jobs:
    """The jobs of one process; they run while it leads."""

    def __init__(self, services: Services, jobs: Sequence[Job] = JOBS) -> None:
        """Take the services that they work on."""
        self._services = services
        self._jobs = jobs
        self._me = f"{socket.gethostname()}:{os.getpid()}:{random.token_hex(4)}"
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self.leads = False

    def start(self) -> None:
        """Begin."""
        soon = clock.now() + timedelta(seconds=1)
        add = self._scheduler.add_job
        options = {"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        add(self._renew, "interval", seconds=RENEW_SECONDS, next_run_time=clock.now(), **options)
        for job in self._jobs:
            seconds = job.every // timedelta(seconds=1)
            add(self._run, "interval", args=(job,), seconds=seconds, next_run_time=soon, **options)
        self._scheduler.start()

    async def stop(self) -> None:
        """Stop, and let another process lead at once. Work under way is in the ledger or not."""
        self._scheduler.shutdown(wait=False)
        if self.leads:
            self.leads = False
            await self._quietly(self._resign)

    async def _renew(self) -> None:
        await self._quietly(self._lead)

    async def _lead(self) -> None:
        async with self._services.pool.connection() as connection:
            parameters = {"me": self._me, "lease": LEASE}
            row = await (await connection.execute(job_rows.LEAD, parameters)).fetchone()
            # Otherwise an idle process would go by a time that it heard long ago.
            await hear(self._services.clock, connection)
        self.leads = row is not None

    async def _resign(self) -> None:
        async with self._services.pool.connection() as connection:
            await connection.execute(job_rows.RESIGN, {"me": self._me})

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # last-resort: an unreachable database ends leadership only
            self.leads = False
            log.warning("leadership_is_unknown", error=str(error))

    async def _run(self, job: Job) -> None:
        if not self.leads or self._services.stopping:
            return
        try:
            if job.due is None or await job.due(self._services):
                await self.run(job)
        except Exception as error:  # last-resort: the next run tries again
            log.warning("job_failed", job=job.name, error=str(error))

    async def run(self, job: Job) -> str:
        """Do a job now and record how it went."""
        pool = self._services.pool
        async with pool.connection() as connection:
            await connection.execute(
                job_rows.BEGIN_RUN, {"job": job.name, "at": self._services.clock.now()}
            )
        outcome = "interrupted"
        try:
            outcome = await job.work(self._services)
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"[:500]
            raise
        finally:
            async with pool.connection() as connection:
                await connection.execute(
                    job_rows.END_RUN,
                    {"name": job.name, "at": self._services.clock.now(), "what": outcome},
                )
        return outcome
