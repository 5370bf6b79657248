"""Catching-up projections: rows that follow the events of a lane, some moments behind.

Rows and the checkpoint move in one transaction. A reader of a lane counts its positions one by one:
at a gap, or at an event it cannot take, it stops, writes down where and why, and waits for a person
who mends the cause and runs ``keyledger audit rebuild --switch``. Nothing is skipped and
nothing waits on a time-out. It never appends.

Only what a projection looks at is sent here. An event of an unknown type always is, and stops it.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import Table, Text, all_, bindparam, cast, delete, func, or_, select

from ledger.codec import Recorded, labels
from ledger.record import arrays, store
from ledger.record.store import EVENTS
from ledger.server import database
from ledger.server.tables import compiled, positional
from projections import checkpoints
from projections.base import CatchingUp
from projections.registry import CATCHING_UP

log = structlog.get_logger("keyledger.projections")

CHUNK = 2_000
"""Events taken in one transaction."""
REASON_MAX = 500

_BETWEEN = (
    EVENTS.c.lane == bindparam("lane"),
    EVENTS.c.lane_seq > bindparam("after"),
    EVENTS.c.lane_seq <= bindparam("upto"),
)
# The same position twice is not a second event: its neighbour may be missing all the same.
COUNT = compiled(
    select(func.count(), func.count(EVENTS.c.lane_seq.distinct()))
    .select_from(EVENTS)
    .where(*_BETWEEN)
)
_BEFORE = func.lag(EVENTS.c.lane_seq, 1, bindparam("after")).over(order_by=EVENTS.c.lane_seq)
_PAIRS = select(EVENTS.c.lane_seq, _BEFORE.label("before")).where(*_BETWEEN).subquery()
FIRST_GAP = compiled(
    select(_PAIRS.c.before + 1, _PAIRS.c.lane_seq)
    .where(_PAIRS.c.lane_seq != _PAIRS.c.before + 1)
    .order_by(_PAIRS.c.lane_seq)
    .limit(1)
)


class Progress(NamedTuple):
    """Where a projection stands in a lane."""

    lane: int
    seq: int
    """The last position it has taken."""
    head: int
    """The lane's last position."""
    stopped: str | None = None
    """Why it does not go on; None: it does."""
    taken: bool = False
    """Another process is at it, or a newer version took over: nothing was done."""

    @property
    def lag(self) -> int:
        """How many events it is behind."""
        return self.head - self.seq

    @property
    def goes_on(self) -> bool:
        """Whether there is more that can be taken now."""
        return self.lag > 0 and self.stopped is None and not self.taken


class _Unreadable(Exception):
    """An event, or the lack of one, that a projection must not pass over."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"position {seq}: {reason}"[:REASON_MAX])
        self.seq = seq


async def catch_up(
    connection: AsyncConnection, projection: CatchingUp, lane: int, limit: int = CHUNK
) -> Progress:
    """Take the next events of a lane, at most ``limit``, and write rows and checkpoint together.

    The connection must be in autocommit mode with no transaction open. Call again while
    ``goes_on``.
    """
    arrays.register(connection)
    async with connection.transaction():
        found = await _lock(connection, projection, lane)
        head = await _one(connection, store.READ_HEAD, (lane,))
        assert head is not None, "no such lane"
        if found is None:
            return Progress(lane, 0, head[0], taken=True)
        seq, stopped = found
        if stopped is not None or seq >= head[0]:
            return Progress(lane, seq, head[0], stopped)
        upto = min(head[0], seq + limit)
        events, unreadable = await _read(connection, projection, lane, (seq, upto))
        # Counted after it was read: what goes away in between is then missing, not passed over.
        upto, hindrance = await _contiguous(connection, lane, seq, upto)
        if unreadable is not None and unreadable.seq <= upto:
            upto, hindrance = unreadable.seq - 1, unreadable
        events = [event for event in events if event.envelope.lane_seq <= upto]
        reached, refused = await _write(connection, projection, events, upto)
        hindrance = refused or hindrance
        reason = None if hindrance is None else str(hindrance)
        mark = _own(projection, lane) | {"upto": reached, "reason": reason}
        await connection.execute(checkpoints.MOVE, mark)
    if reason is not None:
        # Once: a stopped projection is not tried again until it is rebuilt.
        log.error("projection_stopped", projection=projection.name, lane=lane, reason=reason)
    return Progress(lane, reached, head[0], reason)


async def _one(
    connection: AsyncConnection,
    sql: LiteralString | bytes,
    parameters: Sequence[Any] | dict[str, Any],
) -> TupleRow | None:
    cursor = await connection.execute(sql, parameters)
    return await cursor.fetchone()


async def _lock(
    connection: AsyncConnection, projection: CatchingUp, lane: int
) -> tuple[int, str | None] | None:
    """Lock the checkpoint, made where it is missing; None: it is not ours to move now."""
    own = _own(projection, lane)
    found = await _one(connection, checkpoints.LOCK, own)
    if found is None:
        if await _one(connection, checkpoints.BEGIN, own | {"seq": 0}) is None:
            return None
        found = (0, None)
        # An earlier version may be at work on the same rows: wait, then begin anew.
        await connection.execute(checkpoints.LOCK_EVERY_VERSION, own)
        if not await _is_newest(connection, projection, lane):
            return found[0], "superseded by a newer version"
        for table in projection.tables:
            await connection.execute(_clear(table), {"lane": lane})
    elif not await _is_newest(connection, projection, lane):
        return None
    return found[0], found[1]


def _own(projection: CatchingUp, lane: int) -> dict[str, Any]:
    return {"lane": lane, "projection": projection.name, "version": projection.version}


@cache
def _clear(table: Table) -> bytes:
    return compiled(delete(table).where(table.c.lane == bindparam("lane")))


async def _is_newest(connection: AsyncConnection, projection: CatchingUp, lane: int) -> bool:
    newest = await _one(connection, checkpoints.NEWEST_VERSION, _own(projection, lane))
    return newest is not None and newest[0] == projection.version


async def _contiguous(
    connection: AsyncConnection, lane: int, after: int, upto: int
) -> tuple[int, _Unreadable | None]:
    """Return the last position before the first gap, and the gap."""
    between = {"lane": lane, "after": after, "upto": upto}
    counted = await _one(connection, COUNT, between)
    if counted == (upto - after, upto - after):
        return upto, None
    gap = await _one(connection, FIRST_GAP, between)
    if gap is not None:
        missing, following = gap
        reason = f"no such event, the next one is {following}"
    else:
        missing = after + (counted[1] if counted else 0) + 1
        reason = f"no such event, although the lane has {upto}"
    return missing - 1, _Unreadable(missing, reason)


async def _read(
    connection: AsyncConnection, projection: CatchingUp, lane: int, between: tuple[int, int]
) -> tuple[list[Recorded], _Unreadable | None]:
    """Read what a projection looks at, up to the first event that cannot be read."""
    sql = _feed(projection)
    cursor = await connection.execute(sql, (lane, *between, list(labels)), binary=True)
    events: list[Recorded] = []
    for row in await cursor.fetchall():
        try:
            events.append(store.stored(row).recorded)
        except Exception as error:  # last-resort: whatever it is, the projection stops here
            return events, _Unreadable(row[1], f"cannot be read: {error}")
    return events, None


@cache
def _feed(projection: CatchingUp) -> LiteralString:
    is_unknown = cast(EVENTS.c.type, Text) != all_(bindparam("labels"))
    feed = store.BETWEEN.where(or_(projection.takes, is_unknown)).order_by(EVENTS.c.lane_seq)
    return positional(feed, "lane", "after", "upto", "labels")


async def _write(
    connection: AsyncConnection, projection: CatchingUp, events: list[Recorded], upto: int
) -> tuple[int, _Unreadable | None]:
    """Write what follows from the events up to a position.

    Where they cannot be taken together, find out which event it is.
    """
    if not events:
        return upto, None
    try:
        await _apply(connection, projection, events)
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise  # the database, not the event: the same call may succeed later
    except Exception as error:  # last-resort: whatever it is, the projection stops here
        if len(events) == 1:
            seq = events[0].envelope.lane_seq
            reason = f"cannot be taken: {type(error).__name__}: {error}"
            return seq - 1, _Unreadable(seq, reason.partition("\n")[0])
    else:
        return upto, None
    half = (len(events) + 1) // 2
    between = events[half].envelope.lane_seq - 1
    reached, refused = await _write(connection, projection, events[:half], between)
    if refused is not None:
        return reached, refused
    return await _write(connection, projection, events[half:], upto)


async def _apply(
    connection: AsyncConnection, projection: CatchingUp, events: list[Recorded]
) -> None:
    async with connection.transaction():
        for sql, parameters in projection.apply(events):
            await connection.execute(sql, parameters)


async def catch_up_fully(
    connection: AsyncConnection, projection: CatchingUp, lane: int, limit: int = CHUNK
) -> Progress:
    """Take everything there is in a lane now; return where it ended."""
    progress = await catch_up(connection, projection, lane, limit)
    while progress.goes_on:
        progress = await catch_up(connection, projection, lane, limit)
    return progress


async def catch_up_all(url: str, lanes: int) -> str:
    """Bring every projection of every lane up to now; return in a few words what was done."""
    info = database.lane_conninfo(url)
    said: list[str] = []
    async with await AsyncConnection.connect(info, autocommit=True) as connection:
        for projection in CATCHING_UP:
            for lane in range(lanes):
                progress = await catch_up_fully(connection, projection, lane)
                if progress.stopped is not None:
                    said.append(f"{projection.name} stopped in lane {lane}: {progress.stopped}")
    return "; ".join(said) or "caught up"


async def is_behind(connection: AsyncConnection) -> bool:
    """Return whether any projection has events to take in any lane, stopped ones aside."""
    names = [projection.name for projection in CATCHING_UP]
    versions = [projection.version for projection in CATCHING_UP]
    row = await _one(connection, checkpoints.BEHIND, {"names": names, "versions": versions})
    return row is not None and bool(row[0])
