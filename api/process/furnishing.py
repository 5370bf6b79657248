"""What every new database has: the operator's account, and rate cards to begin with.

Each is made once and quiet where it is there; the operator publishes further versions.
"""

import contextlib
from collections.abc import Mapping

import msgspec

from api.operations import Asked
from api.services import Services
from ledger import clock
from ledger import events as e
from ledger.clock import Instant
from ledger.errors import AccountIsOpen
from ledger.ids import OPERATOR_ACCOUNT
from ledger.model_names import OTHERS
from ledger.pricing import STANDARD_CARD, ConditionPrice, ModelPrice, RateCard
from ledger.ratecards import draft_of

PROVIDERS = (
    *("openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "cohere", "groq"),
    *("together", "perplexity", "moonshotai"),
)
"""Whose prices the first rate card has, so far as genai-prices knows them."""

SAMPLE_MODELS: Mapping[str, ModelPrice] = {
    "keyledger-small": ModelPrice(prices={"input": "0.1", "cache_read": "0.05", "output": "0.4"}),
    "keyledger-large": ModelPrice(prices={"input": "2", "cache_read": "1", "output": "8"}),
    "keyledger-embedding": ModelPrice(prices={"input": "0.02"}),
}
"""What the built-in sample models cost per million tokens, in USD, and with ryvion in CAD."""

MULTIPLIERS: Mapping[str, str] = {
    "x1_0": "1000000",
    "x1_1": "1100000",
    "x1_2": "1200000",
    "x10_0": "10000000",
}
"""reverie: credits = tokens × multiplier of the character's model; price per million tokens."""


async def furnish(services: Services) -> None:
    """Make what every database has."""
    await open_operator(services)
    await price_dialects(services)
    if not services.cards.versions(STANDARD_CARD):
        # What was used before the first start may be told of later, and has to have a price.
        draft = draft_of(_standard(services.clock.now()), start=clock.EARLIEST)
        await services.ledger.prices.publish(Asked("system"), draft, first=True)


async def open_operator(services: Services) -> None:
    """Open the operator's account; quiet where it is open."""
    terms = e.AccountOpened(
        by="system",
        pays_with=("USD",),
        overdraft={"USD": "unlimited"},
        unpriced="record",
        rate_card=STANDARD_CARD,
    )
    with contextlib.suppress(AccountIsOpen):
        await services.ledger.accounts.open(
            Asked("system"), terms, name="Operator", account_id=OPERATOR_ACCOUNT, welcome=False
        )


async def price_dialects(services: Services) -> None:
    """Publish the rate cards by which a dialect's keys are priced where it has its own."""
    for card in (_reverie(), _ryvion(), _foil()):
        draft = draft_of(card, start=card.effective_from)
        await services.ledger.prices.publish(Asked("system"), draft, first=True)


def _card(name: str, asset: str, models: Mapping[str, ModelPrice]) -> RateCard:
    return RateCard(
        name=name,
        version=1,
        asset=asset,
        effective_from=clock.EARLIEST,
        models=dict(models),
        source="keyledger",
    )


def _reverie() -> RateCard:
    def per_token(price: str) -> dict[str, str]:
        return {"input": price, "output": price}

    conditions = {
        name: ConditionPrice(prices=per_token(price)) for name, price in MULTIPLIERS.items()
    }
    every = ModelPrice(prices=per_token(MULTIPLIERS["x1_0"]), conditions=conditions)
    return _card("reverie", "CREDIT", {OTHERS: every})


def _ryvion() -> RateCard:
    return _card("ryvion", "CAD", SAMPLE_MODELS)


def _foil() -> RateCard:
    """Counts, and bills nothing."""
    free = {"input": "0", "output": "0", "requests": "0"}
    return _card("foil", "USD", {OTHERS: ModelPrice(prices=free)})


def _standard(at: Instant) -> RateCard:
    # Imported here, because the package's tables take 60 MB that a worker never needs.
    from ledger.price_sources import from_genai_prices  # noqa: PLC0415

    card = from_genai_prices(at=at, name=STANDARD_CARD, provider_ids=_known_providers()).card
    return msgspec.structs.replace(card, models={**card.models, **SAMPLE_MODELS})


def _known_providers() -> list[str]:
    from genai_prices import data_snapshot  # noqa: PLC0415

    known = {provider.id for provider in data_snapshot._bundled_snapshot().providers}  # noqa: SLF001
    return [provider for provider in PROVIDERS if provider in known]
