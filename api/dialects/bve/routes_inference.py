"""bve's routes for clients: OpenAI's API through the gateway."""

from collections.abc import Callable
from typing import Any

import msgspec

from api.dialects.bve import credentials
from api.dialects.bve.errors import StreamingIsUnsupported
from api.dialects.forwarding import document_of, forward
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.handlers import Answering, Handler, Reply, hot
from api.http.reading import UNREADABLE
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.state import Key

_models = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


@hot("GET", "/v1/models", takes=None, guards=[credentials.usable_key], refusals=(404, 502, 504))
async def list_models(ask: Ask[KeyCaller]) -> Reply:
    """List the models that the key may use."""
    reply = await forward(ask, "list_models", decorate=None, own_errors=True)
    key = _key(ask.caller)
    if key.allowed_models is not None and isinstance(reply, Answer):
        reply.body = _only(key, reply.body)
    return reply


def _only(key: Key, body: bytes) -> bytes:
    """Leave out the models that a key may not use.

    Raises:
        Failure: It is no list of models.
    """
    try:
        listed = _models.decode(body)
        models = msgspec.convert(listed["data"], list[dict[str, Any]])
    except (*UNREADABLE, KeyError) as error:
        raise Failure(Kind.UPSTREAM_FAILED, error=error) from error
    listed["data"] = [model for model in models if key.may_use(model.get("id", ""))]
    return _encode(listed)


@hot(
    "GET",
    "/v1/models/{model:str}",
    takes=None,
    guards=[credentials.usable_key],
    refusals=(404, 502, 504),
)
async def get_model(ask: Ask[KeyCaller]) -> Reply:
    """Show a model that the key may use."""
    if not _key(ask.caller).may_use(ask.path("model")):
        raise Failure(Kind.MODEL_IS_UNKNOWN, "The model does not exist", field="model")
    return await forward(ask, "get_model", decorate=None, own_errors=True)


def _key(caller: KeyCaller) -> Key:
    assert caller.key is not None
    return caller.key


def _posted(
    path: str, example: dict[str, Any], *, streams: bool = True
) -> Callable[[Answering], Handler]:
    """Serve a route of OpenAI's API that takes a JSON object."""
    return hot(
        "POST",
        path,
        guards=[credentials.key],
        large=True,
        refusals=(404, 502, 504),
        other_types=("text/event-stream",) if streams else (),
        example=example,
    )


_CHAT = {"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]}


@_posted("/v1/chat/completions", _CHAT)
async def create_chat_completion(ask: Ask[KeyCaller]) -> Reply:
    """Complete a chat, streamed or not."""
    return await forward(ask, "chat", own_errors=True)


@_posted("/v1/completions", {"model": "keyledger-small", "prompt": "Hello"}, streams=False)
async def create_completion(ask: Ask[KeyCaller]) -> Reply:
    """Complete a text; it is not streamed."""
    document = await document_of(ask)
    if document.get("stream"):
        raise StreamingIsUnsupported
    return await forward(ask, "completions", document=document, own_errors=True)


@_posted("/v1/embeddings", {"model": "keyledger-embedding", "input": "Hello"}, streams=False)
async def create_embedding(ask: Ask[KeyCaller]) -> Reply:
    """Turn texts into vectors."""
    return await forward(ask, "embeddings", own_errors=True)


@_posted("/v1/responses", {"model": "keyledger-small", "input": "Hello"})
async def create_response(ask: Ask[KeyCaller]) -> Reply:
    """Create a response, streamed or not."""
    return await forward(ask, "responses", own_errors=True)


HANDLERS = (
    list_models,
    get_model,
    create_chat_completion,
    create_completion,
    create_embedding,
    create_response,
)
