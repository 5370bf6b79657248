"""Amounts of an asset as integers of 10⁻¹² (pico), and the one place where money is rounded.

No float comes near. Text on the wire is a plain decimal string: no exponent, no sign unless the
caller allows one, at most twelve decimal places.
"""

import re
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

PLACES = 12
PICO_PER_UNIT = 10**PLACES
PICO_LIMIT = 10**26
"""Largest amount anywhere, exclusive: 100 trillion units. Sums of many fit NUMERIC(38,0)."""

_CURRENCIES = (
    "AED ARS AUD BDT BGN BHD BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP GHS HKD HUF IDR ILS INR"
    " ISK JPY KES KRW KWD KZT LKR MAD MXN MYR NGN NOK NZD OMR PEN PHP PKR PLN QAR RON RSD SAR SEK"
    " SGD THB TND TRY TWD UAH UGX USD UYU VND ZAR"
)
KNOWN_ASSETS = frozenset((*_CURRENCIES.split(), "CREDIT", "DIEM", "BUNDLED_CREDITS"))
"""Assets that need no declaration: those of ISO 4217, and the dialects' own."""

_WHOLE_DIGITS_MAX = 15
_ASSET = re.compile(r"[A-Z][A-Z0-9_]{1,23}", re.ASCII)


class Amount(NamedTuple):
    """A quantity of one asset, such as 1.25 USD."""

    pico: int
    """Units of 10⁻¹² of the asset. May be negative in a balance or an adjustment."""

    asset: str
    """Upper-case asset code: USD, CAD, CREDIT, DIEM, BUNDLED_CREDITS, …"""

    def __str__(self) -> str:
        """Render as ``1.25 USD``."""
        return f"{format_pico(self.pico)} {self.asset}"


class InvalidAmount(ValueError):
    """The amount is not a plain decimal with at most twelve places."""


@lru_cache(maxsize=8_192)
def parse_pico(text: str, *, signed: bool = False) -> int:
    """Read a plain decimal string as pico.

    Raises:
        InvalidAmount: An exponent, a sign that is not allowed, too many places, too large.
    """
    negative = signed and text.startswith("-")
    whole, point, places = (text[1:] if negative else text).partition(".")
    digits = whole + places.ljust(PLACES, "0")
    if not (digits.isascii() and digits.isdigit() and len(whole) <= _WHOLE_DIGITS_MAX):
        raise InvalidAmount
    if not whole or len(places) > PLACES or bool(point) != bool(places):
        raise InvalidAmount
    pico = int(digits)
    if pico >= PICO_LIMIT:
        raise InvalidAmount
    return -pico if negative else pico


def format_pico(pico: int) -> str:
    """Write pico as the shortest plain decimal string: ``1250000000000`` is ``1.25``."""
    if 0 < pico < PICO_PER_UNIT:
        # What most requests cost.
        return "0." + str(pico).zfill(PLACES).rstrip("0")
    whole, places = divmod(abs(pico), PICO_PER_UNIT)
    text = f"{whole}." + str(places).zfill(PLACES).rstrip("0") if places else str(whole)
    return f"-{text}" if pico < 0 else text


def format_places(pico: int, places: int) -> str:
    """Write pico with so many decimal places, rounded half to even: ``1.2500``. Not negative."""
    rounded = divide_round_half_even(pico, 10 ** (PLACES - places))
    return f"{Decimal(rounded).scaleb(-places):.{places}f}"


def decimal_of(pico: int) -> Decimal:
    """Return pico as an exact Decimal of whole units."""
    return Decimal(format_pico(pico))


def parse_asset(text: str) -> str:
    """Check an asset code.

    Raises:
        InvalidAmount: It is not 2 to 24 upper-case letters, digits and underscores.
    """
    if _ASSET.fullmatch(text) is None:
        raise InvalidAmount("An asset code is 2 to 24 upper-case letters, digits or underscores.")
    return text


def parse_amount(text: str) -> Amount:
    """Read ``5 CAD``.

    Raises:
        InvalidAmount: It is not a decimal, one space and an asset code.
    """
    number, space, asset = text.partition(" ")
    if not space:
        raise InvalidAmount('An amount with its asset looks like "5 CAD".')
    return Amount(parse_pico(number), parse_asset(asset))


def divide_round_half_even(numerator: int, denominator: int) -> int:
    """Divide integers, rounding to nearest and ties to even: the one rounding point.

    ``numerator`` ≥ 0, ``denominator`` > 0. IEEE 754 calls the rule roundTiesToEven.
    """
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1))
