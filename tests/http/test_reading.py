"""Bodies are read strictly: what JSON decoders let pass is refused, and named."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http import reading
from api.http.failure import Failure
from api.native.errors import document

ANY = msgspec.json.Decoder()


def refused(body: bytes) -> Failure:
    """Read a body that must be refused."""
    with pytest.raises(Failure) as caught:
        reading.decode(ANY, body)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":{"b":1,"b":2}}',
        b'[{"a":1},{"a":1,"a":1}]',
        b'{"a":":x","b":",","a":1}',
        b'{"x\\\\":1,"x\\\\":2}',
    ],
)
def test_a_key_that_comes_twice_is_refused(body: bytes) -> None:
    """Of two values one would be ignored in silence: which one is meant is not ours to guess."""
    assert "twice" in refused(body).detail


@pytest.mark.parametrize(
    "body",
    [b'[{"a":1},{"a":2}]', b'{"a":{"a":1}}', b'{"a":"\\"a\\":1","b":"a"}', b'{"a":"a","b":":"}'],
)
def test_keys_that_only_look_alike_are_let_pass(body: bytes) -> None:
    """The same key in two objects is no repetition."""
    assert reading.decode(ANY, body) == json.loads(body)


@pytest.mark.parametrize("body", [b'{"a":"\\u0000"}', b'{"a":["x\\u0000"]}', b'{"\\u0000":1}'])
def test_nul_is_refused(body: bytes) -> None:
    """PostgreSQL holds no NUL in text: the caller is told before it is tried."""
    assert document(refused(body))[0] == 400


@pytest.mark.parametrize(
    "body", [b'"\\ud800"', b"\xff", b'"\xed\xa0\x80"', b"", b"{", b"[1,]", b'{"a":NaN}']
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Malformed JSON, half a surrogate pair, bytes that are no UTF-8: 400."""
    assert document(refused(body))[1]["code"] == "malformed_json"


@pytest.mark.parametrize("depth", [101, 900, 10_000, 200_000])
def test_deep_nesting_is_refused_and_crashes_nothing(depth: int) -> None:
    """Ten thousand brackets are an answer of 400, not a stack overflow."""
    body = b"[" * depth + b"]" * depth
    assert refused(body).code == "nesting_is_too_deep"
    with pytest.raises(Failure):
        reading.array_items(b"[" + body + b",1" + b"[" * depth)


def test_a_hundred_levels_are_read() -> None:
    """The bound is where it says."""
    body = b"[" * 100 + b"]" * 100
    assert reading.decode(ANY, body) == json.loads(body)


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """A body with fields."""

    count: int
    inner: "Named | None" = None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "count"),
        (b'{"count":"1"}', "count"),
        (b'{"count":1,"other":2}', "other"),
        (b'{"count":1,"inner":{"count":true}}', "inner.count"),
        (b'{"count":1,"inner":{}}', "inner.count"),
    ],
)
def test_a_refusal_names_the_field(body: bytes, field: str) -> None:
    """Which field is wrong is said, with its path."""
    with pytest.raises(Failure) as caught:
        reading.decode(msgspec.json.Decoder(Named), body)
    assert caught.value.field == field


def test_a_batch_is_bounded() -> None:
    """Ten thousand items are taken, one more is not."""
    assert len(reading.array_items(b"[" + b"1," * 9_999 + b"1]")) == 10_000
    with pytest.raises(Failure):
        reading.array_items(b"[" + b"1," * 10_000 + b"1]")
    with pytest.raises(Failure):
        reading.lines(b"1\n" * 10_001)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_whatever_json_writes_is_read_alike(
    value: object, ascii_only: object, indent: int | None
) -> None:
    """Clean JSON is never refused, however it is escaped or spaced."""
    body = json.dumps(value, ensure_ascii=bool(ascii_only), indent=indent).encode()
    assert reading.decode(ANY, body) == value


@given(st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=4), st.data())
def test_whatever_comes_twice_is_found(found: dict[str, object], data: st.DataObject) -> None:
    """Repeat any member of any object: it is refused."""
    name = data.draw(st.sampled_from(sorted(found)))
    members = [f"{json.dumps(key)}:{json.dumps(each)}" for key, each in found.items()]
    members.append(f"{json.dumps(name)}:0")
    with pytest.raises(Failure):
        reading.decode(ANY, ("{" + ",".join(members) + "}").encode())
