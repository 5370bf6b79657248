"""Spend, events, refusals, lanes."""

from datetime import date

from api.http.exchange import Answer
from api.http.failure import invalid
from api.native import views
from api.native.routing import Ask, found_answer, page_answer, route
from api.queries import GROUPS, SpendLine, SpendTerms

SEQ_MAX = 2**62


@route(
    "GET",
    "/accounts/{account_id}/spend",
    answer=dict[str, list[views.SpendView]],
    query=("group_by", "from", "to"),
)
async def get_spend(ask: Ask[None]) -> Answer:
    """Sum what an account spent, by any of integration, model, day, key; days are of UTC."""
    query = ask.call.require_only("group_by", "from", "to")
    groups = [group for group in query.get("group_by", "").split(",") if group]
    for group in groups:
        if group not in GROUPS:
            raise invalid("group_by", "some of " + ",".join(GROUPS))
    start, end = _day("from", query.get("from")), _day("to", query.get("to"))
    terms = SpendTerms.by(groups, start, end)
    lines, position = await ask.services.queries.spend.sums(ask.account_id(), terms)
    data = [views.spend_view(line) for line in lines if _says_something(line)]
    return found_answer({"data": data}, position)


def _says_something(line: SpendLine) -> bool:
    return bool(line.requests or line.unpriced or (line.asset and line.amount))


def _day(field: str, text: str | None) -> date | None:
    if text is None:
        return None
    problem = "a day of UTC such as 2026-12-01; from is inclusive, to exclusive"
    if len(text) != len("2026-12-01"):
        raise invalid(field, problem)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise invalid(field, problem) from error


@route("GET", "/accounts/{account_id}/events", answer=views.Page, query=("limit", "after"))
async def list_events(ask: Ask[None]) -> Answer:
    """List an account's events, newest first, with their exact payloads."""
    query = ask.call.require_only("limit", "after")
    before = ask.whole("after", query["after"], most=SEQ_MAX) if "after" in query else None
    (events, following), position = await ask.services.queries.events.of_account(
        ask.account_id(), before=before, most=ask.page_size()
    )
    page = views.Page(
        data=list(map(views.event_view, events)),
        has_more=following is not None,
        next=None if following is None else str(following),
    )
    return found_answer(page, position)


@route("GET", "/accounts/{account_id}/refusals", answer=views.Page, query=("limit", "after"))
async def list_refusals(ask: Ask[None]) -> Answer:
    """List refused requests that were written down, newest first."""
    query = ask.call.require_only("limit", "after")
    before = ask.whole("after", query.get("after", str(SEQ_MAX)), most=SEQ_MAX)
    found = await ask.services.queries.refusals.page(
        ask.account_id(), before=before, most=ask.page_size()
    )
    lane = found.position.lane
    return page_answer(found, lambda each: views.refusal_view(lane, each), lambda each: each.seq)


@route("GET", "/lanes", answer=list[views.LaneView], refusals=())
async def list_lanes(ask: Ask[None]) -> Answer:
    """Show where each lane stands."""
    lanes = await ask.services.queries.events.lanes()
    return found_answer(list(map(views.lane_view, lanes)))


@route("GET", "/lanes/{lane}/events", answer=views.Page, query=("limit", "after"))
async def list_lane_events(ask: Ask[None]) -> Answer:
    """Read a lane's events in order: a feed. ``after`` is the last position already read."""
    query = ask.call.require_only("limit", "after")
    after = ask.whole("after", query.get("after", "0"), most=SEQ_MAX)
    lane = ask.whole("lane", ask.call.path("lane"), most=32_767)
    events, position = await ask.services.queries.events.of_lane(
        lane, after=after, most=ask.page_size()
    )
    last = events[-1].recorded.envelope.lane_seq if events else after
    data = list(map(views.event_view, events))
    page = views.Page(data=data, has_more=last < position.seq, next=str(last))
    return found_answer(page, position)


@route("GET", "/lanes/{lane}/events/{seq}", answer=views.EventView)
async def get_event(ask: Ask[None]) -> Answer:
    """Show the event at a position."""
    lane = ask.whole("lane", ask.call.path("lane"), most=32_767)
    seq = ask.whole("seq", ask.call.path("seq"), most=SEQ_MAX)
    found = await ask.services.queries.events.one(lane, seq)
    return found_answer(views.event_view(found.facts), found.position)
