"""The writer: per lane a queue, per batch one transaction, inline projections inside it.

Everything that arrives while one commit is in flight forms the next batch; there is no timer. A
batch locks the lane's head, loads what it touches, decides one command after another on the
evolving state, then appends events and changed projection rows and commits: two round trips.

State is kept between batches only as a fenced copy: it is used when the locked head still
stands where the copy does, so nobody else has appended since; else it is loaded again. After any
failure it is thrown away.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ledger import clock
from ledger import events as e
from ledger.clock import DatabaseClock, Instant, from_microseconds
from ledger.codec import Recorded
from ledger.errors import (
    ClockIsOff,
    LedgerCorrupt,
    LedgerUnavailable,
    OutcomeIsUnknown,
    QueueIsFull,
    Refused,
)
from ledger.ids import AccountId, lane_of_account, rating_id, request_hash
from ledger.ratecards import RateCards
from ledger.record import arrays, card_rows, store
from ledger.record.batch import (
    REFUSAL_INTERVAL,
    Batch,
    Command,
    Outcome,
    Projection,
    RefusalLog,
    StateQuery,
    Suppressed,
    Ticket,
    Wanted,
    runs,
)
from ledger.record.due import Questions, questions
from ledger.record.roundtrip import Pipeline
from ledger.record.store import Head, Statement
from ledger.requests import KnownRequest
from ledger.state import LaneState, Reservation, is_unpriced

log = structlog.get_logger("keyledger.lanes")

BATCH_MAX = 5_000
"""Commands in one transaction: the more, the fewer rows of sums are written over and over."""
TURN = 250
"""Commands decided before others in this process get their turn."""
QUEUE_MAX = 20_000
"""Commands waiting per lane and worker; more are refused before they are accepted."""
CACHE_MAX = 50_000
"""Accounts, keys and reservations kept per lane and worker."""
RETRIES_MAX = 5
BACKOFF_SECONDS = 0.01
OWNED_AFTER = 20
"""Batches without a foreign append after which a lane loads only what its copy lacks."""
DUE_MAX = 500
"""How many of each kind that ran out one batch records for accounts that nobody asks about."""

BEHIND_MAX = timedelta(seconds=5)
"""How far the database's clock may be behind a lane's head: it was corrected a little, or is
another server's after a failover. Events go on a microsecond apart meanwhile."""
APART_MAX = timedelta(minutes=5)
"""How far the clocks of database and host may differ: as much as usage may be early."""

BEGIN: LiteralString = "BEGIN"
COMMIT: LiteralString = "COMMIT"

Connect = Callable[[], Awaitable[AsyncConnection]]
Constraints = Mapping[str, type[Refused]]
"""Constraints of rows written beside events that a caller may break, and the refusal for each."""


class Lane:
    """One lane's queue and writer in this process."""

    def __init__(
        self,
        lane: int,
        connect: Connect,
        projections: Sequence[Projection],
        cards: RateCards,
        heard: DatabaseClock,
        *,
        questions: Questions,
        constraints: Constraints,
    ) -> None:
        """Take how to connect, which inline projections move along, and who hears the clock."""
        self.lane = lane
        self._connect = connect
        self._projections = projections
        self._cards = cards
        self._queue: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._pipeline: Pipeline | None = None
        self._state: LaneState | None = None
        self._epoch = -1
        self._undisturbed = OWNED_AFTER
        self._heard = heard
        self._questions = questions
        self._constraints = constraints
        self._refusals = RefusalLog()
        self._notes: list[Suppressed] = []
        """Refusals taken out of the log and not yet committed."""
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name=f"lane-{self.lane}")

    async def stop(self) -> None:
        """Answer everything accepted, then end."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._disconnect()

    @property
    def waiting(self) -> int:
        """Commands not yet in a transaction."""
        return len(self._queue)

    def has_room(self, count: int) -> bool:
        """Return whether so many commands would be accepted now.

        Raises:
            LedgerUnavailable: The process is stopping.
        """
        if self._closing:
            raise LedgerUnavailable
        return len(self._queue) + count <= QUEUE_MAX

    def accept(self, commands: Sequence[Command]) -> None:
        """Queue commands whose tickets are set."""
        self._queue.extend(commands)
        self._wake.set()

    def nudge(self) -> None:
        """Write down what ran out although nobody asks anything of the lane."""
        self._nudged = True
        self._wake.set()

    _nudged = False

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Refusals held back are written with whatever comes, and at last by themselves.
            await self._answer(self._take())
            while self._queue:
                await self._answer(self._take())
            if self._closing:
                # The last batch may have held some back after everything was taken out.
                await self._answer([])
                return
            if self._refusals or self._notes:
                loop.call_later(REFUSAL_INTERVAL.total_seconds(), self._wake.set)

    def _take(self) -> list[Command]:
        taken: list[Command] = []
        while self._queue and len(taken) < BATCH_MAX:
            taken.append(self._queue.popleft())
            if taken[-1].everywhere:
                # What follows decides by what it changes, and so once that is committed.
                break
        return taken

    async def _answer(self, commands: list[Command]) -> None:
        """Write a batch and tell every caller what became of it."""
        nudged, self._nudged = self._nudged, False
        if not (commands or self._refusals or self._notes or nudged):
            return
        results: list[tuple[Command, Outcome | Exception]]
        try:
            results = await self._write(commands)
        except (LedgerUnavailable, LedgerCorrupt) as error:
            results = [(command, error) for command in commands]
        except Exception as error:  # last-resort: one bad command must not fail its neighbours
            if len(commands) > 1:
                half = len(commands) // 2
                await self._answer(commands[:half])
                await self._answer(commands[half:])
                return
            meant = self._refusal_for(error)
            if meant is error:
                log.exception("command_failed", lane=self.lane)
            results = [(command, meant) for command in commands]
        for command, result in results:
            command.ticket.settle(command.index, result)

    def _refusal_for(self, error: Exception) -> Exception:
        """Return the refusal that a broken constraint stands for, else the error itself."""
        name = error.diag.constraint_name if isinstance(error, psycopg.Error) else None
        return self._constraints[name]() if name and name in self._constraints else error

    async def _write(self, commands: list[Command]) -> list[tuple[Command, Outcome | Exception]]:
        for attempt in range(RETRIES_MAX):
            try:
                return await self._transact(commands)
            except (_Stale, psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                await self._forget()
                await asyncio.sleep(attempt * BACKOFF_SECONDS)
            except (psycopg.Error, OSError) as error:
                await self._forget()
                if not _may_succeed_later(error):
                    raise
                log.warning("ledger_unavailable", lane=self.lane, error=str(error).strip())
                raise LedgerUnavailable from error
            except BaseException:
                await self._forget()
                raise
        raise LedgerUnavailable

    async def _transact(self, commands: list[Command]) -> list[tuple[Command, Outcome | Exception]]:
        self._refusals.undo()
        pipeline, batch = await self._begin(commands)
        while batch.more_is_due:
            # What ran out for those who ask comes first, in as many transactions as it takes.
            await self._commit(pipeline, batch)
            pipeline, batch = await self._begin(commands)
        decided = 0
        for run in runs(commands):
            batch.decide_run(run, self._refusals)
            decided += len(run)
            if decided >= TURN:
                decided = 0
                await asyncio.sleep(0)
        await self._commit(pipeline, batch)
        return batch.results

    async def _begin(self, commands: list[Command]) -> tuple[Pipeline, Batch]:
        """Lock the head and load what a batch reads."""
        idle = self._pipeline is not None
        pipeline = await self._connected()
        try:
            return pipeline, await self._load(pipeline, commands)
        except psycopg.OperationalError as error:
            if idle and pipeline.connection.closed:
                raise _Stale from error
            raise

    async def _commit(self, pipeline: Pipeline, batch: Batch) -> None:
        """Write a batch, and keep its state for the next."""
        if batch.is_empty:
            await pipeline.exchange([(COMMIT, ())])
        else:
            await self._save(pipeline, batch)
        self._notes.clear()
        self._refusals.keep()
        self._state = batch.state if _size(batch.state) <= CACHE_MAX else None

    async def _save(self, pipeline: Pipeline, batch: Batch) -> None:
        """Second round trip: append, move the projections, commit."""
        try:
            if batch.also:
                async with pipeline.connection.pipeline():
                    for sql, parameters in batch.also:
                        await pipeline.connection.execute(sql, parameters)
            everything = batch.statement(self._projections)
            await pipeline.exchange([*([everything] if everything else []), (COMMIT, ())])
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            raise
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            await self._forget()
            if not (batch.changes.events and await self._is_committed(batch.changes.events[-1])):
                raise
            log.warning("lost_acknowledgement_resolved", lane=self.lane, error=str(error))

    async def _is_committed(self, last: Recorded) -> bool:
        """Ask the record whether a batch whose acknowledgement was lost is in."""
        try:
            connection = (await self._connected()).connection
            # The lock waits for a commit that is still under way in the server.
            await connection.execute("BEGIN")
            await connection.execute(store.LOCK_HEAD, (self.lane,))
            found = await store.find_event(connection, self.lane, last.envelope.lane_seq)
            await connection.execute("COMMIT")
        except (psycopg.Error, OSError) as unreachable:
            await self._disconnect()
            raise OutcomeIsUnknown from unreachable
        return found is not None and found.recorded.hash == last.hash

    async def _connected(self) -> Pipeline:
        if self._pipeline is None or self._pipeline.connection.closed:
            connection = await self._connect()
            arrays.register(connection)
            self._pipeline = Pipeline(connection)
        return self._pipeline

    async def _disconnect(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            await pipeline.connection.close()

    async def _forget(self) -> None:
        """Throw the copy away, and the connection with whatever transaction it is in."""
        self._state = None
        await self._disconnect()

    async def _load(self, pipeline: Pipeline, commands: list[Command]) -> Batch:
        """First round trip: lock the head and read what is not known already."""
        connection = pipeline.connection
        wanted = _wanted(commands, self._notes)
        copy = self._state
        owned = copy is not None and self._undisturbed >= OWNED_AFTER
        lacking = _lacking(copy, wanted) if owned and copy is not None else wanted
        asked = await self._ask(pipeline, commands, self._loads(lacking))
        self._heard.hear(asked.at)
        # From here on the copy is this batch's; it comes back when the batch is committed.
        self._state = None
        state = self._fenced(copy, asked.head)
        if owned and state is not copy:
            # Somebody else appended: what the copy spared us has to be read after all.
            await self._fetch(connection, state, wanted)
        else:
            for load, rows in asked.loaded:
                load.absorb(state, rows)
        if asked.cards != self._cards.count:
            await card_rows.load(connection, self._cards)
        batch = Batch(self.lane, state, self._cards, asked.at)
        batch.replies = {row[0]: (bytes(row[1]), row[2].encode()) for row in asked.replies}
        await self._load_known(connection, batch, asked.requests)
        await self._expire(connection, batch, await self._due(connection, batch, asked, wanted))
        await self._note(connection, batch)
        return batch

    async def _due(
        self, connection: AsyncConnection, batch: Batch, asked: "_Loaded", wanted: Wanted
    ) -> list[TupleRow]:
        """Return what ran out: some of all, and all of the accounts asked about."""
        if len(asked.due) < DUE_MAX:
            return asked.due
        # There may be more: the lane goes on with it, with a command or without.
        self.nudge()
        terms = {
            "lane": self.lane,
            "accounts": arrays.Uuids(wanted.accounts),
            "at": batch.at,
            "most": BATCH_MAX,
        }
        found = await connection.execute(self._questions.of_accounts, terms, binary=True)
        theirs = await found.fetchall()
        batch.more_is_due = len(theirs) >= BATCH_MAX
        return list(dict.fromkeys([*theirs, *asked.due]))

    async def _note(self, connection: AsyncConnection, batch: Batch) -> None:
        """Record refusals that a second held back; all of them at the end of the process."""
        self._notes += self._refusals.due(None if self._closing else batch.at)
        lacking = _lacking(batch.state, _wanted((), self._notes))
        if any(lacking):
            await self._fetch(connection, batch.state, lacking)
        batch.append_suppressed(self._notes)

    async def _ask(
        self, pipeline: Pipeline, commands: list[Command], loads: list[StateQuery]
    ) -> "_Loaded":
        requests = arrays.Byteas(c.request_hash for c in commands if c.request_hash)
        replies = arrays.Byteas(c.idempotency.key_hash for c in commands if c.idempotency)
        everywhere = any(command.everywhere for command in commands)
        lock: Statement = (store.LOCK_HEADS, ()) if everywhere else (store.LOCK_HEAD, (self.lane,))
        questions: list[Statement] = [
            (BEGIN, ()),
            # First and by itself: what is read after it sees what was committed before it.
            lock,
            (self._questions.past, (self.lane, requests, DUE_MAX)),
            *((load.sql, load.parameters) for load in loads),
        ]
        if any(command.idempotency for command in commands):
            questions.append((store.FIND_REPLIES, (self.lane, replies)))
        _, heads, found, *loaded = await pipeline.exchange(questions)
        if everywhere:
            latest = max((row[3] for row in heads if row[3] is not None), default=None)
            heads = [(*row[:3], latest) for row in heads if row[4] == self.lane]
        if not heads:
            message = f"Lane {self.lane} has no head."
            raise LedgerCorrupt(message, lane=self.lane)
        seq, epoch, chain, last = heads[0]
        head = Head(seq, epoch, bytes(chain), last)
        replied = loaded.pop() if len(loaded) > len(loads) else []
        known = [row[3:] for row in found if row[0] == "request"]
        (cards,) = [row[4] for row in found if row[0] == "cards"]
        ((at, own),) = [map(from_microseconds, row[4:]) for row in found if row[0] == "clock"]
        self._require_right(at, own, last)
        due = [row[:4] for row in found if row[0] not in {"request", "cards", "clock"}]
        return _Loaded(at, head, cards, due, known, replied, list(zip(loads, loaded, strict=True)))

    def _require_right(self, at: Instant, own: Instant, last: Instant | None) -> None:
        """Refuse a clock that would put events before others, or windows where they are not.

        Raises:
            ClockIsOff: It stands behind the lane's head, or is far from the host's own.
        """
        host = clock.now()
        if abs(own - host) <= APART_MAX and (last is None or at >= last - BEHIND_MAX):
            return
        log.error("clock_is_off", lane=self.lane, database=own, host=host, ledger=at, head=last)
        raise ClockIsOff

    def _fenced(self, copy: LaneState | None, head: Head) -> LaneState:
        """Return the copy if it stands where the head stands, otherwise a blank state."""
        moved = (
            copy is None
            or (copy.seq, copy.chain) != (head.seq, head.chain)
            or self._epoch != head.epoch
        )
        self._epoch = head.epoch
        if not moved:
            assert copy is not None
            self._undisturbed += 1
            # Another only where every lane was locked: the latest of all.
            copy.last_recorded_at = head.last_recorded_at
            return copy
        if copy is not None:
            self._undisturbed = 0
        return LaneState(seq=head.seq, chain=head.chain, last_recorded_at=head.last_recorded_at)

    async def _load_known(
        self, connection: AsyncConnection, batch: Batch, rows: list[TupleRow]
    ) -> None:
        """Load what is stored about request ids that were used before."""
        if not rows:
            return
        state = batch.state
        lacking = [row[0] for row in rows if row[2] is None and row[0] not in state.reservations]
        if lacking:
            await self._fetch(connection, state, Wanted([], [], lacking))
        open_now = {row[0] for row in rows if row[2] is None and row[0] in state.reservations}
        seqs = [seq for row in rows if row[0] not in open_now for seq in row[1:3] if seq]
        events = await self._events(connection, seqs) if seqs else {}
        for hashed, first, last in rows:
            if hashed in open_now:
                batch.known[hashed] = KnownRequest(
                    _as_recorded(self.lane, state.reservations[hashed])
                )
            else:
                batch.known[hashed] = KnownRequest(events[first], events[last] if last else None)
        await self._load_ratings(connection, batch)

    async def _load_ratings(self, connection: AsyncConnection, batch: Batch) -> None:
        """Load what gave known requests the prices they lacked: a rating may lack some too."""
        ask = [(hashed, known.last or known.first) for hashed, known in batch.known.items()]
        while lacking := {
            request_hash(event.envelope.account_id, rating_id(event.envelope.lane_seq)): hashed
            for hashed, event in ask
            if isinstance(event.body, e.RequestRecorded | e.RequestSettled | e.RequestRated)
            and is_unpriced(event.body)
        }:
            rows = await connection.execute(
                store.FIND_REQUESTS, (self.lane, arrays.Byteas(lacking)), binary=True
            )
            rated = {row[1]: lacking[row[0]] for row in await rows.fetchall()}
            ask = []
            for seq, event in (await self._events(connection, list(rated))).items():
                known = batch.known[rated[seq]]
                batch.known[rated[seq]] = known._replace(rated=(*known.rated, event))
                ask.append((rated[seq], event))

    async def _events(self, connection: AsyncConnection, seqs: list[int]) -> dict[int, Recorded]:
        rows = await connection.execute(
            store.FIND_EVENTS, (self.lane, arrays.Int8s(seqs)), binary=True
        )
        found = [store.stored(row).recorded for row in await rows.fetchall()]
        return {event.envelope.lane_seq: event for event in found}

    async def _expire(self, connection: AsyncConnection, batch: Batch, due: list[TupleRow]) -> None:
        if not due:
            return
        wanted = Wanted(
            [row[1] for row in due],
            [row[2] for row in due if row[2] is not None],
            [row[3] for row in due if row[3] is not None],
        )
        lacking = _lacking(batch.state, wanted)
        if any(lacking):
            await self._fetch(connection, batch.state, lacking)
        for first in range(0, len(due), TURN):
            some = due[first : first + TURN]
            batch.expire(
                [hashed for kind, _, _, hashed in some if kind == "reservation"],
                [key_id for kind, _, key_id, _ in some if kind == "key"],
                dict.fromkeys(account_id for kind, account_id, _, _ in some if kind == "lot"),
            )
            await asyncio.sleep(0)

    async def _fetch(self, connection: AsyncConnection, state: LaneState, wanted: Wanted) -> None:
        loads = self._loads(wanted)
        async with connection.pipeline():
            rows = [
                await connection.execute(load.sql, load.parameters, binary=True) for load in loads
            ]
        for load, found in zip(loads, rows, strict=True):
            load.absorb(state, await found.fetchall())

    def _loads(self, wanted: Wanted) -> list[StateQuery]:
        return [
            load for projection in self._projections for load in projection.load(self.lane, wanted)
        ]


class _Stale(Exception):
    """The connection ended while it was idle, and nothing was written by it."""


class _Loaded(NamedTuple):
    """What the first round trip brought."""

    at: Instant
    """The ledger's clock once the head was locked."""
    head: Head
    cards: int
    """How many rate card versions there are."""
    due: list[TupleRow]
    requests: list[TupleRow]
    replies: list[TupleRow]
    loaded: list[tuple[StateQuery, list[TupleRow]]]


def _may_succeed_later(error: psycopg.Error | OSError) -> bool:
    """Return whether the database could not take the batch now, and may later."""
    match error:
        case psycopg.errors.CheckViolation():
            # No partition of events for this instant: no constraint of ours is named.
            return error.diag.constraint_name is None
        case psycopg.OperationalError() | psycopg.InterfaceError() | OSError():
            return True
        case _:
            # Class 25: read-only, or our transaction was ended for idling too long.
            return (error.sqlstate or "").startswith("25")


def _size(state: LaneState) -> int:
    return len(state.accounts) + len(state.keys) + len(state.reservations)


def _wanted(commands: Sequence[Command], notes: Sequence[Suppressed]) -> Wanted:
    asking: list[Command | Suppressed] = [*commands, *notes]
    return Wanted(
        list({one.account_id for one in asking}),
        list({one.key_id for one in asking if one.key_id}),
        [command.request_hash for command in commands if command.closes and command.request_hash],
    )


def _lacking(state: LaneState, wanted: Wanted) -> Wanted:
    return Wanted(
        [found for found in wanted.accounts if found not in state.accounts],
        [found for found in wanted.keys if found not in state.keys],
        [found for found in wanted.requests if found not in state.reservations],
    )


def _as_recorded(lane: int, reservation: Reservation) -> Recorded:
    """Rebuild an open reservation's event; nobody asks for its version and hash."""
    at = reservation.reserved_at
    envelope = e.Envelope(
        lane, reservation.seq, reservation.account_id, 0, at, at, reservation.key_id
    )
    return Recorded(envelope, reservation.event, b"", b"")


class Writer:
    """All lanes of a database, as this process writes them."""

    def __init__(
        self,
        lanes: int,
        connect: Connect,
        projections: Sequence[Projection],
        cards: RateCards,
        constraints: Constraints | None = None,
    ) -> None:
        """Take the number of lanes the database was created with.

        ``constraints``: of rows beside the events, and the refusal for whoever breaks one.
        """
        self.clock = DatabaseClock()
        """Heard with each batch."""
        asks = questions([due for projection in projections for due in projection.due])
        meant = constraints or {}
        self.lanes = [
            Lane(
                lane,
                connect,
                projections,
                cards,
                self.clock,
                questions=asks,
                constraints=meant,
            )
            for lane in range(lanes)
        ]

    def start(self) -> None:
        """Begin to write."""
        for lane in self.lanes:
            lane.start()

    async def stop(self) -> None:
        """Answer everything accepted, then end."""
        await asyncio.gather(*(lane.stop() for lane in self.lanes))

    def lane_of(self, account_id: AccountId) -> int:
        """Return the lane of an account."""
        return lane_of_account(account_id, len(self.lanes))

    def require_room(self, commands: Sequence[Command]) -> None:
        """Make sure that all of these would be accepted now.

        Raises:
            QueueIsFull: They would not.
            LedgerUnavailable: The process is stopping.
        """
        for lane, count in Counter(self.lane_of(each.account_id) for each in commands).items():
            if not self.lanes[lane].has_room(count):
                raise QueueIsFull

    def hand_in(self, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome | Exception]]":
        """Accept commands; the future holds the outcomes in their order, after commit.

        Raises:
            QueueIsFull: Refused before anything was accepted.
            LedgerUnavailable: The process is stopping.
        """
        ticket = Ticket(len(commands))
        groups: dict[int, list[Command]] = {}
        for index, command in enumerate(commands):
            command.ticket, command.index = ticket, index
            groups.setdefault(self.lane_of(command.account_id), []).append(command)
        for lane, group in groups.items():
            if not self.lanes[lane].has_room(len(group)):
                raise QueueIsFull
        for lane, group in groups.items():
            self.lanes[lane].accept(group)
        if not commands:
            ticket.future.set_result([])
        return ticket.future

    async def submit(self, commands: Sequence[Command]) -> list[Outcome | Exception]:
        """Decide and append; return the outcomes in the commands' order, after commit.

        Raises:
            QueueIsFull: Refused before anything was accepted.
            LedgerUnavailable: The process is stopping.
        """
        return await self.hand_in(commands)

    async def submit_one(self, command: Command) -> Outcome:
        """Decide and append one command.

        Raises:
            Refused: The decision said no.
            LedgerUnavailable: It could not be decided now.
        """
        lane = self.lanes[self.lane_of(command.account_id)]
        if not lane.has_room(1):
            raise QueueIsFull
        command.ticket = Ticket(1)
        lane.accept((command,))
        (outcome,) = await command.ticket.future
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
