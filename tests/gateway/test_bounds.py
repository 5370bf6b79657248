"""The most that a request comes to: bounds, models, conditions, tools, context kept elsewhere."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gateway import bounds, table, wishes
from api.gateway.bounds import Asking, BoundDefaults, WorstCase
from ledger.errors import ModelIsUnpriced
from ledger.fitting import Open
from ledger.ids import AccountId, KeyId, new_account_id, new_key_id
from ledger.pricing import ConditionPrice, ModelPrice, PriceBook, RateCard
from ledger.requests import Reserve
from ledger.state import Account, Key
from ledger.usage import Usage, context_tokens, output_tokens

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
PLAIN = ModelPrice(prices={"input": "1", "output": "2"})
READ = 5 + 16
"""Tokens that HELLO comes to at most."""


def read(name: str, **body: Any) -> wishes.Wish:
    """Read the body of a route."""
    return table.BY_NAME[name].meter.read(body)


def asked(
    wish: wishes.Wish,
    known: ModelPrice = PLAIN,
    *,
    model: str = "m",
    figures: BoundDefaults = BoundDefaults(),  # noqa: B008 - immutable
    refuses: bool = False,
    key_tokens: int = 0,
) -> WorstCase:
    """Work out what a request comes to."""
    return bounds.ask(
        wish, model, known, may_be_unpriced=not refuses, figures=figures, most=(key_tokens,)
    )


def priced(**members: Any) -> ModelPrice:
    """Return a model of the card, with what the card says of it."""
    return ModelPrice(**{"prices": {"input": "1", "output": "2"}, **members})


@pytest.mark.parametrize(
    ("model", "known", "tokens"),
    [
        ("m", PLAIN, 16_384),
        ("m", priced(max_output_tokens=5_000), 5_000),
        ("m", priced(max_output_tokens=100_000), 100_000),
        ("gpt-4o", PLAIN, 16_384),
        ("openai/gpt-5.1-mini", PLAIN, 128_000),
        ("gpt-5-chat-latest", PLAIN, 16_384),
        ("gpt-4", PLAIN, 4_096),
        ("gpt-3.5-turbo-0125", PLAIN, 4_096),
        ("o3-mini", PLAIN, 100_000),
        ("claude-3-haiku-20240307", PLAIN, 4_096),
        ("anthropic/claude-opus-4-1", PLAIN, 32_000),
        ("claude-opus-4-5", PLAIN, 64_000),
        ("claude-opus-4-1", priced(max_output_tokens=7), 7),
        ("mistral-large-latest", PLAIN, 16_384),
        ("openai/gpt-oss-20b", PLAIN, 16_384),
    ],
)
def test_an_open_answer_is_bounded_by_the_model(model: str, known: ModelPrice, tokens: int) -> None:
    """What the card says goes before what the name tells, and else it is 16,384."""
    found = asked(read("chat", messages=HELLO), known, model=model)
    assert found.bound == (tokens, "model")
    assert found.usage == Usage(input=READ, output=tokens)


@pytest.mark.parametrize(
    ("window", "tokens"), [(200_000, 16_384), (8_192, 8_192 - READ), (1_000, 979), (20, 16)]
)
def test_question_and_answer_share_the_window(window: int, tokens: int) -> None:
    """A server refuses a bound that its context has no room for, so none is told."""
    known = priced(context_window=window)
    assert asked(read("chat", messages=HELLO), known).bound.tokens == tokens


def test_a_long_question_leaves_half_of_what_the_estimate_leaves() -> None:
    """A text of more bytes than the window has tokens may fit all the same."""
    text = "word " * 2_000
    wish = read("chat", messages=[{"role": "user", "content": text}])
    found = asked(wish, priced(context_window=8_192))
    assert found.bound.tokens == (8_192 - wish.content.estimate) // 2
    assert 1_000 < found.bound.tokens < 8_192


@pytest.mark.parametrize(
    ("body", "figures", "key_tokens", "bound"),
    [
        ({}, BoundDefaults(), 0, (16_384, "model")),
        ({}, BoundDefaults(output_tokens=900), 0, (900, "operator")),
        ({}, BoundDefaults(output_tokens=900), 300, (300, "operator")),
        ({}, BoundDefaults(output_tokens=900), 20_000, (900, "operator")),
        ({}, BoundDefaults(output_tokens=20_000), 0, (16_384, "model")),
        ({"max_tokens": 50}, BoundDefaults(output_tokens=900), 300, (50, "client")),
        ({"max_tokens": 50_000}, BoundDefaults(), 0, (50_000, "client")),
        ({"max_tokens": 50_000}, BoundDefaults(output_tokens=900), 0, (900, "operator")),
    ],
)
def test_the_smallest_bound_holds(
    body: dict[str, Any], figures: BoundDefaults, key_tokens: int, bound: tuple[int, str]
) -> None:
    """The client's, the operator's for all and for the key, and the model's where it is open."""
    wish = read("chat", messages=HELLO, **body)
    assert asked(wish, figures=figures, key_tokens=key_tokens).bound == bound


@pytest.mark.parametrize(
    ("name", "body", "model", "told"),
    [
        ("chat", {"messages": HELLO}, "m", {"max_tokens": 900}),
        ("chat", {"messages": HELLO}, "gpt-4o", {"max_tokens": 900}),
        ("chat", {"messages": HELLO}, "o3-mini", {"max_completion_tokens": 900}),
        ("chat", {"messages": HELLO}, "openai/gpt-5", {"max_completion_tokens": 900}),
        ("chat", {"messages": HELLO, "max_tokens": None}, "m", {"max_tokens": 900}),
        (
            "chat",
            {"messages": HELLO, "max_completion_tokens": 5_000},
            "m",
            {"max_completion_tokens": 900},
        ),
        (
            "chat",
            {"messages": HELLO, "max_completion_tokens": 5_000, "max_tokens": 4_000},
            "m",
            {"max_completion_tokens": 900, "max_tokens": 900},
        ),
        ("chat", {"messages": HELLO, "max_tokens": 7}, "m", {"max_tokens": 7}),
        ("completions", {"prompt": "a"}, "m", {"max_tokens": 16}),
        ("completions", {"prompt": "a", "max_tokens": 1_000}, "m", {"max_tokens": 900}),
        ("messages", {"messages": HELLO, "max_tokens": 1_000}, "m", {"max_tokens": 900}),
        ("responses", {"input": "a"}, "m", {"max_output_tokens": 900}),
        ("embeddings", {"input": "a"}, "m", {}),
    ],
)
def test_the_upstream_is_told_the_bound_in_its_own_field(
    name: str, body: dict[str, Any], model: str, told: dict[str, int]
) -> None:
    """``max_tokens`` is what every server of chats takes but OpenAI's for models that think."""
    document = {"model": model, **body}
    wish = read(name, **document)
    asking = an_asking(wish, model, figures=BoundDefaults(output_tokens=900))
    asking.in_lane(book(), an_account(), a_key())
    sent = asking.told(None).document(document)
    fields = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    assert {each: sent[each] for each in fields if sent.get(each) is not None} == told
    assert {n: each for n, each in sent.items() if n not in fields} == {
        n: each for n, each in document.items() if n not in fields
    }


def book(**models: ModelPrice) -> PriceBook:
    """Return a card; every model has the usual price where none is named."""
    card = RateCard(
        name="standard",
        version=1,
        asset="USD",
        effective_from=AT,
        models=models or {"*": PLAIN},
    )
    return PriceBook(card)


def an_account(unpriced: str = "refuse") -> Account:
    """Return an account."""
    return Account(account_id=AccountId(new_account_id()), opened_at=AT, unpriced=unpriced)


def a_key(**settings: str) -> Key:
    """Return a key with settings."""
    return Key(
        key_id=KeyId(new_key_id(0)),
        account_id=new_account_id(),
        name="bot",
        dialect="bve",
        created_at=AT,
        updated_at=AT,
        settings=settings,
    )


def an_asking(
    wish: wishes.Wish,
    model: str = "m",
    *,
    condition: str = "",
    figures: BoundDefaults = BoundDefaults(),  # noqa: B008 - immutable
) -> Asking:
    """Return a request on its way into the lane."""
    reserve = Reserve(request_id="r", model=model, usage=wish.worst, condition=condition)
    return Asking(wish, reserve, figures)


def test_only_an_answer_left_open_is_shortened() -> None:
    """A client's own bound is held as it is or refused, also where the operator lowers it."""
    open_ = an_asking(read("chat", messages=HELLO, n=3))
    assert open_.in_lane(book(), an_account(), a_key())[1] == Open(16_384, 16, 3)
    for name, body in (
        ("chat", {"messages": HELLO, "max_tokens": 50_000}),
        ("messages", {"messages": HELLO, "max_tokens": 50_000}),
        ("embeddings", {"input": "a"}),
    ):
        asking = an_asking(read(name, **body), figures=BoundDefaults(output_tokens=900))
        assert asking.in_lane(book(), an_account(), a_key())[1] is None


@pytest.mark.parametrize("text", ["", "many", "-1", "1e3", "٣"])
def test_a_keys_setting_that_is_no_number_bounds_nothing(text: str) -> None:
    """It is refused where it is set; an old one is passed over."""
    asking = an_asking(read("chat", messages=HELLO))
    reserve, _ = asking.in_lane(book(), an_account(), a_key(max_output_tokens=text))
    assert reserve.usage.output == 16_384


TIERS = {
    "priority": ConditionPrice(prices={"input": "2", "output": "4"}),
    "flex": ConditionPrice(prices={"input": "0.5", "output": "1"}),
    "fast": ConditionPrice(prices={"input": "6", "output": "12"}),
}


@pytest.mark.parametrize(
    ("body", "known", "condition", "conditions"),
    [
        ({}, TIERS, "", ("priority", "flex")),
        ({"service_tier": "auto"}, TIERS, "", ("priority", "flex")),
        ({"service_tier": "default"}, TIERS, "", ()),
        ({"service_tier": "standard_only"}, TIERS, "", ()),
        ({"service_tier": "flex"}, TIERS, "flex", ("",)),
        ({"service_tier": "priority"}, TIERS, "priority", ("",)),
        ({"service_tier": "priority"}, {}, "", ()),
        ({"service_tier": "unheard_of"}, TIERS, "", ("priority", "flex")),
        ({"service_tier": 7}, TIERS, "", ("priority", "flex")),
        ({"service_tier": "default", "speed": "fast"}, TIERS, "fast", ("",)),
        ({"speed": "standard"}, {}, "", ()),
        ({}, {}, "", ()),
    ],
)
def test_every_condition_that_a_request_permits_may_be_held(
    body: dict[str, Any], known: Any, condition: str, conditions: tuple[str, ...]
) -> None:
    """Left out, the tier is whichever the provider's project has; a full one is served as usual."""
    asking = an_asking(read("chat", messages=HELLO, **body))
    reserve, _ = asking.in_lane(book(m=priced(conditions=known)), an_account(), a_key())
    assert (reserve.condition, reserve.conditions) == (condition, conditions)


def test_a_condition_that_the_operator_books_by_is_the_only_one() -> None:
    """A character's multiplier does not depend on what the client asks for."""
    asking = an_asking(read("chat", messages=HELLO, service_tier="flex"), condition="x1_1")
    reserve, _ = asking.in_lane(book(m=priced(conditions=TIERS)), an_account(), a_key())
    assert (reserve.condition, reserve.conditions) == ("x1_1", ())


@pytest.mark.parametrize(
    ("name", "body", "models"),
    [
        ("chat", {"messages": HELLO, "models": ["a", "b"], "route": "fallback"}, ("a", "b")),
        ("chat", {"messages": HELLO, "fallbacks": ["a", {"model": "b"}]}, ("a", "b")),
        ("completions", {"prompt": "a", "models": ["a"]}, ("a",)),
        (
            "messages",
            {
                "messages": HELLO,
                "max_tokens": 9,
                "tools": [{"type": "advisor_20260301", "name": "advisor", "model": "big"}],
            },
            ("big",),
        ),
    ],
)
def test_every_model_among_the_choices_may_be_held(
    name: str, body: dict[str, Any], models: tuple[str, ...]
) -> None:
    """Fallback lists of OpenRouter and LiteLLM, and a model that another asks on the way (A6)."""
    asking = an_asking(read(name, **body))
    assert asking.in_lane(book(), an_account(), a_key())[0].choices == models


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
WITH_SEARCHES = priced(prices={"input": "1", "output": "2", "searches": "10000"})


def test_a_tool_of_the_upstream_is_held_at_its_bound() -> None:
    """Five searches, their price, and what the model reads anew after each of them."""
    body = {"messages": HELLO, "max_tokens": 100, "tools": [{**SEARCH, "max_uses": 5}]}
    wish = read("messages", **body)
    found = asked(wish, WITH_SEARCHES, refuses=True)
    assert found.usage.searches == 5
    said = wish.content.text_bound
    assert found.usage.input == 6 * said + 15 * bounds.TOOL_TOKENS
    assert found.usage.output == 100
    small = asked(wish, msgspec_replace(WITH_SEARCHES, context_window=20_000))
    assert small.usage.input == 6 * 20_000


def msgspec_replace(known: ModelPrice, **members: Any) -> ModelPrice:
    """Return a model with other members."""
    return ModelPrice(prices=known.prices, **members)


@pytest.mark.parametrize(
    ("name", "body", "searches", "told"),
    [
        (
            "messages",
            {"messages": HELLO, "max_tokens": 9, "tools": [SEARCH]},
            8,
            {"tools": [{**SEARCH, "max_uses": 8}]},
        ),
        (
            "responses",
            {"input": "a", "tools": [{"type": "web_search"}]},
            8,
            {"max_tool_calls": 8},
        ),
        (
            "responses",
            {"input": "a", "tools": [{"type": "web_search"}], "max_tool_calls": 2},
            2,
            {},
        ),
        ("chat", {"messages": HELLO, "web_search_options": {}}, 1, {}),
        ("chat", {"messages": HELLO, "search_parameters": {"max_search_results": 3}}, 3, {}),
        ("chat", {"messages": HELLO, "search_parameters": {"mode": "off"}}, 0, {}),
        ("chat", {"messages": HELLO, "plugins": [{"id": "web"}]}, 20, {}),
        ("chat", {"messages": HELLO, "tools": [{"type": "function", "function": {}}]}, 0, {}),
    ],
)
def test_uses_that_the_request_leaves_open_are_the_operators_figure(
    name: str, body: dict[str, Any], searches: int, told: dict[str, Any]
) -> None:
    """And the upstream is told it, where its API has a field for that."""
    asking = an_asking(read(name, **body))
    reserve, _ = asking.in_lane(book(m=WITH_SEARCHES), an_account(), a_key())
    assert reserve.usage.searches == searches
    sent = asking.told(None).document(body)
    fields = ("max_tool_calls", "tools")
    assert {n: sent[n] for n in fields if n in sent and sent[n] != body.get(n)} == told


@pytest.mark.parametrize(
    "tools",
    [[SEARCH], [{"type": "code_interpreter"}], [{"type": "unheard_of"}]],
)
def test_what_has_neither_bound_nor_price_is_refused_where_the_account_says_so(tools: Any) -> None:
    """Otherwise it is held by the operator's figure; a bound alone, or a price alone, is enough."""
    wish = read("responses", input="a", tools=tools)
    with pytest.raises(ModelIsUnpriced, match="does not bound its use"):
        asked(wish, refuses=True)
    held = asked(wish, figures=BoundDefaults(tool_uses=3))
    said = wish.content.text_bound
    assert held.usage.input == 4 * said + 6 * bounds.TOOL_TOKENS
    bounded = read("responses", input="a", tools=tools, max_tool_calls=2)
    assert asked(bounded, refuses=True).usage.searches == 0


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("responses", {"input": "a", "previous_response_id": "resp_1"}),
        ("responses", {"input": "a", "conversation": "conv_1"}),
        ("responses", {"input": "a", "prompt": {"id": "pmpt_1"}}),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
        ),
        (
            "responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]}
                ]
            },
        ),
        (
            "chat",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}
                ]
            },
        ),
        ("chat", {"messages": [*HELLO, {"role": "assistant", "audio": {"id": "audio_1"}}]}),
        (
            "messages",
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "document", "source": {"type": "url", "url": "https://x"}}
                        ],
                    }
                ],
            },
        ),
        ("messages", {"max_tokens": 9, "messages": HELLO, "container": "container_1"}),
    ],
)
def test_what_the_upstream_keeps_is_held_as_the_models_window(
    name: str, body: dict[str, Any]
) -> None:
    """How long it is nobody here knows; more than the window holds the model cannot read."""
    wish = read(name, **body)
    assert context_tokens(asked(wish, priced(context_window=200_000)).usage) >= 200_000
    assert context_tokens(asked(wish).usage) >= bounds.CONTEXT_DEFAULT
    asking = an_asking(wish)
    asking.in_lane(book(m=priced(context_window=200_000)), an_account(), a_key())
    # So much may be reported without being taken for a number gone wrong.
    assert asking.told(None).wish.content.bound >= 200_000
    assert wish.content.estimate < 1_000


def test_what_came_along_is_not_held_as_more() -> None:
    """A picture or a file in the body is measured as it was sent."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    data = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}
    wish = read("chat", messages=[{"role": "user", "content": [picture, data]}])
    known = priced(context_window=200_000)
    assert context_tokens(asked(wish, known).usage) == 2 * 2_048 + 16


def test_a_summary_on_the_way_is_one_more_answer() -> None:
    """Compaction reads the context once more and writes a summary that is charged as output."""
    edits = {"edits": [{"type": "compact_20260112"}]}
    plain = read("messages", messages=HELLO, max_tokens=100)
    compacts = read("messages", messages=HELLO, max_tokens=100, context_management=edits)
    before, after = asked(plain), asked(compacts)
    assert after.usage.output == 2 * before.usage.output
    assert after.usage.input > 2 * before.usage.input


def test_a_prediction_that_does_not_come_true_is_held() -> None:
    """OpenAI charges it as output beside the answer, whatever bounds that."""
    foreseen = {"type": "content", "content": "x" * 500}
    wish = read("chat", messages=HELLO, max_tokens=10, prediction=foreseen)
    assert asked(wish).usage.output == 510


@pytest.mark.parametrize(
    ("name", "body", "classes"),
    [
        ("chat", {}, {"input": ("cache_read", "cache_write", "cache_write_1h")}),
        ("messages", {"max_tokens": 9}, {"input": ("cache_read",)}),
        (
            "messages",
            {"max_tokens": 9, "system": [{"text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"input": ("cache_read", "cache_write", "cache_write_1h")},
        ),
        ("chat", {"modalities": ["text", "audio"]}, {"output": ("reasoning", "audio_output")}),
        ("chat", {}, {"output": ("reasoning",)}),
    ],
)
def test_each_token_may_be_of_several_classes(
    name: str, body: dict[str, Any], classes: dict[str, Any]
) -> None:
    """Thought, sound, and what is written to a cache: the dearest of them is held."""
    found = asked(read(name, messages=HELLO, **body)).alike
    assert classes.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("chat", {"models": "m"}, "models"),
        ("chat", {"models": [3]}, "models"),
        ("chat", {"models": ["m"] * 17}, "models"),
        ("chat", {"fallbacks": [{"name": "m"}]}, "fallbacks"),
        ("chat", {"max_tool_calls": 0}, "max_tool_calls"),
        ("chat", {"tools": [{"type": "web_search", "max_uses": "9"}]}, "tools[0].max_uses"),
        ("chat", {"tools": [{"type": "web_search", "max_uses": 1_001}]}, "tools[0].max_uses"),
    ],
)
def test_a_wish_that_cannot_be_told_is_refused(name: str, body: dict[str, Any], field: str) -> None:
    """OWASP API4: what bounds a request is read or named."""
    with pytest.raises(wishes.Failure) as caught:
        read(name, messages=HELLO, **body)
    assert caught.value.field == field


@given(
    st.integers(1, 20_000),
    st.integers(1, 128),
    st.integers(0, 20),
    st.sampled_from([0, 100, 8_192, 200_000]),
    st.booleans(),
)
def test_nothing_is_held_below_what_the_body_says(
    length: int,
    answers: int,
    uses: int,
    window: int,
    kept: bool,  # noqa: FBT001
) -> None:
    """Whatever a request allows beside, its text and its answers are held at least."""
    tools = [{"type": "web_search", "max_uses": uses}] if uses else []
    body = {"messages": [{"role": "user", "content": "x" * length}], "n": answers, "tools": tools}
    wish = read("chat", **body)
    wish.content.is_kept = kept
    found = asked(wish, priced(context_window=window))
    assert context_tokens(found.usage) >= wish.content.text_bound + found.elsewhere >= length
    assert found.elsewhere >= 0
    assert output_tokens(found.usage) == found.bound.tokens * answers
    assert found.bound.tokens >= 16
