"""One round trip for several statements, over a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import AsyncConnection

from ledger.record import arrays, roundtrip
from ledger.record.roundtrip import Pipeline
from ledger.server import database

AT = datetime(2026, 11, 21, 2, 0, 0, 123456, tzinfo=UTC)
ECHO = "SELECT %s, %s, %s, unnest(%s)"


def with_pipeline(url: str, work: Callable[[Pipeline], Awaitable[None]]) -> None:
    """Do something over a connection as the service has it."""

    async def run() -> None:
        info = database.conninfo(url, database.APP)
        connection = await AsyncConnection.connect(info, autocommit=True)
        try:
            arrays.register(connection)
            await work(Pipeline(connection))
        finally:
            await connection.close()

    asyncio.run(run())


def test_statements_are_answered_in_their_order(database_url: str) -> None:
    """It does: parameters come back as they went, and a statement without rows gives none."""

    async def work(pipeline: Pipeline) -> None:
        for _ in range(2):  # prepared, then known
            begun, echoed, ended = await pipeline.exchange(
                [
                    ("BEGIN", ()),
                    (ECHO, (-(2**40), b"\0\xff", AT, arrays.Texts(["a", None]))),
                    ("COMMIT", ()),
                ]
            )
            assert (begun, ended) == ([], [])
            assert echoed == [(-(2**40), b"\0\xff", AT, "a"), (-(2**40), b"\0\xff", AT, None)]

    with_pipeline(database_url, work)


def test_an_error_is_psycopgs_own_and_stops_what_comes_after(database_url: str) -> None:
    """It refuses: the first failure is raised by its class; what follows it is not executed."""

    async def work(pipeline: Pipeline) -> None:
        insert = "INSERT INTO database_facts (name, value) SELECT 'x', unnest(%s)"
        twice = (insert, (arrays.Texts(["1", "2"]),))
        once = (insert, (arrays.Texts(["1"]),))
        with pytest.raises(psycopg.errors.UniqueViolation) as raised:
            await pipeline.exchange([("BEGIN", ()), twice, once, ("COMMIT", ())])
        assert raised.value.diag.constraint_name == "fact_has_one_value"

    with_pipeline(database_url, work)
    with psycopg.connect(database.conninfo(database_url, database.APP)) as connection:
        found = connection.execute("SELECT FROM database_facts WHERE name = 'x'").fetchall()
    assert found == []


def test_statements_used_least_lately_are_let_go(database_url: str, monkeypatch) -> None:
    """It stays quiet: however many texts there are, the server keeps few, and all are answered."""
    monkeypatch.setattr(roundtrip, "PREPARED_MAX", 3)

    async def work(pipeline: Pipeline) -> None:
        for number in (1, 2, 1, 3, 4, 1, 5, 2):
            statements = [(f"SELECT {number}, %s", (7,)), ("SELECT 0", ())]
            assert await pipeline.exchange(statements) == [[(number, 7)], [(0,)]]
        rows = await pipeline.connection.execute("SELECT count(*) FROM pg_prepared_statements")
        assert await rows.fetchone() == (3,)

    with_pipeline(database_url, work)


def test_more_than_the_buffers_hold_is_sent_and_received(database_url: str) -> None:
    """It does: megabytes both ways do not wait for one another."""

    async def work(pipeline: Pipeline) -> None:
        many = arrays.Texts(["x" * 1_000] * 5_000)
        one, other = await pipeline.exchange([("SELECT unnest(%s)", (many,))] * 2)
        assert len(one) == len(other) == 5_000

    with_pipeline(database_url, work)


def test_a_connection_that_the_server_ended_is_known_to_be_closed(database_url: str) -> None:
    """It refuses: where the server ends an idle connection, the next use finds it closed."""

    async def work(pipeline: Pipeline) -> None:
        await pipeline.exchange([("SELECT 0", ())])
        with psycopg.connect(database_url, autocommit=True) as other:
            ended = "SELECT pg_terminate_backend(%s, 5000)"
            assert other.execute(ended, (pipeline.connection.info.backend_pid,)).fetchone() == (
                True,
            )
        with pytest.raises(psycopg.OperationalError):
            await pipeline.exchange([("BEGIN", ()), ("SELECT 0", ())])
        assert pipeline.connection.closed

    with_pipeline(database_url, work)
