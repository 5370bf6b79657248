"""venice's routes about public characters, and one's own."""

import functools
import hashlib
from typing import Any, Literal

import msgspec

from api.beside.characters import PUBLISHED, Character, CharacterLine, NoSuchCharacter
from api.dialects.venice import credentials
from api.dialects.venice.errors import CHARACTER_NOT_FOUND
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import get
from api.identity.credentials import KeyCaller
from api.queries import each
from api.services import Ask
from ledger.clock import format_milliseconds

LIMIT_DEFAULT, LIMIT_MAX = 50, 100
OFFSET_MAX = 10_000
"""Characters that a list reads through at most."""
SEARCH_MAX = 200
AUTHOR_LENGTH = 8
FLAGS = ("isAdult", "isPro", "isWebEnabled")
NAMES = ("tags", "categories", "modelId")
"""Filters for what no character here has."""
SORTS = (
    *("featured", "highestRating", "highlyRated", "highlyRatedAndRecent", "imports"),
    *("mostRecent", "ratingCount"),
)


class Stats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a character is liked: nobody rates them here."""

    average_rating: int = 0
    imports: int = 0
    rating_count: int = 0
    rating_sum: int = 0
    user_rating: int | None = None


class PublicCharacter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A character as others see it."""

    id: str
    slug: str
    name: str
    description: str | None
    author: str
    """Short and anonymous; the same for all characters of one author."""
    created_at: str
    updated_at: str
    model_id: str
    adult: bool = False
    featured: bool = False
    share_url: str | None = None
    photo_url: str | None = None
    stats: Stats = Stats()
    tags: tuple[str, ...] = ()
    web_enabled: bool = True


class CharacterList(msgspec.Struct, frozen=True, kw_only=True):
    """Characters, newest first."""

    object: Literal["list"] = "list"
    data: list[PublicCharacter]


class CharacterReply(msgspec.Struct, frozen=True, kw_only=True):
    """A character."""

    object: Literal["character"] = "character"
    data: PublicCharacter


@get(
    "/api/v1/characters",
    guards=[credentials.usable_key_or_session],
    permission="list_characters",
    query=("limit", "offset", "search", "sortBy", "sortOrder", *FLAGS, *NAMES),
)
async def list_characters(request: Ask[KeyCaller]) -> CharacterList:
    """List public characters, newest first."""
    query = request.parameters()
    limit = request.whole("limit", query.get("limit", str(LIMIT_DEFAULT)), 1, LIMIT_MAX)
    offset = request.whole("offset", query.get("offset", "0"), 0, OFFSET_MAX)
    found = [line for line in await _public(request) if _fits(line, query)]
    if _checked(query, "sortOrder", ("asc", "desc")) == "asc":
        found.reverse()
    _checked(query, "sortBy", SORTS)
    data = [_view(request, line) for line in found[offset : offset + limit]]
    return CharacterList(data=data)


async def _public(ask: Ask[KeyCaller]) -> list[CharacterLine]:
    found: list[CharacterLine] = []
    page = functools.partial(ask.services.characters.page, None, statuses=(PUBLISHED,), public=True)
    async for line in each(lambda after: page(after=after), lambda line: line.character_id):
        if len(found) == OFFSET_MAX:
            break
        found.append(line)
    return found


def _fits(line: CharacterLine, query: dict[str, str]) -> bool:
    search = query.get("search", "").lower()
    if len(search) > SEARCH_MAX:
        raise invalid("search", f"at most {SEARCH_MAX} characters")
    if search not in f"{line.name}\n{line.description}".lower():
        return False
    for name in FLAGS:
        wanted = _checked(query, name, ("true", "false"))
        if wanted and (wanted == "true") != (name == "isWebEnabled"):
            return False
    # Nothing here has tags or categories, or is bound to a model.
    return not any(query.get(name) for name in NAMES)


def _checked(query: dict[str, str], name: str, values: tuple[str, ...]) -> str:
    found = query.get(name, "")
    if found and found not in values:
        raise invalid(name, "must be one of " + ", ".join(values))
    return found


@get(
    "/api/v1/characters/{slug:str}",
    guards=[credentials.usable_key_or_session],
    permission="get_character",
    refusals=(404,),
)
async def get_character(request: Ask[KeyCaller]) -> CharacterReply:
    """Show the character of a slug: one's own, else the public one."""
    request.parameters()
    try:
        found = await request.services.characters.by_slug(
            request.caller.account_id, request.path("slug")
        )
    except NoSuchCharacter as error:
        raise Failure(Kind.NOT_FOUND, CHARACTER_NOT_FOUND, error=error) from error
    return CharacterReply(data=_view(request, found))


def _view(ask: Ask[Any], found: CharacterLine | Character) -> PublicCharacter:
    author = hashlib.sha256(b"venice/author/" + found.account_id.bytes).hexdigest()
    return PublicCharacter(
        id=str(found.character_id),
        slug=found.slug,
        name=found.name,
        description=found.description or None,
        author=author[:AUTHOR_LENGTH],
        created_at=format_milliseconds(found.created_at),
        updated_at=format_milliseconds(found.updated_at),
        model_id=ask.services.gateway.default_model,
    )


HANDLERS = (
    list_characters,
    get_character,
)
