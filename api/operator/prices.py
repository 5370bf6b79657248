"""Rate cards: publish, import, show, compare."""

from msgspec import UnsetType

from api import views
from api.exchange import Answer
from api.operations import rate_card_view
from api.operator import bodies
from api.operator.routing import Ask, done_answer, found_answer, route
from api.problems import invalid
from api.wiring import Services
from ledger import pricing
from ledger.clock import Instant
from ledger.pricing import InvalidRateCard, RateCard


@route(
    "POST",
    "/rate-cards",
    body=bodies.RateCardBody,
    answer=views.RateCardView,
    status=201,
    example={
        "name": "standard",
        "asset": "USD",
        "models": {"house-1": {"prices": {"input": "0.15", "output": "0.6"}}},
    },
    refusals=(409, 422),
)
async def publish_rate_card(ask: Ask[bodies.RateCardBody]) -> Answer:
    """Publish a version of a rate card; prices are per million units."""
    body = ask.body
    card = RateCard(
        name=body.name,
        version=1,
        asset=body.asset,
        effective_from=_effective(ask.services, body.effective_from),
        models=body.models,
        aliases=body.aliases,
        patterns=body.patterns,
        source=body.source,
    )
    done = await ask.services.ledger.prices.publish(
        ask.asked(), card, confirm_jumps=body.confirm_jumps
    )
    return done_answer(done, status=201)


def _effective(services: Services, text: str | None) -> Instant:
    return bodies.instant_of("effective_from", text) or services.clock.now()


@route(
    "POST",
    "/rate-cards/import",
    body=bodies.ImportBody,
    answer=views.RateCardView,
    status=201,
    example={"source": "genai-prices", "name": "standard", "providers": ["openai"]},
    refusals=(409, 422),
)
async def import_rate_card(ask: Ask[bodies.ImportBody]) -> Answer:
    """Publish a price table of others as a version; what fits no card exactly is left out."""
    # Imported here, because the package's tables take memory that few workers ever need.
    from ledger import price_sources  # noqa: PLC0415

    body = ask.body
    at = _effective(ask.services, body.effective_from)
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
    done = await ask.services.ledger.prices.publish(
        ask.asked(), imported.card, confirm_jumps=body.confirm_jumps
    )
    return done_answer(done, status=201)


@route("GET", "/rate-cards", answer=views.Page, refusals=())
async def list_rate_cards(ask: Ask[None]) -> Answer:
    """List every version of every rate card."""
    cards = await ask.services.queries.refreshed_cards()
    data = [rate_card_view(card) for name in cards.names() for card in cards.versions(name)]
    return found_answer(views.Page(data=data, has_more=False, next=None), None)


@route("GET", "/rate-cards/{name}", answer=RateCard, query=("as_of",))
async def get_rate_card(ask: Ask[None]) -> Answer:
    """Show the version in force now or at ``as_of``, with its prices."""
    query = ask.call.require_only("as_of")
    at = bodies.instant_of("as_of", query.get("as_of")) or ask.services.clock.now()
    card = await ask.services.queries.card_at(ask.call.path("name"), at)
    return found_answer(card, None, card.version)


@route("GET", "/rate-cards/{name}/versions/{version}", answer=RateCard)
async def get_rate_card_version(ask: Ask[None]) -> Answer:
    """Show one version with its prices."""
    version = ask.whole("version", ask.call.path("version"), most=2**31 - 1)
    card = await ask.services.queries.card(ask.call.path("name"), version)
    return found_answer(card, None, card.version)


@route("GET", "/rate-cards/{name}/diff", answer=list[views.PriceChangeView], query=("from", "to"))
async def diff_rate_cards(ask: Ask[None]) -> Answer:
    """List the prices that two versions do not share."""
    query = ask.call.require_only("from", "to")
    for field in ("from", "to"):
        if field not in query:
            raise invalid(field, "is required: a version")
    name, queries = ask.call.path("name"), ask.services.queries
    old = await queries.card(name, ask.whole("from", query["from"], most=2**31 - 1))
    new = await queries.card(name, ask.whole("to", query["to"], most=2**31 - 1))
    changes = [
        views.PriceChangeView(
            model=change.model,
            usage_class=change.usage_class,
            condition=change.condition,
            above_tokens=change.tier,
            old=change.old,
            new=change.new,
        )
        for change in pricing.diff(old, new)
    ]
    return found_answer(changes, None)
