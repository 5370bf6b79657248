"""Makes projections anew beside the live ones, from the first event on, and compares row by row.

The service goes on meanwhile: the events of a lane are folded by the same ``evolve`` and the same
``save`` that wrote the live rows, into temporary tables of the same names, which PostgreSQL drops
with the session however it ends. Every hash is recomputed on the way. At the end one transaction
sees both sides at one position: a snapshot where they are only compared, the locked head of the
lane where the live rows are to be replaced.
"""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any, LiteralString, NamedTuple, NoReturn
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from ledger import arrays, codec, database, store, verify
from ledger import events as e
from ledger.batch import Changes
from ledger.clock import from_microseconds
from ledger.codec import Recorded
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, KeyId
from ledger.state import LaneState, advance, evolve
from ledger.store import Statement
from ledger.verify import Progress, Row
from projections.base import Projection
from projections.registry import MODULES

ROUNDS_MAX = 10
NEAR = 5_000
"""So few events behind, the last transaction may begin."""

# They write down the state, so that one save at the end does for all events. Every other
# projection is handed each event once.
STATE = frozenset(
    f"projections.{name}"
    for name in ("accounts", "keys", "credits", "limit_counters", "reservations")
)

RAISE_EPOCH: LiteralString = "UPDATE lane_heads SET epoch = epoch + 1 WHERE lane = %s"
READ_CHECKPOINT: LiteralString = (
    "SELECT seq FROM projection_checkpoints WHERE lane = %s AND projection = %s AND version = %s"
)
LOCK_CHECKPOINTS: LiteralString = (
    "SELECT version FROM projection_checkpoints WHERE lane = %s AND projection = %s FOR UPDATE"
)
SAVE_CHECKPOINT: LiteralString = (
    "INSERT INTO projection_checkpoints (lane, projection, version, seq) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT projection_has_one_checkpoint"
    " DO UPDATE SET seq = EXCLUDED.seq, stopped = NULL"
)
# Names of constraints are part of the SQL that fills the tables; LIKE would make up others.
UNIQUE: LiteralString = (
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conrelid = %s::regclass AND contype IN ('p', 'u')"
)
PRIMARY_KEY: LiteralString = (
    "SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place),"
    " pg_attribute a WHERE i.indrelid = %s::regclass AND i.indisprimary"
    " AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place"
)

_CONNECTION = psycopg.Connection[Any]
_EPOCH = from_microseconds(verify.since_1970(0))
_REQUESTS = (
    e.RequestRecorded,
    e.RequestReserved,
    e.RequestSettled,
    e.RequestReleased,
    e.RequestExpired,
    e.RequestRefused,
)


class Compared(NamedTuple):
    """One table of one lane, live and made anew, at one position."""

    lane: int
    table: str
    rows: int
    """Live."""
    rows_anew: int
    digest: str
    """SHA-256 over the rows' text in order of the primary key, live."""
    digest_anew: str
    first_difference: str = ""
    """Primary key of the first row that differs; empty: none does."""
    replaced: bool = False

    @property
    def equal(self) -> bool:
        """Whether they are the same, row for row."""
        return self.rows == self.rows_anew and self.digest == self.digest_anew


class LaneRebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one lane."""

    lane: int
    seq: int
    """Position at which both sides were compared; as many events were folded."""
    tables: tuple[Compared, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all lanes."""

    lanes: tuple[LaneRebuilt, ...]

    @property
    def tables(self) -> list[Compared]:
        """Every comparison."""
        return [table for lane in self.lanes for table in lane.tables]

    @property
    def events(self) -> int:
        """How many events were folded."""
        return sum(lane.seq for lane in self.lanes)

    @property
    def equal(self) -> bool:
        """Whether everything is the same."""
        return all(table.equal for table in self.tables)


def rebuild(
    url: str,
    modules: Sequence[ModuleType] = MODULES,
    *,
    replace: bool = False,
    role: str | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make inline projections anew, checking the chains, and compare them with the live ones.

    ``replace`` puts the new rows where live ones differ; it holds each lane's lock meanwhile.
    ``role`` needs no right but to read, and where it replaces, those of the owner.

    Raises:
        LedgerCorrupt: The events contradict themselves; ``verify`` names all of it.
    """
    names = tuple(module.__name__ for module in modules)
    task = _Task(url, _role(role, replace=replace), names, None, replace)
    return _run(task, processes, progress)


def rebuild_catching_up(
    url: str,
    projection: Projection,
    *,
    replace: bool = False,
    role: str | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make a catching-up projection anew up to its checkpoint, and compare.

    Where it has none yet, as after a raise of its version, up to the head; ``replace`` then sets
    the checkpoint, so that readers never see it half-filled.
    """
    task = _Task(url, _role(role, replace=replace), (), projection, replace)
    return _run(task, processes, progress)


def _role(role: str | None, *, replace: bool) -> str:
    return role or (database.OWNER if replace else database.READER)


class _Task(NamedTuple):
    """What to do with each lane, perhaps in another process."""

    url: str
    role: str
    modules: tuple[str, ...]
    projection: Projection | None
    replace: bool

    @property
    def chosen(self) -> list[ModuleType]:
        return [module for module in MODULES if module.__name__ in self.modules]

    @property
    def tables(self) -> list[str]:
        follower = self.projection.tables if self.projection else ()
        return [*(table for module in self.chosen for table in module.TABLES), *follower]


def _run(task: _Task, processes: int | None, progress: Progress | None) -> Report:
    with psycopg.connect(database.conninfo(task.url, task.role)) as connection:
        lanes = verify.lanes_with_seq(connection)
    if processes is None:
        processes = verify.processes_for(sum(seq for _, seq in lanes))
    work = partial(_rebuild_lane, task)
    done = verify.side_by_side(work, [lane for lane, _ in lanes], processes, progress)
    return Report(lanes=tuple(done))


# Folding.


class Fold:
    """The state of a lane as its events make it, and what is still to be written of it."""

    def __init__(
        self, lane: int, modules: Sequence[ModuleType], projection: Projection | None = None
    ) -> None:
        """Begin before the first event."""
        self.lane = lane
        self.state = LaneState()
        self._state_modules = [module for module in modules if module.__name__ in STATE]
        self._other_modules = [module for module in modules if module.__name__ not in STATE]
        self._projection = projection
        self._changes = Changes()
        self._kept: dict[tuple[type[e.Event], bytes, bytes], Recorded] = {}
        self._ids: dict[bytes, UUID] = {store.NO_KEY.bytes: store.NO_KEY}
        self._written: set[UUID] = set()
        """Reservations that stand in the table."""

    @property
    def seq(self) -> int:
        """The last position that was folded."""
        return self.state.seq

    def take(self, rows: list[Row]) -> list[Statement]:
        """Fold a chunk; give what the projections that want every event make of it.

        Raises:
            LedgerCorrupt: A gap, a broken chain, an unreadable event or one that cannot be.
        """
        changes = Changes()
        for row in rows:
            changes.note(self._fold(row))
        self._remember(changes)
        made = [
            statement
            for module in self._other_modules
            for statement in module.save(self.lane, self.state, changes)
        ]
        return made + (self._projection.apply(changes.events) if self._projection else [])

    def _fold(self, row: Row) -> Recorded:
        seq, version, state = row.lane_seq, row.version, self.state
        account_id = AccountId(self._id(row.account_id))
        account = state.accounts.get(account_id)
        before, previous = (account.version, account.hash) if account else (0, codec.GENESIS)
        at = _EPOCH + timedelta(0, 0, row.recorded_at)
        last = state.last_recorded_at
        if seq != state.seq + 1 or version != before + 1 or (last is not None and at <= last):
            self._stop(state.seq + 1, f"is not in its place: version {version} stands at {seq}")
        if verify.hash_of(self.lane, row, previous) != row.hash:
            self._stop(seq, "is not what its hash says")
        key_id = self._id(row.key_id)
        occurred_at = at
        if row.occurred_at != row.recorded_at:
            occurred_at = _EPOCH + timedelta(0, 0, row.occurred_at)
        about = KeyId(key_id) if key_id is not store.NO_KEY else None
        envelope = e.Envelope(self.lane, seq, account_id, version, at, occurred_at, about)
        try:
            body = codec.decode(row.type.decode(), row.schema_version, row.payload)
            evolve(state, envelope, body)
        except (LedgerCorrupt, LookupError, AssertionError, ValueError) as error:
            self._stop(seq, f"cannot follow those before it: {error!r}", error)
        recorded = Recorded(envelope, body, row.payload, row.hash)
        advance(state, recorded)
        return recorded

    def _stop(self, seq: int, why: str, cause: Exception | None = None) -> NoReturn:
        message = f"Event {seq} of lane {self.lane} {why}."
        raise LedgerCorrupt(message, lane=self.lane, seq=seq) from cause

    def _id(self, raw: bytes) -> UUID:
        found = self._ids.get(raw)
        if found is None:
            found = self._ids[raw] = UUID(bytes=raw)
        return found

    def _remember(self, changes: Changes) -> None:
        """Keep of a chunk what the state's projections are told at the next save.

        Of alike events about one account and key the newest does, and none of requests: so
        memory grows with accounts and keys, not with events.
        """
        kept = self._changes
        kept.accounts |= changes.accounts
        kept.keys |= changes.keys
        kept.opened = (kept.opened | changes.opened) - changes.closed
        kept.closed |= changes.closed & self._written
        for kind, events in changes.kinds.items():
            if kind not in _REQUESTS:
                for event in events:
                    place = event.envelope
                    key = (place.key_id or store.NO_KEY).bytes
                    self._kept[kind, place.account_id.bytes, key] = event

    def save(self) -> list[Statement]:
        """Give what writes the state down as it is now."""
        told = Changes()
        for event in self._kept.values():
            told.note(event)
        told.accounts, told.keys = self._changes.accounts, self._changes.keys
        told.opened, told.closed = self._changes.opened, self._changes.closed
        made = [
            statement
            for module in self._state_modules
            for statement in module.save(self.lane, self.state, told)
        ]
        for account_id in told.accounts:
            account = self.state.accounts[account_id]
            account.touched.clear()
            account.drained.clear()
        self._written = set(self.state.reservations)
        self._changes = Changes()
        self._kept = {}
        return made


# One lane.


def _rebuild_lane(task: _Task, lane: int, progress: Progress) -> LaneRebuilt:
    with _session(task.url, task.role) as connection:
        keys = {table: _make_shadow(connection, table) for table in task.tables}
        fold = Fold(lane, task.chosen, task.projection)
        for _ in range(ROUNDS_MAX):
            _fold_to(connection, fold, _target(connection, task, lane), progress)
            # The bulk is written now; in the last transaction there is only what came since.
            if _target(connection, task, lane) - fold.seq <= NEAR:
                break
        with _transaction(connection, snapshot=not task.replace):
            if task.replace:
                _lock(connection, task, lane)
            seq = _target(connection, task, lane)
            _fold_to(connection, fold, seq, progress)
            compared = [_compare(connection, lane, *pair) for pair in keys.items()]
            if task.replace:
                compared = [_replaced(connection, result) for result in compared]
                _tell(connection, task, lane, compared, seq)
    return LaneRebuilt(lane=lane, seq=seq, tables=tuple(compared))


def _target(connection: _CONNECTION, task: _Task, lane: int) -> int:
    """Give the position that the live rows stand at."""
    row = None
    if task.projection is not None:
        own = (lane, task.projection.name, task.projection.version)
        row = connection.execute(READ_CHECKPOINT, own).fetchone()
    return store.read_head(connection, lane).seq if row is None else int(row[0])


def _lock(connection: _CONNECTION, task: _Task, lane: int) -> None:
    """Keep everybody from moving the live rows."""
    if task.projection is None:
        connection.execute(store.LOCK_HEAD, (lane,))
    else:
        connection.execute(LOCK_CHECKPOINTS, (lane, task.projection.name))


def _tell(
    connection: _CONNECTION, task: _Task, lane: int, compared: list[Compared], seq: int
) -> None:
    """Let those who move the rows know that they are others now."""
    if task.projection is not None:
        mark = (lane, task.projection.name, task.projection.version, seq)
        connection.execute(SAVE_CHECKPOINT, mark)
    elif any(result.replaced for result in compared):
        connection.execute(RAISE_EPOCH, (lane,))


@contextmanager
def _session(url: str, role: str) -> Iterator[_CONNECTION]:
    settings = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
    info = database.conninfo(url, role, **settings, temp_buffers="64MB")
    with psycopg.connect(info, autocommit=True) as connection:
        arrays.register(connection)
        yield connection


@contextmanager
def _transaction(connection: _CONNECTION, *, snapshot: bool) -> Iterator[None]:
    with connection.transaction():
        if snapshot:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def _execute(connection: _CONNECTION, statements: Sequence[Statement]) -> None:
    for statement, parameters in statements:
        connection.execute(statement, parameters)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Spare the garbage collector walking over a state that only grows; none of it is cyclic."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _fold_to(connection: _CONNECTION, fold: Fold, seq: int, progress: Progress) -> None:
    with _no_collector():
        for rows in verify.read(connection, fold.lane, fold.seq, seq):
            _execute(connection, fold.take(rows))
            progress(fold.lane, fold.seq, seq)
        _execute(connection, fold.save())
    if fold.seq < seq:
        message = f"Lane {fold.lane} has no event {fold.seq + 1}, although it has {seq}."
        raise LedgerCorrupt(message, lane=fold.lane, seq=fold.seq + 1)


# Tables.


def _live(table: str) -> sql.Identifier:
    return sql.Identifier(database.SCHEMA, table)


def _shadow(table: str) -> sql.Identifier:
    return sql.Identifier("pg_temp", table)


def _make_shadow(connection: _CONNECTION, table: str) -> list[str]:
    """Make an empty table beside a live one, found first by its bare name; give its primary key.

    Without the indexes that only the service's reads need.
    """
    live, shadow = _live(table), _shadow(table)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)").format(
            shadow, live
        )
    )
    name = f"{database.SCHEMA}.{table}"
    for constraint, definition in connection.execute(UNIQUE, (name,)).fetchall():
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                shadow, sql.Identifier(constraint), sql.SQL(definition)
            )
        )
    return [column for (column,) in connection.execute(PRIMARY_KEY, (name,)).fetchall()]


def _compare(connection: _CONNECTION, lane: int, table: str, key: list[str]) -> Compared:
    """Compare the rows of a lane, as text, in order of their primary key."""
    rows, digest = _digest(connection, _live(table), lane, key)
    rows_anew, digest_anew = _digest(connection, _shadow(table), lane, key)
    result = Compared(lane, table, rows, rows_anew, digest, digest_anew)
    if result.equal:
        return result
    return result._replace(first_difference=_first_difference(connection, lane, table, key))


def _digest(
    connection: _CONNECTION, table: sql.Identifier, lane: int, key: list[str]
) -> tuple[int, str]:
    """Hash rows as they stream by: no side of the connection holds more than some of them."""
    rows, digest = 0, hashlib.sha256()
    query = sql.SQL("COPY (SELECT t::text FROM {} t WHERE lane = {} ORDER BY {}) TO STDOUT")
    order = sql.SQL(", ").join(map(sql.Identifier, key))
    with connection.cursor().copy(query.format(table, sql.Literal(lane), order)) as copy:
        for line in copy:
            rows += 1
            digest.update(line)
    return rows, digest.hexdigest()


def _first_difference(connection: _CONNECTION, lane: int, table: str, key: list[str]) -> str:
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    query = sql.SQL(
        "SELECT row_to_json(k)::text FROM (SELECT {columns} FROM"
        " (SELECT {columns}, l::text AS live FROM {live} l WHERE lane = {lane}) AS lives"
        " FULL JOIN (SELECT {columns}, s::text AS anew FROM {shadow} s WHERE lane = {lane}) AS news"
        " USING ({columns}) WHERE live IS DISTINCT FROM anew ORDER BY {columns} LIMIT 1) AS k"
    ).format(columns=columns, live=_live(table), shadow=_shadow(table), lane=sql.Literal(lane))
    row = connection.execute(query).fetchone()
    return "" if row is None else str(row[0])


def _replaced(connection: _CONNECTION, result: Compared) -> Compared:
    """Put the new rows where the live ones are, if they differ at all."""
    if result.equal:
        return result
    live, shadow = _live(result.table), _shadow(result.table)
    lane = sql.Literal(result.lane)
    connection.execute(sql.SQL("DELETE FROM {} WHERE lane = {}").format(live, lane))
    connection.execute(sql.SQL("INSERT INTO {} TABLE {}").format(live, shadow))
    return result._replace(replaced=True)
