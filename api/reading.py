"""One way in for every body: bounded, strict JSON, decoded into structs that know their fields.

msgspec checks types and refuses unknown fields, but takes the last of two equal keys and lets NUL
and deep nesting pass. What it misses is found here: nearly free for a plain small body, exact for
all others.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from api.problems import Problem, invalid

BODY_MAX = 10 * 1024 * 1024
DEPTH_MAX = 100
BATCH_MAX = 10_000

# Matches every string of valid JSON in turn.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# The same where there is no escape, with the colon that makes a string a key.
_PLAIN_STRINGS = re.compile(rb'"([^"]*)"\s*(:?)')
_PATH = re.compile(r"(?s)(.*?)(?: - at `(key in )?\$\.?(.*)`)?")
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_SURROGATE = re.compile("[\x00\ud800-\udfff]")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON that somebody else made may raise."""

Decoded = TypeVar("Decoded")


def decode(decoder: msgspec.json.Decoder[Decoded], body: bytes) -> Decoded:
    """Decode a body strictly.

    Raises:
        Problem: It is no JSON, not of the form, has a key twice, holds NUL, nests too deeply.
    """
    # Before it is decoded: how deep a decoder can go hangs on the interpreter's recursion limit.
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX:
        _check_depth(body)
    try:
        found = decoder.decode(body)
    except msgspec.ValidationError as error:
        check_strict(body)
        raise worded(error) from error
    except msgspec.DecodeError as error:
        raise malformed(str(error)) from error
    except UnicodeDecodeError as error:
        raise malformed("The body is not UTF-8.") from error
    except RecursionError as error:
        raise _too_deep() from error
    check_strict(body)
    return found


def malformed(detail: str) -> Problem:
    """Say that the body is no JSON."""
    return Problem(400, "malformed_json", detail)


def worded(error: msgspec.ValidationError, prefix: str = "") -> Problem:
    """Say which field is wrong in the words of msgspec."""
    match = _PATH.fullmatch(str(error))
    assert match is not None
    said, path = match[1], match[3] or ""
    named = _FIELD.fullmatch(said)
    if named is not None:
        path = f"{path}.{named[1]}" if path else named[1]
        said = "is required" if said.startswith("Object missing") else "is no field of this"
    return invalid(f"{prefix}{path}", said)


def check_strict(body: bytes) -> None:
    """Refuse what JSON decoders let pass: a key twice, NUL, lone surrogates.

    ``body`` is valid JSON. A body without a backslash whose keys all differ is clean at a glance;
    and so at half a glance is one whose strings all differ, be they keys or not.
    """
    if b"\\" not in body:
        strings = body.split(b'"')[1::2]
        if len(strings) == len(set(strings)):
            return
        keys = [text for text, colon in _PLAIN_STRINGS.findall(body) if colon]
        if len(keys) == len(set(keys)):
            return
    _check_exactly(body)


def _check_exactly(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_pairs)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise malformed(str(error)) from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(twice[:255], "is there twice")
    for name, value in pairs:
        _check_text(name, name)
        if isinstance(value, str):
            _check_text(name, value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str):
                    _check_text(name, item)
    return found


def _check_text(name: str, text: str) -> None:
    if _SURROGATE.search(text):
        shown = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", name)[:255]
        raise invalid(shown, "holds NUL or half a surrogate pair")


def _check_depth(body: bytes) -> None:
    depth = 0
    for sign in re.findall(rb"[\[\]{}]", _STRINGS.sub(b"", body)):
        depth += 1 if sign in b"[{" else -1
        if depth > DEPTH_MAX:
            raise _too_deep()


def _too_deep() -> Problem:
    return Problem(400, "nesting_is_too_deep", f"At most {DEPTH_MAX} levels.")


_raws = msgspec.json.Decoder(list[msgspec.Raw])


def array_items(body: bytes) -> list[bytes]:
    """Split a JSON array into its items, none of them looked into yet.

    Raises:
        Problem: It is no array, or one of more than 10,000 items.
    """
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
        Problem: There are more than 10,000.
    """
    return _bounded([line for line in body.split(b"\n") if line.strip()])


def _bounded(items: list[bytes]) -> list[bytes]:
    if len(items) > BATCH_MAX:
        raise Problem(413, "batch_is_too_large", f"At most {BATCH_MAX} items at once.")
    return items


def require_text(field: str, text: str, most: int = 255) -> str:
    """Refuse a query or path parameter with NUL or half a surrogate pair.

    Raises:
        Problem: It has one, or more than ``most`` characters.
    """
    if _SURROGATE.search(text) or len(text) > most:
        raise invalid(field, f"1 to {most} characters without NUL")
    return text


def one_of(field: str, text: str, allowed: Sequence[str]) -> str:
    """Refuse a parameter that is none of the words allowed.

    Raises:
        Problem: It is none.
    """
    if text not in allowed:
        refuse(field, "must be one of " + ", ".join(allowed))
    return text


def refuse(field: str, problem: str) -> NoReturn:
    """Refuse a field.

    Raises:
        Problem: Always.
    """
    raise invalid(field, problem)
