"""What a catching-up projection is: ``engine`` moves it, ``rebuild`` makes it anew."""

from collections.abc import Callable, Sequence
from typing import LiteralString, NamedTuple

from ledger.codec import Recorded
from ledger.record.store import Statement


class Projection(NamedTuple):
    """Tables that follow the events of a lane, some moments behind."""

    name: str
    version: int
    """Raised when the fold changes: the rows are then made anew from the first event on."""
    tables: tuple[str, ...]
    """Every one has a column ``lane``."""
    clear: tuple[LiteralString, ...]
    """Statements that take away a lane's rows; each has the lane as its one parameter."""
    takes: LiteralString
    """Condition on a row of ``events``: those that ``apply`` looks at. It may be given others."""
    apply: Callable[[Sequence[Recorded]], list[Statement]]
    """Pure: events of one lane in, statements out. However a lane is cut into chunks, the rows
    are the same."""
