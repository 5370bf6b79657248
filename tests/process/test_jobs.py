"""What time does: one leader, expiries written down, prices that come late."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api import services as wiring
from api.operations import Asked
from api.process import job_rows, jobs
from ledger import clock
from ledger import events as e
from ledger.pricing import ModelPrice, RateCard
from ledger.ratecards import draft_of
from ledger.requests import Record, Reserve
from ledger.usage import Usage

SETTINGS = {
    "admin_secret": "x",
    "pepper": "pepper-of-tests",
    "jwt_secret": "j" * 64,
}
Story = Callable[[wiring.Services], Awaitable[None]]


@pytest.fixture
def run(furnished_url: str, tmp_path: Path) -> Callable[[Story], None]:
    """Run a story with services on a fresh ledger."""

    async def with_services(story: Story) -> None:
        settings = wiring.Settings(home=tmp_path, **SETTINGS)
        services = await wiring.Services.open(settings, furnished_url)
        try:
            await story(services)
        finally:
            await services.close()

    return lambda story: asyncio.run(with_services(story))


async def a_key(services: wiring.Services, **terms: Any) -> tuple[Any, Any]:
    """Open an account and issue a key; return both ids."""
    asked = Asked("operator")
    opened = e.AccountOpened(by="operator", **terms)
    done = await services.ledger.accounts.open(asked, opened, name="Acme")
    account = done.recorded[0].envelope.account_id
    terms_of_key = e.KeyIssued(by="operator", name="bot", dialect="bve")
    issued = await services.ledger.keys.issue(asked, account, terms_of_key)
    return account, issued.done.recorded[0].envelope.key_id


def test_one_of_many_processes_leads(run: Callable[[Story], None]) -> None:
    """While one holds the lease no other gets it; when it resigns, the next does at once."""

    async def story(services: wiring.Services) -> None:
        first, second = jobs.Jobs(services, []), jobs.Jobs(services, [])
        for each in (first, second, first):
            await each._renew()
        assert (first.leads, second.leads) == (True, False)
        await first._resign()
        await second._renew()
        assert second.leads

    run(story)


def test_a_run_is_written_down_with_its_outcome(run: Callable[[Story], None]) -> None:
    """Readiness shows when each job last ran and how it went."""

    async def fails(_services: wiring.Services) -> str:
        message = "no"
        raise ValueError(message)

    async def story(services: wiring.Services) -> None:
        runner = jobs.Jobs(services, [])
        for job in jobs.JOBS:
            await runner.run(job)
        with pytest.raises(ValueError, match="no"):
            await runner.run(jobs.Job("bad", jobs.JOBS[0].every, fails))
        async with services.pool.connection() as connection:
            rows = await (await connection.execute(job_rows.RUNS)).fetchall()
        outcomes = {job: outcome for job, _, finished, outcome in rows if finished}
        assert outcomes.keys() == {"bad", *(job.name for job in jobs.JOBS)}
        assert outcomes["bad"] == "failed: ValueError: no"

    run(story)


def test_a_job_with_nothing_to_do_leaves_no_trace(run: Callable[[Story], None]) -> None:
    """Projections are driven while they are behind; an idle ledger is asked and not written to."""

    async def runs(services: wiring.Services) -> list[Any]:
        async with services.pool.connection() as connection:
            return await (await connection.execute(job_rows.RUNS)).fetchall()

    async def story(services: wiring.Services) -> None:
        runner = jobs.Jobs(services, [])
        runner.leads = True
        (job,) = [each for each in jobs.JOBS if each.name == "catch_up"]
        assert await jobs.is_behind(services), "what furnished the ledger was not taken yet"
        await runner._run(job)
        before = await runs(services)
        assert [row[3] for row in before] == ["caught up"]
        assert not await jobs.is_behind(services)
        await runner._run(job)
        assert await runs(services) == before
        await a_key(services)
        await runner._run(job)
        assert await runs(services) != before
        assert not await jobs.is_behind(services)

    run(story)


def test_an_idle_lane_writes_down_what_ran_out(run: Callable[[Story], None]) -> None:
    """B1: a reservation past its deadline is freed by event although nobody asks."""

    async def story(services: wiring.Services) -> None:
        account, key = await a_key(services)
        reserve = Reserve(request_id="r1", model="m", usage=Usage(input=1000), ttl_seconds=1)
        await services.ledger.requests.reserve(account, key, reserve)
        await asyncio.sleep(1.1)
        assert await jobs.expire_what_is_due(services) == "1 lanes"
        for _ in range(100):
            found, _ = await services.queries.accounts.one(account)
            if not found.pending("USD"):
                break
            await asyncio.sleep(0.05)
        known, _ = await services.ledger.requests.find(account, "r1")
        assert known.last is not None
        assert isinstance(known.last.body, e.RequestExpired)
        assert await jobs.expire_what_is_due(services) == "0 lanes"

    run(story)


def test_an_unpriced_request_is_rated_once_when_its_price_comes(
    run: Callable[[Story], None],
) -> None:
    """Promise 10, C9: the backlog is priced by events when a card has the price, once for ever."""

    async def story(services: wiring.Services) -> None:
        account, key = await a_key(services, unpriced="record")
        record = Record(request_id="r1", model="new", usage=Usage(input=10**6))
        await services.ledger.requests.record(account, key, record)
        assert await jobs.rate_unpriced(services) == "0 rated"
        card = RateCard(
            name="standard",
            version=1,
            asset="USD",
            effective_from=clock.now() - timedelta(hours=1),
            models={"new": ModelPrice(prices={"input": "3"})},
        )
        await services.ledger.prices.publish(
            Asked("operator"), draft_of(card, start=card.effective_from)
        )
        assert await jobs.rate_unpriced(services) == "1 rated"
        assert await jobs.rate_unpriced(services) == "0 rated"
        found, _ = await services.queries.accounts.one(account)
        assert found.balance("USD") == 2 * 10**12

    run(story)
