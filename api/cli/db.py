"""`keyledger db`: schema and state of the database, without the service."""

from typing import LiteralString

import click
import psycopg

from api.cli.service import settings
from api.cli.storage import database_url
from api.cli.terminal import facts, json_option, out, show, table
from ledger.server import database

FACTS: LiteralString = (
    "SELECT current_setting('server_version'), pg_database_size(current_database()),"
    " to_regclass('keyledger.schema_version') IS NOT NULL"
)
STATE: LiteralString = (
    "SELECT (SELECT version_num FROM keyledger.schema_version),"
    " (SELECT count(*) FROM keyledger.accounts), (SELECT count(*) FROM keyledger.keys)"
)
LANES: LiteralString = "SELECT lane, seq, last_recorded_at FROM keyledger.lane_heads ORDER BY lane"


@click.group("db")
def command() -> None:
    """Bring the database up to date; tell how it stands."""


@command.command()
@click.option(
    "--for-tests",
    is_flag=True,
    help="Make one whose clock may be set ahead: KEYLEDGER_CLOCK_OFFSET. Never one to rely on.",
)
@json_option
def upgrade(*, for_tests: bool, as_json: bool) -> None:
    """Bring the schema to this version's; makes the database where there is none."""
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
    with database_url(settings()) as url, psycopg.connect(url) as connection:
        row = connection.execute(FACTS).fetchone()
        assert row is not None
        server, size, is_made = row
        document: dict[str, object] = {"postgresql": server, "bytes": size, "schema": None}
        lanes: list[dict[str, object]] = []
        if is_made:
            state = connection.execute(STATE).fetchone()
            assert state is not None
            document |= dict(zip(("schema", "accounts", "keys"), state, strict=True))
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


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
