"""What each table is declared with, and how a statement becomes SQL: built by Core, run by psycopg.

A table is one ``Table`` in the module that owns it. A statement about it stands beside it and is
written out once at import: SQLAlchemy builds and compares, and is not there while a request is
answered.
"""

from collections.abc import Mapping
from typing import Any, LiteralString

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    DateTime,
    MetaData,
    Numeric,
    Text,
    literal,
)
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg
from sqlalchemy.sql import ClauseElement

metadata = MetaData()
"""Every table that the migrations make; a test holds the two equal."""

INSTANT = DateTime(timezone=True)
PICO = Numeric(38, 0)
"""Money: whole numbers of pico."""
TEXTS = ARRAY(Text)

BoundStatement = tuple[bytes, Mapping[str, Any]]
"""A compiled statement and its values by name: what psycopg's ``execute`` takes."""


class _Compiler(PGCompiler_psycopg):
    def visit_bindparam(self, bindparam: BindParameter[Any], *given: Any, **more: Any) -> Any:  # noqa: ANN401
        if bindparam.value is not None:
            more["literal_binds"] = True
        return super().visit_bindparam(bindparam, *given, **more)  # type: ignore[no-untyped-call]


class _Dialect(psycopg.dialect):
    statement_compiler = _Compiler
    supports_statement_cache = True
    # A backslash is nothing special in a standard string; unconnected, SQLAlchemy doubles it.
    _backslash_escapes = False


_NAMED = _Dialect()  # type: ignore[no-untyped-call]
_PLACED = _Dialect(paramstyle="format")  # type: ignore[no-untyped-call]


def compiled(statement: ClauseElement) -> bytes:
    """Return a statement's SQL with ``%(name)s`` where it has a ``bindparam``.

    A value written into the statement is a constant of it and stands in its text. A list is
    ``column == any_(bindparam(…))``, because ``IN`` is expanded anew for each list.
    """
    return str(statement.compile(dialect=_NAMED)).encode()


def written(condition: ClauseElement) -> LiteralString:
    """Return a condition without parameters as SQL, to be a part of a statement written by hand."""
    return str(condition.compile(dialect=_NAMED, compile_kwargs={"literal_binds": True}))


def positional(statement: ClauseElement, *names: str) -> LiteralString:
    """Return a statement's SQL with ``%s`` where it has a ``bindparam``, and check their order.

    A lane's line and ``store.combined`` take statements of this kind only.

    Raises:
        ValueError: It has other parameters, or has these in another order.
    """
    made = statement.compile(dialect=_PLACED)
    found = tuple(getattr(made, "positiontup", None) or ())
    if found != names:
        message = f"The statement's parameters are {found}, not {names}"
        raise ValueError(message)
    return str(made)


def text_at(column: ColumnElement[Any], name: str | BindParameter[str]) -> ColumnElement[str]:
    """Return the text at a name in a JSON object: ``column ->> name``."""
    at = literal(name, Text) if isinstance(name, str) else name
    return column.op("->>", return_type=Text())(at)
