"""Rate cards are immutable data; a charge is a pure function of usage and card."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.lines import ModelLines, charge_of, split
from ledger.model_names import Match, Pattern
from ledger.money import InvalidAmount, format_pico, parse_pico
from ledger.pricing import (
    FALLBACKS,
    PRICE_LIMIT,
    ConditionPrice,
    InvalidRateCard,
    ModelPrice,
    PriceBook,
    PriceChange,
    PriceTier,
    Quote,
    RateCard,
    check_card,
    content_hash,
    diff,
    jumps,
    unit_price,
)
from ledger.usage import CLASSES, QUANTITY_MAX, Usage, context_tokens

START = datetime(2026, 1, 1, tzinfo=UTC)


def a_card(models=None, **changes) -> RateCard:
    """Make a small card."""
    mini = ModelPrice(prices={"input": "0.15", "cache_read": "0.075", "output": "0.6"})
    base = RateCard(
        name="standard",
        version=1,
        asset="USD",
        effective_from=START,
        models={"mini": mini} if models is None else models,
    )
    return msgspec.structs.replace(base, **changes)


LONG = ModelPrice(
    prices={"input": "3", "output": "15"},
    tiers=(
        PriceTier(above_tokens=200_000, prices={"input": "6", "output": "22.5"}),
        PriceTier(above_tokens=500_000, prices={"input": "9", "output": "30"}),
    ),
    conditions={
        "batch": ConditionPrice(
            prices={"input": "1.5", "output": "7.5"},
            tiers=(PriceTier(above_tokens=200_000, prices={"input": "2", "output": "8"}),),
        )
    },
)


def test_a_request_costs_what_the_card_says():
    """1,000 input tokens at 0.15 per million cost 0.00015 (I6)."""
    quote = PriceBook(a_card()).quote("mini", Usage(input=1_000))
    assert quote == Quote(1_000 * parse_pico("0.15"), {"input": (1_000, "0.15")})
    assert quote.pico == parse_pico("0.00015")


def test_cached_tokens_are_charged_once():
    """Cached tokens cost the cache rate, and not the full one as well (D8)."""
    quote = PriceBook(a_card()).quote("mini", Usage(input=100, cache_read=900, output=10))
    assert quote.pico == parse_pico("0.0000885")
    assert quote.lines == {
        "input": (100, "0.15"),
        "cache_read": (900, "0.075"),
        "output": (10, "0.6"),
    }


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_without_a_price_falls_back_or_is_unpriced(name):
    """Unpriced is a state and never zero; the fall-back is to the wider class only (C9)."""
    book = PriceBook(a_card())
    quote = book.quote("mini", Usage(**{name: 7}))
    if name in ("images", "characters", "seconds", "searches", "requests"):
        assert quote == Quote(0, {name: (7, None)}, is_whole=False)
        assert not quote.is_whole
        return
    wider = next(each for each in (name, *FALLBACKS.get(name, ())) if each in MINI)
    assert quote.lines == {name: (7, MINI[wider])}
    assert quote.pico == 7 * parse_pico(MINI[wider]) // 10**6


MINI = a_card().models["mini"].prices


@pytest.mark.parametrize(
    ("has", "wanted", "price"),
    [
        ({"cache_write": "2", "input": "1"}, "cache_write_1h", "2"),
        ({"input": "1"}, "cache_write_1h", "1"),
        ({"cache_write_1h": "4", "cache_write": "2"}, "cache_write_1h", "4"),
        ({"reasoning": "5", "output": "3"}, "reasoning", "5"),
        ({"audio_input": "5", "input": "3"}, "audio_cache_read", "5"),
        ({"audio_input": "5", "cache_read": "1"}, "audio_cache_read", "1"),
        ({"cache_write_1h": "4", "cache_write": "2"}, "input", None),
        ({"reasoning": "5"}, "output", None),
    ],
)
def test_a_price_of_its_own_goes_first(has, wanted, price):
    """The hour's cache write is not priced as five minutes' where it has a price (D8)."""
    assert unit_price(has, wanted) == price


@pytest.mark.parametrize("model", ["mini-2026-01-01", "min", "MINI-1", "", "other"])
def test_a_model_the_card_does_not_name_is_unpriced(model):
    """No price is guessed from the beginning of a name (C9)."""
    assert PriceBook(a_card()).quote(model, Usage(input=1)) is None


def test_an_alias_is_another_exact_name():
    """A dated name costs what its model costs."""
    book = PriceBook(a_card(aliases={"mini-2026-01-01": "mini"}))
    usage = Usage(input=10)
    priced = book.quote("mini", usage)
    assert book.quote("mini-2026-01-01", usage) == priced._replace(priced_as="mini")


@pytest.mark.parametrize(
    ("context", "condition", "price"),
    [
        (200_000, None, "3"),
        (200_001, None, "6"),
        (500_000, None, "6"),
        (500_001, None, "9"),
        (200_000, "batch", "1.5"),
        (900_000, "batch", "2"),
    ],
)
def test_a_long_context_prices_the_whole_request(context, condition, price):
    """Strictly above the threshold every token costs the tier's price (I5)."""
    usage = Usage(input=context - 5, cache_read=5, output=1)
    quote = PriceBook(a_card({"long": LONG})).quote("long", usage, condition)
    assert context_tokens(usage) == context
    assert quote.lines["input"][1] == quote.lines["cache_read"][1] == price
    assert quote.pico == charge_of(quote.lines)


def test_a_condition_the_model_lacks_is_unpriced():
    """A batch is not charged as something else (C9)."""
    book = PriceBook(a_card({"long": LONG}))
    assert book.quote("long", Usage(input=1), "priority") is None
    assert book.quote("nothing", Usage(input=1), "batch") is None


def test_a_usage_of_nothing_costs_nothing():
    """Zero used is priced, at zero, wherever the model is known."""
    assert PriceBook(a_card()).quote("mini", Usage()) == Quote(0, {})


def test_a_charge_is_rounded_once_half_to_even():
    """Half a pico goes to the even neighbour, after the classes are summed (I4)."""
    half = "0.0000005"
    assert charge_of({"input": (1, half)}) == 0
    assert charge_of({"input": (3, half)}) == 2
    assert charge_of({"input": (1, half), "output": (1, half)}) == 1
    assert charge_of({"input": (1, half)}, [ModelLines(model="m", lines={"input": (1, half)})]) == 1


def test_a_charge_beyond_any_amount_is_refused():
    """Absurd numbers do not become an amount that no table holds."""
    book = PriceBook(a_card({"gold": ModelPrice(prices={"input": "999999999"})}))
    quote = book.quote("gold", Usage(input=QUANTITY_MAX))
    with pytest.raises(InvalidAmount):
        _ = quote.pico


def test_a_class_without_a_price_leaves_the_others_charged():
    """What has a price is in the charge; what has none is named, and is no zero (C9)."""
    quote = PriceBook(a_card()).quote("mini", Usage(input=1_000, images=2))
    assert quote.lines == {"input": (1_000, "0.15"), "images": (2, None)}
    assert quote.pico == parse_pico("0.00015")
    assert not quote.is_whole


def test_a_call_itself_may_have_a_price():
    """Where the call itself has a price, the usage must count it."""
    sonar = ModelPrice(prices={"input": "1", "output": "1", "requests": "12000"})
    book = PriceBook(a_card({"sonar": sonar}))
    assert book.quote("sonar", Usage(input=1, requests=1)).pico == parse_pico("0.012001")


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_a_split_adds_up(total, weights):
    """No part is off by a pico or more, and together they are the whole."""
    parts = split(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert not whole or abs(Fraction(total * weight, whole) - part) < 1


decimals = st.integers(0, PRICE_LIMIT - 1).map(format_pico) | st.sampled_from(
    ["0", "0.15", "2.5", "15", "0.000000000001", "0.0000005"]
)
some_prices = st.dictionaries(st.sampled_from(CLASSES), decimals, min_size=1)
some_usage = st.dictionaries(
    st.sampled_from(CLASSES), st.integers(0, 10**9) | st.integers(0, 50), max_size=6
).map(lambda counts: Usage(**counts))


@st.composite
def some_terms(draw):
    """Draw prices whose tiers hold every class of the base."""
    prices = draw(some_prices)
    above = sorted(draw(st.sets(st.integers(1, 100), max_size=3)))
    tiers = tuple(
        PriceTier(above_tokens=each, prices={name: draw(decimals) for name in prices})
        for each in above
    )
    return ConditionPrice(prices=prices, tiers=tiers)


def slow_prices(terms, usage):
    """Pick the prices in force by the words of the rule."""
    reached = [tier for tier in terms.tiers if context_tokens(usage) > tier.above_tokens]
    return max(reached, key=lambda tier: tier.above_tokens).prices if reached else terms.prices


@given(some_terms(), some_terms(), some_usage, st.sampled_from([None, "batch"]))
def test_promise_10_charging_is_a_pure_function(terms, batch, usage, condition):
    """Promise 10: the same usage and card always give the one charge, or none; never zero (C10).

    The fast quote, the slow recomputation from the event's own prices and exact fractions agree.
    """
    price = ModelPrice(prices=terms.prices, tiers=terms.tiers, conditions={"batch": batch})
    book = PriceBook(a_card({"m": price}))
    quote = book.quote("m", usage, condition)
    again = PriceBook(book.card).quote("m", usage, condition)
    assert quote == again == book.quote("m", usage, condition)
    prices = slow_prices(batch if condition else terms, usage)
    used = {name: unit_price(prices, name) for name in CLASSES if getattr(usage, name)}
    assert quote.lines == {name: (getattr(usage, name), price) for name, price in used.items()}
    assert quote.pico == charge_of(quote.lines)
    priced = [name for name, price in used.items() if price is not None]
    exact = sum(getattr(usage, n) * Fraction(used[n]) for n in priced) * 10**12 / 10**6
    assert quote.pico == round(exact)


def test_a_quotes_lines_are_the_callers_own():
    """Changing a quote does not change the next one (C10)."""
    book = PriceBook(a_card())
    book.quote("mini", Usage(input=1)).lines["input"] = (1, "0")
    assert book.quote("mini", Usage(input=1)).lines == {"input": (1, "0.15")}


def test_unknown_names_and_odd_usages_do_not_fill_the_book():
    """What callers can invent is not remembered without bound."""
    book = PriceBook(a_card())
    for number in range(1_000):
        book.quote(f"model-{number}", Usage(input=1))
        bits = {name: number >> place & 1 for place, name in enumerate(CLASSES[:10])}
        book.quote("mini", Usage(**bits))
    assert len(book._compiled) == 1
    assert len(book._compiled["mini", None][0][1].plans) <= 256


@pytest.mark.parametrize(
    "text",
    ["1e-6", "-1", "+1", ".5", "5.", "1.50", "00.5", "1,5", "1_000", " 1", "", "nan", "٣",
     "0.0000000000001", "1000000000", "0.0"],
)  # fmt: skip
def test_a_price_is_a_plain_shortest_decimal(text):
    """Exponents, signs, spare zeros and a thirteenth place are refused by the field (I4, I6)."""
    with pytest.raises(InvalidRateCard) as caught:
        check_card(a_card({"m": ModelPrice(prices={"input": text})}))
    assert caught.value.field == "models.m.prices.input"


TIER = PriceTier(above_tokens=5, prices={"input": "1"})
A = Match(starts_with="a")


def by_hours(**hours) -> dict[str, ModelPrice]:
    """Make the prices of a model that costs half within some hours."""
    conditions = {
        name: ConditionPrice(prices={"input": "1"}, between=between)
        for name, between in hours.items()
    }
    batch = ConditionPrice(prices={"input": "0.5"})
    return {"m": ModelPrice(prices={"input": "2"}, conditions={**conditions, "batch": batch})}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "two words"}, "name"),
        ({"version": 0}, "version"),
        ({"asset": "usd"}, "asset"),
        (
            {"effective_from": START.astimezone(timezone(timedelta(hours=1)))},
            "effective_from",
        ),
        ({"models": {"": ModelPrice(prices={"input": "1"})}}, "models."),
        ({"models": {"m": ModelPrice(prices={})}}, "models.m.prices"),
        ({"models": {"m": ModelPrice(prices={"tokens": "1"})}}, "models.m.prices.tokens"),
        (
            {"models": {"m": ModelPrice(prices={"input": "1"}, tiers=(TIER, TIER))}},
            "models.m.tiers[1].above_tokens",
        ),
        (
            {"models": {"m": ModelPrice(prices={"input": "1", "output": "2"}, tiers=(TIER,))}},
            "models.m.tiers[0].prices",
        ),
        (
            {
                "models": {
                    "m": ModelPrice(
                        prices={"input": "1"},
                        conditions={"Batch!": ConditionPrice(prices={"input": "1"})},
                    )
                }
            },
            "models.m.conditions.Batch!",
        ),
        (
            {"models": {"m": ModelPrice(prices={"input": "1"}, max_output_tokens=-1)}},
            "models.m.max_output_tokens",
        ),
        (
            {"models": {"m": ModelPrice(prices={"input": "1"}, context_window=10**9 + 1)}},
            "models.m.context_window",
        ),
        ({"aliases": {"mini": "mini"}}, "aliases.mini"),
        ({"aliases": {"other": "none"}}, "aliases.other"),
        ({"patterns": (Pattern(model="none", match=A),)}, "patterns[0].model"),
        ({"patterns": (Pattern(model="*", match=A),)}, "patterns[0].model"),
        ({"patterns": (Pattern(model="mini", match=A, after="Acme/"),)}, "patterns[0].after"),
        ({"patterns": (Pattern(model="mini", match=Match()),)}, "patterns[0].match"),
        ({"models": by_hours(night=("22:00", "24:00"))}, "models.m.conditions.night.between"),
        ({"models": by_hours(night=("6:00", "22:00"))}, "models.m.conditions.night.between"),
        ({"models": by_hours(night=("06:00", "06:00"))}, "models.m.conditions.night.between"),
        (
            {"models": by_hours(night=("22:00", "06:00"), dawn=("05:59", "07:00"))},
            "models.m.conditions.dawn.between",
        ),
    ],
)
def test_a_card_that_breaks_a_rule_is_refused_by_the_field(changes, field):
    """Each rule of a card names where it is broken."""
    with pytest.raises(InvalidRateCard) as caught:
        PriceBook(a_card(**changes))
    assert caught.value.field == field


def test_a_card_survives_its_stored_form():
    """A card reads back equal from the JSON of an event; a naive date does not (F1)."""
    card = a_card({"long": LONG}, aliases={"l": "long"})
    assert msgspec.json.decode(msgspec.json.encode(card), type=RateCard) == card
    naive = msgspec.json.encode(card).replace(b"2026-01-01T00:00:00Z", b"2026-01-01T00:00:00")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(naive, type=RateCard)


def test_a_cards_hash_is_of_its_content():
    """Order, version and source do not matter; every price does (I1). The bytes are frozen."""
    card = a_card({"long": LONG, "mini": a_card().models["mini"]})
    turned = a_card(dict(reversed(card.models.items())), version=7, source="elsewhere")
    assert content_hash(card) == content_hash(turned)
    content = (
        b'["standard","USD","2026-01-01T00:00:00Z",{"mini":{"prices":'
        b'{"cache_read":"0.075","input":"0.15","output":"0.6"}}},{},[]]'
    )
    assert content_hash(a_card()) == hashlib.sha256(content).hexdigest()
    for changes in (
        {"asset": "CAD"},
        {"name": "other"},
        {"effective_from": START + timedelta(microseconds=1)},
        {"models": {}},
        {"aliases": {"l": "long"}},
        {"patterns": (Pattern(model="long", match=Match(contains="l")),)},
    ):
        assert content_hash(msgspec.structs.replace(card, **changes)) != content_hash(card)


def test_a_diff_lists_every_changed_price():
    """Changed, new and gone prices, in tiers and conditions too (I6)."""
    new = ModelPrice(
        prices={"input": "3", "output": "16", "reasoning": "20"},
        tiers=LONG.tiers[:1],
        conditions={},
    )
    changes = diff(a_card({"long": LONG}), a_card({"long": new, "mini": LONG}))
    of_long = [tuple(change)[1:] for change in changes if change.model == "long"]
    assert of_long == [
        ("output", None, None, "15", "16"),
        ("reasoning", None, None, None, "20"),
        ("input", None, 500_000, "9", None),
        ("output", None, 500_000, "30", None),
        ("input", "batch", None, "1.5", None),
        ("output", "batch", None, "7.5", None),
        ("input", "batch", 200_000, "2", None),
        ("output", "batch", 200_000, "8", None),
    ]
    assert diff(a_card(), a_card(version=2)) == []


@pytest.mark.parametrize(
    ("old", "new", "jumped"),
    [
        ("0.15", "1.499999", False),
        ("0.15", "1.5", True),
        ("1.5", "0.150001", False),
        ("1.5", "0.15", True),
        ("0.15", "0", True),
        ("0", "0.15", True),
        ("0.15", "150000", True),
    ],
)
def test_a_price_that_jumps_is_found(old, new, jumped):
    """Tenfold or more up or down, and to or from zero, is a likely unit mistake (I6)."""
    before = a_card({"m": ModelPrice(prices={"input": old})})
    after = a_card({"m": ModelPrice(prices={"input": new})})
    expected = [PriceChange("m", "input", None, None, old, new)] if jumped else []
    assert jumps(before, after) == expected


def test_a_lost_cache_price_is_compared_through_its_fall_back():
    """Dropping a price moves what is paid to the fall-back; that can be a jump too (D8, I6)."""
    before = a_card({"m": ModelPrice(prices={"input": "5", "cache_read": "0.4"})})
    after = a_card({"m": ModelPrice(prices={"input": "5"})})
    assert jumps(before, after) == [PriceChange("m", "cache_read", None, None, "0.4", "5")]
    assert jumps(before, a_card({})) == []


@pytest.mark.parametrize(
    ("time", "charged", "by_time"),
    [
        ((16, 29, 59), 2, ""),
        ((16, 30, 0), 1, "off_peak"),
        ((23, 59, 59), 1, "off_peak"),
        ((0, 0, 0), 1, "off_peak"),
        ((0, 29, 59), 1, "off_peak"),
        ((0, 30, 0), 2, ""),
    ],
)
def test_a_price_by_the_time_of_day_applies_by_itself(time, charged, by_time):
    """From its first minute until just before its last, over midnight too; the quote says so."""
    book = PriceBook(a_card(by_hours(off_peak=("16:30", "00:30"))))
    at = datetime(2026, 3, 1, *time, tzinfo=UTC)
    quote = book.quote("m", Usage(input=10**6), at=at)
    assert (quote.pico, quote.by_time) == (parse_pico(str(charged)), by_time)
    assert book.quotes("m", [Usage(input=10**6)], ats=[at]) == [quote]


def test_a_named_condition_goes_before_the_time_of_day():
    """A batch at night is a batch; a condition with hours has no price outside of them."""
    book = PriceBook(a_card(by_hours(off_peak=("16:30", "00:30"))))
    night, noon = datetime(2026, 3, 1, 20, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)
    batch = book.quote("m", Usage(input=10**6), "batch", night)
    assert (batch.pico, batch.by_time) == (parse_pico("0.5"), "")
    assert book.quote("m", Usage(input=10**6), "off_peak", night).pico == parse_pico("1")
    assert book.quote("m", Usage(input=10**6), "off_peak", noon) is None


def test_a_quote_names_the_model_it_is_priced_as():
    """An alias and a pattern name it, and so does the card's ``*``; an exact name says it all."""
    card = a_card(
        {"mini": a_card().models["mini"], "*": ModelPrice(prices={"input": "9"})},
        aliases={"small": "mini"},
        patterns=(Pattern(model="mini", match=Match(starts_with="mini-")),),
    )
    book = PriceBook(card)
    named = {
        name: book.quote(name, Usage(input=1)).priced_as
        for name in ("mini", "small", "mini-2026", "maxi")
    }
    assert named == {"mini": "", "small": "mini", "mini-2026": "mini", "maxi": "*"}
