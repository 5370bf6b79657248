"""Refusals as they were written down, newest first. Catching up: nothing decides by them.

A row per ``request_refused`` event, for whatever reason, with how often in that second and what the
refused requests would have used.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    bindparam,
    cast,
    select,
)

from ledger import events as e
from ledger.codec import Recorded
from ledger.record.rows import InsertRows
from ledger.record.store import EVENTS, NO_KEY, Statement
from ledger.server.tables import INSTANT, compiled, metadata
from projections.base import CatchingUp

REFUSALS = Table(
    "refusals",
    metadata,
    Column("lane_seq", BigInteger, nullable=False),
    Column("recorded_at", INSTANT, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False),
    Column("count", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("limit_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("integration", Text, nullable=False),
    Column("ceiling", Text, nullable=False),
    Column("used", Text, nullable=False),
    Column("pending", Text, nullable=False),
    Column("requested", Text, nullable=False),
    Column("usage", JSON, nullable=False),
    PrimaryKeyConstraint("lane", "lane_seq", name="refusal_is_logged_once"),
    Index("refusals_by_account", "lane", "account_id", "lane_seq"),
)

_ADD = InsertRows(REFUSALS)
_NEWEST = (
    select(
        *(c for c in REFUSALS.c if c.name not in {"lane", "account_id", "usage"}),
        cast(REFUSALS.c.usage, Text),
    )
    .where(REFUSALS.c.lane == bindparam("lane"), REFUSALS.c.account_id == bindparam("account"))
    .order_by(REFUSALS.c.lane_seq.desc())
    .limit(bindparam("most"))
)
LATEST = compiled(_NEWEST.where(REFUSALS.c.lane_seq < bindparam("before")))
"""An account's, older than a position."""
RATE_BREACHES = compiled(_NEWEST.where(REFUSALS.c.limit_id.regexp_match(bindparam("kinds"))))
"""An account's whose limit is of some kinds."""


_json = msgspec.json.Encoder(order="deterministic").encode


def apply(events: Sequence[Recorded]) -> list[Statement]:
    """Turn refusals into rows."""
    found = [
        (event.envelope, event.body) for event in events if isinstance(event.body, e.RequestRefused)
    ]
    if not found:
        return []
    envelopes, bodies = zip(*found, strict=True)
    return [
        _ADD.of(
            envelopes[0].lane,
            lane_seq=(envelope.lane_seq for envelope in envelopes),
            recorded_at=(envelope.recorded_at for envelope in envelopes),
            account_id=(envelope.account_id for envelope in envelopes),
            key_id=(envelope.key_id or NO_KEY for envelope in envelopes),
            count=(body.count for body in bodies),
            reason=(body.reason for body in bodies),
            scope=(body.scope for body in bodies),
            limit_id=(body.limit_id for body in bodies),
            model=(body.model for body in bodies),
            integration=(body.integration for body in bodies),
            ceiling=(body.ceiling for body in bodies),
            used=(body.used for body in bodies),
            pending=(body.pending for body in bodies),
            requested=(body.requested for body in bodies),
            usage=(_json(body.usage) for body in bodies),
        )
    ]


PROJECTION = CatchingUp("refusals", 1, (REFUSALS,), EVENTS.c.type == "request_refused", apply)
