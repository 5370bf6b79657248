"""Makes projections anew beside the live ones, from the first event on, and compares row by row.

The service goes on meanwhile: the events of a lane are folded (``fold``) by the same rules and
written by the same ``save`` as the live rows, into temporary tables of the same names, which
PostgreSQL drops with the session however it ends. Every hash is recomputed on the way. At the end
one transaction sees both sides at one position: a snapshot where they are only compared, the locked
head of the lane where the live rows are to be replaced.
"""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec
import psycopg
from sqlalchemy import (
    ColumnElement,
    MetaData,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.schema import CreateTable

from ledger.errors import LedgerCorrupt
from ledger.record import arrays, store, verify
from ledger.record.store import Statement
from ledger.record.verify import ReportProgress
from ledger.server import database
from ledger.server.tables import compiled
from projections import checkpoints
from projections.base import CatchingUp, Inline
from projections.fold import Fold
from projections.registry import CATCHING_UP, INLINE

ROUNDS_MAX = 10
NEAR = 5_000
"""So few events behind, the last transaction may begin."""

_CONNECTION = psycopg.Connection[Any]


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


class RebuildReport(msgspec.Struct, frozen=True, kw_only=True):
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
    projections: Sequence[Inline] = INLINE,
    *,
    replace: bool = False,
    role: str | None = None,
    processes: int | None = None,
    progress: ReportProgress | None = None,
) -> RebuildReport:
    """Make inline projections anew, checking the chains, and compare them with the live ones.

    ``replace`` puts the new rows where live ones differ; it holds each lane's lock meanwhile.
    ``role`` needs no right but to read, and where it replaces, those of the owner.

    Raises:
        LedgerCorrupt: The events contradict themselves; ``verify`` names all of it.
    """
    names = tuple(projection.name for projection in projections)
    task = _Task(url, _role(role, replace=replace), names, None, replace)
    return _run(task, processes, progress)


def rebuild_catching_up(
    url: str,
    projection: CatchingUp,
    *,
    replace: bool = False,
    role: str | None = None,
    processes: int | None = None,
    progress: ReportProgress | None = None,
) -> RebuildReport:
    """Make a catching-up projection anew up to its checkpoint, and compare.

    Where it has none yet, as after a raise of its version, up to the head; ``replace`` then sets
    the checkpoint, so that readers never see it half-filled.
    """
    named = (projection.name, projection.version)
    task = _Task(url, _role(role, replace=replace), (), named, replace)
    return _run(task, processes, progress)


def _role(role: str | None, *, replace: bool) -> str:
    return role or (database.OWNER if replace else database.READER)


class _Task(NamedTuple):
    """What to do with each lane, perhaps in another process."""

    url: str
    role: str
    inline: tuple[str, ...]
    follows: tuple[str, int] | None
    """Name and version of a catching-up projection."""
    replace: bool

    @property
    def chosen(self) -> list[Inline]:
        return [projection for projection in INLINE if projection.name in self.inline]

    @property
    def projection(self) -> CatchingUp | None:
        if self.follows is None:
            return None
        name, version = self.follows
        (found,) = (projection for projection in CATCHING_UP if projection.name == name)
        return found._replace(version=version)

    @property
    def tables(self) -> list[Table]:
        follower = self.projection.tables if self.projection else ()
        return [*(table for each in self.chosen for table in each.tables), *follower]

    def checkpoint(self, lane: int) -> dict[str, Any] | None:
        """Return what names the checkpoint in a lane; None: the rows stand where the lane does."""
        if self.follows is None:
            return None
        name, version = self.follows
        return {"lane": lane, "projection": name, "version": version}


def _run(task: _Task, processes: int | None, progress: ReportProgress | None) -> RebuildReport:
    with psycopg.connect(database.conninfo(task.url, task.role)) as connection:
        lanes = verify.lanes_with_seq(connection)
    if processes is None:
        processes = verify.processes_for(sum(seq for _, seq in lanes))
    work = partial(_rebuild_lane, task)
    done = verify.side_by_side(work, [lane for lane, _ in lanes], processes, progress)
    return RebuildReport(lanes=tuple(done))


# One lane.


def _rebuild_lane(task: _Task, lane: int, progress: ReportProgress) -> LaneRebuilt:
    with _session(task.url, task.role) as connection:
        for table in task.tables:
            _make_shadow(connection, table)
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
            _check_chain(connection, fold)
            compared = [_compare(connection, lane, table) for table in task.tables]
            if task.replace:
                compared = [
                    _replaced(connection, result, table)
                    for result, table in zip(compared, task.tables, strict=True)
                ]
                _announce(connection, task, lane, compared, seq)
    return LaneRebuilt(lane=lane, seq=seq, tables=tuple(compared))


def _target(connection: _CONNECTION, task: _Task, lane: int) -> int:
    """Return the position that the live rows stand at."""
    row = None
    if (own := task.checkpoint(lane)) is not None:
        row = connection.execute(checkpoints.READ, own).fetchone()
    return store.read_head(connection, lane).seq if row is None else int(row[0])


def _lock(connection: _CONNECTION, task: _Task, lane: int) -> None:
    """Keep everybody from moving the live rows."""
    if (own := task.checkpoint(lane)) is not None:
        connection.execute(checkpoints.LOCK_EVERY_VERSION, own)
    else:
        connection.execute(store.LOCK_HEAD, (lane,))


def _announce(
    connection: _CONNECTION, task: _Task, lane: int, compared: list[Compared], seq: int
) -> None:
    """Let those who move the rows know that these were replaced."""
    if (own := task.checkpoint(lane)) is not None:
        connection.execute(checkpoints.SAVE, own | {"seq": seq})
    elif any(result.replaced for result in compared):
        connection.execute(store.RAISE_EPOCH, (lane,))


@contextmanager
def _session(url: str, role: str) -> Iterator[_CONNECTION]:
    info = database.conninfo(url, role, **verify.SESSION, temp_buffers="64MB")
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


def _fold_to(connection: _CONNECTION, fold: Fold, seq: int, progress: ReportProgress) -> None:
    with _no_collector():
        for rows in verify.read(connection, fold.lane, fold.seq, seq):
            # An event that cannot be folded leaves the rest of its chunk unread.
            with closing(rows):
                statements = fold.take(rows)
            _execute(connection, statements)
            progress(fold.lane, fold.seq, seq)
        _execute(connection, fold.save())
    if fold.seq < seq:
        message = f"Lane {fold.lane} has no event {fold.seq + 1}, although it has {seq}."
        raise LedgerCorrupt(message, lane=fold.lane, seq=fold.seq + 1)


def _check_chain(connection: _CONNECTION, fold: Fold) -> None:
    """Hold the lane's chain to its head, where the fold reaches that far.

    Raises:
        LedgerCorrupt: An event at the end was taken away or put there.
    """
    head = store.read_head(connection, fold.lane)
    if head.seq == fold.seq and head.chain != fold.state.chain:
        message = f"The chain of lane {fold.lane} does not end in what its head says."
        raise LedgerCorrupt(message, lane=fold.lane, seq=fold.seq)


# Tables.


@cache
def _live(table: Table) -> Table:
    """Return a live table, whatever stands beside it."""
    return table.to_metadata(MetaData(), schema=database.SCHEMA)


@cache
def _shadow(table: Table) -> Table:
    """Return the table of the same name beside a live one, found first by its bare name."""
    return table.to_metadata(MetaData(), schema="pg_temp")


def _make_shadow(connection: _CONNECTION, table: Table) -> None:
    """Make it, without the indexes that only the service's reads need."""
    connection.execute(compiled(CreateTable(_shadow(table))))


def _compare(connection: _CONNECTION, lane: int, table: Table) -> Compared:
    """Compare the rows of a lane, as text, in order of their primary key."""
    rows, digest = _digest(connection, lane, _live(table))
    rows_anew, digest_anew = _digest(connection, lane, _shadow(table))
    result = Compared(lane, table.name, rows, rows_anew, digest, digest_anew)
    if result.equal:
        return result
    return result._replace(first_difference=_first_difference(connection, lane, table))


def _as_text(table: Table) -> ColumnElement[str]:
    # By name: a column that was added later comes last in the live table.
    return cast(func.row(*table.c), Text)


def _digest(connection: _CONNECTION, lane: int, table: Table) -> tuple[int, str]:
    """Hash rows as they stream by: no side of the connection holds more than some of them."""
    rows, digest = 0, hashlib.sha256()
    query = select(_as_text(table)).where(table.c.lane == lane).order_by(*table.primary_key)
    statement = b"COPY (" + compiled(query) + b") TO STDOUT"  # sql-ok: compiled
    with connection.cursor().copy(statement) as copy:
        for line in copy:
            rows += 1
            digest.update(line)
    return rows, digest.hexdigest()


def _first_difference(connection: _CONNECTION, lane: int, table: Table) -> str:
    live, shadow = (
        select(*side.primary_key, _as_text(side).label("row")).where(side.c.lane == lane).subquery()
        for side in (_live(table), _shadow(table))
    )
    names = [column.name for column in table.primary_key]
    same = and_(*(live.c[name] == shadow.c[name] for name in names))
    key = [func.coalesce(live.c[name], shadow.c[name]).label(name) for name in names]
    differing = (
        select(*key)
        .select_from(live.join(shadow, same, full=True))
        .where(live.c.row.is_distinct_from(shadow.c.row))
        .order_by(*key)
        .limit(1)
        .subquery("key")
    )
    query = select(cast(func.row_to_json(differing.table_valued()), Text))
    row = connection.execute(compiled(query)).fetchone()
    return "" if row is None else str(row[0])


def _replaced(connection: _CONNECTION, result: Compared, table: Table) -> Compared:
    """Put the new rows where the live ones are, if they differ at all."""
    if result.equal:
        return result
    live, shadow = _live(table), _shadow(table)
    connection.execute(compiled(delete(live).where(live.c.lane == result.lane)))
    connection.execute(compiled(insert(live).from_select(list(live.c.keys()), select(shadow))))
    return result._replace(replaced=True)
