"""Spend of an account over some days, summed by day, by model and by key. Reads of ``spend``."""

from typing import LiteralString

from projections.inline.spend import TOKENS

BY_DAY: LiteralString = (
    "SELECT day, asset, sum(amount) FROM spend WHERE lane = %(lane)s"
    " AND account_id = %(account)s AND day >= %(from)s AND day < %(to)s"
    " AND asset = ANY(%(assets)s) GROUP BY day, asset"
)
# A request that several assets paid has its tokens in one of the lines only.
BY_MODEL: LiteralString = (
    "SELECT model, asset, sum(amount),"
    f" {TOKENS}"  # sql-ok: columns of spend
    " FROM spend WHERE lane = %(lane)s"
    " AND account_id = %(account)s AND day >= %(from)s AND day < %(to)s"
    " AND asset = ANY(%(assets)s) GROUP BY model, asset"
)
BY_KEY: LiteralString = (
    "SELECT key_id, asset, sum(amount),"
    f" {TOKENS}, max(integration)"  # sql-ok: columns of spend
    " FROM spend"
    " WHERE lane = %(lane)s AND account_id = %(account)s AND day >= %(from)s AND day < %(to)s"
    " AND asset = ANY(%(assets)s) GROUP BY key_id, asset"
)
MODELS_BY_DAY: LiteralString = (
    "SELECT day, model, sum(amount) FROM spend WHERE lane = %(lane)s"
    " AND account_id = %(account)s AND day >= %(from)s AND day < %(to)s"
    " AND asset = ANY(%(assets)s) AND model = ANY(%(chosen)s) GROUP BY day, model"
)
KEYS_BY_DAY: LiteralString = (
    "SELECT day, key_id, sum(amount) FROM spend WHERE lane = %(lane)s"
    " AND account_id = %(account)s AND day >= %(from)s AND day < %(to)s"
    " AND asset = ANY(%(assets)s) AND key_id = ANY(%(chosen)s) GROUP BY day, key_id"
)
