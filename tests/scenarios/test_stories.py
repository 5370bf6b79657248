"""Stories in plain words, told to the pure core and to PostgreSQL: the same comes of both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.clock import parse_instant
from tests.properties.audit import check_database
from tests.properties.core import START, Core
from tests.properties.postgres import Stored
from tests.scenarios.language import Line, Story, read

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


def as_expected(line: Line, came: str) -> bool:
    """Return whether it came as the story says; a refusal may be told without its numbers."""
    if not line.expected:
        return not came.startswith("refused")
    return came == line.expected or (
        line.expected.startswith("refused") and came.startswith(f"{line.expected} ")
    )


def told(path: Path, backend) -> list[str]:
    """Tell a story; return what came of each line."""
    lines = read(path)
    if lines[0].verb == "at":
        backend.at = parse_instant(lines[0].names[0])
    story = Story(backend)
    answers = []
    for line in lines:
        came = story.tell(line)
        assert as_expected(line, came), f"{path.name}:{line.number}: {line.verb} -> {came}"
        answers.append(came)
    return answers


@pytest.fixture
def stored(one_lane_url) -> Iterator[Stored]:
    """Yield a writer over a fresh database."""
    backend = Stored(one_lane_url, START)
    yield backend
    backend.close()


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_comes_true_in_the_core_and_in_postgresql(path, stored) -> None:
    """Every line has the outcome that the story says, and the events are the same to the byte.

    The writer with its batches, caches and SQL adds nothing to what the pure core decides
    (Promise 5), and every table says what the events say (Promise 7, Promise 12).
    """
    core = Core()
    answers = told(path, core)
    assert told(path, stored) == answers
    stored.settle_down()
    log = check_database(stored.url)
    assert [event.hash for event in log] == [event.hash for event in core.log]


def test_there_are_stories_and_each_says_what_it_is_about() -> None:
    """A story begins with a sentence, and expects something."""
    assert len(STORIES) >= 10
    for path in STORIES:
        assert path.read_text("utf-8").startswith("# ")
        assert sum(bool(line.expected) for line in read(path)) >= 4
