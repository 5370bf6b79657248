"""What one request used, as disjoint quantities.

Every unit is counted in exactly one class, so that a charge is a plain sum. ``shapes`` and
``reports`` make it from providers' reports.
"""

from typing import Annotated

import msgspec

QUANTITY_MAX = 10**12
"""Largest quantity of a class in one usage, inclusive."""

Quantity = Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)]


class Usage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Disjoint quantities; all token classes together are the provider's total."""

    input: Quantity = 0
    """Text tokens read afresh."""

    cache_read: Quantity = 0
    """Text tokens (or of no stated modality) read from a prompt cache."""

    cache_write: Quantity = 0
    """Input tokens written to a prompt cache of the usual life, such as five minutes."""

    cache_write_1h: Quantity = 0
    """Input tokens written to a prompt cache that lives an hour."""

    audio_input: Quantity = 0
    """Audio tokens read afresh."""

    audio_cache_read: Quantity = 0
    """Audio tokens read from a prompt cache."""

    image_input: Quantity = 0
    """Image or document tokens read afresh."""

    image_cache_read: Quantity = 0
    """Image or document tokens read from a prompt cache."""

    video_input: Quantity = 0
    """Video tokens read afresh."""

    video_cache_read: Quantity = 0
    """Video tokens read from a prompt cache."""

    output: Quantity = 0
    """Text tokens of the answer, rejected predictions included: they are billed."""

    reasoning: Quantity = 0
    """Tokens of thought."""

    audio_output: Quantity = 0
    """Audio tokens of the answer."""

    image_output: Quantity = 0
    """Image tokens of the answer."""

    video_output: Quantity = 0
    """Video tokens of the answer."""

    images: Quantity = 0
    """Pictures made, where the picture is billed and not its tokens."""

    characters: Quantity = 0
    """Characters of text to speak or translate."""

    seconds: Quantity = 0
    """Whole seconds of sound or film, heard or made."""

    searches: Quantity = 0
    """Searches billed by the piece: of the web, or of documents to rank."""

    requests: Quantity = 0
    """Calls, where the call itself is billed. Set by the caller, since no provider reports it."""


CLASSES: tuple[str, ...] = Usage.__struct_fields__
"""Every usage class, in the order of the fields: input tokens, output tokens, the rest."""

INPUT_TOKENS: tuple[str, ...] = CLASSES[: CLASSES.index("output")]
"""Classes that fill the context: the first ones, so that a slice sums them."""

OUTPUT_TOKENS: tuple[str, ...] = CLASSES[CLASSES.index("output") : CLASSES.index("images")]
"""Classes of tokens that were made."""

_INPUTS = slice(len(INPUT_TOKENS))
_OUTPUTS = slice(len(INPUT_TOKENS), len(INPUT_TOKENS) + len(OUTPUT_TOKENS))


def column_of(usage_class: str) -> str:
    """Name the column that sums a class: its own name, unless that is the number of requests."""
    return "units" if usage_class == "requests" else usage_class


class InvalidUsage(ValueError):
    """The usage is not a set of whole quantities that add up."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}.")
        self.field = field
        """Where: a class, or a path such as ``usage.prompt_tokens_details.cached_tokens``."""
        self.message = message
        """What is wrong with it."""


def context_tokens(usage: Usage) -> int:
    """Count the input tokens of every kind: what context tiers look at."""
    return sum(msgspec.structs.astuple(usage)[_INPUTS])


def output_tokens(usage: Usage) -> int:
    """Count the tokens that were made, thought included."""
    return sum(msgspec.structs.astuple(usage)[_OUTPUTS])


def tokens(usage: Usage) -> int:
    """Count all tokens: the provider's own total."""
    return context_tokens(usage) + output_tokens(usage)


def add(left: Usage, right: Usage) -> Usage:
    """Add class by class.

    Raises:
        InvalidUsage: A sum is too large for one usage.
    """
    pairs = zip(CLASSES, msgspec.structs.astuple(left), msgspec.structs.astuple(right), strict=True)
    return _usage(**{name: one + other for name, one, other in pairs})


def _whole(field: str, value: object) -> int:
    if type(value) is not int:
        raise InvalidUsage(field, f"is {value!r:.40}, not a whole number")
    if not 0 <= value <= QUANTITY_MAX:
        raise InvalidUsage(field, f"is {value!r:.40}, not between 0 and {QUANTITY_MAX}")
    return value


def _usage(**quantities: int) -> Usage:
    for name, quantity in quantities.items():
        if quantity:
            _whole(name, quantity)
    return Usage(**quantities)
