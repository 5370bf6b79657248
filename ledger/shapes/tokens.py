"""Tokens under the names of OpenAI and Anthropic, which dozens of others use."""

from typing import NamedTuple

from ledger.shapes.counts import (
    CACHE,
    FORMATS,
    KINDS,
    NONE,
    REASONING,
    Counts,
    Fields,
    Hint,
    Parts,
    Place,
    ReportObject,
    Side,
    Step,
    agreed,
    side,
    usage_of,
)
from ledger.usage import QUANTITY_MAX

_INPUT_NAMES = ("prompt_tokens", "input_tokens")
_OUTPUT_NAMES = ("completion_tokens", "output_tokens")
_OF_ANTHROPIC = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
_FIRST_EXCESS = 2
"""A total that is one too large is a mistake; a larger one may hold thought."""


class _Told(NamedTuple):
    """The numbers of a report of tokens, before it is decided how they belong together."""

    input: int | None
    output: int | None
    cached: int
    """Read from a cache or written to one."""
    reasoning: int
    says_reasoning: bool
    apart: bool
    """Whether cached tokens look as if they stood beside the input."""


_PLAIN = (
    ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"),
    ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"),
)
_PLAIN_FIELDS = tuple(frozenset({"total_tokens", *names}) for names in _PLAIN)
_RARE_DETAILS = frozenset(
    {"cached_tokens_details", "cache_write_tokens", "thinking_tokens"}
    | {f"{kind}_tokens" for kind in KINDS}
)


def plain(report: Fields) -> Counts | None:
    """Read a report as OpenAI writes it, in a tenth of the time; None: not so, or wrong."""
    newer = "prompt_tokens" not in report
    if not report.keys() <= _PLAIN_FIELDS[newer]:
        return None
    input_name, output_name, details_in, details_out = _PLAIN[newer]
    into, made = report.get(input_name), report.get(output_name)
    cached = _plain_part(report.get(details_in), "cached_tokens", into)
    reasoning = _plain_part(report.get(details_out), "reasoning_tokens", made)
    if cached is None or reasoning is None:
        return None
    assert type(into) is type(made) is int
    if report.get("total_tokens") != into + made or into + made > QUANTITY_MAX:
        return None
    return Counts(
        Side(input_name, into, {"cache_read": cached} if cached else {}),
        Side(output_name, made, {"reasoning": reasoning} if reasoning else {}),
    )


def _plain_part(details: object, name: str, total: object) -> int | None:
    """Read the one part of a total that is usual; None: there are others, or it does not fit."""
    if type(total) is not int:
        return None
    if not details:
        return 0 if details is None and total >= 0 else None
    if type(details) is not dict or any(details.get(rare) for rare in _RARE_DETAILS):
        return None
    part = details.get(name)
    part = 0 if part is None else part
    return part if type(part) is int and 0 <= part <= total else None


class _Way(NamedTuple):
    """How the numbers of a report belong together."""

    input: int | None
    output: int | None
    apart: bool
    """Cached tokens stand beside the input."""
    beside: bool
    """Reasoning stands beside the output."""
    reasoning: int
    total: int | None = None
    """All tokens, where nothing else is stated."""


def tokens(node: ReportObject, hint: Hint) -> Counts:
    """Read a report of tokens in the way that keeps its totals."""
    into, input_name = _main(node, _INPUT_NAMES)
    made, output_name = _main(node, _OUTPUT_NAMES)
    details_in = node.child("prompt_tokens_details", "input_tokens_details", "input_token_details")
    details_out = node.child(
        "completion_tokens_details", "output_tokens_details", "output_token_details"
    )
    cache = _cache(node, details_in, into)
    told = _Told(
        into,
        made,
        sum(number for number, _ in cache.values()),
        agreed((details_out, "reasoning_tokens"), (details_out, "thinking_tokens")),
        details_out.fields.get("reasoning_tokens") is not None,
        hint.apart if hint.apart is not None else _stands_apart(node, details_in),
    )
    way = _way(node, told, hint, output_name)
    parts_in = _input_parts(details_in, cache)
    parts_out = _media(details_out)
    parts_out["reasoning"] = (way.reasoning, (details_out, "reasoning_tokens"))
    bad = into is None and input_name in node.fields, made is None and output_name in node.fields
    return Counts(
        input=side(input_name, way.input, parts_in, apart=CACHE if way.apart else NONE, bad=bad[0]),
        output=side(
            output_name, way.output, parts_out, apart=REASONING if way.beside else NONE, bad=bad[1]
        ),
        more=_pieces(node),
        total=way.total,
        steps=_steps(node),
    )


def _way(node: ReportObject, told: _Told, hint: Hint, output_name: str) -> _Way:
    """Find how the numbers belong together, and what is missing of them."""
    total = node.number("total_tokens")
    into, made = told.input, told.output
    if into is not None and made is not None:
        return _way_of_both(node, told, into, made, total, hint)
    beside = made is not None and bool(told.reasoning) and (hint.beside or told.reasoning > made)
    way = _Way(into, made, told.apart, beside, told.reasoning)
    if total is not None:
        way = _completed(node, way, told, total, hint, output_name)
    if hint.input_only and way.output is None and output_name not in node.fields:
        return way._replace(input=way.total if into is None else into, output=0, total=None)
    return way


def _completed(  # noqa: PLR0917 (one caller)
    node: ReportObject, way: _Way, told: _Told, total: int, hint: Hint, output_name: str
) -> _Way:
    """Derive the number that is missing from the total."""
    into, made = way.input, way.output
    if made is not None:
        rest = total - made - told.reasoning * way.beside
        return way if rest < 0 else way._replace(input=rest, apart=False)
    if into is None:
        return way._replace(total=total)
    rest = total - into - told.cached * told.apart
    if rest < 0:
        return way
    # Where no output is stated there may be none; then a total that is larger is wrong.
    if hint.input_only or (rest < _FIRST_EXCESS and output_name not in node.fields):
        if rest:
            node.doubt("total_tokens")
        rest = 0
    return way._replace(output=rest)


def _main(node: ReportObject, names: tuple[str, str]) -> tuple[int | None, str]:
    """Read a main number that stands under one of two names, or under both."""
    said = [(node.number(name), name) for name in names if name in node.fields]
    for number, name in said:
        if number is None:
            node.doubt(name)
    numbers = [each for each in said if each[0] is not None]
    chosen = next((each for each in numbers if each[0]), (numbers or said or [(None, names[0])])[0])
    for number, name in numbers:
        if number != chosen[0]:
            node.doubt(name)
    return chosen if said else (None, names[1 if _is_newer(node) else 0])


def _is_newer(node: ReportObject) -> bool:
    return any(name in node.fields for name in ("input_tokens", "output_tokens"))


def _stands_apart(node: ReportObject, details: ReportObject) -> bool:
    """Return whether cached tokens look as if they stood beside the input: Anthropic's way."""
    of_anthropic = any(node.fields.get(name) is not None for name in _OF_ANTHROPIC)
    return of_anthropic and "prompt_tokens" not in node.fields and not details.fields


def _way_of_both(  # noqa: PLR0917 (one caller)
    node: ReportObject, told: _Told, into: int, made: int, total: int | None, hint: Hint
) -> _Way:
    """Take the way that keeps the total; where none does, the total is doubted."""
    usual = (told.apart, hint.beside and bool(told.reasoning))
    for apart, beside in (
        usual,
        (usual[0], not usual[1]),
        (not usual[0], usual[1]),
        (not usual[0], not usual[1]),
    ):
        fits = (apart or told.cached <= into) and (beside or told.reasoning <= made)
        extra = told.cached * apart + told.reasoning * beside
        if fits and total == into + made + extra:
            return _Way(into, made, apart, beside, told.reasoning)
    # Gemini behind OpenAI's form: its thought is in the total alone, yet billed.
    hidden = (total or 0) - into - made - told.cached * told.apart
    if hidden >= (1 if hint.hidden else _FIRST_EXCESS) and not told.says_reasoning:
        return _Way(into, made, told.apart, beside=True, reasoning=hidden)
    if total is not None and total != into + made:
        node.doubt("total_tokens")
    # By the names alone: more cached tokens than input may stand under Anthropic's.
    apart = usual[0] or (told.cached > into and bool(node.fields.get(_OF_ANTHROPIC[0])))
    return _Way(into, made, apart, usual[1], told.reasoning)


def _cache(node: ReportObject, details: ReportObject, into: int | None) -> Parts:
    """Read what was read from a cache and written to one, wherever that stands."""
    hit, missed = node.number("prompt_cache_hit_tokens"), node.number("prompt_cache_miss_tokens")
    sum_ = None if hit is None or missed is None else hit + missed
    right = hit if sum_ is not None and sum_ == into else None
    cached = agreed(
        (details, "cached_tokens"), *((node, name) for name in _READ_NAMES), right=right
    )
    written = agreed((details, "cache_write_tokens"), (node, "cache_creation_input_tokens"))
    by_life = node.child("cache_creation")
    hour, short = (
        by_life.count("ephemeral_1h_input_tokens"),
        by_life.count("ephemeral_5m_input_tokens"),
    )
    if not written:
        written = hour + short
        if written and node.fields.get("cache_creation_input_tokens") is not None:
            node.doubt("cache_creation_input_tokens")
    elif by_life.fields and hour + short != written:
        # What its parts leave has the usual life; parts that exceed it do not count.
        node.doubt("cache_creation")
        hour = hour if hour + short < written else 0
    read_at = _told_at((details, "cached_tokens"), *((node, name) for name in _READ_NAMES))
    written_at = _told_at((details, "cache_write_tokens"), (node, "cache_creation_input_tokens"))
    return {
        "cache_read": (cached, read_at),
        "cache_write": (written - hour, written_at),
        "cache_write_1h": (hour, (by_life, "ephemeral_1h_input_tokens")),
    }


_READ_NAMES = (
    "cached_tokens",  # Moonshot
    "prompt_cache_hit_tokens",  # DeepSeek
    "cache_read_input_tokens",  # Anthropic, Databricks, LiteLLM
)


def _told_at(*places: Place) -> Place:
    """Return the first place that says something."""
    return next((place for place in places if place[0].fields.get(place[1])), places[0])


def _media(details: ReportObject) -> Parts:
    if not details.fields:
        return {}
    return {
        f"{kind}_output": (details.count(f"{kind}_tokens"), (details, f"{kind}_tokens"))
        for kind in KINDS
    }


def _input_parts(details: ReportObject, cache: Parts) -> Parts:
    """Separate media from text, and in each what was cached, where details say so."""
    if not details.fields:
        return cache
    of_cached = details.child("cached_tokens_details")
    parts = dict(cache)
    cached, cached_at = cache["cache_read"]
    for kind in KINDS:
        field = f"{kind}_tokens"
        number, kept = details.count(field), of_cached.count(field)
        if kept > min(number, cached):
            of_cached.doubt(field)
            kept = 0
        cached -= kept
        parts[f"{kind}_input"] = (number - kept, (details, field))
        parts[f"{kind}_cache_read"] = (kept, (of_cached, field))
    return parts | {"cache_read": (cached, cached_at)}


def _pieces(node: ReportObject) -> dict[str, int]:
    """Count what is billed by the piece: searches of Anthropic, Perplexity and xAI."""
    tools = node.child("server_side_tool_usage_details")
    searches = max(
        node.child("server_tool_use").count("web_search_requests"),
        node.count("num_search_queries"),
        node.count("num_sources_used"),
        tools.count("web_search_calls") + tools.count("x_search_calls"),
    )
    return {"searches": searches} if searches else {}


def _steps(node: ReportObject) -> tuple[Step, ...]:
    """Read the steps of an Anthropic answer. Each may be another model's, at its own prices."""
    found = []
    for step in node.items("iterations"):
        fields = {name: each for name, each in step.fields.items() if name != "iterations"}
        inner = ReportObject(fields, step.name("")[:-1], step._doubts)  # noqa: SLF001
        read = tokens(inner, FORMATS["anthropic_messages"])
        kind, model = step.fields.get("type"), step.fields.get("model")
        found.append(
            Step(
                kind if isinstance(kind, str) else "",
                model if isinstance(model, str) else "",
                usage_of(read),
            )
        )
    return tuple(found)
