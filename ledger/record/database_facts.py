"""What a database says about itself: facts that hold for its life, its schema's version, its clock.

Whoever starts compares these with its settings; none of them changes a decision but the clock's
offset, which only a database made for tests has.
"""

from sqlalchemy import (
    Column,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    column,
    func,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.record.tables import compiled, metadata

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

# Alembic's own table, which no migration of ours makes.
SCHEMA_VERSION = compiled(select(column("version_num")).select_from(table("schema_version")))
CLOCK = compiled(select(func.ledger_clock()))
