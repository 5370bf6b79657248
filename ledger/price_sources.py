"""Rate cards made from price tables of others: genai-prices and LiteLLM's.

Nothing is guessed and nothing is rounded: what a card cannot hold exactly is left out and
reported, and then the model is unpriced.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
from genai_prices import data_snapshot, types

from ledger.clock import Instant
from ledger.model_names import Match, Pattern
from ledger.money import PICO_PER_UNIT
from ledger.pricing import (
    MODEL_TOKENS_MAX,
    ConditionPrice,
    InvalidRateCard,
    ModelPrice,
    Prices,
    PriceTier,
    RateCard,
    check_card,
    check_model,
    price_text,
)


class Skipped(NamedTuple):
    """Something that the table has and the card does not."""

    model: str
    """Its name in the table."""

    reason: str
    """Why, as a sentence."""


class ImportedCard(NamedTuple):
    """A card, checked, and what was left out of it."""

    card: RateCard
    skipped: tuple[Skipped, ...]
    """Whole models, unless the reason names a condition."""


class _Unusable(Exception):
    """The model cannot be priced from this table."""


class _Terms(NamedTuple):
    """Prices in pico per million by class: the base, and by context what differs above it."""

    base: Mapping[str, Fraction]
    above: Mapping[int, Mapping[str, Fraction]]


def _text(usage_class: str, pico: Fraction) -> str:
    text = price_text(pico.numerator) if pico.denominator == 1 else None
    if text is None:
        raise _Unusable(f"The price of {usage_class}, {pico} pico per million, fits no card.")
    return text


def _prices(found: Mapping[str, Fraction]) -> Prices:
    if not found:
        raise _Unusable("It has no price of a known usage class.")
    return {name: _text(name, found[name]) for name in sorted(found)}


def _condition(terms: _Terms) -> ConditionPrice:
    """Write terms out in full, since tiers of a card inherit nothing."""
    prices, tiers, so_far = _prices(terms.base), [], dict(terms.base)
    for above_tokens in sorted(terms.above):
        so_far |= terms.above[above_tokens]
        tiers.append(PriceTier(above_tokens=above_tokens, prices=_prices(so_far)))
    return ConditionPrice(prices=prices, tiers=tuple(tiers))


def _model_price(
    terms: _Terms, conditions: dict[str, ConditionPrice], *, output: object, context: object
) -> ModelPrice:
    base = _condition(terms)
    return ModelPrice(
        prices=base.prices,
        tiers=base.tiers,
        conditions=conditions,
        max_output_tokens=_tokens(output),
        context_window=_tokens(context),
    )


def _tokens(value: object) -> int:
    """Take a number of tokens as the table has it; 0: it has none that a card could hold."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 < value <= MODEL_TOKENS_MAX else 0


def _imported(card: RateCard, skipped: Iterable[Skipped]) -> ImportedCard:
    check_card(card)
    return ImportedCard(card, tuple(skipped))


# genai-prices


def from_genai_prices(
    *,
    at: Instant,
    name: str,
    provider_ids: Collection[str] | None = None,
    asset: str = "USD",
    version: int = 1,
) -> ImportedCard:
    """Make the card in force at ``at`` from the snapshot inside the genai-prices package.

    ``provider_ids`` None means all. A model is named ``provider/model``. The package's own rules
    for what a name means become the card's: exact names its aliases, all others its patterns, with
    the provider in front or, where the package knows whose the name is, without. Conditions are
    the package's ``processing``, ``service_tier`` and ``speed``, and times of day.

    Raises:
        InvalidRateCard: A provider is unknown.
    """
    models: dict[str, ModelPrice] = {}
    skipped: list[Skipped] = []
    providers = _providers(provider_ids)
    for provider in providers:
        for model in provider.models:
            full = f"{provider.id}/{model.id}"
            try:
                price = _genai_model(full, model, at, skipped)
                check_model(full, price)
                models[full] = price
            except (_Unusable, InvalidRateCard) as error:
                skipped.append(Skipped(full, str(error)))
    names = _Names(providers, models)
    card = RateCard(
        name=name,
        version=version,
        asset=asset,
        effective_from=at,
        models=models,
        aliases=names.aliases(),
        patterns=tuple(names.patterns()),
        source="genai-prices",
    )
    return _imported(card, skipped)


def _providers(provider_ids: Collection[str] | None) -> list[types.Provider]:
    every = data_snapshot._bundled_snapshot().providers  # noqa: SLF001 (the other one may download)
    unknown = set(provider_ids or ()) - {provider.id for provider in every}
    if unknown:
        raise InvalidRateCard("provider_ids", f"has unknown ones: {', '.join(sorted(unknown))}")
    return [each for each in every if provider_ids is None or each.id in provider_ids]


class _Names:
    """What the package's rules make of names, for the models that have a price here."""

    def __init__(self, providers: Sequence[types.Provider], priced: Collection[str]) -> None:
        self.providers = providers
        self.priced = priced
        self._full = {id(m): f"{p.id}/{m.id}" for p in providers for m in p.models}

    def aliases(self) -> dict[str, str]:
        """Find out what each exact name means, with its provider in front and without.

        A bare name that the package gives to no provider means a model where only one has it.
        """
        found: dict[str, str] = {}
        bare: dict[str, list[str]] = {}
        for provider in self.providers:
            names = {
                name
                for each in (provider, *self._lenders(provider))
                for model in each.models
                for name in _exact_names(model)
            }
            for name in names | {name.lower() for name in names}:
                full = self._find(provider, name)
                found[f"{provider.id}/{name}"] = full
                if full.startswith(f"{provider.id}/"):
                    bare.setdefault(name, []).append(full)
        for name, meant in bare.items():
            owned = self._find_owned(name) or (meant[0] if len(meant) == 1 else "")
            found[name] = found.get(name) or owned
        return {name: found[name] for name in sorted(found.keys() - self.priced) if found[name]}

    def _find_owned(self, name: str) -> str:
        """Find what a bare name means to the provider in front of it, or whose it is."""
        front, _, rest = name.partition("/")
        for provider in self.providers:
            if provider.id == front and (full := self._find(provider, rest)):
                return full
        owner = _owner(name)
        return self._find(owner, name) if owner in self.providers else ""

    def _find(self, provider: types.Provider | None, name: str) -> str:
        """Find a provider's model, or one that it borrows from another; empty: none has a price."""
        model = provider and provider.find_model(name, all_providers=[*self.providers])
        full = "" if model is None else self._full[id(model)]
        return full if full in self.priced else ""

    def _lenders(self, provider: types.Provider) -> list[types.Provider]:
        lenders = provider.fallback_model_providers or ()
        return [each for each in self.providers if each.id in lenders]

    def patterns(self) -> Iterator[Pattern]:
        """Write all other rules, in the package's order: names with a provider, then without."""
        for provider in self.providers:
            for model, match in self._rules(provider, *self._lenders(provider)):
                yield Pattern(model=model, match=match, after=f"{provider.id}/")
        fronts = tuple(Match(starts_with=f"{provider.id}/") for provider in self.providers)
        for place in range(0, len(fronts), _FRONTS):
            yield Pattern(model="", match=Match(either=fronts[place : place + _FRONTS]))
        for provider in self.providers:
            if provider.model_match is not None:
                whose = _match(provider.model_match)
                for model, match in self._rules(provider):
                    yield Pattern(model=model, match=Match(every=(whose, match)))

    def _rules(self, *providers: types.Provider) -> Iterator[tuple[str, Match]]:
        """Return the models that names mean beyond the exact ones; empty: one without a price.

        The latter are kept, so that their names do not get another model's price.
        """
        for provider in providers:
            for model in provider.models:
                full = f"{provider.id}/{model.id}"
                if full not in self.priced:
                    yield "", _match(model.match)
                elif (match := _inexact(model.match)) is not None:
                    yield full, match


_FRONTS = 32


def _exact_names(model: types.ModelInfo) -> Iterator[str]:
    yield model.id
    match = model.match
    for clause in match.or_ if isinstance(match, types.ClauseOr) else [match]:
        if isinstance(clause, types.ClauseEquals):
            yield clause.equals


def _inexact(match: object) -> Match | None:
    """Write the part of a rule beyond exact names, which are aliases."""
    clauses = match.or_ if isinstance(match, types.ClauseOr) else [match]
    rest = [_match(each) for each in clauses if not isinstance(each, types.ClauseEquals)]
    if len(rest) <= 1:
        return rest[0] if rest else None
    return Match(either=tuple(rest))


def _owner(name: str) -> types.Provider | None:
    """Find whose a bare name is by the package's rules, which ask every provider in order."""
    for provider in _providers(None):
        if provider.model_match is not None and provider.model_match.is_match(name.lower()):
            return provider
    return None


def _match(clause: object) -> Match:
    """Write a clause of the package's: its one field is named as in JSON but for ``_``."""
    return msgspec.convert(_plain(clause), Match)


def _plain(clause: object) -> dict[str, Any]:
    ((field, value),) = vars(clause).items()
    plain = list(map(_plain, value)) if isinstance(value, list) else value
    return {field.rstrip("_"): plain}


def _genai_model(
    full: str, model: types.ModelInfo, at: Instant, skipped: list[Skipped]
) -> ModelPrice:
    standard = _genai_standard(model, at)
    conditions = _genai_hours(model, at)
    for variant in model.price_variants or ():
        if isinstance(variant.constraint, types.TimeOfDateConstraint):
            skipped.append(Skipped(full, f"{variant.when} depends on the time of day."))
            continue
        if variant.constraint is not None and not variant.constraint.active(at):
            continue
        condition = _genai_condition(variant.when)
        if condition == "default" or condition in conditions:
            continue
        if condition is None:
            skipped.append(Skipped(full, f"The condition {variant.when} has no name here."))
            continue
        merged = {**vars(standard), **vars(model.get_prices(at, variant.when))}
        conditions[condition] = _condition(_genai_terms(merged))
    terms = _genai_terms(vars(standard))
    # The package knows what a model reads, but for most models not how much they write.
    output = getattr(model, "max_output_tokens", None)
    return _model_price(terms, conditions, output=output, context=model.context_window)


def _genai_condition(when: Mapping[str, str]) -> str | None:
    """Name a condition by its value: ``batch``, ``priority``, ``flex``, ``fast``, ``default``."""
    if len(when) == 1 and when.keys() <= {"processing", "service_tier", "speed"}:
        return next(iter(when.values()))
    return None


def _genai_standard(model: types.ModelInfo, at: Instant) -> types.ModelPrice:
    """Pick the last price whose date has come, as the package does, whatever the time of day."""
    if isinstance(model.prices, types.ModelPrice):
        return model.prices
    for price in reversed(model.prices):
        if isinstance(price.constraint, types.TimeOfDateConstraint):
            continue
        if price.constraint is None or price.constraint.active(at):
            return price.prices
    raise _Unusable("No price is in force yet.")


def _genai_hours(model: types.ModelInfo, at: Instant) -> dict[str, ConditionPrice]:
    """Return the prices by time of day that come before the standard one, named by their hours."""
    found: dict[str, ConditionPrice] = {}
    if isinstance(model.prices, types.ModelPrice):
        return found
    for price in reversed(model.prices):
        constraint = price.constraint
        if constraint is None or (
            isinstance(constraint, types.StartDateConstraint) and constraint.active(at)
        ):
            break
        if isinstance(constraint, types.TimeOfDateConstraint):
            start, end = _utc(constraint.start_time), _utc(constraint.end_time)
            terms = _condition(_genai_terms(vars(price.prices)))
            name = f"from_{start}_to_{end}".replace(":", "")
            found[name] = msgspec.structs.replace(terms, between=(start, end))
    return found


def _utc(of_day: time) -> str:
    moved = datetime.combine(date.min + timedelta(days=1), of_day).replace(
        tzinfo=of_day.tzinfo or UTC
    )
    in_utc = moved.astimezone(UTC).time()
    if in_utc.second or in_utc.microsecond:
        raise _Unusable("Its price changes within a minute.")
    return f"{in_utc:%H:%M}"


_HOUR = Fraction(1_000_000, 3_600)
_GENAI_CLASSES: Mapping[str, tuple[str, Fraction]] = {
    "input_mtok": ("input", Fraction(1)),
    "output_mtok": ("output", Fraction(1)),
    "cache_read_mtok": ("cache_read", Fraction(1)),
    "cache_write_mtok": ("cache_write", Fraction(1)),
    "cache_write_1h_mtok": ("cache_write_1h", Fraction(1)),
    "output_reasoning_mtok": ("reasoning", Fraction(1)),
    "input_audio_mtok": ("audio_input", Fraction(1)),
    "cache_audio_read_mtok": ("audio_cache_read", Fraction(1)),
    "output_audio_mtok": ("audio_output", Fraction(1)),
    "input_image_mtok": ("image_input", Fraction(1)),
    "cache_image_read_mtok": ("image_cache_read", Fraction(1)),
    "output_image_mtok": ("image_output", Fraction(1)),
    "input_video_mtok": ("video_input", Fraction(1)),
    "cache_video_read_mtok": ("video_cache_read", Fraction(1)),
    "output_video_mtok": ("video_output", Fraction(1)),
    "input_mchars": ("characters", Fraction(1)),
    "audio_hours": ("seconds", _HOUR),
    "input_audio_hours": ("seconds", _HOUR),
    "web_searches_kcount": ("searches", Fraction(1_000)),
    "rerank_searches_kcount": ("searches", Fraction(1_000)),
    "requests_kcount": ("requests", Fraction(1_000)),
}
"""Price key to usage class and factor to a price per million. Others have no class: pages, stored
searches, citations, messages."""


def _genai_terms(prices: Mapping[str, object]) -> _Terms:
    base: dict[str, Fraction] = {}
    above: dict[int, dict[str, Fraction]] = {}
    for key, price in prices.items():
        if price is None or key not in _GENAI_CLASSES:
            continue
        usage_class, factor = _GENAI_CLASSES[key]
        tiers = price.tiers if isinstance(price, types.TieredPrices) else []
        _put(base, usage_class, _genai_pico(price, factor))
        for tier in tiers:
            of_tier = above.setdefault(tier.start, {})
            _put(of_tier, usage_class, _genai_pico(tier.price, factor))
    return _Terms(base, above)


def _genai_pico(price: object, factor: Fraction) -> Fraction:
    value = price.base if isinstance(price, types.TieredPrices) else price
    assert isinstance(value, Decimal)
    pico: Fraction = Fraction(value) * factor * PICO_PER_UNIT
    return pico


def _put(prices: dict[str, Fraction], usage_class: str, pico: Fraction) -> None:
    """Enter a price that may come under two keys, which then must agree unless one is zero."""
    known = prices.get(usage_class, Fraction(0))
    if known and pico and known != pico:
        raise _Unusable(f"Two keys give different prices of {usage_class}.")
    prices[usage_class] = known or pico


# LiteLLM


def from_litellm(
    data: str | bytes, *, at: Instant, name: str, asset: str = "USD", version: int = 1
) -> ImportedCard:
    """Make a card, in force from ``at``, from LiteLLM's table of prices per single unit.

    Numbers are read as decimals, so 7.5E-8 per token is exactly 0.075 per million. A model all of
    whose prices are zero is left out, because the table writes zero for unknown too.

    Raises:
        InvalidRateCard: The text is not a JSON object.
    """
    models: dict[str, ModelPrice] = {}
    skipped: list[Skipped] = []
    for model, entry in _litellm_table(data).items():
        if model == "sample_spec" or not isinstance(entry, dict):
            skipped.append(Skipped(model, "It is no model."))
            continue
        try:
            models[model] = _litellm_model(model, entry, skipped)
        except _Unusable as error:
            skipped.append(Skipped(model, str(error)))
    card = RateCard(
        name=name,
        version=version,
        asset=asset,
        effective_from=at,
        models=models,
        source="litellm",
    )
    return _imported(card, skipped)


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def _litellm_table(data: str | bytes) -> dict[str, object]:
    try:
        table = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidRateCard("data", "is not JSON") from error
    if not isinstance(table, dict):
        raise InvalidRateCard("data", "is not an object")
    return table


_MILLION = Fraction(10**6 * PICO_PER_UNIT)
_LITELLM_CLASSES: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "input_cost_per_token_cache_hit": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "cache_read_input_audio_token_cost": "audio_cache_read",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
    "output_cost_per_video_token": "video_output",
    "output_cost_per_image": "images",
    "input_cost_per_character": "characters",
    "output_cost_per_character": "characters",
    "input_cost_per_second": "seconds",
    "output_cost_per_second": "seconds",
    "output_cost_per_video_per_second": "seconds",
    "input_cost_per_query": "searches",
    "input_cost_per_request": "requests",
}
_LITELLM_KEY = re.compile(
    r"(?P<base>\w+?)(?:_above_(?P<thousands>\d+)k_tokens)?(?:_(?P<condition>batches|priority|flex))?",
    re.ASCII,
)


class _Cell(NamedTuple):
    """Where a price of LiteLLM's belongs."""

    condition: str | None
    above_tokens: int
    usage_class: str
    pico: Fraction


def _litellm_cells(entry: Mapping[str, object]) -> Iterator[_Cell]:
    for key, value in entry.items():
        match = _LITELLM_KEY.fullmatch(key)
        if match is None or match["base"] not in _LITELLM_CLASSES or value is None:
            continue
        condition = "batch" if match["condition"] == "batches" else match["condition"]
        above_tokens = int(match["thousands"] or 0) * 1_000
        usage_class = _LITELLM_CLASSES[match["base"]]
        yield _Cell(condition, above_tokens, usage_class, _litellm_pico(key, value))
    yield from _litellm_searches(entry.get("search_context_cost_per_query"))


def _litellm_searches(by_size: object) -> Iterator[_Cell]:
    """Read the price of a web search where it is the same for every size of context."""
    if isinstance(by_size, dict) and len(set(by_size.values())) == 1:
        pico = _litellm_pico("search_context_cost_per_query", next(iter(by_size.values())))
        yield _Cell(None, 0, "searches", pico)


def _litellm_pico(key: str, value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _Unusable(f"{key} is not a number.")
    if value < 0:
        raise _Unusable(f"{key} is negative.")
    return Fraction(value) * _MILLION


def _litellm_model(model: str, entry: Mapping[str, object], skipped: list[Skipped]) -> ModelPrice:
    if "tiered_pricing" in entry:
        raise _Unusable("tiered_pricing does not say whether it prices the whole request.")
    cells = list(_litellm_cells(entry))
    if cells and not any(cell.pico for cell in cells):
        raise _Unusable("Every price is zero, which may mean free or unknown.")
    terms = _litellm_terms(cells, None, {})
    conditions = {}
    for condition in sorted({cell.condition for cell in cells if cell.condition}):
        of_condition = _litellm_terms(cells, condition, terms.base)
        if terms.above.keys() - of_condition.above.keys():
            reason = f"The condition {condition} does not say what a long context costs."
            skipped.append(Skipped(model, reason))
            continue
        conditions[condition] = _condition(of_condition)
    return _model_price(
        terms,
        conditions,
        output=entry.get("max_output_tokens"),
        context=_litellm_context(entry),
    )


def _litellm_context(entry: Mapping[str, object]) -> int:
    """Take the larger of what a model reads and writes: the table often means both by one."""
    return max(_tokens(entry.get("max_input_tokens")), _tokens(entry.get("max_output_tokens")))


def _litellm_terms(
    cells: Iterable[_Cell], condition: str | None, inherited: Mapping[str, Fraction]
) -> _Terms:
    """Collect the prices of a condition; what it does not mention costs what it always does."""
    by_context: dict[int, dict[str, Fraction]] = {0: {}}
    for cell in cells:
        if cell.condition == condition:
            of_context = by_context.setdefault(cell.above_tokens, {})
            _put(of_context, cell.usage_class, cell.pico)
    base = {**inherited, **by_context.pop(0)}
    return _Terms(base, by_context)
