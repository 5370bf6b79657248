"""Statements are written out by Core once and run by psycopg."""

import psycopg
import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    any_,
    bindparam,
    insert,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ledger.server.tables import compiled

cups = Table("cups", MetaData(), Column("number", Integer), Column("said", Text))


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (select(cups.c.said).where(cups.c.number == bindparam("n")), "%(n)s"),
        (select(cups.c.said).where(cups.c.said == "it's 5 %"), "'it''s 5 %%'"),
        (select(cups.c.said).where(cups.c.said == r"\d"), r"= '\d'"),
        (insert(cups).values(number=1, said=null()), "VALUES (1, NULL)"),
        (select(cups).limit(bindparam("most")), "LIMIT %(most)s"),
    ],
)
def test_names_stay_open_and_constants_are_written(statement: object, text: str) -> None:
    """A ``bindparam`` is filled in at each call; a value of the statement's own stands in it."""
    assert text in compiled(statement).decode()


def test_what_is_written_out_runs_on_psycopg(database_url: str) -> None:
    """By name, with constants, lists and NULL."""
    numbers = bindparam("numbers", type_=ARRAY(Integer))
    found = select(cups.c.number).where(cups.c.number == any_(numbers), cups.c.said == "5 %")
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TEMP TABLE cups (number int, said text)")
        connection.execute(compiled(insert(cups)), {"number": 1, "said": None})
        full = insert(cups).values(number=bindparam("n"), said="5 %")
        connection.execute(compiled(full), {"n": 2})
        rows = connection.execute(compiled(found), {"numbers": [1, 2, 3]}).fetchall()
    assert rows == [(2,)]
