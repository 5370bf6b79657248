"""Rate cards: publish, import, withdraw, show, compare."""

from collections.abc import Sequence

from msgspec import UnsetType

from api.http.exchange import Answer
from api.http.failure import invalid
from api.native import bodies, views
from api.native.routing import Ask, done_answer, found_answer, route
from api.operations import Publication
from ledger import pricing
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField
from ledger.pricing import InvalidRateCard, RateCard
from ledger.ratecards import Draft, Version, draft_of, propose

VERSION_MAX = 2**31 - 1


@route(
    "POST",
    "/rate-cards",
    body=bodies.RateCardBody,
    large=True,
    answer=views.PublicationView,
    status=201,
    example={
        "name": "standard",
        "asset": "USD",
        "models": {"house-1": {"prices": {"input": "0.15", "output": "0.6"}}},
    },
    refusals=(409, 422),
)
async def publish_rate_card(ask: Ask[bodies.RateCardBody]) -> Answer:
    """Publish a version of a rate card; prices are per million units.

    It is a patch of the version in force at its start: models that it does not name stay.
    """
    body = ask.body
    draft = Draft(
        name=body.name,
        asset=body.asset,
        effective_from=bodies.instant_of("effective_from", body.effective_from),
        models=body.models,
        aliases=body.aliases,
        patterns=body.patterns,
        source=body.source,
        replace=body.replace,
    )
    return await _publish(ask, draft)


async def _publish(ask: Ask[bodies.RateCardBody] | Ask[bodies.ImportBody], draft: Draft) -> Answer:
    at, users = ask.services.clock.now(), 0
    try:
        proposal = propose(await ask.services.queries.prices.cards(), draft, at=at)
        users = await ask.services.queries.prices.accounts_losing(proposal, at)
    except InvalidField:
        # A repeat of what was published may not be published again, and is to be answered.
        if ask.body.dry_run:
            raise
    else:
        if ask.body.dry_run:
            ask.services.ledger.prices.require_known(proposal.card)
            return found_answer(views.publication_view(None, proposal, users))
    done = await ask.services.ledger.prices.publish(
        ask.asked(_published), draft, confirm=ask.body.confirm, users=users
    )
    return done_answer(done, status=201)


def _published(
    made: Publication, _recorded: Sequence[Recorded], _at: Instant
) -> views.PublicationView:
    return views.publication_view(*made)


@route(
    "POST",
    "/rate-cards/import",
    body=bodies.ImportBody,
    large=True,
    answer=views.PublicationView,
    status=201,
    example={"source": "genai-prices", "name": "standard", "providers": ["openai"]},
    refusals=(409, 422),
)
async def import_rate_card(ask: Ask[bodies.ImportBody]) -> Answer:
    """Publish a price table of others as a version; what fits no card exactly is left out."""
    # Imported here, because the package's tables take memory that few workers ever need.
    from ledger import price_sources  # noqa: PLC0415

    body = ask.body
    start = bodies.instant_of("effective_from", body.effective_from)
    at = start or ask.services.clock.now()
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
    return await _publish(ask, draft_of(imported.card, start=start, replace=body.replace))


@route(
    "POST",
    "/rate-cards/{name}/versions/{version}/withdraw",
    answer=views.RateCardView,
    refusals=(404, 409),
)
async def withdraw_rate_card(ask: Ask[None]) -> Answer:
    """Withdraw a version that is not in force yet."""
    version = ask.whole("version", ask.call.path("version"), most=VERSION_MAX)
    asked, name = ask.asked(_withdrawn), ask.call.path("name")
    return done_answer(await ask.services.ledger.prices.withdraw(asked, name, version))


def _withdrawn(version: Version, _recorded: Sequence[Recorded], _at: Instant) -> views.RateCardView:
    return views.rate_card_view(version)


@route("GET", "/rate-cards", answer=views.Page, refusals=())
async def list_rate_cards(ask: Ask[None]) -> Answer:
    """List every version of every rate card."""
    cards = await ask.services.queries.prices.cards()
    versions = [version for name in cards.names() for version in cards.history(name)]
    data = [views.rate_card_view(version) for version in versions]
    return found_answer(views.Page(data=data, has_more=False, next=None))


@route("GET", "/rate-cards/{name}", answer=RateCard, query=("as_of", "known_at"))
async def get_rate_card(ask: Ask[None]) -> Answer:
    """Show the version in force now or at ``as_of``, with its prices; ``known_at``: as known then.

    A request is charged by what this shows for its service instant, as known when it was recorded.
    """
    query = ask.call.require_only("as_of", "known_at")
    at = bodies.instant_of("as_of", query.get("as_of")) or ask.services.clock.now()
    known_at = bodies.instant_of("known_at", query.get("known_at"))
    card = await ask.services.queries.prices.in_force(ask.call.path("name"), at, known_at)
    return found_answer(card, None, card.version)


@route("GET", "/rate-cards/{name}/versions/{version}", answer=RateCard)
async def get_rate_card_version(ask: Ask[None]) -> Answer:
    """Show one version with its prices."""
    version = ask.whole("version", ask.call.path("version"), most=VERSION_MAX)
    card = await ask.services.queries.prices.version(ask.call.path("name"), version)
    return found_answer(card, None, card.version)


@route("GET", "/rate-cards/{name}/diff", answer=list[views.PriceChangeView], query=("from", "to"))
async def diff_rate_cards(ask: Ask[None]) -> Answer:
    """List the prices that two versions do not share."""
    query = ask.call.require_only("from", "to")
    for field in ("from", "to"):
        if field not in query:
            raise invalid(field, "is required: a version")
    name, prices = ask.call.path("name"), ask.services.queries.prices
    old = await prices.version(name, ask.whole("from", query["from"], most=VERSION_MAX))
    new = await prices.version(name, ask.whole("to", query["to"], most=VERSION_MAX))
    changes = pricing.diff(old, new)
    return found_answer([views.price_change_view(change) for change in changes])
