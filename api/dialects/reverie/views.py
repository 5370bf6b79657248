"""What reverie's routes answer: characters as OpenAI's models, and an imported character."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from api.beside.characters import Character, Scenario
from ledger import clock
from ledger.clock import Instant, format_instant


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A character or one of its scenarios, as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970."""
    owned_by: Literal["reverie"] = "reverie"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ImportedScenario(msgspec.Struct, frozen=True, kw_only=True):
    """A situation that the character can be met in."""

    slug: str
    name: str
    description: str
    greeting: str
    system_prompt: str


class ImportedCharacter(msgspec.Struct, frozen=True, kw_only=True):
    """A character that was imported. Its slug is what ``model`` calls it."""

    id: str
    slug: str
    name: str
    description: str
    greeting: str
    system_prompt: str
    scenarios: list[ImportedScenario]
    created_at: str


def model(model_id: str, created_at: Instant) -> Model:
    """Show a model."""
    return Model(id=model_id, created=clock.microseconds(created_at) // 1_000_000)


def models(found: Sequence[Model]) -> ModelList:
    """Show models."""
    return ModelList(data=list(found))


def imported(character: Character) -> ImportedCharacter:
    """Show an imported character to its author."""
    return ImportedCharacter(
        id=str(character.character_id),
        slug=character.slug,
        name=character.name,
        description=character.description,
        greeting=character.greeting,
        system_prompt=character.system_prompt,
        scenarios=[_scenario(each) for each in character.scenarios],
        created_at=format_instant(character.created_at),
    )


def _scenario(found: Scenario) -> ImportedScenario:
    return ImportedScenario(
        slug=found.slug,
        name=found.name,
        description=found.description,
        greeting=found.greeting,
        system_prompt=found.system_prompt,
    )
