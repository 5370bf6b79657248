"""Sessions of a player with a persona: begun, spoken in, reset; at once and apart."""

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest

from api.beside import conversations
from api.beside.characters import NAME_MAX
from api.beside.conversations import NoSuchSession, PlayerSession, Turn
from ledger import secrets
from ledger.errors import InvalidField

Tell = Callable[..., None]
PLAYER = {"user_session_id": "u-1", "player_name": "Ada", "player_gender": "female"}


async def persona(stage: Any, **terms: Any) -> Any:
    """Publish a persona of a new account."""
    return await stage.published(await stage.account(), **terms)


async def said(stage: Any, session: PlayerSession) -> list[tuple[str, str]]:
    """Return who said what."""
    return [(each.role, each.content) for each in await stage.talk.history(session)]


def test_fo6_a_session_begins_with_a_greeting(tell: Tell) -> None:
    """FO6: state, score and outcome are those of a beginning; the greeting is the first message."""

    async def story(stage: Any) -> None:
        luna = await persona(stage, greeting="Welcome, {player}.")
        begun = await stage.talk.begin(luna, **PLAYER)
        session = begun.session
        assert begun.greeting == "Welcome, Ada."
        assert await stage.talk.session(luna, "u-1") == session
        assert (session.current_state, session.score, session.outcome) == ("conversation", 0, None)
        assert (session.player_name, session.player_gender) == ("Ada", "female")
        assert session.last_message_at == session.started_at
        (first,) = await stage.talk.history(session)
        assert (first.role, first.content) == ("assistant", "Welcome, Ada.")
        assert (first.state_key_at_time, first.score_at_time) == ("conversation", 0)
        assert (first.decision, first.follow_up_triggered) == (None, False)
        assert first.created_at == session.started_at

    tell(story)


def test_a_turn_is_two_messages_and_moves_the_session(tell: Tell) -> None:
    """What was said and answered stand in their order, with the state and score of the time."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        begun = (await stage.talk.begin(luna, **PLAYER)).session
        turn = Turn(
            user="Who are you?",
            assistant="Luna.",
            current_state="met",
            score=3,
            outcome="won",
            decision="answer",
            follow_up=True,
        )
        moved = await stage.talk.add(begun, turn)
        assert moved == await stage.talk.session(luna, "u-1")
        assert (moved.current_state, moved.score, moved.outcome) == ("met", 3, "won")
        assert moved.last_message_at > moved.started_at
        await stage.talk.add(moved, Turn(user="Bye", assistant="Bye."))
        history = await stage.talk.history(moved)
        assert [each.content for each in history[1:]] == ["Who are you?", "Luna.", "Bye", "Bye."]
        asked, answered = history[1:3]
        assert (asked.role, asked.decision, asked.follow_up_triggered) == ("user", None, False)
        assert (answered.role, answered.decision, answered.follow_up_triggered) == (
            "assistant",
            "answer",
            True,
        )
        assert {(each.state_key_at_time, each.score_at_time) for each in history[1:3]} == {
            ("met", 3)
        }
        assert len({each.message_id for each in history}) == 5
        latest = await stage.talk.history(moved, most=2)
        assert [each.content for each in latest] == ["Bye", "Bye."]

    tell(story)


def test_to_begin_again_forgets_what_was_said(tell: Tell) -> None:
    """An existing user_session_id starts afresh: another id, another player, no old message."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        first = (await stage.talk.begin(luna, **PLAYER)).session
        await stage.talk.add(first, Turn(user="a", assistant="b", score=5, outcome="lost"))
        again = {**PLAYER, "player_name": "Bo", "player_gender": "non-binary"}
        second = (await stage.talk.begin(luna, **again)).session
        assert second.session_id != first.session_id
        assert (second.player_name, second.score, second.outcome) == ("Bo", 0, None)
        assert await said(stage, second) == [("assistant", "Hello, Bo. I am Luna.")]
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(1,)]

    tell(story)


def test_a_reset_keeps_the_session_and_forgets_what_was_said(tell: Tell) -> None:
    """The id, the player and the machine stay; messages, score and outcome go."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        first = (await stage.talk.begin(luna, **PLAYER)).session
        await stage.talk.add(first, Turn(user="a", assistant="b", score=5, outcome="lost"))
        reset = await stage.talk.reset(luna, "u-1")
        assert reset.greeting == "Hello, Ada. I am Luna."
        assert reset.session == await stage.talk.session(luna, "u-1")
        assert reset.session.session_id == first.session_id
        assert (reset.session.score, reset.session.outcome) == (0, None)
        assert reset.session.started_at > first.started_at
        assert await said(stage, reset.session) == [("assistant", reset.greeting)]

    tell(story)


def test_a_turn_begun_before_a_new_beginning_is_not_added_after_it(tell: Tell) -> None:
    """Whoever answers late, after a reset or another init, writes neither message nor score."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        late = Turn(user="late", assistant="late", score=9)
        before = (await stage.talk.begin(luna, **PLAYER)).session
        after = (await stage.talk.reset(luna, "u-1")).session
        assert await stage.talk.add(before, late) is None
        assert await stage.talk.add(after, late) is not None
        fresh = (await stage.talk.begin(luna, **PLAYER)).session
        assert await stage.talk.add(after, late) is None
        assert len(await said(stage, fresh)) == 1
        assert (await stage.talk.session(luna, "u-1")).score == 0

    tell(story)


def test_of_two_beginnings_at_once_one_is_the_session(tell: Tell) -> None:
    """Whichever is last, there is one session, with its own greeting and nothing else."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        begun = await asyncio.gather(
            *(
                stage.talk.begin(luna, **{**PLAYER, "player_name": f"Player {number}"})
                for number in range(8)
            )
        )
        assert len({each.session.session_id for each in begun}) == 8
        session = await stage.talk.session(luna, "u-1")
        assert session in [each.session for each in begun]
        expected = f"Hello, {session.player_name}. I am Luna."
        assert await said(stage, session) == [("assistant", expected)]
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(1,)]

    tell(story)


def test_turns_at_once_are_all_there_and_whole(tell: Tell) -> None:
    """Twenty turns at once, with inits of another player between: each question by its answer."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        session = (await stage.talk.begin(luna, **PLAYER)).session
        turns = [stage.talk.add(session, Turn(user=f"q{n}", assistant=f"a{n}")) for n in range(20)]
        others = [stage.talk.begin(luna, **{**PLAYER, "user_session_id": "u-2"}) for _ in range(4)]
        await asyncio.gather(*turns, *others)
        history = (await said(stage, session))[1:]
        pairs = list(zip(history[::2], history[1::2], strict=True))
        assert len(pairs) == 20
        assert {(q[1][1:], q[0], a[0]) for q, a in pairs if q[1][1:] == a[1][1:]} == {
            (str(n), "user", "assistant") for n in range(20)
        }

    tell(story)


def test_a_turn_is_written_whole_or_not_at_all(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the answer takes the question and the score back."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        session = (await stage.talk.begin(luna, **PLAYER)).session
        kept = conversations._kept

        def fails(text: str, most: int) -> str:
            if text == "the answer":
                raise OSError(errno.EIO, "no")
            return kept(text, most)

        monkeypatch.setattr(conversations, "_kept", fails)
        with pytest.raises(OSError, match="no"):
            await stage.talk.add(session, Turn(user="q", assistant="the answer", score=7))
        assert len(await said(stage, session)) == 1
        assert await stage.talk.session(luna, "u-1") == session

    tell(story)


def test_players_personas_and_accounts_are_apart(tell: Tell) -> None:
    """Promise 15: the same user_session_id with another persona or account is another session."""

    async def story(stage: Any) -> None:
        account = await stage.account()
        luna, sol = await stage.published(account), await stage.published(account, "Sol")
        other = await persona(stage, name="Other")
        session = (await stage.talk.begin(luna, **PLAYER)).session
        for absent in ((sol, "u-1"), (other, "u-1"), (luna, "u-2"), (luna, "U-1"), (luna, "")):
            with pytest.raises(NoSuchSession):
                await stage.talk.session(*absent)
            with pytest.raises(NoSuchSession):
                await stage.talk.reset(*absent)
        for each in (sol, other):
            await stage.talk.begin(each, **PLAYER)
        assert await stage.talk.session(luna, "u-1") == session

    tell(story)


def test_a_persona_has_one_machine(tell: Tell) -> None:
    """The list says whether the player has a session, and how it ended."""

    async def story(stage: Any) -> None:
        luna = await persona(stage, description="Keeps the light.")
        (machine,) = await stage.talk.machines(luna, "u-1")
        assert (machine.machine_id, machine.has_session) == (luna.machine_id, False)
        assert (machine.name, machine.description) == ("Luna", "Keeps the light.")
        session = (await stage.talk.begin(luna, **PLAYER)).session
        await stage.talk.add(session, Turn(user="a", assistant="b", outcome="won"))
        (machine,) = await stage.talk.machines(luna, "u-1")
        assert (machine.has_session, machine.session_outcome, machine.is_linked) == (
            True,
            "won",
            False,
        )

    tell(story)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("user_session_id", ""),
        ("user_session_id", "x" * (NAME_MAX + 1)),
        ("user_session_id", "a\x00"),
        ("player_name", " "),
        ("player_name", "x" * (NAME_MAX + 1)),
        ("player_name", "pk_live_" + "0" * 32),
        ("player_gender", "male "),
        ("player_gender", ""),
    ],
)
def test_a_beginning_names_what_is_wrong(tell: Tell, field: str, text: str) -> None:
    """Texts are bounded before anything is written."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        with pytest.raises(InvalidField) as refused:
            await stage.talk.begin(luna, **{**PLAYER, field: text})
        assert refused.value.field == field
        assert await stage.rows("SELECT count(*) FROM character_sessions") == [(0,)]

    tell(story)


def test_a_session_keeps_so_many_messages(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, the newest stay; a history has a bound in bytes too."""
    monkeypatch.setattr(conversations, "MESSAGES_MAX", 5)

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        session = (await stage.talk.begin(luna, **PLAYER)).session
        for n in range(6):
            await stage.talk.add(session, Turn(user=f"q{n}", assistant=f"a{n}"))
        kept = [content for _, content in await said(stage, session)]
        assert kept == ["a3", "q4", "a4", "q5", "a5"]
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(5,)]
        monkeypatch.setattr(conversations, "HISTORY_MAX_BYTES", 7)
        assert [content for _, content in await said(stage, session)] == ["a4", "q5", "a5"]

    tell(story)


def test_a_message_is_checked_before_and_cut_after(tell: Tell) -> None:
    """A player's message is refused when too long; a reply that was paid for is kept so far."""
    assert conversations.require_message("x" * conversations.MESSAGE_MAX)
    for text in ("", " \n", "x" * (conversations.MESSAGE_MAX + 1)):
        with pytest.raises(InvalidField) as refused:
            conversations.require_message(text)
        assert refused.value.field == "message"

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        session = (await stage.talk.begin(luna, **PLAYER)).session
        odd = "a\x00b\ud800" + "ü" * 100_000
        await stage.talk.add(session, Turn(user="q", assistant=odd))
        reply = (await stage.talk.history(session))[-1].content
        assert reply == "a\ufffdb\ufffd" + "ü" * (conversations.REPLY_MAX - 4)

    tell(story)


@pytest.mark.parametrize("form", secrets.FORMATS, ids=lambda form: form.prefix)
def test_promise_11_a_secret_that_was_said_is_not_kept(tell: Tell, form: secrets.Format) -> None:
    """Promise 11: whoever pastes a key into a chat, or a model that repeats it, leaves no copy."""

    async def story(stage: Any) -> None:
        luna = await persona(stage)
        session = (await stage.talk.begin(luna, **PLAYER)).session
        secret = secrets.generate(form)
        await stage.talk.add(session, Turn(user=f"It is {secret}!", assistant=secret))
        assert await said(stage, session) == [
            ("assistant", "Hello, Ada. I am Luna."),
            ("user", "It is [redacted]!"),
            ("assistant", "[redacted]"),
        ]
        assert all(secret not in text for text in (await stage.everything()).values())

    tell(story)
