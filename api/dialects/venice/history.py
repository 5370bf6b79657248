"""Entries of the usage history: what each event charged, one for each usage class and asset.

``sku`` is the model, what was used, and the unit: ``gpt-4o-llm-output-mtoken``. Entries of an event
add up to its charge, to the last digit. Where several assets paid, the classes are paid in order by
the parts in their order; a class that two assets paid has an entry for each.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from api.dialects.venice.views import Number
from ledger import events as e
from ledger.clock import format_milliseconds
from ledger.codec import Recorded
from ledger.lines import product_of, split
from ledger.money import PLACES, decimal_of, parse_pico
from ledger.state import parts_of
from ledger.usage import CLASSES, INPUT_TOKENS, OUTPUT_TOKENS

Currency = Literal["USD", "DIEM", "BUNDLED_CREDITS"]
CURRENCIES: Mapping[str, Currency] = {
    "USD": "USD",
    "DIEM": "DIEM",
    "BUNDLED_CREDITS": "BUNDLED_CREDITS",
}
NOTES = "API Inference"
_TOKENS = frozenset((*INPUT_TOKENS, *OUTPUT_TOKENS))

Charged = e.RequestRecorded | e.RequestSettled | e.RequestRated


class InferenceDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The request that an entry is for."""

    request_id: str
    inference_execution_time: int | None = None
    """Not measured."""
    prompt_tokens: int | None
    completion_tokens: int | None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of the usage history."""

    timestamp: str
    sku: str
    units: Number
    """Millions of tokens, else pieces."""
    price_per_unit_usd: Number
    amount: Number
    """Negative: it was charged."""
    currency: Currency
    notes: str
    inference_details: InferenceDetails | None


class _Share(NamedTuple):
    """The part of a class that an asset paid."""

    name: str
    units: Decimal
    price: Decimal
    pico: int
    asset: str


def entries_of(event: Recorded, assets: Mapping[int, str]) -> list[HistoryEntry]:
    """Return the entries of an event: none where it charged nothing."""
    body = event.body
    if not isinstance(body, Charged) or not body.charge:
        return []
    details = _details(body)
    return [
        HistoryEntry(
            timestamp=format_milliseconds(event.envelope.recorded_at),
            sku=_sku(body.model, share.name),
            units=share.units,
            price_per_unit_usd=share.price,
            amount=-decimal_of(share.pico),
            currency=CURRENCIES[share.asset],
            notes=NOTES,
            inference_details=details,
        )
        for share in _shares(body, assets)
        if share.asset in CURRENCIES
    ]


def _details(body: Charged) -> InferenceDetails:
    used = msgspec.structs.asdict(body.usage)
    return InferenceDetails(
        request_id=body.request_id,
        prompt_tokens=sum(used[name] for name in INPUT_TOKENS),
        completion_tokens=sum(used[name] for name in OUTPUT_TOKENS),
    )


def _sku(model: str, name: str) -> str:
    if name in _TOKENS:
        return f"{model}-llm-{name.replace('_', '-')}-mtoken"
    return f"{model}-{name.replace('_', '-')}-unit"


def _shares(body: Charged, assets: Mapping[int, str]) -> Iterator[_Share]:
    """Pay the classes in their order by the parts in theirs."""
    parts = iter([(assets.get(lot, body.asset), pico) for lot, pico in parts_of(body)])
    asset, left = next(parts, (body.asset, 0))
    for name, quantity, price, whole in _costs(body):
        units, cost = _units(name, quantity), whole
        while cost:
            taken = min(cost, left)
            share = units if taken == cost else _part(units, taken, cost)
            if taken:
                yield _Share(name, share, _per_unit(name, price), taken, asset)
            units, cost, left = units - share, cost - taken, left - taken
            if not left:
                asset, left = next(parts, (asset, cost))


def _costs(body: Charged) -> Sequence[tuple[str, int, int, int]]:
    """Return class, quantity, price and cost in pico.

    What other models cost inside the request is added to the last.
    """
    lines = [(name, *body.lines[name]) for name in CLASSES if name in body.lines]
    priced = [(name, units, parse_pico(price)) for name, units, price in lines if price]
    found = [line for line in priced if line[2]]
    if not found:
        return []
    weights = [units * price for _, units, price in found]
    weights[-1] += sum(product_of(other.lines) for other in body.others)
    costs = split(parse_pico(body.charge), weights)
    return [(*line, cost) for line, cost in zip(found, costs, strict=True)]


def _units(name: str, quantity: int) -> Decimal:
    return Decimal(quantity).scaleb(-6) if name in _TOKENS else Decimal(quantity)


def _per_unit(name: str, pico: int) -> Decimal:
    """Return the price of a unit as it is shown; cards price everything per million."""
    price = decimal_of(pico)
    return price if name in _TOKENS else price.scaleb(-6)


def _part(units: Decimal, taken: int, cost: int) -> Decimal:
    smallest = int(units.scaleb(PLACES))
    part, _ = split(smallest, (taken, cost - taken))
    return Decimal(part).scaleb(-PLACES)
