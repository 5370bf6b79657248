"""The record's own tables: SQL of the append, of the feed, and of the heads.

Hand-written, because these few statements are the hot path: each filters on one lane, each
writes a whole batch from arrays. Nothing here updates or deletes an event.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection, Connection
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM

from ledger.clock import Instant
from ledger.codec import Recorded, decode, label, labels
from ledger.events import Envelope, RateCardPublished, RateCardWithdrawn
from ledger.ids import AccountId, KeyId
from ledger.pricing import RateCard
from ledger.ratecards import RateCards
from ledger.record.arrays import Byteas, Instants, Int4s, Int8s, Texts, Uuids
from ledger.record.tables import INSTANT, Bound, metadata

NO_KEY = UUID(int=0)
GAP_MAX = 2**31 - 1

EVENTS = Table(
    "events",
    metadata,
    Column("lane_seq", BigInteger, nullable=False),
    Column("recorded_at", INSTANT, nullable=False),
    Column("occurred_at", INSTANT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column(
        "type",
        ENUM(*sorted(labels), name="event_type", create_type=False),
        nullable=False,
        comment="Schema version 1 by the bare name, later ones as name@2 …",
    ),
    Column(
        "gap",
        Integer,
        nullable=False,
        comment="Lane positions back to the account's previous event; 0: none, or too far",
    ),
    Column("lane", SmallInteger, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("key_id", Uuid, nullable=False, comment="All zeros: about no key"),
    Column("hash", LargeBinary, nullable=False),
    Column("payload", JSON, nullable=False),
    CheckConstraint("lane_seq > 0 AND version > 0", name="event_has_a_position"),
    postgresql_partition_by="RANGE (recorded_at)",
)
"""The key ``(lane, lane_seq)`` is each partition's own."""
LANE_HEADS = Table(
    "lane_heads",
    metadata,
    Column("lane", SmallInteger, autoincrement=False),
    Column("seq", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "epoch",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Raised when projections were replaced under running writers, who then reload",
    ),
    Column("last_recorded_at", INSTANT),
    Column(
        "chain",
        LargeBinary,
        nullable=False,
        server_default=text("decode(repeat('00', 32), 'hex')"),
    ),
    PrimaryKeyConstraint("lane", name="lane_has_one_head"),
    CheckConstraint("seq >= 0", name="lane_seq_is_not_negative"),
    postgresql_with={"fillfactor": 50},
)
ACCOUNT_HEADS = Table(
    "account_heads",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("lane", "account_id", name="account_has_one_head"),
    postgresql_with={"fillfactor": 50},
)
REQUEST_IDS = Table(
    "request_ids",
    metadata,
    Column("lane_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger),
    Column("lane", SmallInteger, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("lane", "request_hash", name="request_id_charges_once"),
    postgresql_with={"fillfactor": 100},
)
IDEMPOTENCY_KEYS = Table(
    "idempotency_keys",
    metadata,
    Column("lane", SmallInteger, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("lane_seq", BigInteger, nullable=False),
    Column("reply", JSON, nullable=False),
    Column("recorded_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("lane", "key_hash", name="idempotency_key_is_used_once"),
)

LOCK_HEADS: LiteralString = (
    "SELECT seq, epoch, chain, last_recorded_at, lane FROM lane_heads ORDER BY lane FOR UPDATE"
)
"""Every lane's, in one order: what is decided under it no other lane can have overlooked."""
LOCK_HEAD: LiteralString = (
    "SELECT seq, epoch, chain, last_recorded_at FROM lane_heads WHERE lane = %s FOR UPDATE"
)
READ_HEAD: LiteralString = (
    "SELECT seq, epoch, chain, last_recorded_at FROM lane_heads WHERE lane = %s"
)
MOVE_HEAD: LiteralString = (
    "UPDATE lane_heads SET seq = %s, chain = %s, last_recorded_at = %s WHERE lane = %s"
)
FIND_REQUESTS: LiteralString = (
    "SELECT request_hash, lane_seq, last_seq FROM request_ids"
    " WHERE lane = %s AND request_hash = ANY(%s)"
)
FIND_REPLIES: LiteralString = (
    "SELECT key_hash, fingerprint, reply::text FROM idempotency_keys"
    " WHERE lane = %s AND key_hash = ANY(%s)"
)
INSERT_REPLY: LiteralString = (
    "INSERT INTO idempotency_keys (lane, key_hash, fingerprint, lane_seq, reply, recorded_at)"
    " VALUES (%s, %s, %s, %s, %s::text::json, %s)"
)
INSERT_EVENTS: LiteralString = (
    "INSERT INTO events (lane, lane_seq, recorded_at, occurred_at, version, type, gap,"
    " account_id, key_id, hash, payload)"
    " SELECT %s, e.seq, e.recorded_at, e.occurred_at, e.version, e.type::event_type, e.gap,"
    " e.account_id, e.key_id, e.hash, e.payload::json"
    " FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) AS e(seq, recorded_at,"
    " occurred_at, version, type, gap, account_id, key_id, hash, payload)"
)
INSERT_REQUESTS: LiteralString = (
    "INSERT INTO request_ids (lane, request_hash, lane_seq, last_seq)"
    " SELECT %s, r.hash, r.seq, NULLIF(r.last, 0) FROM unnest(%s, %s, %s) AS r(hash, seq, last)"
)
# They are there already. As an UPDATE with a join it was planned once, while the table was small,
# and read all of the lane's from then on; the constraint's index is all that this can use.
CLOSE_REQUESTS: LiteralString = (
    "INSERT INTO request_ids (lane, request_hash, lane_seq, last_seq)"
    " SELECT %s, r.* FROM unnest(%s, %s, %s) AS r(hash, seq, last)"
    " ON CONFLICT ON CONSTRAINT request_id_charges_once DO UPDATE SET last_seq = EXCLUDED.last_seq"
)
INSERT_REPORTS: LiteralString = (
    "INSERT INTO provider_reports (lane, request_hash, account_id, recorded_at,"
    " provider_request_id, report) SELECT %s, r.* FROM unnest(%s, %s, %s, %s, %s)"
    " AS r(request_hash, account_id, recorded_at, provider_request_id, report)"
    " ON CONFLICT ON CONSTRAINT request_has_one_report DO NOTHING"
)
INSERT_NOTES: LiteralString = (
    "INSERT INTO request_notes (lane, request_hash, account_id, salt, metadata, end_user)"
    " SELECT %s, n.* FROM unnest(%s, %s, %s, %s, %s)"
    " AS n(request_hash, account_id, salt, metadata, end_user)"
)
SAVE_ACCOUNT_HEADS: LiteralString = (
    "INSERT INTO account_heads (lane, account_id, version, last_seq, hash)"
    " SELECT %s, h.* FROM unnest(%s, %s, %s, %s) AS h(account_id, version, last_seq, hash)"
    " ON CONFLICT ON CONSTRAINT account_has_one_head DO UPDATE"
    " SET version = EXCLUDED.version, last_seq = EXCLUDED.last_seq, hash = EXCLUDED.hash"
)
LOAD_ACCOUNT_HEADS: LiteralString = (
    "SELECT account_id, version, last_seq, hash FROM account_heads"
    " WHERE lane = %s AND account_id = ANY(%s)"
)
FIND_EVENTS: LiteralString = (
    "SELECT lane, lane_seq, account_id, version, recorded_at, occurred_at, key_id, type::text,"
    " payload::text, hash, gap FROM events"
    " WHERE lane = %s AND lane_seq = ANY(%s)"
)
BETWEEN: LiteralString = (
    "SELECT lane, lane_seq, account_id, version, recorded_at, occurred_at, key_id, type::text,"
    " payload::text, hash, gap FROM events"
    " WHERE lane = %s AND lane_seq > %s AND lane_seq <= %s"
)
"""Events of a lane between two positions, in no order yet."""
FEED: LiteralString = BETWEEN + " ORDER BY lane_seq"
RATE_CARDS: LiteralString = (
    "SELECT lane_seq, name, version, recorded_at, withdrawn_at,"
    " CASE WHEN lane_seq > %s THEN content::text END FROM rate_cards ORDER BY lane_seq"
)
"""Every version; the content of those that are newer than a position."""
COUNT_RATE_CARDS: LiteralString = "SELECT count(*) + count(withdrawn_at) FROM rate_cards"
INSERT_RATE_CARD: LiteralString = (
    "INSERT INTO rate_cards (name, version, asset, effective_from, recorded_at, content_hash,"
    " lane_seq, content) VALUES (%s, %s, %s, %s, %s, %s, %s, %s::text::json)"
)
WITHDRAW_RATE_CARD: LiteralString = (
    "UPDATE rate_cards SET withdrawn_at = %s WHERE name = %s AND version = %s"
)

Statement = tuple[LiteralString, Sequence[Any]]
"""SQL with its parameters."""
Row = Statement | Bound
"""What writes a row beside the events, in their transaction."""


def rate_card_rows(recorded: Iterable[Recorded]) -> list[Row]:
    """Give what keeps the table of rate cards as their events say."""
    rows: list[Row] = []
    for event in recorded:
        at, body = event.envelope.recorded_at, event.body
        if isinstance(body, RateCardPublished):
            card = body.card
            content = msgspec.json.encode(card, order="deterministic").decode()
            terms = (card.name, card.version, card.asset, card.effective_from, at)
            seq = event.envelope.lane_seq
            rows.append((INSERT_RATE_CARD, (*terms, body.content_hash, seq, content)))
        elif isinstance(body, RateCardWithdrawn):
            rows.append((WITHDRAW_RATE_CARD, (at, body.name, body.version)))
    return rows


async def load_cards(connection: AsyncConnection, cards: RateCards) -> None:
    """Take in the versions and withdrawals of rate cards that this process does not have yet."""
    rows = await connection.execute(RATE_CARDS, (cards.seq,))
    for seq, name, version, recorded_at, withdrawn_at, content in await rows.fetchall():
        if seq > cards.seq:
            cards.add(msgspec.json.decode(content, type=RateCard), recorded_at)
            cards.seq = seq
        if withdrawn_at is not None:
            cards.withdraw(name, version, withdrawn_at)


def combined(statements: Sequence[Statement]) -> Statement:
    """Give one statement that does what several do, which touch no row in common.

    A batch writes some nine tables; sent one by one, their sending costs more than their work.
    """
    sql = _joined(tuple(text for text, _ in statements))
    return sql, [value for _, parameters in statements for value in parameters]


@lru_cache(maxsize=1_024)
def _joined(texts: tuple[LiteralString, ...]) -> LiteralString:
    parts = ", ".join(f"part_{number} AS ({text})" for number, text in enumerate(texts))
    return f"WITH {parts} SELECT"  # sql-ok: constants of ours


def numbered(sql: LiteralString) -> LiteralString:
    """Write ``%s`` as ``$1``, ``$2`` …, as the server reads them."""
    first, *others = sql.split("%s")
    return first + "".join(f"${place}{text}" for place, text in enumerate(others, 1))


class Head(NamedTuple):
    """Where a lane stands."""

    seq: int
    epoch: int
    chain: bytes
    last_recorded_at: Instant | None


class Stored(NamedTuple):
    """An event as it was read, with the columns that only its checker compares."""

    recorded: Recorded
    type: str
    gap: int


def stored(row: Sequence[Any]) -> Stored:
    """Turn a row of ``FIND_EVENTS``, ``BETWEEN`` or ``FEED`` into an event.

    Raises:
        LedgerCorrupt: Its type, version or payload cannot be read.
    """
    lane, seq, account, version, recorded_at, occurred_at, key, *rest = row
    tag, payload, hashed, gap = rest
    envelope = Envelope(
        lane,
        seq,
        AccountId(account),
        version,
        recorded_at,
        occurred_at,
        None if key == NO_KEY else KeyId(key),
    )
    raw = payload.encode()
    body = decode(tag, raw)
    recorded = Recorded(envelope, body, raw, bytes(hashed))
    return Stored(recorded, tag, gap)


def insert_events(lane: int, events: Sequence[Recorded], gaps: Iterable[int]) -> Statement:
    """Give the statement that appends a batch."""
    envelopes, bodies, payloads, hashes = zip(*events, strict=True)
    _, seqs, account_ids, versions, recorded_ats, occurred_ats, key_ids = zip(
        *envelopes, strict=True
    )
    return INSERT_EVENTS, (
        lane,
        Int8s(seqs),
        Instants(recorded_ats),
        Instants(occurred_ats),
        Int8s(versions),
        Texts(map(label, bodies)),
        Int4s(gaps),
        Uuids(account_ids),
        Uuids([key_id or NO_KEY for key_id in key_ids]),
        Byteas(hashes),
        Texts(payloads),
    )


def read_head(connection: Connection, lane: int) -> Head:
    """Read where a lane stands, without a lock."""
    row = connection.execute(READ_HEAD, (lane,)).fetchone()
    assert row is not None
    return Head(row[0], row[1], bytes(row[2]), row[3])


async def find_event(connection: AsyncConnection, lane: int, seq: int) -> Stored | None:
    """Read one event by its position; None: there is none."""
    cursor = await connection.execute(FIND_EVENTS, (lane, Int8s([seq])))
    row = await cursor.fetchone()
    return None if row is None else stored(row)
