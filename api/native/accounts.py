"""Accounts and members."""

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import UNSET

from api.http.exchange import Answer
from api.identity.auth import address
from api.native import bodies, views
from api.native.routing import Ask, View, done_answer, found_answer, route
from api.operations import Asked, Policy, new_person
from api.queries import Member, Named
from api.services import Services
from ledger import events as e
from ledger.clock import Instant
from ledger.codec import Recorded
from ledger.ids import AccountId
from ledger.state import Account


@route(
    "POST",
    "/accounts",
    body=bodies.AccountBody,
    answer=views.AccountView,
    status=201,
    example={"name": "Acme", "pays_with": ["USD"]},
    refusals=(409, 422),
)
async def open_account(ask: Ask[bodies.AccountBody]) -> Answer:
    """Open an account; the welcome grant comes with it."""
    body, logins = ask.body, ask.services.logins
    owner = None
    asked = ask.asked(_shown(ask, body.name), body=_without_password(body))
    if body.owner is not None:
        hashed = await logins.hash(body.owner.password)
        owner = new_person(address(body.owner.email), body.owner.name, hashed)
    terms = e.AccountOpened(
        by=ask.caller.actor,
        pays_with=body.pays_with,
        rate_card=body.rate_card,
        overdraft=body.overdraft,
        unpriced=body.unpriced,
        max_output_tokens=body.max_output_tokens,
        limits=bodies.rules(body.limits),
        test=body.test,
        internal=body.internal,
    )
    done = await ask.services.ledger.accounts.open(
        asked, terms, name=body.name, welcome=body.welcome, owner=owner
    )
    return done_answer(done, status=201)


def _shown(ask: Ask[Any], name: str) -> View[Account]:
    """Show an account of a name."""
    services = ask.services

    def view(account: Account, _recorded: Sequence[Recorded], at: Instant) -> views.AccountView:
        return _view(services, Named(account, name), services.cards.assets(), at)

    return view


async def _asked(ask: Ask[Any], account_id: AccountId) -> Asked[Account]:
    return ask.asked(_shown(ask, await ask.services.queries.accounts.name_of(account_id)))


def _without_password(body: bodies.AccountBody) -> dict[str, object]:
    fields = {name: getattr(body, name) for name in body.__struct_fields__ if name != "owner"}
    return {**fields, "owner": body.owner and body.owner.email}


@route("GET", "/accounts", answer=views.Page, query=("limit", "after"), refusals=())
async def list_accounts(ask: Ask[None]) -> Answer:
    """List accounts."""
    ask.call.require_only("limit", "after")
    services = ask.services
    (named, has_more), positions = await services.queries.accounts.page(
        after=ask.after("acct"), most=ask.page_size()
    )
    priced, at = (await services.queries.prices.cards()).assets(), services.clock.now()
    data = [_view(services, each, priced, at) for each in named]
    following = data[-1].account_id if has_more and data else None
    answer = found_answer(views.Page(data=data, has_more=has_more, next=following))
    if positions:
        joined = ", ".join(map(str, positions))
        answer.headers.append((b"ledger-position", joined.encode()))
    return answer


def _view(
    services: Services, named: Named, priced: Collection[str], at: Instant
) -> views.AccountView:
    """Show an account with what its credit can pay for: ``priced``, what prices are in."""
    account, name = named
    lane = services.ledger.lane_of(account.account_id)
    return views.account_view(account, name, lane, at, priced)


@route("GET", "/accounts/{account_id}", answer=views.AccountView)
async def get_account(ask: Ask[None]) -> Answer:
    """Show an account with its limits and balances."""
    services = ask.services
    found = await services.queries.accounts.named(ask.account_id())
    priced = (await services.queries.prices.cards()).assets()
    view = _view(services, found.facts, priced, services.clock.now())
    return found_answer(view, found.position, view.version)


@route(
    "PATCH",
    "/accounts/{account_id}",
    body=bodies.AccountChanges,
    answer=views.AccountView,
    example={"unpriced": "record"},
    refusals=(404, 409, 412, 422),
)
async def change_account(ask: Ask[bodies.AccountChanges]) -> Answer:
    """Change an account's name or the terms under which it is billed."""
    account_id, body = ask.account_id(), ask.body
    policy = Policy(
        name=body.name,
        pays_with=body.pays_with,
        rate_card=body.rate_card,
        overdraft=body.overdraft,
        unpriced=body.unpriced,
        max_output_tokens=body.max_output_tokens,
        expected_version=ask.call.expected_version,
    )
    asked = (
        await _asked(ask, account_id) if body.name is UNSET else ask.asked(_shown(ask, body.name))
    )
    done = await ask.services.ledger.accounts.set_policy(asked, account_id, policy)
    return done_answer(done)


@route(
    "PUT",
    "/accounts/{account_id}/limits",
    body=bodies.LimitsBody,
    answer=views.AccountView,
    example={"limits": [{"kind": "spend", "window": "month", "ceiling": "100"}]},
    refusals=(404, 409, 422),
)
async def set_account_limits(ask: Ask[bodies.LimitsBody]) -> Answer:
    """Replace an account's limits."""
    account_id = ask.account_id()
    asked, rules = await _asked(ask, account_id), bodies.rules(ask.body.limits)
    done = await ask.services.ledger.accounts.set_limits(asked, account_id, rules)
    return done_answer(done)


@route(
    "POST",
    "/accounts/{account_id}/suspend",
    body=bodies.ReasonBody,
    optional_body=True,
    answer=views.AccountView,
    example={"reason": "Unpaid"},
    refusals=(404, 409, 422),
)
async def suspend_account(ask: Ask[bodies.ReasonBody]) -> Answer:
    """Stop every key of an account until it resumes."""
    account_id = ask.account_id()
    done = await ask.services.ledger.accounts.suspend(
        await _asked(ask, account_id), account_id, reason=ask.body.reason
    )
    return done_answer(done)


@route(
    "POST",
    "/accounts/{account_id}/resume",
    body=bodies.Body,
    optional_body=True,
    answer=views.AccountView,
    refusals=(404, 409, 422),
)
async def resume_account(ask: Ask[bodies.Body]) -> Answer:
    """Let a suspended account work again."""
    account_id = ask.account_id()
    asked = await _asked(ask, account_id)
    done = await ask.services.ledger.accounts.resume(asked, account_id)
    return done_answer(done)


@route(
    "POST",
    "/accounts/{account_id}/close",
    body=bodies.ReasonBody,
    optional_body=True,
    answer=views.AccountView,
    example={"reason": "Left"},
    refusals=(404, 409, 422),
)
async def close_account(ask: Ask[bodies.ReasonBody]) -> Answer:
    """Close an account for good."""
    account_id = ask.account_id()
    done = await ask.services.ledger.accounts.close(
        await _asked(ask, account_id), account_id, reason=ask.body.reason
    )
    return done_answer(done)


@route("GET", "/accounts/{account_id}/members", answer=views.Page)
async def list_members(ask: Ask[None]) -> Answer:
    """List who is in an account."""
    found = await ask.services.queries.accounts.members(ask.account_id())
    data = list(map(views.member_view, found.facts))
    return found_answer(views.Page(data=data, has_more=False, next=None), found.position)


@route(
    "POST",
    "/accounts/{account_id}/members",
    body=bodies.MemberBody,
    answer=views.MemberView,
    status=201,
    example={
        "email": "ada@example.com",
        "password": "correct horse battery",
        "role": "finance",
        "name": "Ada",
    },
    refusals=(404, 409, 422),
)
async def add_member(ask: Ask[bodies.MemberBody]) -> Answer:
    """Let a person join an account and log in."""
    account_id, body = ask.account_id(), ask.body
    hashed = await ask.services.logins.hash(body.password)
    person = new_person(address(body.email), body.name, hashed)
    shown = views.member_view(Member(person.member_id, body.role, person.email, person.name))
    asked: Asked[Account] = ask.asked(lambda _account, _recorded, _at: shown)
    done = await ask.services.ledger.members.add(asked, account_id, person, body.role)
    return done_answer(done, status=201)


@route(
    "PATCH",
    "/accounts/{account_id}/members/{member_id}",
    body=bodies.RoleBody,
    answer=views.ChangeView,
    example={"role": "auditor"},
    refusals=(404, 409, 422),
)
async def change_member(ask: Ask[bodies.RoleBody]) -> Answer:
    """Give a member another role."""
    done = await ask.services.ledger.members.change_role(
        ask.asked(_changed), ask.account_id(), ask.member_id(), ask.body.role
    )
    return done_answer(done)


@route(
    "DELETE",
    "/accounts/{account_id}/members/{member_id}",
    answer=views.ChangeView,
    refusals=(404, 409, 422),
)
async def remove_member(ask: Ask[None]) -> Answer:
    """Take a member out of an account."""
    done = await ask.services.ledger.members.remove(
        ask.asked(_changed), ask.account_id(), ask.member_id()
    )
    return done_answer(done)


def _changed(_account: Account, recorded: Sequence[Recorded], _at: Instant) -> views.ChangeView:
    return views.change_view(recorded)
