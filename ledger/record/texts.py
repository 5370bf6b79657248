"""Texts beside the events of requests: what providers reported, and what callers noted.

The event holds digests. A text may go, by age or because a person is erased.
"""

from sqlalchemy import (
    Column,
    Index,
    Interval,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    cast,
    delete,
    func,
    select,
)

from ledger.record.rows import InsertRows
from ledger.server.tables import INSTANT, compiled, metadata

REPORTS = Table(
    "provider_reports",
    metadata,
    Column("recorded_at", INSTANT, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("provider_request_id", Text, nullable=False),
    Column("report", Text, nullable=False),
    PrimaryKeyConstraint("lane", "request_hash", name="request_has_one_report"),
    Index("provider_reports_by_age", "lane", "recorded_at"),
    comment="What providers reported of requests, as they did; the event holds its SHA-256",
)
NOTES = Table(
    "request_notes",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("end_user", Text, nullable=False),
    PrimaryKeyConstraint("lane", "request_hash", name="request_has_one_note"),
    comment="What callers noted of requests; the event holds digests, which mean nothing without"
    " the salt",
)

ADD_REPORTS = InsertRows(REPORTS, ignores=True)
ADD_NOTES = InsertRows(NOTES)
FIND_REPORT = compiled(
    select(REPORTS.c.provider_request_id, REPORTS.c.report).where(
        REPORTS.c.lane == bindparam("lane"), REPORTS.c.request_hash == bindparam("hash")
    )
)
FIND_NOTES = compiled(
    select(NOTES.c.metadata, NOTES.c.end_user).where(
        NOTES.c.lane == bindparam("lane"), NOTES.c.request_hash == bindparam("hash")
    )
)
FORGET_REPORTS = compiled(
    delete(REPORTS).where(
        REPORTS.c.lane == bindparam("lane"),
        REPORTS.c.recorded_at < func.clock_timestamp() - cast(bindparam("kept"), Interval),
    )
)
