"""foil's SDK routes: personas, sessions, messages; always with a key in ``X-API-Key``."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from api.beside.characters import PUBLISHED, Character
from api.beside.conversations import Session
from api.dialects.foil import bodies, credentials, talk, views
from api.dialects.foil.counting import counted
from api.http.failure import Failure, Kind, invalid
from api.http.routing import Ask, Reply, Routes
from api.identity.credentials import KeyCaller
from api.queries import each

LISTED = "personas"
"""What listing is booked on."""

routes = Routes()

Handler = Callable[[Any], Awaitable[Reply]]
Work = Callable[[Any, Character], Awaitable[Any]]


def _general(method: str, path: str, **terms: Any) -> Callable[[Work], Handler]:  # noqa: ANN401
    """Serve a call about a persona that talks to no model; it gives the view to answer."""

    def register(work: Work) -> Handler:
        @functools.wraps(work)
        async def handler(ask: Ask[Any, KeyCaller]) -> Reply:
            query = ask.query(*ask.route.query)
            for name in ask.route.required:
                if not query.get(name):
                    raise invalid(name, "is required")
            persona = await _persona(ask)
            return await counted(ask, persona.slug, functools.partial(work, ask, persona))

        path_of = f"/api/v1/sdk/chat/{{persona_id}}/{path}"
        return routes(method, path_of, who=credentials.usable_key, refusals=(404,), **terms)(
            handler
        )

    return register


async def _persona(ask: Ask[Any, KeyCaller]) -> Character:
    """Give the persona in the path, if the key's account owns it and it is published.

    Raises:
        Failure: There never was one, or it has another machine.
        CharacterIsDenied: It is another's, or not published.
    """
    try:
        persona_id = UUID(ask.path("persona_id"))
    except ValueError as error:
        raise Failure(Kind.NOT_FOUND, "Persona not found") from error
    persona = await ask.services.characters.persona(ask.caller.account_id, persona_id)
    machine_id = ask.call.query.get("machine_id")
    if machine_id not in {None, str(persona.machine_id)}:
        raise Failure(Kind.NOT_FOUND, "Machine not found")
    return persona


async def _session(ask: Ask[Any, KeyCaller], persona: Character) -> Session:
    """Give the session that the query names."""
    return await ask.services.conversations.session(persona, ask.call.query["user_session_id"])


@routes(
    "GET",
    "/api/v1/sdk/personas",
    who=credentials.usable_key,
    answer=list[views.Persona],
)
async def list_personas(ask: Ask[None, KeyCaller]) -> Reply:
    """List the account's published personas."""
    return await counted(ask, LISTED, functools.partial(_personas, ask))


async def _personas(ask: Ask[None, KeyCaller]) -> list[views.Persona]:
    characters = ask.services.characters
    page = functools.partial(characters.page, ask.caller.account_id, statuses=(PUBLISHED,))
    lines = each(lambda after: page(after=after), lambda line: line.character_id)
    return [views.persona(line) async for line in lines]


@_general(
    "POST",
    "init-session",
    body=bodies.InitSession,
    answer=views.Begun,
    query=("machine_id",),
    example={
        "user_session_id": "player-001",
        "player_name": "Alex",
        "player_gender": "non-binary",
    },
)
async def init_session(ask: Ask[bodies.InitSession, KeyCaller], persona: Character) -> views.Begun:
    """Begin a session with a persona, afresh where the player has one."""
    begun = await ask.services.conversations.begin(
        persona,
        user_session_id=ask.body.user_session_id,
        player_name=ask.body.player_name,
        player_gender=ask.body.player_gender,
    )
    return views.begun(persona, begun)


@routes(
    "POST",
    "/api/v1/sdk/chat/{persona_id}/message",
    who=credentials.usable_key,
    body=bodies.SendMessage,
    answer=views.Said,
    query=("machine_id",),
    refusals=(402, 404, 409, 502, 504),
    example={"message": "Hello there.", "user_session_id": "player-001"},
)
async def send_message(ask: Ask[bodies.SendMessage, KeyCaller]) -> Reply:
    """Say something to a persona and hear what it answers."""
    ask.query("machine_id")
    persona = await _persona(ask)
    session = await ask.services.conversations.session(persona, ask.body.user_session_id)
    return await talk.whole(ask, persona, session)


@routes(
    "POST",
    "/api/v1/sdk/chat/{persona_id}/message/stream",
    who=credentials.usable_key,
    body=bodies.SendMessage,
    query=("machine_id",),
    refusals=(402, 404, 502, 504),
    example={"message": "Hello there.", "user_session_id": "player-001"},
    other_types=("text/event-stream",),
)
async def stream_message(ask: Ask[bodies.SendMessage, KeyCaller]) -> Reply:
    """Say something to a persona and hear the answer as it is made."""
    ask.query("machine_id")
    persona = await _persona(ask)
    session = await ask.services.conversations.session(persona, ask.body.user_session_id)
    return await talk.streamed(ask, persona, session)


@_general(
    "GET",
    "session",
    answer=views.Session,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def get_session(ask: Ask[None, KeyCaller], persona: Character) -> views.Session:
    """Show where a session stands."""
    return views.session(persona, await _session(ask, persona))


@_general(
    "GET",
    "history",
    answer=views.History,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def get_history(ask: Ask[None, KeyCaller], persona: Character) -> views.History:
    """Show a session with its messages, oldest first."""
    session = await _session(ask, persona)
    return views.history(session, await ask.services.conversations.history(session))


@_general(
    "POST",
    "reset",
    answer=views.Reset,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def reset_session(ask: Ask[None, KeyCaller], persona: Character) -> views.Reset:
    """Let a session begin again: its messages go."""
    session = await _session(ask, persona)
    begun = await ask.services.conversations.reset(persona, session.user_session_id)
    return views.Reset(session_id=str(begun.session.session_id), message=begun.greeting)


@_general(
    "GET",
    "machines",
    answer=list[views.Machine],
    query=("user_session_id",),
    required=("user_session_id",),
)
async def list_machines(ask: Ask[None, KeyCaller], persona: Character) -> list[views.Machine]:
    """List a persona's machines, of which there is one."""
    player = ask.call.query["user_session_id"]
    return [
        views.machine(each) for each in await ask.services.conversations.machines(persona, player)
    ]
