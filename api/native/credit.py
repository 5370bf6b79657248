"""Grants, adjustments, balances."""

from collections.abc import Sequence

from litestar.params import JSONBody

from api.http.handlers import Rendered, get, post, put
from api.native import bodies, views
from api.native.asking import (
    Ask,
    caller,
    done_answer,
    found_answer,
    page_answer,
)
from api.operations import Asked
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.errors import InvalidField, NoSuchGrant
from ledger.money import Amount, InvalidAmount, parse_asset, parse_pico
from ledger.state import Account

LOT_MAX = 2**31 - 1


@post(
    "/ledger/v1/accounts/{account_id:str}/grants",
    guards=[caller],
    status=201,
    example={"amount": "25", "asset": "USD", "reason": "Top-up"},
    refusals=(404, 409, 422),
)
async def grant(request: Ask, data: JSONBody[bodies.GrantBody]) -> Rendered[views.GrantView]:
    """Add a lot of credit; an overdrawn balance is repaid from it first."""
    account_id, body = request.account_id(), data
    terms = e.CreditGranted(
        by=request.caller.actor,
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
    done = await request.services.ledger.credits.grant(
        request.asked(_granted, body=data), account_id, terms
    )
    return done_answer(done, status=201)


def _granted(_account: Account, recorded: Sequence[Recorded], _at: Instant) -> views.GrantView:
    return views.grant_of_event(recorded[0])


def _asked(ask: Ask) -> Asked[Account]:
    """Ask for a change whose answer holds its events and the balances after it."""
    cards = ask.services.cards

    def view(account: Account, recorded: Sequence[Recorded], at: Instant) -> dict[str, object]:
        return {
            "events": [event.body.type for event in recorded],
            "balances": views.balance_views(account, at, cards.assets()),
        }

    return ask.asked(view)


@get(
    "/ledger/v1/accounts/{account_id:str}/grants",
    guards=[caller],
    query=("limit", "after"),
    refusals=(404,),
)
async def list_grants(request: Ask) -> Rendered[views.Page]:
    """List an account's grants, newest first."""
    query = request.parameters()
    before = request.number("after", query.get("after", str(LOT_MAX)), most=LOT_MAX)
    found = await request.services.queries.credit.grants(
        request.account_id(), before=before, most=request.page_size()
    )
    return page_answer(found, views.grant_view, lambda grant: grant.lot)


@post(
    "/ledger/v1/accounts/{account_id:str}/grants/{lot:str}/void",
    guards=[caller],
    example={"reason": "Granted by mistake"},
    refusals=(404, 409, 422),
)
async def void_grant(
    request: Ask, data: JSONBody[bodies.ReasonBody | None] = None
) -> Rendered[dict[str, object]]:
    """Withdraw what is left of a grant."""
    data = data or bodies.ReasonBody()
    account_id, text = request.account_id(), request.path("lot")
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) <= LOT_MAX:
        raise NoSuchGrant
    done = await request.services.ledger.credits.void(
        _asked(request), account_id, int(text), reason=data.reason
    )
    return done_answer(done)


@post(
    "/ledger/v1/accounts/{account_id:str}/adjustments",
    guards=[caller],
    status=201,
    example={"amount": "-1.50", "asset": "USD", "reason": "Refunded by card"},
    refusals=(402, 404, 409, 422),
)
async def adjust(
    request: Ask, data: JSONBody[bodies.AdjustmentBody]
) -> Rendered[dict[str, object]]:
    """Add credit, or take it away if the amount is negative; the reason is recorded."""
    account_id, body = request.account_id(), data
    try:
        amount = Amount(parse_pico(body.amount, signed=True), body.asset)
    except InvalidAmount as error:
        raise InvalidField("amount", "must be a plain decimal with at most 12 places") from error
    try:
        parse_asset(body.asset)
    except InvalidAmount as error:
        raise InvalidField("asset", "must have 2 to 24 upper-case letters, digits, _") from error
    done = await request.services.ledger.credits.adjust(
        _asked(request), account_id, amount, reason=body.reason
    )
    return done_answer(done, status=201)


@put(
    "/ledger/v1/accounts/{account_id:str}/allowances/{asset:str}",
    guards=[caller],
    example={"amount": "10"},
    refusals=(404, 409, 422),
)
async def set_allowance(
    request: Ask, data: JSONBody[bodies.AllowanceBody]
) -> Rendered[views.AllowanceView]:
    """Grant an account an amount of an asset each UTC day; zero ends the allowance."""
    account_id, asset = request.account_id(), request.path("asset")
    await request.services.queries.accounts.one(account_id)
    found = await request.services.allowances.set(
        request.caller.actor, account_id, asset, data.amount
    )
    return found_answer(views.AllowanceView(asset=found.asset, amount=found.amount))


@get(
    "/ledger/v1/accounts/{account_id:str}/allowances",
    guards=[caller],
    query=(),
    refusals=(404,),
)
async def list_allowances(request: Ask) -> Rendered[views.Page]:
    """List an account's daily allowances."""
    request.parameters()
    _, position = await request.services.queries.accounts.one(request.account_id())
    found = await request.services.allowances.of(request.account_id())
    data = [views.AllowanceView(asset=each.asset, amount=each.amount) for each in found]
    return found_answer(views.Page(data=data, has_more=False, next=None), position)


@get(
    "/ledger/v1/accounts/{account_id:str}/balances",
    guards=[caller],
    refusals=(404,),
)
async def get_balances(request: Ask) -> Rendered[dict[str, list[views.BalanceView]]]:
    """Show an account's balance in each asset."""
    services = request.services
    account, position = await services.queries.accounts.one(request.account_id())
    priced = (await services.queries.prices.cards()).assets()
    balances = views.balance_views(account, services.clock.now(), priced)
    return found_answer({"balances": balances}, position)


HANDLERS = (grant, list_grants, void_grant, adjust, set_allowance, list_allowances, get_balances)
