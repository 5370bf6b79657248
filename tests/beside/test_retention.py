"""What is said is kept for as long as the settings say, in one table and nowhere else."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import structlog

from api import settings
from api.beside import conversations
from api.beside.conversations import NoSuchSession, Turn
from api.beside.session_rows import MessageIsNotKept
from api.operations import Asked
from api.process import job_rows, jobs, logs
from ledger import events as e
from ledger.requests import Record
from ledger.server import database
from ledger.usage import Usage

Tell = Callable[..., None]
PLAYER = {"user_session_id": "u-1", "player_name": "Ada", "player_gender": "female"}
SAID = "nobody shall read this question"
ANSWERED = "nobody shall read this answer"
MESSAGES = "character_messages"


async def a_turn(stage: Any, player: str = "u-1") -> Any:
    """Let a player say something; return the session."""
    account = await stage.account()
    luna = await stage.published(account, f"Luna {player}")
    begun = await stage.talk.begin(luna, **{**PLAYER, "user_session_id": player})
    session = await stage.talk.add(begun.session, Turn(user=SAID, assistant=ANSWERED))
    return luna, session


async def holding(stage: Any, *words: str) -> set[str]:
    """Name the tables that hold one of the words."""
    tables = await stage.everything()
    assert len(tables) > 20
    return {name for name, text in tables.items() if any(word in text for word in words)}


async def age(stage: Any, days: int, where: str = "true") -> None:
    """Make messages so many days older."""
    await stage.rows(
        f"UPDATE character_messages SET created_at = created_at - {days} * interval '1 day'"
        f" WHERE {where}"  # sql-ok: our own words
    )


def test_no_event_and_no_other_table_holds_what_was_said(tell: Tell) -> None:
    """A metered turn leaves its text in one table: a dump of events and all others has none."""

    async def story(stage: Any) -> None:
        luna, session = await a_turn(stage)
        terms = e.KeyIssued(by="operator", name="game", dialect="foil")
        issued = await stage.services.ledger.keys.issue(Asked("operator"), luna.account_id, terms)
        key = issued.done.recorded[0].envelope.key_id
        record = Record(request_id="r1", model="m", category="chat", usage=Usage(input=7, output=7))
        await stage.services.ledger.requests.record(luna.account_id, key, record)
        await stage.shelf.note_chat(luna.account_id, luna.character_id, via="api")
        assert await holding(stage, SAID, ANSWERED) == {MESSAGES}
        events = await stage.rows("SELECT payload::text FROM events")
        assert any('"game"' in text for (text,) in events)
        assert not any(SAID in text or ANSWERED in text for (text,) in events)
        assert len(await stage.talk.history(session)) == 3

    tell(story)


def test_messages_older_than_the_setting_are_hidden_and_deleted(tell: Tell) -> None:
    """What is due is not shown even before the job comes; what is not due stays."""

    async def story(stage: Any) -> None:
        luna, session = await a_turn(stage)
        await age(stage, 6)
        assert await stage.talk.forget() == (0, 0)
        assert len(await stage.talk.history(session)) == 3
        await age(stage, 1, where="number < 3")
        assert [each.content for each in await stage.talk.history(session)] == [ANSWERED]
        assert await holding(stage, SAID) == {MESSAGES}
        assert await jobs.forget_conversations(stage.services) == "2 messages, 0 sessions gone"
        assert await holding(stage, SAID) == set()
        assert await holding(stage, ANSWERED) == {MESSAGES}
        assert await stage.talk.session(luna, "u-1") == session
        moved = await stage.talk.add(session, Turn(user="more", assistant="words"))
        assert [each.content for each in await stage.talk.history(moved)] == [
            ANSWERED,
            "more",
            "words",
        ]

    tell(story, retention_days=7)


def test_with_no_days_text_is_never_written(tell: Tell) -> None:
    """0: no message reaches the disk; score, outcome and times do; what was there goes."""

    async def story(stage: Any) -> None:
        luna, session = await a_turn(stage)
        assert await holding(stage, SAID, ANSWERED, "Hello, Ada") == set()
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(0,)]
        assert await stage.talk.history(session) == []
        moved = await stage.talk.add(session, Turn(user=SAID, assistant=ANSWERED, score=4))
        assert (await stage.talk.session(luna, "u-1")).score == moved.score == 4
        reset = await stage.talk.reset(luna, "u-1")
        assert reset.greeting.startswith("Hello, Ada.")
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(0,)]

    tell(story, retention_days=0)


def test_a_shorter_setting_reaches_what_was_kept_before(tell: Tell) -> None:
    """From 30 days to none: what was written under the old setting is hidden, then deleted."""

    async def before(stage: Any) -> None:
        await a_turn(stage)
        assert await holding(stage, SAID) == {MESSAGES}

    async def after(stage: Any) -> None:
        row = await stage.rows("SELECT character_id FROM character_sessions")
        luna = await stage.shelf.character(row[0][0])
        session = await stage.talk.session(luna, "u-1")
        assert await stage.talk.history(session) == []
        assert await stage.talk.forget() == (3, 0)
        assert await holding(stage, SAID) == set()

    tell(before)
    tell(after, retention_days=0)


def test_deletion_goes_in_bounded_steps(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time and so many times a run; the next run goes on."""
    monkeypatch.setattr(conversations, "FORGET_AT_ONCE", 2)
    monkeypatch.setattr(conversations, "FORGET_ROUNDS", 3)

    async def story(stage: Any) -> None:
        for number in range(3):
            await a_turn(stage, f"u-{number}")
        await age(stage, 31)
        assert [(await stage.talk.forget())[0] for _ in range(3)] == [6, 3, 0]

    tell(story)


def test_deletion_and_new_beginnings_do_not_stop_each_other(tell: Tell) -> None:
    """The job passes over what a session is deleting, so that neither waits for the other."""

    async def story(stage: Any) -> None:
        players = [await a_turn(stage, f"u-{number}") for number in range(6)]
        for _ in range(3):
            await age(stage, 31)
            begin = [
                stage.talk.begin(luna, **{**PLAYER, "user_session_id": session.user_session_id})
                for luna, session in players
            ]
            await asyncio.gather(stage.talk.forget(), *begin, stage.talk.forget())
        await stage.talk.forget()
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(6,)]

    tell(story)


def test_a_session_idle_for_a_year_is_forgotten(tell: Tell) -> None:
    """Players' names do not stay for ever; a session that was spoken in does."""

    async def story(stage: Any) -> None:
        luna, _ = await a_turn(stage)
        sol, _ = await a_turn(stage, "u-2")
        await stage.rows(
            "UPDATE character_sessions SET last_message_at = last_message_at - interval '366 days'"
            " WHERE user_session_id = 'u-1'"
        )
        assert await stage.talk.forget() == (0, 1)
        with pytest.raises(NoSuchSession):
            await stage.talk.session(luna, "u-1")
        assert (await stage.talk.session(sol, "u-2")).player_name == "Ada"
        assert await stage.rows("SELECT count(*) FROM character_messages") == [(3,)]

    tell(story)


def test_the_job_runs_by_the_clock_and_writes_down_only_numbers(tell: Tell) -> None:
    """It is one of the leader's jobs, and its outcome says how many."""

    async def story(stage: Any) -> None:
        await a_turn(stage)
        await age(stage, 31)
        (job,) = [each for each in jobs.JOBS if each.name == "forget_conversations"]
        await jobs.Jobs(stage.services, []).run(job)
        outcomes = {row[0]: row[3] for row in await stage.rows(job_rows.RUNS)}
        assert outcomes == {"forget_conversations": "3 messages, 0 sessions gone"}

    tell(story)


def test_an_error_does_not_repeat_what_was_said(
    tell: Tell, capsys: pytest.CaptureFixture[str], furnished_url: str
) -> None:
    """Whatever the table refuses, neither the error nor its log line has the message in it."""
    breaks = (
        "ALTER TABLE character_messages ADD CONSTRAINT no CHECK (number < 4) NOT VALID",
        "ALTER TABLE character_messages ALTER content TYPE varchar(10) USING left(content, 10)",
        "DROP TABLE character_messages",
    )

    async def story(stage: Any) -> None:
        _, session = await a_turn(stage)
        log = structlog.get_logger("test")
        for statement in breaks:
            with psycopg.connect(database.conninfo(furnished_url, database.OWNER)) as owner:
                owner.execute(statement)
            try:
                await stage.talk.add(session, Turn(user=SAID, assistant=ANSWERED))
            except (psycopg.Error, MessageIsNotKept):
                log.exception("request_failed", operation="add")

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure()
        tell(story)
    finally:
        root.handlers[:], root.level = before, level
        structlog.reset_defaults()
    written = capsys.readouterr().err
    assert written.count("request_failed") == 3
    assert SAID not in written
    assert ANSWERED not in written


def test_people_who_read_reports_read_no_conversation(tell: Tell, furnished_url: str) -> None:
    """The read-only role sees who has how many characters, and no prompt, player or message."""

    async def story(stage: Any) -> None:
        await a_turn(stage)

    tell(story)
    allowed = ("slug, name, status FROM characters", "* FROM character_shelves")
    denied = (
        "content FROM character_messages",
        "player_name FROM character_sessions",
        "system_prompt FROM characters",
        "system_prompt FROM character_scenarios",
        "* FROM characters",
    )
    info = database.conninfo(furnished_url, database.READER)
    with psycopg.connect(info, autocommit=True) as reader:
        for what in allowed:
            assert reader.execute(f"SELECT {what}").fetchall()  # sql-ok: our own words
        for what in denied:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"SELECT {what}")  # sql-ok: our own words


@pytest.mark.parametrize(("text", "days"), [("", 30), ("0", 0), ("7", 7), ("36500", 36_500)])
def test_the_setting_is_a_number_of_days(text: str, days: int) -> None:
    """Unset: 30. Zero is a setting of its own."""
    found = settings.from_environment({"KEYLEDGER_RETENTION_DAYS": text})
    assert found.retention_days == days


@pytest.mark.parametrize("text", ["-1", "1.5", "36501", "forever", "٣"])
def test_what_is_no_number_of_days_is_refused(text: str) -> None:
    """A wrong setting stops the start and names the variable."""
    with pytest.raises(settings.InvalidSetting, match="KEYLEDGER_RETENTION_DAYS"):
        settings.from_environment({"KEYLEDGER_RETENTION_DAYS": text})
