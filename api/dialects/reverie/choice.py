"""Which character a request is for: the one it names, the key's default, or the latest chat's."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from api.beside.characters import Character, NoSuchCharacter, Scenario
from api.dialects.reverie import bodies
from api.dialects.reverie.credentials import Principal, principal_of
from api.dialects.reverie.errors import NoCharacter, no_model
from api.http.failure import Failure
from api.identity.credentials import KeyCaller
from api.services import Ask, Services
from ledger.ids import AccountId

GONE = "The key's default character is no longer there; name another one as model"


class Choice(NamedTuple):
    """A character, perhaps in a scenario."""

    character: Character
    scenario: Scenario | None

    @property
    def model(self) -> str:
        """Return the name that the API knows it by."""
        return model_id(self.character.slug, "" if self.scenario is None else self.scenario.slug)


def model_id(slug: str, scenario_slug: str = "") -> str:
    """Return the model that stands for a character, or for one of its scenarios."""
    return f"{slug}/{scenario_slug}" if scenario_slug else slug


async def chosen(ask: Ask[KeyCaller], document: Mapping[str, Any]) -> Choice:
    """Choose the character that a chat completion is for.

    Raises:
        Failure: No character has this name, or there is none at all; or the key may not act.
    """
    model = bodies.model_of(document)
    if model is None:
        return await _unnamed(ask.services, ask.caller)
    try:
        return await named(ask.services, ask.caller.account_id, model)
    except Failure:
        # Whoever may not act is told that, not which characters there are.
        await ask.services.credentials.usable(ask.caller)
        raise


async def named(services: Services, account_id: AccountId, model: str) -> Choice:
    """Find the character that a model names.

    Raises:
        Failure: The account may talk to no character of this name.
    """
    try:
        return Choice(*await services.characters.of_model(account_id, model))
    except NoSuchCharacter as error:
        raise no_model(model, error) from error


async def _unnamed(services: Services, caller: KeyCaller) -> Choice:
    found = await default_of(services, principal_of(await services.credentials.usable(caller)))
    if found is not None:
        return found
    chat = await services.characters.most_recent(caller.account_id)
    if chat is None:
        raise NoCharacter
    return Choice(chat.character, chat.scenario)


async def default_of(services: Services, principal: Principal) -> Choice | None:
    """Return the default character of a key; None: it has none.

    Raises:
        NoCharacter: It no longer exists, or no longer for this account.
    """
    model = principal.default_character
    if not model:
        return None
    try:
        return Choice(*await services.characters.of_model(principal.account_id, model))
    except NoSuchCharacter as error:
        raise NoCharacter(GONE) from error
