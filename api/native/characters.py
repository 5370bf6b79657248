"""Characters: make, show, list, change, publish, withdraw, delete; and the latest chat.

The routes for conversations themselves are the dialects'.
"""

from uuid import UUID

from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from api.beside.characters import (
    DRAFT,
    MULTIPLIERS,
    PUBLISHED,
    STATUSES,
    Character,
    CharacterDraft,
    NoSuchCharacter,
    Scenario,
)
from api.beside.shelf import CharacterEdit, IdempotencyKey
from api.http.failure import Failure, Kind, forbidden
from api.http.handlers import Rendered, delete, get, patch, post
from api.http.reading import one_of
from api.native import bodies, views
from api.native.asking import Ask, caller, found_answer
from ledger.errors import InvalidField
from ledger.ids import AccountId

SCOPES = ("own", "usable")
"""All characters of the account; or those it may talk to, including everybody's public ones."""


def character_id_of(text: str) -> UUID:
    """Read a character's id.

    Raises:
        NoSuchCharacter: It is not one.
    """
    try:
        found = UUID(text)
    except ValueError as error:
        raise NoSuchCharacter from error
    if str(found) != text.lower():
        raise NoSuchCharacter
    return found


def _id(ask: Ask) -> UUID:
    return character_id_of(ask.path("character_id"))


def _account(ask: Ask, text: str) -> AccountId:
    """Return the account that the request names, or the member's own."""
    if text or ask.caller.account_id is None:
        if not text:
            raise InvalidField("account_id", "is required when the operator asks")
        return ask.allowed_account(text)
    return ask.caller.account_id


def _require_may_price(ask: Ask, multiplier: str | UnsetType) -> None:
    """Refuse a member who sets a price."""
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


def _shown(ask: Ask, found: Character, *, status: int = 200) -> Rendered[views.CharacterView]:
    own = ask.caller.account_id in {None, found.account_id}
    headers = {"ETag": f'"{found.version}"'} if own else {}
    return Rendered(views.character_view(found, own=own), status_code=status, headers=headers)


@post(
    "/ledger/v1/characters",
    guards=[caller],
    status=201,
    example={
        "name": "Luna",
        "greeting": "Welcome to the harbour, {player}.",
        "system_prompt": "You are Luna, who keeps the lighthouse.",
        "scenarios": [{"name": "Storm", "system_prompt": "A storm is coming."}],
    },
    refusals=(404, 409, 422),
)
async def create_character(
    request: Ask, data: JSONBody[bodies.CharacterBody]
) -> Rendered[views.CharacterView]:
    """Make a character: a draft until it is published."""
    body = data
    _require_may_price(request, body.multiplier)
    account_id = _account(request, body.account_id)
    draft = CharacterDraft(
        name=body.name,
        slug=body.slug,
        description=body.description,
        greeting=body.greeting,
        system_prompt=body.system_prompt,
        multiplier=MULTIPLIERS[0] if isinstance(body.multiplier, UnsetType) else body.multiplier,
        scenarios=_scenarios(body.scenarios),
    )
    key, fingerprint = request.once(body=data)
    once = IdempotencyKey(key, fingerprint) if key else None
    created = await request.services.characters.create(account_id, draft, once=once)
    found = _shown(request, created.character, status=201)
    if created.replayed:
        found.headers["Idempotent-Replayed"] = "true"
    return found


@get(
    "/ledger/v1/characters",
    guards=[caller],
    query=("account_id", "scope", "limit", "after"),
    refusals=(404,),
)
async def list_characters(request: Ask) -> Rendered[views.Page]:
    """List an account's characters, or all that it may talk to, newest first."""
    query = request.parameters()
    usable = one_of("scope", query.get("scope", SCOPES[0]), SCOPES) == SCOPES[1]
    account_id = _account(request, query.get("account_id", ""))
    page = await request.services.characters.page(
        account_id,
        statuses=(DRAFT, PUBLISHED) if usable else STATUSES,
        public=usable,
        after=_cursor(query.get("after")),
        most=request.page_size(),
    )
    operator = request.caller.account_id is None
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
        raise InvalidField("after", "is not a cursor of this list") from error


@get(
    "/ledger/v1/characters/{character_id:str}",
    guards=[caller],
    refusals=(404,),
)
async def get_character(request: Ask) -> Rendered[views.CharacterView]:
    """Show a character of the account's own, or a public one."""
    found = await request.services.characters.visible(request.caller.account_id, _id(request))
    return _shown(request, found)


@get(
    "/ledger/v1/characters/by-slug/{slug:str}",
    guards=[caller],
    query=("account_id",),
    refusals=(404,),
)
async def find_character(request: Ask) -> Rendered[views.CharacterView]:
    """Show the account's own character with this slug, or else the public one."""
    query = request.parameters()
    account_id = _account(request, query.get("account_id", ""))
    found = await request.services.characters.by_slug(account_id, request.path("slug"))
    return _shown(request, found)


@patch(
    "/ledger/v1/characters/{character_id:str}",
    guards=[caller],
    example={"description": "She has kept it for forty years."},
    refusals=(404, 409, 412),
)
async def change_character(
    request: Ask, data: JSONBody[bodies.CharacterChanges]
) -> Rendered[views.CharacterView]:
    """Change a character; ``If-Match`` with its version guards against a lost update."""
    body = data
    _require_may_price(request, body.multiplier)
    scenarios = body.scenarios
    changes = CharacterEdit(
        name=body.name,
        slug=body.slug,
        description=body.description,
        greeting=body.greeting,
        system_prompt=body.system_prompt,
        multiplier=body.multiplier,
        scenarios=scenarios if isinstance(scenarios, UnsetType) else _scenarios(scenarios),
    )
    found = await request.services.characters.change(
        request.caller.account_id, _id(request), changes, expected_version=request.expected_version
    )
    return _shown(request, found)


@post(
    "/ledger/v1/characters/{character_id:str}/publish",
    guards=[caller],
    refusals=(404, 409),
)
async def publish_character(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.CharacterView]:
    """Publish a character: every account may talk to it."""
    data = data or bodies.Body()
    found = await request.services.characters.publish(request.caller.account_id, _id(request))
    return _shown(request, found)


@post(
    "/ledger/v1/characters/{character_id:str}/withdraw",
    guards=[caller],
    refusals=(404, 409),
)
async def withdraw_character(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.CharacterView]:
    """Withdraw a published character."""
    data = data or bodies.Body()
    found = await request.services.characters.withdraw(request.caller.account_id, _id(request))
    return _shown(request, found)


@delete(
    "/ledger/v1/characters/{character_id:str}",
    guards=[caller],
    refusals=(404, 409),
)
async def delete_character(request: Ask) -> Rendered[views.CharacterView]:
    """Delete a draft."""
    found = await request.services.characters.delete(request.caller.account_id, _id(request))
    return _shown(request, found)


@post(
    "/ledger/v1/characters/{character_id:str}/chats",
    guards=[caller],
    example={"scenario": "storm"},
    refusals=(404,),
)
async def note_chat(
    request: Ask, data: JSONBody[bodies.ChatBody | None] = None
) -> Rendered[views.ChatView]:
    """Note a chat with a character on the web, so that reverie's keys continue with it."""
    data = data or bodies.ChatBody()
    account_id = _account(request, data.account_id)
    await request.services.characters.note_chat(
        account_id, _id(request), via="web", scenario=data.scenario
    )
    return await _recent(request, account_id)


@get(
    "/ledger/v1/characters/recent-chat",
    guards=[caller],
    query=("account_id",),
    refusals=(404,),
)
async def get_recent_chat(request: Ask) -> Rendered[views.ChatView]:
    """Show the account's latest chat with a character it may still talk to."""
    query = request.parameters()
    return await _recent(request, _account(request, query.get("account_id", "")))


async def _recent(ask: Ask, account_id: AccountId) -> Rendered[views.ChatView]:
    found = await ask.services.characters.most_recent(account_id)
    if found is None:
        detail = "There is no chat yet with a character that still exists."
        raise Failure(Kind.NOT_FOUND, detail, code="no_chat")
    return Rendered(views.chat_view(found))


HANDLERS = (
    create_character,
    list_characters,
    get_character,
    find_character,
    change_character,
    publish_character,
    withdraw_character,
    delete_character,
    note_chat,
    get_recent_chat,
)
