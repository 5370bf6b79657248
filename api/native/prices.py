"""Rate cards: publish, import, withdraw, show, compare."""

from collections.abc import Sequence

from litestar.params import JSONBody
from msgspec import UnsetType

from api.http.failure import invalid
from api.http.handlers import Passed, Rendered, get, post
from api.native import bodies, views
from api.native.asking import (
    Ask,
    caller,
    done_answer,
    found_answer,
)
from api.operations import Publication
from ledger import pricing
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.pricing import InvalidRateCard, RateCard
from ledger.ratecards import CardDraft, Version, draft_of, propose

VERSION_MAX = 2**31 - 1


@post(
    "/ledger/v1/rate-cards",
    guards=[caller],
    large=True,
    status=201,
    example={
        "name": "standard",
        "asset": "USD",
        "models": {"house-1": {"prices": {"input": "0.15", "output": "0.6"}}},
    },
    refusals=(409, 422),
)
async def publish_rate_card(
    request: Ask, data: JSONBody[bodies.RateCardBody]
) -> Rendered[views.PublicationView]:
    """Publish a version of a rate card; prices are per million units.

    It patches the version in force at its start: models that it does not name stay.
    """
    body = data
    draft = CardDraft(
        name=body.name,
        asset=body.asset,
        effective_from=bodies.instant_of("effective_from", body.effective_from),
        models=body.models,
        aliases=body.aliases,
        patterns=body.patterns,
        source=body.source,
        replace=body.replace,
    )
    return await _publish(request, data, draft)


async def _publish(
    ask: Ask, body: bodies.RateCardBody | bodies.ImportBody, draft: CardDraft
) -> Passed[views.PublicationView]:
    at, users = ask.services.clock.now(), 0
    try:
        proposal = propose(await ask.services.queries.prices.cards(), draft, at=at)
        users = await ask.services.queries.prices.accounts_losing(proposal, at)
    except InvalidField:
        # A repeat of a publication is not published again, but is answered.
        if body.dry_run:
            raise
    else:
        if body.dry_run:
            ask.services.ledger.prices.require_known(proposal.card)
            return found_answer(views.publication_view(None, proposal, users))
    done = await ask.services.ledger.prices.publish(
        ask.asked(_published, body=body), draft, confirm=body.confirm, users=users
    )
    return done_answer(done, status=201)


def _published(
    made: Publication, _recorded: Sequence[Recorded], _at: Instant
) -> views.PublicationView:
    return views.publication_view(*made)


@post(
    "/ledger/v1/rate-cards/import",
    guards=[caller],
    large=True,
    status=201,
    example={"source": "genai-prices", "name": "standard", "providers": ["openai"]},
    refusals=(409, 422),
)
async def import_rate_card(
    request: Ask, data: JSONBody[bodies.ImportBody]
) -> Rendered[views.PublicationView]:
    """Publish a third party's price table as a version; what no card can express is left out."""
    # Imported here, because few workers ever need the memory that the package's tables take.
    from ledger import price_sources  # noqa: PLC0415

    body = data
    start = bodies.instant_of("effective_from", body.effective_from)
    at = start or request.services.clock.now()
    try:
        if body.source == "genai-prices":
            imported = price_sources.from_genai_prices(
                at=at, name=body.name, provider_ids=body.providers, asset=body.asset
            )
        elif body.source == "litellm":
            if isinstance(body.data, UnsetType):
                raise invalid("data", "is required for litellm")
            imported = price_sources.from_litellm(
                bytes(body.data), at=at, name=body.name, asset=body.asset
            )
        else:
            raise invalid("source", "must be one of genai-prices, litellm")
    except InvalidRateCard as error:
        raise invalid(error.field, error.message) from error
    return await _publish(request, data, draft_of(imported.card, start=start, replace=body.replace))


@post(
    "/ledger/v1/rate-cards/{name:str}/versions/{version:str}/withdraw",
    guards=[caller],
    refusals=(404, 409),
)
async def withdraw_rate_card(request: Ask) -> Rendered[views.RateCardView]:
    """Withdraw a version that is not in force yet."""
    version = request.number("version", request.path("version"), most=VERSION_MAX)
    asked, name = request.asked(_withdrawn), request.path("name")
    return done_answer(await request.services.ledger.prices.withdraw(asked, name, version))


def _withdrawn(version: Version, _recorded: Sequence[Recorded], _at: Instant) -> views.RateCardView:
    return views.rate_card_view(version)


@get(
    "/ledger/v1/rate-cards",
    guards=[caller],
)
async def list_rate_cards(request: Ask) -> Rendered[views.Page]:
    """List every version of every rate card."""
    cards = await request.services.queries.prices.cards()
    versions = [version for name in cards.names() for version in cards.history(name)]
    data = [views.rate_card_view(version) for version in versions]
    return found_answer(views.Page(data=data, has_more=False, next=None))


@get(
    "/ledger/v1/rate-cards/{name:str}",
    guards=[caller],
    query=("as_of", "known_at"),
    refusals=(404,),
)
async def get_rate_card(request: Ask) -> Rendered[RateCard]:
    """Show the version in force now or at ``as_of``, with its prices, as known at ``known_at``.

    A request is charged by what this shows for its service instant, as known when it was recorded.
    """
    query = request.parameters()
    at = bodies.instant_of("as_of", query.get("as_of")) or request.services.clock.now()
    known_at = bodies.instant_of("known_at", query.get("known_at"))
    card = await request.services.queries.prices.in_force(request.path("name"), at, known_at)
    return found_answer(card, None, card.version)


@get(
    "/ledger/v1/rate-cards/{name:str}/versions/{version:str}",
    guards=[caller],
    refusals=(404,),
)
async def get_rate_card_version(request: Ask) -> Rendered[RateCard]:
    """Show one version with its prices."""
    version = request.number("version", request.path("version"), most=VERSION_MAX)
    card = await request.services.queries.prices.version(request.path("name"), version)
    return found_answer(card, None, card.version)


@get(
    "/ledger/v1/rate-cards/{name:str}/diff",
    guards=[caller],
    query=("from", "to"),
    refusals=(404,),
)
async def diff_rate_cards(request: Ask) -> Rendered[list[views.PriceChangeView]]:
    """List the prices that differ between two versions."""
    query = request.parameters()
    for field in ("from", "to"):
        if field not in query:
            raise invalid(field, "is required: the number of a version")
    name, prices = request.path("name"), request.services.queries.prices
    old = await prices.version(name, request.number("from", query["from"], most=VERSION_MAX))
    new = await prices.version(name, request.number("to", query["to"], most=VERSION_MAX))
    changes = pricing.diff(old, new)
    return found_answer([views.price_change_view(change) for change in changes])


HANDLERS = (
    publish_rate_card,
    import_rate_card,
    withdraw_rate_card,
    list_rate_cards,
    get_rate_card,
    get_rate_card_version,
    diff_rate_cards,
)
