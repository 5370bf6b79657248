"""Rows of sessions and of their messages: no other table holds message text."""

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import AsyncConnection, DataError, IntegrityError
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from api.beside.character_rows import CHARACTERS
from ledger.server.tables import INSTANT, compiled, metadata

# No CHECK on a table with a player's or a model's words: its error would copy the row to a log.
CHARACTER_SESSIONS = Table(
    "character_sessions",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("session_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column(
        "character_id", ForeignKey(CHARACTERS.c.character_id, ondelete="CASCADE"), nullable=False
    ),
    Column("started_at", INSTANT, nullable=False),
    Column("last_message_at", INSTANT, nullable=False),
    Column(
        "round",
        Integer,
        nullable=False,
        comment="Raised by a reset, so that a turn begun before it is not added after it",
    ),
    Column(
        "messages", Integer, nullable=False, comment="Number of the newest message of this round"
    ),
    Column("score", Integer, nullable=False),
    Column("current_state", Text, nullable=False),
    Column("outcome", Text),
    Column("user_session_id", Text, nullable=False),
    Column("player_name", Text, nullable=False),
    Column("player_gender", Text, nullable=False),
    PrimaryKeyConstraint("id", name="session_is_numbered_once"),
    UniqueConstraint("session_id", name="session_is_unique"),
    UniqueConstraint(
        "character_id", "account_id", "user_session_id", name="player_has_one_session"
    ),
    Index("character_sessions_by_time", "last_message_at"),
    postgresql_with={"fillfactor": 70},
)
CHARACTER_MESSAGES = Table(
    "character_messages",
    metadata,
    Column("session", ForeignKey(CHARACTER_SESSIONS.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("message_id", Uuid, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("score_at_time", Integer, nullable=False),
    Column("follow_up_triggered", Boolean, nullable=False),
    Column("role", Text, nullable=False),
    Column("state_key_at_time", Text, nullable=False),
    Column("decision", Text),
    Column("content", Text, nullable=False),
    PrimaryKeyConstraint("session", "number", name="message_is_numbered_once"),
    Index("character_messages_by_time", "created_at"),
)

_session, _message = CHARACTER_SESSIONS.c, CHARACTER_MESSAGES.c
_at, _most = bindparam("at", type_=INSTANT), bindparam("most", type_=Integer)
_before = bindparam("before", type_=INSTANT)
_of_player = and_(
    _session.account_id == bindparam("account"),
    _session.character_id == bindparam("character"),
    _session.user_session_id == bindparam("user_session"),
)
_afresh = {
    "started_at": _at,
    "last_message_at": _at,
    "messages": 1,
    "score": 0,
    "current_state": bindparam("state"),
    "outcome": null(),
}
_begun = insert(CHARACTER_SESSIONS).values(
    session_id=bindparam("session"),
    account_id=bindparam("account"),
    character_id=bindparam("character"),
    round=1,
    user_session_id=bindparam("user_session"),
    player_name=bindparam("player_name"),
    player_gender=bindparam("player_gender"),
    **_afresh,
)
_anew = ("session_id", "round", "player_name", "player_gender", *_afresh)
# Its row is locked until the old messages are gone: of two at a time, one becomes the session.
BEGIN = compiled(
    _begun.on_conflict_do_update(
        constraint="player_has_one_session",
        set_={name: _begun.excluded[name] for name in _anew},
    ).returning(_session.id)
)
RESET = compiled(
    update(CHARACTER_SESSIONS)
    .where(_of_player)
    .values(round=_session.round + 1, **_afresh)
    .returning(_session.id)
)
FIND = compiled(
    select(
        _session.id,
        _session.session_id,
        _session.account_id,
        _session.character_id,
        _session.user_session_id,
        _session.player_name,
        _session.player_gender,
        _session.current_state,
        _session.score,
        _session.outcome,
        _session.round,
        _session.started_at,
        _session.last_message_at,
    ).where(_of_player)
)
"""Selects the fields of ``PlayerSession``."""
ADD_TURN = compiled(
    update(CHARACTER_SESSIONS)
    .where(_session.session_id == bindparam("of_session"), _session.round == bindparam("of_round"))
    .values(
        current_state=bindparam("state"),
        score=bindparam("score"),
        outcome=bindparam("outcome"),
        messages=_session.messages + 2,
        last_message_at=func.greatest(_session.last_message_at, _at),
    )
    .returning(_session.id, _session.messages)
)
"""Updates nothing if the session was begun again or reset since the turn began."""

_INSERT_MESSAGE = compiled(insert(CHARACTER_MESSAGES))
_of_session = _message.session == bindparam("session")
DELETE_MESSAGES = compiled(delete(CHARACTER_MESSAGES).where(_of_session))
TRIM_MESSAGES = compiled(
    delete(CHARACTER_MESSAGES).where(_of_session, _message.number <= bindparam("last"))
)
_newest = (
    select(
        _message.message_id,
        _message.role,
        _message.content,
        _message.state_key_at_time,
        _message.score_at_time,
        _message.decision,
        _message.follow_up_triggered,
        _message.created_at,
        _message.number,
        func.sum(func.octet_length(_message.content))
        .over(order_by=_message.number.desc())
        .label("bytes"),
    )
    .where(_of_session, _message.created_at > bindparam("since"))
    .order_by(_message.number.desc())
    .limit(_most)
    .subquery("newest")
)
_shown = [column for column in _newest.c if column.name not in {"number", "bytes"}]
HISTORY = compiled(
    select(*_shown)
    .where(_newest.c.bytes <= bindparam("bytes", type_=BigInteger))
    .order_by(_newest.c.number)
)
"""Selects the fields of ``Message``: the newest that fit into this many bytes, oldest first."""

# Rows that a session is deleting now are left to it, so that neither waits.
_outdated = (
    select(_message.session, _message.number)
    .where(_message.created_at <= _before)
    .order_by(_message.created_at)
    .limit(_most)
    .with_for_update(skip_locked=True)
    .subquery("outdated")
)
FORGET_MESSAGES = compiled(
    delete(CHARACTER_MESSAGES).where(
        _message.session == _outdated.c.session, _message.number == _outdated.c.number
    )
)
_idle = CHARACTER_SESSIONS.alias("idle")
FORGET_SESSIONS = compiled(
    delete(CHARACTER_SESSIONS).where(
        _session.id.in_(
            select(_idle.c.id)
            .where(_idle.c.last_message_at <= _before)
            .order_by(_idle.c.last_message_at)
            .limit(_most)
            .with_for_update(skip_locked=True)
        )
    )
)


class MessageIsNotKept(Exception):
    """The table of messages refused one, with this SQLSTATE. The error does not repeat its text."""


async def write_messages(connection: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add messages to a session.

    Raises:
        MessageIsNotKept: The table refuses one of them.
    """
    try:
        await connection.cursor().executemany(_INSERT_MESSAGE, rows)
    except (DataError, IntegrityError) as error:
        # PostgreSQL's error repeats a row that it refuses, and errors end up in logs.
        raise MessageIsNotKept(error.sqlstate) from None
