"""The table of what providers report: what an upstream said, and what of it is charged.

A row is what was really seen in public reports of others, or a sibling of it. ``said`` is a whole
reply, or a list of a stream's events. Usage is given by class; ANY stands for an estimate whose
figure depends on the request.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

ANY = -1
"""Some tokens: more than none."""
ASKED = "m"
"""The model that is asked for."""


class Row(NamedTuple):
    """One report."""

    name: str
    route: str
    said: Any
    usage: dict[str, int]
    doubts: tuple[str, ...] = ()
    estimated: bool = False
    condition: str | None = None
    served: str = ASKED
    others: Mapping[str, dict[str, int]] = MappingProxyType({})
    fails: bool = False
    """Whether it is a failure: the caller gets 502, and nothing is charged."""
    natively: bool = True
    """Whether the native API reads the same in it, where the reply is whole."""
    interrupted: bool = False
    media_type: str = ""

    @property
    def is_stream(self) -> bool:
        """Return whether it came in events."""
        return isinstance(self.said, list)

    @property
    def body(self) -> str:
        """Return a whole reply as text."""
        return self.said if isinstance(self.said, str) else json.dumps(self.said)

    @property
    def events(self) -> list[str]:
        """Return the events as they are written, without the blank line."""
        return [each if isinstance(each, str) else written(each) for each in self.said]


def written(event: dict[str, Any]) -> str:
    """Write an event as its provider does: with its name where it has one."""
    head = f"event: {event['type']}\n" if "type" in event else ""
    return f"{head}data: {json.dumps(event)}"


DONE = "data: [DONE]"


def chat(usage: Any = None, text: Any = "one two three", **more: Any) -> dict[str, Any]:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": text} | more.pop("message", {})
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "model": ASKED, "choices": choices}
    return reply | ({} if usage is None else {"usage": usage}) | more


def piece(text: str = " a", **more: Any) -> dict[str, Any]:
    """Return an event with a piece of a chat completion."""
    return delta(content=text, **more)


def delta(**said: Any) -> dict[str, Any]:
    """Return an event with a delta of a chat completion."""
    more = {name: said.pop(name) for name in ("usage", "x_groq", "service_tier") if name in said}
    choices = [{"index": 0, "delta": said, "finish_reason": None}]
    return {"id": "chatcmpl-1", "model": ASKED, "choices": choices, **more}


def last(usage: Any, **more: Any) -> dict[str, Any]:
    """Return the event that tells usage alone."""
    return {"id": "chatcmpl-1", "model": ASKED, "choices": [], "usage": usage, **more}


def openai(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    """Return a report in OpenAI's words for chat."""
    if total is None and isinstance(prompt, int) and isinstance(completion, int):
        total = prompt + completion
    sums = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return sums | more


def named(into: Any, output: Any, **more: Any) -> dict[str, Any]:
    """Return a report in the words of Responses and of Anthropic."""
    return {"input_tokens": into, "output_tokens": output, **more}


def response(usage: Any, text: str = "one two", *items: Any, **more: Any) -> dict[str, Any]:
    """Return a whole response."""
    said = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    reply = {"id": "resp_1", "object": "response", "status": "completed", "model": ASKED}
    return reply | {"error": None, "output": [*items, said], "usage": usage} | more


def output(text: str = " a") -> dict[str, Any]:
    """Return an event with a piece of a response."""
    return {"type": "response.output_text.delta", "delta": text}


def ended(usage: Any, kind: str = "completed", **more: Any) -> dict[str, Any]:
    """Return the event that ends a response."""
    return {"type": f"response.{kind}", "response": response(usage) | {"status": kind} | more}


def message(usage: Any, *content: Any, **more: Any) -> dict[str, Any]:
    """Return a whole message of Anthropic's."""
    said = list(content) or [{"type": "text", "text": "one two"}]
    return {
        "id": "msg_1",
        "type": "message",
        "model": ASKED,
        "content": said,
        "usage": usage,
    } | more


def start(usage: Any) -> dict[str, Any]:
    """Return the event that begins a message."""
    begun = {"id": "msg_1", "type": "message", "model": ASKED, "content": [], "usage": usage}
    return {"type": "message_start", "message": begun}


def words(text: str = " a") -> dict[str, Any]:
    """Return an event with a piece of a message."""
    told = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": 0, "delta": told}


def stop(usage: Any) -> list[dict[str, Any]]:
    """Return the events that end a message."""
    told = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    return [told, {"type": "message_stop"}]


def vectors(usage: Any) -> dict[str, Any]:
    """Return a whole answer with embeddings."""
    data = [{"object": "embedding", "index": 0, "embedding": [1, 2]}]
    return {"object": "list", "data": data, "model": ASKED, "usage": usage}


def written_text(usage: Any, text: str = "one two") -> dict[str, Any]:
    """Return a whole legacy completion."""
    choices = [{"index": 0, "text": text, "finish_reason": "stop"}]
    return {"id": "cmpl-1", "object": "text_completion", "model": ASKED, "choices": choices} | (
        {} if usage is None else {"usage": usage}
    )


def text_piece(text: str = " a") -> dict[str, Any]:
    """Return an event with a piece of a legacy completion."""
    return {"id": "cmpl-1", "model": ASKED, "choices": [{"index": 0, "text": text}]}


CACHED_60 = {"prompt_tokens_details": {"cached_tokens": 60}}
THOUGHT_9 = {"completion_tokens_details": {"reasoning_tokens": 9}}
SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}
OPENED = SEARCH | {"action": {"type": "open_page"}}
CALL = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": ""}}
ERROR = {"error": {"message": "overloaded", "type": "server_error"}}
SPLIT_OF_NOTHING = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
LONG = "word " * 200

WHOLE = [
    Row("as OpenAI says", "chat", chat(openai(10, 5)), {"input": 10, "output": 5}),
    Row(
        "cached and thought inside",
        "chat",
        chat(openai(100, 20, **CACHED_60, **THOUGHT_9)),
        {"input": 40, "cache_read": 60, "output": 11, "reasoning": 9},
    ),
    Row(
        "more cached than read",
        "chat",
        chat(openai(10, 5, **CACHED_60)),
        {"input": 10, "output": 5},
        ("prompt_tokens_details.cached_tokens",),
    ),
    Row(
        "cached beside the input, as the total says",
        "chat",
        chat(openai(10, 5, 75, **CACHED_60)),
        {"input": 10, "cache_read": 60, "output": 5},
    ),
    Row(
        "cached under Anthropic's name beside OpenAI's input",
        "chat",
        chat({"prompt_tokens": 10, "completion_tokens": 5, "cache_read_input_tokens": 60}),
        {"input": 10, "cache_read": 60, "output": 5},
    ),
    Row(
        "a total that is one too large",
        "chat",
        chat(openai(10, 5, 16)),
        {"input": 10, "output": 5},
        ("total_tokens",),
    ),
    Row(
        "a total that is one too small",
        "chat",
        chat(openai(10, 5, 14)),
        {"input": 10, "output": 5},
        ("total_tokens",),
    ),
    Row(
        "a total of nothing",
        "chat",
        chat(openai(10, 5, 0)),
        {"input": 10, "output": 5},
        ("total_tokens",),
    ),
    Row(
        "no total",
        "chat",
        chat({"prompt_tokens": 10, "completion_tokens": 5}),
        {"input": 10, "output": 5},
    ),
    Row(
        "more thought than output",
        "chat",
        chat(openai(10, 5, **THOUGHT_9)),
        {"input": 10, "output": 5},
        ("completion_tokens_details.reasoning_tokens",),
    ),
    Row(
        "thought beside the output, as xAI says",
        "chat",
        chat(openai(10, 5, 24, **THOUGHT_9)),
        {"input": 10, "output": 5, "reasoning": 9},
    ),
    Row(
        "thought in the total only, as Gemini says",
        "chat",
        chat(openai(66, 6, 100)),
        {"input": 66, "output": 6, "reasoning": 28},
    ),
    Row(
        "a total beyond details that know of no thought",
        "chat",
        chat(openai(66, 6, 100, completion_tokens_details={"reasoning_tokens": 0})),
        {"input": 66, "output": 6},
        ("total_tokens",),
    ),
    Row(
        "no number for the output, which the total tells",
        "chat",
        chat(openai(10, None, 15)),
        {"input": 10, "output": 5},
        ("completion_tokens",),
    ),
    Row(
        "no number for the input, which the total tells",
        "chat",
        chat(openai(None, 5, 15)),
        {"input": 10, "output": 5},
        ("prompt_tokens",),
    ),
    Row(
        "no number for the output, and none that tells it",
        "chat",
        chat({"prompt_tokens": 10, "completion_tokens": None}),
        {"input": 10, "output": 3},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "whole numbers as floats",
        "chat",
        chat(openai(512.0, 5.0, 517.0)),
        {"input": 512, "output": 5},
    ),
    Row(
        "half a token",
        "chat",
        chat(openai(10, 2.5, 13)),
        {"input": 10, "output": 3},
        ("completion_tokens",),
    ),
    Row(
        "a negative number",
        "chat",
        chat(openai(-1, 5, 4)),
        {"input": ANY, "output": 5},
        ("prompt_tokens",),
        estimated=True,
    ),
    Row(
        "numbers as text",
        "chat",
        chat({"prompt_tokens": 10, "completion_tokens": "5", "total_tokens": 15}),
        {"input": 10, "output": 5},
        ("completion_tokens",),
    ),
    Row(
        "a number beyond all that was asked for",
        "chat",
        chat(openai(10, 10**9)),
        {"input": 10, "output": 3},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "one number in two places",
        "chat",
        chat(openai(100, 5, cached_tokens=60, prompt_tokens_details={"cached_tokens": 40})),
        {"input": 60, "cache_read": 40, "output": 5},
        ("cached_tokens",),
    ),
    Row(
        "two places, and the rest tells which is right",
        "chat",
        chat(
            openai(
                100,
                5,
                prompt_cache_hit_tokens=60,
                prompt_cache_miss_tokens=40,
                prompt_tokens_details={"cached_tokens": 40},
            )
        ),
        {"input": 40, "cache_read": 60, "output": 5},
        ("prompt_tokens_details.cached_tokens",),
    ),
    Row(
        "a zero beside a number",
        "chat",
        chat(openai(100, 5, cached_tokens=60, prompt_tokens_details={"cached_tokens": 0})),
        {"input": 40, "cache_read": 60, "output": 5},
        ("prompt_tokens_details.cached_tokens",),
    ),
    Row(
        "details that are no object",
        "chat",
        chat(openai(10, 5, prompt_tokens_details=7)),
        {"input": 10, "output": 5},
        ("prompt_tokens_details",),
    ),
    Row(
        "names of Responses on chat",
        "chat",
        chat(named(10, 5, total_tokens=15)),
        {"input": 10, "output": 5},
    ),
    Row(
        "names of Anthropic on chat",
        "chat",
        chat(named(10, 5, cache_read_input_tokens=60)),
        {"input": 10, "cache_read": 60, "output": 5},
    ),
    Row(
        "names of Gemini on chat",
        "chat",
        chat(
            None,
            usageMetadata={
                "promptTokenCount": 10,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 9,
                "totalTokenCount": 24,
            },
        ),
        {"input": 10, "output": 5, "reasoning": 9},
    ),
    Row(
        "usage in the choice",
        "chat",
        chat(choices=[{"index": 0, "message": {"content": "one"}, "usage": openai(10, 5)}]),
        {"input": 10, "output": 5},
    ),
    Row(
        "usage in x_groq", "chat", chat(x_groq={"usage": openai(10, 5)}), {"input": 10, "output": 5}
    ),
    Row(
        "white space before the colon",
        "chat",
        json.dumps(chat(openai(10, 5)), separators=(" , ", " : ")),
        {"input": 10, "output": 5},
    ),
    Row(
        "no usage", "chat", chat(text="one two three"), {"input": ANY, "output": 3}, estimated=True
    ),
    Row(
        "no usage, and thought alone",
        "chat",
        chat(text=None, message={"reasoning": "one two three"}),
        {"input": ANY, "output": 3},
        estimated=True,
    ),
    Row(
        "thought under two names",
        "chat",
        chat(text=None, message={"reasoning": "one", "reasoning_content": "one"}),
        {"input": ANY, "output": 1},
        estimated=True,
    ),
    Row(
        "nothing said and nothing told",
        "chat",
        chat(openai(0, 0, 0), text=""),
        {},
        natively=True,
    ),
    Row(
        "input told, nothing said",
        "chat",
        chat(openai(10, 0), text=""),
        {"input": 10},
    ),
    Row(
        "zeros, and an answer",
        "chat",
        chat(openai(0, 0, 0), text=LONG),
        {"input": ANY, "output": ANY},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "far fewer tokens than the answer has",
        "chat",
        chat(openai(10, 3), text=LONG),
        {"input": 10, "output": ANY},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "no output, and a call",
        "chat",
        chat(openai(10, 0), text=None, message={"tool_calls": [CALL]}),
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "no output, and sound",
        "chat",
        chat(openai(10, 0), text=None, message={"audio": {"id": "a", "data": "UklGRg=="}}),
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "a tier above the usual",
        "chat",
        chat(openai(10, 5), service_tier="priority"),
        {"input": 10, "output": 5},
        condition="priority",
    ),
    Row(
        "the usual tier",
        "chat",
        chat(openai(10, 5), service_tier="default"),
        {"input": 10, "output": 5},
        condition="",
    ),
    Row(
        "another model",
        "chat",
        chat(openai(10, 5), model="m-2026-01-01"),
        {"input": 10, "output": 5},
        served="m-2026-01-01",
    ),
    Row(
        "sources that xAI searched",
        "chat",
        chat(openai(10, 5, num_sources_used=3)),
        {"input": 10, "output": 5, "searches": 3},
    ),
    Row(
        "numbers that JSON does not have",
        "chat",
        json.dumps(chat(openai(10, 5), logprobs={"top": float("-inf")})),
        {"input": 10, "output": 5},
        natively=False,
    ),
    Row(
        "a total beyond all numbers",
        "chat",
        json.dumps(chat(openai(10, 5, 15))).replace(": 15", ": 1e999"),
        {"input": 10, "output": 5},
        natively=False,
    ),
    Row(
        "a byte order mark",
        "chat",
        "\ufeff" + json.dumps(chat(openai(10, 5))),
        {"input": 10, "output": 5},
        natively=False,
    ),
    Row(
        "usage in the message of the choice",
        "chat",
        chat(choices=[{"index": 0, "message": {"content": "one", "usage": openai(10, 5)}}]),
        {"input": 10, "output": 5},
    ),
    Row("usage that is the reply", "chat", chat(**openai(10, 5)), {"input": 10, "output": 5}),
    Row(
        "zeros in one place, numbers in another",
        "chat",
        chat(openai(0, 0), x_groq={"usage": openai(10, 5)}),
        {"input": 10, "output": 5},
    ),
    Row(
        "no output, and thought told in details alone",
        "chat",
        chat(openai(10, 0), text=None, message={"reasoning_details": [{"text": "one two"}]}),
        {"input": 10, "output": 2},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "no output, and a picture",
        "chat",
        chat(openai(10, 0), text=None, message={"images": [{"image_url": {"url": "data:"}}]}),
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "no output, and code that was run",
        "responses",
        response(named(10, 0), "", {"type": "code_interpreter_call", "code": "print"}),
        {"input": 10, "output": 1},
        ("output_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "no output, and a call without any text",
        "responses",
        response(named(10, 0), "", {"type": "local_shell_call", "action": {"command": ["ls"]}}),
        {"input": 10, "output": 1},
        ("output_tokens",),
        estimated=True,
        natively=False,
    ),
    Row(
        "a long text that a search found",
        "responses",
        response(
            named(10, 5), "one", {"type": "file_search_call", "results": [{"text": LONG * 9}]}
        ),
        {"input": 10, "output": 5},
    ),
    Row(
        "a long text that a tool brought",
        "messages",
        message(
            named(10, 5),
            {"type": "mcp_tool_result", "content": [{"type": "text", "text": LONG * 9}]},
            {"type": "text", "text": "one"},
        ),
        {"input": 10, "output": 5},
    ),
    Row(
        "no output, and thought that nobody may read",
        "messages",
        message(named(10, 0), {"type": "redacted_thinking", "data": "abc"}),
        {"input": 10, "output": 1},
        ("output_tokens",),
        estimated=True,
        natively=False,
    ),
    Row("an error in words alone", "chat", {"detail": "no such route"}, {}, fails=True),
    Row("an error with a message beside", "chat", ERROR | {"message": "busy"}, {}, fails=True),
    Row("an object that is an error", "chat", {"object": "error", "code": 1}, {}, fails=True),
    Row("no success", "chat", {"success": False, "errors": []}, {}, fails=True),
    Row("an object without a member", "chat", "{}", {}, fails=True),
    Row("nothing as JSON", "chat", "null", {}, fails=True),
    Row("a page under another type", "chat", "<!DOCTYPE html><p>Busy", {}, fails=True),
    Row(
        "an error in the choice",
        "chat",
        chat(
            openai(10, 0),
            choices=[
                {"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}
            ],
        ),
        {},
        fails=True,
    ),
    Row(
        "an error beside an answer",
        "chat",
        chat(openai(10, 3), **ERROR),
        {"input": 10, "output": 3},
    ),
    Row("an error under 200", "chat", ERROR, {}, fails=True),
    Row("an error beside nulls", "chat", ERROR | {"choices": None, "usage": None}, {}, fails=True),
    Row("an empty body", "chat", " ", {}, fails=True),
    Row(
        "a page", "chat", "<html>Busy</html>", {}, fails=True, media_type="Text/HTML; charset=utf-8"
    ),
    Row(
        "media type in capitals",
        "chat",
        chat(openai(10, 5)),
        {"input": 10, "output": 5},
        media_type="APPLICATION/JSON",
    ),
    Row(
        "as Responses say",
        "responses",
        response(named(10, 5, total_tokens=15)),
        {"input": 10, "output": 5},
    ),
    Row(
        "names of chat on responses",
        "responses",
        response(openai(10, 5)),
        {"input": 10, "output": 5},
    ),
    Row(
        "searches among the items",
        "responses",
        response(named(10, 5), "one", SEARCH, OPENED, SEARCH),
        {"input": 10, "output": 5, "searches": 2},
    ),
    Row(
        "searches that xAI counts",
        "responses",
        response(
            named(
                10, 5, server_side_tool_usage_details={"web_search_calls": 2, "x_search_calls": 1}
            )
        ),
        {"input": 10, "output": 5, "searches": 3},
    ),
    Row(
        "a response that failed",
        "responses",
        response(None, **ERROR, status="failed"),
        {},
        fails=True,
    ),
    Row(
        "a response cut short",
        "responses",
        response(named(10, 5), status="incomplete"),
        {"input": 10, "output": 5},
    ),
    Row(
        "as Anthropic says",
        "messages",
        message(
            named(
                10,
                9,
                cache_read_input_tokens=20,
                cache_creation_input_tokens=70,
                service_tier="standard",
                output_tokens_details={"thinking_tokens": 4},
            )
        ),
        {"input": 10, "cache_read": 20, "cache_write": 70, "output": 5, "reasoning": 4},
        condition="",
    ),
    Row(
        "writes split into nothing",
        "messages",
        message(named(10, 5, cache_creation_input_tokens=70, cache_creation=SPLIT_OF_NOTHING)),
        {"input": 10, "cache_write": 70, "output": 5},
        ("cache_creation",),
    ),
    Row(
        "writes told by their split only",
        "messages",
        message(
            named(
                10,
                5,
                cache_creation_input_tokens=0,
                cache_creation={"ephemeral_1h_input_tokens": 40},
            )
        ),
        {"input": 10, "cache_write_1h": 40, "output": 5},
        ("cache_creation_input_tokens",),
    ),
    Row(
        "an advisor of another model",
        "messages",
        message(
            named(
                5,
                8,
                iterations=[
                    {"type": "message", **named(5, 8)},
                    {"type": "advisor_message", "model": "claude-opus", **named(100, 80)},
                ],
            )
        ),
        {"input": 5, "output": 8},
        others={"claude-opus": {"input": 100, "output": 80}},
    ),
    Row(
        "a step by another model inside the totals",
        "messages",
        message(
            named(
                15,
                10,
                iterations=[
                    {"type": "message", "model": ASKED, **named(5, 8)},
                    {"type": "message", "model": "claude-opus", **named(10, 2)},
                ],
            )
        ),
        {"input": 5, "output": 8},
        others={"claude-opus": {"input": 10, "output": 2}},
    ),
    Row(
        "a compaction that no total holds",
        "messages",
        message(named(5, 8, iterations=[{"type": "compaction", **named(100, 80)}])),
        {"input": 105, "output": 88},
    ),
    Row(
        "fast, in a region, with searches",
        "messages",
        message(
            named(
                10, 5, speed="fast", inference_geo="us", server_tool_use={"web_search_requests": 2}
            )
        ),
        {"input": 10, "output": 5, "searches": 2},
        condition="fast_us",
    ),
    Row("a message that is an error", "messages", ERROR | {"type": "error"}, {}, fails=True),
    Row(
        "a whole completion", "completions", written_text(openai(10, 5)), {"input": 10, "output": 5}
    ),
    Row(
        "a completion without usage",
        "completions",
        written_text(None),
        {"input": ANY, "output": 2},
        estimated=True,
    ),
    Row(
        "as embeddings say",
        "embeddings",
        vectors({"prompt_tokens": 8, "total_tokens": 8}),
        {"input": 8},
    ),
    Row("embeddings with an output of nothing", "embeddings", vectors(openai(8, 0)), {"input": 8}),
    Row(
        "embeddings with a total only",
        "embeddings",
        vectors({"total_tokens": 8}),
        {"input": 8},
        natively=False,
    ),
    Row(
        "embeddings whose total is wrong",
        "embeddings",
        vectors({"prompt_tokens": 8, "total_tokens": 12}),
        {"input": 8},
        ("total_tokens",),
        natively=False,
    ),
    Row("embeddings without usage", "embeddings", vectors(None), {"input": ANY}, estimated=True),
]

STREAMED = [
    Row(
        "usage at the end",
        "chat",
        [piece(), piece(), last(openai(10, 2)), DONE],
        {"input": 10, "output": 2},
    ),
    Row(
        "zeros at the end",
        "chat",
        [piece(usage=openai(10, 1)), piece(usage=openai(10, 2)), last(openai(0, 0, 0)), DONE],
        {"input": 10, "output": 2},
    ),
    Row(
        "a null at the end",
        "chat",
        [piece(), piece(usage=openai(10, 2)), last(None), DONE],
        {"input": 10, "output": 2},
    ),
    Row(
        "growing reports are not added up",
        "chat",
        [piece(usage=openai(10, n)) for n in (1, 2, 3)] + [last(openai(10, 3)), DONE],
        {"input": 10, "output": 3},
    ),
    Row(
        "the last report knows more",
        "chat",
        [piece(usage=openai(100, 1)), last(openai(100, 20, **CACHED_60, **THOUGHT_9)), DONE],
        {"input": 40, "cache_read": 60, "output": 11, "reasoning": 9},
    ),
    Row(
        "a later report forgets what was cached",
        "chat",
        [piece(usage=openai(100, 1, **CACHED_60)), last(openai(100, 1)), DONE],
        {"input": 40, "cache_read": 60, "output": 1},
    ),
    Row(
        "a later report tells less",
        "chat",
        [*[piece()] * 8, last(openai(10, 8)), last(openai(10, 3)), DONE],
        {"input": 10, "output": 8},
        ("completion_tokens",),
    ),
    Row(
        "input announced, output never told",
        "chat",
        [last(openai(10, 0)), *[piece()] * 3, DONE],
        {"input": 10, "output": 3},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "usage before the last pieces",
        "chat",
        [piece(), last(openai(10, 1)), *[piece()] * 3, DONE],
        {"input": 10, "output": 4},
        estimated=True,
    ),
    Row(
        "far fewer tokens than pieces",
        "chat",
        [*[piece()] * 9, last(openai(10, 2)), DONE],
        {"input": 10, "output": 9},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "no output, and a call in a stream",
        "chat",
        [delta(tool_calls=[CALL]), last(openai(10, 0)), DONE],
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "usage in x_groq of the last event",
        "chat",
        [piece(), piece(x_groq={"id": "r", "usage": openai(10, 2)}), DONE],
        {"input": 10, "output": 2},
    ),
    Row(
        "usage in the choice of the last event",
        "chat",
        [
            piece(),
            {
                "id": "c",
                "model": ASKED,
                "choices": [{"index": 0, "delta": {}, "usage": openai(10, 2)}],
            },
            DONE,
        ],
        {"input": 10, "output": 2},
    ),
    Row(
        "white space before the colon in a stream",
        "chat",
        [
            "data: " + json.dumps(each, separators=(" , ", " : "))
            for each in (piece(), last(openai(10, 1)))
        ]
        + [DONE],
        {"input": 10, "output": 1},
    ),
    Row(
        "no usage in a stream",
        "chat",
        [*[piece()] * 3, DONE],
        {"input": ANY, "output": 3},
        estimated=True,
    ),
    Row(
        "escaped Chinese in long pieces",
        "chat",
        [piece("\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5"), DONE],
        {"input": ANY, "output": 6},
        estimated=True,
    ),
    Row(
        "Chinese as it is in long pieces",
        "chat",
        [
            "data: "
            + json.dumps(piece("\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5"), ensure_ascii=False),
            DONE,
        ],
        {"input": ANY, "output": 6},
        estimated=True,
    ),
    Row(
        "thought under two names in a stream",
        "chat",
        [delta(reasoning=" a", reasoning_content=" a"), DONE],
        {"input": ANY, "output": 1},
        estimated=True,
    ),
    Row(
        "a number gone wrong among the others",
        "chat",
        [
            piece(usage=openai(10, 1)),
            piece(usage=openai(10**11, 10**11)),
            last(openai(10, 7)),
            DONE,
        ],
        {"input": 10, "output": 7},
        ("prompt_tokens", "completion_tokens"),
    ),
    Row(
        "zeros in one place of an event, numbers in another",
        "chat",
        [piece(), last(openai(0, 0), x_groq={"usage": openai(10, 2)}), DONE],
        {"input": 10, "output": 2},
    ),
    Row(
        "usage in the delta",
        "chat",
        [
            piece(),
            {
                "model": ASKED,
                "choices": [{"index": 0, "delta": {"content": " a", "usage": openai(10, 2)}}],
            },
            DONE,
        ],
        {"input": 10, "output": 2},
    ),
    Row(
        "thought told in details alone in a stream",
        "chat",
        [
            delta(reasoning_details=[{"type": "reasoning.text", "text": "a"}]),
            last(openai(9, 0)),
            DONE,
        ],
        {"input": 9, "output": 1},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "a picture in a stream",
        "chat",
        [delta(images=[{"image_url": {"url": "data:"}}]), last(openai(10, 0)), DONE],
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
    ),
    Row(
        "what a tool of the client's is told in free words",
        "chat",
        [delta(tool_calls=[{"index": 0, "custom": {"input": "a"}}]), last(openai(10, 0)), DONE],
        {"input": 10, "output": 1},
        ("completion_tokens",),
        estimated=True,
    ),
    Row("an end, and nothing before it", "chat", [": wait", DONE], {}, fails=True),
    Row("a role, and the end of the stream", "chat", [delta(role="assistant")], {}, fails=True),
    Row("an error in words alone in a stream", "chat", [{"detail": "busy"}], {}, fails=True),
    Row(
        "an error beside the choice before all else",
        "chat",
        [ERROR | {"choices": [{"index": 0, "delta": {"content": ""}}]}, DONE],
        {},
        fails=True,
    ),
    Row(
        "an error in the choice after pieces",
        "chat",
        [
            *[piece()] * 3,
            {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]},
            DONE,
        ],
        {"input": ANY, "output": 3},
        estimated=True,
        interrupted=True,
    ),
    Row(
        "sound under its later name",
        "responses",
        [{"type": "response.output_audio.delta", "delta": "UklG" * 100}, ended(named(10, 0))],
        {"input": 10, "output": 1},
        ("output_tokens",),
        estimated=True,
    ),
    Row(
        "an answer that comes whole in the event that ends it",
        "responses",
        [{"type": "response.created", "response": {"id": "r"}}, ended(named(10, 0))],
        {"input": 10, "output": 1},
        ("output_tokens",),
        estimated=True,
    ),
    Row(
        "a message that begins and ends there",
        "messages",
        [start(named(10, 1))],
        {},
        fails=True,
    ),
    Row(
        "writes of an hour, of which the end tells the sum",
        "messages",
        [
            start(
                named(
                    10,
                    1,
                    cache_creation_input_tokens=70,
                    cache_creation={"ephemeral_1h_input_tokens": 40},
                )
            ),
            words(),
            *stop(named(10, 2, cache_creation_input_tokens=70)),
        ],
        {"input": 10, "cache_write": 30, "cache_write_1h": 40, "output": 2},
        ("cache_creation",),
    ),
    Row(
        "what a tool brought in a stream",
        "messages",
        [
            start(named(10, 1)),
            {
                "type": "content_block_start",
                "content_block": {
                    "type": "mcp_tool_result",
                    "content": [{"type": "text", "text": LONG}],
                },
            },
            words(),
            {"type": "message_stop"},
        ],
        {"input": 10, "output": 1},
        estimated=True,
    ),
    Row(
        "pieces of chat on completions",
        "completions",
        [piece(), piece(), last(openai(10, 0)), DONE],
        {"input": 10, "output": 2},
        ("completion_tokens",),
        estimated=True,
    ),
    Row("an error before all else", "chat", [ERROR], {}, fails=True),
    Row(
        "an error after a role",
        "chat",
        [": wait", delta(role="assistant", content=""), ERROR],
        {},
        fails=True,
    ),
    Row(
        "an error after pieces",
        "chat",
        [*[piece()] * 3, ERROR],
        {"input": ANY, "output": 3},
        estimated=True,
        interrupted=True,
    ),
    Row("comments and an end", "chat", [": wait"], {}, fails=True),
    Row(
        "a stream's media type in capitals",
        "chat",
        [piece(), last(openai(10, 1)), DONE],
        {"input": 10, "output": 1},
        media_type="Text/Event-Stream",
    ),
    Row(
        "a tier in a stream",
        "chat",
        [piece(service_tier="flex"), last(openai(10, 1)), DONE],
        {"input": 10, "output": 1},
        condition="flex",
    ),
    Row(
        "a stream of responses",
        "responses",
        [output(), output(), ended(named(10, 2))],
        {"input": 10, "output": 2},
    ),
    Row(
        "a stream of responses in words of chat",
        "responses",
        [output(), output(), ended(openai(10, 2))],
        {"input": 10, "output": 2},
    ),
    Row(
        "a search in a stream",
        "responses",
        [{"type": "response.output_item.done", "item": SEARCH}, output(), ended(named(10, 1))],
        {"input": 10, "output": 1, "searches": 1},
    ),
    Row(
        "a response that fails at once",
        "responses",
        [
            {"type": "response.created", "response": {"id": "r", "error": None}},
            ended(None, "failed", **ERROR),
        ],
        {},
        fails=True,
    ),
    Row(
        "a response that fails midway",
        "responses",
        [output(), output(), ended(named(10, 2), "failed", **ERROR)],
        {"input": 10, "output": 2},
        interrupted=True,
    ),
    Row(
        "a stream of messages",
        "messages",
        [start(named(10, 1)), *[words()] * 3, *stop({"output_tokens": 3})],
        {"input": 10, "output": 3},
    ),
    Row(
        "a message that ends with all of its numbers",
        "messages",
        [
            start(named(10, 1, cache_read_input_tokens=60)),
            *[words()] * 3,
            *stop(named(10, 3, cache_read_input_tokens=60)),
        ],
        {"input": 10, "cache_read": 60, "output": 3},
    ),
    Row(
        "a message that ends without its cache",
        "messages",
        [start(named(10, 1, cache_read_input_tokens=60)), *[words()] * 3, *stop(named(10, 3))],
        {"input": 10, "cache_read": 60, "output": 3},
    ),
    Row(
        "a message that ends with an input of nothing",
        "messages",
        [start(named(10, 1)), *[words()] * 3, *stop(named(0, 3))],
        {"input": 10, "output": 3},
    ),
    Row(
        "a cursor, and no end",
        "messages",
        [start(named(10, 1)), *[words()] * 3, {"type": "message_stop"}],
        {"input": 10, "output": 3},
        estimated=True,
    ),
    Row(
        "an error before a message says anything",
        "messages",
        [start(named(10, 1)), ERROR | {"type": "error"}],
        {},
        fails=True,
    ),
    Row(
        "a stream of completions",
        "completions",
        [text_piece(), text_piece(), last(openai(10, 2)), DONE],
        {"input": 10, "output": 2},
    ),
]

ROWS = WHOLE + STREAMED
