"""A small tokenizer: honest counts for the sample model, and estimates where nobody reports usage.

A token is a run of up to eight ASCII letters, digits or underscores, a run of up to four letters of
another alphabet, or one other character except white space, each with at most one space before it;
each remaining run of white space is a token. That comes close to byte-pair encodings:
they make about a token per character of Chinese, Japanese and Korean.
"""

import re
from collections.abc import Iterable

import msgspec

_WIDE = (
    r"\u1100-\u11ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef"
    "\U00010000-\U0010ffff"
)
"""Scripts in which about every character is a token, and symbols."""
_TOKEN = re.compile(rf" ?[A-Za-z0-9_]{{1,8}}| ?[^\W\dA-Za-z_{_WIDE}]{{1,4}}| ?[^A-Za-z0-9_\s]|\s+")
_WIDE_SIGN = re.compile(f"[{_WIDE}]")
_ESCAPE = re.compile(r"\\u[0-9A-Fa-f]{4}")

WEIGHT_OF_TOKEN = 4
"""A character of ASCII weighs 1, of another alphabet 2, of a script of whole words 4."""
WEIGHT_PER_PIECE_MAX = 16
"""A stream whose pieces weigh more than this on average sends several tokens in each."""


def count(text: str) -> int:
    """Count the tokens of a text."""
    return len(_TOKEN.findall(text))


def split(text: str) -> list[str]:
    """Split a text into its tokens; joined they make the text again."""
    return _TOKEN.findall(text)


def weight_of(pieces: Iterable[bytes]) -> int:
    """Weigh pieces of text, which may be escaped as in JSON, by their characters."""
    text = b"".join(pieces)
    if b"\\" not in text and text.isascii():
        return len(text)
    return _weight(_ESCAPE.sub("\u4e00", _unescaped(text)))


def _unescaped(text: bytes) -> str:
    try:
        found: str = msgspec.json.decode(b'"' + text + b'"', type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text.decode(errors="replace")
    return found


def _weight(text: str) -> int:
    ascii_only = len(text.encode("ascii", "ignore"))
    return 2 * len(text) - ascii_only + 2 * len(_WIDE_SIGN.findall(text))


def of_pieces(pieces: int, weight: int) -> int:
    """Estimate the tokens of a stream from how many pieces of text came, and their weight.

    Most services send a token per piece; those that send more at once are counted by weight.
    """
    if weight <= pieces * WEIGHT_PER_PIECE_MAX:
        return pieces
    return -(-weight // WEIGHT_OF_TOKEN)
