"""What a request is worth at most, which ones are refused, and what streams are counted as."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gateway import meters, replies, sse, table, tokens, wishes
from api.gateway.tally import StreamTally
from api.http.failure import Failure, Kind
from ledger.usage import Usage

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000}}


def read(name: str, **body: Any) -> wishes.Wish:
    """Read the body of a route."""
    return table.BY_NAME[name].meter.read(body)


@pytest.mark.parametrize(
    ("name", "body", "worst"),
    [
        ("chat", {"messages": HELLO}, Usage(input=5 + 16)),
        ("chat", {"messages": HELLO, "max_tokens": 9}, Usage(input=21, output=9)),
        (
            "chat",
            {"messages": HELLO, "max_completion_tokens": 9, "n": 3},
            Usage(input=21, output=27),
        ),
        ("chat", {"messages": [{"role": "user", "content": "é"}]}, Usage(input=18)),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}, PICTURE]}]},
            Usage(input=2 + 16, image_input=2_048),
        ),
        ("completions", {"prompt": "abc", "max_tokens": 2}, Usage(input=3, output=2)),
        ("completions", {"prompt": ["a", "b"], "max_tokens": 2, "n": 3}, Usage(input=2, output=12)),
        ("completions", {"prompt": [1, 2, 3], "max_tokens": 2}, Usage(input=3, output=2)),
        ("completions", {"prompt": "a", "max_tokens": 2, "best_of": 4}, Usage(input=1, output=8)),
        ("embeddings", {"input": "abc"}, Usage(input=3)),
        ("embeddings", {"input": [[1, 2], [3]]}, Usage(input=3)),
        (
            "responses",
            {"input": "abc", "instructions": "de", "max_output_tokens": 7},
            Usage(input=5, output=7),
        ),
        ("responses", {"input": HELLO}, Usage(input=21)),
        (
            "messages",
            {"system": "abc", "messages": HELLO, "max_tokens": 7},
            Usage(input=24, output=7),
        ),
    ],
)
def test_the_worst_case_is_bounded_by_bytes(name: str, body: dict[str, Any], worst: Usage) -> None:
    """Input by its UTF-8 bytes and a few tokens a message; output by what was asked, times n."""
    assert read(name, **body).worst == worst


def test_tools_are_read_too() -> None:
    """What the model reads beside the messages counts."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    plain, more = read("chat", messages=HELLO), read("chat", messages=HELLO, tools=[tool])
    assert more.worst.input - plain.worst.input >= len(json.dumps(tool)) - 10


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("chat", {}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "hi"}, "messages"),
        ("chat", {"messages": ["hi"]}, "messages[0]"),
        ("chat", {"messages": [{"content": "hi"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ("chat", {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ("chat", {"messages": HELLO, "max_tokens": -1}, "max_tokens"),
        ("chat", {"messages": HELLO, "max_tokens": 1.5}, "max_tokens"),
        ("chat", {"messages": HELLO, "max_tokens": "9"}, "max_tokens"),
        ("chat", {"messages": HELLO, "max_tokens": 10**18}, "max_tokens"),
        ("chat", {"messages": HELLO, "max_completion_tokens": -5}, "max_completion_tokens"),
        ("chat", {"messages": HELLO, "n": 0}, "n"),
        ("chat", {"messages": HELLO, "n": 129}, "n"),
        ("chat", {"messages": HELLO, "stream": "yes"}, "stream"),
        ("chat", {"messages": HELLO, "stream_options": []}, "stream_options"),
        ("completions", {"prompt": {}}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("embeddings", {}, "input"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": ["a"] * 2_049}, "input"),
        ("responses", {"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ("responses", {"input": "a", "background": True}, "background"),
        ("messages", {"messages": HELLO}, "max_tokens"),
    ],
)
def test_a_bad_field_is_named(name: str, body: dict[str, Any], field: str) -> None:
    """OWASP API4: a request whose worst case cannot be told is refused, and says why."""
    with pytest.raises(Failure) as caught:
        read(name, **body)
    assert caught.value.kind is Kind.INVALID_FIELD
    assert caught.value.field == field


@pytest.mark.parametrize("model", [None, ""])
def test_a_missing_model_is_its_own_failure(model: str | None) -> None:
    """Every dialect has words for it."""
    with pytest.raises(Failure) as caught:
        wishes.model_of({"model": model})
    assert caught.value.kind is Kind.MODEL_IS_MISSING


@pytest.mark.parametrize("model", [3, "x" * 256, ["m"]])
def test_a_model_is_a_name(model: Any) -> None:
    """Anything else is an invalid field."""
    with pytest.raises(Failure) as caught:
        wishes.model_of({"model": model})
    assert caught.value.field == "model"


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b'{"a":"\\u0000"}'])
def test_a_body_is_decoded_strictly(body: bytes) -> None:
    """No array, no key twice, no NUL."""
    with pytest.raises(Failure):
        wishes.decode(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("messages", "prompt", "input", "max_tokens", "n", "stream", "stream_options"),
        *("tools", "system", "instructions", "best_of", "response_format", "text"),
    ]
)


@given(st.sampled_from(sorted(table.BY_NAME)), st.dictionaries(FIELDS, JSON_VALUES))
def test_no_body_breaks_a_meter(name: str, body: dict[str, Any]) -> None:
    """Whatever is sent is read or refused."""
    wish = None
    with contextlib.suppress(Failure):
        wish = table.BY_NAME[name].meter.read(body)
    if wish is not None:
        assert wish.worst.output >= 0
        assert 0 <= wish.content.estimate <= wish.content.bound


@given(st.text(max_size=300))
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    """The estimate never exceeds the bound, and joined tokens are the text."""
    assert tokens.count(text) <= len(text.encode("utf-8", "surrogatepass"))
    assert "".join(tokens.split(text)) == text


def test_every_row_of_the_table_is_whole() -> None:
    """A9: each has a meter, a name and a place of its own, and an operation that scopes know."""
    places = {(entry.method, entry.path) for entry in table.ENTRIES}
    assert len(places) == len(table.BY_NAME) == len(table.ENTRIES)
    for entry in table.ENTRIES:
        assert entry.operation
        assert entry.category
        assert entry.meter.read is not None
        named = set(table.PARAMETER.findall(entry.path))
        assert set(table.PARAMETER.findall(entry.upstream_path)) <= named
    assert {e.operation for e in table.ENTRIES if e.meter.format} == {"inference"}


def tally(name: str, *, asks: bool = True, **body: Any) -> StreamTally:
    """Begin to count a stream."""
    options = {"include_usage": asks}
    wish = read(name, messages=HELLO, input="Hello", max_tokens=9, stream_options=options, **body)
    return StreamTally(table.BY_NAME[name].meter, wish)


def chunk(**members: Any) -> bytes:
    """Return an event as a provider writes it."""
    return sse.event(json.dumps(members, separators=(",", ":")).encode())


def piece(text: str, **members: Any) -> bytes:
    """Return a piece of a chat stream."""
    return chunk(choices=[{"index": 0, "delta": {"content": text}}], **members)


def test_a_text_that_speaks_of_usage_is_no_usage() -> None:
    """Quotes inside a text are escaped, so nothing in it is taken for a member."""
    found = tally("chat", asks=False)
    said = 'say "usage":null, "usage":{"prompt_tokens":9,"completion_tokens":9}, "content":"x"'
    now, last = found.take(piece(said) + piece("[DONE]"))
    assert now == piece(said) + piece("[DONE]")
    assert last == b""
    assert not found.ended
    assert found.pieces == 2
    assert found.reading(whole=True).estimated


def test_null_usage_is_taken_out_where_nobody_asked() -> None:
    """First, last or in the middle of the members."""
    found = tally("chat", asks=False)
    block = b'data: {"usage":null,"a":1}\n\ndata: {"a":1,"usage": null}\n\n'
    assert found.take(block)[0] == b'data: {"a":1}\n\ndata: {"a":1}\n\n'


def test_long_pieces_are_counted_by_their_length() -> None:
    """A service that sends a hundred tokens at once is not counted as one."""
    found = tally("chat")
    found.take(piece("word " * 100))
    assert found.reading(whole=False).usage.output == 125


def test_running_usage_is_not_final() -> None:
    """What passes after the last report is more than that report can know of."""
    found = tally("chat")
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    found.take(piece("a", usage=usage))
    assert found.reading(whole=True).usage == Usage(input=3, output=1)
    for _ in range(4):
        found.take(piece("b"))
    for whole in (False, True):
        read_so_far = found.reading(whole=whole)
        assert (read_so_far.usage, read_so_far.estimated) == (Usage(input=3, output=5), True)


def test_anthropics_usage_comes_in_two_parts() -> None:
    """Input when the message begins, output when it ends."""
    found = tally("messages")
    usage = {"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 1}
    found.take(
        sse.event(json.dumps({"type": "message_start", "message": {"usage": usage}}).encode())
    )
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}
    for _ in range(3):
        found.take(sse.event(json.dumps(delta).encode()))
    cut = found.reading(whole=False)
    assert (cut.usage, cut.estimated) == (Usage(input=11, cache_read=5, output=3), True)
    found.take(chunk(type="message_delta", delta={}, usage={"output_tokens": 4}))
    now, last = found.take(chunk(type="message_stop"))
    assert (now, last) == (b"", chunk(type="message_stop"))
    done = found.reading(whole=False)
    assert (done.usage, done.estimated) == (Usage(input=11, cache_read=5, output=4), False)


def test_a_response_reports_with_its_last_event() -> None:
    """And that event waits for the settlement."""
    found = tally("responses")
    for _ in range(2):
        found.take(chunk(type="response.output_text.delta", delta="x"))
    assert found.pieces == 2
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    end = chunk(type="response.completed", response={"usage": usage})
    assert found.take(end) == (b"", end)
    assert found.reading(whole=True).usage == Usage(input=3, output=2)


def test_xais_own_way_of_counting_is_told_by_its_numbers() -> None:
    """Its reasoning stands beside the completion tokens."""
    wish = read("chat", messages=HELLO)
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 17,
        "completion_tokens_details": {"reasoning_tokens": 10},
    }
    found = replies.of_reply(meters.CHAT, wish, json.dumps({"usage": usage}).encode())
    assert found.usage == Usage(input=5, output=2, reasoning=10)


@pytest.mark.parametrize("body", [b"", b"nothing", b"[]", b"\xff\xfe", b'{"usage": 3}', b'"x"'])
def test_a_success_that_is_no_reply_is_estimated(body: bytes) -> None:
    """Whatever an upstream calls a success has an estimate, never nothing."""
    wish = read("chat", messages=HELLO)
    found = replies.of_reply(meters.CHAT, wish, body)
    assert found.estimated
    assert found.usage.input > 0
