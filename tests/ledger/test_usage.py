"""Usage is disjoint, whole and adds up; what does not is refused by the name of its field."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.usage import (
    CLASSES,
    FORMATS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    QUANTITY_MAX,
    InvalidUsage,
    Usage,
    add,
    check,
    context_tokens,
    detect,
    normalise,
    output_tokens,
    side_usage,
    tokens,
)

EXAMPLES = {
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


def test_every_format_has_an_example():
    """No format is read without an example below."""
    assert set(EXAMPLES) == set(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
def test_inclusive_reports_become_disjoint(form):
    """Cached, audio and reasoning tokens are counted in one class only (D8)."""
    payload, expected = EXAMPLES[form]
    assert normalise(form, payload) == expected


@pytest.mark.parametrize("form", FORMATS)
def test_all_classes_together_are_the_providers_total(form):
    """The token classes add up to the total the provider states (D8)."""
    payload, expected = EXAMPLES[form]
    for name in TOTALS:
        if name in payload:
            assert tokens(expected) == payload[name]


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "google_chat"])
def test_a_format_is_recognised_by_its_fields(form):
    """Each example is detected as its own format."""
    assert detect(EXAMPLES[form][0]) == form


@pytest.mark.parametrize("payload", [{}, {"tokens": 3}, {"usage": {"prompt_tokens": 1}}])
def test_an_unknown_shape_is_not_recognised(payload):
    """What is no known report gives None, not a guess."""
    assert detect(payload) is None


def numbers(value, path=()):
    """Yield the path to every number inside a payload."""
    if type(value) is int:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from numbers(inner, (*path, key))
    for key, inner in enumerate(value) if isinstance(value, list) else ():
        yield from numbers(inner, (*path, key))


def replaced(payload, path, value):
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
BAD = [-1, QUANTITY_MAX + 1, 1.0, 1.5, True, "1", float("nan"), [1], {}]


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize(("form", "path"), NUMBERS, ids=str)
def test_a_number_that_is_no_whole_quantity_is_refused_by_its_path(form, path, value):
    """Negative, huge, fractional (1.0 too), bool and text are refused by name (D8, I4)."""
    payload = replaced(EXAMPLES[form][0], path, value)
    with pytest.raises(InvalidUsage) as caught:
        normalise(form, payload)
    assert str(path[-1]) in caught.value.field
    assert caught.value.field.startswith(("usage.", "usageMetadata."))


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "cohere"])
def test_a_missing_or_null_count_is_refused(form):
    """Without its main counts a report is refused, not taken for zero (C9)."""
    for empty in ({}, dict.fromkeys(EXAMPLES[form][0])):
        with pytest.raises(InvalidUsage, match=r"missing|None"):
            normalise(form, empty)


def test_parts_beyond_their_total_are_refused_by_name():
    """A negative remainder is refused and names the part (D8)."""
    payload = {
        "prompt_tokens": 10,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 11},
    }
    with pytest.raises(InvalidUsage) as caught:
        normalise("openai_chat", payload)
    assert caught.value.field == "usage.prompt_tokens_details.cached_tokens"


@pytest.mark.parametrize("form", FORMATS)
def test_a_total_that_is_not_the_sum_is_refused(form):
    """The provider's total is checked against the parts (D8)."""
    payload = EXAMPLES[form][0]
    for name in TOTALS:
        if name in payload:
            with pytest.raises(InvalidUsage) as caught:
                normalise(form, payload | {name: payload[name] - 29})
            assert name in caught.value.field or form == "google_chat"


def test_a_cache_write_that_contradicts_its_parts_is_refused():
    """Writes by life add up to the writes stated (D8: the hour is not the five minutes)."""
    payload = EXAMPLES["anthropic_messages"][0] | {"cache_creation_input_tokens": 71}
    with pytest.raises(InvalidUsage, match=r"usage\.cache_creation_input_tokens"):
        normalise("anthropic_messages", payload)


def test_one_number_under_two_names_must_agree():
    """DeepSeek and Moonshot repeat the cached tokens; a contradiction is refused (D8)."""
    payload = {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 4}
    assert normalise("openai_chat", payload) == Usage(input=5, cache_read=4, output=1)
    both = payload | {"prompt_tokens_details": {"cached_tokens": 3}}
    with pytest.raises(InvalidUsage, match="contradicts"):
        normalise("openai_chat", both)


def test_unknown_fields_and_null_details_are_tolerated():
    """Providers add fields and send null for what they do not count."""
    payload = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": None,
        "prompt_tokens_details": None,
        "completion_tokens_details": {"reasoning_tokens": None, "new_tokens": 5},
        "queue_time": 0.5,
    }
    assert normalise("openai_chat", payload) == Usage(input=3, output=2)


@pytest.mark.parametrize(
    ("form", "payload"),
    [
        (
            "openai_chat",
            {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": 3},
        ),
        ("anthropic_messages", {"input_tokens": 1, "output_tokens": 1, "iterations": {}}),
        ("google_generate_content", {"promptTokenCount": 1, "promptTokensDetails": [7]}),
        ("minitel", {}),
    ],
)
def test_a_malformed_report_is_refused(form, payload):
    """Details that are no objects, and formats nobody knows, are refused."""
    with pytest.raises(InvalidUsage):
        normalise(form, payload)


def test_compactions_are_counted_and_advisors_stand_apart():
    """Anthropic's totals leave both out, though both are billed (C8, I5)."""
    step = {"input_tokens": 100, "output_tokens": 80, "cache_creation_input_tokens": 50}
    payload = {
        "input_tokens": 5,
        "output_tokens": 8,
        "iterations": [
            step | {"type": "compaction"},
            {"type": "message", "input_tokens": 5, "output_tokens": 8},
            step | {"type": "advisor_message", "model": "claude-opus-4-8"},
        ],
    }
    usage = normalise("anthropic_messages", payload)
    assert usage == Usage(input=105, cache_write=50, output=88)
    advisor = Usage(input=100, cache_write=50, output=80)
    assert side_usage(payload) == (("claude-opus-4-8", advisor),)


@pytest.mark.parametrize("value", [-1, QUANTITY_MAX + 1, 1.0, True, "1", None], ids=repr)
@pytest.mark.parametrize("name", CLASSES)
def test_a_quantity_is_an_int_in_range(name, value):
    """A usage made in Python is held to the same range as a decoded one (I4)."""
    with pytest.raises(InvalidUsage) as caught:
        check(Usage(**{name: value}))
    assert caught.value.field == name
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({name: value}), type=Usage)


def test_a_field_nobody_knows_is_refused_in_an_event():
    """A usage as stored has no other fields, and leaves out its zeros."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"inputs":1}', type=Usage)
    assert msgspec.json.encode(Usage(output=2, input=1)) == b'{"input":1,"output":2}'


usages = st.builds(Usage, **{name: st.integers(0, QUANTITY_MAX // 2) for name in CLASSES})


@given(usages, usages)
def test_adding_adds_every_class(left, right):
    """Sums are by class, and so are the totals."""
    both = add(left, right)
    check(both)
    assert all(
        getattr(both, name) == getattr(left, name) + getattr(right, name) for name in CLASSES
    )
    assert tokens(both) == tokens(left) + tokens(right)


def test_adding_beyond_the_range_is_refused():
    """A sum does not leave the range silently."""
    with pytest.raises(InvalidUsage):
        add(Usage(input=QUANTITY_MAX), Usage(input=1))


@given(usages)
def test_token_counts_sum_their_classes(usage):
    """Context and output are the classes so named, and nothing else is a token."""
    assert context_tokens(usage) == sum(getattr(usage, name) for name in INPUT_TOKENS)
    assert output_tokens(usage) == sum(getattr(usage, name) for name in OUTPUT_TOKENS)
    assert tokens(usage) == context_tokens(usage) + output_tokens(usage)
    others = {"images", "characters", "seconds", "searches", "requests"}
    assert {*INPUT_TOKENS, *OUTPUT_TOKENS} | others == set(CLASSES)
