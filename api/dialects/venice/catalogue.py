"""Which models there are and what they cost: the gateway's list, at the caller's prices."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from api.dialects.venice import models, terms
from api.dialects.venice.errors import word
from api.gateway.forward import Admission, Gateway, GatewayRequest
from api.gateway.table import BY_NAME
from api.http.answers import Answer
from api.http.failure import Failure, Kind
from api.http.reading import UNREADABLE
from api.http.streams import drain
from api.identity.credentials import KeyCaller
from api.services import Services
from ledger import clock
from ledger.clock import Instant
from ledger.ids import OPERATOR_ACCOUNT, new_request_id
from ledger.pricing import STANDARD_CARD, PriceBook, unit_price
from ledger.requests import SYSTEM

KEPT_SECONDS = 30
"""A list of models is asked for anew after so long."""
TEXT, EMBEDDING = "text", "embedding"
PAR = frozenset({*terms.USD, *terms.DIEM})
"""Assets whose prices are prices in USD and in DIEM."""
_PRICED: Mapping[str, str] = {"input": "input", "output": "output", "cache_input": "cache_read"}
"""What the page calls a price → usage class."""


class Offer(NamedTuple):
    """A model that can be asked here."""

    id: str
    created: int
    owned_by: str
    prices: Mapping[str, Decimal]
    """Usage class → price per million."""
    asset: str
    """What the prices are in."""

    @property
    def type(self) -> str:
        """Return what kind of model it is; one without a price for output gives embeddings."""
        if self.id in models.KNOWN:
            return models.KNOWN[self.id].type
        return TEXT if "output" in self.prices else EMBEDDING


class _Listed(msgspec.Struct):
    id: str
    created: Annotated[int, msgspec.Meta(ge=0)] | None = 0
    owned_by: str | None = None


class _List(msgspec.Struct):
    data: list[_Listed]


_decode = msgspec.json.Decoder(_List)
_known: "WeakKeyDictionary[Gateway, tuple[Instant, list[_Listed]]]" = WeakKeyDictionary()
_asking: "WeakKeyDictionary[Gateway, asyncio.Task[list[_Listed]]]" = WeakKeyDictionary()
"""Lists under way: whoever asks meanwhile waits for the same one."""


async def offers(services: Services, caller: KeyCaller | None) -> Sequence[Offer]:
    """Return the models that the gateway's upstream has and that have a price, by name.

    Raises:
        Failure: No upstream answers.
    """
    listed, book = await _listed(services), await _book(services, caller)
    found = [] if book is None else [_offer(each, book) for each in listed]
    return sorted((offer for offer in found if offer is not None), key=lambda offer: offer.id)


def _offer(listed: _Listed, book: PriceBook) -> Offer | None:
    price = book.terms(listed.id)
    if price is None:
        return None
    prices = {
        name: Decimal(text)
        for name in ("input", "output", "cache_read")
        if (text := unit_price(price.prices, name)) is not None
    }
    owner = listed.owned_by or "keyledger"
    return Offer(listed.id, listed.created or 0, owner, prices, book.card.asset)


async def _book(services: Services, caller: KeyCaller | None) -> PriceBook | None:
    """Find the card that a caller is charged by now; without a caller, the standard one."""
    name = STANDARD_CARD
    if caller is not None:
        account, _ = await services.queries.accounts.one(caller.account_id)
        key = caller.key or (await services.queries.keys.one(caller.key_id))[0]
        name = key.rate_card or account.rate_card
    return (await services.queries.prices.cards()).current(name, services.clock.now())


async def _listed(services: Services) -> list[_Listed]:
    gateway = services.gateway
    known = _known.get(gateway)
    if known is not None and (clock.now() - known[0]).total_seconds() < KEPT_SECONDS:
        return known[1]
    asking = _asking.get(gateway)
    if asking is None:
        asking = _asking[gateway] = asyncio.create_task(_asked(services), name="venice-models")
        asking.add_done_callback(lambda task: _note(gateway, task))
    return await asyncio.shield(asking)


def _note(gateway: Gateway, task: "asyncio.Task[list[_Listed]]") -> None:
    del _asking[gateway]
    # Everybody who waits gets the failure. It is read here too: they may all be gone.
    if not task.cancelled() and task.exception() is None:
        _known[gateway] = (clock.now(), task.result())


async def _asked(services: Services) -> list[_Listed]:
    # The list is everybody's, so it is asked for in the operator's name, and costs nobody anything.
    key_id = await services.ledger.keys.for_sessions(OPERATOR_ACCOUNT, "venice")
    reply = await services.gateway.serve(
        Admission(OPERATOR_ACCOUNT, key_id, None, SYSTEM),
        GatewayRequest(new_request_id(), BY_NAME["list_models"], own_errors=True),
        wording=lambda failure: word(failure).body,
    )
    if not isinstance(reply, Answer):
        await drain(reply)
        raise Failure(Kind.UPSTREAM_FAILED)
    try:
        return _decode.decode(reply.body).data
    except UNREADABLE as error:
        raise Failure(Kind.UPSTREAM_FAILED, error=error) from error


def view(offer: Offer) -> dict[str, Any]:
    """Show a model with its prices per million."""
    known = models.KNOWN.get(offer.id)
    spec: dict[str, Any] = {
        "name": known.name if known else offer.id,
        "pricing": _pricing(offer),
        "privacy": "private" if models.is_private(offer.id) else "anonymized",
        "traits": list(known.traits) if known else [],
        "offline": False,
    }
    shown: dict[str, Any] = {
        "id": offer.id,
        "object": "model",
        "created": offer.created,
        "owned_by": offer.owned_by,
        "type": offer.type,
        "model_spec": spec,
    }
    if known is not None and known.type == TEXT:
        spec["availableContextTokens"] = known.context
        shown["context_length"] = known.context
    return shown


def _pricing(offer: Offer) -> Mapping[str, Mapping[str, Decimal]]:
    if offer.asset not in PAR:
        # There is no rate of exchange here: nothing is said rather than something wrong.
        return {}
    return {
        name: {"usd": offer.prices[usage_class], "diem": offer.prices[usage_class]}
        for name, usage_class in _PRICED.items()
        if usage_class in offer.prices
    }
