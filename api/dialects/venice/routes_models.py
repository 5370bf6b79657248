"""venice's routes about models. Anybody may ask; a key sees what its privacy lets it use."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from api.dialects.venice import catalogue, credentials, models
from api.dialects.venice.catalogue import Offer
from api.dialects.venice.errors import MODEL_NOT_FOUND
from api.http.failure import Failure, Kind, invalid
from api.http.handlers import get
from api.identity.credentials import KeyCaller
from api.services import Ask

ALL = "all"
TYPES = (
    *("asr", "embedding", "image", "music", "text", "tts", "upscale", "inpaint", "video"),
    *(ALL, "code"),
)
MAY_LOOK = "get_rate_card"
"""The operation whose roles may see models and prices by session, as in the native API."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models with their prices per million."""

    object: Literal["list"] = "list"
    type: str
    data: list[dict[str, Any]]


class ModelNames(msgspec.Struct, frozen=True, kw_only=True):
    """Other names and traits → the model that they mean."""

    object: Literal["list"] = "list"
    type: str
    data: dict[str, str]


@get("/api/v1/models", guards=[credentials.anyone], permission=MAY_LOOK, query=("type",))
async def list_models(request: Ask[KeyCaller | None]) -> ModelList:
    """List the models that can be asked, with prices per million."""
    kind = _type(request, ALL)
    data = [catalogue.view(offer) for offer in await _offers(request, kind)]
    return ModelList(type=kind, data=data)


@get("/api/v1/models/traits", guards=[credentials.anyone], permission=MAY_LOOK, query=("type",))
async def list_model_traits(request: Ask[KeyCaller | None]) -> ModelNames:
    """List which model stands for which trait, such as the default."""
    kind = _type(request, "text")
    known = [offer.id for offer in await _offers(request, kind) if offer.id in models.KNOWN]
    data = {trait: name for name in known for trait in models.KNOWN[name].traits}
    return ModelNames(type=kind, data=data)


@get(
    "/api/v1/models/compatibility_mapping",
    guards=[credentials.anyone],
    permission=MAY_LOOK,
    query=("type",),
)
async def list_model_compatibility(request: Ask[KeyCaller | None]) -> ModelNames:
    """List which model stands in for which model of others."""
    kind = _type(request, "text")
    known = [offer.id for offer in await _offers(request, kind) if offer.id in models.KNOWN]
    data = {alias: name for name in known for alias in models.KNOWN[name].aliases}
    return ModelNames(type=kind, data=data)


@get(
    "/api/v1/models/{model:str}", guards=[credentials.anyone], permission=MAY_LOOK, refusals=(404,)
)
async def get_model(request: Ask[KeyCaller | None]) -> dict[str, Any]:
    """Show one model."""
    request.parameters()
    name = request.path("model")
    for offer in await _offers(request, ALL):
        if offer.id == name:
            return catalogue.view(offer)
    raise Failure(Kind.MODEL_IS_UNKNOWN, f"{MODEL_NOT_FOUND}: {name}")


def _type(ask: Ask[KeyCaller | None], default: str) -> str:
    kind = ask.parameters().get("type", default)
    if kind not in TYPES:
        raise invalid("type", "must be one of " + ", ".join(TYPES))
    return kind


async def _offers(ask: Ask[KeyCaller | None], kind: str) -> Sequence[Offer]:
    key = None if ask.caller is None else ask.caller.key
    return [
        offer
        for offer in await catalogue.offers(ask.services, ask.caller)
        if kind in {ALL, offer.type} and (key is None or key.may_use(offer.id))
    ]


HANDLERS = (
    list_models,
    list_model_traits,
    list_model_compatibility,
    get_model,
)
