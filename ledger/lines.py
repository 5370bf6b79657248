"""Lines: usage class → units and unit price, so that an event adds up by itself.

The charge of a request is the sum of its lines that have a price, rounded here and nowhere else. A
line without a price is *unpriced*, which is a state and never zero. No float.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ledger.money import (
    PICO_LIMIT,
    PICO_PER_UNIT,
    PLACES,
    InvalidAmount,
    divide_round_half_even,
    parse_pico,
)
from ledger.usage import CLASSES, INPUT_TOKENS, OUTPUT_TOKENS, Usage

UNIT_PLACES = 6
UNITS_PER_PRICE = 10**UNIT_PLACES
"""A price is for a million units of its class, whatever the class."""

Line = tuple[int, str | None]
"""Units, and the price of a million of them as a plain decimal; None: no price is known."""

Lines = dict[str, Line]
"""By usage class; those with a quantity only."""

_TOKENS = frozenset((*INPUT_TOKENS, *OUTPUT_TOKENS))


class ModelLines(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What another model used inside the same request."""

    model: str
    lines: Lines
    priced_as: str = ""
    """The rate card's name of the model, where that is another."""


def units_of(lines: Lines) -> dict[str, int]:
    """Return the units by class."""
    return {name: units for name, (units, _) in lines.items()}


def usage_of(lines: Lines) -> Usage:
    """Return the units as a usage."""
    return Usage(**units_of(lines))


def unpriced_lines(usage: Usage) -> Lines:
    """Return the lines of a usage for which no price is known at all."""
    quantities = msgspec.structs.astuple(usage)
    return {name: (units, None) for name, units in zip(CLASSES, quantities, strict=True) if units}


def tokens_of(lines: Lines) -> int:
    """Count all tokens, as ``usage.tokens`` does."""
    return sum(units for name, (units, _) in lines.items() if name in _TOKENS)


def product_of(lines: Lines) -> int:
    """Return units times price, summed over the lines that have a price: pico × 10⁶, exact."""
    return sum(units * parse_pico(price) for units, price in lines.values() if price is not None)


def lack_price(lines: Lines) -> list[str]:
    """Return the classes without a price."""
    return [name for name, (_, price) in lines.items() if price is None]


def rounded(product: int) -> int:
    """Turn pico × 10⁶ into pico, half to even: the one rounding of a charge.

    Raises:
        InvalidAmount: The charge is larger than any amount.
    """
    pico = divide_round_half_even(product, UNITS_PER_PRICE)
    if pico >= PICO_LIMIT:
        raise InvalidAmount("The charge is larger than any amount.")
    return pico


def charge_of(lines: Lines, others: Iterable[ModelLines] = ()) -> int:
    """Add a request up: what its lines cost together, in pico, rounded once.

    Raises:
        InvalidAmount: The charge is larger than any amount.
    """
    return rounded(product_of(lines) + sum(product_of(other.lines) for other in others))


def exact_cost(units: int, price: str) -> str:
    """Write what units cost at the price of a million of them: exact, so with up to 18 places."""
    whole, rest = divmod(units * parse_pico(price), PICO_PER_UNIT * UNITS_PER_PRICE)
    places = str(rest).zfill(PLACES + UNIT_PLACES).rstrip("0")
    return f"{whole}.{places}" if rest else str(whole)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split an amount in proportion to weights, to the last pico, by largest remainder.

    All zero weights: the first gets everything. Returns one part per weight; they add up to
    ``total``, which is 0 or more.
    """
    whole = sum(weights)
    if not whole:
        return [total, *([0] * (len(weights) - 1))]
    parts = [total * weight // whole for weight in weights]
    rests = [total * weight % whole for weight in weights]
    for place in sorted(range(len(weights)), key=lambda n: -rests[n])[: total - sum(parts)]:
        parts[place] += 1
    return parts
