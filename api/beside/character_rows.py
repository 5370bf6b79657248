"""Rows of characters: their scenarios, how many an account has, its latest chats.

The projection ``accounts`` says whether an account is closed, so that what a closed account
had published is no longer public from that event on.
"""

import secrets as random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    ScalarSelect,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    or_,
    select,
    text,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from api.beside.characters import (
    DRAFT,
    MULTIPLIERS,
    PUBLISHED,
    STATUSES,
    WITHDRAWN,
    Character,
    CharacterLine,
    NoSuchCharacter,
    Scenario,
    ScenarioName,
    SlugIsTaken,
    numbered,
    slug_of,
)
from ledger.ids import AccountId
from ledger.server.tables import INSTANT, compiled, metadata
from projections.inline.accounts import ACCOUNTS

CHARACTERS = Table(
    "characters",
    metadata,
    Column("character_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("machine_id", Uuid, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
    Column("version", Integer, nullable=False),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("greeting", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("multiplier", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("request_hash", LargeBinary, comment="Of the Idempotency-Key it was created under"),
    Column("request_fingerprint", LargeBinary),
    PrimaryKeyConstraint("character_id", name="character_is_unique"),
    UniqueConstraint("account_id", "slug", name="slug_is_the_accounts_once"),
    CheckConstraint(column("multiplier").in_(MULTIPLIERS), name="multiplier_is_listed"),
    CheckConstraint(column("status").in_(STATUSES), name="character_has_a_status"),
    Index(
        "public_slug_means_one_character",
        "slug",
        unique=True,
        postgresql_where=text("status = 'published'"),
    ),
    Index(
        "character_is_created_once",
        "account_id",
        "request_hash",
        unique=True,
        postgresql_where=text("request_hash IS NOT NULL"),
    ),
    Index("characters_by_account", "account_id", "character_id"),
    Index("characters_in_public", "character_id", postgresql_where=text("status = 'published'")),
)
CHARACTER_SCENARIOS = Table(
    "character_scenarios",
    metadata,
    Column(
        "character_id", ForeignKey(CHARACTERS.c.character_id, ondelete="CASCADE"), nullable=False
    ),
    Column("place", SmallInteger, nullable=False),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("greeting", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    PrimaryKeyConstraint("character_id", "slug", name="scenario_is_the_characters_once"),
)
CHARACTER_SHELVES = Table(
    "character_shelves",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column("characters", Integer, nullable=False),
    PrimaryKeyConstraint("account_id", name="account_has_one_shelf"),
    CheckConstraint("characters >= 0", name="shelf_is_not_negative"),
    comment="How many characters an account has; locked by whoever changes one of them",
    postgresql_with={"fillfactor": 50},
)
CHARACTER_CHATS = Table(
    "character_chats",
    metadata,
    Column("account_id", Uuid, nullable=False),
    Column(
        "character_id", ForeignKey(CHARACTERS.c.character_id, ondelete="CASCADE"), nullable=False
    ),
    Column("last_at", INSTANT, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("via", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "character_id", name="account_chats_with_a_character_once"),
    Index("character_chats_by_time", "account_id", "last_at"),
    Index("character_chats_by_character", "character_id"),
)

_its, _scene, _shelf, _chat = (
    CHARACTERS.c,
    CHARACTER_SCENARIOS.c,
    CHARACTER_SHELVES.c,
    CHARACTER_CHATS.c,
)
_character, _account = bindparam("character", type_=Uuid), bindparam("account", type_=Uuid)
_at, _most = bindparam("at", type_=INSTANT), bindparam("most", type_=Integer)
_slug = bindparam("slug", type_=Text)
_is_it = _its.character_id == _character
_is_public = and_(_its.status == PUBLISHED, ACCOUNTS.c.status != "closed")


def _owned(characters: FromClause, accounts: FromClause) -> Any:  # noqa: ANN401 - a condition
    return and_(
        accounts.c.lane == characters.c.lane, accounts.c.account_id == characters.c.account_id
    )


# Whoever creates or changes an account's character locks its shelf: so the count is exact, and
# a slug that was found free stays free.
ADD_TO_SHELF = compiled(
    insert(CHARACTER_SHELVES)
    .values(account_id=_account, characters=1)
    .on_conflict_do_update(
        constraint=CHARACTER_SHELVES.primary_key,
        set_={"characters": _shelf.characters + 1},
        where=_shelf.characters < _most,
    )
    .returning(_shelf.characters)
)
"""The shelf is locked from here on; no row comes back if there is no room on it."""
HOLD_SHELF = compiled(
    select(_shelf.characters).where(_shelf.account_id == _account).with_for_update()
)
TAKE_FROM_SHELF = compiled(
    update(CHARACTER_SHELVES)
    .where(_shelf.account_id == _account)
    .values(characters=_shelf.characters - 1)
)

ACCOUNT_STATUS = compiled(
    select(ACCOUNTS.c.status).where(
        ACCOUNTS.c.lane == bindparam("lane"), ACCOUNTS.c.account_id == _account
    )
)
FIND_CREATED = compiled(
    select(_its.character_id, _its.request_fingerprint).where(
        _its.account_id == _account, _its.request_hash == bindparam("request_hash")
    )
)
SLUGS_TAKEN = compiled(
    select(_its.slug).where(
        _its.slug == any_(bindparam("slugs", type_=ARRAY(Text))),
        or_(_its.account_id == _account, _its.status == PUBLISHED),
    )
)
_texts = ("name", "description", "greeting", "system_prompt", "multiplier")
_said = {name: bindparam(name, type_=Text) for name in ("slug", *_texts)}
INSERT = compiled(
    insert(CHARACTERS).values(
        character_id=_character,
        account_id=_account,
        lane=bindparam("lane"),
        machine_id=bindparam("machine"),
        created_at=_at,
        updated_at=_at,
        version=1,
        status=DRAFT,
        request_hash=bindparam("request_hash"),
        request_fingerprint=bindparam("request_fingerprint"),
        **_said,
    )
)
_changing = update(CHARACTERS).values(updated_at=_at, version=_its.version + 1)
CHANGE = compiled(_changing.where(_is_it).values(**_said))
SET_STATUS = compiled(_changing.where(_is_it).values(status=bindparam("status")))
# Otherwise a closed account would keep a slug for ever.
FREE_SLUG = compiled(
    _changing.where(
        _its.slug == _slug,
        _its.status == PUBLISHED,
        _owned(CHARACTERS, ACCOUNTS),
        ACCOUNTS.c.status == "closed",
    ).values(status=WITHDRAWN)
)
DELETE = compiled(delete(CHARACTERS).where(_is_it))
INSERT_SCENARIO = compiled(insert(CHARACTER_SCENARIOS))
DELETE_SCENARIOS = compiled(delete(CHARACTER_SCENARIOS).where(_scene.character_id == _character))
OWNER = compiled(
    select(_its.account_id).where(_is_it, or_(_account.is_(None), _its.account_id == _account))
)


def _scenarios(*names: str) -> ScalarSelect[str]:
    """Select a character's scenarios as JSON text, each with these fields."""
    fields = [each for name in names for each in (name, _scene[name])]
    listed = func.json_agg(aggregate_order_by(func.json_build_object(*fields), _scene.place))
    return (
        select(func.coalesce(cast(listed, Text), "[]"))
        .where(_scene.character_id == _its.character_id)
        .correlate(CHARACTERS)
        .scalar_subquery()
    )


# By slug: the account's own, then somebody's public one, then its own withdrawn one.
_named, _owner = CHARACTERS.alias("named"), ACCOUNTS.alias("owner")
_is_own = _named.c.account_id == _account
_by_slug = (
    select(_named.c.character_id)
    .select_from(_named.outerjoin(_owner, _owned(_named, _owner)))
    .where(
        _named.c.slug == _slug,
        or_(_is_own, and_(_named.c.status == PUBLISHED, _owner.c.status != "closed")),
    )
    .order_by(case((_is_own, case((_named.c.status == WITHDRAWN, 2), else_=0)), else_=1))
    .limit(1)
    .scalar_subquery()
)
FIND = compiled(
    select(
        _its.character_id,
        _its.account_id,
        _its.slug,
        *(_its[name] for name in _texts),
        _its.status,
        func.coalesce(_is_public, False),
        _its.machine_id,
        _its.created_at,
        _its.updated_at,
        _its.version,
        _scenarios(*(name for name in Scenario.__struct_fields__)),
    )
    .select_from(CHARACTERS.outerjoin(ACCOUNTS, _owned(CHARACTERS, ACCOUNTS)))
    .where(_its.character_id == func.coalesce(_character, _by_slug))
)
"""Selects the fields of ``Character``, by id or by slug."""

# Newest first; each side reads no more rows than it returns.
_line = select(_its.character_id).where(_its.character_id < bindparam("before", type_=Uuid))
_newest = _line.order_by(_its.character_id.desc()).limit(_most)
_found = union(
    _newest.where(
        _its.account_id == _account,
        _its.status == any_(bindparam("statuses", type_=ARRAY(Text))),
    ),
    _newest.join(ACCOUNTS, _owned(CHARACTERS, ACCOUNTS)).where(
        bindparam("public", type_=Boolean), _is_public
    ),
).cte("found")
PAGE = compiled(
    select(
        _its.character_id,
        _its.account_id,
        _its.slug,
        _its.name,
        _its.description,
        _its.multiplier,
        _its.status,
        _its.machine_id,
        _its.created_at,
        _its.updated_at,
        _scenarios(*ScenarioName.__struct_fields__),
    )
    .join(_found, _found.c.character_id == _its.character_id)
    .order_by(_its.character_id.desc())
    .limit(_most)
)
"""Selects the fields of ``CharacterLine``."""

# If two come at a time, the later one stays, whichever is written first.
_noting = insert(CHARACTER_CHATS).values(
    account_id=_account,
    character_id=_character,
    last_at=_at,
    scenario=bindparam("scenario"),
    via=bindparam("via"),
)
NOTE_CHAT = compiled(
    _noting.on_conflict_do_update(
        constraint=CHARACTER_CHATS.primary_key,
        set_={name: _noting.excluded[name] for name in ("last_at", "scenario", "via")},
        where=_chat.last_at <= _noting.excluded.last_at,
    ).returning(column("xmax") == text("0"))
)
"""Returns whether it is the first chat with this character."""
_older = CHARACTER_CHATS.alias("older")
TRIM_CHATS = compiled(
    delete(CHARACTER_CHATS).where(
        _chat.account_id == _account,
        _chat.character_id.in_(
            select(_older.c.character_id)
            .where(_older.c.account_id == _account)
            .order_by(_older.c.last_at.desc(), _older.c.character_id)
            .offset(_most)
        ),
    )
)
RECENT_CHAT = compiled(
    select(_chat.character_id, _chat.scenario, _chat.via, _chat.last_at)
    .join(CHARACTERS, _its.character_id == _chat.character_id)
    .join(ACCOUNTS, _owned(CHARACTERS, ACCOUNTS))
    .where(
        _chat.account_id == _account,
        or_(and_(_its.account_id == _account, _its.status != WITHDRAWN), _is_public),
    )
    .order_by(_chat.last_at.desc(), _chat.character_id.desc())
    .limit(1)
)
"""The latest with a character that the account may still talk to."""

_decode_scenarios = msgspec.json.Decoder(tuple[Scenario, ...]).decode
_decode_names = msgspec.json.Decoder(tuple[ScenarioName, ...]).decode


async def find(
    connection: AsyncConnection,
    *,
    character: UUID | None = None,
    slug: str = "",
    account: AccountId | None = None,
) -> Character:
    """Return a character by its id, or by its slug as an account means it.

    Raises:
        NoSuchCharacter: There is none.
    """
    parameters = {"character": character, "slug": slug, "account": account}
    row = await (await connection.execute(FIND, parameters)).fetchone()
    if row is None:
        raise NoSuchCharacter
    fields = dict(zip(Character.__struct_fields__, row, strict=True))
    return Character(**{**fields, "scenarios": _decode_scenarios(row[-1])})


def line(row: Sequence[Any]) -> CharacterLine:
    """Turn a row of ``PAGE`` into a line."""
    fields = dict(zip(CharacterLine.__struct_fields__, row, strict=True))
    return CharacterLine(**{**fields, "scenarios": _decode_names(row[-1])})


async def hold(
    connection: AsyncConnection, account_id: AccountId | None, character_id: UUID
) -> Character:
    """Lock a character of the account until the transaction ends, and return it.

    Raises:
        NoSuchCharacter: There is none, or it is another's.
    """
    parameters = {"character": character_id, "account": account_id}
    row = await (await connection.execute(OWNER, parameters)).fetchone()
    if row is None:
        raise NoSuchCharacter
    await connection.execute(HOLD_SHELF, {"account": row[0]})
    return await find(connection, character=character_id)


async def free_slug(connection: AsyncConnection, account_id: AccountId, name: str) -> str:
    """Make a slug that is free in the account and among public characters; the shelf is locked."""
    wanted = numbered(slug_of(name))
    rows = await connection.execute(SLUGS_TAKEN, {"slugs": wanted, "account": account_id})
    taken = {row[0] for row in await rows.fetchall()}
    last = f"{wanted[0][:50].rstrip('-')}-{random.token_hex(6)}"
    return next((slug for slug in wanted if slug not in taken), last)


async def write(connection: AsyncConnection, statement: bytes, parameters: dict[str, Any]) -> None:
    """Write a character.

    Raises:
        SlugIsTaken: Another one has its slug.
    """
    try:
        await connection.execute(statement, parameters)
    except UniqueViolation as error:
        raise SlugIsTaken from error


async def write_scenarios(
    connection: AsyncConnection, character_id: UUID, scenarios: Sequence[Scenario]
) -> None:
    """Add a character's scenarios, in this order."""
    rows = [
        {"character_id": character_id, "place": place, **msgspec.structs.asdict(each)}
        for place, each in enumerate(scenarios)
    ]
    if rows:
        await connection.cursor().executemany(INSERT_SCENARIO, rows)
