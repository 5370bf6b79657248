"""Rows of jobs: which process leads, and how each job's last run went."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Interval,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    func,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.server.tables import INSTANT, compiled, metadata

JOB_LEADER = Table(
    "job_leader",
    metadata,
    Column("only_row", Boolean, nullable=False, server_default=text("true")),
    Column("holder", Text, nullable=False),
    Column("until", INSTANT, nullable=False),
    PrimaryKeyConstraint("only_row", name="one_leader"),
    CheckConstraint("only_row"),
)
_me = bindparam("me", type_=Text)
_leading = insert(JOB_LEADER).values(
    only_row=true(),
    holder=_me,
    until=func.clock_timestamp() + bindparam("lease", type_=Interval),
)
LEAD = compiled(
    _leading.on_conflict_do_update(
        constraint=JOB_LEADER.primary_key,
        set_={"holder": _leading.excluded.holder, "until": _leading.excluded.until},
        where=or_(
            JOB_LEADER.c.until < func.clock_timestamp(),
            JOB_LEADER.c.holder == _leading.excluded.holder,
        ),
    ).returning(JOB_LEADER.c.holder)
)
"""Takes or renews the lead; no row comes back if another process has it."""
RESIGN = compiled(
    update(JOB_LEADER).where(JOB_LEADER.c.holder == _me).values(until=func.clock_timestamp())
)

JOB_RUNS = Table(
    "job_runs",
    metadata,
    Column("job", Text, nullable=False),
    Column("started_at", INSTANT, nullable=False),
    Column("finished_at", INSTANT),
    Column("outcome", Text, nullable=False),
    PrimaryKeyConstraint("job", name="job_has_one_last_run"),
)
_run = JOB_RUNS.c
_begun = insert(JOB_RUNS).values(
    job=bindparam("job"), started_at=bindparam("at"), outcome="running"
)
BEGIN_RUN = compiled(
    _begun.on_conflict_do_update(
        constraint=JOB_RUNS.primary_key,
        set_={"started_at": _begun.excluded.started_at, "outcome": _begun.excluded.outcome},
    )
)
END_RUN = compiled(
    update(JOB_RUNS)
    .where(_run.job == bindparam("name"))
    .values(finished_at=bindparam("at"), outcome=bindparam("what"))
)
RUNS = compiled(
    select(_run.job, _run.started_at, _run.finished_at, _run.outcome).order_by(_run.job)
)
