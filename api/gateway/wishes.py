"""What a request's body asks for: model, stream or not, and the most that it allows.

Only what metering needs is read and checked; everything else is the upstream's to judge. What it
comes to under a given model and account is in ``bounds``.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from api.gateway.content import Content, objects
from api.http import reading
from api.http.failure import Failure, Kind, invalid
from ledger.usage import Usage

COMPLETION_DEFAULT = 16
"""Tokens of a legacy completion whose length is left open, as OpenAI's page says."""
OUTPUT_MAX = 10_000_000
"""Largest ``max_tokens`` accepted."""
CHOICES_MAX = 128
INPUTS_MAX = 2_048
MODEL_MAX = 255
MODELS_MAX = 16
"""Fallback models that a request may name."""
USES_MAX = 1_000
"""Largest number of uses of a server tool accepted."""

Tokens = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_MAX)] | None
Choices = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None
Object = dict[str, Any]

Document = Mapping[str, Any]


class ServerTool(NamedTuple):
    """A tool that the upstream runs by itself while it answers."""

    name: str
    usage_class: str
    """Usage class of a use; ``input``: charged only as the tokens that it brings; empty: as
    something that no rate card has a price for."""
    uses: int | None
    """Most uses that the request allows; None: it does not say."""
    units: int = 1
    """Units of the class per use."""
    answers: bool = False
    """Whether a use is a run of a model whose answer is charged in addition."""


class Allows(NamedTuple):
    """What a request allows besides one answer of its model to its own text."""

    models: tuple[str, ...] = ()
    """Other models that may answer instead."""
    conditions: tuple[str, ...] = ()
    """Price conditions under which it may be served; the first is what it asks for. Empty text: the
    usual prices."""
    tools: tuple[ServerTool, ...] = ()
    writes_cache: bool = True
    """Whether input may be charged as written to a cache."""
    makes: tuple[str, ...] = ()
    """Usage classes besides text and thought that an answer may consist of."""
    extra_output: int = 0
    """Output tokens beyond the bound on an answer: a prediction that does not come true."""


class Wish(NamedTuple):
    """What metering needs to know about a request."""

    stream: bool
    usage_asked: bool
    """Whether the client wants to see the usage of a stream."""
    content: Content
    output: int
    """Tokens that all answers may have at most; 0 where the request leaves that open, until it is
    held."""
    answers: int = 1
    """Number of answers, each under the same bound."""
    most: int | None = None
    """The client's bound on one answer, in tokens; None: it is left open."""
    default: int = 0
    """Bound that the API's page sets on an answer left open, in tokens; 0: none."""
    field: str = ""
    """Field of the body that tells the upstream how long an answer may be."""
    allows: Allows = Allows()

    @property
    def worst(self) -> Usage:
        """Return the most that the body itself bounds, without an answer that it leaves open."""
        content = self.content
        read = content.text_bound + content.elsewhere
        return Usage(input=read, output=self.output, **content.media_bounds())


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[Object] | None = None


class _Chat(msgspec.Struct):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    prediction: Object | None = None
    n: Choices = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[Object] | None = None
    functions: list[Object] | None = None
    response_format: Object | None = None


Prompt = str | list[str | int | list[int]]


class _Completion(msgspec.Struct):
    prompt: Prompt = ""
    suffix: str | None = None
    max_tokens: Tokens = None
    n: Choices = None
    best_of: Choices = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _Response(msgspec.Struct):
    input: str | list[Object] = ""
    instructions: str | list[Object] | None = None
    max_output_tokens: Tokens = None
    stream: bool | None = None
    background: bool | None = None
    tools: list[Object] | None = None
    text: Object | None = None


class _Embedding(msgspec.Struct):
    input: Prompt


class _Messages(msgspec.Struct):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: Tokens = None
    system: str | list[Object] | None = None
    stream: bool | None = None
    tools: list[Object] | None = None


Read = TypeVar("Read")


def _read(document: Document, form: type[Read]) -> Read:
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise reading.worded(error) from error


NOTES_MAX = 16
NOTE_NAME_MAX, NOTE_TEXT_MAX = 64, 512
END_USER_MAX = 255


def noted(document: Document) -> tuple[Mapping[str, str], str]:
    """Return a request's notes about itself: its metadata, and the end user it is made for.

    In the fields of OpenAI (``metadata``, ``safety_identifier``, ``user``) and Anthropic
    (``metadata.user_id``). What does not fit is not kept, and left to the upstream to judge.
    """
    metadata = document.get("metadata")
    notes = metadata if isinstance(metadata, dict) and len(metadata) <= NOTES_MAX else {}
    kept = {
        name: text
        for name, text in notes.items()
        if isinstance(text, str) and len(name) <= NOTE_NAME_MAX and len(text) <= NOTE_TEXT_MAX
    }
    named = (document.get("safety_identifier"), document.get("user"), kept.pop("user_id", ""))
    users = (each for each in named if isinstance(each, str) and len(each) <= END_USER_MAX)
    return kept, next(filter(None, users), "")


def model_of(document: Document) -> str:
    """Return the model that a request names.

    Raises:
        Failure: It names none, or the name is not valid.
    """
    model = document.get("model")
    if model is None or model == "":
        raise Failure(Kind.MODEL_IS_MISSING, field="model")
    if not isinstance(model, str) or len(model) > MODEL_MAX:
        raise invalid("model", f"must be a model's name of at most {MODEL_MAX} characters")
    return model


def of_chat(document: Document) -> Wish:
    """Read a chat completion."""
    asked = _read(document, _Chat)
    content = Content()
    content.add(document["messages"])
    for more in (asked.tools, asked.functions, asked.response_format):
        content.add_json(more)
    # Where both are given, an upstream may follow either.
    given = [most for most in (asked.max_completion_tokens, asked.max_tokens) if most is not None]
    field = "max_tokens"
    if asked.max_completion_tokens is not None or (not given and counts_thought(document)):
        field = "max_completion_tokens"
    foreseen = Content()
    foreseen.add(asked.prediction and asked.prediction.get("content"))
    allows = _allows(document, writes_cache=True)._replace(extra_output=foreseen.text_bound)
    most = max(given, default=None)
    return _wish(asked, content, field, most, asked.n or 1, allows)


def of_completion(document: Document) -> Wish:
    """Read a legacy completion: each prompt gets its own number of answers."""
    asked = _read(document, _Completion)
    prompts = _prompts("prompt", asked.prompt)
    content = Content()
    content.add(asked.prompt)
    content.add(asked.suffix)
    answers = max(asked.n or 1, asked.best_of or 1) * prompts
    allows = _allows(document, writes_cache=True)
    wish = _wish(asked, content, "max_tokens", asked.max_tokens, answers, allows)
    return wish._replace(default=COMPLETION_DEFAULT)


def of_response(document: Document) -> Wish:
    """Read a response."""
    asked = _read(document, _Response)
    if asked.background:
        raise invalid("background", "must be false: background responses cannot be metered")
    content = Content()
    for each in (asked.input, asked.instructions):
        content.add(each)
    for more in (asked.tools, asked.text):
        content.add_json(more)
    content.is_kept = content.is_kept or any(document.get(name) for name in _KEPT_BY_UPSTREAM)
    return Wish(
        bool(asked.stream),
        usage_asked=True,
        content=content,
        output=asked.max_output_tokens or 0,
        most=asked.max_output_tokens,
        field="max_output_tokens",
        allows=_allows(document, writes_cache=True),
    )


def of_embedding(document: Document) -> Wish:
    """Read a request for embeddings, which have no output tokens."""
    asked = _read(document, _Embedding)
    _prompts("input", asked.input)
    content = Content()
    content.add(asked.input)
    allows = _allows(document, writes_cache=False)
    return Wish(stream=False, usage_asked=True, content=content, output=0, allows=allows)


def of_messages(document: Document) -> Wish:
    """Read a request for Anthropic's messages, whose ``max_tokens`` is required."""
    asked = _read(document, _Messages)
    if asked.max_tokens is None:
        raise invalid("max_tokens", "is required")
    content = Content()
    for each in (asked.system, document["messages"]):
        content.add(each)
    content.add_json(asked.tools)
    content.is_kept = content.is_kept or bool(document.get("container"))
    return Wish(
        bool(asked.stream),
        usage_asked=True,
        content=content,
        output=asked.max_tokens,
        most=asked.max_tokens,
        field="max_tokens",
        allows=_allows(
            document, writes_cache=any("cache_control" in each for each in objects(document))
        ),
    )


def of_call(document: Document) -> Wish:  # noqa: ARG001 - as every reader
    """Read nothing: the call itself is what is metered."""
    return Wish(stream=False, usage_asked=True, content=Content(), output=0)


def _wish(  # noqa: PLR0917 (private, and both calls name them alike)
    asked: _Chat | _Completion,
    content: Content,
    field: str,
    most: int | None,
    answers: int,
    allows: Allows,
) -> Wish:
    options = asked.stream_options
    return Wish(
        bool(asked.stream),
        usage_asked=options is not None and bool(options.include_usage),
        content=content,
        output=(most or 0) * answers,
        answers=answers,
        most=most,
        field=field,
        allows=allows,
    )


_COUNTS_THOUGHT = re.compile(r"(?:[\w.-]+/)*(?:o\d|gpt-[5-9]|gpt-\d\d|codex-)", re.ASCII)


def counts_thought(document: Document) -> bool:
    """Return whether a chat's model is one of those by OpenAI that refuse ``max_tokens``.

    All other servers accept it, and many nothing else: Ollama 0.32, llamafile and Mistral's API
    ignore or refuse ``max_completion_tokens``.
    """
    model = document.get("model")
    return isinstance(model, str) and _thinks(model)


@lru_cache(maxsize=1_024)
def _thinks(model: str) -> bool:
    return _COUNTS_THOUGHT.match(model.lower()) is not None


_KEPT_BY_UPSTREAM = ("previous_response_id", "conversation", "prompt")
"""Members of a request for a response that refer to context the upstream has."""


def _allows(document: Document, *, writes_cache: bool) -> Allows:
    """Read what else a request allows; most allow nothing."""
    if document.keys().isdisjoint(_ALLOWING):
        return _USUAL[writes_cache]
    return Allows(
        models=tuple(_models(document)),
        conditions=_conditions(document),
        tools=tuple(_tools(document)),
        writes_cache=writes_cache,
        makes=_makes(document),
    )


_ALLOWING = frozenset(
    {
        *("models", "fallbacks", "service_tier", "speed", "inference_geo", "tools", "mcp_servers"),
        *("web_search_options", "search_parameters", "plugins", "context_management", "modalities"),
        "max_tool_calls",
    }
)
"""Members by which a request allows more than one answer to its own text."""

MODEL_LISTS = ("models", "fallbacks")
CHOOSES_MODELS = frozenset({*MODEL_LISTS, "route", "provider"})
"""Members by which a client names fallback models, as in OpenRouter and LiteLLM."""


def _models(document: Document) -> Iterator[str]:
    """List the models that may answer instead, by OpenRouter's and LiteLLM's members."""
    for field in MODEL_LISTS:
        named = document.get(field)
        if named is None:
            continue
        if not isinstance(named, list) or len(named) > MODELS_MAX:
            raise invalid(field, f"must be a list of at most {MODELS_MAX} models")
        for each in named:
            name = each.get("model") if isinstance(each, dict) else each
            if not isinstance(name, str) or not 1 <= len(name) <= MODEL_MAX:
                raise invalid(field, f"must hold models' names of at most {MODEL_MAX} characters")
            yield name
    for _, tool in _listed(document):
        # Anthropic's advisor is a second model, asked during the answer.
        if str(tool.get("type")).startswith("advisor_") and isinstance(tool.get("model"), str):
            yield tool["model"]


_TIERS: Mapping[object, tuple[str, ...]] = {
    # Left out, it means auto: whatever the operator's project at the provider is set to.
    None: ("", "priority", "flex"),
    "auto": ("", "priority", "flex"),
    "default": ("",),
    "standard": ("",),
    "standard_only": ("",),
    # When a tier is full, requests are served at the usual tier.
    "flex": ("flex", ""),
    "priority": ("priority", ""),
}


def _conditions(document: Document) -> tuple[str, ...]:
    """List the price conditions that the request may be served under, first the one it asks for."""
    tier = document.get("service_tier")
    named = tier is None or isinstance(tier, str)
    found = list(_TIERS.get(tier) or (str(tier), *_TIERS[None])) if named else list(_TIERS[None])
    for field in ("speed", "inference_geo"):
        asked = document.get(field)
        if isinstance(asked, str) and asked not in _STANDARD:
            found.insert(0, asked)
    return tuple(dict.fromkeys(found))


_STANDARD = frozenset({"", "standard", "default", "global", "auto"})
_USUAL = {each: Allows(conditions=_TIERS[None], writes_cache=each) for each in (False, True)}


_CLIENTS_OWN = frozenset(
    {
        *("", "function", "custom", "bash", "text_editor", "computer", "memory", "local_shell"),
        *("computer_use_preview", "apply_patch", "namespace"),
    }
)
"""Tools that the client runs: their results come in another request."""
_OF_UPSTREAM: Mapping[str, str] = {
    **dict.fromkeys(("web_search", "web_search_preview", "x_search", "file_search"), "searches"),
    **dict.fromkeys(("web_fetch", "mcp", "mcp_toolset", "code_execution", "advisor"), "input"),
    **dict.fromkeys(("tool_search", "tool_search_tool_regex", "tool_search_tool_bm25"), "input"),
}
"""Tools that the upstream runs, and what a use is charged as. Others have no known price."""
_DATE = re.compile(r"(?:_\d{8}|_\d{4}_\d\d_\d\d)$", re.ASCII)
RESULTS_DEFAULT = 20
"""Results that a search by xAI's ``search_parameters`` returns at most, by default."""


def _tools(document: Document) -> Iterator[ServerTool]:
    """List a request's server tools, in OpenAI's, Anthropic's, xAI's or OpenRouter's form."""
    in_all = _whole(document, "max_tool_calls", "max_tool_calls")
    for place, each in _listed(document):
        name = undated(str(each.get("type") or ""))
        if name not in _CLIENTS_OWN:
            uses = _whole(each, "max_uses", f"tools[{place}].max_uses")
            usage_class = _OF_UPSTREAM.get(name, "")
            yield ServerTool(name, usage_class, uses or in_all, answers=name == "advisor")
    if document.get("mcp_servers"):
        yield ServerTool("mcp", "input", None)
    if document.get("web_search_options") is not None:
        yield ServerTool("web_search", "searches", 1)
    search = document.get("search_parameters")
    if isinstance(search, dict) and search.get("mode") != "off":
        most = _whole(search, "max_search_results", "search_parameters.max_search_results")
        yield ServerTool("web_search", "searches", 1, units=most or RESULTS_DEFAULT)
    plugins = document.get("plugins")
    if isinstance(plugins, list) and any(_is(each, "id", "web") for each in plugins):
        yield ServerTool("web_search", "searches", 1, units=RESULTS_DEFAULT)
    if any(_is_compaction(each) for each in objects(document.get("context_management"))):
        # One more run over the same context, whose summary is charged like an answer.
        yield ServerTool("compaction", "input", 1, answers=True)


def undated(kind: str) -> str:
    """Return a tool's type without its version date."""
    return _DATE.sub("", kind)


def _listed(document: Document) -> Iterator[tuple[int, Mapping[str, Any]]]:
    tools = document.get("tools")
    if isinstance(tools, list):
        yield from ((place, each) for place, each in enumerate(tools) if isinstance(each, dict))


def _is(value: object, name: str, text: str) -> bool:
    return isinstance(value, dict) and value.get(name) == text


def _is_compaction(value: Mapping[str, Any]) -> bool:
    return str(value.get("type")).startswith("compact")


def _whole(value: Mapping[str, Any], name: str, field: str) -> int | None:
    """Read a number of uses.

    Raises:
        Failure: It is not one.
    """
    number = value.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= USES_MAX:
        raise invalid(field, f"must be a whole number, 1 to {USES_MAX}")
    return number


_MADE_OF = {"audio": "audio_output", "image": "image_output"}


def _makes(document: Document) -> tuple[str, ...]:
    named = document.get("modalities")
    if not isinstance(named, list):
        return ()
    return tuple(made for name, made in _MADE_OF.items() if name in named)


def _prompts(field: str, value: Prompt) -> int:
    """Count the prompts: a list of numbers is a single one.

    Raises:
        Failure: There are none, or too many.
    """
    if isinstance(value, str) or (value and isinstance(value[0], int)):
        return 1
    if not 1 <= len(value) <= INPUTS_MAX:
        raise invalid(field, f"must be 1 to {INPUTS_MAX} of them")
    return len(value)


_decoder = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes) -> dict[str, Any]:
    """Decode the body of a gatewayed request strictly.

    Raises:
        Failure: It is not a JSON object, has a key twice, holds NUL, or nests too deeply.
    """
    return reading.decode(_decoder, body)


Reader = Callable[[Document], Wish]
