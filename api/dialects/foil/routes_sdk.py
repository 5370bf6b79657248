"""foil's SDK routes: personas, sessions, messages; always with a key in ``X-API-Key``."""

from typing import Any
from uuid import UUID

from api.characters import PUBLISHED, Character, CharacterLine
from api.conversations import Session
from api.dialects.foil import bodies, credentials, talk, views
from api.exchange import Answer, answer
from api.surface.credentials import KeyCaller
from api.surface.failure import Failure, Kind, invalid
from api.surface.routing import Ask, Reply, Routes
from ledger.metering import Record
from ledger.usage import Usage

GENERAL = "general"
LISTED = "personas"
"""What listing is booked on."""

routes = Routes()


async def _count(ask: Ask[Any, KeyCaller], model: str) -> None:
    """Count a call that talks to no model against the key's general limit."""
    caller = ask.caller
    record = Record(
        request_id=ask.request_id,
        model=model,
        usage=Usage(requests=1),
        category=GENERAL,
        secret=caller.secret,
    )
    await ask.services.ledger.record(caller.account_id, caller.key_id, record)


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
    persona = await ask.services.conversations.persona(ask.caller.account_id, persona_id)
    machine_id = ask.call.query.get("machine_id")
    if machine_id not in {None, str(persona.machine_id)}:
        raise Failure(Kind.NOT_FOUND, "Machine not found")
    return persona


async def _session(ask: Ask[Any, KeyCaller], persona: Character) -> Session:
    """Give the session that the query names."""
    found = ask.query("user_session_id", "machine_id").get("user_session_id")
    if not found:
        raise invalid("user_session_id", "is required")
    return await ask.services.conversations.session(persona, found)


@routes(
    "GET",
    "/api/v1/sdk/personas",
    who=credentials.usable_key,
    answer=list[views.Persona],
)
async def list_personas(ask: Ask[None, KeyCaller]) -> Answer:
    """List the account's published personas."""
    await _count(ask, LISTED)
    account_id, conversations = ask.caller.account_id, ask.services.conversations
    found: list[CharacterLine] = []
    after, has_more = None, True
    while has_more:
        page = await conversations.page(account_id, statuses=(PUBLISHED,), after=after)
        found += page.lines
        has_more, after = page.has_more, found[-1].character_id if found else None
    return answer([views.persona(line) for line in found])


@routes(
    "POST",
    "/api/v1/sdk/chat/{persona_id}/init-session",
    who=credentials.usable_key,
    body=bodies.InitSession,
    answer=views.Begun,
    query=("machine_id",),
    refusals=(404,),
    example={
        "user_session_id": "player-001",
        "player_name": "Alex",
        "player_gender": "non-binary",
    },
)
async def init_session(ask: Ask[bodies.InitSession, KeyCaller]) -> Answer:
    """Begin a session with a persona, afresh where the player has one."""
    ask.query("machine_id")
    persona = await _persona(ask)
    await _count(ask, persona.slug)
    begun = await ask.services.conversations.begin(
        persona,
        user_session_id=ask.body.user_session_id,
        player_name=ask.body.player_name,
        player_gender=ask.body.player_gender,
    )
    return answer(views.begun(persona, begun))


@routes(
    "POST",
    "/api/v1/sdk/chat/{persona_id}/message",
    who=credentials.usable_key,
    body=bodies.SendMessage,
    answer=views.Said,
    query=("machine_id",),
    refusals=(402, 404, 502, 504),
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


@routes(
    "GET",
    "/api/v1/sdk/chat/{persona_id}/session",
    who=credentials.usable_key,
    answer=views.Session,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
    refusals=(404,),
)
async def get_session(ask: Ask[None, KeyCaller]) -> Answer:
    """Show where a session stands."""
    persona = await _persona(ask)
    await _count(ask, persona.slug)
    return answer(views.session(persona, await _session(ask, persona)))


@routes(
    "GET",
    "/api/v1/sdk/chat/{persona_id}/history",
    who=credentials.usable_key,
    answer=views.History,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
    refusals=(404,),
)
async def get_history(ask: Ask[None, KeyCaller]) -> Answer:
    """Show a session with its messages, oldest first."""
    persona = await _persona(ask)
    await _count(ask, persona.slug)
    session = await _session(ask, persona)
    return answer(views.history(session, await ask.services.conversations.history(session)))


@routes(
    "POST",
    "/api/v1/sdk/chat/{persona_id}/reset",
    who=credentials.usable_key,
    answer=views.Reset,
    query=("user_session_id", "machine_id"),
    required=("user_session_id",),
    refusals=(404,),
)
async def reset_session(ask: Ask[None, KeyCaller]) -> Answer:
    """Let a session begin again: its messages go."""
    persona = await _persona(ask)
    await _count(ask, persona.slug)
    session = await _session(ask, persona)
    begun = await ask.services.conversations.reset(persona, session.user_session_id)
    view = views.Reset(session_id=str(begun.session.session_id), message=begun.greeting)
    return answer(view)


@routes(
    "GET",
    "/api/v1/sdk/chat/{persona_id}/machines",
    who=credentials.usable_key,
    answer=list[views.Machine],
    query=("user_session_id",),
    required=("user_session_id",),
    refusals=(404,),
)
async def list_machines(ask: Ask[None, KeyCaller]) -> Answer:
    """List a persona's machines, of which there is one."""
    player = ask.query("user_session_id").get("user_session_id")
    if not player:
        raise invalid("user_session_id", "is required")
    persona = await _persona(ask)
    await _count(ask, persona.slug)
    found = await ask.services.conversations.machines(persona, player)
    return answer([views.machine(each) for each in found])
