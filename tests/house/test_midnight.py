"""No test begins in the last minute of a UTC day: what is counted per day would begin anew."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from ledger import clock
from tests import conftest


@pytest.mark.parametrize(
    ("at", "waits"),
    [
        (datetime(2026, 11, 21, 12, 0, tzinfo=UTC), []),
        (datetime(2026, 11, 21, 23, 59, tzinfo=UTC), []),
        (datetime(2026, 11, 21, 23, 59, 0, 1, tzinfo=UTC), [59.999999]),
        (datetime(2026, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC), [0.5]),
        (datetime(2027, 1, 1, tzinfo=UTC), []),
    ],
    ids=str,
)
def test_a_test_waits_for_the_new_day(
    monkeypatch: pytest.MonkeyPatch, at: datetime, waits: list[float]
) -> None:
    """By day nothing waits; a minute before midnight everything does, until the day is new."""
    slept: list[float] = []
    monkeypatch.setattr(clock, "now", lambda: at)
    monkeypatch.setattr(time, "sleep", slept.append)
    conftest.pytest_runtest_setup()
    assert slept == waits
    begun = at + timedelta(seconds=sum(slept))
    ended = begun + timedelta(seconds=conftest.LAST_SECONDS, microseconds=-1)
    assert ended.date() == begun.date()
