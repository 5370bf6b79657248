"""One way in for every body: bounded, strict JSON, decoded into structs that know their fields.

msgspec checks types and refuses unknown fields, but takes the last of two equal keys, lets NUL and
deep nesting pass, and takes microseconds for one odd number. What it misses is found here in a few
passes at the speed of C: whatever a stranger sends costs some three times what msgspec takes for
a plain body of its size, of which a third to two thirds are msgspec's own.
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
"""Bytes of a body on routes that take many items, files or conversations."""
ORDINARY_BODY_MAX = 1024 * 1024
"""Bytes of a body on all other routes."""
PUBLIC_BODY_MAX = 64 * 1024
"""Bytes of a body where nobody has to prove who asks."""
DEPTH_MAX = 100
BATCH_MAX = 10_000
COMMAS_MAX = 64
"""Commas of a batch for each item that it may have: splitting it costs something for each."""
PARTS_FREE, BYTES_PER_PART = 2_048, 24
"""A body may hold this many arrays, objects and fractions, and one more per so many bytes."""
ODD_NUMBERS_MAX = 64
"""Numbers of over 20 digits or an exponent of three: msgspec takes up to 15 µs for one of them."""
SMALL = 512
"""Bytes of a body that is too small to hold much that is odd."""
SPOTTED_MAX = 16 * 1024
"""Bytes of a body in which the field that is wrong is looked for: it takes ten times as long."""
PIECE = 16 * 1024

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_SIGNS = dict(zip(b'0123456789.eE[{"', b'00000000000ee[["', strict=True))
_NUMBERS = bytes(_SIGNS.get(byte, ord(",")) for byte in range(256))
_NO_NUMBERS = b"+-"
_NO_POINTS = bytes(set(range(256)) - set(b'."'))
_BITS = bytes.maketrans(b"[]", b"10")
_RISE = [2 * byte.bit_count() - 8 for byte in range(256)]
"""By how much eight brackets, an opening one a bit that is set, go deeper in all …"""
_PEAK = [max(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) for byte in range(256)]
"""… and at their deepest."""
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_SURROGATE = re.compile("[\x00\ud800-\udfff]")
_NUL = "holds NUL or half a surrogate pair"

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON that somebody else made may raise."""

Decoded = TypeVar("Decoded")

# Its floats are not read: they are nothing to it but what takes longest.
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=bool)
_encode = msgspec.json.Encoder().encode
_UNTYPED = (Any, dict[str, Any])


def body_max(*, large: bool, public: bool) -> int:
    """Return the bytes of body that a route takes."""
    if large:
        return BODY_MAX
    return PUBLIC_BODY_MAX if public else ORDINARY_BODY_MAX


def decode(decoder: msgspec.json.Decoder[Decoded], body: bytes, prefix: str = "") -> Decoded:
    """Decode a body strictly; ``prefix`` goes before the names of fields that are wrong.

    Raises:
        Failure: It is no JSON, not of the form, has a key twice, holds NUL, nests too deeply, or
            has too many arrays, objects or long numbers for its size.
    """
    small = len(body) <= SMALL
    if not small or body.count(b"{") + body.count(b"[") > DEPTH_MAX:
        _check_shape(body)
    try:
        found = decoder.decode(body)
        if small and b"\\" not in body:
            # Clean at a glance are strings that all differ, be they keys or not.
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
    """Say that the body is no JSON."""
    return Failure(Kind.INVALID_JSON, detail)


def worded(error: msgspec.ValidationError, prefix: str = "") -> Failure:
    """Say which field is wrong in the words of msgspec."""
    said, found, path = str(error).rpartition(" - at `")
    if not found:
        said, path = path, ""
    path = path.removesuffix("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    named = _FIELD.fullmatch(said)
    if named is not None:
        path = f"{path}.{named[1]}" if path else named[1]
        said = "is required" if said.startswith("Object missing") else "is no field of this"
    return invalid(f"{prefix}{path}", said)


def _check_shape(body: bytes) -> None:
    """Refuse what would take long to decode: deep or many parts, odd numbers. Text does not count.

    ``body`` may be no JSON: what it is refused for then does not matter. Two quotes side by side
    may go, since they change nothing of whether the number of quotes before a sign is odd.
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
            detail = "Too many of the numbers have more than 20 digits or an exponent."
            raise Failure(Kind.INVALID_FIELD, detail, code="too_many_odd_numbers")


def _check_parts(brackets: bytes, parts_max: int) -> None:
    if b"[" * (DEPTH_MAX + 1) in brackets:
        raise _too_deep()
    _bound_parts(brackets.count(b"["), parts_max)
    if _depth(brackets) > DEPTH_MAX:
        raise _too_deep()


def _bound_parts(parts: int, most: int) -> None:
    if parts > most:
        detail = f"At most {most} arrays, objects and fractions in a body of this size."
        raise Failure(Kind.INVALID_FIELD, detail, code="too_many_parts")


def _unescaped(body: bytes) -> bytes:
    """Blank out escaped backslashes and quotes, so that every quote begins or ends a string."""
    if b"\\" not in body:
        return body
    return body.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _outside_strings(signs: bytes) -> bytes:
    """Drop what stands after an odd number of quotes; piece by piece, to take little memory."""
    found, inside = [], 0
    for start in range(0, len(signs), PIECE):
        parts = signs[start : start + PIECE].split(b'"')
        found.append(b"".join(parts[inside::2]))
        inside ^= len(parts) & 1 ^ 1
    return b"".join(found)


def _depth(brackets: bytes) -> int:
    """Tell how deep brackets nest, eight at a time."""
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
    """Refuse what decoders let pass: a key twice, NUL. Lone surrogates msgspec refuses itself.

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
        raise _spotted(body, "A key of the body is there twice.")


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
            raise invalid(name, "is there twice")
        found[name] = value
        texts = [name, *value] if isinstance(value, list) else [name, value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise invalid(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", name), _NUL)
    return found


def _too_deep() -> Failure:
    detail = f"At most {DEPTH_MAX} levels."
    return Failure(Kind.INVALID_FIELD, detail, code="nesting_is_too_deep")


_raws = msgspec.json.Decoder(list[msgspec.Raw])


def array_items(body: bytes) -> list[bytes]:
    """Split a JSON array into its items, none of them looked into yet.

    Raises:
        Failure: It is no array, or one of more than 10,000 items.
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
    """Split NDJSON into its lines; blank ones do not count.

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
    detail = f"At most {BATCH_MAX} items at once."
    return Failure(Kind.TOO_LARGE, detail, code="batch_is_too_large")


def require_text(field: str, text: str, most: int = 255) -> str:
    """Refuse a query or path parameter with NUL or half a surrogate pair.

    Raises:
        Failure: It has one, or more than ``most`` characters.
    """
    if _SURROGATE.search(text) or len(text) > most:
        raise invalid(field, f"1 to {most} characters without NUL")
    return text


def one_of(field: str, text: str, allowed: Sequence[str]) -> str:
    """Refuse a parameter that is none of the words allowed.

    Raises:
        Failure: It is none.
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
