"""Decisions about rate cards, and the set of published versions a decision prices with."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ledger import events as e
from ledger.clock import LATEST, Instant
from ledger.errors import InvalidField, PriceJumps
from ledger.pricing import (
    InvalidRateCard,
    PriceBook,
    RateCard,
    card_at,
    check_card,
    content_hash,
    jumps,
)


class RateCards:
    """Every published version, compiled on first use. Versions never change; they only come."""

    def __init__(self, cards: Iterable[RateCard] = ()) -> None:
        self._versions: dict[str, list[RateCard]] = {}
        self._books: dict[str, PriceBook] = {}
        self._in_force: dict[str, _InForce] = {}
        self.count = 0
        """How many versions there are: the fence by which a reader knows it has them all."""
        for card in cards:
            self.add(card)

    def add(self, card: RateCard) -> None:
        """Take in a published version."""
        self._versions.setdefault(card.name, []).append(card)
        self._in_force.pop(card.name, None)
        self.count += 1

    def versions(self, name: str) -> list[RateCard]:
        """Give the versions of a card, oldest first."""
        return list(self._versions.get(name, ()))

    def names(self) -> list[str]:
        """Give the names of all cards."""
        return sorted(self._versions)

    def current(self, name: str, at: Instant) -> PriceBook | None:
        """Give the version in force at an instant; None: there is none."""
        found = self._in_force.get(name)
        if found is None or not found.since <= at < found.until:
            found = self._find(name, at)
            if found is None:
                return None
            self._in_force[name] = found
        return found.book

    def _find(self, name: str, at: Instant) -> "_InForce | None":
        versions = self._versions.get(name, ())
        card = card_at(versions, at)
        if card is None:
            return None
        later = [other.effective_from for other in versions if other.effective_from > at]
        return _InForce(card.effective_from, min(later, default=LATEST), self._book(card))

    def pinned(self, reference: str) -> PriceBook | None:
        """Give the version that an event names, such as ``standard/3``."""
        name, _, version = reference.rpartition("/")
        for card in self._versions.get(name, ()):
            if str(card.version) == version:
                return self._book(card)
        return None

    def _book(self, card: RateCard) -> PriceBook:
        reference = reference_of(card)
        book = self._books.get(reference)
        if book is None:
            book = self._books[reference] = PriceBook(card)
        return book


class _InForce(NamedTuple):
    """The version found last, and between which instants it is the one."""

    since: Instant
    until: Instant
    book: PriceBook


def reference_of(card: RateCard) -> str:
    """Name a version as events do: ``standard/3``."""
    return f"{card.name}/{card.version}"


def publish(cards: RateCards, card: RateCard, *, by: str, confirm_jumps: bool) -> list[e.AnyEvent]:
    """Publish a version; quiet when the newest one has the same content.

    ``card.version`` is decided here, whatever it says.

    Raises:
        InvalidField: A price or a name is wrong, or the asset differs from earlier versions'.
        PriceJumps: A unit price moved more than tenfold and nobody confirmed it (I6).
    """
    earlier = cards.versions(card.name)
    numbered = msgspec.structs.replace(card, version=len(earlier) + 1)
    try:
        check_card(numbered)
    except InvalidRateCard as error:
        raise InvalidField(error.field, error.message) from error
    if earlier:
        last = earlier[-1]
        if last.asset != card.asset:
            raise InvalidField("asset", f"{card.name} is priced in {last.asset}")
        if content_hash(last) == content_hash(numbered):
            return []
        moved = tuple(map(str, jumps(last, numbered)))
        if moved and not confirm_jumps:
            raise PriceJumps(moved)
    return [e.RateCardPublished(by=by, content_hash=content_hash(numbered), card=numbered)]
