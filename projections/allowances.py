"""Daily allowances: what an account is granted anew each day of UTC. Rows beside the events.

Amounts are what the newest ``allowance_set`` says; what was granted stands in the ledger.
"""

from datetime import date
from typing import LiteralString

from ledger.ids import AccountId
from ledger.record.store import Statement

SAVE: LiteralString = (
    "INSERT INTO allowances (lane, account_id, asset, amount, granted_through)"
    " VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT ON CONSTRAINT account_has_one_allowance_of_an_asset"
    " DO UPDATE SET amount = EXCLUDED.amount,"
    " granted_through = greatest(allowances.granted_through, EXCLUDED.granted_through)"
)
DELETE: LiteralString = "DELETE FROM allowances WHERE lane = %s AND account_id = %s AND asset = %s"
MARK: LiteralString = (
    "UPDATE allowances SET granted_through = greatest(granted_through, %s)"
    " WHERE lane = %s AND account_id = %s AND asset = %s"
)
LIST: LiteralString = (
    "SELECT asset, amount FROM allowances WHERE lane = %s AND account_id = %s ORDER BY asset"
)
# Few are due at a time: each becomes not due as it is granted. A closed account's never is.
DUE: LiteralString = (
    "SELECT d.account_id, d.asset, d.amount FROM allowances d"
    " JOIN accounts a ON a.lane = d.lane AND a.account_id = d.account_id"
    " WHERE d.lane = %s AND d.granted_through < %s AND a.status <> 'closed'"
    " AND d.account_id > %s ORDER BY d.account_id, d.asset LIMIT %s"
)
OF_DAY: LiteralString = (
    "SELECT coalesce(sum(amount), 0) FROM lots WHERE lane = %s AND account_id = %s AND asset = %s"
    " AND effective_at <= %s AND expires_at = %s"
)
"""What was granted for a day: lots that end with it, spent ones too."""


def save(lane: int, account_id: AccountId, asset: str, amount: str, day: date) -> Statement:
    """Give the statement that sets an allowance which is granted for a day."""
    return SAVE, (lane, account_id, asset, amount, day)


def remove(lane: int, account_id: AccountId, asset: str) -> Statement:
    """Give the statement that ends an allowance."""
    return DELETE, (lane, account_id, asset)


def mark(lane: int, account_id: AccountId, asset: str, day: date) -> Statement:
    """Give the statement that notes up to which day an allowance is granted."""
    return MARK, (day, lane, account_id, asset)
