"""What each table is declared with, and how a read becomes SQL: built by Core, run by psycopg.

A table is one ``Table`` in the module that owns it. A read is a Core statement beside it, written
out once at import: SQLAlchemy builds and compares, and is not there while a request is answered.
"""

from sqlalchemy import MetaData
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql import ClauseElement

metadata = MetaData()
"""Every table that the migrations make; a test holds the two equal."""

_DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]


def compiled(statement: ClauseElement) -> bytes:
    """Return a statement's SQL with ``%(name)s`` where it has a ``bindparam``.

    Values written into the statement would be lost, so it must hold none; a list is
    ``column == any_(bindparam(…))``, because ``IN`` is expanded anew for each list.

    Raises:
        ValueError: It holds a value of its own.
    """
    made = statement.compile(dialect=_DIALECT)
    own = [name for name, value in made.params.items() if value is not None]
    if own:
        message = f"A statement that is compiled once holds values of its own: {own}"
        raise ValueError(message)
    return str(made).encode()
