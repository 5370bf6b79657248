"""Frames made of projections: spend, balances, cost over time."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import LiteralString
from uuid import UUID

import pandas as pd
import psycopg
import pyarrow as pa

from ledger.ids import format_id
from ledger.money import decimal_of
from ledger.usage import INPUT_TOKENS, OUTPUT_TOKENS
from projections.inline.spend import COLUMNS, summed_each

AMOUNT = pa.decimal128(38, 12)
GROUPS = ("account", "integration", "dialect", "model", "day", "key")
"""What spend can be summed by."""

CLASSES = tuple(COLUMNS.values())
"""Usage classes as columns; ``units`` are calls that are billed themselves."""

TOKEN_CLASSES = (*INPUT_TOKENS, *OUTPUT_TOKENS)
"""Those that are tokens."""

# One statement for every grouping: what is not asked for is NULL in each row, hence one group.
_SPEND: LiteralString = (
    "SELECT CASE WHEN %(account)s THEN s.account_id END,"
    " CASE WHEN %(account)s THEN coalesce(p.name, '') END,"
    " CASE WHEN %(integration)s THEN s.integration END,"
    " CASE WHEN %(dialect)s THEN coalesce(k.dialect, '') END,"
    " CASE WHEN %(model)s THEN s.model END, CASE WHEN %(day)s THEN s.day END,"
    " CASE WHEN %(key)s THEN s.key_id END, s.asset, sum(s.requests)::int8,"
    f" sum(s.unpriced)::int8, sum(s.amount), {summed_each('s.')}"  # sql-ok: columns of spend
    " FROM spend s LEFT JOIN keys k ON k.lane = s.lane AND k.key_id = s.key_id"
    " LEFT JOIN account_profiles p ON p.account_id = s.account_id"
    " WHERE (%(of_account)s::uuid IS NULL OR s.account_id = %(of_account)s)"
    " AND (%(from)s::date IS NULL OR s.day >= %(from)s)"
    " AND (%(to)s::date IS NULL OR s.day < %(to)s)"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    " HAVING sum(s.requests) <> 0 OR sum(s.amount) <> 0"
    " ORDER BY sum(s.amount) DESC, 2, 3, 4, 5, 6, 7, 8"
)
_SPEND_COLUMNS = (
    *("account", "account_name", "integration", "dialect", "model", "day", "key", "asset"),
    *("requests", "unpriced", "amount", *CLASSES),
)
_BALANCES: LiteralString = (
    "SELECT b.account_id, coalesce(p.name, ''), a.status, b.asset, b.posted, b.pending"
    " FROM balances b JOIN accounts a ON a.lane = b.lane AND a.account_id = b.account_id"
    " LEFT JOIN account_profiles p ON p.account_id = b.account_id"
    " WHERE %(of_account)s::uuid IS NULL OR b.account_id = %(of_account)s"
    " ORDER BY 2, 1, 4"
)
# From the events themselves: the roll-up knows days only. A request that was priced later counts
# in the minute in which it happened, as it does in the roll-up's day.
_MINUTES: LiteralString = (
    "SELECT date_trunc('minute', e.occurred_at),"
    " coalesce(p.name, ''), e.payload ->> 'integration', coalesce(e.payload ->> 'asset', ''),"
    " count(*) FILTER (WHERE e.type <> 'request_rated'),"
    " coalesce(trunc(sum((e.payload ->> 'charge')::numeric * 1000000000000)), 0)"
    " FROM events e LEFT JOIN account_profiles p ON p.account_id = e.account_id"
    " WHERE e.type IN ('request_recorded', 'request_settled', 'request_rated')"
    " AND (%(of_account)s::uuid IS NULL OR e.account_id = %(of_account)s)"
    " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
)


def spend(
    connection: psycopg.Connection,
    by: Sequence[str] = ("account", "integration"),
    *,
    start: date | None = None,
    end: date | None = None,
    account_id: UUID | None = None,
) -> pd.DataFrame:
    """Sum spend by any of ``GROUPS``, the dearest first; one row per asset.

    An amount is missing where nothing has a price yet; with ``unpriced`` requests beside it, it is
    the least that they come to. ``start`` is inclusive, ``end`` exclusive, both days of UTC. Usage
    classes that nobody used are left out.
    """
    assert set(by) <= set(GROUPS), by
    terms: dict[str, object] = {group: group in by for group in GROUPS}
    terms |= {"of_account": account_id, "from": start, "to": end}
    rows = connection.execute(_SPEND, terms).fetchall()
    columns = dict(zip(_SPEND_COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}
    wanted = [group for group in GROUPS if group in by]
    made: dict[str, pa.Array] = {}
    for group in wanted:
        if group == "account":
            made["account"] = _ids("acct", columns.get("account", ()))
            made["account_name"] = pa.array(columns.get("account_name", ()), pa.string())
        elif group == "key":
            made["key"] = _ids("key", columns.get("key", ()))
        else:
            kind = pa.date32() if group == "day" else pa.string()
            made[group] = pa.array(columns.get(group, ()), kind)
    made["asset"] = pa.array(columns.get("asset", ()), pa.string())
    made["requests"] = pa.array(columns.get("requests", ()), pa.int64())
    for name in ("unpriced", *CLASSES):
        values = columns.get(name, ())
        if any(values) or name in {"input", "output"}:
            made[name] = pa.array(values, pa.int64())
    paid = zip(columns.get("asset", ()), columns.get("amount", ()), strict=True)
    # Without an asset nothing has a price yet: that is unknown, and no zero.
    made["amount"] = _amounts([amount if asset else None for asset, amount in paid])
    return _frame(made)


def balances(connection: psycopg.Connection, *, account_id: UUID | None = None) -> pd.DataFrame:
    """Give what each account has of each asset: posted, held by open reservations, available."""
    rows = connection.execute(_BALANCES, {"of_account": account_id}).fetchall()
    ids, names, status, assets, posted, pending = zip(*rows, strict=True) if rows else [()] * 6
    available = [have - held for have, held in zip(posted, pending, strict=True)]
    return _frame(
        {
            "account": _ids("acct", ids),
            "account_name": pa.array(names, pa.string()),
            "status": pa.array(status, pa.string()),
            "asset": pa.array(assets, pa.string()),
            "balance": _amounts(posted),
            "pending": _amounts(pending),
            "available": _amounts(available),
        }
    )


def cost_per_minute(
    connection: psycopg.Connection, *, account_id: UUID | None = None
) -> pd.DataFrame:
    """Sum charges per minute in which the requests happened, by account and integration."""
    rows = connection.execute(_MINUTES, {"of_account": account_id}).fetchall()
    minutes, names, integrations, assets, requests, amounts = (
        zip(*rows, strict=True) if rows else [()] * 6
    )
    return _frame(
        {
            "minute": pa.array(minutes, pa.timestamp("us", tz="UTC")),
            "account_name": pa.array(names, pa.string()),
            "integration": pa.array(integrations, pa.string()),
            "asset": pa.array(assets, pa.string()),
            "requests": pa.array(requests, pa.int64()),
            "amount": _amounts(amounts),
        }
    )


def totals(frame: pd.DataFrame, by: Sequence[str], column: str = "amount") -> dict[object, Decimal]:
    """Sum a column of amounts exactly, by the values of other columns; missing ones are left out.

    Keys are values where ``by`` names one column, else tuples of them.
    """
    sums: dict[object, Decimal] = {}
    keys = zip(*(frame[name] for name in by), strict=True)
    for key, amount in zip(keys, frame[column], strict=True):
        place = key[0] if len(by) == 1 else key
        if not pd.isna(amount):
            sums[place] = sums.get(place, Decimal(0)) + amount
    return sums


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Give the rows as plain values: whole numbers, Decimals, days and text."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    found: list[dict[str, object]] = table.to_pylist()
    return found


def _amounts(pico: Sequence[Decimal | None]) -> pa.Array:
    return pa.array([None if each is None else decimal_of(int(each)) for each in pico], AMOUNT)


def _ids(prefix: str, ids: Sequence[UUID]) -> pa.Array:
    return pa.array([format_id(prefix, found) for found in ids], pa.string())


def _frame(columns: Mapping[str, pa.Array]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.table(dict(columns)).to_pandas(types_mapper=pd.ArrowDtype)
    return frame
