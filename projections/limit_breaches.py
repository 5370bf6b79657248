"""Breach log: what limits and credit refused, newest first. Catching up: nothing decides by it.

A row per ``request_refused`` event that names a limit or the credit that was lacking, with how
often in that second. Refusals of other kinds (a revoked key, a model without a price) are no
breach of anything; they stay readable in the account's events.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from ledger import events as e
from ledger.arrays import Instants, Int2s, Int4s, Int8s, Texts, Uuids
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import AccountId
from ledger.store import NO_KEY, Statement
from projections.base import Projection

NAME = "limit_breaches"
VERSION = 1
TABLES = ("limit_breaches",)
POSITION_MAX = 2**63 - 1

INSERT: LiteralString = (
    "INSERT INTO limit_breaches (lane, lane_seq, recorded_at, account_id, key_id, count, reason,"
    " scope, limit_id, model, integration, ceiling, used, pending, requested)"
    " SELECT b.lane, b.lane_seq, b.recorded_at, b.account_id, b.key_id, b.count, b.reason,"
    " b.scope, b.limit_id, b.model, b.integration, b.ceiling, b.used, b.pending, b.requested"
    " FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " AS b(lane, lane_seq, recorded_at, account_id, key_id, count, reason, scope, limit_id, model,"
    " integration, ceiling, used, pending, requested)"
)
TAKES: LiteralString = "type = 'request_refused'"
CLEAR: LiteralString = "DELETE FROM limit_breaches WHERE lane = %s"
LATEST: LiteralString = (
    "SELECT lane_seq, recorded_at, key_id, count, reason, scope, limit_id, model, integration,"
    " ceiling, used, pending, requested FROM limit_breaches"
    " WHERE lane = %s AND account_id = %s AND lane_seq < %s ORDER BY lane_seq DESC LIMIT %s"
)


class Breach(NamedTuple):
    """Refusals for one reason in one second. Numbers as the refusal gave them."""

    seq: int
    """Lane position of the event."""
    recorded_at: Instant
    key_id: UUID
    times: int
    reason: str
    scope: str
    limit_id: str
    """The limit, or ``credit:`` and the asset."""
    model: str
    integration: str
    ceiling: str
    used: str
    pending: str
    requested: str


def apply(events: Sequence[Recorded]) -> list[Statement]:
    """Turn refusals by limits and credit into rows."""
    found = [
        (event.envelope, event.body)
        for event in events
        if isinstance(event.body, e.RequestRefused) and event.body.limit_id
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
    )
    return [(INSERT, columns)]


async def latest(
    connection: AsyncConnection,
    lane: int,
    account_id: AccountId,
    limit: int,
    before: int | None = None,
) -> list[Breach]:
    """Read an account's newest breaches, at most ``limit``, older than position ``before``."""
    place = POSITION_MAX if before is None else before
    cursor = await connection.execute(LATEST, (lane, account_id, place, limit))
    return [Breach(*row) for row in await cursor.fetchall()]


PROJECTION = Projection(NAME, VERSION, TABLES, (CLEAR,), TAKES, apply)
