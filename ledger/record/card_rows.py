"""Rate cards as rows: every version for good, and when it was withdrawn. They follow the events."""

from collections.abc import Iterable

import msgspec
from psycopg import AsyncConnection
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    case,
    cast,
    func,
    insert,
    select,
    update,
)

from ledger.codec import Recorded
from ledger.events import RateCardPublished, RateCardWithdrawn
from ledger.pricing import RateCard
from ledger.ratecards import RateCards
from ledger.record.store import Row
from ledger.server.tables import INSTANT, compiled, metadata

RATE_CARDS = Table(
    "rate_cards",
    metadata,
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("asset", Text, nullable=False),
    Column("effective_from", INSTANT, nullable=False),
    Column("recorded_at", INSTANT, nullable=False),
    Column("withdrawn_at", INSTANT),
    Column("content_hash", Text, nullable=False),
    Column("lane_seq", BigInteger, nullable=False),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("name", "version", name="rate_card_version_is_immutable"),
)

_C = RATE_CARDS.c
_CONTENT = cast(_C.content, Text)
EVERY = compiled(
    select(
        *(_C.name, _C.version, _C.asset, _C.effective_from, _C.recorded_at, _C.withdrawn_at),
        *(_C.content_hash, _C.lane_seq, _CONTENT),
    ).order_by(_C.lane_seq)
)
COUNT = compiled(select(func.count() + func.count(_C.withdrawn_at)).select_from(RATE_CARDS))
"""Versions and withdrawals: it grows with each change."""
_NEWER = compiled(
    select(
        *(_C.lane_seq, _C.name, _C.version, _C.recorded_at, _C.withdrawn_at),
        case((_C.lane_seq > bindparam("seq"), _CONTENT)),
    ).order_by(_C.lane_seq)
)
"""Every version; the content of those that are newer than a position."""
_ADD = compiled(insert(RATE_CARDS))
_WITHDRAW = compiled(
    update(RATE_CARDS)
    .where(_C.name == bindparam("card"), _C.version == bindparam("number"))
    .values(withdrawn_at=bindparam("at"))
)


def rows_of(recorded: Iterable[Recorded]) -> list[Row]:
    """Return what keeps the table as events say."""
    made: list[Row] = []
    for event in recorded:
        at, body = event.envelope.recorded_at, event.body
        if isinstance(body, RateCardPublished):
            card = body.card
            columns = {
                "name": card.name,
                "version": card.version,
                "asset": card.asset,
                "effective_from": card.effective_from,
                "recorded_at": at,
                "withdrawn_at": None,
                "content_hash": body.content_hash,
                "lane_seq": event.envelope.lane_seq,
                "content": msgspec.json.encode(card, order="deterministic").decode(),
            }
            made.append((_ADD, columns))
        elif isinstance(body, RateCardWithdrawn):
            made.append((_WITHDRAW, {"card": body.name, "number": body.version, "at": at}))
    return made


async def load(connection: AsyncConnection, cards: RateCards) -> None:
    """Take in the versions and withdrawals that this process does not have yet."""
    found = await connection.execute(_NEWER, {"seq": cards.seq})
    for seq, name, version, recorded_at, withdrawn_at, content in await found.fetchall():
        if seq > cards.seq:
            cards.add(msgspec.json.decode(content, type=RateCard), recorded_at)
            cards.seq = seq
        if withdrawn_at is not None:
            cards.withdraw(name, version, withdrawn_at)
