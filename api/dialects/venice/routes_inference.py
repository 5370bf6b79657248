"""venice's routes for inference: OpenAI's API through the gateway, with characters."""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.beside.characters import NoSuchCharacter
from api.dialects.forwarding import document_of, forward
from api.dialects.venice import credentials, models
from api.dialects.venice.errors import MODEL_NOT_FOUND, NO_SUCH_CHARACTER_SLUG, rate_headers
from api.gateway import headers, wishes
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import Reply, hot
from api.identity.credentials import KeyCaller
from api.services import Ask
from ledger.errors import ModelIsUnpriced
from ledger.money import format_pico
from ledger.standing import Standing

MAY_ASK = "issue_key"
"""The operation whose roles may spend by session: they could issue a key to do it with."""
SLUG_MAX = 255


class VeniceParameters(msgspec.Struct):
    """What venice takes besides OpenAI's parameters; any others have no effect here."""

    character_slug: str | None = None


@hot(
    "POST",
    "/api/v1/chat/completions",
    guards=[credentials.key_or_session],
    permission=MAY_ASK,
    large=True,
    refusals=(402, 404, 500, 504),
    other_types=("text/event-stream",),
    example={"model": "keyledger-small", "messages": [{"role": "user", "content": "Hello"}]},
)
async def create_chat_completion(ask: Ask[KeyCaller]) -> Reply:
    """Complete a chat, streamed or not, spoken by a character if one is named."""
    document = dict(await document_of(ask))
    slug = _character_slug(document.pop("venice_parameters", None))
    if slug is not None:
        await _speak_as(ask, slug, document)
    return await _forward(ask, "chat", document)


@hot(
    "POST",
    "/api/v1/embeddings",
    guards=[credentials.key_or_session],
    permission=MAY_ASK,
    large=True,
    refusals=(402, 404, 500, 504),
    example={"model": "keyledger-embedding", "input": "Hello"},
)
async def create_embeddings(ask: Ask[KeyCaller]) -> Reply:
    """Turn texts into vectors."""
    return await _forward(ask, "embeddings", await document_of(ask))


async def _forward(ask: Ask[KeyCaller], name: str, document: Mapping[str, Any]) -> Reply:
    asked = wishes.model_of(document)
    model = asked if ask.services.settings.upstreams else models.STAND_INS.get(asked, asked)
    try:
        return await forward(
            ask,
            name,
            document=document,
            decorate=_headers,
            own_errors=True,
            model=model,
            upstream_model=model,
            category=models.category_of(model),
        )
    except ModelIsUnpriced as error:
        detail = f"{MODEL_NOT_FOUND}: {asked}"
        raise Failure(Kind.MODEL_IS_UNKNOWN, detail, error=error) from error
    except Failure as failure:
        if failure.kind not in {Kind.NOT_FOUND, Kind.MODEL_IS_UNKNOWN}:
            raise
        detail = f"{MODEL_NOT_FOUND}: {asked}"
        raise Failure(Kind.MODEL_IS_UNKNOWN, detail, error=failure) from failure


def _character_slug(parameters: object) -> str | None:
    if parameters is None:
        return None
    try:
        slug = msgspec.convert(parameters, VeniceParameters).character_slug
    except msgspec.ValidationError as error:
        raise invalid(
            "venice_parameters", "must be an object whose character_slug is a string"
        ) from error
    if slug is not None and len(slug) > SLUG_MAX:
        raise invalid("venice_parameters.character_slug", f"at most {SLUG_MAX} characters")
    return slug


async def _speak_as(ask: Ask[KeyCaller], slug: str, document: dict[str, Any]) -> None:
    """Let a character's prompt come first, and the default model answer if none is named."""
    absent = Failure(Kind.NOT_FOUND, NO_SUCH_CHARACTER_SLUG)
    if "/" in slug:
        raise absent
    try:
        character, _ = await ask.services.characters.of_model(ask.caller.account_id, slug)
    except NoSuchCharacter as error:
        raise absent from error
    if "messages" in document:
        document["messages"] = character.prompted(document["messages"])
    if document.get("model") in {None, ""}:
        document["model"] = ask.services.gateway.default_model


def _headers(standing: Standing) -> dict[str, str]:
    """Return what is left of the limits, resets in milliseconds since 1970, and the balances."""
    found = headers.ietf(standing)
    for kind in ("requests", "tokens"):
        limit = standing.tightest(kind)
        if limit is not None:
            found |= rate_headers(kind, limit.ceiling, limit.remaining, limit.resets_at)
    for asset in ("USD", "DIEM"):
        balance = format_pico(standing.balances.get(asset, 0))
        found[f"x-venice-balance-{asset.lower()}"] = balance
    return found


HANDLERS = (create_chat_completion, create_embeddings)
