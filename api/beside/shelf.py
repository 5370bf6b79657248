"""Accounts' characters: written, published, withdrawn, found, chatted with."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation
from psycopg_pool import AsyncConnectionPool

from api.beside import character_rows as rows
from api.beside import characters
from api.beside.characters import (
    DRAFT,
    PUBLISHED,
    STATUSES,
    WITHDRAWN,
    Character,
    CharacterDraft,
    CharacterLine,
    NoSuchCharacter,
    Scenario,
)
from ledger.clock import DatabaseClock
from ledger.errors import (
    AccountIsClosed,
    IdempotencyKeyIsTaken,
    NoSuchAccount,
    VersionIsOutdated,
)
from ledger.ids import AccountId, lane_of_account, new_row_id, request_hash

PAGE_MAX = 100
CHATS_MAX = 1_000
"""Characters per account whose latest chat is remembered."""
VIAS = ("web", "api")

_LAST_ID = UUID(int=2**128 - 1)


class CharacterEdit(msgspec.Struct, frozen=True, kw_only=True):
    """What to change about a character; whatever is left out stays."""

    name: str | UnsetType = UNSET
    slug: str | UnsetType = UNSET
    """Empty: unchanged."""
    description: str | UnsetType = UNSET
    greeting: str | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    multiplier: str | UnsetType = UNSET
    scenarios: tuple[Scenario, ...] | UnsetType = UNSET


class Created(NamedTuple):
    """A character, and whether it was created before under the same idempotency key."""

    character: Character
    replayed: bool


class IdempotencyKey(NamedTuple):
    """An idempotency key and the fingerprint of the request that came with it."""

    key: str
    fingerprint: bytes


class CharacterPage(NamedTuple):
    """Some characters, newest first."""

    lines: list[CharacterLine]
    has_more: bool


class LastChat(msgspec.Struct, frozen=True, kw_only=True):
    """An account's latest chat with a character."""

    character: Character
    scenario: Scenario | None
    via: str
    """``web`` or ``api``."""
    last_at: datetime


class Characters:
    """Reads and writes characters."""

    def __init__(self, pool: AsyncConnectionPool, lanes: int, clock: DatabaseClock) -> None:
        """Take where they are kept, and the clock."""
        self._pool = pool
        self._clock = clock
        self._lanes = lanes

    async def create(
        self, account_id: AccountId, draft: CharacterDraft, *, once: IdempotencyKey | None = None
    ) -> Created:
        """Make a character, a draft at first; with ``once``, repeats return the same one.

        Raises:
            InvalidField: A text is out of bounds.
            SlugIsTaken: The account has another character with the requested slug.
            TooManyCharacters: The account has as many as it may.
            NoSuchAccount, AccountIsClosed: Nobody can own it.
            IdempotencyKeyIsTaken: The key came with another request.
        """
        draft = characters.checked(draft)
        hashed = None if once is None else request_hash(account_id, once.key)
        async with self._pool.connection() as connection, connection.transaction():
            await self._require_open(connection, account_id)
            # Counted first: whoever waits here sees what its predecessor made.
            counted = await self._has_room(connection, account_id)
            if once is not None and hashed is not None:
                parameters = {"account": account_id, "request_hash": hashed}
                found = await connection.execute(rows.FIND_CREATED, parameters)
                row = await found.fetchone()
                if row is not None:
                    if row[1] != once.fingerprint:
                        raise IdempotencyKeyIsTaken
                    if counted:
                        await connection.execute(rows.TAKE_FROM_SHELF, {"account": account_id})
                    return Created(await rows.find(connection, character=row[0]), replayed=True)
            if not counted:
                raise characters.TooManyCharacters
            character_id = new_row_id()
            parameters = {
                **_columns(draft),
                "character": character_id,
                "account": account_id,
                "lane": lane_of_account(account_id, self._lanes),
                "machine": new_row_id(),
                "at": self._clock.now(),
                "slug": draft.slug or await rows.free_slug(connection, account_id, draft.name),
                "request_hash": hashed,
                "request_fingerprint": None if once is None else once.fingerprint,
            }
            await rows.write(connection, rows.INSERT, parameters)
            await rows.write_scenarios(connection, character_id, draft.scenarios)
            return Created(await rows.find(connection, character=character_id), replayed=False)

    @staticmethod
    async def _has_room(connection: AsyncConnection, account_id: AccountId) -> bool:
        parameters = {"account": account_id, "most": characters.CHARACTERS_MAX}
        # The shelf is locked from here on, whether or not there is room on it.
        return (
            await (await connection.execute(rows.ADD_TO_SHELF, parameters)).fetchone() is not None
        )

    async def _require_open(self, connection: AsyncConnection, account_id: AccountId) -> None:
        lane = lane_of_account(account_id, self._lanes)
        parameters = {"lane": lane, "account": account_id}
        row = await (await connection.execute(rows.ACCOUNT_STATUS, parameters)).fetchone()
        if row is None:
            raise NoSuchAccount
        if row[0] == "closed":
            raise AccountIsClosed

    async def character(self, character_id: UUID) -> Character:
        """Return a character, whoever owns it.

        Raises:
            NoSuchCharacter: There is none.
        """
        async with self._pool.connection() as connection:
            return await rows.find(connection, character=character_id)

    async def visible(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Return a character of the account, or a public one; of None, any.

        Raises:
            NoSuchCharacter: There is none, or it is another's and not public (promise 15).
        """
        found = await self.character(character_id)
        if account_id not in {None, found.account_id} and not found.public:
            raise NoSuchCharacter
        return found

    async def persona(self, account_id: AccountId, character_id: UUID) -> Character:
        """Return a published character of the account; errors say why there is none (foil, FO4).

        Raises:
            NoSuchCharacter: It never existed.
            CharacterIsDenied: It is another's, or not published.
        """
        found = await self.character(character_id)
        if found.account_id != account_id or not found.public:
            raise characters.CharacterIsDenied
        return found

    async def by_slug(self, account_id: AccountId | None, slug: str) -> Character:
        """Return the account's own character with this slug, or else the public one.

        Raises:
            NoSuchCharacter: There is neither.
        """
        if characters.slug_of(slug) != slug:
            raise NoSuchCharacter
        async with self._pool.connection() as connection:
            return await rows.find(connection, slug=slug, account=account_id)

    async def of_model(
        self, account_id: AccountId, model: str
    ) -> tuple[Character, Scenario | None]:
        """Return the character and scenario that a ``model`` names: ``slug`` or ``slug/scenario``.

        Raises:
            NoSuchCharacter: The account may talk to no such character.
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
    ) -> CharacterPage:
        """List the account's characters in some statuses and, if asked, everybody's public ones.

        Newest first; ``after`` is the last id of the previous page. Without an account: public ones
        only.
        """
        most = min(most, PAGE_MAX)
        parameters = {
            "account": account_id,
            "statuses": list(statuses),
            "public": public,
            "before": after or _LAST_ID,
            "most": most + 1,
        }
        async with self._pool.connection() as connection:
            found = await (await connection.execute(rows.PAGE, parameters)).fetchall()
        return CharacterPage([rows.line(row) for row in found[:most]], len(found) > most)

    async def change(
        self,
        account_id: AccountId | None,
        character_id: UUID,
        changes: CharacterEdit,
        *,
        expected_version: int | None = None,
    ) -> Character:
        """Change what an author wrote about a character; with no account, any account's.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            InvalidField, SlugIsTaken: The changes are not possible.
            VersionIsOutdated: It changed since it was read.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await rows.hold(connection, account_id, character_id)
            if expected_version not in {None, held.version}:
                raise VersionIsOutdated
            draft = characters.checked(_changed(held.draft, changes))
            slug, at = draft.slug or held.slug, self._clock.now()
            if held.status == PUBLISHED and slug != held.slug:
                await connection.execute(rows.FREE_SLUG, {"slug": slug, "at": at})
            parameters = {**_columns(draft), "character": character_id, "slug": slug, "at": at}
            await rows.write(connection, rows.CHANGE, parameters)
            if not isinstance(changes.scenarios, UnsetType):
                await connection.execute(rows.DELETE_SCENARIOS, {"character": character_id})
                await rows.write_scenarios(connection, character_id, draft.scenarios)
            return await rows.find(connection, character=character_id)

    async def publish(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Publish a character for everybody; do nothing if it is published.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            SlugIsTaken: Another public character has its slug.
            AccountIsClosed: Its owner's account is closed.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await rows.hold(connection, account_id, character_id)
            await self._require_open(connection, held.account_id)
            if held.status == PUBLISHED:
                return held
            at = self._clock.now()
            await connection.execute(rows.FREE_SLUG, {"slug": held.slug, "at": at})
            parameters = {"character": character_id, "status": PUBLISHED, "at": at}
            await rows.write(connection, rows.SET_STATUS, parameters)
            return await rows.find(connection, character=character_id)

    async def withdraw(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Withdraw a character; do nothing if it is withdrawn.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            CharacterIsNotPublished: It is a draft.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await rows.hold(connection, account_id, character_id)
            if held.status == DRAFT:
                raise characters.CharacterIsNotPublished
            if held.status == WITHDRAWN:
                return held
            parameters = {"character": character_id, "status": WITHDRAWN, "at": self._clock.now()}
            await rows.write(connection, rows.SET_STATUS, parameters)
            return await rows.find(connection, character=character_id)

    async def delete(self, account_id: AccountId | None, character_id: UUID) -> Character:
        """Delete a draft; return what it was.

        Raises:
            NoSuchCharacter: There is none, or it is another's.
            CharacterIsNoDraft: It was published.
        """
        async with self._pool.connection() as connection, connection.transaction():
            held = await rows.hold(connection, account_id, character_id)
            if held.status != DRAFT:
                raise characters.CharacterIsNoDraft
            await connection.execute(rows.DELETE, {"character": character_id})
            await connection.execute(rows.TAKE_FROM_SHELF, {"account": held.account_id})
            return held

    async def note_chat(
        self, account_id: AccountId, character_id: UUID, *, via: str, scenario: str = ""
    ) -> None:
        """Note that the account is chatting with a character now.

        Raises:
            NoSuchCharacter: It may talk to no such character, or the character has no such
                scenario.
        """
        assert via in VIAS
        found = await self.visible(account_id, character_id)
        if scenario and found.scenario(scenario) is None:
            raise NoSuchCharacter
        parameters = {
            "account": account_id,
            "character": character_id,
            "at": self._clock.now(),
            "scenario": scenario,
            "via": via,
        }
        async with self._pool.connection() as connection:
            try:
                row = await (await connection.execute(rows.NOTE_CHAT, parameters)).fetchone()
            except ForeignKeyViolation as error:  # deleted meanwhile
                raise NoSuchCharacter from error
            if row is not None and row[0]:
                trimmed = {"account": account_id, "most": CHATS_MAX}
                await connection.execute(rows.TRIM_CHATS, trimmed)

    async def most_recent(self, account_id: AccountId) -> LastChat | None:
        """Return the account's latest chat with a character it may still talk to; None: no chat."""
        async with self._pool.connection() as connection:
            chats = await connection.execute(rows.RECENT_CHAT, {"account": account_id})
            row = await chats.fetchone()
            if row is None:
                return None
            found = await rows.find(connection, character=row[0])
        return LastChat(
            character=found, scenario=found.scenario(row[1]), via=row[2], last_at=row[3]
        )


def _columns(draft: CharacterDraft) -> dict[str, Any]:
    names = ("name", "description", "greeting", "system_prompt", "multiplier")
    return {name: getattr(draft, name) for name in names}


def _changed(draft: CharacterDraft, changes: CharacterEdit) -> CharacterDraft:
    named = msgspec.structs.asdict(changes)
    given = {name: value for name, value in named.items() if value is not UNSET}
    return msgspec.structs.replace(draft, **given)
