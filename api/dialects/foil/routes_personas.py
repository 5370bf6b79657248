"""foil's SDK routes: personas, sessions, messages; always with a key in ``X-API-Key``.

Each is counted or metered, so each is answered once for an ``Idempotency-Key``.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from api.beside.characters import PUBLISHED, Character
from api.beside.conversations import PlayerSession
from api.dialects.foil import bodies, credentials, talk, views
from api.dialects.foil.counting import counted
from api.dialects.foil.talk import Talk
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import Handler, Reply, hot
from api.identity.credentials import KeyCaller
from api.queries import each
from api.services import Ask

LISTED = "personas"
"""The model that listing is booked on."""
OF_PERSONA = "/api/v1/sdk/chat/{persona_id:str}/"

_message = msgspec.json.Decoder(bodies.SendMessage)


def _general(
    method: str,
    path: str,
    *,
    takes: Any = None,  # noqa: ANN401 - a type
    **terms: Any,  # noqa: ANN401 - as of ``route``
) -> Callable[[Callable[..., Awaitable[Any]]], Handler]:
    """Serve a call about a persona that talks to no model.

    The function is given the persona, and the body where it ``takes`` one; it returns the view.
    """
    decoder = None if takes is None else msgspec.json.Decoder(takes)

    def register(work: Callable[..., Awaitable[Any]]) -> Handler:
        @functools.wraps(work)
        async def answered(ask: Ask[KeyCaller]) -> Reply:
            # Before it is counted: what cannot be understood is no call.
            given = () if decoder is None else (await ask.decoded(decoder),)
            query = ask.parameters()
            for name in terms.get("required", ()):
                if not query.get(name):
                    raise invalid(name, "is required")
            persona = await _persona(ask)
            done = functools.partial(work, ask, persona, *given)
            return await counted(ask, persona.slug, done)

        return hot(
            method,
            OF_PERSONA + path,
            takes=takes,
            gives=work.__annotations__["return"],
            guards=[credentials.usable_key],
            refusals=(404,),
            **terms,
        )(answered)

    return register


async def _persona(ask: Ask[KeyCaller]) -> Character:
    """Return the persona in the path, if the key's account owns it and it is published.

    Raises:
        Failure: There never was one, or it has another machine.
        CharacterIsDenied: It is another's, or not published.
    """
    try:
        persona_id = UUID(ask.path("persona_id"))
    except ValueError as error:
        raise Failure(Kind.NOT_FOUND, "Persona not found") from error
    persona = await ask.services.characters.persona(ask.caller.account_id, persona_id)
    machine_id = ask.query.get("machine_id")
    if machine_id not in {None, str(persona.machine_id)}:
        raise Failure(Kind.NOT_FOUND, "Machine not found")
    return persona


async def _session(ask: Ask[KeyCaller], persona: Character) -> PlayerSession:
    """Return the session that the query names."""
    return await ask.services.conversations.session(persona, ask.query["user_session_id"])


@hot(
    "GET",
    "/api/v1/sdk/personas",
    takes=None,
    gives=list[views.Persona],
    guards=[credentials.usable_key],
)
async def list_personas(ask: Ask[KeyCaller]) -> Reply:
    """List the account's published personas."""
    return await counted(ask, LISTED, functools.partial(_personas, ask))


async def _personas(ask: Ask[KeyCaller]) -> list[views.Persona]:
    characters = ask.services.characters
    page = functools.partial(characters.page, ask.caller.account_id, statuses=(PUBLISHED,))
    lines = each(lambda after: page(after=after), lambda line: line.character_id)
    return [views.persona(line) async for line in lines]


@_general(
    "POST",
    "init-session",
    takes=bodies.InitSession,
    query=("machine_id",),
    example={
        "user_session_id": "player-001",
        "player_name": "Alex",
        "player_gender": "non-binary",
    },
)
async def init_session(
    ask: Ask[KeyCaller], persona: Character, said: bodies.InitSession
) -> views.SessionStart:
    """Begin a session with a persona; a session that the player has begins anew."""
    begun = await ask.services.conversations.begin(
        persona,
        user_session_id=said.user_session_id,
        player_name=said.player_name,
        player_gender=said.player_gender,
    )
    return views.begun(persona, begun)


@hot(
    "POST",
    OF_PERSONA + "message",
    takes=bodies.SendMessage,
    gives=views.PersonaAnswer,
    guards=[credentials.usable_key],
    query=("machine_id",),
    refusals=(402, 404, 409, 502, 504),
    example={"message": "Hello there.", "user_session_id": "player-001"},
)
async def send_message(ask: Ask[KeyCaller]) -> Reply:
    """Say something to a persona and hear what it answers."""
    return await talk.whole(await _talk(ask))


@hot(
    "POST",
    OF_PERSONA + "message/stream",
    takes=bodies.SendMessage,
    gives=None,
    guards=[credentials.usable_key],
    query=("machine_id",),
    refusals=(402, 404, 502, 504),
    example={"message": "Hello there.", "user_session_id": "player-001"},
    other_types=("text/event-stream",),
)
async def stream_message(ask: Ask[KeyCaller]) -> Reply:
    """Say something to a persona and hear the answer as it is made."""
    return await talk.streamed(await _talk(ask))


async def _talk(ask: Ask[KeyCaller]) -> Talk:
    said = await ask.decoded(_message)
    ask.parameters()
    persona = await _persona(ask)
    session = await ask.services.conversations.session(persona, said.user_session_id)
    return Talk(ask, said.message, persona, session)


@_general(
    "GET",
    "session",
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def get_session(ask: Ask[KeyCaller], persona: Character) -> views.SessionState:
    """Show where a session stands."""
    return views.session(persona, await _session(ask, persona))


@_general(
    "GET",
    "history",
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def get_history(ask: Ask[KeyCaller], persona: Character) -> views.History:
    """Show a session with its messages, oldest first."""
    session = await _session(ask, persona)
    return views.history(session, await ask.services.conversations.history(session))


@_general(
    "POST",
    "reset",
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
)
async def reset_session(ask: Ask[KeyCaller], persona: Character) -> views.Reset:
    """Begin a session again, without its messages."""
    session = await _session(ask, persona)
    begun = await ask.services.conversations.reset(persona, session.user_session_id)
    return views.Reset(session_id=str(begun.session.session_id), message=begun.greeting)


@_general("GET", "machines", query=("user_session_id",), required=("user_session_id",))
async def list_machines(ask: Ask[KeyCaller], persona: Character) -> list[views.MachineState]:
    """List a persona's machines, of which there is one."""
    player = ask.query["user_session_id"]
    return [
        views.machine(each) for each in await ask.services.conversations.machines(persona, player)
    ]


HANDLERS = (
    list_personas,
    init_session,
    send_message,
    stream_message,
    get_session,
    get_history,
    reset_session,
    list_machines,
)
