"""Rows of answers kept for a retry: an unlogged table beside the ledger, not derived from events.

A row is claimed by whoever makes the answer, and then holds the answer. Only the database's clock
decides how long either counts, because holders are in many processes on many hosts.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    Interval,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ledger.server.tables import INSTANT, compiled, metadata

# Unlogged: message text belongs in no WAL, and so in no archive or backup of it.
GATEWAY_ANSWERS = Table(
    "gateway_answers",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("holder", Uuid, nullable=False),
    Column(
        "until",
        INSTANT,
        nullable=False,
        comment="Without a head: the holder lives that long unless it says so again; with one:"
        " kept that long",
    ),
    Column("size", Integer, nullable=False, server_default=text("0")),
    Column("lane", SmallInteger, nullable=False),
    Column(
        "once_hash",
        LargeBinary,
        nullable=False,
        comment="Hash of key, route and Idempotency-Key, never the last itself",
    ),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("request_id", Text, nullable=False, server_default=text("''")),
    Column("head", Text),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("lane", "once_hash", name="idempotency_key_has_one_answer"),
    Index(
        "gateway_answers_by_account",
        "lane",
        "account_id",
        postgresql_include=["size"],
        postgresql_where=text("size > 0"),
    ),
    Index("gateway_answers_by_time", "until"),
    prefixes=["UNLOGGED"],
)
_answer = GATEWAY_ANSWERS.c
_now = func.clock_timestamp()
_until = _now + bindparam("lease", type_=Interval)
_lane, _once = bindparam("lane", type_=SmallInteger), bindparam("once", type_=LargeBinary)
_account, _size = bindparam("account", type_=Uuid), bindparam("size", type_=Integer)
_holder = bindparam("holder", type_=Uuid)
_bytes_most = bindparam("bytes_most", type_=BigInteger)
_named = and_(_answer.lane == _lane, _answer.once_hash == _once)
_is_made = _answer.head.is_(None)
_is_over = _answer.until < _now

_claim: dict[str, ColumnElement[Any]] = {
    "lane": _lane,
    "once_hash": _once,
    "account_id": _account,
    "fingerprint": bindparam("fingerprint", type_=LargeBinary),
    "holder": _holder,
}
CLAIM = compiled(
    insert(GATEWAY_ANSWERS)
    .values(**_claim, until=_until)
    .on_conflict_do_nothing(constraint=GATEWAY_ANSWERS.primary_key)
    .returning(true())
)
TAKE_OVER = compiled(
    update(GATEWAY_ANSWERS)
    .where(_named, _answer.holder == bindparam("dead"), _is_made, _is_over)
    .values(holder=_holder, until=_until)
    .returning(true())
)
"""Only the row that was looked at: a second process finds another holder."""
LOOK = compiled(
    select(_answer.fingerprint, _answer.holder, _answer.head.is_not(None), _is_over).where(_named)
)
READ = compiled(
    select(_answer.request_id, _answer.head, _answer.body).where(_named, _answer.head.is_not(None))
)
_mine = (
    func.unnest(
        bindparam("lanes", type_=ARRAY(SmallInteger)), bindparam("onces", type_=ARRAY(LargeBinary))
    )
    .table_valued(column("lane", SmallInteger), column("once_hash", LargeBinary), name="mine")
    .render_derived()
)
RENEW = compiled(
    update(GATEWAY_ANSWERS)
    .where(
        _answer.lane == _mine.c.lane,
        _answer.once_hash == _mine.c.once_hash,
        _answer.holder == _holder,
        _is_made,
    )
    .values(until=_until)
)
_kept = (
    select(func.count().label("number"), func.coalesce(func.sum(_answer.size), 0).label("bytes"))
    .where(_answer.lane == _lane, _answer.account_id == _account, _answer.size > 0)
    .subquery("kept")
)
_given = _claim | {
    "until": _now + bindparam("keep", type_=Interval),
    "request_id": bindparam("request", type_=Text),
    "size": _size,
    "head": bindparam("head", type_=Text),
    "body": bindparam("body", type_=LargeBinary),
}
_keeping = insert(GATEWAY_ANSWERS).from_select(
    list(_given),
    select(*_given.values())
    .select_from(_kept)
    .where(_kept.c.number < bindparam("number_most"), _kept.c.bytes + _size <= _bytes_most),
)
KEEP = compiled(
    _keeping.on_conflict_do_update(
        constraint=GATEWAY_ANSWERS.primary_key,
        set_={
            name: _keeping.excluded[name]
            for name in ("until", "request_id", "size", "head", "body")
        },
        where=and_(_answer.holder == _keeping.excluded.holder, _is_made),
    ).returning(true())
)
"""It inserts as well, because an unlogged table is empty after a crash. No row comes back if
the account keeps as much as it may, or somebody else holds the claim by now."""
DROP = compiled(delete(GATEWAY_ANSWERS).where(_named, _answer.holder == _holder, _is_made))
DROP_OVER = compiled(delete(GATEWAY_ANSWERS).where(_named, _answer.head.is_not(None), _is_over))
_left = case((_is_made, bindparam("claims", type_=Interval)), else_=timedelta())
FORGET = compiled(delete(GATEWAY_ANSWERS).where(_answer.until < _now - _left))
"""A claim whose holder died tells the retry so, for as long as its reservation may be open."""
_newer = func.sum(_answer.size).over(
    order_by=(_answer.until.desc(), _answer.lane, _answer.once_hash)
)
_sized = (
    select(_answer.lane, _answer.once_hash, _newer.label("bytes"))
    .where(_answer.size > 0)
    .subquery("sized")
)
TRIM = compiled(
    delete(GATEWAY_ANSWERS).where(
        _sized.c.bytes > _bytes_most,
        _answer.lane == _sized.c.lane,
        _answer.once_hash == _sized.c.once_hash,
    )
)
"""The oldest go first, over all accounts."""
