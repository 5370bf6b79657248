"""What every new database has: the operator's account and the first rate cards.

Each is made once, and left alone where it exists; the operator publishes further versions.
"""

import contextlib

import msgspec

from api.dialects.registry import DIALECTS
from api.gateway import sample
from api.operations import Asked
from api.services import Services
from ledger import clock
from ledger import events as e
from ledger.clock import Instant
from ledger.errors import AccountIsOpen
from ledger.ids import OPERATOR_ACCOUNT
from ledger.pricing import STANDARD_CARD, RateCard
from ledger.ratecards import draft_of

PROVIDERS = (
    *("openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "cohere", "groq"),
    *("together", "perplexity", "moonshotai"),
)
"""Providers whose prices the first rate card has, as far as genai-prices knows them."""


async def furnish(services: Services) -> None:
    """Make what every database has."""
    await open_operator(services)
    await price_dialects(services)
    if not services.cards.versions(STANDARD_CARD):
        # Usage from before the first start may be reported later, and needs a price.
        draft = draft_of(_standard(services.clock.now()), start=clock.EARLIEST)
        await services.ledger.prices.publish(Asked("system"), draft, first=True)


async def open_operator(services: Services) -> None:
    """Open the operator's account; do nothing if it is open."""
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
    """Publish the rate cards of the dialects that price their keys by their own."""
    for dialect in DIALECTS.values():
        if dialect.card is not None:
            draft = draft_of(dialect.card, start=dialect.card.effective_from)
            await services.ledger.prices.publish(Asked("system"), draft, first=True)


def _standard(at: Instant) -> RateCard:
    # Imported here, because a worker never needs the 60 MB that the package's tables take.
    from ledger.price_sources import from_genai_prices  # noqa: PLC0415

    card = from_genai_prices(at=at, name=STANDARD_CARD, provider_ids=_known_providers()).card
    return msgspec.structs.replace(card, models={**card.models, **sample.PRICES})


def _known_providers() -> list[str]:
    from genai_prices import data_snapshot  # noqa: PLC0415

    known = {provider.id for provider in data_snapshot._bundled_snapshot().providers}  # noqa: SLF001
    return [provider for provider in PROVIDERS if provider in known]
