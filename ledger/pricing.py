"""Rate cards and what a usage costs by them: a pure function of usage and card.

A card is data, immutable and content-hashed; the event carries the unit prices it used. A used
class without a price makes the request *unpriced*, which is a state and never zero. No float.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress
from operator import mul
from typing import Annotated, NamedTuple

import msgspec

from ledger.clock import Instant, format_instant
from ledger.money import (
    PICO_LIMIT,
    InvalidAmount,
    divide_round_half_even,
    format_pico,
    parse_asset,
    parse_pico,
)
from ledger.usage import CLASSES, INPUT_TOKENS, Usage

UNITS_PER_PRICE = 10**6
"""A price is for a million units of its class, whatever the class."""

STANDARD_CARD = "standard"
"""Name of the card that prices keys and accounts which name no other."""

OTHERS = "*"
"""Stands for every model that a card does not name."""

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


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of the whole request once its context is long."""

    above_tokens: int
    """Applies when the input tokens of every kind are strictly more."""

    prices: Prices
    """Complete: nothing is inherited from below."""


class ConditionPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of a model under a condition such as ``batch``."""

    prices: Prices
    """Complete: nothing is inherited from the model."""

    tiers: tuple[Tier, ...] = ()
    """Ascending by ``above_tokens``."""


class ModelPrice(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Prices of a model, and how much it can read and write where that is known."""

    prices: Prices
    """Prices without a condition and below every tier."""

    tiers: tuple[Tier, ...] = ()
    """Ascending by ``above_tokens``."""

    conditions: dict[str, ConditionPrice] = {}
    """By name: ``batch``, ``priority``, ``flex``, … A request names at most one."""

    max_output_tokens: Annotated[int, msgspec.Meta(ge=0, le=MODEL_TOKENS_MAX)] = 0
    """Most tokens of one answer, thought included; 0: not known."""

    context_window: Annotated[int, msgspec.Meta(ge=0, le=MODEL_TOKENS_MAX)] = 0
    """Most tokens that one answer is made from, its own included; 0: not known."""


class RateCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """By the exact name of the model; ``*`` prices every model that is not named. Names are never
    matched by prefix: no price is guessed."""

    aliases: dict[str, str] = {}
    """Other names, such as dated ones, to the name in ``models``."""

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


class PriceMissing(LookupError):
    """A used class has no price."""

    def __init__(self, usage_class: str) -> None:
        super().__init__(f"{usage_class} is used and has no price.")
        self.usage_class = usage_class
        """Which one."""


class Quote(NamedTuple):
    """What a usage costs, and by which prices."""

    pico: int
    """Of the card's asset, rounded once."""

    prices: Prices
    """Unit prices used, after fall-back, of the classes with a quantity: enough to recompute."""


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


def charge(usage: Usage, prices: Mapping[str, str]) -> int:
    """Recompute the charge in pico from the unit prices that an event carries.

    Slow and plain, to check the fast way by. Rounded once, half to even.

    Raises:
        PriceMissing: A used class has no price among them; there is no fall-back here.
        InvalidAmount: The charge is beyond any amount.
    """
    total = 0
    for name in CLASSES:
        quantity = getattr(usage, name)
        if quantity:
            if name not in prices:
                raise PriceMissing(name)
            total += quantity * parse_pico(prices[name])
    return _rounded(total)


def _rounded(total: int) -> int:
    pico = divide_round_half_even(total, UNITS_PER_PRICE)
    if pico >= PICO_LIMIT:
        raise InvalidAmount("The charge is beyond any amount.")
    return pico


class _Plan(NamedTuple):
    pico: tuple[int, ...]
    """Per million units, in the order of the used classes."""
    prices: Prices
    """The same as text, by class."""


class _Rates:
    """The prices of one model, condition and tier, with a plan for each set of used classes."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self.plans: dict[tuple[str, ...], _Plan] = {}

    def plan(self, used: tuple[str, ...]) -> _Plan | None:
        """Find the prices of the used classes; None means that one has none."""
        prices: Prices = {}
        for name in used:
            text = unit_price(self.prices, name)
            if text is None:
                return None
            prices[name] = text
        plan = _Plan(tuple(map(parse_pico, prices.values())), prices)
        if len(self.plans) < _PLANS_MAX:
            self.plans[used] = plan
        return plan


_PLANS_MAX = 256
"""Sets of used classes remembered per model: real ones are few, and callers must not fill us."""

_INPUTS = len(INPUT_TOKENS)

_Compiled = tuple[tuple[int, _Rates], ...]
"""Rates by the context they begin above, the longest first; the last begins above -1."""


class PriceBook:
    """A card made fast: prices as integers, each model compiled when first used.

    Built once per card version. ``quote`` agrees with ``charge`` to the last pico.
    """

    def __init__(self, card: RateCard) -> None:
        check_card(card)
        self.card = card
        self.reference = f"{card.name}/{card.version}"
        """As events name it: ``standard/3``."""
        self._compiled: dict[tuple[str, str | None], _Compiled] = {}

    def quote(self, model: str, usage: Usage, condition: str | None = None) -> Quote | None:
        """Price a usage.

        None means unpriced: the card knows no such model, no such condition of it, or no price of
        a class that was used.

        Raises:
            InvalidAmount: The charge is beyond any amount.
        """
        compiled = self._compiled.get((model, condition)) or self._compile(model, condition)
        return None if compiled is None else _quote(compiled, usage)

    def quotes(
        self, model: str, usages: Sequence[Usage], condition: str | None = None
    ) -> list[Quote] | None:
        """Price several usages of one model; None: one of them at least is unpriced.

        Raises:
            InvalidAmount: A charge is beyond any amount.
        """
        condition = condition or None
        compiled = self._compiled.get((model, condition)) or self._compile(model, condition)
        if compiled is None:
            return None
        found = []
        for usage in usages:
            quote = _quote(compiled, usage)
            if quote is None:
                return None
            found.append(quote)
        return found

    def per_request(self, model: str, condition: str | None = None) -> bool:
        """Say whether the call itself has a price, so that its usage must hold ``requests=1``."""
        terms = terms_of(self.card, model, condition)
        return terms is not None and "requests" in terms.prices

    def _compile(self, model: str, condition: str | None) -> _Compiled | None:
        """Compile and remember; an unknown name is not remembered, or a caller could fill us."""
        if model != OTHERS and OTHERS in self.card.models and not _names(self.card, model):
            return self._compiled.get((OTHERS, condition)) or self._compile(OTHERS, condition)
        terms = terms_of(self.card, model, condition)
        if terms is None:
            return None
        rising = [(-1, _Rates(terms.prices))]
        rising += [(tier.above_tokens, _Rates(tier.prices)) for tier in terms.tiers]
        compiled = tuple(reversed(rising))
        self._compiled[model, condition] = compiled
        return compiled


def _quote(compiled: _Compiled, usage: Usage) -> Quote | None:
    quantities = msgspec.structs.astuple(usage)
    rates = compiled[0][1]
    if len(compiled) > 1:
        rates = _rates_at(compiled, sum(quantities[:_INPUTS]))
    used = tuple(compress(CLASSES, quantities))
    plan = rates.plans.get(used) or rates.plan(used)
    if plan is None:
        return None
    total = sum(map(mul, plan.pico, filter(None, quantities)))
    return Quote(_rounded(total), plan.prices.copy())


def _rates_at(compiled: _Compiled, context: int) -> _Rates:
    for above_tokens, rates in compiled:
        if context > above_tokens:
            return rates
    raise AssertionError("The last rates begin above -1.")


def terms_of(
    card: RateCard, model: str, condition: str | None = None
) -> ModelPrice | ConditionPrice | None:
    """Find the prices of a model by its exact name or alias; None means the card has none."""
    found = card.models.get(card.aliases.get(model, model) if _names(card, model) else OTHERS)
    if found is None or condition is None:
        return found
    return found.conditions.get(condition)


def _names(card: RateCard, model: str) -> bool:
    return model in card.models or model in card.aliases


def check_card(card: RateCard) -> None:
    """Hold a card to its rules.

    Raises:
        InvalidRateCard: Which field breaks which.
    """
    _check(_is_name(card.name), "name", "is not 1 to 256 printable characters without spaces")
    _check(card.version >= 1, "version", "is not 1 or more")
    _check(card.effective_from.utcoffset() == timedelta(0), "effective_from", "is not in UTC")
    try:
        parse_asset(card.asset)
    except InvalidAmount as error:
        raise InvalidRateCard("asset", "is not an asset code") from error
    for model, price in card.models.items():
        _check_model(f"models.{model}", model, price)
    for alias, model in card.aliases.items():
        _check(_is_name(alias), f"aliases.{alias}", "is not a name")
        _check(alias not in card.models, f"aliases.{alias}", "is the name of a model too")
        _check(model in card.models, f"aliases.{alias}", f"means {model}, which has no price")


def _check(holds: bool, field: str, message: str) -> None:  # noqa: FBT001 (an assertion reads so)
    if not holds:
        raise InvalidRateCard(field, message)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= _NAME_LENGTH and text.isprintable() and " " not in text


_NAME_LENGTH = 256
_CONDITION = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_PRICE = re.compile(r"(0|[1-9]\d{0,8})(\.\d{0,11}[1-9])?", re.ASCII)


def _check_model(path: str, model: str, price: ModelPrice) -> None:
    _check(_is_name(model), path, "is not 1 to 256 printable characters without spaces")
    for field in ("max_output_tokens", "context_window"):
        held = 0 <= getattr(price, field) <= MODEL_TOKENS_MAX
        _check(held, f"{path}.{field}", f"is not 0 to {MODEL_TOKENS_MAX}")
    _check_terms(path, price)
    for condition, terms in price.conditions.items():
        place = f"{path}.conditions.{condition}"
        _check(_CONDITION.fullmatch(condition) is not None, place, "is not a condition's name")
        _check_terms(place, terms)


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
    content = (card.name, card.asset, start, card.models, card.aliases)
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
    """List the prices that moved more than ``factor`` times up or down, or to or from zero.

    A price that went or appeared is compared through its fall-back, since that is what a request
    pays. It guards against a price per token entered as one per million, and the like.
    """
    before, after = dict(_places(old)), dict(_places(new))
    moved = []
    for change in diff(old, new):
        place = (change.model, change.condition, change.tier)
        was = unit_price(before.get(place, {}), change.usage_class)
        now = unit_price(after.get(place, {}), change.usage_class)
        if was is not None and now is not None and _is_jump(was, now, factor):
            moved.append(change._replace(old=was, new=now))
    return moved


def _is_jump(was: str, now: str, factor: int) -> bool:
    low, high = sorted((parse_pico(was), parse_pico(now)))
    return low * factor < high


def card_at(cards: Sequence[RateCard], at: Instant) -> RateCard | None:
    """Pick the card in force: the latest start not after ``at``, of equal starts the last version.

    None means that no card has begun.
    """
    begun = [card for card in cards if card.effective_from <= at]
    return max(begun, key=lambda card: (card.effective_from, card.version), default=None)
