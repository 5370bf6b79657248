"""A small tokenizer: honest counts for the sample model, and estimates where nobody reports usage.

A token is a run of up to eight ASCII letters, digits or underscores, or one other character that is
no white space, either with one space before it; what is left of white space is a token per run.
That is near what byte-pair encodings make of English, and more than they make of other scripts.
"""

import re

_TOKEN = re.compile(r" ?[A-Za-z0-9_]{1,8}| ?[^A-Za-z0-9_\s]|\s+")

BYTES_PER_TOKEN = 4
"""Of text in byte-pair encodings, about."""
BYTES_PER_DELTA_MAX = 16
"""A stream whose deltas are longer on average sends several tokens in each."""


def count(text: str) -> int:
    """Count the tokens of a text."""
    return len(_TOKEN.findall(text))


def split(text: str) -> list[str]:
    """Split a text into its tokens; joined they are the text."""
    return _TOKEN.findall(text)


def of_deltas(deltas: int, size: int) -> int:
    """Estimate the tokens of a stream from how many pieces of text came, and their bytes.

    Most services send a token per piece; those that send more at once are counted by length.
    """
    if size <= deltas * BYTES_PER_DELTA_MAX:
        return deltas
    return -(-size // BYTES_PER_TOKEN)
