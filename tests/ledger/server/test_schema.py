"""Tables as they are declared are the tables that the migrations make."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from ledger import codec
from ledger.server import database
from ledger.server.tables import metadata

ROOT = Path(__file__).parents[3]
PACKAGES = ("ledger", "projections", "api")
DECLARES = re.compile(r"= Table\($.*^    metadata,", re.DOTALL | re.MULTILINE)

SCHEMAS = re.compile(r"\b(keyledger|declared)\.")

ALEMBICS_OWN = "schema_version"

TABLES = """
SELECT c.relname, coalesce(c.reloptions, '{}'), c.relpersistence, pg_get_partkeydef(c.oid),
    obj_description(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
CONSTRAINTS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND NOT c.relispartition AND k.contype <> 'n'
"""
INDEXES = """
SELECT tablename, indexname, replace(indexdef, schemaname || '.', '')
FROM pg_indexes WHERE schemaname = current_schema() AND tablename NOT LIKE 'events\\_%'
"""
COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
    pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped
"""


@pytest.fixture(scope="module", autouse=True)
def _every_table() -> None:
    """Import every module that declares one."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if DECLARES.search(path.read_text("utf-8")):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    """Yield a connection to a database as the migrations and the start leave it."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database_url),
        poolclass=sqlalchemy.NullPool,
    )
    with engine.connect() as connection:
        connection.execute(text("SET search_path = keyledger"))
        # The dialect asked for the schema before.
        connection.dialect.default_schema_name = database.SCHEMA
        yield connection


@pytest.fixture
def declared(migrated: Connection) -> Iterator[Connection]:
    """Yield the same database with another schema, of the declared tables and nothing else."""
    migrated.execute(text("CREATE SCHEMA declared"))
    migrated.execute(text("SET search_path = declared, keyledger"))
    metadata.create_all(migrated, checkfirst=False)
    yield migrated
    migrated.rollback()


def is_compared(name: str | None) -> bool:
    """Return whether a table is one of the migrations' own, and no partition."""
    return name != ALEMBICS_OWN and not str(name).startswith("events_")


def of(connection: Connection, schema: str, query: str) -> set[tuple[Any, ...]]:
    """Read what the catalog says of a schema, without the tables that are not compared."""
    connection.execute(text(f"SET search_path = {schema}"))
    rows = connection.execute(text(query)).fetchall()
    return {
        tuple(SCHEMAS.sub("", str(value)) for value in row) for row in rows if is_compared(row[0])
    }


def test_what_is_declared_is_what_alembic_finds(migrated: Connection) -> None:
    """By Alembic's own comparison: tables, columns, types, NULL, defaults, indexes, comments."""
    context = MigrationContext.configure(
        migrated,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or is_compared(name),
        },
    )
    assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("query", [TABLES, CONSTRAINTS, INDEXES, COLUMNS])
def test_what_is_declared_is_what_the_catalog_says(declared: Connection, query: str) -> None:
    """What Alembic passes over: checks, storage, partitions, names and conditions of indexes."""
    assert of(declared, "declared", query) == of(declared, "keyledger", query)


def test_every_table_of_the_migrations_is_declared(migrated: Connection) -> None:
    """And no other."""
    made = sqlalchemy.inspect(migrated).get_table_names()
    assert set(filter(is_compared, made)) == set(metadata.tables)


def test_the_type_of_an_event_is_one_that_is_written(migrated: Connection) -> None:
    """The labels that the database knows are those that the codec reads."""
    known = migrated.scalars(text("SELECT unnest(enum_range(NULL::event_type))::text"))
    assert set(known) == set(codec.labels)
