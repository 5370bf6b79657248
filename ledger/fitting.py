"""How much of an answer fits, and what a request costs at most. Pure: no clock, table or state.

Where a caller leaves the length of an answer open, a reservation holds as much of it as credit and
every limit leave room for, and the upstream is told that bound. What is held is the dearest that
the request allows, so each unit is held as the dearest class that it may be charged as.
"""

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec

from ledger.errors import CreditIsExhausted, LimitIsReached
from ledger.money import parse_pico
from ledger.pricing import Prices, unit_price
from ledger.usage import Usage

TooMuch = CreditIsExhausted | LimitIsReached
TOO_MUCH = (CreditIsExhausted, LimitIsReached)
"""What says that less may fit."""

Held = TypeVar("Held")


class Open(NamedTuple):
    """An answer whose length the caller leaves open. Numbers are tokens of one answer."""

    most: int
    """Longest that is wanted: the usage of the reservation holds as much."""
    least: int
    """Shortest that is still worth it."""
    answers: int = 1
    """How many are made, each of up to that length."""

    def shortened(self, usage: Usage, tokens: int) -> Usage:
        """Return the usage with answers of so many tokens instead of ``most``."""
        less = (self.most - tokens) * self.answers
        return msgspec.structs.replace(usage, output=usage.output - less)


class Fitted(NamedTuple, Generic[Held]):
    """What was held in the end."""

    held: Held
    tokens: int
    """Of one answer."""
    why: str
    """What left no room for more: ``credit`` or ``limit``; empty: all that was wanted is held."""


def fit(hold: Callable[[int], Held], most: int, least: int) -> Fitted[Held]:
    """Hold an answer of ``most`` tokens, or the longest that fits, ``least`` at least.

    ``hold`` decides about an answer of so many tokens without changing anything; where it
    holds one, it must hold every shorter one too.

    Raises:
        CreditIsExhausted, LimitIsReached: Not even ``least`` fits; ``room`` says what would.
    """
    least = min(least, most)
    try:
        return Fitted(hold(most), most, "")
    except TOO_MUCH as refusal:
        why = refusal
    try:
        held = hold(least)
    except TOO_MUCH as refusal:
        refusal.room, refusal.least = _room(hold, least), least
        raise
    low, high = least, most
    guess, guesses = _proportional(why, most), GUESSES_MAX
    while high - low > 1:
        tokens = min(max(guess, low + 1), high - 1) if guesses else (low + high) // 2
        guesses = max(guesses - 1, 0)
        try:
            held, low = hold(tokens), tokens
        except TOO_MUCH as refusal:
            guess = _straight(why, high, refusal, tokens)
            why, high = refusal, tokens
    return Fitted(held, low, "credit" if isinstance(why, CreditIsExhausted) else "limit")


GUESSES_MAX = 6
"""Lengths that are guessed by what refusals say; then the rest is halved."""


def _proportional(refusal: TooMuch, tokens: int) -> int:
    """Guess how long an answer may be, as if only the answer counted: never too short."""
    return tokens * max(refusal.left, 0) // refusal.requested


def _straight(earlier: TooMuch, longer: int, refusal: TooMuch, tokens: int) -> int:
    """Guess it by two refusals: what is requested grows by the same for each token."""
    grown = earlier.requested - refusal.requested
    if grown <= 0:
        return _proportional(refusal, tokens)
    return tokens - -(-(refusal.requested - refusal.left) * (longer - tokens) // grown)


def _room(hold: Callable[[int], object], least: int) -> int:
    """Return the longest answer that fits where ``least`` does not; 0: none does."""
    low, high = 0, least
    # Mostly there is room for nothing at all, which is then found at once.
    middle = 1
    while high - low > 1:
        try:
            hold(middle)
            low = middle
        except TOO_MUCH:
            high = middle
        middle = (low + high) // 2
    return low


Alike = Mapping[str, tuple[str, ...]]
"""Usage class to others that the same units may be charged as."""


def dearest(prices: Prices, usage: Usage, alike: Alike) -> Usage:
    """Return the usage with each unit in the dearest of the classes that it may be charged as.

    A class without a price of its own is charged as the wider one around it, so it changes nothing.
    """
    moved: dict[str, int] = {}
    for name, others in alike.items():
        units = getattr(usage, name)
        own = [other for other in others if other in prices]
        if units and own:
            found = max((name, *own), key=lambda each: _pico(prices, each))
            if found != name:
                moved[name] = moved.get(name, units) - units
                moved[found] = moved.get(found, getattr(usage, found)) + units
    return msgspec.structs.replace(usage, **moved) if moved else usage


def _pico(prices: Mapping[str, str], usage_class: str) -> int:
    price = unit_price(prices, usage_class)
    return -1 if price is None else parse_pico(price)
