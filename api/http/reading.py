"""The one way to read a body: bounded, strict JSON, decoded into structs that know their fields.

msgspec checks types and refuses unknown fields, but takes the last of two equal keys, lets NUL and
deep nesting pass, and takes microseconds for one odd number. What it lets pass is found here in a
few passes at the speed of C: whatever a stranger sends costs some three times what msgspec takes
for a plain body of its size, of which a third to two thirds are msgspec's own.
"""

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from operator import add
from typing import Any, NoReturn, TypeVar

import msgspec

from api.http.failure import Failure, Kind, invalid

BODY_MAX = 10 * 1024 * 1024
"""Bytes of the largest body on routes that take many items, files or conversations."""
ORDINARY_BODY_MAX = 1024 * 1024
"""Bytes of the largest body on all other routes."""
PUBLIC_BODY_MAX = 64 * 1024
"""Bytes of the largest body on routes that need no credential."""
DEPTH_MAX = 100
BATCH_MAX = 10_000
COMMAS_MAX = 64
"""Commas that a batch may have per item: splitting it costs something for each."""
PARTS_FREE, BYTES_PER_PART = 2_048, 24
"""A body may hold this many arrays, objects and fractions, and one more per this many bytes."""
ODD_NUMBERS_MAX = 64
"""Numbers with over 20 digits or a three-digit exponent: msgspec takes up to 15 µs for each."""
SMALL = 512
"""Bytes of a body too small to hold much that is odd."""
SPOTTED_MAX = 16 * 1024
"""Bytes of the largest body in which the wrong field is looked for: it takes ten times as long."""
PIECE = 16 * 1024

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_SIGNS = dict(zip(b'0123456789.eE[{"', b'00000000000ee[["', strict=True))
_NUMBERS = bytes(_SIGNS.get(byte, ord(",")) for byte in range(256))
_NO_NUMBERS = b"+-"
_NO_POINTS = bytes(set(range(256)) - set(b'."'))
_BITS = bytes.maketrans(b"[]", b"10")
_RISE = [2 * byte.bit_count() - 8 for byte in range(256)]
"""By how much eight brackets, with a set bit for each opening one, change the depth in all …"""
_PEAK = [max(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) for byte in range(256)]
"""… and at their deepest."""
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_SURROGATE = re.compile("[\x00\ud800-\udfff]")
_NUL = "holds NUL or half a surrogate pair"

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding somebody else's JSON may raise."""

Decoded = TypeVar("Decoded")

# It does not need floats, and reading them takes longest.
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=bool)
_encode = msgspec.json.Encoder().encode
_UNTYPED = (Any, dict[str, Any])


def body_max(*, large: bool, public: bool) -> int:
    """Return the bytes of body that a route takes."""
    if large:
        return BODY_MAX
    return PUBLIC_BODY_MAX if public else ORDINARY_BODY_MAX


def decode(decoder: msgspec.json.Decoder[Decoded], body: bytes, prefix: str = "") -> Decoded:
    """Decode a body strictly; ``prefix`` goes before the names of wrong fields.

    Raises:
        Failure: It is not JSON, of another form, has a key twice, holds NUL, nests too deeply, or
            has too many arrays, objects or long numbers for its size.
    """
    small = len(body) <= SMALL
    if not small or body.count(b"{") + body.count(b"[") > DEPTH_MAX:
        _check_shape(body)
    try:
        found = decoder.decode(body)
        if small and b"\\" not in body:
            # If all strings differ, keys or not, no key comes twice.
            strings = body.split(b'"')[1::2]
            if len(strings) == len(set(strings)):
                return found
        _check_strict(decoder, body, found)
    except msgspec.ValidationError as error:
        raise worded(error, prefix) from error
    except msgspec.DecodeError as error:
        raise malformed(str(error)) from error
    except UnicodeDecodeError as error:
        raise malformed("The body is not UTF-8.") from error
    except RecursionError as error:
        raise _too_deep() from error
    return found


def malformed(detail: str) -> Failure:
    """Make a failure that says that the body is not JSON."""
    return Failure(Kind.INVALID_JSON, detail)


def worded(error: msgspec.ValidationError, prefix: str = "") -> Failure:
    """Make a failure that says which field is wrong, in msgspec's words."""
    said, found, path = str(error).rpartition(" - at `")
    if not found:
        said, path = path, ""
    path = path.removesuffix("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    named = _FIELD.fullmatch(said)
    if named is not None:
        path = f"{path}.{named[1]}" if path else named[1]
        said = "is required" if said.startswith("Object missing") else "is not a known field"
    return invalid(f"{prefix}{path}", said)


def _check_shape(body: bytes) -> None:
    """Refuse what would take long to decode: deep nesting, many parts, odd numbers; not strings.

    ``body`` may not be JSON: then it does not matter what it is refused for. Two quotes side by
    side may go, since they do not change whether the number of quotes before a character is odd.
    """
    parts_max = PARTS_FREE + len(body) // BYTES_PER_PART
    numbers = body.translate(_NUMBERS, _NO_NUMBERS)
    if numbers.count(b"[") > DEPTH_MAX:
        brackets = _unescaped(body).translate(_BRACKETS, _NO_BRACKETS)
        _check_parts(_outside_strings(brackets.replace(b'""', b"")), parts_max)
    if body.count(b".") > parts_max:
        points = _unescaped(body).translate(None, _NO_POINTS)
        _bound_parts(len(_outside_strings(points.replace(b'""', b""))), parts_max)
    if _has_odd_numbers(numbers, parts_max):
        numbers = _unescaped(body).translate(_NUMBERS, _NO_NUMBERS)
        if _has_odd_numbers(_outside_strings(numbers), parts_max):
            detail = "Too many numbers in the body have more than 20 digits or a long exponent."
            raise Failure(Kind.INVALID_FIELD, detail, code="too_many_odd_numbers")


def _check_parts(brackets: bytes, parts_max: int) -> None:
    if b"[" * (DEPTH_MAX + 1) in brackets:
        raise _too_deep()
    _bound_parts(brackets.count(b"["), parts_max)
    if _depth(brackets) > DEPTH_MAX:
        raise _too_deep()


def _bound_parts(parts: int, most: int) -> None:
    if parts > most:
        detail = f"A body of this size may hold at most {most} arrays, objects and fractions."
        raise Failure(Kind.INVALID_FIELD, detail, code="too_many_parts")


def _unescaped(body: bytes) -> bytes:
    """Blank out escaped backslashes and quotes, so that every quote begins or ends a string."""
    if b"\\" not in body:
        return body
    return body.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _outside_strings(signs: bytes) -> bytes:
    """Drop what comes after an odd number of quotes; piece by piece, to take little memory."""
    found, inside = [], 0
    for start in range(0, len(signs), PIECE):
        parts = signs[start : start + PIECE].split(b'"')
        found.append(b"".join(parts[inside::2]))
        inside ^= len(parts) & 1 ^ 1
    return b"".join(found)


def _depth(brackets: bytes) -> int:
    """Return how deep brackets nest, looking at eight at a time."""
    length = len(brackets) // 8 + 1
    bits = int(brackets.translate(_BITS).ljust(8 * length, b"0"), 2)
    eights = bits.to_bytes(length, "big")
    before = accumulate(map(_RISE.__getitem__, eights), initial=0)
    deepest: int = max(map(add, before, map(_PEAK.__getitem__, eights)))
    return deepest


def _has_odd_numbers(numbers: bytes, parts_max: int) -> bool:
    if numbers.count(b"0" * 21) > ODD_NUMBERS_MAX:
        return True
    if numbers.count(b"e") <= ODD_NUMBERS_MAX:
        return False
    return numbers.count(b"e000") > ODD_NUMBERS_MAX or numbers.count(b"0e") > parts_max


def _check_strict(
    decoder: msgspec.json.Decoder[Any],
    body: bytes,
    found: Any,  # noqa: ANN401 - whatever JSON holds
) -> None:
    """Refuse what decoders let pass: a key twice, NUL. msgspec itself refuses lone surrogates.

    ``body`` is valid JSON and ``found`` what it holds. Of a key that comes twice a decoder keeps
    one, so that what is encoded anew has fewer quotes.
    """
    escaped = 0
    if b"\\" in body:
        if b"\\u0000" in body and b"\\u0000" in _unescaped(body):
            raise _spotted(body, f"The body {_NUL}.")
        if b"\\u0022" in body:
            escaped = _unescaped(body).count(b"\\u0022")
    if decoder.type not in _UNTYPED:
        found = _any.decode(body)
    if body.count(b'"') + escaped != _encode(found).count(b'"'):
        raise _spotted(body, "The body has a key twice.")


def _spotted(body: bytes, problem: str) -> Failure:
    """Name the field that is wrong where the body is small enough to look for it."""
    if len(body) <= SPOTTED_MAX:
        try:
            json.loads(body, object_pairs_hook=_pairs)
        except Failure as found:
            return found
    return invalid("", problem)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise invalid(name, "is sent twice")
        found[name] = value
        texts = [name, *value] if isinstance(value, list) else [name, value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise invalid(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", name), _NUL)
    return found


def _too_deep() -> Failure:
    detail = f"The body may nest at most {DEPTH_MAX} levels deep."
    return Failure(Kind.INVALID_FIELD, detail, code="nesting_is_too_deep")


_raws = msgspec.json.Decoder(list[msgspec.Raw])


def array_items(body: bytes) -> list[bytes]:
    """Split a JSON array into its items, undecoded.

    Raises:
        Failure: It is not an array, or has more than 10,000 items.
    """
    if body.count(b",") > BATCH_MAX * COMMAS_MAX:
        raise _too_many()
    try:
        items = _raws.decode(body)
    except msgspec.ValidationError as error:
        raise worded(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error)) from error
    except RecursionError as error:
        raise _too_deep() from error
    return _bounded([bytes(item) for item in items])


def lines(body: bytes) -> list[bytes]:
    """Split NDJSON into its lines; blank lines do not count.

    Raises:
        Failure: There are more than 10,000.
    """
    if body.count(b"\n") > 2 * BATCH_MAX:
        raise _too_many()
    return _bounded([line for line in body.split(b"\n") if line.strip()])


def _bounded(items: list[bytes]) -> list[bytes]:
    if len(items) > BATCH_MAX:
        raise _too_many()
    return items


def _too_many() -> Failure:
    detail = f"A request may have at most {BATCH_MAX} items."
    return Failure(Kind.TOO_LARGE, detail, code="batch_is_too_large")


def require_text(field: str, text: str, most: int = 255) -> str:
    """Refuse a query or path parameter with NUL or half a surrogate pair.

    Raises:
        Failure: It has one, or more than ``most`` characters.
    """
    if _SURROGATE.search(text) or len(text) > most:
        raise invalid(field, f"must have 1 to {most} characters, none of them NUL")
    return text


def one_of(field: str, text: str, allowed: Sequence[str]) -> str:
    """Refuse a parameter that is not one of the allowed words.

    Raises:
        Failure: It is not.
    """
    if text not in allowed:
        refuse(field, "must be one of " + ", ".join(allowed))
    return text


def refuse(field: str, problem: str) -> NoReturn:
    """Refuse a field.

    Raises:
        Failure: Always.
    """
    raise invalid(field, problem)
