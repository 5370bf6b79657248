"""Grants, adjustments, balances."""

from collections.abc import Sequence
from typing import Any

from api.http.exchange import Answer
from api.native import bodies, views
from api.native.routing import Ask, done_answer, found_answer, page_answer, route
from api.operations import Asked
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchGrant
from ledger.money import Amount, InvalidAmount, parse_asset, parse_pico
from ledger.state import Account

LOT_MAX = 2**31 - 1


@route(
    "POST",
    "/accounts/{account_id}/grants",
    body=bodies.GrantBody,
    answer=views.GrantView,
    status=201,
    example={"amount": "25", "asset": "USD", "reason": "Top-up"},
    refusals=(404, 409, 422),
)
async def grant(ask: Ask[bodies.GrantBody]) -> Answer:
    """Add a lot of credit; an overdrawn balance is repaid from it first."""
    account_id, body = ask.account_id(), ask.body
    terms = e.CreditGranted(
        by=ask.caller.actor,
        lot=0,
        asset=body.asset,
        amount=body.amount,
        kind=body.kind,
        priority=body.priority,
        effective_at=bodies.instant_of("effective_at", body.effective_at),
        expires_at=bodies.instant_of("expires_at", body.expires_at),
        reason=body.reason,
        cost=body.cost,
        currency=body.currency,
        payment_reference=body.payment_reference,
    )
    done = await ask.services.ledger.credits.grant(ask.asked(_granted), account_id, terms)
    return done_answer(done, status=201)


def _granted(_account: Account, recorded: Sequence[Recorded], _at: Instant) -> views.GrantView:
    return views.grant_of_event(recorded[0])


def _asked(ask: Ask[Any]) -> Asked[Account]:
    """Ask for a change that is answered with its events and the balances after it."""
    cards = ask.services.cards

    def view(account: Account, recorded: Sequence[Recorded], at: Instant) -> dict[str, object]:
        return {
            "events": [event.body.type for event in recorded],
            "balances": views.balance_views(account, at, cards.assets()),
        }

    return ask.asked(view)


@route("GET", "/accounts/{account_id}/grants", answer=views.Page, query=("limit", "after"))
async def list_grants(ask: Ask[None]) -> Answer:
    """List an account's grants, newest first."""
    query = ask.call.require_only("limit", "after")
    before = ask.whole("after", query.get("after", str(LOT_MAX)), most=LOT_MAX)
    found = await ask.services.queries.credit.grants(
        ask.account_id(), before=before, most=ask.page_size()
    )
    return page_answer(found, views.grant_view, lambda grant: grant.lot)


@route(
    "POST",
    "/accounts/{account_id}/grants/{lot}/void",
    body=bodies.ReasonBody,
    optional_body=True,
    answer=dict[str, object],
    example={"reason": "Granted by mistake"},
    refusals=(404, 409, 422),
)
async def void_grant(ask: Ask[bodies.ReasonBody]) -> Answer:
    """Withdraw what is left of a grant."""
    account_id, text = ask.account_id(), ask.call.path("lot")
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) <= LOT_MAX:
        raise NoSuchGrant
    done = await ask.services.ledger.credits.void(
        _asked(ask), account_id, int(text), reason=ask.body.reason
    )
    return done_answer(done)


@route(
    "POST",
    "/accounts/{account_id}/adjustments",
    body=bodies.AdjustmentBody,
    answer=dict[str, object],
    status=201,
    example={"amount": "-1.50", "asset": "USD", "reason": "Refunded by card"},
    refusals=(402, 404, 409, 422),
)
async def adjust(ask: Ask[bodies.AdjustmentBody]) -> Answer:
    """Add credit, or take it away where the amount is negative; the reason is recorded."""
    account_id, body = ask.account_id(), ask.body
    try:
        amount = Amount(parse_pico(body.amount, signed=True), body.asset)
    except InvalidAmount as error:
        raise InvalidField("amount", "a plain decimal string, at most 12 places") from error
    try:
        parse_asset(body.asset)
    except InvalidAmount as error:
        raise InvalidField("asset", "2 to 24 upper-case letters, digits, underscores") from error
    done = await ask.services.ledger.credits.adjust(
        _asked(ask), account_id, amount, reason=body.reason
    )
    return done_answer(done, status=201)


@route(
    "PUT",
    "/accounts/{account_id}/allowances/{asset}",
    body=bodies.AllowanceBody,
    answer=views.AllowanceView,
    example={"amount": "10"},
    refusals=(404, 409, 422),
)
async def set_allowance(ask: Ask[bodies.AllowanceBody]) -> Answer:
    """Let an account have an amount of an asset anew each day of UTC; zero ends it."""
    account_id, asset = ask.account_id(), ask.call.path("asset")
    await ask.services.queries.accounts.one(account_id)
    found = await ask.services.allowances.set(ask.caller.actor, account_id, asset, ask.body.amount)
    return found_answer(views.AllowanceView(asset=found.asset, amount=found.amount))


@route("GET", "/accounts/{account_id}/allowances", answer=views.Page, query=())
async def list_allowances(ask: Ask[None]) -> Answer:
    """List what an account has anew each day of UTC."""
    ask.call.require_only()
    _, position = await ask.services.queries.accounts.one(ask.account_id())
    found = await ask.services.allowances.of(ask.account_id())
    data = [views.AllowanceView(asset=each.asset, amount=each.amount) for each in found]
    return found_answer(views.Page(data=data, has_more=False, next=None), position)


@route("GET", "/accounts/{account_id}/balances", answer=dict[str, list[views.BalanceView]])
async def get_balances(ask: Ask[None]) -> Answer:
    """Show what an account has of each asset."""
    services = ask.services
    account, position = await services.queries.accounts.one(ask.account_id())
    priced = (await services.queries.prices.cards()).assets()
    balances = views.balance_views(account, services.clock.now(), priced)
    return found_answer({"balances": balances}, position)
