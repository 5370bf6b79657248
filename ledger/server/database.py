"""How a process reaches PostgreSQL: addresses, roles, session settings, migrations.

Three roles: ``keyledger_owner`` owns the schema and is used by migrations, ``keyledger_app`` is
what the service runs as, ``keyledger_ro`` is for people and reports. The connecting user only
has to be a member of the role it takes.

Alembic is imported by those who migrate, and what opens SQLAlchemy's engines by those who use one.
"""

import asyncio
import contextlib
import importlib.resources
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout, TooManyRequests
from psycopg_pool.errors import PoolClosed
from sqlalchemy import func, select

from ledger import usage
from ledger.errors import IncompatibleDatabase
from ledger.ids import LANES_MAX
from ledger.server import database_facts
from ledger.server.tables import compiled

if TYPE_CHECKING:
    import sqlalchemy
    from alembic.config import Config
    from alembic.script import ScriptDirectory

SCHEMA: Final = "keyledger"
OWNER: Final = "keyledger_owner"
APP: Final = "keyledger_app"
READER: Final = "keyledger_ro"
POSTGRES_MIN: Final = 150_000
LANES_DEFAULT: Final = 2
LANES_PER_MIGRATION_LOCK: Final = 7_310_582_461_973_140_225
"""Advisory lock under which one process migrates while others wait. The ledger's correctness
never depends on it."""
LANES_FACT: Final = "lanes"
"""Fact of how many lanes there are, fixed when the database is made."""
TESTS_FACT: Final = "made_for_tests"
"""Fact of a database whose clock may have an offset; entered when it is made, never later."""
CLOCK_OFFSET_FACT: Final = "clock_offset"
"""Fact that ``ledger_clock()`` adds to the server's own clock."""
TABLES_FACT: Final = "tables"
"""Fact that names the tables as the last migration left them."""

UNREACHABLE = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.InterfaceError,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
    OSError,
)
"""The database cannot be asked now: the request is refused with 503 (promise 13)."""


class Watched(psycopg.AsyncConnection[Any]):
    """A connection that ends when the server says nothing for too long.

    A server that is gone without a word, or hangs, would otherwise be waited for without end; the
    server's own time-outs do not reach that far.
    """

    silence_seconds = 35
    """Longer than ``statement_timeout``, so that a server that lives answers first."""

    async def wait(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - psycopg's own
        """Wait as psycopg does, and cut the line when it takes too long."""
        loop = asyncio.get_running_loop()
        watch = loop.call_later(self.silence_seconds, _cut, self.pgconn)
        try:
            return await super().wait(*args, **kwargs)
        finally:
            watch.cancel()


def _cut(line: psycopg.pq.abc.PGconn) -> None:
    """End a connection under whoever waits on it, who then reads its end."""
    gone = contextlib.suppress(OSError, psycopg.OperationalError)
    with gone, socket.socket(fileno=os.dup(line.socket)) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def conninfo(url: str, role: str, **settings: str) -> str:
    """Return connection parameters that take ``role`` and the session settings it needs.

    ``synchronous_commit`` is on whatever the server's default: acknowledged means durable.
    """
    session = {
        "role": role,
        "search_path": SCHEMA,
        "synchronous_commit": "on",
        "timezone": "UTC",
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "60s",
        **settings,
    }
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    known = conninfo_to_dict(url)
    given = str(known.pop("options", "") or "")
    merged = {**known, "options": f"{given} {options}".strip(), "connect_timeout": "10"}
    return make_conninfo(**{name: str(value) for name, value in merged.items()})


def lane_conninfo(url: str) -> str:
    """Return connection parameters for the writer of a lane, and for what follows it.

    They ask for rows by their keys alone. A plan that reads a table from end to end, made while it
    was small, would be kept while it grows.
    """
    return conninfo(url, APP, enable_seqscan="off")


def engine(url: str, role: str) -> "sqlalchemy.Engine":
    """Return a SQLAlchemy engine for reads and migrations under ``role``."""
    import sqlalchemy  # noqa: PLC0415 - see above

    info = conninfo(url, role, statement_timeout="0")
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(info),
        poolclass=sqlalchemy.NullPool,
    )


def _script() -> "tuple[Config, ScriptDirectory]":
    from alembic.config import Config  # noqa: PLC0415 - see above
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    location = importlib.resources.files("ledger.server") / "migrations"
    config.set_main_option("script_location", str(location))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def upgrade(url: str, *, lanes: int = LANES_DEFAULT, for_tests: bool = False) -> str:
    """Bring the database to this version's schema; safe when several start at once.

    ``lanes`` is fixed when the database is created and ignored later. ``for_tests``: make one whose
    clock may be set by ``set_clock_offset``. Returns the revision.

    Raises:
        IncompatibleDatabase: Out of reach, read-only, too old a server, a newer or a damaged
            schema, missing privileges; there already, and not made for tests.
    """
    if not 1 <= lanes <= LANES_MAX:
        message = f"KEYLEDGER_LANES must be 1 to {LANES_MAX}."
        raise IncompatibleDatabase(message)
    try:
        return _upgrade(url, lanes, for_tests=for_tests)
    except psycopg.errors.InsufficientPrivilege as error:
        raise IncompatibleDatabase(_PRIVILEGES.format(error)) from error
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
        message = f"The database cannot be used now: {str(error).strip()}"
        raise IncompatibleDatabase(message) from error


def _upgrade(url: str, lanes: int, *, for_tests: bool) -> str:
    import sqlalchemy  # noqa: PLC0415 - see above

    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        if connection.info.server_version < POSTGRES_MIN:
            message = "PostgreSQL 15 or newer is needed; upgrade the server."
            raise IncompatibleDatabase(message)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            message = f"The database's encoding is {encoding}: create it with ENCODING 'UTF8'."
            raise IncompatibleDatabase(message)
        connection.execute(_LOCK)
        try:
            _prepare(connection)
            revision = _migrate(url)
            _settle_lanes(url, lanes, for_tests=for_tests)
        except sqlalchemy.exc.DBAPIError as error:
            raise (error.orig or error) from error
        finally:
            connection.execute(_UNLOCK)
    return revision


_PRIVILEGES = (
    "The database user may not create roles or the schema ({}). As a superuser run once:"
    " CREATE ROLE keyledger_owner; CREATE ROLE keyledger_app; CREATE ROLE keyledger_ro;"
    " CREATE SCHEMA keyledger AUTHORIZATION keyledger_owner;"
    " GRANT keyledger_owner, keyledger_app TO <user>;"
)

_LOCK = compiled(select(func.pg_advisory_lock(LANES_PER_MIGRATION_LOCK)))
_UNLOCK = compiled(select(func.pg_advisory_unlock(LANES_PER_MIGRATION_LOCK)))
_HAS_SCHEMA = compiled(select(func.to_regnamespace(SCHEMA).is_not(None)))
# By hand: what there is before the first table, and the catalog.
_ROLES: LiteralString = """
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['keyledger_owner', 'keyledger_app', 'keyledger_ro'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this server was being set up
            END;
        END IF;
        IF NOT pg_has_role(current_user, wanted, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user);
        END IF;
    END LOOP;
END $$
"""
_MAKE_SCHEMA: LiteralString = "CREATE SCHEMA keyledger AUTHORIZATION keyledger_owner"
_TABLES: LiteralString = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'keyledger' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
# By hand: the heads are the record's, which stands above this.
_MAKE_HEADS: LiteralString = """
INSERT INTO lane_heads (lane) SELECT generate_series(0, %s) ON CONFLICT DO NOTHING
"""


def _prepare(connection: psycopg.Connection) -> None:
    connection.execute(_ROLES)
    if connection.execute(_HAS_SCHEMA).fetchone() != (True,):
        connection.execute(_MAKE_SCHEMA)


def _migrate(url: str) -> str:
    import alembic.command  # noqa: PLC0415 - see above
    from sqlalchemy import text  # noqa: PLC0415

    config, script = _script()
    head = script.get_current_head()
    assert head is not None
    with engine(url, OWNER).connect() as connection:
        current = _current(connection)
        if current is not None and not _known(script, current):
            message = (
                f"The database has schema version {current}; this version of Keyledger knows"
                f" {head} only. An unreleased version before it, or a newer one, made the database:"
                " start that one, or begin with an empty database."
            )
            raise IncompatibleDatabase(message)
        _require_whole(connection, current)
        if current != head:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
            made = " ".join(connection.scalars(text(_TABLES)))
            noted = {"name": TABLES_FACT, "value": made}
            connection.exec_driver_sql(database_facts.CHANGE.decode(), noted)
        _add_usage_classes(connection)
        connection.commit()
    return head


def _add_usage_classes(connection: "sqlalchemy.Connection") -> None:
    """Add a column to the sums of usage for each class that they have none for yet.

    So that a class which is added to ``usage.Usage`` needs nothing else.
    """
    import sqlalchemy  # noqa: PLC0415 - see above
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations import Operations  # noqa: PLC0415

    columns = sqlalchemy.inspect(connection).get_columns("spend", SCHEMA)
    found = {column["name"] for column in columns}
    operations = Operations(MigrationContext.configure(connection))
    for name in map(usage.column_of, usage.CLASSES):
        if name not in found:
            zero = sqlalchemy.text("0")
            column = sqlalchemy.Column(
                name, sqlalchemy.BigInteger, nullable=False, server_default=zero
            )
            operations.add_column("spend", column, schema=SCHEMA)


def _require_whole(connection: "sqlalchemy.Connection", current: str | None) -> None:
    """Refuse a schema that no migration leaves behind: somebody dropped or restored a part.

    Raises:
        IncompatibleDatabase: It is one.
    """
    from sqlalchemy import text  # noqa: PLC0415 - see above

    found = set(connection.scalars(text(_TABLES)))
    if current is None:
        if found:
            message = (
                f"The schema keyledger has tables ({', '.join(sorted(found)[:3])} …) but no version"
                " of its own. Restore it as a whole from a backup, or use an empty database."
            )
            raise IncompatibleDatabase(message)
        return
    noted = None
    if "database_facts" in found:
        find = database_facts.FIND.decode()
        noted = connection.exec_driver_sql(find, {"name": TABLES_FACT}).scalar()
    missing = set((noted or "database_facts").split()) - found
    if missing:
        message = (
            f"The database has schema version {current} but lacks {', '.join(sorted(missing))}."
            " Restore it as a whole from a backup."
        )
        raise IncompatibleDatabase(message)


def _known(script: "ScriptDirectory", revision: str) -> bool:
    return any(revision == known.revision for known in script.walk_revisions())


def _current(connection: "sqlalchemy.Connection") -> str | None:
    if not connection.exec_driver_sql(database_facts.HAS_SCHEMA.decode()).scalar():
        return None
    found: str | None = connection.exec_driver_sql(database_facts.SCHEMA_VERSION.decode()).scalar()
    return found


def _settle_lanes(url: str, lanes: int, *, for_tests: bool) -> None:
    with psycopg.connect(conninfo(url, OWNER)) as connection:
        settled = {"name": LANES_FACT, "value": str(lanes)}
        made = connection.execute(database_facts.SETTLE, settled)
        if for_tests and made.rowcount:
            connection.execute(database_facts.SETTLE, {"name": TESTS_FACT, "value": "yes"})
        elif for_tests:
            _require_made_for_tests(connection)
        count = lanes_of(connection)
        connection.execute(_MAKE_HEADS, (count - 1,))
        create_partitions(connection)


def create_partitions(connection: psycopg.Connection) -> int:
    """Create this month's partition of events and the next three; return how many were new."""
    row = connection.execute(database_facts.CREATE_PARTITIONS).fetchone()
    return int(row[0]) if row else 0


def set_clock_offset(url: str, offset: timedelta) -> None:
    """Set how far the ledger's clock is ahead of the server's own; negative: behind it.

    For every process at once, from their next statement on. The months that it comes to get their
    partitions of events.

    Raises:
        IncompatibleDatabase: The database was not made for tests.
    """
    with psycopg.connect(conninfo(url, APP)) as connection:
        _require_made_for_tests(connection)
        connection.execute(
            database_facts.CHANGE,
            {
                "name": CLOCK_OFFSET_FACT,
                "value": f"{offset // timedelta(microseconds=1)} microseconds",
            },
        )
        create_partitions(connection)


def _require_made_for_tests(connection: psycopg.Connection) -> None:
    found = connection.execute(database_facts.FIND, {"name": TESTS_FACT}).fetchone()
    if found is None:
        message = (
            "The database was not made for tests, so its clock has no offset. Make one that may"
            " have it by: keyledger db upgrade --for-tests"
        )
        raise IncompatibleDatabase(message)


def lanes_of(connection: psycopg.Connection) -> int:
    """Return the number of lanes, fixed when the database was created."""
    row = connection.execute(database_facts.FIND, {"name": LANES_FACT}).fetchone()
    assert row is not None
    return int(row[0])


def require_current(url: str) -> None:
    """Refuse a database whose schema is not exactly this version's.

    Raises:
        IncompatibleDatabase: It is older or newer; the message says what to do.
    """
    _, script = _script()
    head = script.get_current_head()
    with psycopg.connect(url, connect_timeout=10) as connection:
        row = connection.execute(database_facts.HAS_SCHEMA).fetchone()
        current = None
        if row and row[0]:
            found = connection.execute(database_facts.SCHEMA_VERSION).fetchone()
            current = found[0] if found else None
    if current != head:
        message = (
            f"The database has schema version {current}, not {head}: run keyledger db upgrade."
        )
        raise IncompatibleDatabase(message)
