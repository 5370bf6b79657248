"""The credit ledger of an account, as JSON or as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from api.http import cursors
from api.http.answers import Answer
from api.http.failure import invalid
from api.http.handlers import Passed, Rendered, get
from api.http.reading import one_of
from api.native import bodies, views
from api.native.asking import (
    Ask,
    caller,
    found_answer,
)
from api.native.views import PositionView
from api.queries import MOVEMENT_TYPES, Filters, Movement, MovementPlace
from api.settings import jwt_secret
from ledger import clock
from ledger.clock import Instant, format_instant
from ledger.errors import InvalidField
from ledger.ids import InvalidId, Position, format_id, parse_id
from ledger.money import format_pico

PURPOSE = "credit-ledger"
NAMED = ("type", "from", "to", "character", "model", "key", "asset")
CSV = "text/csv"
DAY_LENGTH = len("2026-12-01")


class CreditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of a balance."""

    time: str
    type: str
    """Chat, Usage, Purchase, Daily login, Bonus, Adjustment or Expiry."""
    description: str
    amount: str
    """Below zero: it was taken away."""
    balance_after: str
    """Balance of the asset afterwards, over all keys."""
    asset: str
    key_id: str | None
    """The key that spent it; None: no key did."""
    integration: str | None
    """The key's name at that moment."""
    model: str | None
    character: str | None
    request_id: str | None
    position: PositionView


def _entry(found: Movement) -> CreditEntry:
    return CreditEntry(
        time=format_instant(found.at),
        type=found.moved.type,
        description=found.moved.description,
        amount=format_pico(found.moved.pico),
        balance_after=format_pico(found.balance),
        asset=found.moved.asset,
        key_id=None if found.key_id is None else format_id("key", found.key_id),
        integration=found.integration,
        model=found.model,
        character=found.character,
        request_id=found.request_id,
        position=PositionView(lane=found.position.lane, seq=found.position.seq),
    )


@get(
    "/ledger/v1/accounts/{account_id:str}/credit-ledger",
    guards=[caller],
    query=(*NAMED, "limit", "after"),
    refusals=(404,),
)
async def list_credit_ledger(request: Ask) -> Rendered[views.Page]:
    """List what moved the account's balances, newest first, with the balance after each."""
    query = request.parameters()
    account_id = request.account_id()
    secret = jwt_secret(request.services.settings)
    account = format_id("acct", account_id)
    filters = _filters(query)
    place = MovementPlace(account=account, filters=filters)
    if "after" in query:
        place = cursors.read(query["after"], MovementPlace, PURPOSE, secret)
        if place.account != account or (filters != Filters() and filters != place.filters):
            raise InvalidField("after", "is a cursor of another list")
    (movements, following), position = await request.services.queries.credit.movements(
        account_id, place, request.page_size()
    )
    entries = list(map(_entry, movements))
    cursor = None if following is None else cursors.write(following, PURPOSE, secret)
    if CSV in (request.header(b"accept") or ""):
        return Passed(_csv(entries, cursor, position))
    view = views.Page(data=entries, has_more=cursor is not None, next=cursor)
    return found_answer(view, position)


def _filters(query: Mapping[str, str]) -> Filters:
    start, end = _instant("from", query), _instant("to", query)
    if start is not None and end is not None and end <= start:
        raise InvalidField("to", "must be later than from")
    key = query.get("key", "")
    if key:
        try:
            key = format_id("key", parse_id("key", key))
        except InvalidId as error:
            raise InvalidField("key", "is not a key's id") from error
    kind = query.get("type", "")
    return Filters(
        type=one_of("type", kind, MOVEMENT_TYPES) if kind else "",
        asset=query.get("asset", ""),
        character=query.get("character", ""),
        model=query.get("model", ""),
        key=key,
        start=start,
        end=end,
    )


def _instant(name: str, query: Mapping[str, str]) -> Instant | None:
    """Read a bound: an instant, or a UTC day, which means its first instant."""
    text = query.get(name)
    if text is None or len(text) != DAY_LENGTH:
        return bodies.instant_of(name, text)
    try:
        return clock.parse_instant(f"{date.fromisoformat(text)}T00:00:00Z")
    except ValueError as error:
        raise invalid(name, "must be a UTC day such as 2026-12-01, or an instant") from error


def _csv(entries: Sequence[CreditEntry], cursor: str | None, position: Position) -> Answer:
    """Write a page as CSV; a header holds the cursor of the next page."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CreditEntry.__struct_fields__)
    for entry in entries:
        cells = msgspec.structs.asdict(entry)
        writer.writerow([_cell(name, value) for name, value in cells.items()])
    headers = {"Content-Disposition": "attachment; filename=credit-ledger.csv"}
    if cursor is not None:
        headers["X-Next-Cursor"] = cursor
    content_type = b"text/csv; charset=utf-8"
    return Answer(
        text.getvalue().encode(), content_type=content_type, position=position, headers=headers
    )


_NUMBERS = frozenset({"amount", "balance_after"})


def _cell(name: str, value: str | PositionView | None) -> str:
    """Write a value so that no spreadsheet takes a client's text for a formula."""
    if value is None:
        return ""
    if isinstance(value, PositionView):
        return f"{value.lane}:{value.seq}"
    is_formula = name not in _NUMBERS and value[:1] in {"=", "+", "-", "@", "\t", "\r"}
    return f"'{value}" if is_formula else value


HANDLERS = (list_credit_ledger,)
