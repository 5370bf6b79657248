"""One transaction's worth of decisions: commands in, events and rows to write out.

Pure except for the state it is handed: no connection, and no clock: all is decided at one instant,
which is the database's when it gave the lane's lock.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, LiteralString, NamedTuple, Protocol
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from ledger import codec, keys, metering, together
from ledger import credits as credit
from ledger import events as e
from ledger.clock import TICK, Instant
from ledger.codec import Recorded
from ledger.errors import (
    AccountIsClosed,
    AccountIsSuspended,
    CreditIsExhausted,
    IdempotencyKeyIsTaken,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    LedgerUnavailable,
    LimitIsReached,
    NoSuchKey,
    Refused,
    SecretIsRetired,
)
from ledger.ids import AccountId, KeyId, request_hash
from ledger.limits import credit_id, written
from ledger.money import InvalidAmount, format_pico
from ledger.ratecards import RateCards
from ledger.record import store, texts
from ledger.record.due import Due
from ledger.record.store import Row, Statement
from ledger.requests import (
    KEY,
    Facts,
    KnownRequest,
    Made,
    Notes,
    ProviderReport,
    Record,
    Reserve,
    Settle,
    service_at,
    units_asked,
)
from ledger.state import Account, Key, LaneState, Reservation, advance_over, change, change_together

REFUSAL_INTERVAL = timedelta(seconds=1)
RUN_MAX = 1_000
"""Requests of an account decided by their sums at once: where these do not fit, one by one."""


class BatchChanges:
    """What a batch did, for the projections that write it down."""

    __slots__ = ("accounts", "closed", "events", "keys", "kinds", "opened")

    def __init__(self) -> None:
        """Begin with nothing done."""
        self.events: list[Recorded] = []
        self.kinds: dict[type[e.Event], list[Recorded]] = {}
        """The same events by their class."""
        self.accounts: set[UUID] = set()
        self.keys: set[UUID] = set()
        self.opened: set[bytes] = set()
        """Request hashes of reservations made and still open."""
        self.closed: set[bytes] = set()
        """Request hashes of reservations that ended."""

    def note(self, recorded: Recorded, hashed: bytes | None = None) -> None:
        """Take in one event. ``hashed``: its request's hash, where that is known already."""
        envelope, body, _, _ = recorded
        kind = type(body)
        self.events.append(recorded)
        alike = self.kinds.get(kind)
        if alike is None:
            self.kinds[kind] = [recorded]
        else:
            alike.append(recorded)
        self.accounts.add(envelope.account_id)
        if envelope.key_id is not None:
            self.keys.add(envelope.key_id)
        if kind is e.RequestRecorded:
            return
        if kind is e.RequestReserved:
            self.opened.add(hashed or _hash_of(envelope, body))
        elif kind in _ENDINGS:
            hashed = hashed or _hash_of(envelope, body)
            self.opened.discard(hashed)
            self.closed.add(hashed)

    def of(self, *kinds: type[e.Event]) -> list[Recorded]:
        """Return the events of some classes, in order within each class."""
        return [event for kind in kinds for event in self.kinds.get(kind, ())]


_ENDINGS = frozenset({e.RequestSettled, e.RequestReleased, e.RequestExpired})


def _hash_of(envelope: e.Envelope, body: e.AnyEvent) -> bytes:
    assert isinstance(
        body, e.RequestReserved | e.RequestSettled | e.RequestReleased | e.RequestExpired
    )
    return request_hash(envelope.account_id, body.request_id)


class Wanted(NamedTuple):
    """Which parts of a lane's state a batch reads."""

    accounts: list[UUID]
    keys: list[UUID]
    requests: list[bytes]


class StateQuery(NamedTuple):
    """A query and what to do with its rows."""

    sql: LiteralString
    parameters: Sequence[Any]
    absorb: Callable[[LaneState, list[TupleRow]], None]


class Projection(Protocol):
    """A projection that moves in the append's own transaction."""

    @property
    def due(self) -> Sequence[Due]:
        """Rows of its tables that run out by themselves."""

    def load(self, lane: int, wanted: Wanted) -> list[StateQuery]:
        """Return the queries that bring this projection's part of the state back."""

    def save(self, lane: int, state: LaneState, changes: BatchChanges) -> list[Statement]:
        """Return the statements that bring this projection's rows up to the state."""


class Outcome(NamedTuple):
    """What became of a command."""

    events: list[Recorded]
    replay: Recorded | None
    """The stored event that answers instead, where the request id was used before."""
    position: int
    """Lane position the answer reflects."""
    reply: bytes | None = None
    """The stored reply, where the idempotency key was used before."""
    rated: tuple[Recorded, ...] = ()
    """What gave the replayed request the prices that it lacked."""


class Idempotency(NamedTuple):
    """An ``Idempotency-Key``: the same key and request give the stored reply."""

    key_hash: bytes
    fingerprint: bytes
    reply: Callable[[list[Recorded]], bytes]
    """Writes the reply that is stored, from what was recorded now or, where all was done before,
    from the event that answers: JSON without secrets."""


class Ticket:
    """What a caller waits for: the outcomes of commands handed in together."""

    __slots__ = ("_left", "future", "results")

    def __init__(self, count: int) -> None:
        """Wait for ``count`` outcomes."""
        self.results: list[Outcome | Exception] = [_PENDING] * count
        self._left = count
        self.future: asyncio.Future[list[Outcome | Exception]] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, index: int, result: Outcome | Exception) -> None:
        """Note one outcome; the last one answers the caller."""
        self.results[index] = result
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(self.results)


_PENDING = LedgerUnavailable()


class Command:
    """Something to decide in one lane. ``decide`` gets the facts and the time."""

    __slots__ = (
        "account_id",
        "also",
        "by",
        "closes",
        "decide",
        "everywhere",
        "idempotency",
        "index",
        "key_id",
        "metered",
        "model",
        "occurred_at",
        "record",
        "request",
        "request_hash",
        "request_id",
        "secret",
        "ticket",
        "waits",
    )

    def __init__(
        self,
        account_id: AccountId,
        decide: Callable[[Facts, Instant], Made],
        *,
        key_id: KeyId | None = None,
        request_id: str = "",
        closes: bool = False,
        metered: bool = False,
        request: Record | Reserve | Settle | None = None,
        model: str = "",
        by: str = KEY,
        secret: int | None = None,
        occurred_at: Instant | None = None,
        idempotency: Idempotency | None = None,
        also: Callable[[list[Recorded]], list[Row]] | None = None,
        everywhere: bool = False,
        waits: bool = False,
    ) -> None:
        """Say what to decide.

        ``closes``: ends a reservation. ``metered``: its refusals are recorded, with ``request``, or
        with ``model``, ``by`` and ``secret`` where there is none. A ``Record`` may be decided
        together with others of its key. ``also``: further rows for side tables, written with the
        events. ``everywhere``: every lane decides by what it changes, so it waits for all lanes,
        and is recorded later than what any of them has.
        ``waits``: a refusal that ``is_under_way`` is not recorded, because it is asked again.
        """
        self.account_id = account_id
        self.decide = decide
        self.key_id = key_id
        self.request_id = request_id
        self.request_hash = request_hash(account_id, request_id) if request_id else None
        self.closes = closes
        self.metered = metered
        self.request = request
        self.model = model
        self.by = by
        self.secret = secret
        self.occurred_at = occurred_at
        alone = idempotency is not None or also is not None
        self.record = request if isinstance(request, Record) and not alone else None
        self.idempotency = idempotency
        self.also = also
        self.everywhere = everywhere
        self.waits = waits
        self.ticket: Ticket
        self.index = 0


class Suppressed(NamedTuple):
    """Refusals held back."""

    since: Instant
    account_id: AccountId
    key_id: KeyId
    event: e.RequestRefused
    """The first of those held back."""
    times: int = 0


class RefusalLog:
    """Repeated refusals of one key for one reason.

    The first is recorded at once, the rest of that second as one event with a count, so that an
    attacker cannot write the log. What a batch did here is taken back by ``undo`` unless ``keep``
    says that it was committed.
    """

    def __init__(self) -> None:
        """Begin with nothing suppressed."""
        self._open: dict[tuple[UUID, str, str], Suppressed] = {}
        self._before: dict[tuple[UUID, str, str], Suppressed | None] = {}
        """What this batch changed, as it was before; None: not there."""

    def __len__(self) -> int:
        """Count what may still have to be written."""
        return len(self._open)

    def keep(self) -> None:
        """Stand by what was admitted: it is committed."""
        self._before.clear()

    def undo(self) -> None:
        """Take back what was admitted since the last ``keep``: it was not committed."""
        for slot, note in self._before.items():
            self._open.pop(slot, None)
            if note is not None:
                self._open[slot] = note
        self._before.clear()

    def admit(self, command: Command, event: e.RequestRefused, at: Instant) -> bool:
        """Return whether this refusal is to be recorded at once."""
        assert command.key_id is not None
        slot = (command.key_id, event.reason, event.limit_id)
        earlier = self._open.get(slot)
        self._before.setdefault(slot, earlier)
        if earlier is None:
            self._open[slot] = Suppressed(at, command.account_id, command.key_id, event)
            return True
        first = _summed(earlier.event, event) if earlier.times else event
        self._open[slot] = earlier._replace(event=first, times=earlier.times + 1)
        return False

    def due(self, at: Instant | None) -> list[Suppressed]:
        """Take out what is older than a second; None: everything, because the process ends."""
        ended = [
            slot
            for slot, note in self._open.items()
            if at is None or at - note.since >= REFUSAL_INTERVAL
        ]
        notes = [self._open.pop(slot) for slot in ended]
        return [note for note in notes if note.times]


def _summed(first: e.RequestRefused, more: e.RequestRefused) -> e.RequestRefused:
    """Add what one more refused request would have used."""
    if not more.usage:
        return first
    sums = dict(first.usage)
    for name, units in more.usage.items():
        sums[name] = sums.get(name, 0) + units
    return msgspec.structs.replace(first, usage=sums)


class Batch:
    """Decides commands one after another on the evolving state of a lane."""

    def __init__(self, lane: int, state: LaneState, cards: RateCards, at: Instant) -> None:
        """Take the state as of the locked head, and when that was locked."""
        self.lane = lane
        self.at = at
        self.state = state
        self.changes = BatchChanges()
        self.known: dict[bytes, KnownRequest] = {}
        self.replies: dict[bytes, tuple[bytes, bytes]] = {}
        """Idempotency key hash → fingerprint and stored reply."""
        self.results: list[tuple[Command, Outcome | Exception]] = []
        self.more_is_due = False
        """Whether more of the accounts asked about ran out than is loaded: nothing is decided."""
        self._cards = cards
        self._gaps: list[int] = []
        self._new_requests: dict[bytes, tuple[int, int]] = {}
        """Request hash → positions of its first event and of the one that closed it, or 0."""
        self._closed_requests: dict[bytes, tuple[int, int]] = {}
        """The same of requests that were there before this batch."""
        self.also: list[Row] = []
        """Rows of side tables."""
        self._reports: list[tuple[bytes, AccountId, Instant, ProviderReport]] = []
        self._notes: list[tuple[bytes, AccountId, Notes]] = []
        """What stands beside requests, by their hashes."""

    def decide_run(self, run: list[Command], refusals: RefusalLog) -> None:
        """Decide one of ``runs``: by the sums where that decides the same as one by one.

        A refusal is an outcome like any other.
        """
        if len(run) > 1 and self._decide_together(run):
            return
        for command in run:
            outcome: Outcome | Exception
            try:
                outcome = self._decide(command)
            except Refused as refusal:
                seq = self.state.seq
                outcome = self._record_refusal(command, refusal, refusals)
                outcome.lane, outcome.position, outcome.decided_at = self.lane, seq, self.at
            self.results.append((command, outcome))

    def _decide_together(self, run: list[Command]) -> bool:
        """Decide requests of one account by their sums; False: decide them one by one."""
        hashes = {command.request_hash for command in run}
        if len(hashes) < len(run) or not self.known.keys().isdisjoint(hashes):
            return False
        account = self.state.accounts.get(run[0].account_id)
        if account is None:
            return False
        at = self._take_due_grants(account)
        instants = [at, *(at + number * TICK for number in range(1, len(run)))]
        places, asked = self._group_alike(run, instants)
        if not asked:
            return False
        try:
            made = together.record_together(account, self._cards, asked, at, instants[-1])
            sealed = [[(body, codec.sealed(body)) for body in bodies] for bodies in made or ()]
        except (Refused, InvalidAmount):
            return False
        if made is None:
            return False
        decided = dict(zip(itertools.chain(*places), itertools.chain(*sealed), strict=True))
        self._place_together(run, account, decided, instants)
        for alikes, bodies in sorted(
            zip(asked, made, strict=True), key=lambda each: each[0].instants[-1]
        ):
            change_together(account, alikes.key, bodies, alikes.instants[-1])
        return True

    def _group_alike(
        self, run: list[Command], instants: list[Instant]
    ) -> tuple[list[list[int]], list[together.Alikes]]:
        """Group requests by key and by what is alike: their places in the run, and themselves.

        Nothing where one of the keys is not the account's.
        """
        found: dict[tuple[object, ...], list[int]] = {}
        for place, command in enumerate(run):
            assert command.record is not None
            assert command.key_id is not None
            about = (command.key_id.int, *together.alike(command.record))
            found.setdefault(about, []).append(place)
        asked = []
        for places in found.values():
            key = self._own_key(run[places[0]])
            if key is None:
                return [], []
            records = [record for place in places if (record := run[place].record) is not None]
            asked.append(together.Alikes(key, records, [instants[place] for place in places]))
        return list(found.values()), asked

    def _place_together(
        self,
        run: list[Command],
        account: Account,
        decided: Mapping[int, tuple[e.RequestRecorded, bytes]],
        instants: list[Instant],
    ) -> None:
        """Assign events their places one after another; the caller changes what they count in."""
        state, lane, account_id = self.state, self.lane, account.account_id
        seq, version, hashed, chain = state.seq, account.version, account.hash, state.chain
        gap = seq + 1 - account.last_seq
        for place, (command, at) in enumerate(zip(run, instants, strict=True)):
            body, payload = decided[place]
            seq += 1
            version += 1
            occurred_at = service_at(command.occurred_at, at)
            envelope = e.Envelope(lane, seq, account_id, version, at, occurred_at, command.key_id)
            recorded = codec.record(envelope, body, hashed, payload)
            hashed = recorded.hash
            chain = codec.chain(chain, hashed)
            self.changes.note(recorded)
            self._gaps.append(gap if gap <= store.GAP_MAX else 0)
            gap = 1
            assert command.request_hash is not None
            self.known[command.request_hash] = KnownRequest(recorded)
            self._new_requests[command.request_hash] = (seq, 0)
            self._put_aside(command, command.request_hash, at)
            self.results.append((command, Outcome([recorded], None, seq)))
        account.version, account.hash, account.last_seq = version, hashed, seq
        state.seq, state.chain, state.last_recorded_at = seq, chain, instants[-1]

    def _decide(self, command: Command) -> Outcome:
        idempotency = command.idempotency
        if idempotency is not None and idempotency.key_hash in self.replies:
            fingerprint, reply = self.replies[idempotency.key_hash]
            if fingerprint != idempotency.fingerprint:
                raise IdempotencyKeyIsTaken
            return Outcome([], None, self.state.seq, reply)
        state = self.state
        hashed = command.request_hash
        account = state.accounts.get(command.account_id)
        at = self._take_due_grants(account)
        facts = Facts(
            account,
            self._own_key(command),
            self._cards,
            self.known.get(hashed) if hashed is not None else None,
            state.reservations.get(hashed) if hashed is not None else None,
        )
        made, replay = command.decide(facts, at)
        if account is not None:
            made = [credit.with_repaid(account, body, facts.reservation, at) for body in made]
        # All before the first is appended: what is refused leaves nothing behind.
        payloads = list(map(codec.sealed, made))
        recorded = [
            self._append(command, facts, body, payload, at)
            for body, payload in zip(made, payloads, strict=True)
        ]
        if recorded:
            if hashed is not None:
                self._note_request(command, hashed, recorded[0])
                self._put_aside(command, hashed, recorded[0].envelope.recorded_at)
            if command.also is not None:
                self.also.extend(command.also(recorded))
        if idempotency is not None:
            self._store_reply(idempotency, recorded or ([replay] if replay else []))
        rated = facts.known.rated if replay is not None and facts.known is not None else ()
        return Outcome(recorded, replay, state.seq, rated=rated)

    def _own_key(self, command: Command) -> Key | None:
        key = self.state.keys.get(command.key_id) if command.key_id is not None else None
        # A key of another account is no key of this one (promise 15).
        # Compared as integers: a UUID compares itself in Python.
        if key is not None and key.account_id.int != command.account_id.int:
            return None
        return key

    def _next_instant(self) -> Instant:
        at, last = self.at, self.state.last_recorded_at
        return at if last is None or at > last else last + TICK

    def _take_due_grants(self, account: Account | None) -> Instant:
        """Record the grants that take effect until the next instant, and return that instant.

        What is decided about the account then sees what they repaid.
        """
        at = self._next_instant()
        while account is not None and account.waiting:
            event = credit.take_effect(account, at=at)
            if event is None:
                break
            self._place(account.account_id, None, account, None, event, at, at)
            at = self._next_instant()
        return at

    def _append(
        self, command: Command, facts: Facts, body: e.AnyEvent, payload: bytes, at: Instant
    ) -> Recorded:
        account_id, key_id = command.account_id, command.key_id
        account, key = facts.account, facts.key
        if account is None or key is None:
            # Perhaps an earlier event of the same command made them.
            account, key = self._about(account_id, key_id)
        occurred_at, hashed = _service_at(command, facts, at), command.request_hash
        return self._place(account_id, key_id, account, key, body, at, occurred_at, hashed, payload)

    def _about(
        self, account_id: AccountId, key_id: KeyId | None
    ) -> tuple[Account | None, Key | None]:
        state = self.state
        return state.accounts.get(account_id), state.keys.get(key_id) if key_id else None

    def append(
        self, account_id: AccountId, key_id: KeyId | None, body: e.AnyEvent, at: Instant
    ) -> Recorded:
        """Assign an event its place in the lane and the account, and evolve the state by it."""
        account, key = self._about(account_id, key_id)
        return self._place(account_id, key_id, account, key, body, at, at)

    def _place(  # noqa: PLR0917 (private, and looked up once)
        self,
        account_id: AccountId,
        key_id: KeyId | None,
        account: Account | None,
        key: Key | None,
        body: e.AnyEvent,
        at: Instant,
        occurred_at: Instant,
        hashed: bytes | None = None,
        payload: bytes | None = None,
    ) -> Recorded:
        state = self.state
        last = state.last_recorded_at
        if last is not None and at <= last:
            later = last + TICK
            at, occurred_at = later, later if occurred_at is at else occurred_at
        version, previous, last_seq = 0, codec.GENESIS, 0
        if account is not None:
            version, previous, last_seq = account.version, account.hash, account.last_seq
        seq = state.seq + 1
        envelope = e.Envelope(self.lane, seq, account_id, version + 1, at, occurred_at, key_id)
        recorded = codec.record(envelope, body, previous, payload)
        change(state, account, key, envelope, body)
        advance_over(state, account or state.accounts[account_id], recorded)
        self.changes.note(recorded, hashed)
        gap = seq - last_seq if last_seq else 0
        self._gaps.append(gap if gap <= store.GAP_MAX else 0)
        return recorded

    def _note_request(self, command: Command, hashed: bytes, recorded: Recorded) -> None:
        seq = recorded.envelope.lane_seq
        if command.closes:
            first = self.known[hashed].first
            self.known[hashed] = KnownRequest(first, recorded)
            if hashed in self._new_requests:
                self._new_requests[hashed] = (first.envelope.lane_seq, seq)
            else:
                self._closed_requests[hashed] = (first.envelope.lane_seq, seq)
        else:
            self.known[hashed] = KnownRequest(recorded)
            self._new_requests[hashed] = (seq, 0)

    def _put_aside(self, command: Command, hashed: bytes, at: Instant) -> None:
        """Keep what a request's event holds a digest of."""
        asked = command.request
        if asked is None:
            return
        if isinstance(asked, Record | Settle) and asked.report is not None:
            self._reports.append((hashed, command.account_id, at, asked.report.kept))
        if isinstance(asked, Record | Reserve) and asked.notes is not None:
            self._notes.append((hashed, command.account_id, asked.notes))

    def _store_reply(self, idempotency: Idempotency, recorded: list[Recorded]) -> None:
        reply = idempotency.reply(recorded)
        self.replies[idempotency.key_hash] = (idempotency.fingerprint, reply)
        row = store.ADD_REPLY.of(
            self.lane,
            key_hash=[idempotency.key_hash],
            fingerprint=[idempotency.fingerprint],
            lane_seq=[self.state.seq],
            reply=[reply],
            recorded_at=[self._next_instant()],
        )
        self.also.append(row)

    def _record_refusal(self, command: Command, refusal: Refused, log: RefusalLog) -> Refused:
        """Record a refusal; return it, or that of a limit on failures without room for it."""
        key, account = self._own_key(command), self.state.accounts.get(command.account_id)
        if not command.metered or key is None or account is None:
            return refusal
        at, fails = self._take_due_grants(account), False
        event = refused_event(command, refusal, key.name)
        if not (isinstance(refusal, LimitIsReached) and refusal.kind == "failures"):
            about = {"category": event.category, "model": event.model}
            try:
                fails = keys.require_failures_left(key, account, at, **about)
            except LimitIsReached as reached:
                if not isinstance(refusal, _EXPLAINED):
                    refusal, event = reached, refused_event(command, reached, key.name)
        if command.waits and is_under_way(refusal):
            return refusal
        refusal.is_noted = True
        # What counts as a failure counts at once. The limit itself bounds how many these are.
        if fails or log.admit(command, event, at):
            self.append(command.account_id, command.key_id, event, at)
        return refusal

    def append_suppressed(self, refusals: list[Suppressed]) -> None:
        """Record refusals that a second held back, each as one event with its count."""
        for note in refusals:
            account = self.state.accounts.get(note.account_id)
            if account is not None:
                event = msgspec.structs.replace(note.event, count=note.times)
                self.append(note.account_id, note.key_id, event, self._take_due_grants(account))

    def expire(
        self, reservations: Iterable[bytes], key_ids: Iterable[UUID], accounts: Iterable[UUID]
    ) -> None:
        """Record what ran out before anything else is decided."""
        state = self.state
        for hashed in reservations:
            reservation = state.reservations.get(hashed)
            if reservation is not None:
                self._expire_request(hashed, reservation)
        for key_id in key_ids:
            key = state.keys.get(key_id)
            if key is not None:
                at = self._take_due_grants(state.accounts[key.account_id])
                for expired in keys.expire(key, at=at):
                    self.append(key.account_id, key.key_id, expired, at)
        for account_id in accounts:
            found = state.accounts.get(account_id)
            at = self._take_due_grants(found)
            for lapsed in credit.expire(found, at=at) if found else []:
                self.append(AccountId(account_id), None, lapsed, at)

    def _expire_request(self, hashed: bytes, reservation: Reservation) -> None:
        account = self.state.accounts[reservation.account_id]
        at = self._take_due_grants(account)
        event = credit.with_repaid(account, metering.expire(account, reservation), reservation, at)
        recorded = self.append(reservation.account_id, reservation.key_id, event, at)
        self._closed_requests[hashed] = (reservation.seq, recorded.envelope.lane_seq)
        if hashed in self.known:
            self.known[hashed] = KnownRequest(self.known[hashed].first, recorded)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.changes.events and not self.also

    def statement(self, projections: Sequence[Projection]) -> Statement | None:
        """Return everything to write besides ``also``, as one statement."""
        state, lane, events = self.state, self.lane, self.changes.events
        made: list[Statement] = []
        if events:
            head = (state.seq, state.last_recorded_at, state.chain, lane)
            made.append((store.MOVE_HEAD, head))
            made.append(store.insert_events(lane, events, self._gaps))
            made.append(self._account_heads())
        if self._new_requests:
            made.append(store.insert_requests(lane, self._new_requests))
        if self._closed_requests:
            made.append(store.close_requests(lane, self._closed_requests))
        if self._reports:
            made.append(self._add_reports())
        if self._notes:
            made.append(self._add_notes())
        for projection in projections:
            made.extend(projection.save(lane, state, self.changes))
        # Not before: several projections ask what became of a lot.
        for account_id in self.changes.accounts:
            account = state.accounts[account_id]
            account.touched.clear()
            account.drained.clear()
        return store.combined(made) if made else None

    def _add_reports(self) -> Statement:
        hashes, accounts, instants, reports = zip(*self._reports, strict=True)
        return texts.ADD_REPORTS.of(
            self.lane,
            recorded_at=instants,
            account_id=accounts,
            request_hash=hashes,
            provider_request_id=(report.provider_request_id for report in reports),
            report=(report.text.encode() for report in reports),
        )

    def _add_notes(self) -> Statement:
        hashes, accounts, notes = zip(*self._notes, strict=True)
        return texts.ADD_NOTES.of(
            self.lane,
            account_id=accounts,
            request_hash=hashes,
            salt=(note.salt for note in notes),
            metadata=(note.metadata.encode() for note in notes),
            end_user=(note.end_user.encode() for note in notes),
        )

    def _account_heads(self) -> Statement:
        accounts = [self.state.accounts[found] for found in self.changes.accounts]
        return store.SAVE_ACCOUNT_HEADS.of(
            self.lane,
            account_id=(account.account_id for account in accounts),
            version=(account.version for account in accounts),
            last_seq=(account.last_seq for account in accounts),
            hash=(account.hash for account in accounts),
        )


def runs(commands: Iterable[Command]) -> list[list[Command]]:
    """Bring requests of one account together that may be decided by their sums; all else is alone.

    An account's stay in their order, and none is moved over a command that is not such a request.
    """
    found: list[list[Command]] = []
    unfinished: dict[int, list[Command]] = {}
    for command in commands:
        record = command.record
        if record is None or command.key_id is None:
            unfinished.clear()
            found.append([command])
            continue
        # A UUID hashes itself in Python.
        about = command.account_id.int
        if together.is_special(record):
            unfinished.pop(about, None)
            found.append([command])
            continue
        run = unfinished.get(about)
        if run is None or len(run) == RUN_MAX:
            run = unfinished[about] = []
            found.append(run)
        run.append(command)
    return found


def _service_at(command: Command, facts: Facts, at: Instant) -> Instant:
    """Return the service instant of what a command makes: a settlement's is its reservation's."""
    if command.closes and facts.known is not None:
        return facts.known.first.envelope.occurred_at
    return service_at(command.occurred_at, at)


_EXPLAINED = (
    AccountIsClosed,
    AccountIsSuspended,
    CreditIsExhausted,
    KeyIsExpired,
    KeyIsRevoked,
    KeyIsSuspended,
    LimitIsReached,
    NoSuchKey,
    SecretIsRetired,
)
"""Refusals that are answered although too many failed before: they come first, or say more."""


def is_under_way(refusal: Refused) -> bool:
    """Return whether a limit on failures refuses only because requests under way may still fail."""
    return (
        isinstance(refusal, LimitIsReached)
        and refusal.kind == "failures"
        and refusal.used + refusal.requested <= refusal.ceiling
    )


def _refused(command: Command, refusal: Refused, integration: str) -> e.RequestRefused:
    asked = command.request
    if asked is None or isinstance(asked, Settle):
        return e.RequestRefused(
            by=command.by,
            secret=command.secret or 0,
            request_id=command.request_id,
            integration=integration,
            model=command.model,
            reason=refusal.code,
        )
    return e.RequestRefused(
        by=asked.by,
        secret=asked.secret or 0,
        request_id=asked.request_id,
        integration=integration,
        model=asked.model,
        category=asked.category,
        reason=refusal.code,
        usage=units_asked(asked),
    )


def refused_event(command: Command, refusal: Refused, integration: str) -> e.RequestRefused:
    """Write a refusal down with the numbers it explains itself by, and no secret (promise 11)."""
    return codec.redacted(_explained(_refused(command, refusal, integration), refusal))


def _explained(event: e.RequestRefused, refusal: Refused) -> e.RequestRefused:
    if isinstance(refusal, LimitIsReached):
        write = partial(written, refusal.kind)
        return msgspec.structs.replace(
            event,
            limit_id=refusal.limit_id,
            scope=refusal.scope,
            ceiling=write(refusal.ceiling),
            used=write(refusal.used),
            pending=write(refusal.pending),
            requested=write(refusal.requested),
        )
    if isinstance(refusal, CreditIsExhausted):
        return msgspec.structs.replace(
            event,
            limit_id=credit_id(refusal.asset),
            scope="account",
            ceiling=format_pico(refusal.available),
            pending=format_pico(refusal.pending),
            requested=format_pico(refusal.requested),
        )
    return event
