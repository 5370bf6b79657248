"""Cards from other people's tables: exact, nothing guessed, what is left out is reported."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from genai_prices import data_snapshot

from ledger.money import parse_pico
from ledger.price_sources import (
    from_genai_prices,
    from_litellm,
)
from ledger.pricing import InvalidRateCard, PriceBook, PriceTier, check_card
from ledger.usage import Usage

SHARED = Path(
    os.environ.get("KEYLEDGER_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared")
)
LITELLM = SHARED / "data" / "prices" / "litellm_full_2026-07-24.json"
SAMPLES = SHARED / "data" / "provider_usage" / "samples.json"
AT = datetime(2026, 7, 24, tzinfo=UTC)


def read(text: str):
    """Import a piece of LiteLLM's table."""
    return from_litellm(text, at=AT, name="litellm")


def test_prices_per_token_become_exact_prices_per_million():
    """7.5E-8 per token is 0.075 per million, without a float on the way (I4, I6)."""
    imported = read(
        '{"m": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 0.0000006,'
        ' "cache_read_input_token_cost": 7.5E-8, "output_cost_per_image": 0.04,'
        ' "max_tokens": 5, "mode": "chat"}}'
    )
    expected = {"cache_read": "0.075", "images": "40000", "input": "0.15", "output": "0.6"}
    assert imported.card.models["m"].prices == expected
    assert imported.skipped == ()


def test_tiers_and_conditions_are_written_out_in_full():
    """A long context and a batch hold what they do not change as well (I5)."""
    model = read(
        '{"m": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,'
        ' "cache_creation_input_token_cost_above_1hr": 6e-06,'
        ' "input_cost_per_token_above_200k_tokens": 6e-06,'
        ' "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05,'
        ' "input_cost_per_token_priority": 4e-06,'
        ' "input_cost_per_token_above_200k_tokens_priority": 8e-06}}'
    ).card.models["m"]
    long = {"cache_write_1h": "12", "input": "6", "output": "15"}
    assert model.prices == {"cache_write_1h": "6", "input": "3", "output": "15"}
    assert model.tiers == (PriceTier(above_tokens=200_000, prices=long),)
    priority = model.conditions["priority"]
    assert priority.prices == {"cache_write_1h": "6", "input": "4", "output": "15"}
    assert priority.tiers[0].prices == {"cache_write_1h": "6", "input": "8", "output": "15"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('{"input_cost_per_token": -1e-06}', "negative"),
        ('{"input_cost_per_token": "1e-06"}', "not a number"),
        ('{"input_cost_per_token": true}', "not a number"),
        ('{"input_cost_per_token": 2.9999900000000002e-06}', "fits no card"),
        ('{"input_cost_per_token": 5000}', "fits no card"),
        ('{"input_cost_per_token": 0.0, "output_cost_per_token": 0}', "zero"),
        ('{"mode": "chat"}', "no price of a known"),
        ('{"input_cost_per_token": 1e-06, "tiered_pricing": []}', "tiered_pricing"),
        ('{"input_cost_per_second": 1e-3, "output_cost_per_second": 2e-3}', "Two keys"),
    ],
)
def test_what_a_card_cannot_hold_is_left_out_and_said(entry, reason):
    """A price that is negative, inexact, or zero for unknown leaves its model unpriced (C9)."""
    imported = read(f'{{"m": {entry}}}')
    assert imported.card.models == {}
    ((model, said),) = imported.skipped
    assert model == "m"
    assert reason in said


def test_a_condition_that_is_silent_on_long_contexts_is_left_out():
    """A batch without a price above the threshold is not priced below it (C9, I5)."""
    imported = read(
        '{"m": {"input_cost_per_token": 2e-06, "input_cost_per_token_above_128k_tokens": 4e-06,'
        ' "input_cost_per_token_batches": 1e-06}}'
    )
    assert imported.card.models["m"].conditions == {}
    assert "batch does not say" in imported.skipped[0].reason


def test_values_that_are_no_models_are_skipped():
    """The sample and the time stamp are no models."""
    text = '{"sample_spec": {"input_cost_per_token": 1.0}, "last_updated": "2026", "n": null}'
    imported = read(text)
    assert imported.card.models == {}
    assert [each.model for each in imported.skipped] == ["sample_spec", "last_updated", "n"]


@pytest.mark.parametrize("text", ["", "[]", "{", b"\xff", '"x"'])
def test_a_text_that_is_no_table_is_refused(text):
    """Only a JSON object is a table."""
    with pytest.raises(InvalidRateCard, match="data"):
        read(text)


def test_a_web_search_has_a_price_where_its_size_does_not_matter():
    """One price for all sizes is a price; three are not."""
    search = '{{"m": {{"input_cost_per_token": 1e-06, "search_context_cost_per_query": {}}}}}'
    same = read(search.format('{"low": 0.01, "high": 0.01}')).card.models["m"]
    assert same.prices == {"input": "1", "searches": "10000"}
    other = read(search.format('{"low": 0.01, "high": 0.02}')).card.models["m"]
    assert other.prices == {"input": "1"}


@pytest.mark.parametrize(
    ("members", "bounds"),
    [
        ('"max_input_tokens": 272000, "max_output_tokens": 128000', (128_000, 272_000)),
        ('"max_input_tokens": 8192, "max_output_tokens": 16384', (16_384, 16_384)),
        ('"max_tokens": 4096', (0, 0)),
        ('"max_output_tokens": 0, "max_input_tokens": -1', (0, 0)),
        ('"max_output_tokens": "many", "max_input_tokens": true', (0, 0)),
        ('"max_output_tokens": 1e9, "max_input_tokens": 1000000001', (0, 0)),
    ],
)
def test_how_much_a_model_reads_and_writes_comes_with_its_prices(members, bounds):
    """What is no plain number of tokens is not known; ``max_tokens`` alone may mean either."""
    model = read(f'{{"m": {{"input_cost_per_token": 1e-06, {members}}}}}').card.models["m"]
    assert (model.max_output_tokens, model.context_window) == bounds


def test_the_package_knows_what_a_model_reads():
    """genai-prices names context windows; where it names none the card does not either."""
    card = from_genai_prices(at=AT, name="c", provider_ids=["openai"]).card
    assert card.models["openai/gpt-4o"].context_window == 128_000
    assert card.models["openai/gpt-4o"].max_output_tokens == 0
    assert card.models["openai/whisper-1"].context_window == 0


@pytest.mark.needs_shared
@pytest.mark.skipif(not LITELLM.exists(), reason="needs ../shared")
def test_the_real_litellm_table_is_read_exactly():
    """Of 2,984 entries every one is in the card or reported, and prices match by hand (I5)."""
    imported = from_litellm(LITELLM.read_bytes(), at=AT, name="litellm")
    whole = {each.model for each in imported.skipped if "condition" not in each.reason}
    assert len(imported.card.models) == 2_629
    assert len(whole) == 356
    assert not whole & imported.card.models.keys()
    sonnet = imported.card.models["claude-sonnet-4-5-20250929"]
    assert sonnet.prices["cache_write_1h"] == "6"
    assert sonnet.tiers[0].above_tokens == 200_000
    assert sonnet.tiers[0].prices["cache_write_1h"] == "12"
    quote = PriceBook(imported.card).quote("claude-sonnet-4-5-20250929", Usage(input=200_001))
    assert quote.pico == parse_pico("1.200006")


def test_genai_prices_become_a_card():
    """Over two thousand models, tiered and conditional, checked like any other card (I5)."""
    imported = from_genai_prices(at=AT, name="genai")
    check_card(imported.card)
    assert len(imported.card.models) > 2_000
    assert imported.card.effective_from == AT
    left_out = {each.model for each in imported.skipped if "condition" not in each.reason}
    assert not left_out & imported.card.models.keys()
    models = imported.card.models
    assert models["openai/gpt-4o-mini"].prices["input"] == "0.15"
    assert models["openai/gpt-5.5"].tiers[0].above_tokens == 272_000
    assert models["perplexity/sonar"].prices["requests"] == "12000"
    assert models["openai/whisper-1"].prices == {"seconds": "100"}


def test_genai_prices_are_those_in_force():
    """o3 became cheaper on 10 June 2025, and not a day before (I1, I3)."""
    june = datetime(2025, 6, 10, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    cards = [
        from_genai_prices(at=at, name="openai", provider_ids={"openai"}).card
        for at in (june - tick, june)
    ]
    assert [card.models["openai/o3"].prices["input"] for card in cards] == ["10", "2"]


def test_genai_conditions_are_named_by_their_value():
    """Batch prices hold what they do not change as well."""
    at = datetime(2026, 11, 1, tzinfo=UTC)
    card = from_genai_prices(at=at, name="anthropic", provider_ids=["anthropic"]).card
    opus = card.models["anthropic/claude-opus-5"]
    assert opus.prices["input"] == "5"
    assert opus.conditions["fast"].prices["input"] == "10"
    assert opus.conditions["batch"].prices["input"] == "2.5"
    assert opus.conditions["batch"].prices["searches"] == "10000"


def test_a_bare_name_means_its_owners_model():
    """The package says whose it is; else it means a model where one provider only has it (C9)."""
    one = from_genai_prices(at=AT, name="one", provider_ids={"openai"}).card
    assert one.aliases["gpt-4o-mini"] == "openai/gpt-4o-mini"
    both = from_genai_prices(at=AT, name="all").card
    assert all(target in both.models for target in both.aliases.values())
    assert both.aliases["gpt-4o-mini"] == "openai/gpt-4o-mini"
    nobodys = {name for name in both.models if name.startswith("together/")}
    shared = {
        name.removeprefix("together/")
        for name in nobodys
        if name.replace("together/", "novita/", 1) in both.models
    }
    assert shared
    assert not shared & both.aliases.keys()


def test_names_with_a_date_or_a_suffix_are_priced():
    """What the package's own rules say of a name, the card says by itself."""
    book = PriceBook(from_genai_prices(at=AT, name="all").card)
    known = {
        "gpt-4o-2024-08-06": "openai/gpt-4o",
        "openai/gpt-4o-2024-08-06": "openai/gpt-4o",
        "azure/gpt-4o-2024-08-06": "openai/gpt-4o",
        "claude-sonnet-4-5-20250929": "anthropic/claude-sonnet-4-5",
        "anthropic/claude-sonnet-4-5-20990101": "anthropic/claude-sonnet-4-5",
        "openai/claude-sonnet-4-5": None,
        "no-such-model": None,
    }
    assert {name: book.name_of(name) for name in known} == known


def test_a_name_that_the_package_gives_to_an_unpriced_model_has_no_price():
    """Another model's pattern does not take what belongs to one that could not be read (C9)."""
    imported = from_genai_prices(at=AT, name="groq", provider_ids={"groq"})
    assert "groq/whisper-large-v3" in {each.model for each in imported.skipped}
    assert PriceBook(imported.card).name_of("groq/whisper-large-v3") is None


@pytest.mark.needs_shared
@pytest.mark.skipif(not SAMPLES.exists(), reason="needs ../shared")
def test_nearly_every_sample_of_usage_has_a_price():
    """Of the package's 2,278 priced samples 2,265 are priced, and as the model it says itself."""
    book = PriceBook(from_genai_prices(at=AT, name="all").card)
    providers = {each.id: each for each in data_snapshot._bundled_snapshot().providers}
    cases = [
        (sample["model"], extractor["provider_id"])
        for sample in msgspec.json.decode(SAMPLES.read_bytes())
        for extracted in sample["extracted"]
        for extractor in extracted["extractors"]
        if extractor.keys() & {"input_price", "output_price"}
    ]
    found = {case: book.name_of("{1}/{0}".format(*case)) for case in set(cases)}
    priced = [case for case in cases if found[case]]
    assert len(cases) == 2_278
    assert len(priced) >= 2_265
    for model, provider in set(priced):
        own = providers[provider].find_model(model, all_providers=[*providers.values()])
        assert found[model, provider].partition("/")[2] == own.id


def test_prices_by_the_time_of_day_are_conditions():
    """DeepSeek costs more by day; each of the hours is a condition with its times in UTC."""
    card = from_genai_prices(at=AT, name="deepseek", provider_ids={"deepseek"}).card
    chat = card.models["deepseek/deepseek-chat"]
    assert chat.prices["input"] == "0.135"
    (hours,) = chat.conditions.values()
    assert (hours.between, hours.prices["input"]) == (("00:30", "16:30"), "0.27")
    by_day, by_night = (
        PriceBook(card).quote("deepseek-chat", Usage(input=10**6), at=AT.replace(hour=hour))
        for hour in (12, 20)
    )
    assert (by_day.pico, by_day.by_time) == (parse_pico("0.27"), "from_0030_to_1630")
    assert (by_night.pico, by_night.by_time) == (parse_pico("0.135"), "")


def test_an_unknown_provider_is_refused():
    """A misspelt provider is not an empty card."""
    with pytest.raises(InvalidRateCard, match="opnai"):
        from_genai_prices(at=AT, name="x", provider_ids={"opnai"})


def test_an_import_is_reproducible():
    """The same package gives the same bytes (I1)."""
    cards = [from_genai_prices(at=AT, name="x", provider_ids={"openai"}).card for _ in "ab"]
    assert msgspec.json.encode(cards[0]) == msgspec.json.encode(cards[1])
