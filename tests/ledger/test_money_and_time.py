"""Amounts, instants, ids: exact integers, UTC microseconds, ids that tell their lane."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import clock, ids
from ledger.clock import InvalidInstant, format_instant, parse_instant
from ledger.ids import InvalidId
from ledger.money import (
    PICO_LIMIT,
    PLACES,
    Amount,
    InvalidAmount,
    decimal_of,
    divide_round_half_even,
    format_pico,
    format_places,
    parse_amount,
    parse_asset,
    parse_pico,
)

instants = st.integers(
    *map(clock.microseconds, (datetime(2000, 1, 1, tzinfo=UTC), datetime(8999, 12, 31, tzinfo=UTC)))
).map(clock.from_microseconds)


@pytest.mark.parametrize(
    ("text", "pico"),
    [
        ("0", 0),
        ("1.25", 1_250_000_000_000),
        ("0.000000000001", 1),
        ("99999999999999.999999999999", PICO_LIMIT - 1),
        ("007.50", 7_500_000_000_000),
    ],
)
def test_a_plain_decimal_is_read_exactly(text, pico) -> None:
    """An amount is read to the last of twelve places, no float between (I4)."""
    assert parse_pico(text) == pico


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1e3",
        "+1",
        "-1",
        "1.",
        ".5",
        "1.0000000000001",
        "100000000000000",
        " 1",
        "1\n",
        "\u0661",
        "NaN",
    ],
)
def test_whatever_is_no_plain_decimal_is_refused(text) -> None:
    """Exponents, signs, more places, other digits, more than any amount: refused, never mended."""
    with pytest.raises(InvalidAmount):
        parse_pico(text)


def test_a_sign_is_read_only_where_the_caller_allows_one() -> None:
    """An adjustment may be negative, a price may not."""
    assert parse_pico("-1.5", signed=True) == -1_500_000_000_000


@given(st.integers(-PICO_LIMIT + 1, PICO_LIMIT - 1))
def test_amounts_survive_being_written(pico) -> None:
    """Written and read back, an amount is the same; written, it is as short as it can be."""
    text = format_pico(pico)
    assert parse_pico(text, signed=True) == pico
    assert decimal_of(pico) == Decimal(pico).scaleb(-12)
    assert "e" not in text.lower()
    assert not (("." in text) and text.endswith(("0", ".")))


@given(st.integers(0, 10**40), st.integers(1, 10**12))
def test_division_rounds_to_nearest_and_ties_to_even(numerator, denominator) -> None:
    """The one rounding point is roundTiesToEven, at any size."""
    assert divide_round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(pico=st.integers(0, PICO_LIMIT - 1), places=st.integers(0, PLACES))
def test_an_amount_is_shortened_as_it_is_rounded(pico, places) -> None:
    """To so many places, half to even: as the decimal module does it."""
    step = Decimal(1).scaleb(-places)
    with localcontext(prec=60):
        assert (
            format_places(pico, places) == f"{decimal_of(pico).quantize(step, ROUND_HALF_EVEN):f}"
        )


def test_an_amount_carries_its_asset() -> None:
    """``5 CAD`` is read and written whole; another shape is refused."""
    assert parse_amount("5 CAD") == Amount(5 * 10**12, "CAD")
    assert str(Amount(1_250_000_000_000, "USD")) == "1.25 USD"
    for text in ("5", "5CAD", "5  CAD", "CAD 5", "5 cad", "5 C", "5 CAD "):
        with pytest.raises(InvalidAmount):
            parse_amount(text)
    with pytest.raises(InvalidAmount):
        parse_asset("A" * 25)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-11-21T02:00:00Z", "2026-11-21T02:00:00Z"),
        ("2026-11-21T02:00:00.5+01:00", "2026-11-21T01:00:00.500000Z"),
        ("2026-11-21t02:00:00.123456789Z", "2026-11-21T02:00:00.123456Z"),
        ("2026-04-05T01:59:59+10:30", "2026-04-04T15:29:59Z"),  # Lord Howe
        ("2026-09-27T02:45:00+12:45", "2026-09-26T14:00:00Z"),  # Chatham
        ("2026-11-01T01:30:00-05:00", "2026-11-01T06:30:00Z"),  # New York, the second time
        ("2026-01-01T00:00:00+05:45", "2025-12-31T18:15:00Z"),  # Kathmandu
    ],
)
def test_a_time_with_a_zone_becomes_utc(text, written) -> None:
    """An instant is UTC with microseconds whatever the offset it came with (F1)."""
    assert format_instant(parse_instant(text)) == written


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21",
        "2026-11-21T02:00:00",
        "2026-11-21 02:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-21T02:00:60Z",
        "1999-12-31T23:59:59Z",
        "9000-01-01T00:00:00Z",
        "2026-11-21T02:00:00+2500",
        "",
    ],
)
def test_a_time_that_is_no_rfc_3339_is_refused(text) -> None:
    """No zone, no such day, out of range: refused."""
    with pytest.raises(InvalidInstant):
        parse_instant(text)


@given(instants)
def test_instants_survive_being_written(at) -> None:
    """Written and read back, an instant is the same; so it is as microseconds."""
    assert parse_instant(format_instant(at)) == at
    assert clock.from_microseconds(clock.microseconds(at)) == at


def test_the_clock_is_aware_and_utc() -> None:
    """The one place that reads the clock gives UTC."""
    assert clock.now().utcoffset() == timedelta(0)


def test_ids_are_version_seven_and_time_ordered() -> None:
    """Ids are UUIDs of RFC 9562 version 7: their first 48 bits are the time."""
    before = clock.microseconds(clock.now()) // 1000
    made = [ids.new_account_id() for _ in range(50)]
    after = clock.microseconds(clock.now()) // 1000
    assert all(one.version == 7 for one in made)
    assert all(before <= one.int >> 80 <= after for one in made)
    assert len(set(made)) == 50


@given(st.integers(0, ids.LANES_MAX - 1))
def test_a_key_id_tells_its_lane(lane) -> None:
    """A key id alone finds the lane, and stays a valid version 7."""
    key = ids.new_key_id(lane)
    assert ids.lane_of_key(key) == lane
    assert key.version == 7
    assert (key.int >> 62) & 3 == 2


@given(st.uuids(), st.integers(1, ids.LANES_MAX))
def test_an_account_stays_in_its_lane(account, lanes) -> None:
    """The lane of an account is a stable hash of its id."""
    assert 0 <= ids.lane_of_account(account, lanes) < lanes


def test_the_lane_of_an_account_is_frozen() -> None:
    """The hash that spreads accounts over lanes never changes: data would be lost from view."""
    lanes = [ids.lane_of_account(UUID(int=number), 64) for number in range(8)]
    assert lanes == [21, 59, 40, 38, 24, 58, 60, 10]


@given(st.uuids(), st.uuids(), st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_request_ids_are_apart_by_account(one, other, first, second) -> None:
    """A request id is unique per account: another account's same id is another (C6, Promise 15)."""
    same = (one, first) == (other, second)
    assert (ids.request_hash(one, first) == ids.request_hash(other, second)) is same


def test_an_id_is_read_only_with_its_prefix() -> None:
    """An id of another thing, or of another shape, is refused."""
    key = ids.new_key_id(0)
    text = ids.format_id("key", key)
    assert ids.parse_id("key", text) == key
    for wrong in (text.upper(), text[:-1], "acct" + text[3:], text + "0", text.replace("_", "-")):
        with pytest.raises(InvalidId):
            ids.parse_id("key", wrong)
    assert ids.new_request_id().startswith("req_")
    assert ids.format_id("mbr", ids.new_member_id()).startswith("mbr_")
