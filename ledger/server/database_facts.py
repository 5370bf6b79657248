"""What a database says about itself: facts that hold for its life, its schema's version, its clock.

Whoever starts compares these with its settings; none of them changes a decision but the clock's
offset, which only a database made for tests has.
"""

from sqlalchemy import (
    Column,
    Date,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.server.tables import compiled, metadata

MONTHS_AHEAD = 3

DATABASE_FACTS = Table(
    "database_facts",
    metadata,
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("name", name="fact_has_one_value"),
)
_fact = DATABASE_FACTS.c

LIST = compiled(select(_fact.name, _fact.value))
FIND = compiled(select(_fact.value).where(_fact.name == bindparam("name")))
_noting = insert(DATABASE_FACTS)
SETTLE = compiled(_noting.on_conflict_do_nothing())
"""Enters a fact unless there is one of this name."""
CHANGE = compiled(
    _noting.on_conflict_do_update(
        constraint=DATABASE_FACTS.primary_key, set_={"value": _noting.excluded.value}
    )
)

# Alembic's own table, which no migration of ours makes; asked for before a role is taken too.
HAS_SCHEMA = compiled(select(func.to_regclass("keyledger.schema_version").is_not(None)))
SCHEMA_VERSION = compiled(
    select(column("version_num")).select_from(table("schema_version", schema="keyledger"))
)
CLOCK = compiled(select(func.ledger_clock()))
_ahead = func.generate_series(0, MONTHS_AHEAD).column_valued("ahead")
_month = func.date_trunc("month", func.ledger_clock()) + _ahead * text("interval '1 month'")
CREATE_PARTITIONS = compiled(
    select(func.count().filter(func.create_events_partition(cast(_month, Date))))
)
"""Creates the partitions of events for this month and the next three; returns how many are new."""
