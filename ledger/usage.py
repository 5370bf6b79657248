"""What one request used, as disjoint quantities, and how providers' reports become that.

Providers count inclusively, each in its own way: OpenAI's ``prompt_tokens`` hold the cached ones,
Anthropic's ``input_tokens`` do not. Here every unit is counted in exactly one class, so that a
charge is a plain sum. A report that does not add up is refused, never mended.
"""

from collections.abc import Callable, Iterator, Mapping
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
    """Name the column that sums a class: its own name, but beside a number of requests."""
    return "units" if usage_class == "requests" else usage_class


class InvalidUsage(ValueError):
    """The usage is not a set of whole quantities that add up."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}.")
        self.field = field
        """Where: a class, or a path such as ``usage.prompt_tokens_details.cached_tokens``."""
        self.message = message
        """What is wrong with it."""


def check(usage: Usage) -> None:
    """Hold each quantity to an int of 0 to 10¹²; msgspec checks only what it decodes.

    Raises:
        InvalidUsage: A quantity is a bool, a float, negative or too large.
    """
    for name, quantity in zip(CLASSES, msgspec.structs.astuple(usage), strict=True):
        _whole(name, quantity)


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


def normalise(format: str, payload: Mapping[str, object]) -> Usage:  # noqa: A002 (its name in the event)
    """Turn a provider's usage report into disjoint quantities.

    ``payload`` is the usage object itself (Google's ``usageMetadata``, Cohere's ``meta`` for
    embeddings). Fields nobody knows are ignored; an absent or null detail is 0.

    Raises:
        InvalidUsage: The format is unknown, a required number is missing, a number is no whole
            quantity, or parts and totals disagree.
    """
    reader = _READERS.get(format)
    if reader is None:
        raise InvalidUsage("format", f"is none of {', '.join(_READERS)}")
    return reader(_Node(payload, _ROOTS.get(format, "usage")))


def side_usage(payload: Mapping[str, object]) -> tuple[tuple[str, Usage], ...]:
    """List what other models did inside one Anthropic answer, as ``(model, usage)``.

    An advisor's tokens stand in ``iterations`` under its own model and in no total, and are
    billed at its own prices. Other formats have none.

    Raises:
        InvalidUsage: As ``normalise``.
    """
    steps = _Node(payload, "usage").items("iterations")
    return tuple(
        (name, _anthropic_message(step))
        for step in steps
        if isinstance(name := step.fields.get("model"), str)
    )


def detect(payload: Mapping[str, object]) -> str | None:
    """Recognise the format of a usage report by its fields; None means no known one.

    ``google_chat`` cannot be told from ``openai_chat`` that does not add up, and must be named.
    """
    for field, name in _MARKS:
        if field in payload:
            return name
    if "prompt_tokens" in payload:
        return _detect_chat(payload)
    if "input_tokens" not in payload:
        return None
    responses = "total_tokens" in payload or "input_tokens_details" in payload
    return "openai_responses" if responses else "anthropic_messages"


_MARKS = (
    ("promptTokenCount", "google_generate_content"),
    ("inputTokens", "bedrock_converse"),
    ("billed_units", "cohere"),
    ("input_token_details", "openai_realtime"),
    ("seconds", "openai_duration"),
)


def _detect_chat(payload: Mapping[str, object]) -> str:
    if "completion_tokens" not in payload:
        return "openai_embeddings"
    if not payload.get("completion_tokens_details"):
        return "openai_chat"  # nothing is said of reasoning, so none is apart
    node = _Node(payload, "usage")
    apart = node.child("completion_tokens_details").optional("reasoning_tokens")
    both = node.required("prompt_tokens") + node.required("completion_tokens")
    return "xai_chat" if apart and node.optional("total_tokens") == both + apart else "openai_chat"


def _whole(field: str, value: object) -> int:
    if type(value) is not int:
        raise InvalidUsage(field, f"is {value!r:.40}, not a whole number")
    if not 0 <= value <= QUANTITY_MAX:
        raise InvalidUsage(field, f"is {value!r:.40}, not within 0 and {QUANTITY_MAX}")
    return value


def _usage(**quantities: int) -> Usage:
    for name, quantity in quantities.items():
        if quantity:
            _whole(name, quantity)
    return Usage(**quantities)


class _Node:
    """An object inside a report that knows its path, to name the field that is wrong."""

    def __init__(self, fields: Mapping[str, object], path: str) -> None:
        self.fields = fields
        self.path = path

    def required(self, name: str) -> int:
        if name not in self.fields:
            raise InvalidUsage(f"{self.path}.{name}", "is missing")
        return _whole(f"{self.path}.{name}", self.fields[name])

    def optional(self, name: str) -> int:
        return 0 if self.fields.get(name) is None else self.required(name)

    def child(self, name: str) -> "_Node":
        value = self.fields.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise InvalidUsage(f"{self.path}.{name}", "is not an object")
        return _Node(value or {}, f"{self.path}.{name}")

    def items(self, name: str) -> "Iterator[_Node]":
        values = self.fields.get(name)
        if values is not None and not isinstance(values, list | tuple):
            raise InvalidUsage(f"{self.path}.{name}", "is not an array")
        for place, value in enumerate(values or ()):
            yield _Node({"": value}, f"{self.path}.{name}[{place}]").unwrap()

    def unwrap(self) -> "_Node":
        value = self.fields[""]
        if not isinstance(value, Mapping):
            raise InvalidUsage(self.path, "is not an object")
        return _Node(value, self.path)

    def equal(self, name: str, expected: int) -> None:
        """Refuse a number, where one is sent, that is not what the others make."""
        if self.fields.get(name) is not None and self.required(name) != expected:
            message = f"is {self.required(name)}, but its parts add up to {expected}"
            raise InvalidUsage(f"{self.path}.{name}", message)

    def rest(self, total: int, **parts: int) -> int:
        """Take parts from their total.

        The part named when they exceed it is the largest one.
        """
        rest = total - sum(parts.values())
        if rest < 0:
            largest = max(parts, key=lambda name: parts[name])
            message = f"is {parts[largest]}: the parts of {total} exceed it by {-rest}"
            raise InvalidUsage(f"{self.path}.{largest}", message)
        return rest


def _agreed(*places: tuple[_Node, str]) -> int:
    """Read one number that providers send under several names, which then must agree."""
    sent = [place for place in places if place[0].fields.get(place[1]) is not None]
    if not sent:
        return 0
    node, name = sent[0]
    value = node.required(name)
    for other, other_name in sent[1:]:
        if other.required(other_name) != value:
            message = f"contradicts {node.path}.{name}, which is {value}"
            raise InvalidUsage(f"{other.path}.{other_name}", message)
    return value


def _openai_input(total: int, details: _Node, cached: int, written: int) -> dict[str, int]:
    """Split inclusive input tokens. Cached ones are text unless ``cached_tokens_details`` say."""
    of_cached = details.child("cached_tokens_details")
    kinds, kept = _media(details), _media(of_cached)
    if not any(kinds.values()) and not any(kept.values()):
        rest = details.rest(total, cached_tokens=cached, cache_write_tokens=written)
        return {"input": rest, "cache_read": cached, "cache_write": written}
    cached_text = of_cached.rest(cached, **_suffixed(kept, "_tokens"))
    fresh = {
        f"{kind}_input": of_cached.rest(kinds[kind], **{f"{kind}_tokens": kept[kind]})
        for kind in _MEDIA
    }
    parts = _suffixed(kinds, "_tokens")
    parts |= {"cached_tokens": cached_text, "cache_write_tokens": written}
    return {
        "input": details.rest(total, **parts),
        "cache_read": cached_text,
        "cache_write": written,
        **fresh,
        **{f"{kind}_cache_read": kept[kind] for kind in _MEDIA},
    }


def _openai_output(total: int, details: _Node, *, apart: bool = False) -> dict[str, int]:
    """Split inclusive output tokens; xAI counts reasoning apart from ``completion_tokens``."""
    reasoning = details.optional("reasoning_tokens")
    kinds = _media(details)
    inside = {} if apart else {"reasoning_tokens": reasoning}
    return {
        "output": details.rest(total, **_suffixed(kinds, "_tokens"), **inside),
        "reasoning": reasoning,
        **{f"{kind}_output": kinds[kind] for kind in _MEDIA},
    }


_MEDIA = ("audio", "image", "video")
_MEDIA_TOKENS = tuple((kind, f"{kind}_tokens") for kind in _MEDIA)


def _media(details: _Node) -> dict[str, int]:
    """Read how many tokens are of each kind of media."""
    if not details.fields:
        return dict.fromkeys(_MEDIA, 0)
    return {kind: details.optional(name) for kind, name in _MEDIA_TOKENS}


def _suffixed(numbers: Mapping[str, int], suffix: str) -> dict[str, int]:
    return {f"{name}{suffix}": number for name, number in numbers.items()}


def _chat_input(node: _Node, total: int) -> dict[str, int]:
    details = node.child("prompt_tokens_details")
    cached = _agreed(
        (details, "cached_tokens"),
        (node, "cached_tokens"),  # Moonshot
        (node, "prompt_cache_hit_tokens"),  # DeepSeek
        (node, "cache_read_input_tokens"),  # Databricks, LiteLLM
    )
    written = _agreed(
        (details, "cache_write_tokens"),
        (node, "cache_creation_input_tokens"),  # LiteLLM
    )
    return _openai_input(total, details, cached, written)


def _openai_chat(node: _Node) -> Usage:
    """Read OpenAI's chat completions, and those of all who answer in that form."""
    total_input, total_output = (
        node.required("prompt_tokens"),
        node.required("completion_tokens"),
    )
    node.equal("total_tokens", total_input + total_output)
    output = _openai_output(total_output, node.child("completion_tokens_details"))
    return _usage(**_chat_input(node, total_input), **output)


def _xai_chat(node: _Node) -> Usage:
    """Read xAI's chat completions: reasoning is beside ``completion_tokens``, not inside."""
    total_input, total_output = (
        node.required("prompt_tokens"),
        node.required("completion_tokens"),
    )
    details = node.child("completion_tokens_details")
    output = _openai_output(total_output, details, apart=True)
    node.equal("total_tokens", total_input + total_output + output["reasoning"])
    return _usage(**_chat_input(node, total_input), **output)


def _google_chat(node: _Node) -> Usage:
    """Read Gemini behind its OpenAI form: thought is in ``total_tokens`` alone, yet billed.

    Sample 662 of genai-prices: 66 + 6 tokens, total 100. The missing 28 are reasoning.
    """
    total_input, total_output = (
        node.required("prompt_tokens"),
        node.required("completion_tokens"),
    )
    parts = {"prompt_tokens": total_input, "completion_tokens": total_output}
    thought = node.rest(node.required("total_tokens"), **parts)
    output = _openai_output(total_output, node.child("completion_tokens_details"), apart=True)
    node.child("completion_tokens_details").equal("reasoning_tokens", thought)
    return _usage(**_chat_input(node, total_input), **output | {"reasoning": thought})


def _openai_embeddings(node: _Node) -> Usage:
    """Read OpenAI's embeddings: nothing but input."""
    total_input = node.required("prompt_tokens")
    node.equal("total_tokens", total_input)
    return _usage(**_chat_input(node, total_input))


def _openai_responses(node: _Node) -> Usage:
    """Read OpenAI's responses and images."""
    return _openai_named(node, "input_tokens_details", "output_tokens_details")


def _openai_realtime(node: _Node) -> Usage:
    """Read OpenAI's realtime sessions and transcripts billed by tokens."""
    return _openai_named(node, "input_token_details", "output_token_details")


def _openai_named(node: _Node, input_details: str, output_details: str) -> Usage:
    total_input, total_output = (
        node.required("input_tokens"),
        node.required("output_tokens"),
    )
    node.equal("total_tokens", total_input + total_output)
    details = node.child(input_details)
    cached, written = (
        details.optional("cached_tokens"),
        details.optional("cache_write_tokens"),
    )
    return _usage(
        **_openai_input(total_input, details, cached, written),
        **_openai_output(total_output, node.child(output_details)),
    )


def _openai_duration(node: _Node) -> Usage:
    """Read OpenAI's transcripts billed by the second."""
    return _usage(seconds=node.required("seconds"))


def _anthropic_messages(node: _Node) -> Usage:
    """Read Anthropic's messages, whose ``input_tokens`` exclude the cache.

    The totals leave out compactions, which are billed all the same: "sum across all entries in
    the usage.iterations array" (Anthropic, Compaction, Understanding usage).
    """
    usage = _anthropic_message(node)
    for step in node.items("iterations"):
        if step.fields.get("type") == "compaction":
            usage = add(usage, _anthropic_message(step))
    return usage


def _anthropic_message(node: _Node) -> Usage:
    output, details = node.required("output_tokens"), node.child("output_tokens_details")
    thought = details.optional("thinking_tokens")
    by_life = node.child("cache_creation")
    hour = by_life.optional("ephemeral_1h_input_tokens")
    written = by_life.optional("ephemeral_5m_input_tokens") + hour
    if by_life.fields:
        node.equal("cache_creation_input_tokens", written)
    else:
        written = node.optional("cache_creation_input_tokens")
    return _usage(
        input=node.required("input_tokens"),
        cache_read=node.optional("cache_read_input_tokens"),
        cache_write=written - hour,
        cache_write_1h=hour,
        output=details.rest(output, thinking_tokens=thought),
        reasoning=thought,
        searches=node.child("server_tool_use").optional("web_search_requests"),
    )


def _bedrock_converse(node: _Node) -> Usage:
    """Read Bedrock's Converse: ``inputTokens`` exclude the cache, ``totalTokens`` do not."""
    fresh, output = node.required("inputTokens"), node.required("outputTokens")
    read, written = (
        node.optional("cacheReadInputTokens"),
        node.optional("cacheWriteInputTokens"),
    )
    hours = (s for s in node.items("cacheDetails") if s.fields.get("ttl") == "1h")
    hour = sum(step.required("inputTokens") for step in hours)
    node.equal("totalTokens", fresh + read + written + output)
    return _usage(
        input=fresh,
        cache_read=read,
        cache_write=node.rest(written, cacheDetails=hour),
        cache_write_1h=hour,
        output=output,
    )


def _google_generate_content(node: _Node) -> Usage:
    """Read Gemini's ``usageMetadata``: prompt includes the cache; tools and thoughts are apart."""
    prompt, answer = (
        node.required("promptTokenCount"),
        node.optional("candidatesTokenCount"),
    )
    tool, thought = (
        node.optional("toolUsePromptTokenCount"),
        node.optional("thoughtsTokenCount"),
    )
    node.equal("totalTokenCount", prompt + answer + tool + thought)
    read = _google_split(node, "promptTokensDetails", prompt)
    used = _google_split(node, "toolUsePromptTokensDetails", tool)
    kept = _google_split(node, "cacheTokensDetails", node.optional("cachedContentTokenCount"))
    made = _google_split(node, "candidatesTokensDetails", answer)
    fresh = {
        kind: node.rest(read[kind] + used[kind], cachedContentTokenCount=kept[kind])
        for kind in read
    }
    return _usage(
        input=fresh["text"],
        cache_read=kept["text"],
        output=made["text"],
        reasoning=thought,
        **{f"{kind}_input": fresh[kind] for kind in _MEDIA},
        **{f"{kind}_cache_read": kept[kind] for kind in _MEDIA},
        **{f"{kind}_output": made[kind] for kind in _MEDIA},
    )


_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
"""Documents are read as images. Everything else is text."""


def _google_split(node: _Node, name: str, total: int) -> dict[str, int]:
    """Split a count by modality; what no detail mentions is text."""
    counts = dict.fromkeys(_MEDIA, 0)
    for item in node.items(name):
        kind = _MODALITIES.get(str(item.fields.get("modality")))
        if kind is not None:
            counts[kind] += item.optional("tokenCount")
    named = sum(item.optional("tokenCount") for item in node.items(name))
    node.rest(total, **{name: named})
    return counts | {"text": total - sum(counts.values())}


def _cohere(node: _Node) -> Usage:
    """Read Cohere's billed units; its ``tokens`` count templates that are not billed."""
    billed = node.child("billed_units")
    return _usage(
        input=billed.optional("input_tokens"),
        image_input=billed.optional("image_tokens"),
        output=billed.optional("output_tokens"),
        searches=billed.optional("search_units"),
    )


_READERS: dict[str, Callable[[_Node], Usage]] = {
    "openai_chat": _openai_chat,
    "openai_responses": _openai_responses,
    "openai_embeddings": _openai_embeddings,
    "openai_realtime": _openai_realtime,
    "openai_duration": _openai_duration,
    "anthropic_messages": _anthropic_messages,
    "google_generate_content": _google_generate_content,
    "google_chat": _google_chat,
    "xai_chat": _xai_chat,
    "bedrock_converse": _bedrock_converse,
    "cohere": _cohere,
}
_ROOTS = {"google_generate_content": "usageMetadata"}

FORMATS: tuple[str, ...] = tuple(_READERS)
"""Every format that ``normalise`` reads."""
