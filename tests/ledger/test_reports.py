"""A report is evidence: what is read of it, alone and of several, and what is not believed.

The table of real shapes is tests/gateway/reported.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.reports import Evidence, Observed, read
from ledger.said import REPORT_BYTES_MAX, Said, said_by
from ledger.shapes import DOUBTS_MAX, FORMATS, usage_of
from ledger.shapes.counts import Hint, ReportObject
from ledger.shapes.tokens import plain
from ledger.shapes.tokens import tokens as tokens_of
from ledger.usage import QUANTITY_MAX, InvalidUsage, Usage, context_tokens, output_tokens, tokens

FIELDS = {
    *("usage", "choices", "x_groq", "response", "message", "model", "id", "service_tier", "type"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"),
    *("completion_tokens_details", "cached_tokens", "reasoning_tokens", "audio_tokens"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation"),
    *("cache_creation_input_tokens", "ephemeral_1h_input_tokens", "iterations", "output"),
    *("promptTokenCount", "candidatesTokenCount", "cacheTokensDetails", "modality", "tokenCount"),
    *("inputTokens", "outputTokens", "cacheDetails", "ttl", "billed_units", "seconds"),
}
"""Names that a reader looks for."""

EXAMPLES: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai_chat": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "cached_tokens": 40,
                "cache_write_tokens": 10,
                "audio_tokens": 20,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 15,
                "audio_tokens": 5,
                "rejected_prediction_tokens": 7,
            },
        },
        Usage(
            input=30,
            cache_read=40,
            cache_write=10,
            audio_input=20,
            output=30,
            reasoning=15,
            audio_output=5,
        ),
    ),
    "openai_responses": (
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "total_tokens": 150,
            "input_tokens_details": {"cached_tokens": 64},
            "output_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input=36, cache_read=64, output=30, reasoning=20),
    ),
    "openai_embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input=8)),
    "openai_realtime": (
        {
            "input_tokens": 100,
            "output_tokens": 30,
            "total_tokens": 130,
            "input_token_details": {
                "text_tokens": 40,
                "audio_tokens": 60,
                "cached_tokens": 70,
                "cached_tokens_details": {"text_tokens": 30, "audio_tokens": 40},
            },
            "output_token_details": {"text_tokens": 10, "audio_tokens": 20},
        },
        Usage(
            input=10,
            cache_read=30,
            audio_input=20,
            audio_cache_read=40,
            output=10,
            audio_output=20,
        ),
    ),
    "openai_duration": ({"type": "duration", "seconds": 61}, Usage(seconds=61)),
    "anthropic_messages": (
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 70,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 30,
                "ephemeral_1h_input_tokens": 40,
            },
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": {"web_search_requests": 2},
        },
        Usage(
            input=10,
            cache_read=20,
            cache_write=30,
            cache_write_1h=40,
            output=5,
            reasoning=4,
            searches=2,
        ),
    ),
    "google_generate_content": (
        {
            "promptTokenCount": 100,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 20},
                {"modality": "IMAGE", "tokenCount": 50},
                {"modality": "DOCUMENT", "tokenCount": 10},
                {"modality": "AUDIO", "tokenCount": 20},
            ],
            "cachedContentTokenCount": 15,
            "cacheTokensDetails": [
                {"modality": "TEXT", "tokenCount": 5},
                {"modality": "IMAGE", "tokenCount": 10},
            ],
            "toolUsePromptTokenCount": 7,
            "thoughtsTokenCount": 8,
            "candidatesTokenCount": 30,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 25}],
            "totalTokenCount": 145,
        },
        Usage(
            input=22,
            cache_read=5,
            audio_input=20,
            image_input=50,
            image_cache_read=10,
            output=5,
            reasoning=8,
            image_output=25,
        ),
    ),
    "google_chat": (
        {"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100},
        Usage(input=66, output=6, reasoning=28),
    ),
    "xai_chat": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 6,
            "total_tokens": 30,
            "completion_tokens_details": {"reasoning_tokens": 14},
        },
        Usage(input=10, output=6, reasoning=14),
    ),
    "bedrock_converse": (
        {
            "inputTokens": 10,
            "outputTokens": 4,
            "totalTokens": 64,
            "cacheReadInputTokens": 20,
            "cacheWriteInputTokens": 30,
            "cacheDetails": [
                {"ttl": "5m", "inputTokens": 10},
                {"ttl": "1h", "inputTokens": 20},
            ],
        },
        Usage(input=10, cache_read=20, cache_write=10, cache_write_1h=20, output=4),
    ),
    "cohere": (
        {
            "billed_units": {"input_tokens": 41, "output_tokens": 28, "search_units": 1},
            "tokens": {"input_tokens": 1442, "output_tokens": 29},
            "cached_tokens": 1040,
        },
        Usage(input=41, output=28, searches=1),
    ),
}
TOTALS = ("total_tokens", "totalTokens", "totalTokenCount")


NOTHING_PASSED = Observed(lambda: 7, 0, 0, QUANTITY_MAX, QUANTITY_MAX)
"""The request was estimated at seven tokens, and no answer was seen."""


def test_every_format_has_an_example() -> None:
    """No format is read without an example above."""
    assert EXAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_inclusive_reports_become_disjoint(form: str, *, named: bool) -> None:
    """D8: cached, audio and reasoning tokens are counted in one class only, named or not."""
    payload, expected = EXAMPLES[form]
    found = read(payload, form if named else "")
    assert found.usage == expected
    assert found.doubts == ()
    assert not found.estimated


@pytest.mark.parametrize("form", FORMATS)
def test_all_classes_together_are_the_providers_total(form: str) -> None:
    """D8: the token classes add up to the total the provider states."""
    payload, expected = EXAMPLES[form]
    for name in TOTALS:
        if name in payload:
            assert tokens(expected) == payload[name]


@pytest.mark.parametrize("payload", [{}, {"tokens": 3}, {"usage": {"tokens": 1}}, {"usage": 3}])
def test_an_unknown_shape_is_no_report(payload: dict[str, Any]) -> None:
    """What holds no field that is known is refused alone, and says nothing beside an answer."""
    with pytest.raises(InvalidUsage):
        read(payload)
    assert not Evidence().take(said_by(payload))


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every number inside a payload."""
    if type(value) is int:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from numbers(inner, (*path, key))
    for key, inner in enumerate(value) if isinstance(value, list) else ():
        yield from numbers(inner, (*path, key))


def replaced(payload: dict[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    """Copy a payload with another value at one path."""
    copy = msgspec.json.decode(msgspec.json.encode(payload))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


NUMBERS = [
    (form, path)
    for form, (payload, _) in EXAMPLES.items()
    for path in numbers(payload)
    if path[-1] != "rejected_prediction_tokens"
    and path[-1] != "text_tokens"
    and not (form == "cohere" and path[0] != "billed_units")
    and not (form == "bedrock_converse" and path[:2] == ("cacheDetails", 0))
]
BAD = [-1, QUANTITY_MAX + 1, 1.5, True, "1", float("nan"), float("inf"), [1], {"a": 1}]


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize(("form", "path"), NUMBERS, ids=str)
def test_a_number_that_is_no_whole_quantity_costs_only_itself(
    form: str, path: tuple[Any, ...], value: Any
) -> None:
    """API10: negative, huge, fractional, bool and text are named, and the rest is believed."""
    payload = replaced(EXAMPLES[form][0], path, value)
    if form == "openai_duration" and value == 1.5:
        return  # a begun second
    evidence = Evidence(form)
    evidence.take(said_by(payload))
    found = evidence.reading(NOTHING_PASSED)
    assert str(path[0]) in " ".join(found.doubts)
    if form != "google_chat":  # where the total holds thought, which then passes for input
        assert context_tokens(found.usage) <= max(context_tokens(EXAMPLES[form][1]), 7)
    assert output_tokens(found.usage) <= output_tokens(EXAMPLES[form][1])
    try:
        alone = read(payload, form)
    except InvalidUsage as error:
        assert error.field in found.doubts  # noqa: PT017
    else:
        assert alone.usage == found.usage


@pytest.mark.parametrize(("form", "path"), NUMBERS, ids=str)
def test_whole_numbers_may_be_written_as_floats(form: str, path: tuple[Any, ...]) -> None:
    """512.0 tokens are 512 tokens."""
    payload, expected = EXAMPLES[form]
    number = payload
    for step in path:
        number = number[step]
    found = read(replaced(payload, path, float(number)), form)
    assert (found.usage, found.doubts) == (expected, ())


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "cohere"])
def test_a_report_of_nulls_is_refused_alone(form: str) -> None:
    """C9: without its main counts a report is refused, not taken for zero."""
    with pytest.raises(InvalidUsage):
        read(dict.fromkeys(EXAMPLES[form][0]), form)


def test_a_whole_reply_is_read_where_its_usage_stands() -> None:
    """Whoever forwards may hand in all of a reply: tier, model, id and searches are read too."""
    reply = {
        "id": "resp_1",
        "model": "gpt-x",
        "service_tier": "flex",
        "output": [{"type": "web_search_call", "status": "completed"}],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    found = read(reply)
    assert found.usage == Usage(input=3, output=2, searches=1)
    assert (found.served_model, found.condition, found.provider_id) == ("gpt-x", "flex", "resp_1")


@pytest.mark.parametrize(
    ("terms", "condition"),
    [
        ({}, None),
        ({"service_tier": None}, None),
        ({"service_tier": "auto"}, None),
        ({"inference_geo": "not_available"}, None),
        ({"service_tier": "standard"}, ""),
        ({"service_tier": "Priority"}, "priority"),
        ({"service_tier": "on-demand", "speed": "standard"}, ""),
        ({"service_tier": "priority", "speed": "fast", "inference_geo": "us"}, "priority_fast_us"),
        ({"service_tier": "a b"}, None),
    ],
)
def test_what_was_served_names_the_price_condition(
    terms: dict[str, Any], condition: str | None
) -> None:
    """Tier, speed and region, in this order; the usual of each is no condition."""
    assert read({"prompt_tokens": 1, "completion_tokens": 1, **terms}).condition == condition


def test_a_raw_report_is_bounded_and_holds_no_text() -> None:
    """Numbers and the provider's own words are kept; whatever else is text is not."""
    secret = "what was said"
    report = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "service_tier": "flex",
        "note": secret,
        secret: 1,
        "details": [{"type": "message", "text": secret}] * 3,
    }
    found = read({"id": "x", "model": "m", "usage": report})
    kept = msgspec.json.decode(found.raw)
    assert kept["usage"][0]["prompt_tokens"] == 3
    assert kept["usage"][0]["service_tier"] == "flex"
    assert secret.encode() not in found.raw
    large = read(report | {"more": list(range(10_000)), "and": {str(n): n for n in range(5_000)}})
    assert 0 < len(large.raw) <= REPORT_BYTES_MAX


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(FIELDS)), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON_VALUES), max_size=4))
def test_nothing_that_is_reported_breaks_the_reader(replies: list[dict[str, Any]]) -> None:
    """API10: any JSON gives a reading within bounds, and doubts that are few and short."""
    evidence = Evidence()
    for reply in replies:
        evidence.take(said_by(reply))
    found = evidence.reading(Observed(lambda: 7, 3, 1, 10_000, 10_000))
    assert context_tokens(found.usage) <= 10_000 * (1 + 64)
    assert len(found.doubts) <= DOUBTS_MAX
    assert all(len(doubt) < 80 for doubt in found.doubts)
    assert len(found.raw) <= REPORT_BYTES_MAX


SMALL = st.none() | st.integers(-1, 9)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), SMALL
        )
        | {"total_tokens": st.none() | st.integers(0, 18)}
        | {
            f"{side}_tokens_details": st.none()
            | st.dictionaries(
                st.sampled_from(("cached_tokens", "reasoning_tokens", "audio_tokens")), SMALL
            )
            for side in ("prompt", "completion", "input", "output")
        },
    )
)
@settings(max_examples=500)
def test_the_short_way_reads_what_the_long_one_does(report: dict[str, Any]) -> None:
    """What nearly everybody sends is read quickly, and never otherwise."""
    doubts: list[str] = []
    short, long = plain(report), tokens_of(ReportObject(report, "", doubts), Hint())
    if short is not None:
        assert not doubts
        assert usage_of(short) == usage_of(long)
        assert (short.input.total, short.output.total) == (long.input.total, long.output.total)


class Truth(msgspec.Struct, frozen=True):
    """What an answer really used, as its provider counts."""

    prompt: int
    cached: int
    completion: int
    reasoning: int

    def report(self, share: int, *, details: bool) -> dict[str, Any]:
        """Report so many percent of the answer."""
        made, thought = self.completion * share // 100, self.reasoning * share // 100
        thought = 0 if thought == 1 else thought
        told: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": made,
            "total_tokens": self.prompt + made,
        }
        if details:
            told["prompt_tokens_details"] = {"cached_tokens": self.cached}
            told["completion_tokens_details"] = {"reasoning_tokens": thought}
        return told


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    """Draw an answer. One cached token would explain a total that is one too large."""
    prompt, completion = draw(st.integers(2, 10_000)), draw(st.integers(0, 5_000))
    cached, reasoning = draw(st.integers(1, prompt)), draw(st.integers(1, max(completion, 1)))
    return Truth(prompt, cached if cached > 1 else 0, completion, reasoning if reasoning > 1 else 0)


FAULTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "none": lambda told: told,
    "zero": lambda told: dict.fromkeys(told, 0),
    "no input": lambda told: told | {"prompt_tokens": 0, "total_tokens": 0},
    "no output": lambda told: told | {"completion_tokens": 0, "total_tokens": 0},
    "null input": lambda told: told | {"prompt_tokens": None},
    "null output": lambda told: told | {"completion_tokens": None},
    "output alone": lambda told: {"completion_tokens": told["completion_tokens"]},
    "no total": lambda told: told | {"total_tokens": 0},
    "total too small": lambda told: told | {"total_tokens": max(told["total_tokens"] - 1, 0)},
    "total too large": lambda told: told | {"total_tokens": told["total_tokens"] + 1},
    "more cached than read": lambda told: (
        told | {"prompt_tokens_details": {"cached_tokens": told["prompt_tokens"] + 1}}
    ),
    "text": lambda told: told | {"completion_tokens": str(told["completion_tokens"])},
}


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Truth, list[dict[str, Any]]]:
    """Draw what a stream reports: partial, repeated, zero, wrong; never beyond the truth."""
    truth = draw(truths())
    shares = draw(st.lists(st.integers(0, 100), max_size=6))
    reports = [
        FAULTS[draw(st.sampled_from(sorted(FAULTS)))](truth.report(share, details=details))
        for share, details in zip(shares, draw(st.lists(st.booleans(), min_size=6)), strict=False)
    ]
    return truth, reports


PRICES = {"input": 100, "cache_read": 10, "output": 400, "reasoning": 400}
"""Of a token of each class: what is cached costs least."""


def charge(usage: Usage) -> int:
    """Charge a usage by hand."""
    return sum(price * getattr(usage, name) for name, price in PRICES.items())


@settings(max_examples=400)
@given(sequences(), st.integers(0, 6_000), st.booleans())
def test_random_reports_charge_no_less_than_is_undisputed_and_no_more_than_truth_or_estimate(
    drawn: tuple[Truth, list[dict[str, Any]]],
    pieces: int,
    final: bool,  # noqa: FBT001
) -> None:
    """C8, C9: whatever the order, each side is at least the largest number that was told of it.

    It is at most what was really used, or what was counted as it passed; and repeating a
    report changes nothing.
    """
    truth, reports = drawn
    evidence, again = Evidence(), Evidence()
    for report in reports:
        evidence.take(Said(report))
        for _ in range(2):
            again.take(Said(report))
    passed = Observed(lambda: truth.prompt, pieces, pieces, QUANTITY_MAX, QUANTITY_MAX)
    found = evidence.reading(passed, final=final)
    assert again.reading(passed, final=final).usage == found.usage
    for name, told, count in (
        ("prompt_tokens", context_tokens(found.usage), truth.prompt),
        ("completion_tokens", output_tokens(found.usage), max(truth.completion, pieces)),
    ):
        undisputed = [n for report in reports if type(n := report.get(name)) is int]
        assert max(undisputed, default=0) <= told <= count
    dearest = Usage(input=truth.prompt, output=max(truth.completion, pieces))
    assert charge(found.usage) <= charge(dearest)
    if not found.estimated and reports:
        assert found.usage.cache_read <= truth.cached
