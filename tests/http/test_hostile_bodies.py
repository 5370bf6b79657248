"""No body costs a worker much more than a plain one of its size, whatever stands in it."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import pytest

from api.gateway import wishes
from api.http import reading
from api.http.failure import Failure
from api.native import bodies
from api.native.errors import document
from api.native.usage import usage_of_cloud
from api.process.serve import COLLECTED_AFTER

SIZE = 1_000_000
TIMES_MAX = 4
"""Three where nothing else runs; the rest is for what the tests before have done to the heap."""
ROUNDS = 3
USAGE = msgspec.json.Decoder(bodies.UsageBody)
BARE = msgspec.json.Decoder(dict[str, Any])
BARE_ANY = msgspec.json.Decoder()


def _named(failure: Failure) -> tuple[int, str]:
    """Return status and code as the native API says them."""
    status, members = document(failure)
    return status, members["code"]


def many(item: bytes) -> bytes:
    """Repeat an item in an array until the body has its size."""
    return b'{"x":[' + b",".join([item] * (SIZE // (len(item) + 1))) + b"]}"


def text(item: bytes) -> bytes:
    """Repeat what stands in a string until the body has its size."""
    return b'{"x":"' + item * (SIZE // len(item)) + b'"}'


def keys(form: str) -> bytes:
    """Fill an object with keys made by a form that takes a number."""
    one = len(form % 0) + 3
    return b"{" + b",".join(f'"{form % n}":1'.encode() for n in range(SIZE // one)) + b"}"


def prices() -> bytes:
    """Write a price table: the largest plain body there is, and one whose names all differ."""
    form = '"model-%06d":{"input":"1.25","output":"10"}'
    lines = (form % number for number in range(SIZE // len(form % 0 + ",")))
    return ('{"name":"standard","models":{' + ",".join(lines) + "}}").encode()


PLAIN = prices()
HOSTILE = {
    "a plain one": PLAIN,
    "requests": many(b'{"request_id":"r1","key_id":"key_1","model":"m","usage":{"input":374}}'),
    "short messages": many(b'{"role":"user","content":"hello"}'),
    "a late double key": keys("%06d")[:-1] + b',"000000":1}',
    "a late double key in a plain body": PLAIN[:-1] + b',"name":1}',
    "one key, over and over": b"{" + b",".join([b'"a":1'] * (SIZE // 6)) + b"}",
    "keys that differ": keys("%06d"),
    "keys with escapes": keys("\\u0061%06d"),
    "keys that end in a backslash": keys("%05d\\\\"),
    "two long equal keys": b'{"%b":1,"%b":2}' % (b"a" * (SIZE // 2), b"a" * (SIZE // 2)),
    "empty arrays": many(b"[]"),
    "empty objects": many(b"{}"),
    "tiny objects": many(b'{"a":1}'),
    "arrays ninety deep": many(b"[" * 90 + b"]" * 90),
    "depth": b'{"x":' + b"[" * (SIZE // 2) + b"]" * (SIZE // 2) + b"}",
    "opening brackets": b"[" * SIZE,
    "brackets in strings": many(b'"["'),
    "brackets and quotes in strings": many(b'"{\\""'),
    "brackets in strings between arrays": many(b'"[{",[]'),
    "the same short string": many(b'"a"'),
    "empty strings": many(b'""'),
    "one number of a million digits": b'{"x":' + b"1" * SIZE + b"}",
    "numbers of 4,300 digits": many(b"1" * 4_300),
    "numbers of 25 digits": many(b"6956484141881794536015831e-28"),
    "small numbers": many(b"1"),
    "large exponents": many(b"8e-309"),
    "exponents": many(b"8e99"),
    "fractions": many(b"1.5"),
    "exponents in strings": many(b'"e000"'),
    "escaped letters": text(b"\\u0041"),
    "escaped quotes": text(b'\\"'),
    "escaped quotes of another kind": text(b"\\u0022"),
    "backslashes": text(b"\\\\"),
    "surrogate pairs": text(b"\\ud83d\\ude00"),
    "NUL at the end": text(b"a")[:-2] + b'\\u0000"}',
    "NUL after NUL": text(b"\\u0000"),
    "what looks like NUL": text(b"\\\\u0000"),
    "no UTF-8 at the end": text(b"a")[:-2] + b'\xff"}',
    "a string without an end": text(b"a")[:-2],
    "quotes that are escaped, without an end": b'"' + b'\\"' * (SIZE // 2),
    "quotes and backslashes": b'"\\' * (SIZE // 2),
    "spaces": b'{"x":[' + b" " * SIZE + b"]}",
    "commas": b"," * SIZE,
    "a long key": b'{"' + b"a" * SIZE + b'":1}',
    "a long key that looks like a path": b'{"' + b" - at `$" * (SIZE // 8) + b'":1}',
    "a wrong field, then depth": b'{"request_id":1,"x":' + b"[" * SIZE,
}


@pytest.fixture(scope="module", autouse=True)
def _collected_as_served() -> Iterator[None]:
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    yield
    gc.set_threshold(*before)


def seconds(work: Callable[[], object]) -> float:
    """Measure the processor's time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def read(decoder: msgspec.json.Decoder[Any], body: bytes) -> str:
    """Read a body; return what is said of it, empty: it is taken."""
    try:
        reading.decode(decoder, body)
    except Failure as problem:
        return problem.said
    return ""


def cost(work: Callable[[], object]) -> float:
    """Return the median of several calls in a row, after one that makes the caches alike."""
    work()
    return statistics.median(seconds(work) for _ in range(ROUNDS))


@cache
def plain_seconds() -> float:
    """Measure a plain body once for all tests."""
    return cost(lambda: BARE.decode(PLAIN))


@pytest.mark.parametrize("decoder", [BARE, USAGE], ids=["any", "usage"])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_costs_no_more_than_a_few_plain_ones(
    decoder: msgspec.json.Decoder[Any], body: bytes
) -> None:
    """Against msgspec's bare decode of a plain body of the same size, in the same process.

    What others on the machine do makes an attempt dearer: of three the best counts.
    """
    ratios = []
    for attempt in range(3):
        plain = plain_seconds() if attempt == 0 else cost(lambda: BARE.decode(PLAIN))
        ratios.append(cost(lambda: read(decoder, body)) / plain)
        if ratios[-1] < TIMES_MAX:
            break
    assert min(ratios) < TIMES_MAX


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_said_of_a_body_is_short(body: bytes) -> None:
    """A refusal repeats at most a little of a megabyte."""
    for decoder in (BARE, USAGE):
        assert len(read(decoder, body)) < 3_000


@pytest.mark.parametrize("name", ["a late double key", "depth", "large exponents"])
def test_an_inference_body_is_read_by_the_same_rules(name: str) -> None:
    """What goes upstream is decoded once, strictly, and refused as a body of ours is."""
    with pytest.raises(Failure) as caught:
        wishes.decode(HOSTILE[name])
    assert caught.value.detail


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" + b"[]," * 50_000 + b"[]]", "too_many_parts"),
        (b"[" + b"0.5," * 50_000 + b"1]", "too_many_parts"),
        (b"[" + b"1e5," * 50_000 + b"1]", "too_many_odd_numbers"),
        (b"[" + b"1e300," * 100 + b"1]", "too_many_odd_numbers"),
        (b"[" + b"1" * 2_000 + b"]", "too_many_odd_numbers"),
    ],
)
def test_what_takes_long_to_decode_is_refused_before(body: bytes, code: str) -> None:
    """Arrays without number, and numbers that nobody writes."""
    with pytest.raises(Failure) as caught:
        reading.decode(BARE_ANY, body)
    assert _named(caught.value) == (400, code)


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":[' + b",".join(b"[%d]" % n for n in range(2_048)) + b"]}",
        b'{"text":"' + b"[" * 5_000 + b'"}',
        b'{"text":"' + b'\\"[' * 5_000 + b'"}',
        b'{"text":["\\\\","' + b"[" * 5_000 + b'"]}',
        b'{"text":"' + b"1e300," * 5_000 + b'"}',
        b'{"text":"' + b"0" * 50_000 + b'"}',
        b'{"text":"' + b"3.14, " * 50_000 + b'"}',
        b'{"low":[' + b"1.7976931348623157e+308,-1e-7," * 20 + b"0]}",
        b'{"bias":{' + b",".join(b'"%d":-0.5' % n for n in range(1_024)) + b"}}",
    ],
)
def test_what_people_write_is_read(body: bytes) -> None:
    """Many short inputs, code, tables of numbers in a text, the bounds of a float."""
    assert reading.decode(BARE, body) == BARE.decode(body)


@pytest.mark.parametrize("filler", [b'"x"', b'"]"', b'"\\"]"', b'"\\\\"', b"[]", b'"["'])
@pytest.mark.parametrize("depth", [99, 100, 101, 102])
def test_depth_is_counted_outside_strings_at_any_size(depth: int, filler: bytes) -> None:
    """A hundred levels are read, one more is not, whatever stands in and beside them."""
    depth -= filler == b"[]"
    inner = b",".join([filler] * 1_000)
    body = b"[" * depth + inner + b"]" * depth
    levels = depth + (filler == b"[]")
    if levels <= reading.DEPTH_MAX:
        assert reading.decode(BARE_ANY, body) == BARE_ANY.decode(body)
    else:
        with pytest.raises(Failure) as caught:
            reading.decode(BARE_ANY, body)
        assert _named(caught.value)[1] == "nesting_is_too_deep"


@pytest.mark.parametrize("size", [0, reading.SMALL, reading.SPOTTED_MAX, 100_000])
@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (b'"a":1,"a":2', "twice"),
        (b'"a":1,"\\u0061":2', "twice"),
        (b'"\\"":1,"\\u0022":2', "twice"),
        (b'"\\\\":1,"\\u005c":2', "twice"),
        (b'"a":{"b":"\\"","b":"\\u0022"}', "twice"),
        (b'"a":[[["\\u0000"]]]', "NUL"),
        (b'"\\\\\\u0000":1', "NUL"),
    ],
)
def test_a_key_twice_and_nul_are_found_in_bodies_of_any_size(
    size: int, pair: bytes, said: str
) -> None:
    """Beside much text or little; small bodies are told which field it is."""
    with pytest.raises(Failure) as caught:
        reading.decode(BARE, b'{"text":"%b",%b}' % (b"x" * size, pair))
    assert said in caught.value.said


@pytest.mark.parametrize("size", [0, reading.SMALL, 100_000])
@pytest.mark.parametrize(
    "rest",
    [
        b'"\\\\u0000":1,"\\\\\\\\u0000":2',
        b'"\\"":"\\u0022","\\\\\\"":"\\\\u0022"',
        b'"a":{"a":"a"},"b":{"a":"a"}',
        b'"\\u00e9":"\xc3\xa9","\\/":"/"',
    ],
)
def test_what_only_looks_wrong_is_read_in_bodies_of_any_size(size: int, rest: bytes) -> None:
    """An escaped backslash before u0000, quotes written in two ways, keys of other objects."""
    body = b'{"text":"%b",%b}' % (b"x" * size, rest)
    assert reading.decode(BARE, body) == BARE.decode(body)


@pytest.mark.parametrize("body", [b"[" + b"1," * 5_000_000 + b"1]", b"\n" * 10_000_000])
def test_a_batch_without_number_is_not_split(body: bytes) -> None:
    """Five million items of nothing are refused for less than decoding a plain body costs."""
    plain = 10 * cost(lambda: BARE.decode(PLAIN))
    split = reading.array_items if body.startswith(b"[") else reading.lines

    def refuse() -> None:
        with pytest.raises(Failure) as caught:
            split(body)
        assert _named(caught.value)[1] == "batch_is_too_large"

    assert seconds(refuse) < plain


def test_data_of_a_cloud_event_that_is_no_utf8_is_refused() -> None:
    """What is split off undecoded is read as strictly as the rest."""
    event = b'{"specversion":"1.0","type":"dev.keyledger.usage","source":"s","id":"1","data":%b}'
    for data in (b'{"model":"\xff"}', b'{"model":1}', b'{"model":"m","model":"n"}'):
        with pytest.raises(Failure) as caught:
            usage_of_cloud(event % data)
        assert _named(caught.value)[0] == 400
