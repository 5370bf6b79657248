"""Characters and the conversations held with them: ordinary tables beside the ledger.

What is said is here and nowhere else: in no event, no log line, no error. Its text is kept for as
many days as the settings say; with none of them it is never written.
"""

import secrets as random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg import AsyncConnection, DataError, IntegrityError
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg_pool import AsyncConnectionPool

from api.beside import characters
from api.beside.characters import (
    DRAFT,
    PUBLISHED,
    STATUSES,
    WITHDRAWN,
    Character,
    CharacterLine,
    Draft,
    NoSuchCharacter,
    Scenario,
    ScenarioName,
)
from api.http.failure import Failure, Kind
from ledger.clock import DatabaseClock, Instant
from ledger.errors import (
    AccountIsClosed,
    IdempotencyKeyIsTaken,
    InvalidField,
    NoSuchAccount,
    VersionIsOutdated,
)
from ledger.ids import AccountId, lane_of_account, new_row_id, request_hash
from ledger.secrets import redacted
from projections import conversations as sql

PAGE_MAX = 100
CHATS_MAX = 1_000
"""Characters per account whose last chat is remembered."""
MESSAGES_MAX = 1_000
"""Per session; then the oldest go."""
HISTORY_MAX_BYTES = 4 * 1024 * 1024
MESSAGE_MAX = 32 * 1024
REPLY_MAX = 64 * 1024
"""Characters of a reply that are kept."""
IDLE = timedelta(days=365)
"""A session that nobody spoke in for so long is forgotten."""
FORGET_AT_ONCE = 1_000
FORGET_ROUNDS = 100

STATE = "conversation"
"""The one state of a persona's one machine."""
MACHINE_KEY = "main"
GENDERS = ("female", "male", "non-binary")
VIAS = ("web", "api")

_LAST_ID = UUID(int=2**128 - 1)
_decode_scenarios = msgspec.json.Decoder(tuple[Scenario, ...]).decode
_decode_names = msgspec.json.Decoder(tuple[ScenarioName, ...]).decode


class NoSuchSession(Failure):
    """No such session."""

    def __init__(self) -> None:
        super().__init__(Kind.NOT_FOUND, "No such session.", code="no_such_session")


class MessageIsNotKept(Exception):
    """The table of messages refused one, by this SQLSTATE. What was said is not told."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a character; what is left out stays."""

    name: str | UnsetType = UNSET
    slug: str | UnsetType = UNSET
    """Empty: as it is."""
    description: str | UnsetType = UNSET
    greeting: str | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    multiplier: str | UnsetType = UNSET
    scenarios: tuple[Scenario, ...] | UnsetType = UNSET


class Created(NamedTuple):
    """A character, and whether it was created before under the same idempotency key."""

    character: Character
    replayed: bool


class Once(NamedTuple):
    """An idempotency key and the fingerprint of the request that came with it."""

    key: str
    fingerprint: bytes


class Page(NamedTuple):
    """Some characters, newest first."""

    lines: list[CharacterLine]
    has_more: bool


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """The last chat of an account with a character."""

    character: Character
    scenario: Scenario | None
    via: str
    """``web`` or ``api``."""
    last_at: datetime


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A player's conversation with a persona."""

    number: int
    """Of its row; for nobody outside."""
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
    """Of the greeting, where nobody has said anything yet."""


class Begun(NamedTuple):
    """A session that begins, and its first words."""

    session: Session
    greeting: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What was said to a persona, and what it answered."""

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


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What drives a persona."""

    machine_id: UUID
    machine_key: str
    name: str
    description: str
    has_session: bool
    session_outcome: str | None
    is_linked: bool


class Conversations:
    """Everything that is asked and written of characters and conversations."""

    def __init__(
        self, pool: AsyncConnectionPool, lanes: int, retention_days: int, clock: DatabaseClock
    ) -> None:
        """Take where they are kept, how long text is (0 days: it is not), what tells the time."""
        self._pool = pool
        self._clock = clock
        self._lanes = lanes
        self._retention = timedelta(days=retention_days)

    # Characters.

    async def create(
        self, account_id: AccountId, draft: Draft, *, once: Once | None = None
    ) -> Created:
        """Make a character, a draft at first; with ``once``, one for all repetitions.

        Raises:
            InvalidField: A text is out of bounds.
            SlugIsTaken: The account has another character of the slug that was asked for.
            TooManyCharacters: The account has as many as it may.
            NoSuchAccount, AccountIsClosed: Nobody can own it.
            IdempotencyKeyIsTaken: The key came with another request.
        """
        draft = characters.checked(draft)
        hashed = None if once is None else request_hash(account_id, once.key)
        async with self._pool.connection() as connection, connection.transaction():
            await self._require_open(connection, account_id)
            # Counted first: whoever waits here sees what the one before it has made.
            counted = await self._has_room(connection, account_id)
            if once is not None and hashed is not None:
                rows = await connection.execute(sql.FIND_CREATED, (account_id, hashed))
                row = await rows.fetchone()
                if row is not None:
                    if row[1] != once.fingerprint:
                        raise IdempotencyKeyIsTaken
                    if counted:
                        await connection.execute(sql.TAKE_FROM_SHELF, (account_id,))
                    return Created(await _found(connection, character=row[0]), replayed=True)
            if not counted:
                raise characters.TooManyCharacters
            character_id = new_row_id()
            terms = {
                **_columns(draft),
                "character": character_id,
                "account": account_id,
                "lane": lane_of_account(account_id, self._lanes),
                "machine": new_row_id(),
                "at": self._clock.now(),
                "slug": draft.slug or await _free_slug(connection, account_id, draft.name),
                "request_hash": hashed,
                "request_fingerprint": None if once is None else once.fingerprint,
            }
            await _write(connection, sql.INSERT_CHARACTER, terms)
            await _write_scenarios(connection, character_id, draft.scenarios)
            return Created(await _found(connection, character=character_id), replayed=False)

    @staticmethod
    async def _has_room(connection: AsyncConnection, account_id: AccountId) -> bool:
        terms = {"account": account_id, "most": characters.CHARACTERS_MAX}
        # The shelf is held from here on, whether or not there is room on it.
        return await (await connection.execute(sql.ADD_TO_SHELF, terms)).fetchone() is not None

    async def _require_open(self, connection: AsyncConnection, account_id: AccountId) -> None:
        lane = lane_of_account(account_id, self._lanes)
        row = await (await connection.execute(sql.ACCOUNT_STATUS, (lane, account_id))).fetchone()
        if row is None:
            raise NoSuchAccount
        if row[0] == "closed":
            raise AccountIsClosed

    async def character(self, character_id: UUID) -> Character:
        """Give a character, whoever asks.

        Raises:
            NoSuchCharacter: There is none.
        """
        async with self._pool.connection() as connection:
            return await _found(connection, character=character_id)

    async def visible(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Give a character of the account, or a public one; of None, any.

        Raises:
            NoSuchCharacter: There is none, or it is another's and not public (promise 15).
        """
        found = await self.character(character_id)
        if account_id not in {None, found.account_id} and not found.public:
            raise NoSuchCharacter
        return found

    async def persona(self, account_id: AccountId, character_id: UUID) -> Character:
        """Give a published character of the account, telling apart why there is none (foil, FO4).

        Raises:
            NoSuchCharacter: There never was one.
            CharacterIsDenied: It is another's, or not published.
        """
        found = await self.character(character_id)
        if found.account_id != account_id or not found.public:
            raise characters.CharacterIsDenied
        return found

    async def by_slug(self, account_id: AccountId | None, slug: str) -> Character:
        """Give the account's own character of a slug, or else the public one.

        Raises:
            NoSuchCharacter: There is neither.
        """
        if characters.slug_of(slug) != slug:
            raise NoSuchCharacter
        async with self._pool.connection() as connection:
            return await _found(connection, slug=slug, account=account_id)

    async def of_model(
        self, account_id: AccountId, model: str
    ) -> tuple[Character, Scenario | None]:
        """Give the character, and scenario, that a ``model`` names: ``slug`` or ``slug/scenario``.

        Raises:
            NoSuchCharacter: It names none that the account may talk to.
        """
        slug, slash, scenario_slug = model.partition("/")
        found = await self.by_slug(account_id, slug)
        if not found.public and found.status == WITHDRAWN:
            raise NoSuchCharacter
        scenario = found.scenario(scenario_slug)
        if slash and scenario is None:
            raise NoSuchCharacter
        return found, scenario

    async def page(
        self,
        account_id: AccountId | None,
        *,
        statuses: Sequence[str] = STATUSES,
        public: bool = False,
        after: UUID | None = None,
        most: int = PAGE_MAX,
    ) -> Page:
        """List the account's characters of some statuses and, if asked, everybody's public ones.

        Newest first; ``after`` is the last id of the page before. Of no account: public ones only.
        """
        most = min(most, PAGE_MAX)
        terms = {
            "account": account_id,
            "statuses": list(statuses),
            "public": public,
            "before": after or _LAST_ID,
            "most": most + 1,
        }
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(sql.PAGE_CHARACTERS, terms)).fetchall()
        return Page([_line(row) for row in rows[:most]], len(rows) > most)

    async def change(
        self,
        account_id: AccountId | None,
        character_id: UUID,
        changes: Changes,
        *,
        expected_version: int | None = None,
    ) -> Character:
        """Change what an author says of a character; of None, any account's.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            InvalidField, SlugIsTaken: The changes cannot be.
            VersionIsOutdated: It changed since it was read.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await _held(connection, account_id, character_id)
            if expected_version not in {None, held.version}:
                raise VersionIsOutdated
            draft = characters.checked(_changed(held.draft, changes))
            slug, at = draft.slug or held.slug, self._clock.now()
            if held.status == PUBLISHED and slug != held.slug:
                await connection.execute(sql.FREE_SLUG, {"slug": slug, "at": at})
            terms = {**_columns(draft), "character": character_id, "slug": slug, "at": at}
            await _write(connection, sql.CHANGE_CHARACTER, terms)
            if not isinstance(changes.scenarios, UnsetType):
                await connection.execute(sql.DELETE_SCENARIOS, (character_id,))
                await _write_scenarios(connection, character_id, draft.scenarios)
            return await _found(connection, character=character_id)

    async def publish(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Let everybody have a character; quiet where everybody has.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            SlugIsTaken: Another public character has its slug.
            AccountIsClosed: Its owner is gone.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await _held(connection, account_id, character_id)
            await self._require_open(connection, held.account_id)
            if held.status == PUBLISHED:
                return held
            at = self._clock.now()
            await connection.execute(sql.FREE_SLUG, {"slug": held.slug, "at": at})
            terms = {"character": character_id, "status": PUBLISHED, "at": at}
            await _write(connection, sql.SET_STATUS, terms)
            return await _found(connection, character=character_id)

    async def withdraw(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Take a character back; quiet where it is taken back.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            CharacterIsNotPublished: It is a draft.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await _held(connection, account_id, character_id)
            if held.status == DRAFT:
                raise characters.CharacterIsNotPublished
            if held.status == WITHDRAWN:
                return held
            terms = {"character": character_id, "status": WITHDRAWN, "at": self._clock.now()}
            await _write(connection, sql.SET_STATUS, terms)
            return await _found(connection, character=character_id)

    async def delete(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Delete a draft; give what it was.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            CharacterIsNoDraft: It was published.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await _held(connection, account_id, character_id)
            if held.status != DRAFT:
                raise characters.CharacterIsNoDraft
            await connection.execute(sql.DELETE_CHARACTER, (character_id,))
            await connection.execute(sql.TAKE_FROM_SHELF, (held.account_id,))
            return held

    # Chats.

    async def note_chat(
        self, account_id: AccountId, character_id: UUID, *, via: str, scenario: str = ""
    ) -> None:
        """Note that the account chats with a character now.

        Raises:
            NoSuchCharacter: There is none that it may talk to, or no such scenario of it.
        """
        assert via in VIAS
        found = await self.visible(account_id, character_id)
        if scenario and found.scenario(scenario) is None:
            raise NoSuchCharacter
        terms = {
            "account": account_id,
            "character": character_id,
            "at": self._clock.now(),
            "scenario": scenario,
            "via": via,
        }
        async with self._pool.connection() as connection:
            try:
                row = await (await connection.execute(sql.NOTE_CHAT, terms)).fetchone()
            except ForeignKeyViolation as error:  # deleted meanwhile
                raise NoSuchCharacter from error
            if row is not None and row[0]:
                trimmed = {"account": account_id, "most": CHATS_MAX}
                await connection.execute(sql.TRIM_CHATS, trimmed)

    async def most_recent(self, account_id: AccountId) -> Chat | None:
        """Give the account's latest chat with a character it may still talk to; None: no chat."""
        async with self._pool.connection() as connection:
            rows = await connection.execute(sql.RECENT_CHAT, {"account": account_id})
            row = await rows.fetchone()
            if row is None:
                return None
            found = await _found(connection, character=row[0])
        return Chat(character=found, scenario=found.scenario(row[1]), via=row[2], last_at=row[3])

    # Sessions.

    async def begin(
        self, persona: Character, *, user_session_id: str, player_name: str, player_gender: str
    ) -> Begun:
        """Begin a session, afresh where there is one: its messages go.

        Raises:
            InvalidField: A text is empty or too long, or the gender is none of ``GENDERS``.
        """
        terms = {
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
            await connection.execute(sql.BEGIN_SESSION, terms)
            session = await _session(connection, persona, user_session_id)
            greeting = persona.greet(session.player_name)
            await self._start(connection, session, greeting)
        return Begun(session, greeting)

    async def session(self, persona: Character, user_session_id: str) -> Session:
        """Give a player's session with a persona.

        Raises:
            NoSuchSession: There is none.
        """
        async with self._pool.connection() as connection:
            return await _session(connection, persona, user_session_id)

    async def reset(self, persona: Character, user_session_id: str) -> Begun:
        """Let a session begin again under the same id; its messages go.

        Raises:
            NoSuchSession: There is none.
        """
        terms = {
            "account": persona.account_id,
            "character": persona.character_id,
            "user_session": _known(user_session_id),
            "state": STATE,
            "at": self._clock.now(),
        }
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(sql.RESET_SESSION, terms)
            session = await _session(connection, persona, user_session_id)
            greeting = persona.greet(session.player_name)
            await self._start(connection, session, greeting)
        return Begun(session, greeting)

    async def _start(self, connection: AsyncConnection, session: Session, greeting: str) -> None:
        await connection.execute(sql.DELETE_MESSAGES, (session.number,))
        if self._retention:
            first = (session.number, 1, new_row_id(), session.started_at, 0, False)
            words = ("assistant", session.current_state, None, _kept(greeting, REPLY_MAX))
            await _write_messages(connection, [(*first, *words)])

    async def history(self, session: Session, *, most: int = MESSAGES_MAX) -> list[Message]:
        """Give the newest messages of a session that are still kept, oldest first."""
        terms = {
            "session": session.number,
            "since": self._clock.now() - self._retention,
            "most": most,
            "bytes": HISTORY_MAX_BYTES,
        }
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(sql.HISTORY, terms)).fetchall()
        names = Message.__struct_fields__
        return [Message(**dict(zip(names, row, strict=True))) for row in rows]

    async def machines(self, persona: Character, user_session_id: str) -> list[Machine]:
        """List a persona's machines, of which there is one."""
        try:
            session = await self.session(persona, user_session_id)
        except NoSuchSession:
            session = None
        return [
            Machine(
                machine_id=persona.machine_id,
                machine_key=MACHINE_KEY,
                name=persona.name,
                description=persona.description,
                has_session=session is not None,
                session_outcome=None if session is None else session.outcome,
                is_linked=False,
            )
        ]

    async def add(self, session: Session, turn: Turn) -> Session | None:
        """Add what was said and answered, both or neither; give the session as it is then.

        None: the session was begun afresh or reset since ``session`` was read, and has no place
        for the turn.
        """
        at = self._clock.now()
        terms = {
            "session": session.session_id,
            "round": session.round,
            "at": at,
            "state": turn.current_state,
            "score": turn.score,
            "outcome": turn.outcome,
        }
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(sql.ADD_TURN, terms)).fetchone()
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

    # Retention.

    async def forget(self) -> tuple[int, int]:
        """Delete messages older than they are kept, and idle sessions; give how many of each."""
        at = self._clock.now()
        messages = await self._forget(sql.FORGET_MESSAGES, at - self._retention)
        return messages, await self._forget(sql.FORGET_SESSIONS, at - IDLE)

    async def _forget(self, statement: Any, before: Instant) -> int:  # noqa: ANN401
        """Delete a bounded number of rows, a few at a time, so that nobody waits for long."""
        gone = 0
        for _ in range(FORGET_ROUNDS):
            terms = {"before": before, "most": FORGET_AT_ONCE}
            async with self._pool.connection() as connection:
                done = await connection.execute(statement, terms)
            gone += done.rowcount
            if done.rowcount < FORGET_AT_ONCE:
                break
        return gone


def require_message(text: str) -> str:
    """Refuse what cannot be a player's message, before anything is metered.

    Raises:
        InvalidField: It is blank or too long.
    """
    if not text.strip() or len(text) > MESSAGE_MAX:
        raise InvalidField("message", f"1 to {MESSAGE_MAX} characters")
    return text


def _columns(draft: Draft) -> dict[str, Any]:
    names = ("name", "description", "greeting", "system_prompt", "multiplier")
    return {name: getattr(draft, name) for name in names}


def _changed(draft: Draft, changes: Changes) -> Draft:
    named = msgspec.structs.asdict(changes)
    given = {name: value for name, value in named.items() if value is not UNSET}
    return msgspec.structs.replace(draft, **given)


async def _found(
    connection: AsyncConnection,
    *,
    character: UUID | None = None,
    slug: str = "",
    account: AccountId | None = None,
) -> Character:
    terms = {"character": character, "slug": slug, "account": account}
    row = await (await connection.execute(sql.FIND_CHARACTER, terms)).fetchone()
    if row is None:
        raise NoSuchCharacter
    fields = dict(zip(Character.__struct_fields__, row, strict=True))
    return Character(**{**fields, "scenarios": _decode_scenarios(row[-1])})


def _line(row: Any) -> CharacterLine:  # noqa: ANN401 - a row
    fields = dict(zip(CharacterLine.__struct_fields__, row, strict=True))
    return CharacterLine(**{**fields, "scenarios": _decode_names(row[-1])})


async def _held(
    connection: AsyncConnection, account_id: AccountId | None, character_id: UUID
) -> Character:
    """Give a character of the account that nobody else changes until the transaction ends."""
    terms = {"character": character_id, "account": account_id}
    row = await (await connection.execute(sql.OWNER, terms)).fetchone()
    if row is None:
        raise NoSuchCharacter
    await connection.execute(sql.HOLD_SHELF, (row[0],))
    return await _found(connection, character=character_id)


async def _free_slug(connection: AsyncConnection, account_id: AccountId, name: str) -> str:
    """Make a slug that neither the account has nor the public; the shelf is held."""
    wanted = characters.numbered(characters.slug_of(name))
    rows = await connection.execute(sql.SLUGS_TAKEN, {"slugs": wanted, "account": account_id})
    taken = {row[0] for row in await rows.fetchall()}
    last = f"{wanted[0][:50].rstrip('-')}-{random.token_hex(6)}"
    return next((slug for slug in wanted if slug not in taken), last)


async def _write(connection: AsyncConnection, statement: Any, terms: dict[str, Any]) -> None:  # noqa: ANN401
    try:
        await connection.execute(statement, terms)
    except UniqueViolation as error:
        raise characters.SlugIsTaken from error


async def _write_scenarios(
    connection: AsyncConnection, character_id: UUID, scenarios: Sequence[Scenario]
) -> None:
    rows = [
        (
            character_id,
            place,
            each.slug,
            each.name,
            each.description,
            each.greeting,
            each.system_prompt,
        )
        for place, each in enumerate(scenarios)
    ]
    if rows:
        await connection.cursor().executemany(sql.INSERT_SCENARIO, rows)


def _known(user_session_id: str) -> str:
    """Give the name of a session that there can be.

    Raises:
        NoSuchSession: No session has such a name.
    """
    try:
        return characters.require_text("", user_session_id, characters.NAME_MAX, least=1)
    except InvalidField as error:
        raise NoSuchSession from error


async def _session(
    connection: AsyncConnection, persona: Character, user_session_id: str
) -> Session:
    terms = (persona.account_id, persona.character_id, _known(user_session_id))
    row = await (await connection.execute(sql.FIND_SESSION, terms)).fetchone()
    if row is None:
        raise NoSuchSession
    return Session(**dict(zip(Session.__struct_fields__, row, strict=True)))


async def _write_turn(
    connection: AsyncConnection, session: int, last: int, turn: Turn, at: Instant
) -> None:
    state, score = turn.current_state, turn.score
    said = _kept(turn.user, MESSAGE_MAX)
    answered = _kept(turn.assistant, REPLY_MAX)
    rows = [
        (session, last - 1, new_row_id(), at, score, False, "user", state, None, said),
        (
            session,
            last,
            new_row_id(),
            at,
            score,
            turn.follow_up,
            "assistant",
            state,
            turn.decision,
            answered,
        ),
    ]
    await _write_messages(connection, rows)
    if last > MESSAGES_MAX:
        await connection.execute(sql.TRIM_MESSAGES, (session, last - MESSAGES_MAX))


async def _write_messages(connection: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        await connection.cursor().executemany(sql.INSERT_MESSAGE, rows)
    except (DataError, IntegrityError) as error:
        # PostgreSQL repeats a row that it refuses, and an error ends up in a log.
        raise MessageIsNotKept(error.sqlstate) from None


def _kept(text: str, most: int) -> str:
    """Give a text as it is kept: no secret at rest (promise 11), nothing that no table takes."""
    return redacted(characters.storable(text))[:most]
