"""How far each catching-up projection has come in each lane."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.record.store import LANE_HEADS
from ledger.server.tables import TEXTS, compiled, metadata

CHECKPOINTS = Table(
    "projection_checkpoints",
    metadata,
    Column("lane", SmallInteger, nullable=False),
    Column("projection", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("stopped", Text, comment="Why it does not go on; NULL: it does"),
    PrimaryKeyConstraint("lane", "projection", "version", name="projection_has_one_checkpoint"),
)

_ALL = (
    CHECKPOINTS.c.lane == bindparam("lane"),
    CHECKPOINTS.c.projection == bindparam("projection"),
)
_OWN = (*_ALL, CHECKPOINTS.c.version == bindparam("version"))

# Another process at the same lane and projection does the same work: leave it to that one.
LOCK = compiled(
    select(CHECKPOINTS.c.seq, CHECKPOINTS.c.stopped).where(*_OWN).with_for_update(skip_locked=True)
)
READ = compiled(select(CHECKPOINTS.c.seq).where(*_OWN))
NEWEST = compiled(
    select(CHECKPOINTS.c.seq).where(*_ALL).order_by(CHECKPOINTS.c.version.desc()).limit(1)
)
"""Where the newest version stands."""
NEWEST_VERSION = compiled(select(func.max(CHECKPOINTS.c.version)).where(*_ALL))
LOCK_EVERY_VERSION = compiled(select(CHECKPOINTS.c.version).where(*_ALL).with_for_update())
_ADDED = insert(CHECKPOINTS).values(
    lane=bindparam("lane"),
    projection=bindparam("projection"),
    version=bindparam("version"),
    seq=bindparam("seq"),
)
BEGIN = compiled(
    _ADDED.on_conflict_do_nothing(constraint=CHECKPOINTS.primary_key).returning(CHECKPOINTS.c.seq)
)
SAVE = compiled(
    _ADDED.on_conflict_do_update(
        constraint=CHECKPOINTS.primary_key,
        set_={"seq": _ADDED.excluded.seq, "stopped": null()},
    )
)
MOVE = compiled(
    update(CHECKPOINTS).where(*_OWN).values(seq=bindparam("upto"), stopped=bindparam("reason"))
)
_EACH = (
    func.unnest(bindparam("names", type_=TEXTS), bindparam("versions", type_=ARRAY(Integer)))
    .table_valued("projection", "version")
    .render_derived("each")
)
BEHIND = compiled(
    select(
        exists()
        .where(
            LANE_HEADS.c.seq > func.coalesce(CHECKPOINTS.c.seq, 0), CHECKPOINTS.c.stopped.is_(None)
        )
        .select_from(
            LANE_HEADS.join(_EACH, literal(True)).outerjoin(  # noqa: FBT003 - every lane, each projection
                CHECKPOINTS,
                and_(
                    CHECKPOINTS.c.lane == LANE_HEADS.c.lane,
                    CHECKPOINTS.c.projection == _EACH.c.projection,
                    CHECKPOINTS.c.version == _EACH.c.version,
                ),
            )
        )
    )
)
"""Whether any of several projections has something to take in any lane, stopped ones aside."""
