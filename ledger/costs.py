"""What a request costs: by which card, as which model, under which condition.

Pure: prices come in, nothing reads a clock or a table. The sums are those of ``lines``.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ledger import events as e
from ledger.clock import Instant
from ledger.errors import (
    InvalidField,
)
from ledger.fitting import dearest
from ledger.lines import (
    Lines,
    ModelLines,
    rounded,
    unpriced_lines,
)
from ledger.model_names import OTHERS
from ledger.money import InvalidAmount, format_pico
from ledger.pricing import PriceBook, Quote
from ledger.ratecards import RateCards
from ledger.requests import (
    BATCH,
    OtherUse,
    Reserve,
)
from ledger.state import (
    Account,
    Key,
)
from ledger.usage import Usage


def settled_by(
    cards: RateCards,
    reserved: e.RequestReserved,
    key: Key | None,
    account: Account,
    was_at: Instant,
) -> PriceBook | None:
    """Return the rate card that prices a settlement: the one in force when it was reserved.

    The reservation names it where anything in it had a price.
    """
    if reserved.card:
        return cards.pinned(reserved.card)
    return cards.current((key.rate_card if key else "") or account.rate_card, was_at, was_at)


def served_by(book: PriceBook | None, named: Sequence[str], served: str) -> tuple[str, str]:
    """Return the model whose price counts, and what was served where that is another.

    The served model's price counts where the client named it among its choices, otherwise the
    price of the one it asked for, the first of ``named``.
    """
    if served in {"", named[0]}:
        return named[0], ""
    for each in named:
        name = None if book is None else book.name_of(each)
        if served == each or (book is not None and name and book.name_of(served) == name != OTHERS):
            return each, ""
    return named[0], served


def served_condition(book: PriceBook | None, model: str, asked: str, served: str | None) -> str:
    """Return the price condition that counts: the one served, where the card has a price for it."""
    if served is None or served == asked or (asked == BATCH and not served):
        return asked
    known = served == "" or (book is not None and book.terms(model, served) is not None)
    return served if known else asked


class Cost(NamedTuple):
    """What a request costs."""

    pico: int
    """What the part with a price costs."""
    lines: Lines
    others: tuple[ModelLines, ...]
    is_whole: bool
    """Whether everything has a price."""
    card: str = ""
    """Empty: nothing has a price."""
    asset: str = ""
    priced_as: str = ""
    by_time: str = ""

    @property
    def charge(self) -> str:
        """The amount as events hold it; empty: nothing has a price."""
        return format_pico(self.pico) if self.card else ""


def cost_of(  # noqa: PLR0917 (private, and each call names them alike)
    book: PriceBook | None,
    model: str,
    usage: Usage,
    others: Sequence[OtherUse],
    condition: str,
    at: Instant,
) -> Cost:
    """Price what a request used, at a service instant.

    ``book`` None: no rate card is in force.

    Raises:
        InvalidField: It would cost more than any amount.
    """
    own = None if book is None else book.quote(model, usage, condition, at)
    parts: tuple[ModelLines, ...] = ()
    product, priced, is_whole = 0, False, own is not None and own.is_whole
    if own is not None:
        product, priced = own.product, _is_priced(own)
    for other in others:
        quote = None if book is None else book.quote(other.model, other.usage, condition, at)
        if quote is None:
            is_whole = False
            lines, priced_as = unpriced_lines(other.usage), ""
        else:
            product, priced = product + quote.product, priced or _is_priced(quote)
            is_whole = is_whole and quote.is_whole
            lines, priced_as = quote.lines, quote.priced_as
        parts += (ModelLines(model=other.model, lines=lines, priced_as=priced_as),)
    if own is None:
        own = Quote(0, unpriced_lines(usage))
    if book is None or not priced:
        return Cost(0, own.lines, parts, is_whole=False)
    try:
        pico = rounded(product)
    except InvalidAmount as error:
        raise InvalidField("usage", "costs more than any amount") from error
    card, asset = book.reference, book.card.asset
    return Cost(pico, own.lines, parts, is_whole, card, asset, own.priced_as, own.by_time)


def _is_priced(quote: Quote) -> bool:
    """Return whether anything that was used has a price, even zero; a request without usage has."""
    return quote.is_whole or any(price is not None for _, price in quote.lines.values())


def dearest_cost(
    book: PriceBook | None, command: Reserve, at: Instant
) -> tuple[str, str, Cost, bool]:
    """Find the model and the condition under which a request may cost most, and that cost.

    The last value says whether everything that it may use has a price.
    """
    found: tuple[str, str, Cost] | None = None
    is_whole = True
    for model in (command.model, *command.choices):
        for condition in (command.condition, *command.conditions):
            if condition != command.condition and (
                book is None or book.terms(model, condition) is None
            ):
                continue
            usage = command.usage
            if book is not None and command.alike:
                prices = book.prices(model, usage, condition, at)
                usage = dearest(prices, usage, command.alike)
            cost = cost_of(book, model, usage, (), condition, at)
            is_whole = is_whole and cost.is_whole
            if found is None or (cost.pico, bool(cost.card)) > (found[2].pico, bool(found[2].card)):
                found = model, condition, cost
    assert found is not None
    return *found, is_whole
