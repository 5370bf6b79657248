"""The tools: what each takes, returns and needs. All are bound to the caller's account."""

from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from api.dialects.ryvion import billing, bodies, keys, views
from api.dialects.ryvion.credentials import Principal
from api.http.failure import Failure, Kind, invalid
from api.mcp import forms
from api.native.views import (
    EventView,
    PositionView,
    RefusalView,
    balance_views,
    event_view,
    limit_views,
    receipt,
    refusal_view,
)
from api.queries import SpendLine, SpendTerms
from api.services import Services
from ledger.clock import format_instant
from ledger.errors import NoSuchRequest
from ledger.ids import parse_id
from ledger.lines import exact_cost
from ledger.money import format_pico

SCANNED_MAX = 1_000
"""Events looked at for one page of a search."""
FAR = 2**62
"""Above every position."""

Run = Callable[[Services, Principal, Any], Awaitable[Any]]


class LedgerTool(NamedTuple):
    """One tool."""

    name: str
    operation: str
    """What the caller's scope has to allow."""
    title: str
    description: str
    takes: type[msgspec.Struct]
    gives: type[msgspec.Struct]
    run: Run
    reads: bool
    destroys: bool
    """Whether something is gone or replaced afterwards."""
    repeats: bool
    """Whether a second call changes nothing more."""


TOOLS: dict[str, LedgerTool] = {}


def tool(
    operation: str,
    title: str,
    *,
    takes: type[msgspec.Struct] = forms.Nothing,
    gives: type[msgspec.Struct],
    reads: bool = True,
    destroys: bool = False,
    repeats: bool = True,
) -> Callable[[Run], Run]:
    """Register a tool under its function's name; the docstring describes it."""

    def register(run: Run) -> Run:
        name: str = run.__name__
        about = " ".join((run.__doc__ or "").split())
        TOOLS[name] = LedgerTool(
            name, operation, title, about, takes, gives, run, reads, destroys, repeats
        )
        return run

    return register


@tool("billing:read", "Balance and limits", gives=forms.Balance)
async def get_balance(
    services: Services, principal: Principal, _asked: forms.Nothing
) -> forms.Balance:
    """Show what the account has of each currency, and every limit it is under with what is left."""
    account, _ = await services.queries.accounts.one(principal.account_id)
    priced, at = (await services.queries.prices.cards()).assets(), services.clock.now()
    return forms.Balance(
        balances=balance_views(account, at, priced), limits=limit_views(account, at)
    )


@tool("keys:list", "API keys", gives=forms.Keys)
async def list_api_keys(
    services: Services, principal: Principal, _asked: forms.Nothing
) -> forms.Keys:
    """List the account's API keys, newest first. Secrets are never shown, only how they begin."""
    return forms.Keys(keys=await keys.all_of(services, principal))


@tool("billing:read", "Usage", takes=forms.UsageOf, gives=forms.Usage)
async def get_usage(services: Services, principal: Principal, asked: forms.UsageOf) -> forms.Usage:
    """Sum what the account used and what it cost, in days of UTC, by day, model or key."""
    lines = await _lines(services, principal, asked.start, asked.end, asked.group_by)
    return forms.Usage(
        lines=[
            forms.UsageLine(
                currency=line.asset,
                amount=format_pico(line.amount) if line.asset else None,
                requests=line.requests,
                usage=dict(line.usage),
                unpriced=line.unpriced,
                day=None if line.day is None else str(line.day),
                model=line.model,
                key=None if line.key_id is None else str(line.key_id),
            )
            for line in lines
        ]
    )


@tool("billing:read", "Spend by key", takes=forms.Period, gives=forms.SpendByKey)
async def get_spend_by_key(
    services: Services, principal: Principal, asked: forms.Period
) -> forms.SpendByKey:
    """Sum what each key spent, revoked ones included."""
    lines = await _lines(services, principal, asked.start, asked.end, ("key", "integration"))
    return forms.SpendByKey(
        lines=[
            forms.KeyLine(
                key=str(line.key_id),
                name=line.integration or "",
                currency=line.asset,
                amount=format_pico(line.amount) if line.asset else None,
                requests=line.requests,
                unpriced=line.unpriced,
            )
            for line in lines
        ]
    )


async def _lines(
    services: Services,
    principal: Principal,
    start: date | None,
    end: date | None,
    groups: tuple[str, ...],
) -> list[SpendLine]:
    terms = SpendTerms.by(groups, start, end)
    lines, _ = await services.queries.spend.sums(principal.account_id, terms)
    if len(lines) > forms.LINES_MAX:
        raise invalid(
            "start",
            f"makes more than {forms.LINES_MAX} lines; choose a later start or fewer groups",
        )
    return lines


@tool("billing:read", "Explain a charge", takes=forms.ChargeOf, gives=forms.Explanation)
async def explain_charge(
    services: Services, principal: Principal, asked: forms.ChargeOf
) -> forms.Explanation:
    """Explain one request's charge: units, unit prices, rate card version, and what paid it."""
    try:
        known, _ = await services.ledger.requests.find(principal.account_id, asked.request_id)
    except NoSuchRequest as error:
        raise Failure(Kind.NOT_FOUND, "No such request.", error=error) from error
    first = receipt(known.first, known.rated)
    last = first if known.last is None else receipt(known.last, known.rated)
    usage = {} if last.usage is None else msgspec.structs.asdict(last.usage)
    return forms.Explanation(
        request_id=last.request_id,
        status=last.status,
        model=first.model,
        key=None if first.key_id is None else _uuid(first.key_id),
        integration=first.integration,
        parts=[_part(name, usage[name], price) for name, price in last.prices.items()],
        charge=last.charge,
        held=last.held,
        rate_card=first.rate_card,
        condition=first.condition,
        lots=last.lots,
        flags=list(last.flags),
        occurred_at=format_instant(last.occurred_at),
        recorded_at=format_instant(last.recorded_at),
        event=_place(last.position),
    )


def _part(name: str, units: int, price: str) -> forms.PricedPart:
    amount = exact_cost(units, price)
    return forms.PricedPart(usage_class=name, units=units, price_per_million=price, amount=amount)


@tool("billing:read", "Search events", takes=forms.Search, gives=forms.Events)
async def search_events(
    services: Services, principal: Principal, asked: forms.Search
) -> forms.Events:
    """Search the account's history, newest first: what happened, exactly as it was written down."""
    key_id = _key_id(asked.key)
    found: list[forms.Event] = []
    before = None if asked.after is None else int(asked.after)
    scanned = 0
    async for event in services.queries.events.back(principal.account_id, before=before):
        envelope = event.recorded.envelope
        is_asked = asked.type in {None, event.type} and key_id in {None, envelope.key_id}
        if scanned == SCANNED_MAX or (is_asked and len(found) == asked.limit):
            return forms.Events(events=found, next=str(envelope.lane_seq))
        scanned += 1
        if is_asked:
            found.append(_event(event_view(event)))
    return forms.Events(events=found, next=None)


def _event(view: EventView) -> forms.Event:
    return forms.Event(
        event=_place(view.position),
        type=view.type,
        recorded_at=view.recorded_at,
        occurred_at=view.occurred_at,
        key=None if view.key_id is None else _uuid(view.key_id),
        payload=msgspec.json.decode(view.payload, type=dict[str, Any]),
    )


@tool("billing:read", "Refused requests", takes=forms.PageOf, gives=forms.Refusals)
async def list_refusals(
    services: Services, principal: Principal, asked: forms.PageOf
) -> forms.Refusals:
    """List refused requests, newest first, with the limit and the numbers each was refused by."""
    before = FAR if asked.after is None else int(asked.after)
    (refusals, has_more), position = await services.queries.refusals.page(
        principal.account_id, before=before, most=asked.limit
    )
    return forms.Refusals(
        refusals=[_refusal(refusal_view(position.lane, each)) for each in refusals],
        next=str(refusals[-1].seq) if has_more else None,
        as_of=str(position),
    )


def _refusal(view: RefusalView) -> forms.Refusal:
    return forms.Refusal(
        event=_place(view.position),
        recorded_at=view.recorded_at,
        key=_uuid(view.key_id),
        integration=view.integration,
        model=view.model,
        reason=view.reason,
        count=view.count,
        scope=view.scope,
        limit_id=view.limit_id,
        ceiling=view.ceiling,
        used=view.used,
        pending=view.pending,
        requested=view.requested,
    )


@tool(
    "keys:create",
    "Create an API key",
    takes=bodies.CreateKey,
    gives=views.CreatedKey,
    reads=False,
    repeats=False,
)
async def create_api_key(
    services: Services, principal: Principal, asked: bodies.CreateKey
) -> views.CreatedKey:
    """Create an API key. Its secret is in this answer and nowhere else, so it enters the chat."""
    return await keys.create(services, principal, asked)


@tool(
    "keys:revoke",
    "Revoke an API key",
    takes=forms.KeyOf,
    gives=forms.Revoked,
    reads=False,
    destroys=True,
)
async def revoke_api_key(
    services: Services, principal: Principal, asked: forms.KeyOf
) -> forms.Revoked:
    """Revoke an API key for good: whoever uses it is refused from the next request on."""
    await keys.revoke(services, principal, asked.id)
    return forms.Revoked(id=asked.id, revoked=True)


@tool(
    "billing:write",
    "Set the spending limit",
    takes=bodies.SpendLimit,
    gives=views.Billing,
    reads=False,
    destroys=True,
)
async def set_spend_limit(
    services: Services, principal: Principal, asked: bodies.SpendLimit
) -> views.Billing:
    """Set how many CAD the account may spend in any hour, replacing the limit it set before.

    It is never above the operator's limit; null lifts it.
    """
    return await billing.limit(services, principal, asked)


def _place(position: PositionView) -> str:
    return f"{position.lane}:{position.seq}"


def _uuid(key_id: str) -> str:
    return str(parse_id("key", key_id))


def _key_id(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid("key", "must be a key's id, as lists show it") from error
