"""Every statement that is written out once is one that the database can plan."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.pq import ExecStatus

from ledger.server import database

ROOT = Path(__file__).parents[3]
PACKAGES = ("ledger", "projections", "api")
STATEMENT = re.compile(rb"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
PARAMETER = re.compile(rb"%\((\w+)\)s")


def statements() -> Iterator[tuple[str, bytes]]:
    """Yield what each module has compiled, with its name."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if "= compiled(" in path.read_text("utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for attribute, value in vars(importlib.import_module(name)).items():
                if isinstance(value, bytes) and STATEMENT.match(value):
                    yield f"{name}.{attribute}", value


def as_the_server_reads_it(statement: bytes) -> bytes:
    """Write each name as a number, as psycopg does."""
    names = list(dict.fromkeys(PARAMETER.findall(statement)))
    numbered = PARAMETER.sub(lambda found: b"$%d" % (names.index(found[1]) + 1), statement)
    return numbered.replace(b"%%", b"%")


def test_every_compiled_statement_can_be_planned(database_url: str) -> None:
    """Its tables, columns, types and constraints are there, whether or not a test runs it."""
    found = dict(statements())
    assert len(found) > 80
    refused = {}
    with psycopg.connect(database.conninfo(database_url, database.APP)) as connection:
        for name, statement in found.items():
            prepared = connection.pgconn.prepare(b"", as_the_server_reads_it(statement))
            if prepared.status != ExecStatus.COMMAND_OK:
                refused[name] = prepared.error_message
                connection.rollback()
    assert refused == {}
