"""The checker: walks every lane from its first event to its head and recomputes what can be.

Hashes are recomputed from the stored bytes, never from a re-encoding. What is found is data, in
order of position; nothing is mended. It only reads, in one snapshot per lane, so it may run while
the service does. Projections are compared by ``projections.rebuild``, which folds them anew.
Whoever rewrites every event from some point on, and all heads, is found by seals, not here.
"""

import multiprocessing
import os
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import chain
from multiprocessing.queues import SimpleQueue
from typing import Any, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import psycopg
from sqlalchemy import bindparam, func, select

from ledger import codec
from ledger import events as e
from ledger.clock import Instant, from_microseconds
from ledger.codec import GENESIS
from ledger.errors import LedgerCorrupt
from ledger.ids import (
    OPERATOR_ACCOUNT,
    AccountId,
    KeyId,
    lane_of_account,
    rating_id,
    request_hash,
)
from ledger.pricing import RateCard
from ledger.ratecards import RateCards
from ledger.record import arrays, card_rows, store
from ledger.record.recount import Recount
from ledger.record.request_texts import RequestTexts
from ledger.record.side_rows import SideRows
from ledger.record.store import EVENTS, LANE_HEADS, REQUEST_IDS
from ledger.server import database
from ledger.server.tables import compiled, positional

CHUNK = 20_000
"""Events read at a time."""
FINDINGS_MAX = 100
"""Findings kept per lane; further ones are counted."""
PROCESSES_FROM = 250_000
"""Fewer events are walked in this process: others take a while to start."""
POLL_SECONDS = 0.2

SESSION = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "max_parallel_workers_per_gather": "0",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}
"""Events are to stream in the order of an index. By its statistics the planner would rather read a
partition from end to end for each chunk, or have workers fetch and sort the chunk, which begins
later and takes processors from other lanes."""

SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# By hand: SQLAlchemy has no COPY. The fields are those of an ``EventRow``, in their order.
COPY_ROWS: LiteralString = """
COPY (SELECT lane_seq, recorded_at, occurred_at, version, gap, account_id, key_id, hash, type,
    payload
FROM events WHERE lane = %s AND lane_seq > %s AND lane_seq <= %s ORDER BY lane_seq, recorded_at)
TO STDOUT (FORMAT binary)
"""
HEADS = compiled(select(LANE_HEADS.c.lane, LANE_HEADS.c.seq).order_by(LANE_HEADS.c.lane))
BEYOND = positional(
    select(EVENTS.c.lane_seq)
    .where(EVENTS.c.lane == bindparam("lane"), EVENTS.c.lane_seq > bindparam("after"))
    .order_by(EVENTS.c.lane_seq)
    .limit(bindparam("most")),
    *("lane", "after", "most"),
)
ACCOUNT_HEADS = positional(
    select(
        store.ACCOUNT_HEADS.c.account_id,
        store.ACCOUNT_HEADS.c.version,
        store.ACCOUNT_HEADS.c.last_seq,
        store.ACCOUNT_HEADS.c.hash,
    ).where(store.ACCOUNT_HEADS.c.lane == bindparam("lane")),
    "lane",
)
COUNT_REQUESTS = positional(
    select(func.count()).select_from(REQUEST_IDS).where(REQUEST_IDS.c.lane == bindparam("lane")),
    "lane",
)
PAGE_REQUESTS = positional(
    select(REQUEST_IDS.c.request_hash, REQUEST_IDS.c.lane_seq)
    .where(REQUEST_IDS.c.lane == bindparam("lane"))
    .where(REQUEST_IDS.c.request_hash > bindparam("after"))
    .order_by(REQUEST_IDS.c.request_hash)
    .limit(bindparam("most")),
    *("lane", "after", "most"),
)

# Tuples of COPY: the number of fields, then each preceded by its length.
HEAD = struct.Struct(">2x4xq4xq4xq4xq4xi4x16s4x16si32si")
"""All of a tuple up to its type: the fields of an ``EventRow`` in their order, the length of the
hash before the hash, and the length of the type after it. If the hash has another length than
``HASH_BYTES``, which only somebody by hand can have stored, the rest is meaningless."""
HASH_BYTES = 32
_BEFORE_HASH = struct.Struct(HEAD.format.removesuffix("32si"))
_COPY_HEADER_BYTES = 19
_COPY_END_BYTES = 2
_LENGTH = struct.Struct(">i")

_POSTGRES_EPOCH = 946_684_800_000_000
_Result = TypeVar("_Result")
_Job = TypeVar("_Job")

ReportProgress = Callable[[int, int, int], None]
"""Called with lane, events done, events to do."""


class EventRow(NamedTuple):
    """An event's columns as stored: instants in µs since 2000, ids as 16 bytes."""

    lane_seq: int
    recorded_at: int
    occurred_at: int
    version: int
    gap: int
    account_id: bytes
    key_id: bytes
    hash: bytes
    type: bytes
    payload: bytes


class Finding(NamedTuple):
    """Something stored that is not what it must be."""

    lane: int
    seq: int
    """Lane position; 0: the lane as a whole."""
    what: str
    """One word group of a closed set, such as ``hash_differs``."""
    stored: str
    expected: str
    column: str = ""
    """The column concerned, where it is one."""
    account_id: UUID | None = None
    version: int = 0
    """Position in the account's own chain; 0: not about an event of it."""


class LaneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one lane."""

    lane: int
    events: int
    seq: int
    """Head that was verified."""
    chain: str
    """The lane's chain at the head, hexadecimal, as recomputed."""
    findings: tuple[Finding, ...]
    more: int
    """Findings beyond those kept."""
    charges: int = 0
    """Requests whose cost was computed again from their usage and the pinned rate card."""
    movements: int = 0
    """Events whose lots were chosen again by the rules."""


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all lanes."""

    lanes: tuple[LaneReport, ...]

    @property
    def findings(self) -> list[Finding]:
        """Everything found, lane by lane, in order of position."""
        return [finding for lane in self.lanes for finding in lane.findings]

    @property
    def events(self) -> int:
        """How many events were walked."""
        return sum(lane.events for lane in self.lanes)

    @property
    def charges(self) -> int:
        """How many requests were priced again."""
        return sum(lane.charges for lane in self.lanes)

    @property
    def movements(self) -> int:
        """How many movements of lots were decided again."""
        return sum(lane.movements for lane in self.lanes)

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not any(lane.findings for lane in self.lanes)


# Reading.


def read(
    connection: psycopg.Connection[Any], lane: int, after: int, upto: int
) -> Iterator[Generator[bytes]]:
    """Return a lane's events in order of position, in chunks, whatever is missing of them.

    As tuples of binary COPY, which ``HEAD`` or ``row_of`` reads: most are only hashed. Each chunk
    must be read to its end, or closed, before the connection is used for anything else.
    """
    for start in range(after, upto, CHUNK):
        yield _copied(connection, COPY_ROWS, (lane, start, min(start + CHUNK, upto)))


def _copied(
    connection: psycopg.Connection[Any], query: LiteralString, places: tuple[int, int, int]
) -> Generator[bytes]:
    with connection.cursor().copy(query, places) as copy:
        # The first one comes with the header, the last message has no tuple.
        first = copy.read()[_COPY_HEADER_BYTES:]
        for raw in chain((first,), copy):
            if len(raw) > _COPY_END_BYTES:
                yield bytes(raw)


def row_of(raw: bytes) -> EventRow:
    """Read a tuple of COPY."""
    *head, hash_bytes, hashed, length = HEAD.unpack_from(raw)
    if hash_bytes != HASH_BYTES:
        return _odd_row_of(raw)
    tag, place = _field(raw, HEAD.size, length)
    payload, _ = _field(raw, *_sized(raw, place))
    return EventRow._make([*head, hashed, tag or b"", payload or b""])


def _odd_row_of(raw: bytes) -> EventRow:
    """Read a tuple whose hash is of another length: that one is given as it is."""
    *head, length = _BEFORE_HASH.unpack_from(raw)
    hashed, place = _field(raw, _BEFORE_HASH.size, length)
    fields = []
    for _ in range(2):
        field, place = _field(raw, *_sized(raw, place))
        fields.append(field)
    tag, payload = fields
    return EventRow._make([*head, hashed or b"", tag or b"", payload or b""])


def _sized(raw: bytes, place: int) -> tuple[int, int]:
    """Return where a field's bytes begin, and how many they are; −1: NULL."""
    return place + _LENGTH.size, _LENGTH.unpack_from(raw, place)[0]


def _field(raw: bytes, start: int, length: int) -> tuple[bytes | None, int]:
    """Return a field and where it ends."""
    return (None, start) if length < 0 else (raw[start : start + length], start + length)


def hash_of(lane: int, row: EventRow, previous: bytes) -> bytes:
    """Recompute an event's hash from its stored bytes; empty: no event can have such columns."""
    seq, recorded_at, occurred_at, version, _, account, key, _, name, raw = row
    recorded_at += _POSTGRES_EPOCH
    occurred_at += _POSTGRES_EPOCH
    try:
        packed = codec.pack_envelope(
            lane, seq, account, version, recorded_at, occurred_at, key, name
        )
    except struct.error:
        return b""
    return codec.event_hash(previous, packed, raw)


def since_1970(microseconds_since_2000: int) -> int:
    """Turn the instant of an ``EventRow`` into microseconds since 1970."""
    return microseconds_since_2000 + _POSTGRES_EPOCH


def lanes_with_seq(connection: psycopg.Connection[Any]) -> list[tuple[int, int]]:
    """Return each lane with its head's position."""
    return [(lane, seq) for lane, seq in connection.execute(HEADS).fetchall()]


# Walking.


class _Place(NamedTuple):
    """Where an account's chain stands."""

    version: int
    seq: int
    hash: bytes


_START = _Place(0, 0, GENESIS)


class _Walk:
    """One lane, from its first event on."""

    def __init__(self, lane: int, lanes: int, cards: RateCards) -> None:
        self.lane = lane
        self.lanes = lanes
        self.findings: list[Finding] = []
        self.more = 0
        self.events = 0
        self.seq = 0
        self.recorded_at: int | None = None
        self.chain = GENESIS
        self.places: dict[bytes, _Place] = {}
        self.recount = Recount(cards)
        self.cards: dict[tuple[str, int], tuple[int, Instant, e.RateCardPublished]] = {}
        self.withdrawn: dict[tuple[str, int], Instant] = {}

    def find(
        self,
        seq: int,
        what: str,
        *,
        stored: object = "",
        expected: object = "",
        column: str = "",
        row: EventRow | None = None,
    ) -> None:
        """Note a finding."""
        if len(self.findings) >= FINDINGS_MAX:
            self.more += 1
            return
        account = UUID(bytes=row.account_id) if row else None
        version = row.version if row else 0
        self.findings.append(
            Finding(self.lane, seq, what, str(stored), str(expected), column, account, version)
        )

    def take(self, rows: Sequence[EventRow]) -> list[tuple[EventRow, e.AnyEvent]]:
        """Check a chunk; return its events that can be read."""
        readable: list[tuple[EventRow, e.AnyEvent]] = []
        for row in rows:
            self._check_position(row)
            self._check_chain(row)
            body = self._read(row)
            if body is None:
                self.recount.lose(AccountId(UUID(bytes=row.account_id)))
                continue
            self._check_body(row, body)
            self._count_again(row, body)
            readable.append((row, body))
        self.events += len(rows)
        return readable

    def _count_again(self, row: EventRow, body: e.AnyEvent) -> None:
        try:
            envelope = _envelope(self.lane, row)
        except OverflowError:
            self.recount.lose(AccountId(UUID(bytes=row.account_id)))
            self.find(row.lane_seq, "instant_is_none", column="occurred_at", row=row)
            return
        for what, stored, expected in self.recount.take(envelope, body):
            self.find(row.lane_seq, what, stored=stored, expected=expected, row=row)

    def _check_position(self, row: EventRow) -> None:
        seq, recorded_at = row.lane_seq, row.recorded_at
        following = self.seq + 1
        if seq > following:
            span = str(following) if seq == following + 1 else f"{following} to {seq - 1}"
            self.find(following, "position_is_missing", stored=f"next is {seq}", expected=span)
        elif seq < following:
            self.find(seq, "position_is_taken_twice", expected=following, stored=seq, row=row)
        self.seq = max(seq, self.seq)
        if self.recorded_at is not None and recorded_at <= self.recorded_at:
            stored, least = (
                from_microseconds(since_1970(at)) for at in (recorded_at, self.recorded_at)
            )
            self.find(
                seq,
                "recorded_at_does_not_increase",
                stored=stored,
                expected=f"later than {least}",
                column="recorded_at",
                row=row,
            )
        self.recorded_at = recorded_at

    def _check_chain(self, row: EventRow) -> None:
        account, seq, version = row.account_id, row.lane_seq, row.version
        place = self.places.get(account, _START)
        if place is _START and lane_of_account(UUID(bytes=account), self.lanes) != self.lane:
            self.find(seq, "account_is_of_another_lane", stored=self.lane, row=row)
        if version != place.version + 1:
            # What the event was chained to is not there: its hash cannot be checked.
            self.find(
                seq,
                "version_is_not_the_next",
                stored=version,
                expected=place.version + 1,
                column="version",
                row=row,
            )
        else:
            self._check_hash(row, place)
        self.places[account] = _Place(version, seq, row.hash)
        self.chain = codec.chain(self.chain, row.hash)

    def _check_hash(self, row: EventRow, place: _Place) -> None:
        expected = hash_of(self.lane, row, place.hash)
        if expected != row.hash:
            # From here on the stored hash counts, so that one changed byte is one finding.
            self.find(
                row.lane_seq,
                "hash_differs",
                stored=row.hash.hex(),
                expected=expected.hex(),
                column="hash",
                row=row,
            )
        gap = row.lane_seq - place.seq if place.seq else 0
        gap = gap if gap <= store.GAP_MAX else 0
        if gap != row.gap:
            self.find(
                row.lane_seq, "column_differs", stored=row.gap, expected=gap, column="gap", row=row
            )

    def _read(self, row: EventRow) -> e.AnyEvent | None:
        try:
            return codec.decode(row.type.decode(), row.payload)
        except LedgerCorrupt as error:
            self.find(
                row.lane_seq,
                "payload_cannot_be_read",
                stored=error,
                expected=row.type.decode(),
                column="payload",
                row=row,
            )
            return None

    def _check_body(self, row: EventRow, body: e.AnyEvent) -> None:
        seq = row.lane_seq
        # Bytes of an older schema version were canonical in theirs; today's struct writes others.
        if row.type.decode() == codec.label(body) and codec.encode(body) != row.payload:
            self.find(
                seq,
                "payload_is_not_canonical",
                stored=_excerpt(row.payload),
                expected=_excerpt(codec.encode(body)),
                column="payload",
                row=row,
            )
        if isinstance(body, e.RateCardPublished | e.RateCardWithdrawn):
            at = from_microseconds(since_1970(row.recorded_at))
            if isinstance(body, e.RateCardPublished):
                self.cards[body.card.name, body.card.version] = (seq, at, body)
            else:
                self.withdrawn[body.name, body.version] = at


def _envelope(lane: int, row: EventRow) -> e.Envelope:
    return e.Envelope(
        lane,
        row.lane_seq,
        AccountId(UUID(bytes=row.account_id)),
        row.version,
        from_microseconds(since_1970(row.recorded_at)),
        from_microseconds(since_1970(row.occurred_at)),
        None if row.key_id == _NO_KEY else KeyId(UUID(bytes=row.key_id)),
    )


_NO_KEY = bytes(16)


def _excerpt(payload: bytes) -> str:
    return payload[:200].decode(errors="replace")


class _Requests:
    """Checks that every request id is taken by its event, in ``request_ids``."""

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        self.opened = 0
        self.due: dict[bytes, int] = {}
        """Request → position at which the event that closed it must come."""

    def take(
        self, connection: psycopg.Connection[Any], events: list[tuple[EventRow, e.AnyEvent]]
    ) -> None:
        """Check the requests of a chunk."""
        opened: list[tuple[bytes, EventRow]] = []
        closed: dict[bytes, EventRow] = {}
        for row, body in events:
            hashed = opened_request(row, body)
            if hashed is not None:
                opened.append((hashed, row))
            elif isinstance(body, e.RequestSettled | e.RequestReleased | e.RequestExpired):
                closed[request_hash(AccountId(UUID(bytes=row.account_id)), body.request_id)] = row
        wanted = {*closed, *(hashed for hashed, _ in opened)}
        found = {
            hashed: (seq, last)
            for hashed, seq, last in connection.execute(
                store.FIND_REQUESTS, (self.walk.lane, arrays.Byteas(wanted)), binary=True
            )
        }
        for hashed, row in opened:
            self._check_opened(hashed, row, found.get(hashed))
        for hashed, row in closed.items():
            self._check_closed(hashed, row, found.get(hashed))
        self.opened += len(opened)

    def _check_opened(
        self, hashed: bytes, row: EventRow, found: tuple[int, int | None] | None
    ) -> None:
        seq = row.lane_seq
        if found is None:
            self.walk.find(seq, "request_id_is_missing", expected=hashed.hex(), row=row)
        elif found[0] != seq:
            self.walk.find(
                seq,
                "request_id_points_elsewhere",
                stored=found[0],
                expected=seq,
                column="lane_seq",
                row=row,
            )
        elif found[1] is not None:
            self.due[hashed] = found[1]

    def _check_closed(
        self, hashed: bytes, row: EventRow, found: tuple[int, int | None] | None
    ) -> None:
        last = found[1] if found else None
        if last == row.lane_seq:
            self.due.pop(hashed, None)
        elif last is None or last < row.lane_seq:
            # Later is allowed: a reservation that expired may be settled after all.
            self.walk.find(
                row.lane_seq,
                "request_id_points_elsewhere",
                stored=last,
                expected=row.lane_seq,
                column="last_seq",
                row=row,
            )

    def finish(self, connection: psycopg.Connection[Any]) -> None:
        """Check that no row of ``request_ids`` is without its event."""
        walk = self.walk
        for hashed, seq in self.due.items():
            walk.find(
                seq,
                "request_id_points_elsewhere",
                stored=seq,
                expected=hashed.hex(),
                column="last_seq",
            )
        counted = connection.execute(COUNT_REQUESTS, (walk.lane,)).fetchone()
        if counted is not None and counted[0] > self.opened:
            self._find_unknown(connection)

    def _find_unknown(self, connection: psycopg.Connection[Any]) -> None:
        after, page = b"", CHUNK
        while page == CHUNK:
            rows = connection.execute(PAGE_REQUESTS, (self.walk.lane, after, CHUNK)).fetchall()
            page = len(rows)
            seqs = arrays.Int8s({seq for _, seq in rows})
            taken = _taken(connection, self.walk.lane, seqs)
            for hashed, seq in rows:
                if (hashed, seq) not in taken:
                    self.walk.find(seq, "request_id_is_of_no_event", stored=hashed.hex())
                after = hashed


def _taken(
    connection: psycopg.Connection[Any], lane: int, seqs: arrays.Int8s
) -> set[tuple[bytes, int]]:
    taken = set()
    for found in connection.execute(store.FIND_EVENTS, (lane, seqs), binary=True):
        try:
            event = store.stored(found).recorded
        except LedgerCorrupt:
            continue  # found already, at its position
        hashed = _opened(event.envelope.account_id, event.body)
        if hashed is not None:
            taken.add((hashed, event.envelope.lane_seq))
    return taken


def opened_request(row: EventRow, body: e.AnyEvent) -> bytes | None:
    """Return the request id's hash that an event takes for ever; None: it takes none."""
    return _opened(UUID(bytes=row.account_id), body)


def _opened(account_id: UUID, body: e.AnyEvent) -> bytes | None:
    match body:
        case e.RequestRecorded() | e.RequestReserved():
            return request_hash(account_id, body.request_id)
        case e.RequestRated():
            # The marker under which a request is rated once for ever; no caller can send it.
            return request_hash(account_id, rating_id(body.rated_seq))
        case _:
            return None


def _check_heads(connection: psycopg.Connection[Any], walk: _Walk, head: store.Head) -> None:
    """Compare where the lane and its accounts stand with what was walked."""
    if walk.seq < head.seq:
        span = f"{walk.seq + 1} to {head.seq}" if walk.seq + 1 < head.seq else head.seq
        walk.find(walk.seq + 1, "position_is_missing", stored="no event", expected=span)
    for (seq,) in connection.execute(BEYOND, (walk.lane, head.seq, FINDINGS_MAX)).fetchall():
        walk.find(seq, "position_is_beyond_the_head", stored=seq, expected=f"at most {head.seq}")
    if walk.chain != head.chain:
        walk.find(
            head.seq,
            "lane_chain_differs",
            stored=head.chain.hex(),
            expected=walk.chain.hex(),
            column="chain",
        )
    last = None if walk.recorded_at is None else from_microseconds(since_1970(walk.recorded_at))
    if last != head.last_recorded_at:
        walk.find(
            head.seq,
            "lane_head_differs",
            stored=head.last_recorded_at,
            expected=last,
            column="last_recorded_at",
        )
    _check_account_heads(connection, walk)


def _check_account_heads(connection: psycopg.Connection[Any], walk: _Walk) -> None:
    left = dict(walk.places)
    for account_id, *stored in connection.execute(ACCOUNT_HEADS, (walk.lane,), binary=True):
        place = left.pop(account_id.bytes, None)
        if place is None:
            walk.find(0, "account_head_is_of_no_event", stored=account_id)
            continue
        for column, value, expected in zip(
            ("version", "last_seq", "hash"), stored, place, strict=True
        ):
            if value != expected:
                walk.find(
                    place.seq,
                    "account_head_differs",
                    stored=_shown(value),
                    expected=_shown(expected),
                    column=column,
                )
    for account, place in left.items():
        walk.find(place.seq, "account_head_is_missing", expected=UUID(bytes=account))


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


CARD_COLUMNS = (
    *("asset", "effective_from", "recorded_at", "withdrawn_at"),
    *("content_hash", "lane_seq", "content"),
)


def _check_cards(connection: psycopg.Connection[Any], walk: _Walk) -> None:
    """Compare the rate cards that charges are priced with to the events that published them."""
    stored = {
        (row[0], row[1]): row for row in connection.execute(card_rows.EVERY, binary=True).fetchall()
    }
    for named, (seq, recorded_at, body) in walk.cards.items():
        row = stored.pop(named, None)
        if row is None:
            walk.find(seq, "rate_card_is_missing", expected=named)
            continue
        card = body.card
        known = (recorded_at, walk.withdrawn.get(named))
        expected = (card.asset, card.effective_from, *known, body.content_hash, seq, card)
        found = (*row[2:8], msgspec.json.decode(row[8], type=RateCard))
        for column, value, due in zip(CARD_COLUMNS, found, expected, strict=True):
            if value != due:
                walk.find(seq, "rate_card_differs", stored=value, expected=due, column=column)
    if lane_of_account(OPERATOR_ACCOUNT, walk.lanes) == walk.lane:
        for name, version in stored:
            walk.find(0, "rate_card_is_of_no_event", stored=f"{name}/{version}")


def _cards(connection: psycopg.Connection[Any]) -> RateCards:
    """Read every version: ``_check_cards`` holds them against their events."""
    cards = RateCards()
    for name, version, *_, recorded_at, withdrawn_at, _, _, content in connection.execute(
        card_rows.EVERY, binary=True
    ):
        cards.add(msgspec.json.decode(content, type=RateCard), recorded_at)
        if withdrawn_at is not None:
            cards.withdraw(name, version, withdrawn_at)
    return cards


def verify_lane(url: str, role: str, lane: int, report: ReportProgress) -> LaneReport:
    """Walk one lane in one snapshot."""
    info = database.conninfo(url, role, **SESSION)
    with psycopg.connect(info, autocommit=True) as connection:
        arrays.register(connection)
        connection.execute(SNAPSHOT)
        head = store.read_head(connection, lane)
        walk = _Walk(lane, database.lanes_of(connection), _cards(connection))
        requests, beside, texts = _Requests(walk), SideRows(), RequestTexts(lane, walk.find)
        for rows in read(connection, lane, 0, head.seq):
            readable = walk.take(list(map(row_of, rows)))
            requests.take(connection, readable)
            for row, body in readable:
                beside.take(row.lane_seq, row.account_id, row.key_id, body)
                texts.take(row.lane_seq, row.account_id, body)
            texts.check(connection)
            report(lane, walk.seq, head.seq)
        requests.finish(connection)
        texts.finish(connection)
        _check_heads(connection, walk, head)
        _check_cards(connection, walk)
        beside.check(connection, lane, walk.lanes, walk.find)
    return LaneReport(
        lane=lane,
        events=walk.events,
        seq=head.seq,
        chain=walk.chain.hex(),
        findings=tuple(sorted(walk.findings, key=lambda finding: finding.seq)),
        more=walk.more,
        charges=walk.recount.charges,
        movements=walk.recount.movements,
    )


def verify(
    url: str,
    *,
    role: str = database.READER,
    processes: int | None = None,
    progress: ReportProgress | None = None,
) -> VerifyReport:
    """Walk every lane and report what is not what it must be.

    ``processes`` walk lanes side by side; None: as many as pay off.
    """
    with psycopg.connect(database.conninfo(url, role)) as connection:
        lanes = lanes_with_seq(connection)
    if processes is None:
        processes = processes_for(sum(seq for _, seq in lanes))
    work = partial(verify_lane, url, role)
    return VerifyReport(
        lanes=tuple(side_by_side(work, [lane for lane, _ in lanes], processes, progress))
    )


# Lanes side by side.


def processes_for(events: int) -> int:
    """Return how many processes pay off for so many events."""
    return (os.cpu_count() or 1) if events >= PROCESSES_FROM else 1


def side_by_side(
    work: Callable[[_Job, ReportProgress], _Result],
    jobs: Sequence[_Job],
    processes: int,
    progress: ReportProgress | None,
) -> list[_Result]:
    """Run ``work`` for each lane's job, in as many processes; return the results in order."""
    report = progress or _silent
    if min(processes, len(jobs)) <= 1:
        return [work(job, report) for job in jobs]
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[tuple[int, int, int]] = context.SimpleQueue()
    with ProcessPoolExecutor(
        min(processes, len(jobs)), context, initializer=_listen, initargs=(queue,)
    ) as pool:
        running = [pool.submit(_remote, work, job) for job in jobs]
        left: set[Future[_Result]] = set(running)
        while left:
            _, left = wait(left, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            while not queue.empty():
                report(*queue.get())
        return [future.result() for future in running]


def _silent(lane: int, done: int, total: int) -> None:
    """Report to nobody."""


_reports: "list[SimpleQueue[tuple[int, int, int]]]" = []


def _listen(queue: "SimpleQueue[tuple[int, int, int]]") -> None:
    _reports[:] = [queue]


def _remote(work: Callable[[_Job, ReportProgress], _Result], job: _Job) -> _Result:
    return work(job, _send)


def _send(lane: int, done: int, total: int) -> None:
    _reports[0].put((lane, done, total))
