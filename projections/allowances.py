"""Daily allowances: what an account is granted anew each day of UTC. Rows beside the events.

Amounts are what the newest ``allowance_set`` says; what was granted stands in the ledger.
"""

from typing import LiteralString

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
