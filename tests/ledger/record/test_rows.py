"""Rows of a lane's table are added and read as its ``Table`` says."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    select,
)
from sqlalchemy.schema import CreateTable

from ledger.clock import EARLIEST
from ledger.ids import new_account_id
from ledger.record import arrays
from ledger.record.rows import InsertRows, SelectRows
from ledger.server.tables import INSTANT, PICO, TEXTS, compiled, positional

THINGS = Table(
    "things",
    MetaData(),
    Column("lane", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("place", SmallInteger),
    Column("number", Integer),
    Column("seq", BigInteger),
    Column("is_good", Boolean),
    Column("of", Uuid),
    Column("at", INSTANT),
    Column("day", Date),
    Column("hash", LargeBinary),
    Column("amount", PICO),
    Column("says", JSON),
    Column("words", TEXTS),
    PrimaryKeyConstraint("lane", "name", name="thing_has_a_name"),
    prefixes=["TEMPORARY"],
)
WORDS = ("plain", 'a "quote"', "a \\ and, {braces}", "", "NULL")


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that has the table of these tests."""
    with psycopg.connect(database_url) as connection:
        arrays.register(connection)
        connection.execute(compiled(CreateTable(THINGS)))
        yield connection


def test_rows_of_every_type_come_back_as_they_were_added(
    connection: psycopg.Connection[Any],
) -> None:
    """Each column is sent as what its type needs; NULL stays NULL."""
    row = {
        "name": "it", "place": 7, "number": -3, "seq": 2**40, "is_good": True,
        "of": new_account_id(), "at": EARLIEST, "day": EARLIEST.date(), "hash": b"\0x",
        "amount": str(10**20), "says": '{"b": 1, "a": 2}', "words": arrays.text_of(WORDS),
    }  # fmt: skip
    nothing = {
        **row, "name": "not", "of": None, "at": None, "amount": None, "says": None, "words": None,
    }  # fmt: skip
    sql, values = InsertRows(THINGS).of(1, **{name: [row[name], nothing[name]] for name in row})
    connection.execute(sql, values)
    found = SelectRows(THINGS, THINGS.c.name, order=(THINGS.c.name,))
    rows = connection.execute(found.sql, (1, ["it", "not", "other"])).fetchall()
    read = {**row, "amount": 10**20, "words": list(WORDS)}
    assert list(found.named(rows)) == [read, {**nothing}]


def test_a_row_that_stands_is_replaced_summed_or_left(
    connection: psycopg.Connection[Any],
) -> None:
    """By the name of its primary key; without leave it is an error."""
    columns = ("name", "number", "seq")
    read = compiled(select(THINGS.c.number, THINGS.c.seq))

    def add(added: InsertRows) -> Any:
        connection.execute(*added.of(0, name=["it"], number=[2], seq=[5]))
        return connection.execute(read).fetchall()[0]

    assert add(InsertRows(THINGS, columns)) == (2, 5)
    assert add(InsertRows(THINGS, columns, replaces=["number"], sums=["seq"])) == (2, 10)
    assert add(InsertRows(THINGS, columns, ignores=True)) == (2, 10)
    with pytest.raises(psycopg.errors.UniqueViolation, match="thing_has_a_name"):
        add(InsertRows(THINGS, columns))


def test_a_column_without_values_is_an_error() -> None:
    """Neither a missing nor an unknown column passes."""
    added = InsertRows(THINGS, ("name", "number"))
    with pytest.raises(AssertionError):
        added.of(0, name=["it"])
    with pytest.raises(KeyError):
        added.of(0, name=["it"], numbers=[1])


def test_positions_are_held_to_their_names() -> None:
    """Parameters that are sent by their place are in the order in which they are said to be."""
    gone = delete(THINGS).where(
        THINGS.c.lane == bindparam("lane"), THINGS.c.name == bindparam("name")
    )
    assert positional(gone, "lane", "name").count("%s") == 2
    with pytest.raises(ValueError, match="parameters are"):
        positional(gone, "name", "lane")
