"""Decisions about rate cards, and the set of published versions a decision prices with.

Two times matter: since when a version is in force, and since when it was known. What is in force
at an instant, as known at another, is one look-up here, for charges and for whoever asks later.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from ledger import events as e
from ledger.clock import EARLIEST, LATEST, Instant, format_instant
from ledger.errors import InvalidField, NoSuchRateCard, PricesAreSuspicious, RateCardIsInForce
from ledger.model_names import OTHERS, Pattern
from ledger.pricing import (
    ConditionPrice,
    InvalidRateCard,
    ModelPrice,
    PriceBook,
    PriceChange,
    Prices,
    RateCard,
    check_card,
    content_hash,
    diff,
    jumps,
    paid,
    place_of,
    unit_price,
)
from ledger.usage import CLASSES

LISTED_MAX = 20
"""Names and prices that one reason lists."""


class Version(NamedTuple):
    """A published version, and when it was known."""

    card: RateCard
    recorded_at: Instant
    withdrawn_at: Instant | None = None
    """Not known any more from this instant on; None: never withdrawn."""

    def known(self, at: Instant) -> bool:
        """Return whether it counts for anyone who knows what was known then."""
        return self.recorded_at <= at and (self.withdrawn_at is None or at < self.withdrawn_at)


class RateCards:
    """Every published version, compiled on first use.

    Versions never change; they come, and those that are not in force yet may be withdrawn.
    """

    def __init__(self, cards: Iterable[RateCard] = ()) -> None:
        self._versions: dict[str, list[Version]] = {}
        self._books: dict[str, PriceBook] = {}
        self._in_force: dict[str, _InForce] = {}
        self.count = 0
        """How many versions and withdrawals there are: the fence by which a reader knows that it
        has them all."""
        self.seq = 0
        """Position of the newest version, in the lane where they are published."""
        for card in cards:
            self.add(card)

    def add(self, card: RateCard, recorded_at: Instant = EARLIEST) -> None:
        """Take in a published version."""
        self._versions.setdefault(card.name, []).append(Version(card, recorded_at))
        self._in_force.pop(card.name, None)
        self.count += 1

    def withdraw(self, name: str, version: int, withdrawn_at: Instant) -> None:
        """Take in that a version was withdrawn."""
        versions = self._versions[name]
        found = versions[version - 1]
        if found.withdrawn_at is None:
            versions[version - 1] = found._replace(withdrawn_at=withdrawn_at)
            self._in_force.pop(name, None)
            self.count += 1

    def versions(self, name: str) -> list[RateCard]:
        """Return the versions of a card, oldest first, withdrawn ones too."""
        return [version.card for version in self._versions.get(name, ())]

    def history(self, name: str) -> list[Version]:
        """Return the versions of a card with when they were known, oldest first."""
        return list(self._versions.get(name, ()))

    def names(self) -> list[str]:
        """Return the names of all cards."""
        return sorted(self._versions)

    def assets(self) -> set[str]:
        """Return the assets that prices are in."""
        return {versions[0].card.asset for versions in self._versions.values()}

    def current(self, name: str, at: Instant, known_at: Instant | None = None) -> PriceBook | None:
        """Return the version in force at an instant, among those known at another.

        Among those that have started by then, the latest start wins, and of equal starts the last
        version. ``known_at`` None: all that is known by now. None: there is none.
        """
        known = LATEST if known_at is None else known_at
        found = self._in_force.get(name)
        if (
            found is None
            or not found.since <= at < found.until
            or not found.known_since <= known < found.known_until
        ):
            found = self._find(name, at, known)
            if found is None:
                return None
            self._in_force[name] = found
        return found.book

    def _find(self, name: str, at: Instant, known_at: Instant) -> "_InForce | None":
        versions = self._versions.get(name, ())
        known = [version.card for version in versions if version.known(known_at)]
        begun = [card for card in known if card.effective_from <= at]
        card = max(begun, key=lambda card: (card.effective_from, card.version), default=None)
        if card is None:
            return None
        later = [other.effective_from for other in known if other.effective_from > at]
        learnt = [at for _, *both in versions for at in both if at is not None]
        return _InForce(
            card.effective_from,
            min(later, default=LATEST),
            max(at for at in learnt if at <= known_at),
            min((at for at in learnt if at > known_at), default=_END),
            self._book(card),
        )

    def pinned(self, reference: str) -> PriceBook | None:
        """Return the version that an event names, such as ``standard/3``."""
        name, _, version = reference.rpartition("/")
        for card in self.versions(name):
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
    """The version found last, and between which instants it is the one, known and in force."""

    since: Instant
    until: Instant
    known_since: Instant
    known_until: Instant
    book: PriceBook


_END = LATEST + timedelta(days=1)


def reference_of(card: RateCard) -> str:
    """Name a version as events do: ``standard/3``."""
    return f"{card.name}/{card.version}"


class CardDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be published: a patch of the version in force then, or its replacement."""

    name: str
    asset: str
    models: dict[str, ModelPrice]
    aliases: dict[str, str] = {}
    patterns: tuple[Pattern, ...] = ()
    effective_from: Instant | None = None
    """None: from the instant on at which it is recorded."""
    source: str = ""
    replace: bool = False
    """True: what is not named here is removed. False: it stays."""


def draft_of(card: RateCard, *, start: Instant | None, replace: bool = False) -> CardDraft:
    """Make a draft of a card, in force from ``start`` on, whatever the card says."""
    return CardDraft(
        name=card.name,
        asset=card.asset,
        models=card.models,
        aliases=card.aliases,
        patterns=card.patterns,
        effective_from=start,
        source=card.source,
        replace=replace,
    )


class Proposal(NamedTuple):
    """The version that a draft would become."""

    card: RateCard
    base: RateCard | None
    """The version so far in force at its start; None: there is none."""
    reasons: tuple[str, ...]
    """What looks like a mistake, as sentences."""

    @property
    def is_news(self) -> bool:
        """Whether it says anything that the version in force then does not."""
        base, card = self.base, self.card
        return base is None or (
            (base.models, base.aliases, base.patterns) != (card.models, card.aliases, card.patterns)
        )

    def changes(self) -> list[PriceChange]:
        """List the prices that differ from the version in force at its start."""
        return [] if self.base is None else diff(self.base, self.card)

    def losing(self, names: Iterable[str]) -> list[str]:
        """Pick the names, as requests write them, that would lose a price."""
        if self.base is None:
            return []
        before, after = PriceBook(self.base), PriceBook(self.card)
        return [name for name in names if _loses(before.terms(name), after.terms(name))]


def propose(cards: RateCards, draft: CardDraft, *, at: Instant) -> Proposal:
    """Work out the version that a draft would become, and what looks like a mistake in it.

    Raises:
        InvalidField: A price or a name is wrong, the asset differs from that of earlier versions,
            or past prices would change.
    """
    versions = cards.versions(draft.name)
    if versions and versions[-1].asset != draft.asset:
        raise InvalidField("asset", f"{draft.name} is priced in {versions[-1].asset}")
    start = draft.effective_from or at
    book = cards.current(draft.name, start)
    base, past = None if book is None else book.card, start < at
    card = RateCard(
        name=draft.name,
        version=len(versions) + 1,
        asset=draft.asset,
        effective_from=start,
        models=draft.models,
        aliases=draft.aliases,
        patterns=draft.patterns,
        source=draft.source,
    )
    if base is not None and not draft.replace:
        card = _patched(base, card, last=past)
    try:
        check_card(card)
    except InvalidRateCard as error:
        raise InvalidField(error.field, error.message) from error
    if base is None:
        return Proposal(card, base, ())
    changed = next(_changed(PriceBook(base), PriceBook(card)), None) if past else None
    if changed is not None:
        problem = (
            f"{reference_of(base)} was in force then, and {changed}. Changing past prices is a"
            " re-rating. A version that begins in the past may only add what had no price"
        )
        raise InvalidField("effective_from", problem)
    later = [
        version.card
        for version in cards.history(draft.name)
        if version.withdrawn_at is None and version.card.effective_from > start
    ]
    return Proposal(card, base, tuple(_suspicions(base, card, later)))


def publish(
    cards: RateCards,
    draft: CardDraft,
    *,
    by: str,
    at: Instant,
    confirm: bool = False,
    users: int = 0,
) -> list[e.AnyEvent]:
    """Publish a version; quiet when the one in force then says the same.

    ``users``: how many accounts used a model lately that would lose a price.

    Raises:
        InvalidField: As ``propose``.
        PricesAreSuspicious: Something looks like a mistake and nobody confirmed it (I6).
    """
    proposal = propose(cards, draft, at=at)
    if not proposal.is_news:
        return []
    reasons = reasons_of(proposal, users)
    if reasons and not confirm:
        raise PricesAreSuspicious(reasons)
    card = proposal.card
    return [e.RateCardPublished(by=by, content_hash=content_hash(card), card=card)]


def reasons_of(proposal: Proposal, users: int) -> tuple[str, ...]:
    """Return all that has to be confirmed, as sentences."""
    if not users:
        return proposal.reasons
    accounts = "1 account has" if users == 1 else f"{users} accounts have"
    lost = f"{accounts} used a model in the last 30 days that loses a price."
    return (*proposal.reasons, lost)


def withdraw(
    cards: RateCards, name: str, version: int, *, by: str, at: Instant
) -> list[e.AnyEvent]:
    """Withdraw a version that is not in force yet; quiet when it was withdrawn already.

    Raises:
        NoSuchRateCard: There is no such version.
        RateCardIsInForce: It has taken effect.
    """
    versions = cards.history(name)
    if not 1 <= version <= len(versions):
        raise NoSuchRateCard
    found = versions[version - 1]
    if found.withdrawn_at is not None:
        return []
    if found.card.effective_from <= at:
        raise RateCardIsInForce
    return [e.RateCardWithdrawn(by=by, name=name, version=version)]


def _patched(base: RateCard, card: RateCard, *, last: bool) -> RateCard:
    """Keep what a card does not name. Its patterns come before those that stay, or ``last``.

    A model's patterns are replaced together; those that take names out of pricing all stay.
    """
    models = {**base.models, **card.models}
    aliases = {alias: model for alias, model in base.aliases.items() if alias not in models}
    replaced = {pattern.model for pattern in card.patterns if pattern.model}
    staying = tuple(
        pattern
        for pattern in base.patterns
        if pattern.model not in replaced and (last or pattern not in card.patterns)
    )
    brought = tuple(pattern for pattern in card.patterns if pattern not in staying)
    return msgspec.structs.replace(
        card,
        models=models,
        aliases={**aliases, **card.aliases},
        patterns=(*staying, *brought) if last else (*brought, *staying),
    )


# What may not change in the past.


def _changed(before: PriceBook, after: PriceBook) -> Iterator[str]:
    """Say which existing prices would change; an addition changes none."""
    old, new = before.card, after.card
    for name in sorted({*old.models, *old.aliases, *new.models, *new.aliases} - {OTHERS}):
        was, now = before.name_of(name), after.name_of(name)
        if was is not None and was != now:
            yield f"{name} had a price" if name == was else f"{name} had the prices of {was}"
    for model, price in old.models.items():
        yield from _changed_terms(model, price, new.models.get(model))
    stay = new.patterns[: len(old.patterns)] == old.patterns
    if not stay or (OTHERS in old.models and new.patterns != old.patterns):
        yield "its patterns said otherwise which names have a price"


def _changed_terms(model: str, old: ModelPrice, new: ModelPrice | None) -> Iterator[str]:
    if new is None:
        yield f"{model} had a price"
        return
    yield from _changed_prices(model, old, new)
    for condition, terms in old.conditions.items():
        if condition in new.conditions:
            yield from _changed_prices(f"{model} ({condition})", terms, new.conditions[condition])
        else:
            yield f"{model} had a price under the condition {condition}"
    for condition in new.conditions.keys() - old.conditions.keys():
        if new.conditions[condition].between is not None:
            yield f"{model} had one price all day"


_Terms = ModelPrice | ConditionPrice


def _changed_prices(place: str, old: _Terms, new: _Terms) -> Iterator[str]:
    if [tier.above_tokens for tier in old.tiers] != [tier.above_tokens for tier in new.tiers]:
        yield f"{place} had other tiers"
        return
    hours = [terms.between for terms in (old, new) if isinstance(terms, ConditionPrice)]
    if len(set(hours)) > 1:
        yield f"{place} had other hours"
        return
    for before, after in zip(_prices(old), _prices(new), strict=True):
        for name in CLASSES:
            was = unit_price(before, name)
            if was is not None and was != unit_price(after, name):
                yield f"{name} of {place} cost {was}"


def _prices(terms: _Terms) -> list[Prices]:
    return [terms.prices, *(tier.prices for tier in terms.tiers)]


# What looks like a mistake.


def _suspicions(base: RateCard, card: RateCard, later: Sequence[RateCard]) -> Iterator[str]:
    after = PriceBook(card)
    names = sorted({*base.models, *base.aliases} - {OTHERS})
    lost = [name for name in names if after.name_of(name) is None]
    if lost:
        yield f"{_counted(lost, 'name')} would have no price: {_listed(lost)}."
    if OTHERS in base.models and OTHERS not in card.models:
        yield "Models that the card does not name would have no price."
    having = {pattern.model for pattern in card.patterns}
    gone = {pattern.model for pattern in base.patterns} & card.models.keys() - having
    if gone:
        yield f"No pattern would name {_listed(sorted(gone))} any more."
    changes = diff(base, card)
    vanished = [
        place_of(change)
        for change in changes
        if change.model in card.models and change.new is None and paid(card, change, base) is None
    ]
    if vanished:
        yield f"{_counted(vanished, 'price')} would be gone: {_listed(vanished)}."
    moved = [
        f"{place_of(jump)} from {jump.old} to {jump.new}"
        for jump in (*jumps(base, card), *_renamed(base, card))
    ]
    if moved:
        unit = f"{card.asset} per million"
        yield f"{_counted(moved, 'price')} would move tenfold or more, in {unit}: {_listed(moved)}."
    for other in later:
        # It was made without knowledge of this one.
        same = set(diff(card, other))
        undone = [
            place_of(change)
            for change in changes
            if change._replace(old=change.new, new=change.old) in same
        ]
        if undone:
            begins = f"{reference_of(other)}, in force from {format_instant(other.effective_from)},"
            yield f"{begins} would take {_counted(undone, 'price')} back: {_listed(undone)}."


def _renamed(base: RateCard, card: RateCard) -> Iterator[PriceChange]:
    """List the jumps of names that mean another model now."""
    before, after = PriceBook(base), PriceBook(card)
    for name in sorted({*base.aliases, *card.models, *card.aliases} - {OTHERS}):
        was, now = before.name_of(name), after.name_of(name)
        if was is not None and now is not None and was != now:
            yield from jumps(_only(base, was, name), _only(card, now, name))


def _only(card: RateCard, model: str, name: str) -> RateCard:
    return msgspec.structs.replace(card, models={name: card.models[model]}, aliases={}, patterns=())


def _loses(old: _Terms | None, new: _Terms | None) -> bool:
    """Return whether some price of a model would be gone."""
    if old is None or new is None:
        return old is not None
    lost = any(
        unit_price(old.prices, name) is not None and unit_price(new.prices, name) is None
        for name in CLASSES
    )
    if lost or not (isinstance(old, ModelPrice) and isinstance(new, ModelPrice)):
        return lost
    return any(
        _loses(terms, new.conditions.get(condition))
        for condition, terms in old.conditions.items()
        if terms.between is None
    )


def _counted(items: Sequence[str], noun: str) -> str:
    return f"{len(items):,} {noun}" + ("" if len(items) == 1 else "s")


def _listed(items: Sequence[str]) -> str:
    more = len(items) - LISTED_MAX
    listed = ", ".join(items[:LISTED_MAX])
    return f"{listed} and {more:,} more" if more > 0 else listed
