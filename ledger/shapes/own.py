"""Shapes that one provider has for itself: Bedrock, Cohere, Gemini, OpenAI's seconds."""

from ledger.shapes.counts import (
    CACHE,
    KINDS,
    NONE,
    REASONING,
    Counts,
    Hint,
    Parts,
    ReportObject,
    Side,
    side,
)
from ledger.usage import QUANTITY_MAX


def seconds(node: ReportObject, _hint: Hint) -> Counts:
    """Read OpenAI's transcripts billed by the second; a begun second counts."""
    value = node.fields.get("seconds")
    if type(value) is float and 0 <= value <= QUANTITY_MAX:
        seconds: int | None = int(-(-value // 1))
    else:
        seconds = node.number("seconds")
    if seconds is None:
        node.doubt("seconds")
        return Counts(Side("seconds", told_badly=True), Side("seconds"))
    return Counts(Side("seconds", 0), Side("seconds", 0), {"seconds": seconds})


def bedrock(node: ReportObject, _hint: Hint) -> Counts:
    """Read Bedrock's Converse: ``inputTokens`` exclude the cache, ``totalTokens`` do not."""
    into, output = _required(node, "inputTokens"), _required(node, "outputTokens")
    read, written = node.count("cacheReadInputTokens"), node.count("cacheWriteInputTokens")
    hours = [s for s in node.items("cacheDetails") if s.fields.get("ttl") == "1h"]
    hour = sum(step.count("inputTokens") for step in hours)
    if hour > written:
        node.doubt("cacheDetails")
        hour = 0
    total = node.number("totalTokens")
    if total is not None and into is None and output is not None:
        into = max(total - output - read - written, 0)
    if total is not None and output is None and into is not None:
        output = max(total - into - read - written, 0)
    if total is not None and total != (into or 0) + (output or 0) + read + written:
        node.doubt("totalTokens")
    parts: Parts = {
        "cache_read": (read, (node, "cacheReadInputTokens")),
        "cache_write": (written - hour, (node, "cacheWriteInputTokens")),
        "cache_write_1h": (hour, (node, "cacheDetails")),
    }
    bad = "inputTokens" in node.fields, "outputTokens" in node.fields
    return Counts(
        side("inputTokens", into, parts, apart=CACHE, bad=into is None and bad[0]),
        side("outputTokens", output, {}, apart=NONE, bad=output is None and bad[1]),
    )


def _required(node: ReportObject, field: str) -> int | None:
    number = node.number(field)
    if number is None and field in node.fields:
        node.doubt(field)
    return number


_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
"""Documents are read as images. Everything else is text."""


def google(node: ReportObject, _hint: Hint) -> Counts:
    """Read Gemini's ``usageMetadata``: prompt includes the cache; tools and thoughts are apart."""
    prompt, answer = _required(node, "promptTokenCount"), _required(node, "candidatesTokenCount")
    tool, thought = node.count("toolUsePromptTokenCount"), node.count("thoughtsTokenCount")
    total = node.number("totalTokenCount")
    bad = prompt is None and "promptTokenCount" in node.fields
    if prompt is None and total is not None:
        prompt = max(total - (answer or 0) - tool - thought, 0)
    if answer is None:
        answer = max((total or 0) - (prompt or 0) - tool - thought, 0)
    elif total is not None and total == (prompt or 0) + answer + tool and thought <= answer:
        answer -= thought  # a proxy that counts thought inside
    if total is not None and total != (prompt or 0) + answer + tool + thought:
        node.doubt("totalTokenCount")
    into = None if prompt is None else prompt + tool
    cached = node.count("cachedContentTokenCount")
    if into is not None and cached > into:
        node.doubt("cachedContentTokenCount")
        cached = 0
    kept = _split(node, "cacheTokensDetails", cached)
    read = _split(node, "promptTokensDetails", prompt or 0)
    used = _split(node, "toolUsePromptTokensDetails", tool)
    parts: Parts = {"cache_read": (kept["text"], (node, "cachedContentTokenCount"))}
    for kind in KINDS:
        fresh = read[kind] + used[kind]
        if kept[kind] > fresh:
            node.doubt("cacheTokensDetails")
        parts[f"{kind}_input"] = (max(fresh - kept[kind], 0), (node, "promptTokensDetails"))
        parts[f"{kind}_cache_read"] = (kept[kind], (node, "cacheTokensDetails"))
    made = _split(node, "candidatesTokensDetails", answer)
    output: Parts = {
        f"{kind}_output": (made[kind], (node, "candidatesTokensDetails")) for kind in KINDS
    }
    output["reasoning"] = (thought, (node, "thoughtsTokenCount"))
    return Counts(
        side("promptTokenCount", into, parts, apart=NONE, bad=bad),
        side("candidatesTokenCount", answer, output, apart=REASONING),
    )


def _split(node: ReportObject, field: str, total: int) -> dict[str, int]:
    """Split a count by modality; what no detail mentions is text."""
    found = dict.fromkeys(KINDS, 0)
    named = 0
    for item in node.items(field):
        number = item.count("tokenCount")
        named += number
        kind = _MODALITIES.get(str(item.fields.get("modality")))
        if kind is not None:
            found[kind] += number
    if named > total:
        node.doubt(field)
        found = dict.fromkeys(KINDS, 0)
    return found | {"text": total - sum(found.values())}


def cohere(node: ReportObject, _hint: Hint) -> Counts:
    """Read Cohere's billed units; its ``tokens`` count templates that are not billed."""
    billed = node.child("billed_units")
    image, text = billed.count("image_tokens"), billed.count("input_tokens")
    searches = billed.count("search_units")
    return Counts(
        Side("billed_units.input_tokens", text + image, {"image_input": image} if image else {}),
        Side("billed_units.output_tokens", billed.count("output_tokens")),
        {"searches": searches} if searches else {},
    )
