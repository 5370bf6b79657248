"""What a character may say of itself: slugs, bounds, greetings."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.beside import characters
from api.beside.characters import Character, CharacterDraft, Scenario
from api.dialects.reverie.prices import CARD
from ledger import clock, secrets
from ledger.errors import InvalidField
from ledger.ids import OPERATOR_ACCOUNT
from ledger.model_names import OTHERS


def a_character(**terms: Any) -> Character:
    """Return a character that is nowhere."""
    made: dict[str, Any] = {
        "character_id": UUID(int=1),
        "account_id": OPERATOR_ACCOUNT,
        "slug": "luna",
        "name": "Luna",
        "description": "",
        "greeting": "",
        "system_prompt": "",
        "multiplier": "1.0",
        "status": "draft",
        "public": False,
        "machine_id": UUID(int=2),
        "created_at": clock.EARLIEST,
        "updated_at": clock.EARLIEST,
        "version": 1,
        "scenarios": (),
    }
    return Character(**{**made, **terms})


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Luna", "luna"),
        ("  Captain   Vale! ", "captain-vale"),
        ("Renée O'Hara", "renée-o-hara"),
        ("ЛЮДМИЛА 2", "людмила-2"),
        ("アキラ", "アキラ"),
        ("सीता", "सीता"),
        ("Straße", "strasse"),
        ("ﬁne/../etc", "fine-etc"),
        ("a\u0301", "á"),
        ("🦊", "character"),
        ("---", "character"),
        ("x" * 300, "x" * 64),
    ],
)
def test_a_slug_is_made_of_any_name(name: str, slug: str) -> None:
    """Letters and digits of every script stay, all between them is one hyphen."""
    assert characters.slug_of(name) == slug


@given(st.text(max_size=300))
def test_a_slug_is_its_own_slug(name: str) -> None:
    """What was made of a name may be given as a slug, stands in a `model`, and is never empty."""
    slug = characters.slug_of(name)
    assert characters.slug_of(slug) == slug
    assert 1 <= len(slug) <= characters.SLUG_MAX
    assert not set(slug) & set("/ ?#%")


@given(st.text(min_size=1, max_size=100))
def test_what_a_taken_slug_becomes_is_a_slug(name: str) -> None:
    """A number keeps a slug within its bounds, and no two are the same."""
    numbered = characters.numbered(characters.slug_of(name))
    assert len(set(numbered)) == len(numbered) > characters.SCENARIOS_MAX
    assert all(characters.slug_of(slug) == slug for slug in numbered)


def test_scenarios_of_one_name_are_told_apart() -> None:
    """Fifty scenarios of one name have fifty slugs; those that were given stay."""
    given_one = Scenario(name="Other", slug="storm-2")
    same = [Scenario(name=" Storm ") for _ in range(characters.SCENARIOS_MAX - 1)]
    found = characters.checked(CharacterDraft(name="Luna", scenarios=(*same, given_one))).scenarios
    assert [each.slug for each in found[:2]] == ["storm", "storm-3"]
    assert found[-1].slug == "storm-2"
    assert len({each.slug for each in found}) == characters.SCENARIOS_MAX
    assert found[0].name == "Storm"


@pytest.mark.parametrize(
    ("field", "text", "named"),
    [
        ("name", "", "name"),
        ("name", " ", "name"),
        ("name", "x" * 256, "name"),
        ("slug", "x" * 65, "slug"),
        ("slug", "Luna", "slug"),
        ("slug", "a/b", "slug"),
        ("slug", "-a", "slug"),
        ("description", "x" * 2_001, "description"),
        ("greeting", "x" * 4_001, "greeting"),
        ("system_prompt", "x" * (32 * 1024 + 1), "system_prompt"),
        ("system_prompt", "ü" * (16 * 1024 + 1), "system_prompt"),
        ("system_prompt", "a\x00", "system_prompt"),
        ("greeting", "\ud800", "greeting"),
        ("multiplier", "2.0", "multiplier"),
        ("multiplier", "1", "multiplier"),
        ("scenarios", tuple(Scenario(name="s") for _ in range(51)), "scenarios"),
        ("scenarios", (Scenario(name="a", slug="s"), Scenario(name="b", slug="s")), "scenarios"),
        ("scenarios", (Scenario(name="a"), Scenario(name="")), "scenarios[1].name"),
        (
            "scenarios",
            tuple(Scenario(name="s", system_prompt="x" * 32 * 1024) for _ in range(9)),
            "",
        ),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_every_text_has_a_bound(field: str, text: Any, named: str) -> None:
    """What is too long, empty or of another form names its field."""
    with pytest.raises(InvalidField) as refused:
        characters.checked(CharacterDraft(**{"name": "Luna", field: text}))
    assert refused.value.field == named


def test_texts_up_to_the_bound_are_taken() -> None:
    """A bound is the largest that is taken."""
    most = {
        "name": "x" * 255,
        "slug": "x" * 64,
        "description": "x" * 2_000,
        "greeting": "x" * 4_000,
        "system_prompt": "x" * 32 * 1024,
        "multiplier": "10.0",
    }
    assert characters.checked(CharacterDraft(**most)) == CharacterDraft(**most)


@pytest.mark.parametrize("form", secrets.FORMATS, ids=lambda form: form.prefix)
@pytest.mark.parametrize("field", ["name", "description", "greeting", "system_prompt"])
def test_promise_11_no_character_holds_a_secret(field: str, form: secrets.Format) -> None:
    """Promise 11: a key that was pasted into a text is refused, and not repeated."""
    secret = secrets.generate(form)
    with pytest.raises(InvalidField) as refused:
        characters.checked(CharacterDraft(**{"name": "Luna", field: f"my key: {secret}"}))
    assert refused.value.field == field
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("greeting", "player", "said"),
    [
        ("", "Ada", "Hello, Ada. I am Luna."),
        ("Welcome, {player}!", "Ada", "Welcome, Ada!"),
        ("{player}, {player}!", "Ada", "Ada, Ada!"),
        ("Come in.", "Ada", "Hello, Ada. Come in."),
        ("{player.__class__} {0} %s {player}", "Ada", "{player.__class__} {0} %s Ada"),
        ("Hi {player}", "{player} {name} %s", "Hi {player} {name} %s"),
    ],
)
def test_fo6_the_greeting_names_the_player(greeting: str, player: str, said: str) -> None:
    """FO6: whatever the author wrote; and neither text is a format string."""
    assert a_character(greeting=greeting).greet(player) == said


def test_a_scenario_greets_and_prompts_in_its_own_words() -> None:
    """Its greeting is said instead of the character's, its prompt after the character's."""
    storm = Scenario(name="Storm", slug="storm", greeting="Quick, {player}!", system_prompt="B")
    calm = Scenario(name="Calm", slug="calm")
    luna = a_character(greeting="Hi {player}", system_prompt="A", scenarios=(storm, calm))
    assert luna.greet("Ada", luna.scenario("storm")) == "Quick, Ada!"
    assert luna.greet("Ada", calm) == "Hi Ada"
    assert luna.prompt(storm) == "A\n\nB"
    assert luna.prompt(calm) == luna.prompt() == "A"
    assert luna.scenario("none") is None


def test_each_multiplier_is_a_condition_of_reveries_rate_card() -> None:
    """Tokens × multiplier = credits: the price stands in the card, under the condition's name."""
    found = {characters.condition_of(each): each for each in characters.MULTIPLIERS}
    every = CARD.models[OTHERS]
    assert found.keys() == every.conditions.keys()
    for condition, multiplier in found.items():
        whole, _, tenth = multiplier.partition(".")
        price = str(int(whole + tenth) * 100_000)
        assert every.conditions[condition].prices == {"input": price, "output": price}
    assert every.prices == every.conditions["x1_0"].prices
    assert a_character(multiplier="10.0").condition == "x10_0"


def test_a_character_gives_back_what_its_author_said() -> None:
    """A change begins with the draft that the character was made of."""
    draft = CharacterDraft(
        name="Luna", slug="luna", greeting="Hi", scenarios=(Scenario(name="S", slug="s"),)
    )
    assert a_character(**msgspec.structs.asdict(draft)).draft == draft
