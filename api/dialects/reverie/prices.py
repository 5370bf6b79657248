"""What reverie's tokens cost: credits = tokens × the multiplier of the character's model."""

from decimal import Decimal

from api.beside.characters import MULTIPLIERS, condition_of
from api.dialects.dialect import opening_card
from ledger.model_names import OTHERS
from ledger.pricing import ConditionPrice, ModelPrice

PER = 1_000_000
"""Tokens that a price is for."""


def _per_token(multiplier: str) -> dict[str, str]:
    price = str(int(Decimal(multiplier) * PER))
    return {"input": price, "output": price}


_CONDITIONS = {condition_of(each): ConditionPrice(prices=_per_token(each)) for each in MULTIPLIERS}

CARD = opening_card(
    "reverie",
    "CREDIT",
    {OTHERS: ModelPrice(prices=_per_token(MULTIPLIERS[0]), conditions=_CONDITIONS)},
)
