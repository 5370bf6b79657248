"""Catching-up projections take every event once, in order, or stop and say where."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row

from ledger import events as e
from ledger.ids import AccountId
from ledger.server import database
from ledger.usage import Usage
from projections import engine, rebuild
from projections.base import CatchingUp
from projections.behind import refusals
from projections.engine import Progress
from tests.projections.story import Ledger
from tests.properties import core

BREACHES = refusals.PROJECTION
LIMIT = e.LimitRule(kind="requests", window="lifetime", ceiling="2")


@pytest.fixture
def ledger(database_url: str) -> Ledger:
    """Return a ledger of one account of lane 0, whose key may make two requests."""
    ledger = Ledger(database_url)
    account, key = ledger.start()
    ledger.do(core.set_key_limits(account, key, LIMIT))
    return ledger


def refuse(ledger: Ledger, times: int = 1) -> None:
    """Let requests be refused by the limit, each written down by itself."""
    account = ledger.account("acme")
    key = ledger.key(account, "bot")
    for _ in range(times):
        ledger.submit(*(ledger.record(account, key) for _ in range(3)))


def on(ledger: Ledger, work: Callable[[AsyncConnection[Any]], Awaitable[Any]]) -> Any:
    """Run work on a connection of the service."""

    async def main() -> Any:
        info = database.conninfo(ledger.url, database.APP)
        async with await AsyncConnection.connect(info, autocommit=True) as connection:
            return await work(connection)

    return asyncio.run(main())


def catch_up(ledger: Ledger, projection: CatchingUp = BREACHES, limit: int = 100) -> Progress:
    """Take all there is of lane 0."""
    return on(ledger, lambda c: engine.catch_up_fully(c, projection, 0, limit))


def logged(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Return the rows of the breach log."""
    return ledger.rows("SELECT lane_seq, reason, count FROM refusals ORDER BY lane_seq")


def refused_at(ledger: Ledger) -> list[int]:
    """Return the positions at which something was refused."""
    rows = ledger.rows("SELECT lane_seq FROM events WHERE type = 'request_refused' ORDER BY 1")
    return [seq for (seq,) in rows]


async def latest(
    connection: AsyncConnection[Any], account: UUID, most: int, before: int = 2**62
) -> list[Any]:
    """Read an account's newest refusals older than a position of lane 0."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    terms = {"lane": 0, "account": account, "before": before, "most": most}
    return await (await cursor.execute(refusals.LATEST, terms)).fetchall()


def break_event(ledger: Ledger, statement: str) -> None:
    """Change history as somebody who owns the machine would."""
    with ledger.superuser() as connection:
        connection.execute("SET session_replication_role = replica")
        for (part,) in connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        ).fetchall():
            connection.execute(f"ALTER TABLE {part} DISABLE TRIGGER ALL")
        assert connection.execute(statement).rowcount == 1


def test_refusals_of_every_kind_become_rows(ledger: Ledger) -> None:
    """Each has its reason and what would have been used, and numbers where it is of a limit."""
    account = ledger.account("acme")
    key = ledger.key(account, "bot")
    cli = ledger.key(account, "cli")
    ledger.do(core.issue(account, cli, name="cli"))
    refuse(ledger)
    ledger.submit(core.record(account, cli, "dear", Usage(input=10**12)))
    ledger.submit(ledger.record(account, cli, model="unknown"))
    catch_up(ledger)
    rows = on(ledger, lambda c: latest(c, account, 10))
    told = [(row.reason, row.scope, row.limit_id, row.integration) for row in rows]
    assert told == [
        ("model_is_unpriced", "", "", "cli"),
        ("credit_is_exhausted", "account", "credit:USD", "cli"),
        ("limit_is_reached", "key", "requests/lifetime", "bot"),
    ]
    assert (rows[2].ceiling, rows[2].used, rows[2].requested) == ("2", "2", "1")
    assert rows[2].key_id == key
    assert json.loads(rows[1].usage) == {"input": 10**12}


def test_refusals_are_read_in_pages_and_per_account(ledger: Ledger) -> None:
    """Promise 15: newest first, older than a position, and nobody else's."""
    refuse(ledger, times=5)
    catch_up(ledger)
    account = ledger.account("acme")

    async def pages(connection: AsyncConnection[Any]) -> list[int]:
        seqs: list[int] = []
        before = 2**62
        while page := await latest(connection, account, 2, before):
            seqs += [row.lane_seq for row in page]
            before = page[-1].lane_seq
        return seqs

    assert on(ledger, pages) == refused_at(ledger)[::-1]
    other = AccountId(ledger.account("somebody"))
    assert on(ledger, lambda c: latest(c, other, 9)) == []


@pytest.mark.parametrize("limit", [1, 3, 1_000])
def test_rows_are_the_same_however_events_are_cut_into_chunks(ledger: Ledger, limit: int) -> None:
    """Promise 8: chunks are a matter of speed."""
    refuse(ledger, times=4)
    progress = catch_up(ledger, limit=limit)
    assert (progress.seq, progress.lag, progress.stopped) == (ledger.heads()[0], 0, None)
    assert [seq for seq, _, _ in logged(ledger)] == refused_at(ledger)


def test_it_goes_on_from_its_checkpoint(ledger: Ledger) -> None:
    """What was taken is not taken again, what came since is."""
    refuse(ledger)
    catch_up(ledger)
    before = logged(ledger)
    assert catch_up(ledger).lag == 0
    refuse(ledger)
    assert logged(ledger) == before
    catch_up(ledger)
    assert [seq for seq, _, _ in logged(ledger)] == refused_at(ledger)


def test_many_processes_at_once_take_every_event_once(ledger: Ledger) -> None:
    """Whoever finds a lane and projection taken leaves it; no row comes twice or not at all."""
    refuse(ledger, times=6)

    async def race(_: AsyncConnection[Any]) -> list[Progress]:
        info = database.conninfo(ledger.url, database.APP)

        async def one() -> Progress:
            async with await AsyncConnection.connect(info, autocommit=True) as connection:
                for _ in range(200):
                    progress = await engine.catch_up(connection, BREACHES, 0, 2)
                    if progress.lag == 0 and not progress.taken:
                        break
                return progress

        return await asyncio.gather(*(one() for _ in range(8)))

    ends = on(ledger, race)
    assert {end.stopped for end in ends} == {None}
    assert [seq for seq, _, _ in logged(ledger)] == refused_at(ledger)


def test_rows_and_checkpoint_move_together(ledger: Ledger) -> None:
    """Promise 3: whoever dies before the commit leaves neither."""
    refuse(ledger)

    async def die(connection: AsyncConnection[Any]) -> None:
        # The engine's transaction is a part of this one, which never ends well.
        async with connection.transaction(force_rollback=True):
            assert (await engine.catch_up(connection, BREACHES, 0)).lag == 0

    on(ledger, die)
    assert logged(ledger) == []
    assert ledger.rows("SELECT seq FROM projection_checkpoints") == []
    catch_up(ledger)
    assert len(logged(ledger)) == len(refused_at(ledger))


def test_a_gap_stops_it_and_nothing_is_skipped(ledger: Ledger) -> None:
    """Promise 2: at a missing position it stops, says which, and goes no further."""
    refuse(ledger, times=4)
    missing = refused_at(ledger)[2]
    break_event(ledger, f"DELETE FROM events WHERE lane = 0 AND lane_seq = {missing}")
    progress = catch_up(ledger)
    assert progress.seq == missing - 1
    assert progress.stopped is not None
    assert progress.stopped.startswith(f"position {missing}: no such event")
    assert len(logged(ledger)) == 2
    assert not progress.goes_on
    assert catch_up(ledger) == progress


def test_a_missing_last_event_stops_it(ledger: Ledger) -> None:
    """Promise 2: the head says that there is one more."""
    refuse(ledger)
    head = ledger.heads()[0]
    break_event(ledger, f"DELETE FROM events WHERE lane = 0 AND lane_seq = {head}")
    progress = catch_up(ledger)
    assert (progress.seq, progress.lag) == (head - 1, 1)
    assert progress.stopped is not None
    assert progress.stopped.startswith(f"position {head}: ")


def test_an_event_that_cannot_be_read_stops_it(ledger: Ledger) -> None:
    """A poison event is named with its position and why; what came before is taken."""
    refuse(ledger, times=3)
    poison = refused_at(ledger)[1]
    break_event(
        ledger, f"UPDATE events SET payload = '{{}}' WHERE lane = 0 AND lane_seq = {poison}"
    )
    progress = catch_up(ledger)
    assert progress.seq == poison - 1
    assert progress.stopped is not None
    assert progress.stopped.startswith(f"position {poison}: cannot be read: ")
    assert len(logged(ledger)) == 1


def test_an_event_that_cannot_be_taken_stops_it_until_it_is_rebuilt(
    ledger: Ledger,
) -> None:
    """Where the fold fails or the database refuses its rows, the very event is named."""
    refuse(ledger, times=5)
    poison = refused_at(ledger)[3]

    def apply(events: Any) -> Any:
        assert all(event.envelope.lane_seq != poison for event in events), "not this one"
        return refusals.apply(events)

    faulty = BREACHES._replace(apply=apply)
    progress = catch_up(ledger, faulty)
    assert progress.seq == poison - 1
    assert progress.stopped == f"position {poison}: cannot be taken: AssertionError: not this one"
    assert len(logged(ledger)) == 3
    assert catch_up(ledger) == progress, "mended, but nobody said so"
    rebuild.rebuild_catching_up(ledger.url, BREACHES, replace=True)
    assert catch_up(ledger).stopped is None
    assert [seq for seq, _, _ in logged(ledger)] == refused_at(ledger)


def test_rows_that_the_database_refuses_stop_it(ledger: Ledger) -> None:
    """A row that stands there already is never passed over in silence."""
    refuse(ledger, times=3)
    taken = refused_at(ledger)[1]
    on(ledger, lambda c: engine.catch_up(c, BREACHES, 0, 1))
    with ledger.connect(database.APP) as connection:
        connection.execute(
            "INSERT INTO refusals (lane_seq, recorded_at, lane, account_id, key_id, count,"
            " reason, scope, limit_id, model, integration, ceiling, used, pending, requested,"
            " usage) VALUES (%s, now(), 0, gen_random_uuid(), gen_random_uuid(), 1, '', '', '', '',"
            " '', '', '', '', '', '{}')",
            (taken,),
        )
    progress = catch_up(ledger)
    assert progress.seq == taken - 1
    assert progress.stopped is not None
    assert progress.stopped.startswith(f"position {taken}: cannot be taken: UniqueViolation")


def test_a_new_version_starts_from_the_first_event_and_the_old_one_gives_way(
    ledger: Ledger,
) -> None:
    """Promise 8: a changed fold makes its rows anew; two versions never write side by side."""
    refuse(ledger, times=3)
    catch_up(ledger)
    newer = BREACHES._replace(
        version=2, apply=lambda events: refusals.apply(events[:1]) if len(events) == 1 else []
    )
    first = on(ledger, lambda c: engine.catch_up(c, newer, 0, 2))
    assert first.seq == 2
    assert logged(ledger) == []
    assert on(ledger, lambda c: engine.catch_up(c, BREACHES, 0)).taken
    assert catch_up(ledger, newer, limit=1).lag == 0
    assert [seq for seq, _, _ in logged(ledger)] == refused_at(ledger)
    versions = ledger.rows("SELECT version FROM projection_checkpoints WHERE lane = 0 ORDER BY 1")
    assert versions == [(1,), (2,)]


def test_an_older_version_that_never_ran_does_not_touch_the_newer_ones_rows(
    ledger: Ledger,
) -> None:
    """A process that was not updated yet leaves the rows alone."""
    refuse(ledger)
    catch_up(ledger, BREACHES._replace(version=2))
    rows = logged(ledger)
    assert on(ledger, lambda c: engine.catch_up(c, BREACHES, 0)).stopped is not None
    assert logged(ledger) == rows != []


def test_all_projections_of_all_lanes_catch_up(ledger: Ledger) -> None:
    """What the job does once a second."""
    refuse(ledger)
    assert asyncio.run(engine.catch_up_all(ledger.url, 2)) == "caught up"
    assert len(logged(ledger)) == len(refused_at(ledger))
    refuse(ledger)
    head = ledger.heads()[0]
    break_event(ledger, f"DELETE FROM events WHERE lane = 0 AND lane_seq = {head}")
    said = asyncio.run(engine.catch_up_all(ledger.url, 2))
    assert said.startswith(f"refusals stopped in lane 0: position {head}: ")
