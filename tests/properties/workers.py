"""What the processes of ``test_processes`` do: each with a writer of its own on one database."""

import asyncio
import os
import time
from collections import Counter

import psycopg

from ledger import clock
from ledger.errors import ClockIsOff
from ledger.record.batch import Outcome
from ledger.usage import Usage
from tests.properties import core
from tests.properties.postgres import outcome_of, writer_of, writing

USAGE = Usage(input=10**6)
"""Costs 0.15 USD."""

_barrier = None


def enter(barrier) -> None:
    """Take what a process shares with the others."""
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def work(task) -> object:
    """Run one job in this process, begun by all of them at once."""
    job, url, *args = task
    return asyncio.run(JOBS[job](url, *args))


async def together() -> None:
    """Wait until every process has come here."""
    await asyncio.to_thread(_barrier.wait, 30)


def code(outcome) -> str:
    """Say what came of a command."""
    if isinstance(outcome, Outcome):
        return "replayed" if outcome.replay is not None else "admitted"
    return outcome.code


async def reserve(url, account, key, count) -> Counter:
    """Reserve at once with as many different request ids."""
    async with writing(url) as writer:
        await together()
        made = [core.reserve(account, key, f"{os.getpid()}-{n}", USAGE) for n in range(count)]
        return Counter(map(code, await asyncio.gather(*(outcome_of(writer, c) for c in made))))


async def same_request(url, account, key, count) -> Counter:
    """Send one and the same request again and again."""
    async with writing(url) as writer:
        await together()
        made = [core.record(account, key, "the-same", USAGE) for _ in range(count)]
        return Counter(map(code, await asyncio.gather(*(outcome_of(writer, c) for c in made))))


async def use_until(url, account, key, seconds, secret) -> list[tuple[float, str]]:
    """Use a key for a while from eight clients; return when each request began and its outcome."""
    seen: list[tuple[float, str]] = []

    async def client(writer, me, end) -> None:
        number = 0
        while (begun := time.monotonic()) < end:
            number += 1
            request = f"{os.getpid()}-{me}-{number}"
            command = core.record(account, key, request, USAGE, secret=secret)
            seen.append((begun, code(await outcome_of(writer, command))))

    async with writing(url) as writer:
        await together()
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(writer, me, end) for me in range(8)))
    return seen


async def revoke_after(url, account, key, seconds) -> float:
    """Revoke a key after a while; return when that was done."""
    async with writing(url) as writer:
        await together()
        await asyncio.sleep(seconds)
        await writer.submit_one(core.revoke(account, key))
        return time.monotonic()


async def rotate_and_use(url, account, key, times) -> Counter:
    """Rotate a key again and again, and use each new secret at once."""
    seen: Counter = Counter()
    async with writing(url) as writer:
        await together()
        for secret in range(2, times + 2):
            await writer.submit_one(core.rotate(account, key, 3_600))
            command = core.record(account, key, f"new-{secret}", USAGE, secret=secret)
            seen[code(await outcome_of(writer, command))] += 1
    return seen


async def use_with_clock(url, account, key, ahead, times) -> list[str]:
    """Use a key from a process whose host's clock is ahead."""
    right, seen = clock.now, []
    clock.now = lambda: right() + ahead
    async with writing(url) as writer:
        for number in range(times):
            command = core.record(account, key, f"ahead-{number}", USAGE)
            try:
                seen.append(code(await outcome_of(writer, command)))
            except ClockIsOff:
                seen.append("clock_is_off")
    return seen


async def hammer(url, accounts_and_keys, writers, count) -> Counter:
    """Write to hot accounts with many writers; every request touches another account."""
    own = [writer_of(url) for _ in range(writers)]
    for writer in own:
        writer.start()
    await together()

    async def client(me, writer) -> list[str]:
        seen = []
        for number in range(count):
            account, key = accounts_and_keys[(me + number) % len(accounts_and_keys)]
            request = f"{os.getpid()}-{me}-{number}"
            seen.append(code(await outcome_of(writer, core.record(account, key, request, USAGE))))
        return seen

    try:
        outcomes = await asyncio.gather(*(client(me, w) for me, w in enumerate(own)))
    finally:
        await asyncio.gather(*(writer.stop() for writer in own), return_exceptions=True)
    return Counter(outcome for seen in outcomes for outcome in seen)


JOBS = {
    "reserve": reserve,
    "same_request": same_request,
    "use_until": use_until,
    "revoke_after": revoke_after,
    "rotate_and_use": rotate_and_use,
    "use_with_clock": use_with_clock,
    "hammer": hammer,
}


def deadlocks(url: str) -> int:
    """Ask PostgreSQL how many deadlocks it found in this database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        return row[0]
