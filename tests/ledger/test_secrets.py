"""Key secrets: formats, checksum, keyed hash, what a list may show."""

import re
import zlib
from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import secrets
from ledger.secrets import BASE62, FORMATS, Peppers, checksum, generate, recognise

NAMED = [pytest.param(form, id=form.prefix) for form in FORMATS]


@pytest.mark.parametrize("form", NAMED)
def test_a_secret_has_its_documented_shape(form) -> None:
    """Prefix, random characters of the alphabet, and a checksum where the format has one."""
    secret = generate(form)
    body = secret.removeprefix(form.prefix)
    assert secret.startswith(form.prefix)
    assert len(body) == form.length + 6 * form.checked
    assert set(body) <= set(form.alphabet)
    assert recognise(secret) == form
    assert secrets.redacted(secret) == secrets.REDACTED
    assert len(secret) <= secrets.SECRET_MAX


@pytest.mark.parametrize("form", NAMED)
def test_a_secret_holds_128_random_bits(form) -> None:
    """ASVS 11.5.1: no secret has less than 128 bits."""
    assert len(form.alphabet) ** form.length >= 2**128


def test_the_checksum_is_crc_32_of_the_random_part_in_base62() -> None:
    """CRC-32 over the 30 random characters only, base62 with 0-9A-Za-z, padded to six."""
    body = "0" * 30
    crc, digits = zlib.crc32(body.encode()), ""
    for place in range(5, -1, -1):
        digits += BASE62[crc // 62**place % 62]
    assert checksum(body) == digits
    assert BASE62 == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert checksum("") == "000000"
    assert checksum("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ") == "0mLq17"  # GitHub's published example


@given(st.text(BASE62, min_size=30, max_size=46))
def test_a_checksum_is_always_six_characters(body) -> None:
    """Any CRC-32 fits into six base62 digits."""
    assert re.fullmatch(r"[0-9A-Za-z]{6}", checksum(body))


@pytest.mark.parametrize("form", [form for form in FORMATS if form.checked])
@given(data=st.data())
def test_a_mistyped_secret_is_known_without_a_look_up(form, data) -> None:
    """One changed character, or two swapped, is seen before any database read."""
    secret = generate(form)
    start = len(form.prefix)
    place = data.draw(st.integers(start, len(secret) - 1))
    other = data.draw(st.sampled_from(BASE62))
    changed = secret[:place] + other + secret[place + 1 :]
    assert (recognise(changed) is None) == (changed != secret)
    if place + 1 < start + form.length:
        swapped = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
        assert (recognise(swapped) is None) == (swapped != secret)


@pytest.mark.parametrize(
    "text", ["", "rk_", "sk-bve-" + "g" * 64, "pk_live_" + "0" * 31, "Bearer x", "rk_" + "0" * 37]
)
def test_what_is_no_secret_is_not_recognised(text) -> None:
    """Another length, another alphabet, no prefix: none of ours."""
    assert recognise(text) is None


def test_characters_are_drawn_without_modulo_bias() -> None:
    """Every character comes from ``secrets.choice``, which rejects what would not divide evenly.

    ``byte % 62`` would give the first eight characters a quarter more. Shown on 60,000 draws.
    """
    form = secrets.format_of("reverie")
    drawn = Counter("".join(generate(form)[3:33] for _ in range(2_000)))
    first, rest = sum(drawn[c] for c in BASE62[:8]), sum(drawn[c] for c in BASE62[8:])
    assert set(drawn) == set(BASE62)
    # Evenly: 7742 of 60,000 ± 83; with bias 9375. Ten standard deviations do not happen.
    assert abs(first - 60_000 * 8 // 62) < 830
    assert first + rest == 60_000


@pytest.mark.parametrize("form", NAMED)
def test_a_hint_never_shows_more_than_ten_characters(form) -> None:
    """Shown are the prefix with four characters, and the last six (Promise 11)."""
    secret = generate(form)
    hint = secrets.hint_of(secret)
    body = secret.removeprefix(form.prefix)
    assert hint == f"{form.prefix}{body[:4]}…{body[-6:]}"
    assert secret not in hint
    unknown = form.length - 10 + 6 * form.checked
    assert len(form.alphabet) ** unknown > 2**80


@given(st.text(max_size=200))
def test_a_hint_of_something_else_shows_nothing(text) -> None:
    """What is none of our secrets may be short, or a password: its hint tells nothing."""
    if recognise(text) is None:
        assert secrets.hint_of(text) == "…"


def test_a_dialect_has_its_format_and_venice_an_admin_one() -> None:
    """``admin`` chooses venice's second format."""
    assert secrets.format_of("bve").prefix == "sk-bve-"
    assert secrets.format_of("venice").prefix == "VENICE_INFERENCE_KEY_"
    assert secrets.format_of("venice", admin=True).prefix == "VENICE_ADMIN_KEY_"
    assert secrets.format_of("foil", admin=True).prefix == "pk_live_"


def test_the_newest_pepper_hashes_and_every_one_verifies() -> None:
    """A pepper can be replaced while secrets hashed under the old one still work (Promise 11)."""
    secret = generate(secrets.format_of("reverie"))
    old, both = Peppers({1: b"one"}), Peppers({1: b"one", 2: b"two"})
    assert both.current == 2
    assert both.candidates(secret) == [both.hash(secret), old.hash(secret)]
    assert len(both.hash(secret)) == 32
    assert secret.encode() not in both.hash(secret)


def test_another_pepper_gives_another_hash_and_another_fingerprint() -> None:
    """A dump is useless without the pepper, and a wrong pepper is found at start."""
    one, other = Peppers({1: b"one"}), Peppers({1: b"other"})
    assert one.hash("x") != other.hash("x")
    assert one.fingerprints() != other.fingerprints()
    assert set(one.fingerprints()) == {1}


KEY, MEMBER = UUID(int=2**120 + 5), UUID(int=9)
DIGESTS = [
    (
        ("key_secret", KEY.bytes, 3, bytes(range(32)), 2),
        "3ff83873b03d43b7468049a939d687bfcd532dfb287f210f1190e6dab1e49817",
    ),
    (
        ("login", b"salt" * 4, KEY.bytes, MEMBER.bytes, "ada@example.com", "Ünï 🤖", "$x", True),
        "eca1bc69613eaede84d8fe92637586b821ee66b27e4a4cd8c5556f5f9e78f0cc",
    ),
    (
        ("wallet", bytes(16), KEY.bytes, bytes(range(20))),
        "90c1cc438f72c1dfe5b087fd46f0729de2d11e6c7949dcffd3114a13c2e8a51e",
    ),
    (("login", "", ""), "2d63345aa964e5e539a66043224039f8df666167acc93c166e7137af09b9cc49"),
    (("login", bytes(4)), "db35878202a583ea3ff07a289a95e15630262c88afafb4dfab05d48a9900d79d"),
]


@pytest.mark.parametrize(("parts", "digest"), DIGESTS)
def test_the_digest_of_a_side_row_is_frozen(parts: tuple, digest: str) -> None:
    """Golden vectors: what stands in events for ever is written the same for ever."""
    assert secrets.digest(*parts) == digest
