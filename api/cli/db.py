"""`keyledger db`: schema and state of the database, without the service."""

from typing import Any

import click
import psycopg
from sqlalchemy import func, select

from api.cli.service import settings
from api.cli.storage import database_url
from api.cli.terminal import facts, json_option, out, show, table
from ledger.record.store import LANE_HEADS
from ledger.server import database, database_facts
from ledger.server.tables import compiled
from projections.inline.accounts import ACCOUNTS
from projections.inline.keys import KEYS

SERVER = compiled(
    select(
        func.current_setting("server_version"),
        func.pg_database_size(func.current_database()),
    )
)
COUNTS = compiled(
    select(
        *(
            select(func.count()).select_from(each).scalar_subquery().label(each.name)
            for each in (ACCOUNTS, KEYS)
        )
    )
)
LANES = compiled(
    select(LANE_HEADS.c.lane, LANE_HEADS.c.seq, LANE_HEADS.c.last_recorded_at).order_by(
        LANE_HEADS.c.lane
    )
)


@click.group("db")
def command() -> None:
    """Bring the database up to date; show its state."""


@command.command()
@click.option(
    "--for-tests",
    is_flag=True,
    help="Make one whose clock may be set ahead: KEYLEDGER_CLOCK_OFFSET. Never for real use.",
)
@json_option
def upgrade(*, for_tests: bool, as_json: bool) -> None:
    """Bring the schema to this version's; make the database where there is none."""
    found = settings()
    with database_url(found, make=True) as url:
        revision = database.upgrade(url, lanes=found.lanes, for_tests=for_tests)
        with psycopg.connect(database.conninfo(url, database.READER)) as connection:
            lanes = database.lanes_of(connection)
    document = {"schema": revision, "lanes": lanes}
    show(document, as_json, lambda: f"Schema {revision}, {lanes} lanes.")


@command.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show version, size, lanes and how many events there are."""
    with database_url(settings()) as url:
        with psycopg.connect(url) as connection:
            server, size = _only(connection, SERVER)
            (is_made,) = _only(connection, database_facts.HAS_SCHEMA)
        document: dict[str, object] = {"postgresql": server, "bytes": size, "schema": None}
        lanes: list[dict[str, object]] = []
        if is_made:
            with psycopg.connect(database.conninfo(url, database.READER)) as connection:
                (document["schema"],) = _only(connection, database_facts.SCHEMA_VERSION)
                document["accounts"], document["keys"] = _only(connection, COUNTS)
                lanes = [
                    {"lane": lane, "events": seq, "last_recorded_at": at}
                    for lane, seq, at in connection.execute(LANES)
                ]
            document["lanes"] = lanes

    def render() -> None:
        pairs = {
            "PostgreSQL": str(server),
            "schema": str(document["schema"] or "none yet: keyledger db upgrade"),
            "size": f"{size // 2**20:,} MiB",
        }
        if lanes:
            pairs |= {name: f"{document[name]:,}" for name in ("accounts", "keys")}
        out.print(facts(pairs))
        if lanes:
            columns = ("lane", "events", "last recorded at")
            rows = [
                (str(v["lane"]), _whole(v["events"]), str(v["last_recorded_at"])) for v in lanes
            ]
            out.print()
            out.print(table("", columns, rows))

    show(document, as_json, render)


def _only(connection: psycopg.Connection, statement: bytes) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
