"""venice's routes about models. Anybody may ask; a key sees what its privacy lets it use."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from api.dialects.venice import catalogue, credentials, models, views
from api.dialects.venice.catalogue import Offer
from api.dialects.venice.errors import MODEL_NOT_FOUND
from api.http.exchange import Answer
from api.http.failure import Failure, Kind, invalid
from api.http.routing import Ask, Routes
from api.identity.credentials import KeyCaller

ALL = "all"
TYPES = (
    *("asr", "embedding", "image", "music", "text", "tts", "upscale", "inpaint", "video"),
    *(ALL, "code"),
)
MAY_LOOK = "get_rate_card"
"""Whose login may see models and their prices: who natively may."""

routes = Routes()


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models with their prices per million."""

    object: Literal["list"] = "list"
    type: str
    data: list[dict[str, Any]]


class ModelNames(msgspec.Struct, frozen=True, kw_only=True):
    """What else a model goes by, and its name."""

    object: Literal["list"] = "list"
    type: str
    data: dict[str, str]


@routes(
    "GET",
    "/api/v1/models",
    who=credentials.perhaps,
    permission=MAY_LOOK,
    answer=ModelList,
    query=("type",),
)
async def list_models(ask: Ask[None, KeyCaller | None]) -> Answer:
    """List the models that can be asked, with prices per million."""
    kind = _type(ask, ALL)
    data = [catalogue.view(offer) for offer in await _offers(ask, kind)]
    return views.answer(ModelList(type=kind, data=data))


@routes(
    "GET",
    "/api/v1/models/traits",
    who=credentials.perhaps,
    permission=MAY_LOOK,
    answer=ModelNames,
    query=("type",),
)
async def list_model_traits(ask: Ask[None, KeyCaller | None]) -> Answer:
    """List which model stands for which trait, such as the default."""
    kind = _type(ask, "text")
    known = [offer.id for offer in await _offers(ask, kind) if offer.id in models.KNOWN]
    data = {trait: name for name in known for trait in models.KNOWN[name].traits}
    return views.answer(ModelNames(type=kind, data=data))


@routes(
    "GET",
    "/api/v1/models/compatibility_mapping",
    who=credentials.perhaps,
    permission=MAY_LOOK,
    answer=ModelNames,
    query=("type",),
)
async def list_model_compatibility(ask: Ask[None, KeyCaller | None]) -> Answer:
    """List which model stands in for which model of others."""
    kind = _type(ask, "text")
    known = [offer.id for offer in await _offers(ask, kind) if offer.id in models.KNOWN]
    data = {alias: name for name in known for alias in models.KNOWN[name].aliases}
    return views.answer(ModelNames(type=kind, data=data))


@routes(
    "GET",
    "/api/v1/models/{model}",
    who=credentials.perhaps,
    permission=MAY_LOOK,
    answer=dict[str, Any],
    refusals=(404,),
)
async def get_model(ask: Ask[None, KeyCaller | None]) -> Answer:
    """Show one model."""
    ask.query()
    name = ask.path("model")
    for offer in await _offers(ask, ALL):
        if offer.id == name:
            return views.answer(catalogue.view(offer))
    raise Failure(Kind.MODEL_IS_UNKNOWN, f"{MODEL_NOT_FOUND}: {name}")


def _type(ask: Ask[None, KeyCaller | None], default: str) -> str:
    kind = ask.query("type").get("type", default)
    if kind not in TYPES:
        raise invalid("type", "must be one of " + ", ".join(TYPES))
    return kind


async def _offers(ask: Ask[None, KeyCaller | None], kind: str) -> Sequence[Offer]:
    key = None if ask.caller is None else ask.caller.key
    return [
        offer
        for offer in await catalogue.offers(ask.services, ask.caller)
        if kind in {ALL, offer.type} and (key is None or key.may_use(offer.id))
    ]
