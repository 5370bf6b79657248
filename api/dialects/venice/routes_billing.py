"""venice's routes about money: the balance, the history of usage, and its sums."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from api.dialects.venice import credentials, cursors, history, terms, views
from api.dialects.venice.analytics import UsageAnalytics, usage_analytics
from api.dialects.venice.credentials import Principal
from api.dialects.venice.cursors import HistoryCursor
from api.dialects.venice.history import CURRENCIES, Currency, HistoryEntry
from api.dialects.venice.views import Number
from api.http.answers import Answer
from api.http.failure import invalid
from api.http.handlers import Passed, Rendered, get
from api.queries import AnalyticsTerms
from api.services import Ask
from api.settings import jwt_secret
from ledger import clock, standing
from ledger.clock import Instant
from ledger.ids import format_id
from ledger.state import Account

PAGE_DEFAULT, PAGE_MIN, PAGE_MAX = 1_000, 10, 1_000
READ_AT_ONCE, READS_MAX = 1_000, 20
"""Events per read, reads per page: a page that needs more is short, and its cursor goes on."""
CURSOR_MAX = 512
DAYS_MAX, DAYS_DEFAULT = 90, 7
TOP = 8
"""How many models and keys are shown by day."""
CSV = "text/csv"
FILTERS = ("currency", "startTimestamp", "endTimestamp", "pageSize")

_DAYS = re.compile(r"[1-9]\d{0,3}d", re.ASCII)


class BillingBalances(msgspec.Struct, frozen=True, kw_only=True):
    """What is left."""

    diem: Number
    usd: Number


class BillingBalance(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the account can spend, and what pays next."""

    can_consume: bool
    consumption_currency: Currency | None
    balances: BillingBalances
    diem_epoch_allocation: Number


class UsageHistory(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of the usage history, oldest first."""

    data: list[HistoryEntry]
    next_cursor: str | None


@get("/api/v1/billing/balance", guards=[credentials.admin_key])
async def get_billing_balance(request: Ask[Principal]) -> BillingBalance:
    """Show what the account can spend, what pays next, and how much DIEM a day brings."""
    request.parameters()
    at = request.services.clock.now()
    account, _ = await request.services.queries.accounts.one(request.caller.account_id)
    granted = await request.services.allowances.granted_for_today(
        request.caller.account_id, "DIEM", at
    )
    left = standing.to_spend(account, at)
    currency = _pays_next(account, left)
    return BillingBalance(
        can_consume=currency is not None,
        consumption_currency=currency,
        balances=BillingBalances(
            diem=views.number(left.get("DIEM", 0)), usd=views.number(left.get("USD", 0))
        ),
        diem_epoch_allocation=views.number(granted),
    )


def _pays_next(account: Account, left: Mapping[str, int]) -> Currency | None:
    for asset in account.pays_with:
        if left.get(asset, 0) > 0 and asset in CURRENCIES:
            return CURRENCIES[asset]
    return "USD" if terms.may_owe(account) else None


@get(
    "/api/v1/billing/usage-history",
    guards=[credentials.admin_key],
    query=(*FILTERS, "cursor"),
    other_types=(CSV,),
)
async def list_usage_history(request: Ask[Principal]) -> Rendered[UsageHistory]:
    """List what was charged, oldest first; a cursor goes on from where a page ended."""
    secret = jwt_secret(request.services.settings)
    walk = _walk(request, secret)
    entries, following = await _page(request, walk)
    cursor = None if following is None else cursors.write(following, secret)
    if CSV in (request.header(b"accept") or ""):
        return Passed(_csv(entries, cursor, request.services.clock.now()))
    return Rendered(UsageHistory(data=entries, next_cursor=cursor))


def _walk(ask: Ask[Principal], secret: str) -> HistoryCursor:
    query = ask.parameters()
    account = format_id("acct", ask.caller.account_id)
    if "cursor" in query:
        if len(query) > 1:
            raise invalid("cursor", "carries all filters: send nothing else with it")
        if len(query["cursor"]) > CURSOR_MAX:
            raise invalid("cursor", f"at most {CURSOR_MAX} characters")
        return cursors.read(query["cursor"], secret, account)
    currency = query.get("currency", "")
    if currency and currency not in CURRENCIES:
        raise invalid("currency", "must be one of " + ", ".join(CURRENCIES))
    start, end = _instant(query, "startTimestamp"), _instant(query, "endTimestamp")
    if start is not None and end is not None and end <= start:
        raise invalid("endTimestamp", "must be later than startTimestamp")
    size = ask.whole("pageSize", query.get("pageSize", str(PAGE_DEFAULT)), PAGE_MIN, PAGE_MAX)
    return HistoryCursor(
        account=account, version=0, page_size=size, currency=currency, start=start, end=end
    )


def _instant(query: Mapping[str, str], name: str) -> Instant | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        at = clock.parse_instant(text)
    except clock.InvalidInstant as error:
        raise invalid(name, "must be a time in UTC that ends with Z") from error
    if not text.endswith("Z"):
        raise invalid(name, "must be a time in UTC that ends with Z")
    return at


async def _page(
    ask: Ask[Principal], walk: HistoryCursor
) -> tuple[list[HistoryEntry], HistoryCursor | None]:
    """Return a page, and where the next one begins; None: this is the last."""
    account_id, events = ask.caller.account_id, ask.services.queries.events
    place = msgspec.structs.replace
    if walk.start is not None and not walk.version:
        walk = place(walk, version=await events.version_before(account_id, walk.start))
    entries: list[HistoryEntry] = []
    for _ in range(READS_MAX):
        chapter = await events.after(account_id, walk.version, READ_AT_ONCE)
        for event in chapter.events:
            at, version = event.envelope.recorded_at, event.envelope.version
            if walk.end is not None and at >= walk.end:
                return entries, None
            fresh: Sequence[HistoryEntry] = ()
            if walk.start is None or at >= walk.start:
                found = history.entries_of(event, chapter.assets)
                fresh = [each for each in found if walk.currency in {"", each.currency}]
            fresh, room = fresh[walk.shown :], walk.page_size - len(entries)
            entries += fresh[:room]
            if len(fresh) > room:
                return entries, place(walk, version=version - 1, shown=walk.shown + room)
            walk = place(walk, version=version, shown=0)
        if len(chapter.events) < READ_AT_ONCE:
            return entries, None
    return entries, walk


def _csv(entries: Sequence[HistoryEntry], cursor: str | None, at: Instant) -> Answer:
    """Write a page as CSV; its cursor is in a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    columns = [field.encode_name for field in msgspec.structs.fields(HistoryEntry)][:-1]
    details = [field.encode_name for field in msgspec.structs.fields(history.InferenceDetails)]
    writer.writerow([*columns, *(f"inferenceDetails.{name}" for name in details)])
    for entry in entries:
        *values, detail = msgspec.structs.astuple(entry)
        writer.writerow([*map(_cell, values), *map(_cell, msgspec.structs.astuple(detail))])
    headers = {"Content-Disposition": f"attachment; filename={_file_name(at)}"}
    if cursor is not None:
        headers["x-next-cursor"] = cursor
    return Answer(
        text.getvalue().encode(), content_type=b"text/csv; charset=utf-8", headers=headers
    )


def _cell(value: object) -> str:
    """Write a value so that no spreadsheet takes text that a client chose for a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:f}" if hasattr(value, "as_tuple") else str(value)
    return f"'{value}" if value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _file_name(at: Instant) -> str:
    return f"billing-usage-history-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03}Z.csv"


@get(
    "/api/v1/billing/usage-analytics",
    guards=[credentials.admin_key],
    query=("lookback", "startDate", "endDate"),
)
async def get_usage_analytics(request: Ask[Principal]) -> UsageAnalytics:
    """Show what was spent by day, model and key; days without any are there, with zero."""
    asked, name = _days(request)
    found = await request.services.queries.spend.analytics(request.caller.account_id, asked)
    return usage_analytics(found, asked, name)


def _days(ask: Ask[Principal]) -> tuple[AnalyticsTerms, str]:
    query = ask.parameters()
    if "startDate" in query or "endDate" in query:
        if "lookback" in query:
            raise invalid("lookback", "is not taken with startDate and endDate")
        start, end = _day(query, "startDate"), _day(query, "endDate")
        name = f"{query['startDate']}:{query['endDate']}"
    else:
        name = query.get("lookback", f"{DAYS_DEFAULT}d")
        if _DAYS.fullmatch(name) is None or int(name[:-1]) > DAYS_MAX:
            raise invalid("lookback", f"must be a number of days such as 7d, at most {DAYS_MAX}d")
        end = ask.services.clock.now()
        start = end - timedelta(days=int(name[:-1]) - 1)
    days = (end.date() - start.date()).days + 1
    if not 1 <= days <= DAYS_MAX:
        raise invalid("endDate", f"must be 0 to {DAYS_MAX - 1} days after startDate")
    last = end.date() + timedelta(days=1)
    return AnalyticsTerms(start.date(), last, tuple(CURRENCIES), TOP), name


def _day(query: Mapping[str, str], name: str) -> Instant:
    problem = invalid(name, "must be a date such as 2026-11-21, and so must the other one")
    text = query.get(name, "")
    if len(text) != len("2026-11-21"):
        raise problem
    try:
        return clock.parse_instant(f"{text}T00:00:00Z")
    except clock.InvalidInstant as error:
        raise problem from error


HANDLERS = (
    get_billing_balance,
    list_usage_history,
    get_usage_analytics,
)
