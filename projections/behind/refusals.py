"""Refusals as they were written down, newest first. Catching up: nothing decides by them.

A row per ``request_refused`` event, for whatever reason, with how often in that second and what the
refused requests would have used.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import AccountId
from ledger.record.arrays import Instants, Int2s, Int4s, Int8s, Texts, Uuids
from ledger.record.store import NO_KEY, Statement
from projections.base import Projection

NAME = "refusals"
VERSION = 1
TABLES = ("refusals",)
POSITION_MAX = 2**63 - 1

INSERT: LiteralString = (
    "INSERT INTO refusals (lane, lane_seq, recorded_at, account_id, key_id, count, reason,"
    " scope, limit_id, model, integration, ceiling, used, pending, requested, usage)"
    " SELECT b.lane, b.lane_seq, b.recorded_at, b.account_id, b.key_id, b.count, b.reason,"
    " b.scope, b.limit_id, b.model, b.integration, b.ceiling, b.used, b.pending, b.requested,"
    " b.usage::json FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " AS b(lane, lane_seq, recorded_at, account_id, key_id, count, reason, scope, limit_id, model,"
    " integration, ceiling, used, pending, requested, usage)"
)
TAKES: LiteralString = "type = 'request_refused'"
CLEAR: LiteralString = "DELETE FROM refusals WHERE lane = %s"
LATEST: LiteralString = (
    "SELECT lane_seq, recorded_at, key_id, count, reason, scope, limit_id, model, integration,"
    " ceiling, used, pending, requested, usage::text FROM refusals"
    " WHERE lane = %s AND account_id = %s AND lane_seq < %s ORDER BY lane_seq DESC LIMIT %s"
)


class Refusal(NamedTuple):
    """Refusals for one reason in one second. Numbers as the refusal gave them."""

    seq: int
    """Lane position of the event."""
    recorded_at: Instant
    key_id: UUID
    times: int
    reason: str
    scope: str
    limit_id: str
    """The limit, or ``credit:`` and the asset; empty: neither refused it."""
    model: str
    integration: str
    ceiling: str
    used: str
    pending: str
    requested: str
    usage: str
    """JSON: units by class."""


_json = msgspec.json.Encoder(order="deterministic").encode


def apply(events: Sequence[Recorded]) -> list[Statement]:
    """Turn refusals into rows."""
    found = [
        (event.envelope, event.body) for event in events if isinstance(event.body, e.RequestRefused)
    ]
    if not found:
        return []
    bodies = [body for _, body in found]
    columns = (
        Int2s(envelope.lane for envelope, _ in found),
        Int8s(envelope.lane_seq for envelope, _ in found),
        Instants(envelope.recorded_at for envelope, _ in found),
        Uuids(envelope.account_id for envelope, _ in found),
        Uuids(envelope.key_id or NO_KEY for envelope, _ in found),
        Int4s(body.count for body in bodies),
        Texts(body.reason for body in bodies),
        Texts(body.scope for body in bodies),
        Texts(body.limit_id for body in bodies),
        Texts(body.model for body in bodies),
        Texts(body.integration for body in bodies),
        Texts(body.ceiling for body in bodies),
        Texts(body.used for body in bodies),
        Texts(body.pending for body in bodies),
        Texts(body.requested for body in bodies),
        Texts(_json(body.usage) for body in bodies),
    )
    return [(INSERT, columns)]


async def latest(
    connection: AsyncConnection,
    lane: int,
    account_id: AccountId,
    limit: int,
    before: int | None = None,
) -> list[Refusal]:
    """Read an account's newest refusals, at most ``limit``, older than position ``before``."""
    place = POSITION_MAX if before is None else before
    cursor = await connection.execute(LATEST, (lane, account_id, place, limit))
    return [Refusal(*row) for row in await cursor.fetchall()]


PROJECTION = Projection(NAME, VERSION, TABLES, (CLEAR,), TAKES, apply)
