"""What a character is, and what its texts may hold: bounds, slugs, greetings, refusals.

One type for reverie's characters, venice's characters and foil's personas. Nothing here
knows about tables; ``api.beside.shelf`` stores what is decided here.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from api.http.failure import Failure, Kind
from ledger.errors import InvalidField
from ledger.ids import AccountId
from ledger.keys import require_no_secret

NAME_MAX = 255
SLUG_MAX = 64
DESCRIPTION_MAX = 2_000
GREETING_MAX = 4_000
PROMPT_MAX_BYTES = 32 * 1024
TEXT_MAX_BYTES = 256 * 1024
"""Bytes of all texts of a character, with its scenarios."""
SCENARIOS_MAX = 50
CHARACTERS_MAX = 1_000
"""Per account, in any status."""
SUFFIX_MAX = 60

MULTIPLIERS = ("1.0", "1.1", "1.2", "10.0")
"""Factors on the price of a character's tokens; text, because each names a price condition."""
DRAFT, PUBLISHED, WITHDRAWN = STATUSES = ("draft", "published", "withdrawn")
NAMELESS = "character"
"""Slug for a name without letters and digits."""

PLAYER = "{player}"
GREETING = "Hello, {player}."

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class NoSuchCharacter(Failure):
    """No such character."""

    def __init__(self) -> None:
        super().__init__(Kind.NOT_FOUND, "No such character.", code="no_such_character")


class CharacterIsDenied(Failure):
    """The character is another account's, or not published."""

    def __init__(self) -> None:
        super().__init__(Kind.ACCESS_IS_DENIED, "The character is not yours or not published.")


class SlugIsTaken(Failure):
    """The account has another character with this slug, or a published one has it."""

    def __init__(self) -> None:
        super().__init__(Kind.CONFLICT, "Another character has this slug.", code="slug_is_taken")


class TooManyCharacters(Failure):
    """The account has as many characters as it may."""

    def __init__(self) -> None:
        detail = f"An account may have at most {CHARACTERS_MAX} characters."
        super().__init__(Kind.CONFLICT, detail, code="too_many_characters")


class CharacterIsNotPublished(Failure):
    """A character that was never published cannot be withdrawn."""

    def __init__(self) -> None:
        super().__init__(
            Kind.CONFLICT, "The character is a draft.", code="character_is_not_published"
        )


class CharacterIsNoDraft(Failure):
    """A published character can be withdrawn but not deleted: usage and conversations name it."""

    def __init__(self) -> None:
        detail = "Only a draft can be deleted; withdraw the character instead."
        super().__init__(Kind.CONFLICT, detail, code="character_is_no_draft")


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A situation in which to talk to a character."""

    name: str
    slug: str = ""
    """Unique within the character. Empty in a draft: made from the name."""
    description: str = ""
    greeting: str = ""
    """Empty: the character's."""
    system_prompt: str = ""
    """Added to the character's."""


class CharacterDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A character as its author writes it."""

    name: str
    slug: str = ""
    """Empty: made from the name, with a number if that is taken."""
    description: str = ""
    greeting: str = ""
    """May name the player: ``{player}``."""
    system_prompt: str = ""
    multiplier: str = MULTIPLIERS[0]
    scenarios: tuple[Scenario, ...] = ()


class ScenarioName(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario as shown in lists."""

    slug: str
    name: str


class CharacterLine(msgspec.Struct, frozen=True, kw_only=True):
    """A character as shown in lists: without the long texts."""

    character_id: UUID
    account_id: AccountId
    slug: str
    name: str
    description: str
    multiplier: str
    status: str
    machine_id: UUID
    created_at: datetime
    updated_at: datetime
    scenarios: tuple[ScenarioName, ...]

    @property
    def condition(self) -> str:
        """Return the rate card's condition that the multiplier stands for."""
        return condition_of(self.multiplier)


class Character(msgspec.Struct, frozen=True, kw_only=True):
    """A character."""

    character_id: UUID
    account_id: AccountId
    slug: str
    name: str
    description: str
    greeting: str
    system_prompt: str
    multiplier: str
    status: str
    public: bool
    """Published, by an account that is not closed."""
    machine_id: UUID
    """foil: a persona has one machine, with one state."""
    created_at: datetime
    updated_at: datetime
    version: int
    scenarios: tuple[Scenario, ...]

    @property
    def condition(self) -> str:
        """Return the rate card's condition that the multiplier stands for."""
        return condition_of(self.multiplier)

    def scenario(self, slug: str) -> Scenario | None:
        """Find a scenario; None: there is none with this slug."""
        return next((each for each in self.scenarios if each.slug == slug), None)

    def prompt(self, scenario: Scenario | None = None) -> str:
        """Return the system prompt, the scenario's after the character's own."""
        parts = (self.system_prompt, scenario.system_prompt if scenario else "")
        return "\n\n".join(part for part in parts if part)

    def prompted(self, messages: object, scenario: Scenario | None = None) -> object:
        """Return messages with the system prompt before them; an empty list stays empty."""
        prompt = self.prompt(scenario)
        if not prompt or not messages or not isinstance(messages, list):
            return messages
        return [{"role": "system", "content": prompt}, *messages]

    def greet(self, player: str, scenario: Scenario | None = None) -> str:
        """Return the greeting, with the player's name in it."""
        text = (scenario.greeting if scenario else "") or self.greeting
        if PLAYER not in text:
            text = f"{GREETING} {text or f'I am {self.name}.'}"
        # Replaced once: the text is the author's, and not a format string.
        return text.replace(PLAYER, player)

    @property
    def draft(self) -> CharacterDraft:
        """Return the character as its author wrote it."""
        names = CharacterDraft.__struct_fields__
        return CharacterDraft(**{name: getattr(self, name) for name in names})


def condition_of(multiplier: str) -> str:
    """Return the rate card's condition for a multiplier, such as ``x1_1``."""
    return "x" + multiplier.replace(".", "_")


def slug_of(name: str) -> str:
    """Make a slug from a name: letters, marks and digits of any script, hyphens for the rest."""
    text = name
    for _ in range(2):  # case folding may undo the normal form, and vice versa
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in text)
    return "-".join(kept.split())[:SLUG_MAX].strip("-") or NAMELESS


def numbered(slug: str) -> list[str]:
    """Return a slug and the alternatives if it is taken."""
    base = slug[: SLUG_MAX - 4].rstrip("-")
    return [slug, *(f"{base}-{number}" for number in range(2, SUFFIX_MAX))]


def checked(draft: CharacterDraft) -> CharacterDraft:
    """Check that every text of a draft is within bounds, and return it with its scenarios' slugs.

    Raises:
        InvalidField: One is not.
    """
    if len(draft.scenarios) > SCENARIOS_MAX:
        raise InvalidField("scenarios", f"may be at most {SCENARIOS_MAX}")
    if draft.multiplier not in MULTIPLIERS:
        raise InvalidField("multiplier", "must be one of " + ", ".join(MULTIPLIERS))
    _check("", draft)
    for number, scenario in enumerate(draft.scenarios):
        _check(f"scenarios[{number}].", scenario)
    size = _size(draft) + sum(_size(scenario) for scenario in draft.scenarios)
    if size > TEXT_MAX_BYTES:
        raise InvalidField("", f"All texts together may have at most {TEXT_MAX_BYTES} bytes")
    scenarios = tuple(_with_slugs(draft.scenarios))
    return msgspec.structs.replace(draft, name=draft.name.strip(), scenarios=scenarios)


def _check(prefix: str, said: CharacterDraft | Scenario) -> None:
    require_text(prefix + "name", said.name.strip(), NAME_MAX, least=1)
    require_text(prefix + "slug", said.slug, SLUG_MAX)
    require_text(prefix + "description", said.description, DESCRIPTION_MAX)
    require_text(prefix + "greeting", said.greeting, GREETING_MAX)
    require_text(prefix + "system_prompt", said.system_prompt, PROMPT_MAX_BYTES)
    if len(said.system_prompt.encode()) > PROMPT_MAX_BYTES:
        raise InvalidField(prefix + "system_prompt", f"may have at most {PROMPT_MAX_BYTES} bytes")
    if said.slug and said.slug != slug_of(said.slug):
        raise InvalidField(prefix + "slug", "may have letters and digits, with single hyphens")


def require_text(field: str, text: str, most: int, *, least: int = 0) -> str:
    """Return a text if it may be stored.

    Raises:
        InvalidField: It is too long or too short, holds NUL or a secret (promise 11).
    """
    if not least <= len(text) <= most:
        raise InvalidField(field, f"must have {least} to {most} characters")
    if _UNSTORABLE.search(text):
        raise InvalidField(field, "holds NUL or half a surrogate pair")
    require_no_secret(field, text)
    return text


def storable(text: str) -> str:
    """Return a model's text with characters replaced that no table accepts."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _size(said: CharacterDraft | Scenario) -> int:
    texts = (said.name, said.description, said.greeting, said.system_prompt)
    return sum(len(text.encode()) for text in texts)


def _with_slugs(scenarios: Sequence[Scenario]) -> Iterable[Scenario]:
    given = [scenario.slug for scenario in scenarios if scenario.slug]
    taken = set(given)
    if len(given) != len(taken):
        raise InvalidField("scenarios", "hold the same slug twice")
    for scenario in scenarios:
        slug = scenario.slug
        if not slug:
            # There are more numbers than scenarios.
            slug = next(each for each in numbered(slug_of(scenario.name)) if each not in taken)
            taken.add(slug)
        yield msgspec.structs.replace(scenario, name=scenario.name.strip(), slug=slug)
