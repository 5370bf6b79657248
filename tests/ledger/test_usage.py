"""Usage is disjoint, whole and in range; what is not is refused by the name of its class."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.usage import (
    CLASSES,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    QUANTITY_MAX,
    InvalidUsage,
    Usage,
    add,
    context_tokens,
    output_tokens,
    tokens,
)


@pytest.mark.parametrize("value", [-1, QUANTITY_MAX + 1, 1.0, True, "1", None], ids=repr)
@pytest.mark.parametrize("name", CLASSES)
def test_a_quantity_is_an_int_in_range(name, value):
    """What is decoded is an int from 0 to 10¹² and nothing like it (I4)."""
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
    assert all(
        getattr(both, name) == getattr(left, name) + getattr(right, name) for name in CLASSES
    )
    assert tokens(both) == tokens(left) + tokens(right)


@pytest.mark.parametrize(("left", "right"), [(QUANTITY_MAX, 1), (-1, 0), (1.0, 0)])
@pytest.mark.parametrize("name", CLASSES)
def test_adding_beyond_the_range_is_refused(name, left, right):
    """A sum does not leave the range silently, nor the whole numbers (I4)."""
    with pytest.raises(InvalidUsage) as caught:
        add(Usage(**{name: left}), Usage(**{name: right}))
    assert caught.value.field == name


@given(usages)
def test_token_counts_sum_their_classes(usage):
    """Context and output are the classes so named, and nothing else is a token."""
    assert context_tokens(usage) == sum(getattr(usage, name) for name in INPUT_TOKENS)
    assert output_tokens(usage) == sum(getattr(usage, name) for name in OUTPUT_TOKENS)
    assert tokens(usage) == context_tokens(usage) + output_tokens(usage)
    others = {"images", "characters", "seconds", "searches", "requests"}
    assert {*INPUT_TOKENS, *OUTPUT_TOKENS} | others == set(CLASSES)
