"""What foil's routes answer: exactly these fields, because clients build closed objects.

Times are seconds ``Z``.
"""

import msgspec

from api.beside import conversations
from api.beside.characters import Character, CharacterLine
from ledger.clock import format_seconds
from ledger.state import Key

KEY_PREFIX = "pk_live_"


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, shown once."""

    id: str
    name: str
    key: str
    key_prefix: str
    created_at: str


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it."""

    id: str
    name: str
    key_prefix: str
    created_at: str


class Persona(msgspec.Struct, frozen=True, kw_only=True):
    """A published persona."""

    id: str
    name: str
    description: str | None
    created_at: str
    updated_at: str


class SessionStart(msgspec.Struct, frozen=True, kw_only=True):
    """A session that began."""

    session_id: str
    user_session_id: str
    persona_name: str
    persona_description: str | None
    player_name: str
    player_gender: str
    message: str
    machine_id: str


class PersonaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the persona said."""

    message: str
    current_state: str
    score: int
    outcome: str | None
    decision: str | None
    follow_up: bool
    session_id: str


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session stands."""

    session_id: str
    persona_id: str
    machine_id: str
    current_state: str
    score: int
    outcome: str | None
    player_name: str
    player_gender: str
    started_at: str
    last_message_at: str


class HistoryMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a session."""

    id: str
    role: str
    content: str
    state_key_at_time: str
    score_at_time: int
    decision: str | None
    follow_up_triggered: bool
    created_at: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A session with its messages, oldest first."""

    session_id: str
    persona_id: str
    messages: list[HistoryMessage]
    current_state: str
    score: int
    outcome: str | None
    player_name: str
    player_gender: str
    started_at: str
    last_message_at: str


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """A session that begins again."""

    session_id: str
    message: str


class MachineState(msgspec.Struct, frozen=True, kw_only=True):
    """A persona's machine."""

    machine_id: str
    machine_key: str
    name: str
    description: str | None
    has_session: bool
    session_outcome: str | None
    is_linked: bool


def created(key: Key, secret: str) -> CreatedKey:
    """Show a key that was just made."""
    return CreatedKey(
        id=str(key.key_id),
        name=key.name,
        key=secret,
        key_prefix=KEY_PREFIX,
        created_at=format_seconds(key.created_at),
    )


def listed(key: Key) -> ListedKey:
    """Show a key without its secret."""
    return ListedKey(
        id=str(key.key_id),
        name=key.name,
        key_prefix=KEY_PREFIX,
        created_at=format_seconds(key.created_at),
    )


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an answer but its text."""

    current_state: str
    score: int
    outcome: str | None
    decision: str | None
    follow_up: bool
    session_id: str


def persona(line: CharacterLine) -> Persona:
    """Show a published persona."""
    return Persona(
        id=str(line.character_id),
        name=line.name,
        description=line.description or None,
        created_at=format_seconds(line.created_at),
        updated_at=format_seconds(line.updated_at),
    )


def begun(persona: Character, found: conversations.BegunSession) -> SessionStart:
    """Show a session that begins."""
    return SessionStart(
        session_id=str(found.session.session_id),
        user_session_id=found.session.user_session_id,
        persona_name=persona.name,
        persona_description=persona.description or None,
        player_name=found.session.player_name,
        player_gender=found.session.player_gender,
        message=found.greeting,
        machine_id=str(persona.machine_id),
    )


def said(found: conversations.PlayerSession, text: str) -> PersonaAnswer:
    """Show what a persona said."""
    return PersonaAnswer(
        message=text,
        current_state=found.current_state,
        score=found.score,
        outcome=found.outcome,
        decision=None,
        follow_up=False,
        session_id=str(found.session_id),
    )


def metadata(found: conversations.PlayerSession) -> Metadata:
    """Show where a session stands while the persona speaks."""
    return Metadata(
        current_state=found.current_state,
        score=found.score,
        outcome=found.outcome,
        decision=None,
        follow_up=False,
        session_id=str(found.session_id),
    )


def session(persona: Character, found: conversations.PlayerSession) -> SessionState:
    """Show where a session stands."""
    return SessionState(
        session_id=str(found.session_id),
        persona_id=str(found.character_id),
        machine_id=str(persona.machine_id),
        current_state=found.current_state,
        score=found.score,
        outcome=found.outcome,
        player_name=found.player_name,
        player_gender=found.player_gender,
        started_at=format_seconds(found.started_at),
        last_message_at=format_seconds(found.last_message_at),
    )


def history(found: conversations.PlayerSession, messages: list[conversations.Message]) -> History:
    """Show a session with its messages."""
    return History(
        session_id=str(found.session_id),
        persona_id=str(found.character_id),
        messages=[
            HistoryMessage(
                id=str(each.message_id),
                role=each.role,
                content=each.content,
                state_key_at_time=each.state_key_at_time,
                score_at_time=each.score_at_time,
                decision=each.decision,
                follow_up_triggered=each.follow_up_triggered,
                created_at=format_seconds(each.created_at),
            )
            for each in messages
        ],
        current_state=found.current_state,
        score=found.score,
        outcome=found.outcome,
        player_name=found.player_name,
        player_gender=found.player_gender,
        started_at=format_seconds(found.started_at),
        last_message_at=format_seconds(found.last_message_at),
    )


def machine(found: conversations.PersonaMachine) -> MachineState:
    """Show what drives a persona."""
    return MachineState(
        machine_id=str(found.machine_id),
        machine_key=found.machine_key,
        name=found.name,
        description=found.description or None,
        has_session=found.has_session,
        session_outcome=found.session_outcome,
        is_linked=found.is_linked,
    )
