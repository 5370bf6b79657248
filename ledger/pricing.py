"""Rate cards and what a usage costs by them: a pure function of usage and card.

A card is data, immutable and content-hashed; the event carries the unit prices it used. A used
class without a price makes the request *unpriced*, which is a state and never zero. No float.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress, zip_longest
from operator import mul
from typing import Annotated, NamedTuple

import msgspec

from ledger.clock import Instant, format_instant
from ledger.lines import Lines, rounded
from ledger.model_names import (
    OTHERS,
    PATTERNS_MAX,
    InvalidPattern,
    Names,
    Pattern,
    check_match,
)
from ledger.money import InvalidAmount, format_pico, parse_asset, parse_pico
from ledger.usage import CLASSES, Usage, context_tokens

STANDARD_CARD = "standard"
"""Name of the card that prices keys and accounts which name no other."""

MODEL_TOKENS_MAX = 10**9
"""Largest answer or context window that a card may name, inclusive."""

PRICE_LIMIT = 10**21
"""Largest price in pico per million, exclusive: 1,000 of the asset for a single unit."""

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "reasoning": ("output",),
    "audio_input": ("input",),
    "audio_cache_read": ("cache_read", "audio_input", "input"),
    "audio_output": ("output",),
    "image_input": ("input",),
    "image_cache_read": ("cache_read", "image_input", "input"),
    "image_output": ("output",),
    "video_input": ("input",),
    "video_cache_read": ("cache_read", "video_input", "input"),
    "video_output": ("output",),
}
"""Whose price a class takes, in this order, when it has none: that of the wider class around it, as
genai-prices does. Every other class must have its own."""

Prices = dict[str, str]
"""Usage class to a plain decimal per million units, shortest form, at most twelve places."""


class PriceTier(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Prices of the whole request once its context is long."""

    above_tokens: int
    """Applies when the input tokens of every kind are strictly more."""

    prices: Prices
    """Complete: nothing is inherited from below."""


class ConditionPrice(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Prices of a model under a condition such as ``batch``, or at a time of day."""

    prices: Prices
    """Complete: nothing is inherited from the model."""

    tiers: tuple[PriceTier, ...] = ()
    """Ascending by ``above_tokens``."""

    between: tuple[str, str] | None = None
    """Only from ``HH:MM`` (inclusive) to ``HH:MM`` (exclusive) of each day in UTC, over midnight
    where the second is the earlier. A request that names no condition takes it then."""


class ModelPrice(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Prices of a model, and how much it can read and write where that is known."""

    prices: Prices
    """Prices without a condition and below every tier."""

    tiers: tuple[PriceTier, ...] = ()
    """Ascending by ``above_tokens``."""

    conditions: dict[str, ConditionPrice] = {}
    """By name: ``batch``, ``priority``, ``flex``, … A request names at most one."""

    max_output_tokens: Annotated[int, msgspec.Meta(ge=0, le=MODEL_TOKENS_MAX)] = 0
    """Most tokens of one answer, thought included; 0: not known."""

    context_window: Annotated[int, msgspec.Meta(ge=0, le=MODEL_TOKENS_MAX)] = 0
    """Most tokens that one answer is made from, its own included; 0: not known."""


class RateCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One effective-dated version of the prices of a set of models."""

    name: str
    """Which series of cards this is a version of."""

    version: int
    """1, 2, 3, … within the name."""

    asset: str
    """What the prices are in, such as USD."""

    effective_from: Annotated[datetime, msgspec.Meta(tz=True)]
    """In force from this instant, inclusive, UTC."""

    models: dict[str, ModelPrice]
    """By the exact name of the model; ``*`` prices every model that nothing here names."""

    aliases: dict[str, str] = {}
    """Other exact names to the name in ``models``."""

    patterns: tuple[Pattern, ...] = ()
    """Names that are neither: the first pattern that takes one says which model it is."""

    source: str = ""
    """Where the prices come from. Not part of the content hash."""


class InvalidRateCard(ValueError):
    """The rate card breaks a rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}.")
        self.field = field
        """Where, such as ``models.gpt-4o.prices.input``."""
        self.message = message
        """Which rule."""


class Quote(NamedTuple):
    """What a usage costs, and by which prices."""

    product: int
    """Pico × 10⁶ of the card's asset, exact: what classes with a price cost together."""

    lines: Lines
    """What was used, each with its unit price after fall-back; None: the card has none for it."""

    priced_as: str = ""
    """The card's name of the model, where that is another."""

    by_time: str = ""
    """The condition that held because of the time of day."""

    is_whole: bool = True
    """Whether every class has a price."""

    @property
    def pico(self) -> int:
        """What it costs, rounded.

        Raises:
            InvalidAmount: The charge is larger than any amount.
        """
        return rounded(self.product)


class PriceChange(NamedTuple):
    """One price that two cards do not share."""

    model: str
    usage_class: str
    condition: str | None
    """None means without a condition."""
    tier: int | None
    """``above_tokens``; None means below every tier."""
    old: str | None
    """None means there is none."""
    new: str | None
    """None means there is none."""


def unit_price(prices: Mapping[str, str], usage_class: str) -> str | None:
    """Find the price of a class or of the wider class it falls back to; None means no price."""
    for name in (usage_class, *FALLBACKS.get(usage_class, ())):
        if name in prices:
            return prices[name]
    return None


class _Plan(NamedTuple):
    pico: tuple[int, ...]
    """Per million units, in the order of the used classes; 0 where there is no price."""
    prices: tuple[str | None, ...]
    """The same as text."""
    is_whole: bool


class _Rates:
    """The prices of one model, condition and tier, with a plan for each set of used classes."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self.plans: dict[tuple[str, ...], _Plan] = {}

    def plan(self, used: tuple[str, ...]) -> _Plan:
        """Find the prices of the used classes."""
        texts = tuple(unit_price(self.prices, name) for name in used)
        pico = tuple(0 if text is None else parse_pico(text) for text in texts)
        plan = _Plan(pico, texts, None not in texts)
        if len(self.plans) < _PLANS_MAX:
            self.plans[used] = plan
        return plan


_PLANS_MAX = 256
"""Sets of used classes remembered per model: real ones are few. Callers must not fill memory."""

_Compiled = tuple[tuple[int, _Rates], ...]
"""Rates by the context they begin above, the longest first; the last begins above -1."""


class _Priced(NamedTuple):
    """The prices of a name."""

    compiled: _Compiled
    priced_as: str
    """As in ``Quote``."""
    by_time: str


class _Hours(NamedTuple):
    """A condition that applies at a time of day: minutes since midnight in UTC."""

    start: int
    end: int
    priced: _Priced

    def cover(self, at: Instant) -> bool:
        minute = at.hour * 60 + at.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


class _Found(NamedTuple):
    """The prices of a name under a condition, or under none, at any time of day."""

    hours: tuple[_Hours, ...]
    otherwise: _Priced | None
    """Outside of the hours; None: the named condition does not apply then."""


_FOUND_MAX = 4_096


class PriceBook:
    """A card made fast: names resolved once, prices as integers, each model compiled when used.

    Built once per card version. ``quote`` agrees with ``lines.charge_of`` to the last pico.
    """

    def __init__(self, card: RateCard) -> None:
        check_card(card)
        self.card = card
        self.reference = f"{card.name}/{card.version}"
        """As events name it: ``standard/3``."""
        self._names = Names(card.models, card.aliases, card.patterns)
        self._found: dict[tuple[str, str | None], _Found] = {}
        self._compiled: dict[tuple[str, str | None], _Compiled] = {}

    def name_of(self, model: str) -> str | None:
        """Find the card's name of a model; None means that nothing in the card prices it."""
        return self._names.find(model)

    def terms(self, model: str, condition: str | None = None) -> ModelPrice | ConditionPrice | None:
        """Find the prices of a model; None means that the card has none, or no such condition."""
        name = self._names.find(model)
        found = None if name is None else self.card.models[name]
        return found if found is None or condition is None else found.conditions.get(condition)

    def quote(
        self, model: str, usage: Usage, condition: str | None = None, at: Instant | None = None
    ) -> Quote | None:
        """Price a usage rendered ``at`` an instant; None: at no particular time of day.

        Classes without a price are in the lines without one. None: the card knows no such model,
        or no such condition of it then.
        """
        rates = self._rates(model, condition or None, at)
        return None if rates is None else _quote(rates, usage)

    def prices(
        self, model: str, usage: Usage, condition: str | None = None, at: Instant | None = None
    ) -> Prices:
        """Return all unit prices by which ``quote`` would price such a usage; empty: unpriced."""
        rates = self._rates(model, condition or None, at)
        return {} if rates is None else _rates_of(rates.compiled, usage).prices

    def may_cost(
        self, lines: Lines, model: str, condition: str | None = None, at: Instant | None = None
    ) -> bool:
        """Return whether lines are priced as part of a request could be, in whichever tier."""
        found = self._rates(model, condition or None, at)
        return found is not None and any(
            all(price == unit_price(rates.prices, name) for name, (_, price) in lines.items())
            for _, rates in found.compiled
        )

    def quotes(
        self,
        model: str,
        usages: Sequence[Usage],
        condition: str | None = None,
        ats: Sequence[Instant] = (),
    ) -> list[Quote] | None:
        """Price several usages of one model; None: at least one of them lacks a price."""
        quotes: list[Quote] = []
        for usage, at in zip_longest(usages, ats):
            quote = self.quote(model, usage, condition, at)
            if quote is None or not quote.is_whole:
                return None
            quotes.append(quote)
        return quotes

    def _rates(self, model: str, condition: str | None, at: Instant | None) -> _Priced | None:
        found = self._found.get((model, condition)) or self._find(model, condition)
        if found is None or not found.hours or at is None:
            return found and found.otherwise
        return next((each.priced for each in found.hours if each.cover(at)), found.otherwise)

    def _find(self, model: str, condition: str | None) -> _Found | None:
        """Find and remember; an unknown name is not remembered here, nor too many."""
        name, terms = self._names.find(model), self.terms(model, condition)
        if name is None or terms is None:
            return None
        priced_as = "" if name == model else name
        otherwise: _Priced | None = _Priced(self._compile(name, condition), priced_as, "")
        hours: tuple[_Hours, ...] = ()
        if isinstance(terms, ModelPrice):
            hours = tuple(
                _hours(each.between, _Priced(self._compile(name, other), priced_as, other))
                for other, each in terms.conditions.items()
                if each.between is not None
            )
        elif terms.between is not None and otherwise is not None:
            hours, otherwise = (_hours(terms.between, otherwise),), None
        if len(self._found) >= _FOUND_MAX:
            # Callers choose the names, and must not fill memory.
            self._found.clear()
        found = self._found[model, condition] = _Found(hours, otherwise)
        return found

    def _compile(self, name: str, condition: str | None) -> _Compiled:
        """Compile and remember the prices of a model by its name in the card."""
        compiled = self._compiled.get((name, condition))
        if compiled is None:
            model = self.card.models[name]
            terms = model if condition is None else model.conditions[condition]
            rising = [(-1, _Rates(terms.prices))]
            rising += [(tier.above_tokens, _Rates(tier.prices)) for tier in terms.tiers]
            compiled = self._compiled[name, condition] = tuple(reversed(rising))
        return compiled


def _hours(between: tuple[str, str], priced: _Priced) -> _Hours:
    start, end = map(_minute, between)
    return _Hours(start, end, priced)


def _minute(text: str) -> int:
    """Count the minutes from midnight to ``HH:MM``."""
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def _quote(priced: _Priced, usage: Usage) -> Quote:
    compiled, priced_as, by_time = priced
    quantities = msgspec.structs.astuple(usage)
    rates = _rates_of(compiled, usage)
    used = tuple(compress(CLASSES, quantities))
    plan = rates.plans.get(used) or rates.plan(used)
    units = tuple(filter(None, quantities))
    # Not strict: the lengths are equal, and checking them would cost as much as the rest.
    lines = dict(zip(used, zip(units, plan.prices, strict=False), strict=False))
    return Quote(sum(map(mul, plan.pico, units)), lines, priced_as, by_time, plan.is_whole)


def _rates_of(compiled: _Compiled, usage: Usage) -> _Rates:
    return compiled[0][1] if len(compiled) == 1 else _rates_at(compiled, context_tokens(usage))


def _rates_at(compiled: _Compiled, context: int) -> _Rates:
    for above_tokens, rates in compiled:
        if context > above_tokens:
            return rates
    raise AssertionError("The last rates begin above -1.")


def check_card(card: RateCard) -> None:
    """Hold a card to its rules.

    Raises:
        InvalidRateCard: It names the field that breaks one.
    """
    _check(_is_name(card.name), "name", "is not 1 to 256 printable characters without spaces")
    _check(card.version >= 1, "version", "is not 1 or more")
    _check(card.effective_from.utcoffset() == timedelta(0), "effective_from", "is not in UTC")
    try:
        parse_asset(card.asset)
    except InvalidAmount as error:
        raise InvalidRateCard("asset", "is not an asset code") from error
    for model, price in card.models.items():
        check_model(model, price)
    for alias, model in card.aliases.items():
        _check(_is_name(alias), f"aliases.{alias}", "is not a name")
        _check(alias not in card.models, f"aliases.{alias}", "is the name of a model too")
        _check(model in card.models, f"aliases.{alias}", f"means {model}, which has no price")
    _check(len(card.patterns) <= PATTERNS_MAX, "patterns", f"are more than {PATTERNS_MAX}")
    for place, pattern in enumerate(card.patterns):
        _check_pattern(f"patterns[{place}]", pattern, card)


def _check(holds: bool, field: str, message: str) -> None:  # noqa: FBT001 (an assertion reads so)
    if not holds:
        raise InvalidRateCard(field, message)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= _NAME_LENGTH and text.isprintable() and " " not in text


def _check_pattern(path: str, pattern: Pattern, card: RateCard) -> None:
    model, after = pattern.model, pattern.after
    known = not model or model in card.models
    _check(known, f"{path}.model", f"is {model}, which has no price")
    _check(model != OTHERS, f"{path}.model", "is every model, which needs no pattern")
    lower = len(after) <= _NAME_LENGTH and after.isprintable() and after == after.lower()
    _check(lower, f"{path}.after", "is not up to 256 printable characters in lower case")
    try:
        check_match(pattern.match)
    except InvalidPattern as error:
        raise InvalidRateCard(f"{path}.match", str(error)) from error


_NAME_LENGTH = 256
_CONDITION = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_PRICE = re.compile(r"(0|[1-9]\d{0,8})(\.\d{0,11}[1-9])?", re.ASCII)


def check_model(model: str, price: ModelPrice) -> None:
    """Hold the prices of a model to the rules of a card.

    Raises:
        InvalidRateCard: It names the field that breaks one.
    """
    path = f"models.{model}"
    _check(_is_name(model), path, "is not 1 to 256 printable characters without spaces")
    for field in ("max_output_tokens", "context_window"):
        held = 0 <= getattr(price, field) <= MODEL_TOKENS_MAX
        _check(held, f"{path}.{field}", f"is not 0 to {MODEL_TOKENS_MAX}")
    _check_terms(path, price)
    for condition, terms in price.conditions.items():
        place = f"{path}.conditions.{condition}"
        _check(_CONDITION.fullmatch(condition) is not None, place, "is not a condition's name")
        _check_terms(place, terms)
    _check_hours(path, price)


def _check_hours(path: str, price: ModelPrice) -> None:
    taken: dict[int, str] = {}
    for condition, terms in price.conditions.items():
        if terms.between is None:
            continue
        place = f"{path}.conditions.{condition}.between"
        times = all(_TIME.fullmatch(time) for time in terms.between)
        _check(times, place, "is not two times such as 16:30, in UTC")
        start, end = map(_minute, terms.between)
        _check(start != end, place, "begins and ends at the same time")
        for minute in range(start, end if start < end else end + _DAY):
            other = taken.setdefault(minute % _DAY, condition)
            _check(other == condition, place, f"overlaps that of {other}")


_DAY = 24 * 60


def _check_terms(path: str, terms: ModelPrice | ConditionPrice) -> None:
    _check_prices(f"{path}.prices", terms.prices)
    above = 0
    for place, tier in enumerate(terms.tiers):
        here = f"{path}.tiers[{place}]"
        _check(tier.above_tokens > above, f"{here}.above_tokens", f"is not more than {above}")
        above = tier.above_tokens
        _check_prices(f"{here}.prices", tier.prices)
        missing = ", ".join(sorted(terms.prices.keys() - tier.prices.keys()))
        _check(not missing, f"{here}.prices", f"lacks {missing}, which the base has")


def _check_prices(path: str, prices: Prices) -> None:
    _check(bool(prices), path, "is empty")
    for name, text in prices.items():
        _check(name in CLASSES, f"{path}.{name}", "is not a usage class")
        shortest = "is not a plain decimal below 1000000000 with up to 12 places, shortest form"
        _check(_PRICE.fullmatch(text) is not None, f"{path}.{name}", shortest)


def price_text(pico: int) -> str | None:
    """Write pico per million as a price; None means that no card may hold it."""
    return format_pico(pico) if 0 <= pico < PRICE_LIMIT else None


def canonical(card: RateCard) -> bytes:
    """Write what a card means as bytes: fields in order, keys sorted, no version and no source."""
    start = format_instant(card.effective_from)
    content = (card.name, card.asset, start, card.models, card.aliases, card.patterns)
    return msgspec.json.encode(content, order="deterministic")


def content_hash(card: RateCard) -> str:
    """Name a card by its content: SHA-256 in hex of its canonical bytes."""
    return hashlib.sha256(canonical(card)).hexdigest()


_Place = tuple[str, str | None, int | None]


def _places(card: RateCard) -> Iterator[tuple[_Place, Prices]]:
    for model, price in card.models.items():
        named: list[tuple[str | None, ModelPrice | ConditionPrice]] = [(None, price)]
        named += price.conditions.items()
        for condition, of_condition in named:
            yield (model, condition, None), of_condition.prices
            for tier in of_condition.tiers:
                yield (model, condition, tier.above_tokens), tier.prices


def diff(old: RateCard, new: RateCard) -> list[PriceChange]:
    """List the prices that changed, appeared (``old`` None) or went (``new`` None), sorted."""
    before, after = dict(_places(old)), dict(_places(new))
    changes = [
        PriceChange(place[0], name, place[1], place[2], was, now)
        for place in before.keys() | after.keys()
        for name in before.get(place, {}).keys() | after.get(place, {}).keys()
        if (was := before.get(place, {}).get(name)) != (now := after.get(place, {}).get(name))
    ]
    return sorted(changes, key=_order)


def _order(change: PriceChange) -> tuple[str, str, int, int]:
    tier = -1 if change.tier is None else change.tier
    return change.model, change.condition or "", tier, CLASSES.index(change.usage_class)


def jumps(old: RateCard, new: RateCard, factor: int = 10) -> list[PriceChange]:
    """List the prices that moved ``factor`` times or more up or down, or to or from zero.

    What went or appeared is compared to what a request paid instead: a class to its
    fall-back, a tier to what is below it, a time of day to the rest of the day. It guards against
    a price per token entered as one per million, and the like.
    """
    moved = []
    for change in diff(old, new):
        was, now = paid(old, change, new), paid(new, change, old)
        if was is not None and now is not None and _is_jump(was, now, factor):
            moved.append(change._replace(old=was, new=now))
    return moved


def paid(card: RateCard, change: PriceChange, other: RateCard) -> str | None:
    """Find what a request paid by a card, ``other`` being the one that it is compared to.

    None means that there was no price for it.
    """
    model = card.models.get(change.model)
    if model is None:
        return None
    terms: ModelPrice | ConditionPrice | None = model
    if change.condition is not None:
        terms = model.conditions.get(change.condition)
        if terms is None and _has_hours(other, change.model, change.condition):
            terms = model
    if terms is None:
        return None
    prices = terms.prices
    for tier in terms.tiers:
        if change.tier is not None and tier.above_tokens <= change.tier:
            prices = tier.prices
    return unit_price(prices, change.usage_class)


def _has_hours(card: RateCard, model: str, condition: str) -> bool:
    terms = card.models[model].conditions.get(condition) if model in card.models else None
    return terms is not None and terms.between is not None


def place_of(change: PriceChange) -> str:
    """Name a price in words: ``input of gpt-5 (batch) above 200,000 tokens``."""
    condition = f" ({change.condition})" if change.condition else ""
    tier = "" if change.tier is None else f" above {change.tier:,} tokens"
    return f"{change.usage_class} of {change.model}{condition}{tier}"


def _is_jump(was: str, now: str, factor: int) -> bool:
    low, high = sorted((parse_pico(was), parse_pico(now)))
    return low * factor <= high
