"""Characters in a real database: slugs, owners, the public, chats."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from api.beside import characters
from api.beside import shelf as shelves
from api.beside.characters import (
    CharacterDraft,
    CharacterIsDenied,
    CharacterIsNoDraft,
    CharacterIsNotPublished,
    NoSuchCharacter,
    Scenario,
    SlugIsTaken,
    TooManyCharacters,
)
from api.beside.shelf import CharacterEdit, IdempotencyKey
from api.http.failure import Kind
from ledger.errors import (
    AccountIsClosed,
    IdempotencyKeyIsTaken,
    NoSuchAccount,
    VersionIsOutdated,
)
from ledger.ids import AccountId

Tell = Callable[..., None]
NOBODY = AccountId(UUID(int=7))
STORM = Scenario(name="Storm", system_prompt="A storm is coming.")


async def outcomes(*asked: Any) -> list[Any]:
    """Ask at once; return every answer, errors included."""
    return list(await asyncio.gather(*asked, return_exceptions=True))


def test_what_is_made_is_found_again_whole(tell: Tell) -> None:
    """R5: every field of an import comes back, the scenarios in their order, as a draft."""

    async def story(stage: Any) -> None:
        account = await stage.account()
        draft = CharacterDraft(
            name="Luna",
            description="Keeps the lighthouse.",
            greeting="Hi {player}",
            system_prompt="You are Luna.",
            multiplier="1.2",
            scenarios=(STORM, Scenario(name="Calm", description="d", greeting="g")),
        )
        made = (await stage.shelf.create(account, draft)).character
        assert (made.slug, made.status, made.public, made.version) == ("luna", "draft", False, 1)
        assert [each.slug for each in made.scenarios] == ["storm", "calm"]
        said = msgspec.structs.asdict(made.draft)
        assert said.items() >= {"description": draft.description, "multiplier": "1.2"}.items()
        assert await stage.shelf.character(made.character_id) == made
        assert await stage.shelf.by_slug(account, "luna") == made
        assert made.machine_id != made.character_id
        assert made.created_at == made.updated_at

    tell(story)


def test_names_may_repeat_and_slugs_are_numbered(tell: Tell) -> None:
    """A name that is taken, by the account or in public, gets a slug with a number."""

    async def story(stage: Any) -> None:
        ours, theirs = await stage.account(), await stage.account()
        await stage.published(theirs)
        await stage.character(theirs, "Sol")
        made = [await stage.character(ours) for _ in range(3)]
        assert [each.slug for each in made] == ["luna-2", "luna-3", "luna-4"]
        assert (await stage.character(ours, "Sol")).slug == "sol"
        for number in range(characters.SUFFIX_MAX + 3):
            await stage.character(theirs, f"Sol {'!' * number}")
        rows = await stage.rows("SELECT slug FROM characters WHERE name LIKE 'Sol%'")
        assert len(rows) == characters.SUFFIX_MAX + 5

    tell(story)


def test_of_many_imports_with_one_slug_one_is_made(tell: Tell) -> None:
    """Two at once: one has the slug, the other is told that it is taken."""

    async def story(stage: Any) -> None:
        account, other = await stage.account(), await stage.account()
        draft = CharacterDraft(name="Luna", slug="luna")
        found = await outcomes(*(stage.shelf.create(account, draft) for _ in range(8)))
        assert sorted(type(each).__name__ for each in found) == ["Created"] + ["SlugIsTaken"] * 7
        assert (await stage.shelf.create(other, draft)).character.slug == "luna"
        derived = await outcomes(*(stage.character(account, "Sol") for _ in range(8)))
        assert len({each.slug for each in derived}) == 8
        assert await stage.rows(
            "SELECT characters FROM character_shelves WHERE account_id = %s", (account,)
        ) == [(9,)]

    tell(story)


def test_an_account_has_so_many_characters_and_no_more(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is exact under concurrency; a deleted draft makes room."""
    monkeypatch.setattr(characters, "CHARACTERS_MAX", 5)

    async def story(stage: Any) -> None:
        account = await stage.account()
        found = await outcomes(*(stage.character(account) for _ in range(12)))
        made = [each for each in found if not isinstance(each, BaseException)]
        assert len(made) == 5
        assert {type(each) for each in found} - {type(made[0])} == {TooManyCharacters}
        await stage.shelf.delete(account, made[0].character_id)
        again = await outcomes(*(stage.character(account) for _ in range(3)))
        assert [isinstance(each, TooManyCharacters) for each in again].count(False) == 1
        await stage.character(await stage.account())

    tell(story)


def test_one_idempotency_key_makes_one_character(tell: Tell) -> None:
    """A repetition gives what was made; another request under the key is refused."""

    async def story(stage: Any) -> None:
        account, other = await stage.account(), await stage.account()
        draft, once = CharacterDraft(name="Luna"), IdempotencyKey("key", b"one")
        found = await outcomes(*(stage.shelf.create(account, draft, once=once) for _ in range(6)))
        assert [each.replayed for each in found].count(False) == 1
        assert len({each.character.character_id for each in found}) == 1
        with pytest.raises(IdempotencyKeyIsTaken):
            await stage.shelf.create(account, draft, once=IdempotencyKey("key", b"two"))
        assert not (await stage.shelf.create(other, draft, once=once)).replayed
        rows = await stage.rows("SELECT sum(characters) FROM character_shelves")
        assert rows == [(2,)]

    tell(story)


def test_nobody_owns_a_character_without_an_open_account(tell: Tell) -> None:
    """An account that never was, or is closed, gets none."""

    async def story(stage: Any) -> None:
        with pytest.raises(NoSuchAccount):
            await stage.character(NOBODY)
        account = await stage.account()
        made = await stage.character(account)
        await stage.close(account)
        with pytest.raises(AccountIsClosed):
            await stage.character(account)
        with pytest.raises(AccountIsClosed):
            await stage.shelf.publish(account, made.character_id)

    tell(story)


async def seen(stage: Any, account: AccountId | None, made: Any) -> dict[str, str]:
    """Return how each way to a character ends for an account."""
    shelf = stage.shelf
    ways = {
        "visible": shelf.visible(account, made.character_id),
        "by_slug": shelf.by_slug(account, made.slug),
        "of_model": shelf.of_model(account, made.slug),
        "persona": shelf.persona(account, made.character_id),
    }
    found = {}
    for name, way in ways.items():
        (outcome,) = await outcomes(way)
        found[name] = type(outcome).__name__ if isinstance(outcome, BaseException) else "found"
    page = await shelf.page(account, statuses=("draft", "published"), public=True)
    listed = made.character_id in {line.character_id for line in page.lines}
    return {**found, "page": "found" if listed else "absent"}


ABSENT = "NoSuchCharacter"


def ways(visible: str, by_slug: str, of_model: str, persona: str, page: str) -> dict[str, str]:
    """Name the outcomes of ``seen``."""
    return {
        "visible": visible,
        "by_slug": by_slug,
        "of_model": of_model,
        "persona": persona,
        "page": page,
    }


def test_promise_15_who_sees_a_character(tell: Tell) -> None:
    """Promise 15, FO4, FO5: another's draft is as absent as nothing, but foil answers 403."""
    everything = ways("found", "found", "found", "found", "found")
    denied = ways(ABSENT, ABSENT, ABSENT, "CharacterIsDenied", "absent")

    async def story(stage: Any) -> None:
        ours, theirs = await stage.account(), await stage.account()
        made = await stage.character(ours)
        draft = ways("found", "found", "found", "CharacterIsDenied", "found")
        assert await seen(stage, ours, made) == draft
        assert await seen(stage, theirs, made) == denied
        await stage.shelf.publish(ours, made.character_id)
        assert await seen(stage, ours, made) == everything
        assert await seen(stage, theirs, made) == {**everything, "persona": "CharacterIsDenied"}
        await stage.shelf.withdraw(ours, made.character_id)
        withdrawn = ways("found", "found", ABSENT, "CharacterIsDenied", "absent")
        assert await seen(stage, ours, made) == withdrawn
        assert await seen(stage, theirs, made) == denied
        never = msgspec.structs.replace(made, character_id=UUID(int=5), slug="never")
        nothing = ways(ABSENT, ABSENT, ABSENT, ABSENT, "absent")
        assert await seen(stage, ours, never) == nothing

    tell(story)


def test_a_closed_accounts_characters_are_public_no_more(tell: Tell) -> None:
    """From the closing event on nobody finds them, and their slugs are free for others."""

    async def story(stage: Any) -> None:
        ours, theirs = await stage.account(), await stage.account()
        made = await stage.published(theirs)
        mine = await stage.character(ours, slug="luna")
        with pytest.raises(SlugIsTaken):
            await stage.shelf.publish(ours, mine.character_id)
        await stage.close(theirs)
        found = await seen(stage, await stage.account(), made)
        assert found == ways(ABSENT, ABSENT, ABSENT, "CharacterIsDenied", "absent")
        assert (await stage.shelf.publish(ours, mine.character_id)).public
        assert (await stage.shelf.character(made.character_id)).status == "withdrawn"

    tell(story)


def test_a_public_slug_means_one_character(tell: Tell) -> None:
    """Of two that are published at once under one slug one is; the other may change its slug."""

    async def story(stage: Any) -> None:
        owners = [await stage.account() for _ in range(4)]
        made = [await stage.character(owner, slug="luna") for owner in owners]
        found = await outcomes(
            *(stage.shelf.publish(each.account_id, each.character_id) for each in made)
        )
        refused = [number for number, each in enumerate(found) if isinstance(each, SlugIsTaken)]
        assert len(refused) == 3
        assert found[refused[0]].kind is Kind.CONFLICT
        loser = made[refused[0]]
        changes = CharacterEdit(slug="luna-of-ours")
        await stage.shelf.change(loser.account_id, loser.character_id, changes)
        public = await stage.shelf.publish(loser.account_id, loser.character_id)
        assert public.public
        back = CharacterEdit(slug="luna")
        with pytest.raises(SlugIsTaken):
            await stage.shelf.change(loser.account_id, loser.character_id, back)

    tell(story)


def test_an_accounts_own_slug_comes_before_the_public_one(tell: Tell) -> None:
    """Own first, then published of others; an own one that was withdrawn stands back."""

    async def story(stage: Any) -> None:
        ours, theirs = await stage.account(), await stage.account()
        own = await stage.character(ours, slug="luna")
        public = await stage.published(theirs, slug="luna")

        async def found(account: AccountId | None) -> UUID:
            return (await stage.shelf.by_slug(account, "luna")).character_id

        assert await found(ours) == own.character_id
        assert await found(theirs) == await found(None) == public.character_id
        await stage.shelf.withdraw(theirs, public.character_id)
        assert await found(theirs) == public.character_id
        await stage.shelf.publish(ours, own.character_id)
        assert await found(theirs) == own.character_id
        for slug in ("Luna", "", "lu\x00na", "luna\ud800", "x" * 10_000):
            with pytest.raises(NoSuchCharacter):
                await stage.shelf.by_slug(ours, slug)

    tell(story)


def test_a_model_names_a_character_or_one_of_its_scenarios(tell: Tell) -> None:
    """R3, R13: `slug` or `slug/scenario`, never an LLM."""

    async def story(stage: Any) -> None:
        account = await stage.account()
        made = await stage.character(account, scenarios=(STORM,))
        assert await stage.shelf.of_model(account, "luna") == (made, None)
        assert await stage.shelf.of_model(account, "luna/storm") == (made, made.scenarios[0])
        for model in ("gpt-4o", "luna/", "luna/calm", "luna/storm/", "/storm", "", "/"):
            with pytest.raises(NoSuchCharacter):
                await stage.shelf.of_model(account, model)

    tell(story)


def test_a_change_leaves_the_rest(tell: Tell) -> None:
    """What is left out stays; scenarios are replaced as a whole; the machine is the same."""

    async def story(stage: Any) -> None:
        account, other = await stage.account(), await stage.account()
        made = await stage.character(account, greeting="Hi", scenarios=(STORM,))
        shelf, character_id = stage.shelf, made.character_id
        named = await shelf.change(account, character_id, CharacterEdit(name="Luna II"))
        assert named.updated_at > made.updated_at
        fields = {"name": "Luna II", "version": 2, "updated_at": named.updated_at}
        assert named == msgspec.structs.replace(made, **fields)
        calm = CharacterEdit(scenarios=(Scenario(name="Calm"),), slug="")
        again = await shelf.change(account, character_id, calm)
        assert ([each.slug for each in again.scenarios], again.slug) == (["calm"], "luna")
        assert not (
            await shelf.change(account, character_id, CharacterEdit(scenarios=()))
        ).scenarios
        with pytest.raises(VersionIsOutdated):
            await shelf.change(account, character_id, CharacterEdit(name="x"), expected_version=1)
        with pytest.raises(NoSuchCharacter):
            await shelf.change(other, character_id, CharacterEdit(name="x"))
        sol = await stage.character(account, "Sol")
        with pytest.raises(SlugIsTaken):
            await shelf.change(account, sol.character_id, CharacterEdit(slug="luna"))
        assert (await shelf.change(None, character_id, CharacterEdit(name="By us"))).name == "By us"

    tell(story)


def test_no_change_is_lost(tell: Tell) -> None:
    """Changes at once of different fields all stand, and of guarded ones exactly one does."""

    async def story(stage: Any) -> None:
        account = await stage.account()
        character_id = (await stage.character(account)).character_id
        fields = ("name", "description", "greeting", "system_prompt")
        changes = [CharacterEdit(**{field: "changed"}) for field in fields]
        await asyncio.gather(*(stage.shelf.change(account, character_id, one) for one in changes))
        found = await stage.shelf.character(character_id)
        assert [getattr(found, field) for field in fields] == ["changed"] * 4
        assert found.version == 5
        guarded = [
            stage.shelf.change(
                account, character_id, CharacterEdit(name=str(n)), expected_version=5
            )
            for n in range(4)
        ]
        refused = [each for each in await outcomes(*guarded) if isinstance(each, VersionIsOutdated)]
        assert len(refused) == 3

    tell(story)


def test_only_a_draft_is_deleted_and_only_the_published_withdrawn(tell: Tell) -> None:
    """Usage names what was published. To publish or withdraw twice is quiet."""

    async def story(stage: Any) -> None:
        account, other = await stage.account(), await stage.account()
        shelf, character_id = stage.shelf, (await stage.character(account)).character_id
        with pytest.raises(CharacterIsNotPublished):
            await shelf.withdraw(account, character_id)
        for act in (shelf.publish, shelf.withdraw, shelf.delete):
            with pytest.raises(NoSuchCharacter):
                await act(other, character_id)
        published = await shelf.publish(account, character_id)
        assert await shelf.publish(account, character_id) == published
        withdrawn = await shelf.withdraw(account, character_id)
        assert await shelf.withdraw(account, character_id) == withdrawn
        with pytest.raises(CharacterIsNoDraft):
            await shelf.delete(account, character_id)
        assert (await shelf.publish(account, character_id)).public
        draft = await stage.character(account, "Sol", scenarios=(STORM,))
        assert await shelf.delete(account, draft.character_id) == draft
        with pytest.raises(NoSuchCharacter):
            await shelf.character(draft.character_id)
        assert (await stage.character(account, "Sol")).slug == "sol"

    tell(story)


def test_every_character_is_on_one_page(tell: Tell) -> None:
    """Newest first, own with others' public ones, no draft of another, without the long texts."""

    async def story(stage: Any) -> None:
        ours, theirs = await stage.account(), await stage.account()
        expected = []
        for number in range(4):
            scenarios = (STORM, Scenario(name="Calm"))
            expected.append(await stage.character(ours, f"Own {number}", scenarios=scenarios))
            expected.append(await stage.published(theirs, f"Public {number}"))
            await stage.character(theirs, f"Hidden {number}")
        seen, after = [], None
        while True:
            page = await stage.shelf.page(ours, public=True, after=after, most=3)
            seen += page.lines
            if not page.has_more:
                break
            after = page.lines[-1].character_id
        newest = sorted((each.character_id for each in expected), reverse=True)
        assert [line.character_id for line in seen] == newest
        own = await stage.shelf.page(ours)
        assert {line.account_id for line in own.lines} == {ours}
        assert [each.slug for each in own.lines[0].scenarios] == ["storm", "calm"]
        assert own.lines[0].condition == "x1_0"
        public = await stage.shelf.page(None, public=True)
        assert {line.account_id for line in public.lines} == {theirs}
        published = await stage.shelf.page(theirs, statuses=("published",))
        assert len(published.lines) == 4

    tell(story)


def test_r14_the_latest_chat_wins_on_the_web_or_by_api(tell: Tell) -> None:
    """R14: two chats, the later wins, a newer web chat included; no chat at all is None."""

    async def story(stage: Any) -> None:
        ours, theirs, shelf = await stage.account(), await stage.account(), stage.shelf
        luna = await stage.character(ours, scenarios=(STORM,))
        sol = await stage.published(theirs, "Sol")
        assert await shelf.most_recent(ours) is None
        await shelf.note_chat(ours, luna.character_id, via="api", scenario="storm")
        await shelf.note_chat(ours, sol.character_id, via="web")
        found = await shelf.most_recent(ours)
        assert (found.character.slug, found.scenario, found.via) == ("sol", None, "web")
        await shelf.note_chat(ours, luna.character_id, via="api", scenario="storm")
        found = await shelf.most_recent(ours)
        assert (found.character.slug, found.scenario.name, found.via) == ("luna", "Storm", "api")
        assert await shelf.most_recent(theirs) is None
        for character, scenario in ((luna, "calm"), (sol, "storm")):
            with pytest.raises(NoSuchCharacter):
                await shelf.note_chat(ours, character.character_id, via="api", scenario=scenario)
        with pytest.raises(NoSuchCharacter):
            await shelf.note_chat(theirs, luna.character_id, via="api")

    tell(story)


def test_a_chat_with_what_is_gone_is_no_recent_chat(tell: Tell) -> None:
    """A character that was withdrawn, deleted or closed makes way for the chat before."""

    async def story(stage: Any) -> None:
        ours, theirs, shelf = await stage.account(), await stage.account(), stage.shelf
        first = await stage.character(ours, "First", scenarios=(STORM,))
        second = await stage.published(theirs, "Second")
        third = await stage.character(ours, "Third")
        await shelf.note_chat(ours, first.character_id, via="api", scenario="storm")
        for each in (second, third):
            await shelf.note_chat(ours, each.character_id, via="api")
        await shelf.delete(ours, third.character_id)
        assert (await shelf.most_recent(ours)).character.slug == "second"
        await stage.close(theirs)
        await shelf.change(ours, first.character_id, CharacterEdit(scenarios=()))
        found = await shelf.most_recent(ours)
        assert (found.character.slug, found.scenario) == ("first", None)
        await shelf.publish(ours, first.character_id)
        await shelf.withdraw(ours, first.character_id)
        assert await shelf.most_recent(ours) is None

    tell(story)


def test_so_many_chats_are_remembered(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; an old note never overtakes a newer one."""
    monkeypatch.setattr(shelves, "CHATS_MAX", 3)

    async def story(stage: Any) -> None:
        account = await stage.account()
        made = [await stage.character(account) for _ in range(5)]
        for each in (*made, made[2]):
            await stage.shelf.note_chat(account, each.character_id, via="api")
        rows = await stage.rows("SELECT character_id FROM character_chats ORDER BY last_at")
        assert rows == [(made[place].character_id,) for place in (3, 4, 2)]
        await stage.rows("UPDATE character_chats SET last_at = last_at + interval '1 day'")
        await stage.shelf.note_chat(account, made[2].character_id, via="web")
        found = await stage.shelf.most_recent(account)
        assert (found.character, found.via) == (made[2], "api")

    tell(story)


def test_fo4_foil_tells_denied_from_unknown(tell: Tell) -> None:
    """FO4: what is there and not yours is another kind of failure than what never was."""

    async def story(stage: Any) -> None:
        account = await stage.account()
        draft = await stage.character(account)
        kinds = []
        for character_id in (draft.character_id, UUID(int=5)):
            with pytest.raises((CharacterIsDenied, NoSuchCharacter)) as refused:
                await stage.shelf.persona(account, character_id)
            kinds.append(refused.value.kind)
        assert kinds == [Kind.ACCESS_IS_DENIED, Kind.NOT_FOUND]

    tell(story)
