"""Refusals held back: what a batch did to them stands only when it was committed."""

from datetime import timedelta

from ledger import events as e
from ledger.record.batch import RefusalLog
from ledger.usage import Usage
from tests.properties import core
from tests.properties.core import START, account_id, key_id

COMMAND = core.record(account_id("a"), key_id("k"), "r", Usage())
SECOND = timedelta(seconds=1)


def refused(number: int, reason: str = "key_is_revoked") -> e.RequestRefused:
    """Make a refusal."""
    return e.RequestRefused(by="key", request_id=f"r{number}", reason=reason, usage={"input": 2})


def counts(log: RefusalLog, at) -> list[tuple[str, int]]:
    """Take out what is due: the first request held back, and how many."""
    return [(note.event.request_id, note.times) for note in log.due(at)]


def test_the_first_is_recorded_and_the_rest_of_a_second_counted() -> None:
    """A second after the first, what was held back is due, named by the first of it."""
    log = RefusalLog()
    assert [log.admit(COMMAND, refused(n), START) for n in range(4)] == [True, False, False, False]
    assert log.admit(COMMAND, refused(9, "model_is_denied"), START)
    assert counts(log, START + SECOND / 2) == []
    (note,) = log.due(START + SECOND)
    assert (note.event.request_id, note.times, note.event.usage) == ("r1", 3, {"input": 6})
    assert len(log) == 0
    assert log.admit(COMMAND, refused(5), START + SECOND)


def test_everything_is_due_when_the_process_ends() -> None:
    """Nothing is held back for a second that does not come (C3)."""
    log = RefusalLog()
    for number in range(3):
        log.admit(COMMAND, refused(number), START)
    assert counts(log, None) == [("r1", 2)]


def test_a_batch_that_was_not_committed_counted_nothing() -> None:
    """A batch that is tried again does not count its refusals twice, nor forget a first one."""
    log = RefusalLog()
    log.admit(COMMAND, refused(0), START)
    log.keep()
    log.admit(COMMAND, refused(1), START)
    log.admit(COMMAND, refused(2, "model_is_denied"), START)
    log.undo()
    assert log.admit(COMMAND, refused(2, "model_is_denied"), START)
    assert not log.admit(COMMAND, refused(1), START)
    log.keep()
    log.undo()
    assert counts(log, None) == [("r1", 1)]
