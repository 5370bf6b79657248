"""The record's own tables, the append, the feed, and the heads.

What appends is hand-written, because it is what the record stands on: it is to be read word for
word. Nothing here updates or deletes an event.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, Connection
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    FromClause,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ENUM

from ledger.clock import Instant
from ledger.codec import Recorded, decode, label, labels
from ledger.events import Envelope
from ledger.ids import AccountId, KeyId
from ledger.record.arrays import Byteas, Instants, Int4s, Int8s, Texts, Uuids
from ledger.record.rows import InsertRows, SelectRows
from ledger.server.tables import INSTANT, BoundStatement, compiled, metadata, positional

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

_HEAD = (LANE_HEADS.c.seq, LANE_HEADS.c.epoch, LANE_HEADS.c.chain, LANE_HEADS.c.last_recorded_at)
_OF_LANE = LANE_HEADS.c.lane == bindparam("lane")
LOCK_HEADS = positional(
    select(*_HEAD, LANE_HEADS.c.lane).order_by(LANE_HEADS.c.lane).with_for_update()
)
"""Every lane's, in one order: what is decided under it no other lane can have overlooked."""
LOCK_HEAD = positional(select(*_HEAD).where(_OF_LANE).with_for_update(), "lane")
READ_HEAD = positional(select(*_HEAD).where(_OF_LANE), "lane")
SEQ_AND_CLOCK = positional(select(LANE_HEADS.c.seq, func.ledger_clock()).where(_OF_LANE), "lane")
LANES = compiled(
    select(
        LANE_HEADS.c.lane, LANE_HEADS.c.seq, LANE_HEADS.c.last_recorded_at, LANE_HEADS.c.chain
    ).order_by(LANE_HEADS.c.lane)
)
MOVE_HEAD = positional(
    update(LANE_HEADS)
    .where(LANE_HEADS.c.lane == bindparam("of"))
    .values(seq=bindparam("to"), chain=bindparam("links"), last_recorded_at=bindparam("at")),
    *("to", "at", "links", "of"),
)
RAISE_EPOCH = positional(
    update(LANE_HEADS)
    .where(LANE_HEADS.c.lane == bindparam("of"))
    .values(epoch=LANE_HEADS.c.epoch + 1),
    "of",
)

FIND_REQUESTS = positional(
    select(REQUEST_IDS.c.request_hash, REQUEST_IDS.c.lane_seq, REQUEST_IDS.c.last_seq).where(
        REQUEST_IDS.c.lane == bindparam("lane"),
        REQUEST_IDS.c.request_hash == any_(bindparam("hashes")),
    ),
    *("lane", "hashes"),
)
FIND_REPLIES = positional(
    select(
        IDEMPOTENCY_KEYS.c.key_hash,
        IDEMPOTENCY_KEYS.c.fingerprint,
        cast(IDEMPOTENCY_KEYS.c.reply, Text),
    ).where(
        IDEMPOTENCY_KEYS.c.lane == bindparam("lane"),
        IDEMPOTENCY_KEYS.c.key_hash == any_(bindparam("hashes")),
    ),
    *("lane", "hashes"),
)
ADD_REPLY = InsertRows(IDEMPOTENCY_KEYS)

# By hand: what is stored of an event, word for word.
INSERT_EVENTS: LiteralString = """
INSERT INTO events (lane, lane_seq, recorded_at, occurred_at, version, type, gap, account_id,
    key_id, hash, payload)
SELECT %s, e.seq, e.recorded_at, e.occurred_at, e.version, e.type::event_type, e.gap,
    e.account_id, e.key_id, e.hash, e.payload::json
FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) AS e(seq, recorded_at, occurred_at, version,
    type, gap, account_id, key_id, hash, payload)
"""
# By hand: what makes a request charge once, word for word. An array of whole numbers has no NULL.
INSERT_REQUESTS: LiteralString = """
INSERT INTO request_ids (lane, request_hash, lane_seq, last_seq)
SELECT %s, r.hash, r.seq, NULLIF(r.last, 0) FROM unnest(%s, %s, %s) AS r(hash, seq, last)
"""
CLOSE_REQUESTS = InsertRows(REQUEST_IDS, replaces=["last_seq"])
"""They are there already. As an UPDATE with a join it was planned once, while the table was small,
and read all of the lane's from then on; the constraint's index is all that this can use."""
SAVE_ACCOUNT_HEADS = InsertRows(ACCOUNT_HEADS, replaces=("version", "last_seq", "hash"))
LOAD_ACCOUNT_HEADS = SelectRows(ACCOUNT_HEADS, ACCOUNT_HEADS.c.account_id)
_OF_ACCOUNT = (
    ACCOUNT_HEADS.c.lane == bindparam("lane"),
    ACCOUNT_HEADS.c.account_id == bindparam("account"),
)
ACCOUNT_HEAD = positional(
    select(ACCOUNT_HEADS.c.last_seq, ACCOUNT_HEADS.c.version).where(*_OF_ACCOUNT),
    *("lane", "account"),
)
LAST_RECORDED_AT = positional(
    select(EVENTS.c.recorded_at)
    .select_from(ACCOUNT_HEADS)
    .join(
        EVENTS,
        and_(
            EVENTS.c.lane == ACCOUNT_HEADS.c.lane,
            EVENTS.c.lane_seq == ACCOUNT_HEADS.c.last_seq,
        ),
    )
    .where(*_OF_ACCOUNT),
    *("lane", "account"),
)
"""Of an account's newest event."""


def _as_stored(of: FromClause) -> list[ColumnElement[Any]]:
    """Return what ``stored`` takes of an event."""
    return [
        *(of.c.lane, of.c.lane_seq, of.c.account_id, of.c.version),
        *(of.c.recorded_at, of.c.occurred_at, of.c.key_id),
        *(cast(of.c.type, Text).label("type"), cast(of.c.payload, Text).label("payload")),
        *(of.c.hash, of.c.gap),
    ]


_EVENTS_OF_LANE = select(*_as_stored(EVENTS)).where(EVENTS.c.lane == bindparam("lane"))
FIND_EVENTS = positional(
    _EVENTS_OF_LANE.where(EVENTS.c.lane_seq == any_(bindparam("seqs"))), *("lane", "seqs")
)
BETWEEN = _EVENTS_OF_LANE.where(
    EVENTS.c.lane_seq > bindparam("after"), EVENTS.c.lane_seq <= bindparam("upto")
)
"""Events of a lane between two positions, in no order yet."""
FEED = positional(BETWEEN.order_by(EVENTS.c.lane_seq), *("lane", "after", "upto"))


def _along_the_chain() -> bytes:
    """Read an account's events newest first: each says how far back its predecessor is."""
    place = literal(1).label("place")
    chain = (
        _EVENTS_OF_LANE.where(EVENTS.c.lane_seq == bindparam("start"))
        .add_columns(place)
        .cte("chain", recursive=True)
    )
    before = EVENTS.alias("before")
    chain = chain.union_all(
        select(*_as_stored(before), chain.c.place + 1)
        .join(
            chain,
            and_(
                before.c.lane == bindparam("lane"),
                before.c.lane_seq == chain.c.lane_seq - chain.c.gap,
            ),
        )
        .where(chain.c.gap > 0, chain.c.place < bindparam("most"))
    )
    columns = [column for column in chain.c if column.name != "place"]
    return compiled(select(*columns).order_by(chain.c.place))


ACCOUNT_EVENTS = _along_the_chain()

Statement = tuple[LiteralString, Sequence[Any]]
"""SQL with its parameters."""
Row = Statement | BoundStatement
"""What writes a row beside the events, in their transaction."""


def combined(statements: Sequence[Statement]) -> Statement:
    """Return one statement that does what several do, which touch no row in common.

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
    """Turn a row of a read of events into an event.

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
    """Return the statement that appends a batch."""
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


def insert_requests(lane: int, requests: Mapping[bytes, tuple[int, int]]) -> Statement:
    """Return the statement that makes requests charge once, by hash: position, and last or 0."""
    positions = requests.values()
    return INSERT_REQUESTS, (
        lane,
        Byteas(requests),
        Int8s(first for first, _ in positions),
        Int8s(last for _, last in positions),
    )


def close_requests(lane: int, requests: Mapping[bytes, tuple[int, int]]) -> Statement:
    """Return the statement that notes where requests ended, by hash: position, and last."""
    positions = requests.values()
    return CLOSE_REQUESTS.of(
        lane,
        request_hash=requests,
        lane_seq=(first for first, _ in positions),
        last_seq=(last for _, last in positions),
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
