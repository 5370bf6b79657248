"""Characters: make, show, list, change, publish, withdraw, delete; and which chat was the last.

What is said in a conversation has no route here: it is the dialects'.
"""

from typing import Any
from uuid import UUID

from msgspec import UNSET, UnsetType

from api.beside.characters import (
    DRAFT,
    MULTIPLIERS,
    PUBLISHED,
    STATUSES,
    Character,
    Draft,
    NoSuchCharacter,
    Scenario,
)
from api.beside.shelf import Changes, Once
from api.http.exchange import Answer, answer
from api.http.failure import Failure, Kind, forbidden
from api.http.reading import one_of
from api.native import bodies, views
from api.native.routing import Ask, found_answer, route
from ledger.errors import InvalidField
from ledger.ids import AccountId

SCOPES = ("own", "usable")
"""All characters of the account; or those it may talk to, everybody's public ones included."""


def character_id_of(text: str) -> UUID:
    """Read the id of a character.

    Raises:
        NoSuchCharacter: It is none.
    """
    try:
        found = UUID(text)
    except ValueError as error:
        raise NoSuchCharacter from error
    if str(found) != text.lower():
        raise NoSuchCharacter
    return found


def _id(ask: Ask[Any]) -> UUID:
    return character_id_of(ask.call.path("character_id"))


def _account(ask: Ask[Any], text: str) -> AccountId:
    """Give the account that is named, or the member's own."""
    if text or ask.caller.account_id is None:
        if not text:
            raise InvalidField("account_id", "is required of the operator")
        return ask.allowed_account(text)
    return ask.caller.account_id


def _require_may_price(ask: Ask[Any], multiplier: str | UnsetType) -> None:
    """Refuse a member that sets a price."""
    if multiplier is not UNSET and ask.caller.account_id is not None:
        raise forbidden("set_multiplier", ask.caller.role)


def _scenarios(given: tuple[bodies.ScenarioBody, ...]) -> tuple[Scenario, ...]:
    return tuple(
        Scenario(
            name=each.name,
            slug=each.slug,
            description=each.description,
            greeting=each.greeting,
            system_prompt=each.system_prompt,
        )
        for each in given
    )


def _shown(ask: Ask[Any], found: Character, *, status: int = 200) -> Answer:
    own = ask.caller.account_id in {None, found.account_id}
    headers = {"ETag": f'"{found.version}"'} if own else {}
    return answer(views.character_view(found, own=own), status=status, headers=headers)


@route(
    "POST",
    "/characters",
    body=bodies.CharacterBody,
    answer=views.CharacterView,
    status=201,
    example={
        "name": "Luna",
        "greeting": "Welcome to the harbour, {player}.",
        "system_prompt": "You are Luna, who keeps the lighthouse.",
        "scenarios": [{"name": "Storm", "system_prompt": "A storm is coming."}],
    },
    refusals=(404, 409, 422),
)
async def create_character(ask: Ask[bodies.CharacterBody]) -> Answer:
    """Make a character: a draft until it is published."""
    body = ask.body
    _require_may_price(ask, body.multiplier)
    account_id = _account(ask, body.account_id)
    draft = Draft(
        name=body.name,
        slug=body.slug,
        description=body.description,
        greeting=body.greeting,
        system_prompt=body.system_prompt,
        multiplier=MULTIPLIERS[0] if isinstance(body.multiplier, UnsetType) else body.multiplier,
        scenarios=_scenarios(body.scenarios),
    )
    key, fingerprint = ask.once()
    once = Once(key, fingerprint) if key else None
    created = await ask.services.characters.create(account_id, draft, once=once)
    found = _shown(ask, created.character, status=201)
    if created.replayed:
        found.headers.append((b"idempotent-replayed", b"true"))
    return found


@route(
    "GET",
    "/characters",
    answer=views.Page,
    query=("account_id", "scope", "limit", "after"),
)
async def list_characters(ask: Ask[None]) -> Answer:
    """List an account's characters, or all that it may talk to, newest first."""
    query = ask.call.require_only("account_id", "scope", "limit", "after")
    usable = one_of("scope", query.get("scope", SCOPES[0]), SCOPES) == SCOPES[1]
    account_id = _account(ask, query.get("account_id", ""))
    page = await ask.services.characters.page(
        account_id,
        statuses=(DRAFT, PUBLISHED) if usable else STATUSES,
        public=usable,
        after=_cursor(query.get("after")),
        most=ask.page_size(),
    )
    operator = ask.caller.account_id is None
    data = [
        views.character_line_view(line, own=operator or line.account_id == account_id)
        for line in page.lines
    ]
    last = str(page.lines[-1].character_id) if page.has_more else None
    return found_answer(views.Page(data=data, has_more=page.has_more, next=last))


def _cursor(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return character_id_of(text)
    except NoSuchCharacter as error:
        raise InvalidField("after", "is no cursor of this list") from error


@route("GET", "/characters/{character_id}", answer=views.CharacterView)
async def get_character(ask: Ask[None]) -> Answer:
    """Show a character of the account's own, or a public one."""
    found = await ask.services.characters.visible(ask.caller.account_id, _id(ask))
    return _shown(ask, found)


@route("GET", "/characters/by-slug/{slug}", answer=views.CharacterView, query=("account_id",))
async def find_character(ask: Ask[None]) -> Answer:
    """Show the account's own character of a slug, or else the public one."""
    query = ask.call.require_only("account_id")
    account_id = _account(ask, query.get("account_id", ""))
    found = await ask.services.characters.by_slug(account_id, ask.call.path("slug"))
    return _shown(ask, found)


@route(
    "PATCH",
    "/characters/{character_id}",
    body=bodies.CharacterChanges,
    answer=views.CharacterView,
    example={"description": "She has kept it for forty years."},
    refusals=(404, 409, 412),
)
async def change_character(ask: Ask[bodies.CharacterChanges]) -> Answer:
    """Change a character; ``If-Match`` with its version guards against a lost update."""
    body = ask.body
    _require_may_price(ask, body.multiplier)
    scenarios = body.scenarios
    changes = Changes(
        name=body.name,
        slug=body.slug,
        description=body.description,
        greeting=body.greeting,
        system_prompt=body.system_prompt,
        multiplier=body.multiplier,
        scenarios=scenarios if isinstance(scenarios, UnsetType) else _scenarios(scenarios),
    )
    found = await ask.services.characters.change(
        ask.caller.account_id, _id(ask), changes, expected_version=ask.call.expected_version
    )
    return _shown(ask, found)


@route(
    "POST",
    "/characters/{character_id}/publish",
    body=bodies.Body,
    optional_body=True,
    answer=views.CharacterView,
    refusals=(404, 409),
)
async def publish_character(ask: Ask[bodies.Body]) -> Answer:
    """Let every account have a character."""
    found = await ask.services.characters.publish(ask.caller.account_id, _id(ask))
    return _shown(ask, found)


@route(
    "POST",
    "/characters/{character_id}/withdraw",
    body=bodies.Body,
    optional_body=True,
    answer=views.CharacterView,
    refusals=(404, 409),
)
async def withdraw_character(ask: Ask[bodies.Body]) -> Answer:
    """Take a published character back."""
    found = await ask.services.characters.withdraw(ask.caller.account_id, _id(ask))
    return _shown(ask, found)


@route("DELETE", "/characters/{character_id}", answer=views.CharacterView, refusals=(404, 409))
async def delete_character(ask: Ask[None]) -> Answer:
    """Delete a draft."""
    found = await ask.services.characters.delete(ask.caller.account_id, _id(ask))
    return _shown(ask, found)


@route(
    "POST",
    "/characters/{character_id}/chats",
    body=bodies.ChatBody,
    optional_body=True,
    answer=views.ChatView,
    example={"scenario": "storm"},
    refusals=(404,),
)
async def note_chat(ask: Ask[bodies.ChatBody]) -> Answer:
    """Note that a chat with a character takes place on the web: reverie's keys go on with it."""
    account_id = _account(ask, ask.body.account_id)
    await ask.services.characters.note_chat(
        account_id, _id(ask), via="web", scenario=ask.body.scenario
    )
    return await _recent(ask, account_id)


@route("GET", "/characters/recent-chat", answer=views.ChatView, query=("account_id",))
async def get_recent_chat(ask: Ask[None]) -> Answer:
    """Show the account's latest chat with a character that it may still talk to."""
    query = ask.call.require_only("account_id")
    return await _recent(ask, _account(ask, query.get("account_id", "")))


async def _recent(ask: Ask[Any], account_id: AccountId) -> Answer:
    found = await ask.services.characters.most_recent(account_id)
    if found is None:
        detail = "No chat yet with a character that is still there."
        raise Failure(Kind.NOT_FOUND, detail, code="no_chat")
    return answer(views.chat_view(found))
