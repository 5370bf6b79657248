"""Rows of a lane's table, many at a time: added from arrays, read by the values of one column.

The columns are the table's own and stand here once: names, types and order come from its ``Table``.
What is made here is positional (``tables.positional``), compiled once at import.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, LiteralString

from psycopg.rows import TupleRow
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.record.arrays import Array, Byteas, Dates, Instants, Int2s, Int4s, Int8s, Texts, Uuids
from ledger.server.tables import positional

_ARRAYS: dict[type, Callable[[Iterable[Any]], Array]] = {
    SmallInteger: Int2s,
    Integer: Int4s,
    BigInteger: Int8s,
    Uuid: Uuids,
    DateTime: Instants,
    Date: Dates,
    LargeBinary: Byteas,
    Text: Texts,
    Boolean: Int4s,
    JSON: Texts,
    Numeric: Texts,
    ARRAY: Texts,
}
"""Type of a column → what its values are sent as."""
_CAST = (Boolean, JSON, Numeric, ARRAY)
"""Types that are sent as another."""


class InsertRows:
    """The statement that adds rows to a table of a lane, from one array for each column.

    Columns that are not named in ``columns`` keep their defaults. Where a row exists already,
    the columns in ``replaces`` are overwritten and those in ``sums`` added to; without either it is
    an error, or with ``ignores`` the row stays as it is.
    """

    def __init__(
        self,
        table: Table,
        columns: Iterable[str] = (),
        *,
        replaces: Iterable[str] = (),
        sums: Iterable[str] = (),
        ignores: bool = False,
    ) -> None:
        """Compile it."""
        names = list(columns) or [name for name in table.c.keys() if name != "lane"]  # noqa: SIM118
        kinds = {name: type(table.c[name].type) for name in names}
        self._arrays = [(name, _ARRAYS[kind]) for name, kind in kinds.items()]
        sent = func.unnest(*map(bindparam, names)).table_valued(*names).render_derived("r")
        values = [
            cast(sent.c[name], table.c[name].type) if kind in _CAST else sent.c[name]
            for name, kind in kinds.items()
        ]
        rows = select(bindparam("lane", type_=SmallInteger), *values)
        adds = insert(table).from_select(["lane", *names], rows)
        changed: dict[str, ColumnElement[Any]] = {name: adds.excluded[name] for name in replaces}
        changed |= {name: table.c[name] + adds.excluded[name] for name in sums}
        if changed:
            adds = adds.on_conflict_do_update(constraint=table.primary_key, set_=changed)
        elif ignores:
            adds = adds.on_conflict_do_nothing(constraint=table.primary_key)
        self.sql = positional(adds, "lane", *names)

    def of(self, lane: int, **columns: Iterable[Any]) -> tuple[LiteralString, Sequence[Any]]:
        """Return it with the values of each column; a number of pico is its text."""
        assert len(columns) == len(self._arrays), columns.keys()
        return self.sql, [lane, *[array(columns[name]) for name, array in self._arrays]]


class SelectRows:
    """The statement that reads rows of a lane by the values that one column may have."""

    def __init__(
        self,
        table: Table,
        by: ColumnElement[Any],
        *where: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]] = (),
    ) -> None:
        """Compile it. It reads every column but the lane, JSON as its text."""
        columns = [column for column in table.c if column.name != "lane"]
        self._names = [column.name for column in columns]
        read = [
            cast(column, Text) if isinstance(column.type, JSON) else column for column in columns
        ]
        chosen = (table.c.lane == bindparam("lane"), by == any_(bindparam("values")), *where)
        self.sql = positional(select(*read).where(*chosen).order_by(*order), "lane", "values")

    def named(self, rows: Iterable[TupleRow]) -> Iterator[dict[str, Any]]:
        """Return the rows it reads, their values by column."""
        return (dict(zip(self._names, row, strict=True)) for row in rows)


class DeleteRows:
    """The statement that deletes rows of a lane by the values that one column may have."""

    def __init__(self, table: Table, by: ColumnElement[Any]) -> None:
        """Compile it."""
        chosen = (table.c.lane == bindparam("lane"), by == any_(bindparam("values")))
        self._array = _ARRAYS[type(by.type)]
        self.sql = positional(delete(table).where(*chosen), "lane", "values")

    def of(self, lane: int, values: Iterable[Any]) -> tuple[LiteralString, Sequence[Any]]:
        """Return it with the values whose rows go."""
        return self.sql, (lane, self._array(values))
