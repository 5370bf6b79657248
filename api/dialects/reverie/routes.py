"""reverie's routes: characters as models, chats with them, and the importer's.

Its base is ``/api/device/v1``; what the page calls ``/v1`` is served with its keys as well.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote

from api.beside.characters import DRAFT, PUBLISHED, Character
from api.beside.shelf import Once
from api.dialects.forwarding import document_of
from api.dialects.reverie import bodies, credentials, talk, views
from api.dialects.reverie.choice import chosen, default_of, model_id, named
from api.dialects.reverie.credentials import Visitor
from api.dialects.reverie.errors import no_model
from api.http.exchange import Answer, answer
from api.http.routing import Ask, Reply, Routes
from api.identity.credentials import KeyCaller
from api.operations import fingerprint
from api.queries import each

BASES = ("/api/device/v1", "/v1")
LISTED_MAX = 1_000
"""Characters of others that one list has; an account's own are no more than that either."""

routes = Routes()

Handler = Callable[[Any], Awaitable[Reply]]


def _both(method: str, path: str, **terms: Any) -> Callable[[Handler], Handler]:  # noqa: ANN401
    """Serve a path under either base."""

    def register(handler: Handler) -> Handler:
        for base in BASES:
            # A login's token shown under the shared path is ryvion's.
            schemes = ("key",) if base + "/" == credentials.SHARED else None
            routes(method, base + path, schemes=schemes, **terms)(handler)
        return handler

    return register


@_both(
    "GET",
    "/models",
    who=credentials.visitor,
    answer=views.ModelList,
    refusals=(404,),
    permission="list_characters",
)
async def list_models(ask: Ask[None, Visitor]) -> Answer:
    """List the default character's scenarios, or else all characters that one may talk to."""
    ask.query()
    default = await default_of(ask.services, ask.caller)
    found = await _everybody(ask) if default is None else _variants(default.character)
    return answer(views.models([each for each in found if ask.caller.may_use(each.id)]))


def _variants(character: Character) -> Iterable[views.Model]:
    """Give a character's scenarios; one without any is its own only variant."""
    slugs = [scenario.slug for scenario in character.scenarios] or [""]
    for slug in slugs:
        yield views.model(model_id(character.slug, slug), character.created_at)


async def _everybody(ask: Ask[None, Visitor]) -> Iterable[views.Model]:
    """Give the account's own characters and then those of others, newest first.

    Of a slug that both have the account's own is meant.
    """
    own = await _listed(ask, own=True)
    return (own | await _listed(ask, own=False) | own).values()


async def _listed(ask: Ask[None, Visitor], *, own: bool) -> dict[str, views.Model]:
    found: dict[str, views.Model] = {}
    account_id = ask.caller.account_id if own else None
    page = functools.partial(
        ask.services.characters.page,
        account_id,
        statuses=(DRAFT, PUBLISHED),
        public=not own,
    )
    async for line in each(lambda after: page(after=after), lambda line: line.character_id):
        if len(found) == LISTED_MAX:
            break
        found[line.slug] = views.model(line.slug, line.created_at)
    return found


@_both(
    "GET",
    "/models/{id*}",
    who=credentials.visitor,
    answer=views.Model,
    refusals=(404,),
    permission="get_character",
)
async def get_model(ask: Ask[None, Visitor]) -> Answer:
    """Show a character, or one of its scenarios, as a model."""
    ask.query()
    model = unquote(ask.path("id"), errors="surrogateescape")
    choice = await named(ask.services, ask.caller.account_id, model)
    if not ask.caller.may_use(model):
        raise no_model(model)
    return answer(views.model(choice.model, choice.character.created_at))


@_both(
    "POST",
    "/chat/completions",
    who=credentials.caller,
    body=bodies.Chat,
    raw=True,
    large=True,
    answer=dict[str, Any],
    refusals=(402, 404, 502, 504),
    other_types=("text/event-stream",),
    example={"model": "luna/storm", "messages": [{"role": "user", "content": "Hello"}]},
    permission="note_chat",
)
async def create_chat_completion(ask: Ask[None, KeyCaller]) -> Reply:
    """Complete a chat with a character, streamed or not."""
    ask.query()
    document = await document_of(ask)
    bodies.require_known(document)
    return await talk.completed(ask, await chosen(ask, document), document)


@routes(
    "POST",
    "/api/v1/characters/import",
    who=credentials.visitor,
    body=bodies.Import,
    answer=views.Imported,
    status=201,
    refusals=(409,),
    example={
        "name": "Luna",
        "greeting": "Welcome to the harbour, {player}.",
        "system_prompt": "You are Luna, who keeps the lighthouse.",
        "scenarios": [{"name": "Storm", "system_prompt": "A storm is coming."}],
    },
    permission="create_character",
)
async def import_character(ask: Ask[bodies.Import, Visitor]) -> Answer:
    """Make a character of the account's own, once for an ``Idempotency-Key``."""
    ask.query()
    key = ask.call.idempotency_key
    once = Once(key, fingerprint(ask.route.operation, body=ask.body)) if key else None
    made = await ask.services.characters.create(ask.caller.account_id, ask.body.draft, once=once)
    headers = {"Idempotent-Replayed": "true"} if made.replayed else {}
    return answer(views.imported(made.character), status=201, headers=headers)
