"""Reaches the database without the service: the configured one, or the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from api.cli import CommandError
from api.settings import Settings
from ledger.errors import IncompatibleDatabase
from ledger.server import database
from ledger.server.embedded import EmbeddedDatabaseError, EmbeddedPostgres

EMBEDDED = "postgres"
"""Where in the data directory the embedded server lives; ``api.process.serve`` uses the same."""


@contextmanager
def database_url(settings: Settings, *, make: bool = False) -> Iterator[str]:
    """Return the address of the database, its server running meanwhile.

    An embedded server that runs already is shared. ``make``: begin a database where there is none.
    """
    if settings.database_url:
        with _one_line_errors():
            yield settings.database_url
        return
    home = settings.home / EMBEDDED
    if not make and not (home / "data").is_dir():
        raise CommandError(
            f"There is no database in {settings.home} yet; keyledger serve makes one."
        )
    try:
        with EmbeddedPostgres(home) as server, _one_line_errors():
            yield server.url
    except EmbeddedDatabaseError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except IncompatibleDatabase as error:
        raise CommandError(str(error)) from error
    except psycopg.errors.UndefinedTable as error:
        raise CommandError("The database has no schema yet: keyledger db upgrade.") from error
    except psycopg.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise CommandError(f"The database: {said}") from error


@contextmanager
def reading(settings: Settings) -> Iterator[psycopg.Connection]:
    """Return a connection that may only read, all of whose queries see one instant."""
    with database_url(settings) as url:
        database.require_current(url)
        info = database.conninfo(url, database.READER, statement_timeout="0")
        with psycopg.connect(info) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield connection
