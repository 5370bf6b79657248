"""The one place that reads a clock, and the forms an instant takes.

An ``Instant`` is an aware ``datetime`` in UTC with microseconds. Decisions take time as an
argument, so that any past can be replayed. They get it from the database's clock, with the lane's
lock; reads get it from a ``DatabaseClock``. The host's own clock times input and output, and is
compared with the database's.
"""

import re
import time
from datetime import UTC, datetime, timedelta

Instant = datetime
"""Aware, UTC, microsecond resolution."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class InvalidInstant(ValueError):
    """The time is not RFC 3339 with a zone, between the years 2000 and 9000."""


def now() -> Instant:
    """Read this host's clock, by which nothing is decided and nothing recorded."""
    return datetime.now(UTC)


class DatabaseClock:
    """The database's clock as this process last heard it, and the seconds counted since.

    For reads that have no statement of their own to ask it in: what is shown, and what is let
    through before the lane decides. The host's clock has no part in it.
    """

    def __init__(self) -> None:
        """Start before the database was heard."""
        self._heard: Instant | None = None
        self._counted: int = 0

    def hear(self, at: Instant) -> None:
        """Take what the database just said."""
        self._heard, self._counted = at, time.monotonic_ns()

    def now(self) -> Instant:
        """Return what the database would say now."""
        assert self._heard is not None, "Nobody asked the database yet."
        return self._heard + timedelta(microseconds=(time.monotonic_ns() - self._counted) // 1_000)


def microseconds(at: Instant) -> int:
    """Return microseconds since 1970-01-01T00:00:00Z, exactly."""
    return (at - EPOCH) // TICK


def from_microseconds(count: int) -> Instant:
    """Turn microseconds since 1970 into an instant, exactly."""
    return EPOCH + timedelta(microseconds=count)


def parse_instant(text: str) -> Instant:
    """Read an RFC 3339 date-time; digits beyond microseconds are cut.

    Raises:
        InvalidInstant: No zone, no such day, out of range.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise InvalidInstant
    fraction = match[1] or ""
    try:
        at = datetime.fromisoformat(text.replace(fraction, fraction[:7], 1) if fraction else text)
        at = at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInstant from error
    if not EARLIEST <= at < LATEST:
        raise InvalidInstant
    return at


def format_instant(at: Instant) -> str:
    """Write an instant as ``2026-11-21T02:00:00.123456Z``; the fraction only where there is one."""
    return at.isoformat().replace("+00:00", "Z")


def format_milliseconds(at: Instant) -> str:
    """Write an instant as ``2026-11-21T02:00:00.123Z``; further digits are cut."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_seconds(at: Instant) -> str:
    """Write an instant as ``2026-11-21T02:00:00Z``; the fraction is cut."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
