"""What each table is declared with, and how a statement becomes SQL: built by Core, run by psycopg.

A table is one ``Table`` in the module that owns it. A statement about it stands beside it and is
written out once at import: SQLAlchemy builds and compares, and is not there while a request is
answered.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BindParameter, MetaData
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg
from sqlalchemy.sql import ClauseElement

metadata = MetaData()
"""Every table that the migrations make; a test holds the two equal."""

Bound = tuple[bytes, Mapping[str, Any]]
"""A compiled statement and its values by name: what psycopg's ``execute`` takes."""


class _Compiler(PGCompiler_psycopg):
    def visit_bindparam(self, bindparam: BindParameter[Any], *given: Any, **more: Any) -> Any:  # noqa: ANN401
        if bindparam.value is not None:
            more["literal_binds"] = True
        return super().visit_bindparam(bindparam, *given, **more)  # type: ignore[no-untyped-call]


class _Dialect(psycopg.dialect):
    statement_compiler = _Compiler
    supports_statement_cache = True


_DIALECT = _Dialect()  # type: ignore[no-untyped-call]


def compiled(statement: ClauseElement) -> bytes:
    """Return a statement's SQL with ``%(name)s`` where it has a ``bindparam``.

    A value written into the statement is a constant of it and stands in its text. A list is
    ``column == any_(bindparam(…))``, because ``IN`` is expanded anew for each list.
    """
    return str(statement.compile(dialect=_DIALECT)).encode()
