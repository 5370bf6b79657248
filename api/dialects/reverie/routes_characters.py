"""reverie's routes: characters as models, chats with them, and the importer's.

Its base is ``/api/device/v1``; what the page calls ``/v1`` is served with its keys as well.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from litestar.params import JSONBody
from litestar.types import Guard

from api.beside.characters import DRAFT, PUBLISHED, Character
from api.beside.shelf import IdempotencyKey
from api.dialects.forwarding import document_of
from api.dialects.reverie import bodies, credentials, talk, views
from api.dialects.reverie.choice import chosen, default_of, model_id, named
from api.dialects.reverie.credentials import Principal
from api.dialects.reverie.errors import no_model
from api.http.handlers import Handler, Rendered, Reply, get, hot, post
from api.identity.credentials import KeyCaller
from api.operations import fingerprint
from api.queries import each
from api.services import Ask

BASE = "/api/device/v1"
SHARED = "/v1"
IMPORT = "/api/v1/characters/import"
# A login's token that is shown under the shared path is ryvion's.
ACTING = {BASE: credentials.key_or_session, SHARED: credentials.key}
USABLE = {BASE: credentials.usable_key_or_session, SHARED: credentials.usable_key}
LISTED_MAX = 1_000
"""Most characters of others in one list; an account has no more of its own either."""


def _both(
    route: Callable[..., Callable[[Any], Handler]],
    path: str,
    guards: Mapping[str, Guard],
    **terms: Any,  # noqa: ANN401 - as of ``route``
) -> Callable[[Any], Sequence[Handler]]:
    """Serve a path under either base."""

    def register(function: Any) -> Sequence[Handler]:  # noqa: ANN401 - any handler
        return [route(base + path, guards=[guards[base]], **terms)(function) for base in guards]

    return register


@_both(get, "/models", USABLE, refusals=(404,), permission="list_characters")
async def list_models(request: Ask[Principal]) -> views.ModelList:
    """List the default character's scenarios, or else all characters that one may talk to."""
    request.parameters()
    default = await default_of(request.services, request.caller)
    found = await _everybody(request) if default is None else _variants(default.character)
    return views.models([each for each in found if request.caller.may_use(each.id)])


def _variants(character: Character) -> Iterable[views.Model]:
    """Yield a character's scenarios; one without any is its own only variant."""
    slugs = [scenario.slug for scenario in character.scenarios] or [""]
    for slug in slugs:
        yield views.model(model_id(character.slug, slug), character.created_at)


async def _everybody(ask: Ask[Principal]) -> Iterable[views.Model]:
    """Return the account's own characters and then those of others, newest first.

    A slug that both have means the account's own.
    """
    own = await _listed(ask, own=True)
    return (own | await _listed(ask, own=False) | own).values()


async def _listed(ask: Ask[Principal], *, own: bool) -> dict[str, views.Model]:
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


@_both(get, "/models/{id:path}", USABLE, refusals=(404,), permission="get_character")
async def get_model(request: Ask[Principal]) -> views.Model:
    """Show a character, or one of its scenarios, as a model."""
    request.parameters()
    model = request.path("id")
    choice = await named(request.services, request.caller.account_id, model)
    if not request.caller.may_use(model):
        raise no_model(model)
    return views.model(choice.model, choice.character.created_at)


@_both(
    functools.partial(hot, "POST"),
    "/chat/completions",
    ACTING,
    takes=bodies.ChatCompletion,
    large=True,
    refusals=(402, 404, 502, 504),
    other_types=("text/event-stream",),
    example={"model": "luna/storm", "messages": [{"role": "user", "content": "Hello"}]},
    permission="note_chat",
)
async def create_chat_completion(ask: Ask[KeyCaller]) -> Reply:
    """Complete a chat with a character, streamed or not."""
    ask.parameters()
    document = await document_of(ask)
    bodies.require_known(document)
    return await talk.completed(ask, await chosen(ask, document), document)


@post(
    IMPORT,
    guards=[credentials.usable_key_or_session],
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
async def import_character(
    request: Ask[Principal], data: JSONBody[bodies.ImportCharacter]
) -> Rendered[views.ImportedCharacter]:
    """Make a character of the account's own, once for an ``Idempotency-Key``."""
    request.parameters()
    key = request.idempotency_key
    once = IdempotencyKey(key, fingerprint(request.operation, body=data)) if key else None
    made = await request.services.characters.create(
        request.caller.account_id, data.draft, once=once
    )
    headers = {"Idempotent-Replayed": "true"} if made.replayed else {}
    return Rendered(views.imported(made.character), headers=headers)


HANDLERS = (*list_models, *get_model, *create_chat_completion, import_character)
