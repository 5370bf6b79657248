"""Which models there are and what they cost: the gateway's list, priced by the rate card."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from api.dialects.venice import models
from api.dialects.venice.errors import word
from api.exchange import Answer
from api.gateway.forward import Admission, Gateway, Work
from api.gateway.table import BY_NAME
from api.surface.failure import Failure, Kind
from api.wiring import Services
from ledger import clock
from ledger.clock import Instant
from ledger.ids import OPERATOR_ACCOUNT, new_request_id
from ledger.pricing import STANDARD_CARD, terms_of, unit_price

KEPT_SECONDS = 30
"""A list of models is asked for anew after so long."""
TEXT, EMBEDDING = "text", "embedding"


class Offer(NamedTuple):
    """A model that can be asked here."""

    id: str
    created: int
    owned_by: str
    prices: Mapping[str, Decimal]
    """Usage class → USD per million."""

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


async def offers(services: Services) -> Sequence[Offer]:
    """Give the models that the gateway's upstream has and that have a price, by name.

    Raises:
        Failure: No upstream answers.
    """
    card = await services.queries.card_at(STANDARD_CARD, clock.now())
    found = []
    for listed in await _listed(services):
        terms = terms_of(card, listed.id)
        if terms is None:
            continue
        prices = {
            name: Decimal(text)
            for name in ("input", "output", "cache_read")
            if (text := unit_price(terms.prices, name)) is not None
        }
        owner = listed.owned_by or "keyledger"
        found.append(Offer(listed.id, listed.created or 0, owner, prices))
    return sorted(found, key=lambda offer: offer.id)


async def _listed(services: Services) -> list[_Listed]:
    at = clock.now()
    known = _known.get(services.gateway)
    if known is not None and (at - known[0]).total_seconds() < KEPT_SECONDS:
        return known[1]
    # The list is everybody's, so it is asked for in the operator's name, and costs nobody.
    key_id = await services.ledger.session_key(OPERATOR_ACCOUNT, "venice")
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
    pricing = {
        name: {"usd": price, "diem": price}
        for name, price in (
            ("input", offer.prices.get("input")),
            ("output", offer.prices.get("output")),
            ("cache_input", offer.prices.get("cache_read")),
        )
        if price is not None
    }
    spec: dict[str, Any] = {
        "name": known.name if known else offer.id,
        "pricing": pricing,
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
