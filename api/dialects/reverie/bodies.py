"""What reverie's routes take. No field takes a provider's key, and other fields are refused."""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.beside.characters import CharacterDraft, Scenario
from api.http.failure import invalid

FIELD_SHOWN = 64
"""Characters of a field's name that an error repeats."""


class ImportScenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A situation that the character can be met in."""

    name: str
    slug: str | None = None
    """None: made from the name."""
    description: str | None = None
    greeting: str | None = None
    system_prompt: str | None = None


class ImportCharacter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A character to import."""

    name: str
    description: str | None = None
    greeting: str | None = None
    """May name the player: ``{player}``."""
    system_prompt: str | None = None
    scenarios: tuple[ImportScenario, ...] | None = None

    @property
    def draft(self) -> CharacterDraft:
        """Return it as a draft of a character."""
        return CharacterDraft(
            name=self.name,
            description=self.description or "",
            greeting=self.greeting or "",
            system_prompt=self.system_prompt or "",
            scenarios=tuple(map(_scenario, self.scenarios or ())),
        )


def _scenario(said: ImportScenario) -> Scenario:
    return Scenario(
        name=said.name,
        slug=said.slug or "",
        description=said.description or "",
        greeting=said.greeting or "",
        system_prompt=said.system_prompt or "",
    )


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chat completion: what OpenAI's clients send, and nothing else.

    The upstream judges the types, except of the fields that metering reads.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    """A character or one of its scenarios, never a language model. None: the key's default
    character, else the character of the account's latest chat."""
    audio: Any = None
    frequency_penalty: Any = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    n: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    presence_penalty: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    safety_identifier: Any = None
    seed: Any = None
    service_tier: Any = None
    stop: Any = None
    store: Any = None
    stream: Any = None
    stream_options: Any = None
    temperature: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    top_p: Any = None
    user: Any = None
    verbosity: Any = None
    web_search_options: Any = None


FIELDS = frozenset(ChatCompletion.__struct_fields__)


def require_known(document: Mapping[str, Any]) -> None:
    """Refuse a chat completion with a field that is none of OpenAI's (R2).

    Raises:
        Failure: It has one.
    """
    for name in document:
        if name not in FIELDS:
            raise invalid(name[:FIELD_SHOWN], "is no field of a chat completion")


def model_of(document: Mapping[str, Any]) -> str | None:
    """Return what a chat completion asks for; None: it leaves that open.

    Raises:
        Failure: It is not a name.
    """
    model = document.get("model")
    if model is None:
        return None
    if not isinstance(model, str) or not model:
        raise invalid("model", "must be the name of a character, or be left out")
    return model
