"""Spend, events, refusals, lanes."""

from datetime import date

from api.http.failure import invalid
from api.http.handlers import Rendered, get
from api.native import views
from api.native.asking import (
    Ask,
    caller,
    found_answer,
    page_answer,
)
from api.queries import GROUPS, SpendLine, SpendTerms

SEQ_MAX = 2**62


@get(
    "/ledger/v1/accounts/{account_id:str}/spend",
    guards=[caller],
    query=("group_by", "from", "to"),
    refusals=(404,),
)
async def get_spend(request: Ask) -> Rendered[dict[str, list[views.SpendView]]]:
    """Sum what an account spent, by any of integration, model, day, key; days are UTC days."""
    query = request.parameters()
    groups = [group for group in query.get("group_by", "").split(",") if group]
    for group in groups:
        if group not in GROUPS:
            raise invalid("group_by", "must be one or more of " + ",".join(GROUPS))
    start, end = _day("from", query.get("from")), _day("to", query.get("to"))
    terms = SpendTerms.by(groups, start, end)
    lines, position = await request.services.queries.spend.sums(request.account_id(), terms)
    data = [views.spend_view(line) for line in lines if _says_something(line)]
    return found_answer({"data": data}, position)


def _says_something(line: SpendLine) -> bool:
    return bool(line.requests or line.unpriced or (line.asset and line.amount))


def _day(field: str, text: str | None) -> date | None:
    if text is None:
        return None
    problem = "must be a UTC day such as 2026-12-01; from is inclusive, to exclusive"
    if len(text) != len("2026-12-01"):
        raise invalid(field, problem)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise invalid(field, problem) from error


@get(
    "/ledger/v1/accounts/{account_id:str}/events",
    guards=[caller],
    query=("limit", "after"),
    refusals=(404,),
)
async def list_events(request: Ask) -> Rendered[views.Page]:
    """List an account's events, newest first, with their exact payloads."""
    query = request.parameters()
    before = request.number("after", query["after"], most=SEQ_MAX) if "after" in query else None
    (events, following), position = await request.services.queries.events.of_account(
        request.account_id(), before=before, most=request.page_size()
    )
    page = views.Page(
        data=list(map(views.event_view, events)),
        has_more=following is not None,
        next=None if following is None else str(following),
    )
    return found_answer(page, position)


@get(
    "/ledger/v1/accounts/{account_id:str}/refusals",
    guards=[caller],
    query=("limit", "after"),
    refusals=(404,),
)
async def list_refusals(request: Ask) -> Rendered[views.Page]:
    """List recorded refusals of requests, newest first."""
    query = request.parameters()
    before = request.number("after", query.get("after", str(SEQ_MAX)), most=SEQ_MAX)
    found = await request.services.queries.refusals.page(
        request.account_id(), before=before, most=request.page_size()
    )
    lane = found.position.lane
    return page_answer(found, lambda each: views.refusal_view(lane, each), lambda each: each.seq)


@get(
    "/ledger/v1/lanes",
    guards=[caller],
)
async def list_lanes(request: Ask) -> Rendered[list[views.LaneView]]:
    """Show where each lane stands."""
    lanes = await request.services.queries.events.lanes()
    return found_answer(list(map(views.lane_view, lanes)))


@get(
    "/ledger/v1/lanes/{lane:str}/events",
    guards=[caller],
    query=("limit", "after"),
    refusals=(404,),
)
async def list_lane_events(request: Ask) -> Rendered[views.Page]:
    """List a lane's events in order, as a feed. ``after`` is the last position already read."""
    query = request.parameters()
    after = request.number("after", query.get("after", "0"), most=SEQ_MAX)
    lane = request.number("lane", request.path("lane"), most=32_767)
    events, position = await request.services.queries.events.of_lane(
        lane, after=after, most=request.page_size()
    )
    last = events[-1].recorded.envelope.lane_seq if events else after
    data = list(map(views.event_view, events))
    page = views.Page(data=data, has_more=last < position.seq, next=str(last))
    return found_answer(page, position)


@get(
    "/ledger/v1/lanes/{lane:str}/events/{seq:str}",
    guards=[caller],
    refusals=(404,),
)
async def get_event(request: Ask) -> Rendered[views.EventView]:
    """Show the event at a position."""
    lane = request.number("lane", request.path("lane"), most=32_767)
    seq = request.number("seq", request.path("seq"), most=SEQ_MAX)
    found = await request.services.queries.events.one(lane, seq)
    return found_answer(views.event_view(found.facts), found.position)


HANDLERS = (get_spend, list_events, list_refusals, list_lanes, list_lane_events, get_event)
