"""Conversations with characters: players' sessions, and what is said in them.

What is said is only here: in no event, log line or error. Its text is kept for as
many days as the settings say; with 0 days it is never written.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from api.beside import characters
from api.beside import session_rows as rows
from api.beside.characters import Character
from api.http.failure import Failure, Kind
from ledger.clock import DatabaseClock, Instant
from ledger.errors import InvalidField
from ledger.ids import AccountId, new_row_id
from ledger.secrets import redacted

MESSAGES_MAX = 1_000
"""Per session; after that the oldest go."""
HISTORY_MAX_BYTES = 4 * 1024 * 1024
MESSAGE_MAX = 32 * 1024
REPLY_MAX = 64 * 1024
"""Characters kept of a reply."""
IDLE = timedelta(days=365)
"""A session that has been idle for this long is deleted."""
FORGET_AT_ONCE = 1_000
FORGET_ROUNDS = 100

STATE = "conversation"
"""The only state of a persona's only machine."""
MACHINE_KEY = "main"
GENDERS = ("female", "male", "non-binary")


class NoSuchSession(Failure):
    """No such session."""

    def __init__(self) -> None:
        super().__init__(Kind.NOT_FOUND, "No such session.", code="no_such_session")


class PlayerSession(msgspec.Struct, frozen=True, kw_only=True):
    """A player's conversation with a persona."""

    number: int
    """Number of its row; not shown outside."""
    session_id: UUID
    account_id: AccountId
    character_id: UUID
    user_session_id: str
    player_name: str
    player_gender: str
    current_state: str
    score: int
    outcome: str | None
    round: int
    """Raised by a reset."""
    started_at: datetime
    last_message_at: datetime
    """Time of the greeting, if nobody has said anything yet."""


class BegunSession(NamedTuple):
    """A session that begins, and its greeting."""

    session: PlayerSession
    greeting: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What was said to a persona, and its answer."""

    user: str
    assistant: str
    current_state: str = STATE
    score: int = 0
    outcome: str | None = None
    decision: str | None = None
    follow_up: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a session."""

    message_id: UUID
    role: str
    """user or assistant."""
    content: str
    state_key_at_time: str
    score_at_time: int
    decision: str | None
    follow_up_triggered: bool
    created_at: datetime


class PersonaMachine(msgspec.Struct, frozen=True, kw_only=True):
    """What drives a persona."""

    machine_id: UUID
    machine_key: str
    name: str
    description: str
    has_session: bool
    session_outcome: str | None
    is_linked: bool


class Conversations:
    """Reads and writes conversations."""

    def __init__(
        self, pool: AsyncConnectionPool, retention_days: int, clock: DatabaseClock
    ) -> None:
        """Take where they are kept, how many days text is kept (0: not at all), and the clock."""
        self._pool = pool
        self._clock = clock
        self._retention = timedelta(days=retention_days)

    async def begin(
        self, persona: Character, *, user_session_id: str, player_name: str, player_gender: str
    ) -> BegunSession:
        """Begin a session; one that exists begins again, without its messages.

        Raises:
            InvalidField: A text is empty or too long, or the gender is not in ``GENDERS``.
        """
        parameters = {
            "session": new_row_id(),
            "account": persona.account_id,
            "character": persona.character_id,
            "at": self._clock.now(),
            "state": STATE,
            "user_session": characters.require_text(
                "user_session_id", user_session_id, characters.NAME_MAX, least=1
            ),
            "player_name": characters.require_text(
                "player_name", player_name.strip(), characters.NAME_MAX, least=1
            ),
            "player_gender": player_gender,
        }
        if player_gender not in GENDERS:
            raise InvalidField("player_gender", "must be one of " + ", ".join(GENDERS))
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(rows.BEGIN, parameters)
            session = await _session(connection, persona, user_session_id)
            greeting = persona.greet(session.player_name)
            await self._start(connection, session, greeting)
        return BegunSession(session, greeting)

    async def session(self, persona: Character, user_session_id: str) -> PlayerSession:
        """Return a player's session with a persona.

        Raises:
            NoSuchSession: There is none.
        """
        async with self._pool.connection() as connection:
            return await _session(connection, persona, user_session_id)

    async def reset(self, persona: Character, user_session_id: str) -> BegunSession:
        """Begin a session again under the same id, without its messages.

        Raises:
            NoSuchSession: There is none.
        """
        parameters = {
            "account": persona.account_id,
            "character": persona.character_id,
            "user_session": _known(user_session_id),
            "state": STATE,
            "at": self._clock.now(),
        }
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(rows.RESET, parameters)
            session = await _session(connection, persona, user_session_id)
            greeting = persona.greet(session.player_name)
            await self._start(connection, session, greeting)
        return BegunSession(session, greeting)

    async def _start(
        self, connection: AsyncConnection, session: PlayerSession, greeting: str
    ) -> None:
        await connection.execute(rows.DELETE_MESSAGES, {"session": session.number})
        if self._retention:
            first = _message(
                session.number,
                1,
                role="assistant",
                content=_kept(greeting, REPLY_MAX),
                created_at=session.started_at,
                state_key_at_time=session.current_state,
            )
            await rows.write_messages(connection, [first])

    async def history(self, session: PlayerSession, *, most: int = MESSAGES_MAX) -> list[Message]:
        """Return the newest messages of a session that are still kept, oldest first."""
        parameters = {
            "session": session.number,
            "since": self._clock.now() - self._retention,
            "most": most,
            "bytes": HISTORY_MAX_BYTES,
        }
        async with self._pool.connection() as connection:
            found = await (await connection.execute(rows.HISTORY, parameters)).fetchall()
        names = Message.__struct_fields__
        return [Message(**dict(zip(names, row, strict=True))) for row in found]

    async def machines(self, persona: Character, user_session_id: str) -> list[PersonaMachine]:
        """List a persona's machines; there is only one."""
        try:
            session = await self.session(persona, user_session_id)
        except NoSuchSession:
            session = None
        return [
            PersonaMachine(
                machine_id=persona.machine_id,
                machine_key=MACHINE_KEY,
                name=persona.name,
                description=persona.description,
                has_session=session is not None,
                session_outcome=None if session is None else session.outcome,
                is_linked=False,
            )
        ]

    async def add(self, session: PlayerSession, turn: Turn) -> PlayerSession | None:
        """Add what was said and answered, both or neither; return the session afterwards.

        None: the session was begun again or reset since ``session`` was read, and has no place
        for the turn.
        """
        at = self._clock.now()
        parameters = {
            "of_session": session.session_id,
            "of_round": session.round,
            "at": at,
            "state": turn.current_state,
            "score": turn.score,
            "outcome": turn.outcome,
        }
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(rows.ADD_TURN, parameters)).fetchone()
            if row is None:
                return None
            if self._retention:
                await _write_turn(connection, row[0], row[1], turn, at)
        return msgspec.structs.replace(
            session,
            current_state=turn.current_state,
            score=turn.score,
            outcome=turn.outcome,
            last_message_at=max(session.last_message_at, at),
        )

    async def forget(self) -> tuple[int, int]:
        """Delete messages past retention, and idle sessions; return how many of each."""
        at = self._clock.now()
        messages = await self._forget(rows.FORGET_MESSAGES, at - self._retention)
        return messages, await self._forget(rows.FORGET_SESSIONS, at - IDLE)

    async def _forget(self, statement: bytes, before: Instant) -> int:
        """Delete a bounded number of rows, a few at a time, so that nobody waits for long."""
        gone = 0
        for _ in range(FORGET_ROUNDS):
            parameters = {"before": before, "most": FORGET_AT_ONCE}
            async with self._pool.connection() as connection:
                done = await connection.execute(statement, parameters)
            gone += done.rowcount
            if done.rowcount < FORGET_AT_ONCE:
                break
        return gone


def require_message(text: str) -> str:
    """Refuse a text that cannot be a player's message, before anything is metered.

    Raises:
        InvalidField: It is blank or too long.
    """
    if not text.strip() or len(text) > MESSAGE_MAX:
        raise InvalidField("message", f"must have 1 to {MESSAGE_MAX} characters")
    return text


def _known(user_session_id: str) -> str:
    """Return a session's name, if a session can have it.

    Raises:
        NoSuchSession: No session can.
    """
    try:
        return characters.require_text("", user_session_id, characters.NAME_MAX, least=1)
    except InvalidField as error:
        raise NoSuchSession from error


async def _session(
    connection: AsyncConnection, persona: Character, user_session_id: str
) -> PlayerSession:
    parameters = {
        "account": persona.account_id,
        "character": persona.character_id,
        "user_session": _known(user_session_id),
    }
    row = await (await connection.execute(rows.FIND, parameters)).fetchone()
    if row is None:
        raise NoSuchSession
    return PlayerSession(**dict(zip(PlayerSession.__struct_fields__, row, strict=True)))


async def _write_turn(
    connection: AsyncConnection, session: int, last: int, turn: Turn, at: Instant
) -> None:
    shared = {
        "created_at": at,
        "score_at_time": turn.score,
        "state_key_at_time": turn.current_state,
    }
    said = _message(session, last - 1, role="user", content=_kept(turn.user, MESSAGE_MAX), **shared)
    answered = _message(
        session,
        last,
        role="assistant",
        content=_kept(turn.assistant, REPLY_MAX),
        decision=turn.decision,
        follow_up_triggered=turn.follow_up,
        **shared,
    )
    await rows.write_messages(connection, [said, answered])
    if last > MESSAGES_MAX:
        parameters = {"session": session, "last": last - MESSAGES_MAX}
        await connection.execute(rows.TRIM_MESSAGES, parameters)


def _message(session: int, number: int, **said: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a row for a message, by the fields of ``Message``."""
    made = {"decision": None, "follow_up_triggered": False, "score_at_time": 0, **said}
    return {"session": session, "number": number, "message_id": new_row_id(), **made}


def _kept(text: str, most: int) -> str:
    """Return a text as it is stored: without secrets (promise 11) or characters no table takes."""
    return redacted(characters.storable(text))[:most]
