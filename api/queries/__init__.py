"""What people may ask: reads of projections, by subject, each as of a lane's position.

Answers are facts: states as decisions see them, stored events, sums. Nothing here knows HTTP or
words an answer: the door that asked shows them in its own way. What a request became is asked of
its lane: ``api.operations``.

Read ``reader`` (snapshots, what a read gives), then ``accounts``; others are like it. ``movements``
is a pure fold of events. ``resolve`` is apart: from secrets and ids to accounts, cached.
"""

from collections.abc import Container

from api.queries.accounts import AccountQueries, Member, Named
from api.queries.credit import CreditQueries, Grant, Movements
from api.queries.events import Chain, Chapter, EventQueries, LaneHead
from api.queries.keys import KeyQueries, Verdict
from api.queries.movements import TYPES as MOVEMENT_TYPES
from api.queries.movements import Filters, Movement, MovementPlace
from api.queries.prices import PriceQueries
from api.queries.reader import Found, Part, Reader, each
from api.queries.refusals import RefusalLine, RefusalQueries
from api.queries.requests import Beside, KeptReport, RequestQueries
from api.queries.spend import (
    GROUPS,
    Analytics,
    AnalyticsTerms,
    KeyUsageLine,
    SpendLine,
    SpendQueries,
    SpendTerms,
    UsageOfKeys,
    UsageTerms,
)
from ledger.ratecards import RateCards
from ledger.secrets import Peppers

__all__ = [
    "GROUPS",
    "MOVEMENT_TYPES",
    "Analytics",
    "AnalyticsTerms",
    "Beside",
    "Chain",
    "Chapter",
    "Filters",
    "Found",
    "Grant",
    "KeptReport",
    "KeyUsageLine",
    "LaneHead",
    "Member",
    "Movement",
    "MovementPlace",
    "Movements",
    "Named",
    "Part",
    "Queries",
    "Reader",
    "RefusalLine",
    "SpendLine",
    "SpendTerms",
    "UsageOfKeys",
    "UsageTerms",
    "Verdict",
    "each",
]


class Queries:
    """What doors use: ``queries.keys.one(...)``, ``queries.spend.sums(...)``."""

    def __init__(
        self,
        reader: Reader,
        peppers: Peppers,
        cards: RateCards,
        with_characters: Container[str] = (),
    ) -> None:
        """Take the reader, how secrets are hashed, and the process's rate cards.

        ``with_characters``: the dialects whose models are characters.
        """
        self.accounts = AccountQueries(reader)
        self.keys = KeyQueries(reader, peppers)
        self.credit = CreditQueries(reader, with_characters)
        self.spend = SpendQueries(reader)
        self.events = EventQueries(reader)
        self.refusals = RefusalQueries(reader)
        self.prices = PriceQueries(reader, cards)
        self.requests = RequestQueries(reader)
