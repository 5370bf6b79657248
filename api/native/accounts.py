"""Accounts and members."""

from collections.abc import Collection, Sequence

from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from api.http.handlers import Rendered, delete, get, patch, post, put
from api.identity.auth import address
from api.native import bodies, views
from api.native.asking import (
    Ask,
    View,
    caller,
    done_answer,
    found_answer,
)
from api.operations import Asked, Policy, new_person
from api.queries import Member, Named
from api.services import Services
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import AccountId
from ledger.state import Account


@post(
    "/ledger/v1/accounts",
    guards=[caller],
    status=201,
    example={"name": "Acme", "pays_with": ["USD"]},
    refusals=(409, 422),
)
async def open_account(
    request: Ask, data: JSONBody[bodies.AccountBody]
) -> Rendered[views.AccountView]:
    """Open an account; the welcome grant comes with it."""
    body, logins = data, request.services.logins
    owner = None
    asked = request.asked(_shown(request, body.name), body=_without_password(body))
    if body.owner is not None:
        hashed = await logins.hash(body.owner.password)
        owner = new_person(address(body.owner.email), body.owner.name, hashed)
    terms = e.AccountOpened(
        by=request.caller.actor,
        pays_with=body.pays_with,
        rate_card=body.rate_card,
        overdraft=body.overdraft,
        unpriced=body.unpriced,
        max_output_tokens=body.max_output_tokens,
        limits=request.services.ledger.accounts.opening.limits
        if isinstance(body.limits, UnsetType)
        else bodies.rules(body.limits),
        test=body.test,
        internal=body.internal,
    )
    done = await request.services.ledger.accounts.open(
        asked, terms, name=body.name, welcome=body.welcome, owner=owner
    )
    return done_answer(done, status=201)


def _shown(ask: Ask, name: str) -> View[Account]:
    """Return a view of an account that shows it with this name."""
    services = ask.services

    def view(account: Account, _recorded: Sequence[Recorded], at: Instant) -> views.AccountView:
        return _view(services, Named(account, name), services.cards.assets(), at)

    return view


async def _asked(ask: Ask, account_id: AccountId, body: object) -> Asked[Account]:
    name = await ask.services.queries.accounts.name_of(account_id)
    return ask.asked(_shown(ask, name), body=body)


def _without_password(body: bodies.AccountBody) -> dict[str, object]:
    fields = {name: getattr(body, name) for name in body.__struct_fields__ if name != "owner"}
    fields = {name: value for name, value in fields.items() if value is not UNSET}
    return {**fields, "owner": body.owner and body.owner.email}


@get(
    "/ledger/v1/accounts",
    guards=[caller],
    query=("limit", "after"),
)
async def list_accounts(request: Ask) -> Rendered[views.Page]:
    """List accounts."""
    request.parameters()
    services = request.services
    (named, has_more), positions = await services.queries.accounts.page(
        after=request.after("acct"), most=request.page_size()
    )
    priced, at = (await services.queries.prices.cards()).assets(), services.clock.now()
    data = [_view(services, each, priced, at) for each in named]
    following = data[-1].account_id if has_more and data else None
    page = views.Page(data=data, has_more=has_more, next=following)
    reached = {"Ledger-Position": ", ".join(map(str, positions))} if positions else {}
    return Rendered(page, headers=reached)


def _view(
    services: Services, named: Named, priced: Collection[str], at: Instant
) -> views.AccountView:
    """Show an account with its balances. ``priced``: the assets that prices are in."""
    account, name = named
    lane = services.ledger.lane_of(account.account_id)
    return views.account_view(account, name, lane, at, priced)


@get(
    "/ledger/v1/accounts/{account_id:str}",
    guards=[caller],
    refusals=(404,),
)
async def get_account(request: Ask) -> Rendered[views.AccountView]:
    """Show an account with its limits and balances."""
    services = request.services
    found = await services.queries.accounts.named(request.account_id())
    priced = (await services.queries.prices.cards()).assets()
    view = _view(services, found.facts, priced, services.clock.now())
    return found_answer(view, found.position, view.version)


@patch(
    "/ledger/v1/accounts/{account_id:str}",
    guards=[caller],
    example={"unpriced": "record"},
    refusals=(404, 409, 412, 422),
)
async def change_account(
    request: Ask, data: JSONBody[bodies.AccountChanges]
) -> Rendered[views.AccountView]:
    """Change an account's name or the terms under which it is billed."""
    account_id, body = request.account_id(), data
    policy = Policy(
        name=body.name,
        pays_with=body.pays_with,
        rate_card=body.rate_card,
        overdraft=body.overdraft,
        unpriced=body.unpriced,
        max_output_tokens=body.max_output_tokens,
        expected_version=request.expected_version,
    )
    asked = (
        await _asked(request, account_id, data)
        if body.name is UNSET
        else request.asked(_shown(request, body.name), body=data)
    )
    done = await request.services.ledger.accounts.set_policy(asked, account_id, policy)
    return done_answer(done)


@put(
    "/ledger/v1/accounts/{account_id:str}/limits",
    guards=[caller],
    example={"limits": [{"kind": "spend", "window": "month", "ceiling": "100"}]},
    refusals=(404, 409, 422),
)
async def set_account_limits(
    request: Ask, data: JSONBody[bodies.LimitsBody]
) -> Rendered[views.AccountView]:
    """Replace an account's limits."""
    account_id = request.account_id()
    asked, rules = await _asked(request, account_id, data), bodies.rules(data.limits)
    done = await request.services.ledger.accounts.set_limits(asked, account_id, rules)
    return done_answer(done)


@post(
    "/ledger/v1/accounts/{account_id:str}/suspend",
    guards=[caller],
    example={"reason": "Unpaid"},
    refusals=(404, 409, 422),
)
async def suspend_account(
    request: Ask, data: JSONBody[bodies.ReasonBody | None] = None
) -> Rendered[views.AccountView]:
    """Stop every key of an account until it resumes."""
    data = data or bodies.ReasonBody()
    account_id = request.account_id()
    done = await request.services.ledger.accounts.suspend(
        await _asked(request, account_id, data), account_id, reason=data.reason
    )
    return done_answer(done)


@post(
    "/ledger/v1/accounts/{account_id:str}/resume",
    guards=[caller],
    refusals=(404, 409, 422),
)
async def resume_account(
    request: Ask, data: JSONBody[bodies.Body | None] = None
) -> Rendered[views.AccountView]:
    """Lift an account's suspension."""
    data = data or bodies.Body()
    account_id = request.account_id()
    asked = await _asked(request, account_id, data)
    done = await request.services.ledger.accounts.resume(asked, account_id)
    return done_answer(done)


@post(
    "/ledger/v1/accounts/{account_id:str}/close",
    guards=[caller],
    example={"reason": "Left"},
    refusals=(404, 409, 422),
)
async def close_account(
    request: Ask, data: JSONBody[bodies.ReasonBody | None] = None
) -> Rendered[views.AccountView]:
    """Close an account for good."""
    data = data or bodies.ReasonBody()
    account_id = request.account_id()
    done = await request.services.ledger.accounts.close(
        await _asked(request, account_id, data), account_id, reason=data.reason
    )
    return done_answer(done)


@get(
    "/ledger/v1/accounts/{account_id:str}/members",
    guards=[caller],
    refusals=(404,),
)
async def list_members(request: Ask) -> Rendered[views.Page]:
    """List the members of an account."""
    found = await request.services.queries.accounts.members(request.account_id())
    data = list(map(views.member_view, found.facts))
    return found_answer(views.Page(data=data, has_more=False, next=None), found.position)


@post(
    "/ledger/v1/accounts/{account_id:str}/members",
    guards=[caller],
    status=201,
    example={
        "email": "ada@example.com",
        "password": "correct horse battery",
        "role": "finance",
        "name": "Ada",
    },
    refusals=(404, 409, 422),
)
async def add_member(request: Ask, data: JSONBody[bodies.MemberBody]) -> Rendered[views.MemberView]:
    """Add a person to an account, and let them log in."""
    account_id, body = request.account_id(), data
    hashed = await request.services.logins.hash(body.password)
    person = new_person(address(body.email), body.name, hashed)
    shown = views.member_view(Member(person.member_id, body.role, person.email, person.name))
    asked: Asked[Account] = request.asked(lambda _account, _recorded, _at: shown, body=data)
    done = await request.services.ledger.members.add(asked, account_id, person, body.role)
    return done_answer(done, status=201)


@patch(
    "/ledger/v1/accounts/{account_id:str}/members/{member_id:str}",
    guards=[caller],
    example={"role": "auditor"},
    refusals=(404, 409, 422),
)
async def change_member(
    request: Ask, data: JSONBody[bodies.RoleBody]
) -> Rendered[views.ChangeView]:
    """Change a member's role."""
    done = await request.services.ledger.members.change_role(
        request.asked(_changed, body=data), request.account_id(), request.member_id(), data.role
    )
    return done_answer(done)


@delete(
    "/ledger/v1/accounts/{account_id:str}/members/{member_id:str}",
    guards=[caller],
    refusals=(404, 409, 422),
)
async def remove_member(request: Ask) -> Rendered[views.ChangeView]:
    """Remove a member from an account."""
    done = await request.services.ledger.members.remove(
        request.asked(_changed), request.account_id(), request.member_id()
    )
    return done_answer(done)


def _changed(_account: Account, recorded: Sequence[Recorded], _at: Instant) -> views.ChangeView:
    return views.change_view(recorded)


HANDLERS = (
    open_account,
    list_accounts,
    get_account,
    change_account,
    set_account_limits,
    suspend_account,
    resume_account,
    close_account,
    list_members,
    add_member,
    change_member,
    remove_member,
)
