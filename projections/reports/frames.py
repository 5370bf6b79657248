"""Frames made of projections: spend, balances, cost over time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

import pandas as pd
import psycopg
import pyarrow as pa

from ledger import usage
from ledger.ids import format_id, lane_of_account
from ledger.money import decimal_of
from ledger.requests import OCCURRED_AFTER_MAX
from ledger.server import database
from ledger.usage import INPUT_TOKENS, OUTPUT_TOKENS, column_of
from projections.inline import credits as credit
from projections.inline import spend as spending

AMOUNT = pa.decimal128(38, 12)
GROUPS = ("account", "integration", "dialect", "model", "day", "key")
"""What spend can be summed by."""

CLASSES = tuple(map(column_of, usage.CLASSES))
"""Usage classes as columns; ``units`` are calls that are billed themselves."""

TOKEN_CLASSES = (*INPUT_TOKENS, *OUTPUT_TOKENS)
"""Those that are tokens."""

_SPEND_COLUMNS = (
    *("account", "account_name", "integration", "dialect", "model", "day", "key", "asset"),
    *("requests", "unpriced", "amount", *CLASSES),
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
    the least that they cost. ``start`` is inclusive, ``end`` exclusive, both days of UTC. Usage
    classes that nobody used are left out.
    """
    assert set(by) <= set(GROUPS), by
    terms: dict[str, object] = {group: group in by for group in GROUPS}
    terms |= {"of_account": account_id, "from": start, "to": end}
    rows = connection.execute(spending.REPORT, terms).fetchall()
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
    """Return what each account has of each asset: posted, held by open reservations, available."""
    rows = connection.execute(credit.REPORT, {"of_account": account_id}).fetchall()
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
    connection: psycopg.Connection,
    *,
    start: date,
    end: date | None = None,
    account_id: UUID | None = None,
) -> pd.DataFrame:
    """Sum charges per minute in which the requests happened, by account and integration.

    ``start`` is inclusive, ``end`` exclusive, both days of UTC. It reads every event since.
    """
    since = datetime.combine(start, time.min, UTC)
    lane = None
    if account_id is not None:
        lane = lane_of_account(account_id, database.lanes_of(connection))
    terms = {
        "of_account": account_id,
        "lane": lane,
        "since": since,
        "recorded_since": since - OCCURRED_AFTER_MAX,
        "until": None if end is None else datetime.combine(end, time.min, UTC),
    }
    rows = connection.execute(spending.MINUTES, terms).fetchall()
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
    """Return the rows as plain values: whole numbers, Decimals, days and text."""
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
