"""What a projection is: tables that are a fold of events. There are two kinds, each one record.

An inline one moves in the append's own transaction; a catching-up one follows some moments behind.
A projection is a module that ends in its record, and a line in ``registry``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Table

from ledger.codec import Recorded
from ledger.record.batch import BatchChanges, StateQuery, Wanted
from ledger.record.due import Due
from ledger.record.store import Statement
from ledger.state import LaneState


def read_nothing(lane: int, wanted: Wanted) -> list[StateQuery]:  # noqa: ARG001
    """Read nothing: no decision depends on it."""
    return []


class Inline(NamedTuple):
    """Tables that are written with the events they follow from: a ``Projection`` of a batch."""

    name: str
    tables: tuple[Table, ...]
    """Every one has a column ``lane``."""
    save: Callable[[int, LaneState, BatchChanges], list[Statement]]
    """Return what brings the rows of a lane up to its state after some changes."""
    load: Callable[[int, Wanted], list[StateQuery]] = read_nothing
    """Return the queries that bring this projection's part of a lane's state back."""
    due: tuple[Due, ...] = ()
    """Rows that run out by themselves, for the lane to write down."""
    is_state: bool = False
    """The rows are a part of the state itself, so a rebuild may save once for all events. Any other
    projection is given each event once."""


class CatchingUp(NamedTuple):
    """Tables that follow the events of a lane, some moments behind."""

    name: str
    version: int
    """Raised when the fold changes: the rows are then made anew from the first event on."""
    tables: tuple[Table, ...]
    """Every one has a column ``lane``."""
    takes: ColumnElement[bool]
    """Condition on ``store.EVENTS``: those that ``apply`` looks at. It may be given others."""
    apply: Callable[[Sequence[Recorded]], list[Statement]]
    """Pure: events of one lane in, statements out. However a lane is cut into chunks, the rows
    are the same."""
