"""The most that a request comes to under a given rate card, account and key. Pure.

Worked out in the lane, by the command that holds it: only there are card, account and key known as
they are now. What the client left open is bounded here, and the upstream is told exactly that
bound.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from api.gateway.wishes import ServerTool, Wish, undated
from api.operations import SETTING_OUTPUT
from ledger.errors import ModelIsUnpriced
from ledger.fitting import Alike, Fitted, Open
from ledger.pricing import ModelPrice, PriceBook, Prices, unit_price
from ledger.requests import Reserve
from ledger.state import Account, Key
from ledger.usage import Usage

OUTPUT_DEFAULT = 16_384
"""Tokens of an answer that nobody else bounds."""
OUTPUT_LEAST = 16
"""A shorter answer is refused: nobody can use it, and OpenAI's responses take no smaller
bound."""
CONTEXT_DEFAULT = 131_072
"""Tokens of context that the upstream keeps, where the card does not know the model's window."""
USES_DEFAULT = 8
"""Uses of a server tool whose number the request leaves open."""
TOOL_TOKENS = 16_384
"""Tokens that one use of a server tool brings for the model to read."""
HEADER = "Keyledger-Output-Bound"

_WRITES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(name, re.ASCII), tokens)
    for name, tokens in (
        (r"gpt-3\.5|gpt-4-|gpt-4$|gpt-4o-2024-05-13", 4_096),
        (r"gpt-4\.1", 32_768),
        (r"gpt-oss|gpt-4|gpt-audio|gpt-[\d.]+-chat|chatgpt-", 16_384),
        (r"gpt-\d", 128_000),
        (r"o1-mini", 65_536),
        (r"o1-preview", 32_768),
        (r"o\d|codex-", 100_000),
        (r"claude-(?:2|3-[a-z])", 4_096),
        (r"claude-3-5", 8_192),
        (r"claude-opus-4-(?:0|1|2025)", 32_000),
        (r"claude-", 64_000),
        (r"gemini-(?:1|2\.0)", 8_192),
        (r"gemini-", 65_535),
        (r"deepseek-reasoner", 65_536),
        (r"deepseek-", 8_192),
    )
)
"""How many tokens models write at most, by the beginning of their names: the first match counts.
Providers refuse a bound above it. It is asked only where the rate card does not say."""


@lru_cache(maxsize=1_024)
def writes(model: str) -> int:
    """Return how many tokens a model writes at most, judged by its name."""
    name = model.lower().rpartition("/")[2]
    return next((tokens for begins, tokens in _WRITES if begins.match(name)), OUTPUT_DEFAULT)


class BoundDefaults(NamedTuple):
    """What the operator sets for requests and rate cards that leave it open."""

    output_tokens: int = 0
    """Longest answer that anybody is given, in tokens; 0: the model's own maximum."""
    context_tokens: int = CONTEXT_DEFAULT
    tool_uses: int = USES_DEFAULT


class AnswerBound(NamedTuple):
    """How long an answer may be."""

    tokens: int
    why: str
    """Who says so: ``client``, ``model``, ``operator``, ``credit`` or ``limit``."""


class WorstCase(NamedTuple):
    """What is to be held for a request, before it is made to fit credit and limits."""

    bound: AnswerBound
    usage: Usage
    elsewhere: int
    """Input tokens held for what is not in the body."""
    tools: tuple[tuple[ServerTool, int], ...]
    """The server tools that the request allows, and how often each is used at most."""
    alike: Alike
    answers: int
    """How many answers are charged, each at most as long as the bound."""


def ask(
    wish: Wish,
    model: str,
    known: ModelPrice,
    *,
    may_be_unpriced: bool,
    figures: BoundDefaults,
    most: tuple[int, ...] = (),
) -> WorstCase:
    """Work out the most that a request comes to. ``known`` is what the card says about the model.

    ``most``: the operator's bounds on an answer, for the account and the key; 0: no bound.

    Raises:
        ModelIsUnpriced: It allows a tool that has neither a bound nor a price, and the account
            refuses what has no price.
    """
    allows = wish.allows
    tools = tuple(
        (tool, _uses(tool, known.prices, figures, may_be_unpriced=may_be_unpriced))
        for tool in allows.tools
    )
    media = wish.content.media_bounds()
    said = wish.content.text_bound + sum(media.values())
    elsewhere = _reads(wish, said, known, tools, figures) - said
    runs = sum(uses for tool, uses in tools if tool.answers)
    answers = wish.answers + runs if wish.field else 0
    bound = _bound(wish, model, known, (figures.output_tokens, *most))
    units = _units(tools, known.prices, may_be_unpriced=may_be_unpriced)
    usage = Usage(
        input=wish.content.text_bound + elsewhere,
        output=bound.tokens * answers + allows.extra_output,
        **media,
        **units,
    )
    alike = _alike(allows.makes, writes_cache=allows.writes_cache)
    return WorstCase(bound, usage, elsewhere, tools, alike, answers)


def _bound(wish: Wish, model: str, known: ModelPrice, most: tuple[int, ...]) -> AnswerBound:
    if wish.most is not None:
        bound = AnswerBound(wish.most, "client")
    else:
        bound = AnswerBound(_own_maximum(wish, model, known), "model")
    for tokens in most:
        if tokens and tokens < bound.tokens:
            bound = AnswerBound(tokens, "operator")
    return bound


def _own_maximum(wish: Wish, model: str, known: ModelPrice) -> int:
    """Return the longest answer that the model gives to what is in the body."""
    most = known.max_output_tokens or writes(model)
    if wish.default:
        most = min(most, wish.default)
    if not known.context_window:
        return most
    # Question and answer share the window, and servers refuse a bound that cannot be kept. Only
    # they know how long the question is: not longer than its bytes, and not twice the estimate.
    window, content = known.context_window, wish.content
    left = max(window - content.text_bound, (window - content.estimate) // 2, OUTPUT_LEAST)
    return min(most, left)


def _reads(
    wish: Wish,
    said: int,
    known: ModelPrice,
    tools: tuple[tuple[ServerTool, int], ...],
    figures: BoundDefaults,
) -> int:
    """Return the input of all runs together: each use of a tool makes the model read all again."""
    if wish.content.is_kept:
        said = max(said, known.context_window or figures.context_tokens)
    uses = sum(uses for _, uses in tools)
    if not uses:
        return said
    more = TOOL_TOKENS * (uses * (uses + 1) // 2)
    every = (uses + 1) * said + more
    if not known.context_window:
        return every
    return min(every, (uses + 1) * max(said, known.context_window))


def _uses(
    tool: ServerTool, prices: Prices, figures: BoundDefaults, *, may_be_unpriced: bool
) -> int:
    if tool.uses is not None:
        return tool.uses
    priced = bool(tool.usage_class) and unit_price(prices, tool.usage_class) is not None
    if not priced and not may_be_unpriced:
        raise ModelIsUnpriced(
            f"The rate card has no price for {tool.name}, and the request does not bound its use."
        )
    return figures.tool_uses


def _units(
    tools: tuple[tuple[ServerTool, int], ...], prices: Prices, *, may_be_unpriced: bool
) -> dict[str, int]:
    """Count the units of tools charged by use; a tool that may be used need not have a price."""
    found: dict[str, int] = {}
    for tool, uses in tools:
        name = tool.usage_class
        if name in {"", "input"} or (not may_be_unpriced and unit_price(prices, name) is None):
            continue
        found[name] = found.get(name, 0) + uses * tool.units
    return found


@lru_cache(maxsize=16)
def _alike(makes: tuple[str, ...], *, writes_cache: bool) -> Alike:
    """Return the classes that the same tokens may be charged as."""
    written = ("cache_write", "cache_write_1h") if writes_cache else ()
    media = ("audio_input", "image_input", "video_input")
    return {
        "input": ("cache_read", *written),
        **dict.fromkeys(media, ("input", "cache_read", *written)),
        "output": ("reasoning", *makes),
    }


class Asking:
    """One request's hold: worked out in the lane, then told to upstream and client."""

    __slots__ = ("_asked", "_figures", "_name", "_reserve", "_wish")

    def __init__(
        self, wish: Wish, reserve: Reserve, figures: BoundDefaults, *, upstream_model: str = ""
    ) -> None:
        """Take what the request wishes for. ``reserve`` lacks what only the lane knows.

        ``upstream_model``: the upstream's name for it; empty: the name it is booked under.
        """
        self._name = upstream_model or reserve.model
        self._wish = wish
        self._figures = figures
        self._reserve = reserve
        self._asked: WorstCase

    def in_lane(
        self, book: PriceBook | None, account: Account, key: Key
    ) -> tuple[Reserve, Open | None]:
        """Return what to hold, and how far the answer may be shortened so that it fits.

        Raises:
            ModelIsUnpriced: As ``ask``.
        """
        wish, reserve = self._wish, self._reserve
        models = (reserve.model, *wish.allows.models)
        terms = [_terms(book, model) for model in models]
        asked = self._asked = ask(
            wish,
            self._name,
            terms[0],
            may_be_unpriced=account.unpriced != "refuse",
            figures=self._figures,
            most=(account.max_output_tokens, _key_tokens(key)),
        )
        named = (reserve.condition,) if reserve.condition else wish.allows.conditions
        condition, others = _conditions(named, terms)
        held = msgspec.structs.replace(
            reserve,
            usage=asked.usage,
            choices=wish.allows.models,
            condition=condition,
            conditions=others,
            alike=asked.alike,
        )
        if wish.most is not None or not wish.field:
            return held, None
        return held, Open(asked.bound.tokens, OUTPUT_LEAST, asked.answers)

    def told(self, fitted: Fitted[Any] | None) -> "Told":
        """Return what was held in the end, to tell the upstream and the client."""
        asked, wish = self._asked, self._wish
        bound = asked.bound
        if fitted is not None and fitted.why:
            bound = AnswerBound(fitted.tokens, fitted.why)
        wish.content.elsewhere = asked.elsewhere
        output = bound.tokens * asked.answers + wish.allows.extra_output if wish.field else 0
        return Told(wish._replace(output=output), bound, asked.tools)


class Told(NamedTuple):
    """A request as it was held."""

    wish: Wish
    bound: AnswerBound
    tools: tuple[tuple[ServerTool, int], ...]

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the header by which a reply shows a bound that is not the client's."""
        if not self.wish.field or self.bound.why == "client":
            return {}
        return {HEADER: f"{self.bound.tokens}; reason={self.bound.why}"}

    def elsewise(self) -> "Told":
        """Return the same with the bound in the other field that chats have."""
        field = _OTHER[self.wish.field]
        return self._replace(wish=self.wish._replace(field=field))

    def refused_by(self, status: int, field: str) -> bool:
        """Return whether an upstream refuses the field that we chose for the bound."""
        mine = self.wish.most is None and self.wish.field in _OTHER
        return mine and status == _BAD_REQUEST and field == self.wish.field

    def document(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body with those of the held bounds that the client did not set."""
        changed: dict[str, Any] = {}
        if self.wish.field and self.bound.why != "client":
            changed[self.wish.field] = self.bound.tokens
            # Where the client gave both, neither may say more.
            for field in ("max_tokens", "max_completion_tokens"):
                if document.get(field) is not None:
                    changed[field] = self.bound.tokens
        opened = {tool.name: uses for tool, uses in self.tools if tool.uses is None}
        if opened and self.wish.field == "max_output_tokens":
            changed["max_tool_calls"] = max(opened.values())
        elif opened:
            changed["tools"] = [_bounded(each, opened) for each in document.get("tools") or ()]
        return {**document, **changed} if changed else document


_BAD_REQUEST = 400
_OTHER = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

_COUNTED = frozenset({"web_search", "web_fetch", "advisor"})
"""Anthropic's tools that take ``max_uses``."""


def _bounded(tool: Any, opened: Mapping[str, int]) -> Any:  # noqa: ANN401 - a part of a body
    name = undated(str(tool.get("type"))) if isinstance(tool, dict) else ""
    if name not in _COUNTED or tool["type"] == name or tool.get("max_uses") is not None:
        return tool
    return {**tool, "max_uses": opened[name]}


def _conditions(named: tuple[str, ...], terms: list[ModelPrice]) -> tuple[str, tuple[str, ...]]:
    """Return the condition that is asked for, and others that may come to hold."""
    if len(named) == 1:
        # The operator's name for it: where the card lacks it, the request is unpriced.
        return named[0], ()
    asked = next(name for name in named if not name or name in terms[0].conditions)
    others = {
        name: None
        for name in named
        if name != asked and (not name or any(name in each.conditions for each in terms))
    }
    return asked, tuple(others)


_UNKNOWN = ModelPrice(prices={})


def _terms(book: PriceBook | None, model: str) -> ModelPrice:
    terms = None if book is None else book.terms(model)
    return terms if isinstance(terms, ModelPrice) else _UNKNOWN


def _key_tokens(key: Key) -> int:
    text = key.settings.get(SETTING_OUTPUT, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
