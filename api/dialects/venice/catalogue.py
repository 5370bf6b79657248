"""Which models there are and what they cost: the gateway's list, priced as who asks is charged."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from api.dialects.venice import models, terms
from api.dialects.venice.errors import word
from api.exchange import Answer
from api.gateway.forward import Admission, Gateway, Work
from api.gateway.table import BY_NAME
from api.surface.credentials import KeyCaller
from api.surface.failure import Failure, Kind
from api.wiring import Services
from ledger import clock
from ledger.clock import Instant
from ledger.ids import OPERATOR_ACCOUNT, new_request_id
from ledger.pricing import STANDARD_CARD, RateCard, terms_of, unit_price

KEPT_SECONDS = 30
"""A list of models is asked for anew after so long."""
WAIT_SECONDS = 5
"""Longer a request for something else does not wait for the list."""
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
        """Give what kind of model it is; one without a price for output gives embeddings."""
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
_silent: "WeakKeyDictionary[Gateway, Instant]" = WeakKeyDictionary()
"""When no list came last."""


async def offers(services: Services, caller: KeyCaller | None) -> Sequence[Offer]:
    """Give the models that the gateway's upstream has and that have a price, by name.

    Raises:
        Failure: No upstream answers.
    """
    listed, card = await _listed(services), await _card(services, caller)
    found = [] if card is None else [_offer(each, card) for each in listed]
    return sorted((offer for offer in found if offer is not None), key=lambda offer: offer.id)


def _offer(listed: _Listed, card: RateCard) -> Offer | None:
    price = terms_of(card, listed.id)
    if price is None:
        return None
    prices = {
        name: Decimal(text)
        for name in ("input", "output", "cache_read")
        if (text := unit_price(price.prices, name)) is not None
    }
    owner = listed.owned_by or "keyledger"
    return Offer(listed.id, listed.created or 0, owner, prices, card.asset)


async def _card(services: Services, caller: KeyCaller | None) -> RateCard | None:
    """Find the card that a caller is charged by now; for who shows nothing, the standard one."""
    name = STANDARD_CARD
    if caller is not None:
        account, _ = await services.queries.account_state(caller.account_id)
        key = caller.key or (await services.queries.key_state(caller.key_id))[0]
        name = key.rate_card or account.rate_card
    book = (await services.queries.refreshed_cards()).current(name, clock.now())
    return None if book is None else book.card


async def lists(services: Services, model: str) -> bool:
    """Tell whether the gateway's upstream says that it has a model; not where it says nothing.

    Asked on the way of a request, so an upstream without a list is not asked at each.
    """
    silent_at = _silent.get(services.gateway)
    if silent_at is not None and _is_fresh(silent_at):
        return False
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            listed = await _listed(services)
    except (Failure, TimeoutError):
        _silent[services.gateway] = clock.now()
        return False
    return any(each.id == model for each in listed)


def _is_fresh(at: Instant) -> bool:
    return (clock.now() - at).total_seconds() < KEPT_SECONDS


async def _listed(services: Services) -> list[_Listed]:
    known = _known.get(services.gateway)
    if known is not None and _is_fresh(known[0]):
        return known[1]
    at = clock.now()
    # The list is everybody's, so it is asked for in the operator's name, and costs nobody.
    key_id = await services.ledger.keys.for_sessions(OPERATOR_ACCOUNT, "venice")
    reply = await services.gateway.serve(
        Admission(OPERATOR_ACCOUNT, key_id, None),
        Work(new_request_id(), BY_NAME["list_models"], own_errors=True),
        wording=lambda failure: word(failure).body,
    )
    assert isinstance(reply, Answer)
    try:
        found = _decode.decode(reply.body).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Failure(Kind.UPSTREAM_FAILED, error=error) from error
    _known[services.gateway] = (at, found)
    return found


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
