"""Shows the state that a decision about a request or call led to, from inside the lane.

Nothing here decides: it wraps the rules of ``ledger``, which do.
"""

from collections.abc import Callable

from ledger import metering
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import KeyId
from ledger.record.store import Row
from ledger.requests import Facts, Made, Reserve
from ledger.state import Account, Key

Decide = Callable[[Facts, Instant], Made]
Also = Callable[[list[Recorded]], list[Row]]
"""Called in the lane after the events of a decision."""
Sees = Callable[[Account, Key, Instant], None]
"""Receives the state that a request was admitted into."""


def reserving(reserve: Reserve, key_id: KeyId) -> Decide:
    """Return the decision to hold the worst case of a request."""

    def decide(facts: Facts, at: Instant) -> Made:
        return metering.reserve(facts, reserve, key_id=key_id, at=at)

    return decide


def shown(decide: Decide, sees: Sees | None) -> tuple[Decide, Also | None]:
    """Return a decision with what comes after it: ``sees`` is shown the state that it led to."""
    if sees is None:
        return decide, None
    made = _Shown(decide, sees)
    return made.decide, made.also


class _Shown:
    """A decision on its way through the lane; ``sees`` is shown the state that it led to."""

    __slots__ = ("_decide", "_facts", "_sees")

    def __init__(self, decide: Decide, sees: Sees) -> None:
        self._decide = decide
        self._sees = sees
        self._facts: Facts

    def decide(self, facts: Facts, at: Instant) -> Made:
        self._facts = facts
        return self._decide(facts, at)

    def also(self, recorded: list[Recorded]) -> list[Row]:
        # The state has taken in what was recorded.
        assert self._facts.account is not None
        assert self._facts.key is not None
        self._sees(self._facts.account, self._facts.key, recorded[0].envelope.recorded_at)
        return []
