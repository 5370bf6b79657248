"""What the API reads: projections as of one lane position.

A read takes one snapshot (REPEATABLE READ) of the lane's head and the rows, so that the position
it answers with is exactly the one the numbers stand at. State that decisions read is read back
through the same projections that decisions use: what is shown is what is enforced.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from ledger.clock import DatabaseClock
from ledger.errors import LedgerCorrupt
from ledger.ids import AccountId, lane_of_account
from ledger.record import arrays
from ledger.record.batch import Inline, Wanted
from ledger.state import LaneState
from ledger.usage import CLASSES
from projections.inline import spend

FIND_KEYS: LiteralString = (
    "SELECT key_id, account_id FROM keys WHERE lane = %s AND key_id = ANY(%s)"
)
FIND_SESSION_KEY: LiteralString = (
    "SELECT key_id FROM keys WHERE lane = %s AND account_id = %s AND settings ->> 'session' = %s"
    " ORDER BY created_at, key_id LIMIT 1"
)
MODELS_USED: LiteralString = (
    "SELECT DISTINCT s.model FROM spend AS s JOIN accounts AS a USING (lane, account_id)"
    " LEFT JOIN keys AS k ON k.lane = s.lane AND k.key_id = s.key_id"
    " WHERE s.day >= %s AND COALESCE(NULLIF(k.rate_card, ''), a.rate_card) = %s"
    " ORDER BY s.model LIMIT %s"
)
"""What was used since a day and is priced by a rate card."""
ACCOUNTS_THAT_USED: LiteralString = (
    "SELECT count(DISTINCT s.account_id)"
    " FROM spend AS s JOIN accounts AS a USING (lane, account_id)"
    " LEFT JOIN keys AS k ON k.lane = s.lane AND k.key_id = s.key_id"
    " WHERE s.day >= %s AND COALESCE(NULLIF(k.rate_card, ''), a.rate_card) = %s"
    " AND s.model = ANY(%s)"
)
ROLE: LiteralString = (
    "SELECT members ->> %s FROM accounts WHERE lane = %s AND account_id = %s AND status <> 'closed'"
)
PAGE_KEYS: LiteralString = (
    "SELECT key_id FROM keys WHERE lane = %(lane)s AND account_id = %(account)s"
    " AND (%(after)s::uuid IS NULL OR (created_at, key_id) < (SELECT created_at, key_id FROM keys"
    " WHERE lane = %(lane)s AND account_id = %(account)s AND key_id = %(after)s))"
    " AND (%(member)s::text IS NULL OR settings ->> 'member' = %(member)s)"
    " ORDER BY created_at DESC, key_id DESC LIMIT %(most)s"
)
PAGE_GRANTS: LiteralString = (
    "SELECT number, asset, kind, status, priority, amount, remaining, held, granted_at,"
    " effective_at, expires_at, reason, cost, currency, payment_reference"
    " FROM lots WHERE lane = %(lane)s AND account_id = %(account)s AND number < %(before)s"
    " ORDER BY number DESC LIMIT %(most)s"
)
BALANCES: LiteralString = (
    "SELECT asset, posted, pending, overdrawn, overdraft_held FROM balances"
    " WHERE lane = %s AND account_id = %s ORDER BY asset"
)
# One statement for every grouping: what is not asked for is NULL in each row, hence one group.
SPEND: LiteralString = (
    "SELECT CASE WHEN %(day)s THEN day END AS by_day,"  # sql-ok: columns of spend
    " CASE WHEN %(integration)s THEN integration END AS by_integration,"
    " CASE WHEN %(model)s THEN model END AS by_model, CASE WHEN %(key)s THEN key_id END AS by_key,"
    f" asset, sum(requests), sum(unpriced), sum(amount), {spend.summed_each()}"
    " FROM spend WHERE lane = %(lane)s AND account_id = %(account)s"
    " AND (%(from)s::date IS NULL OR day >= %(from)s) AND (%(to)s::date IS NULL OR day < %(to)s)"
    " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT %(most)s"
)


def _usage_by(period: LiteralString) -> LiteralString:
    """Sum what each key of a dialect used by a period, newest first, keys found by primary key.

    More keys than there may be rows are left out before anything is summed: each of those kept has
    a row that comes before any of theirs.
    """
    return (
        "WITH own AS (SELECT k.key_id, newest.first FROM keys k CROSS JOIN LATERAL ("
        f" SELECT {period} AS first FROM spend s WHERE s.lane = k.lane"  # sql-ok: one of two below
        " AND s.account_id = k.account_id AND s.key_id = k.key_id"
        " ORDER BY s.day DESC LIMIT 1) AS newest"
        " WHERE k.lane = %(lane)s AND k.account_id = %(account)s AND k.dialect = %(dialect)s"
        " AND k.settings ->> 'session' IS NULL AND (%(key)s::uuid IS NULL OR k.key_id = %(key)s)"
        " ORDER BY newest.first DESC, k.key_id DESC LIMIT %(most)s)"
        " SELECT used.first, own.key_id, used.requests, used.prompt, used.completion"
        f" FROM own CROSS JOIN LATERAL (SELECT {period} AS first,"
        f" sum(s.requests)::int8 AS requests, {spend.PROMPT}::int8 AS prompt,"
        f" {spend.COMPLETION}::int8 AS completion FROM spend s"
        " WHERE s.lane = %(lane)s AND s.account_id = %(account)s"
        " AND s.key_id = own.key_id AND (%(from)s::date IS NULL OR s.day >= %(from)s)"
        " GROUP BY 1 ORDER BY 1 DESC LIMIT %(most)s) AS used"
        " ORDER BY used.first DESC, own.key_id DESC LIMIT %(most)s"
    )


USAGE_BY_DAY = _usage_by("s.day")
USAGE_BY_MONTH = _usage_by("date_trunc('month', s.day::timestamp)::date")
"""A month is named by its first day."""
# Newest first along the account's own chain: each event says how far back its predecessor is.
ACCOUNT_EVENTS: LiteralString = (
    "WITH RECURSIVE chain AS ("
    " SELECT e.lane, e.lane_seq, e.account_id, e.version, e.recorded_at, e.occurred_at, e.key_id,"
    " e.type::text AS type, e.payload::text AS payload, e.hash, e.gap,"
    " 1 AS place FROM events e WHERE e.lane = %(lane)s AND e.lane_seq = %(start)s"
    " UNION ALL"
    " SELECT e.lane, e.lane_seq, e.account_id, e.version, e.recorded_at, e.occurred_at, e.key_id,"
    " e.type::text, e.payload::text, e.hash, e.gap, chain.place + 1"
    " FROM chain JOIN events e ON e.lane = %(lane)s AND e.lane_seq = chain.lane_seq - chain.gap"
    " WHERE chain.gap > 0 AND chain.place < %(most)s)"
    " SELECT lane, lane_seq, account_id, version, recorded_at, occurred_at, key_id, type,"
    " payload, hash, gap FROM chain ORDER BY place"
)
ACCOUNT_HEAD: LiteralString = (
    "SELECT last_seq, version FROM account_heads WHERE lane = %s AND account_id = %s"
)
LAST_RECORDED_AT: LiteralString = (
    "SELECT e.recorded_at FROM account_heads h"
    " JOIN events e ON e.lane = h.lane AND e.lane_seq = h.last_seq"
    " WHERE h.lane = %s AND h.account_id = %s"
)
ASSETS_OF_LOTS: LiteralString = (
    "SELECT number, asset FROM lots WHERE lane = %s AND account_id = %s AND number = ANY(%s)"
)
TERMS_OF_KEYS: LiteralString = (
    "SELECT key_id, dialect, settings ->> 'session' IS NOT NULL FROM keys"
    " WHERE lane = %s AND key_id = ANY(%s)"
)
LANES: LiteralString = "SELECT lane, seq, last_recorded_at, chain FROM lane_heads ORDER BY lane"
VERIFY: LiteralString = (
    "SELECT s.key_id, s.account_id, s.number, s.lane, h.seq, k.name, k.dialect, k.status,"
    " k.expires_at, k.scopes, k.secrets::text, a.status, k.allowed_models FROM key_secrets s"
    " JOIN keys k ON k.lane = s.lane AND k.key_id = s.key_id"
    " JOIN accounts a ON a.lane = s.lane AND a.account_id = s.account_id"
    " JOIN lane_heads h ON h.lane = s.lane WHERE s.secret_hash = ANY(%s) LIMIT 1"
)

REPORT: LiteralString = (
    "SELECT provider_request_id, report FROM provider_reports WHERE lane = %s AND request_hash = %s"
)
NOTES: LiteralString = (
    "SELECT metadata, end_user FROM request_notes WHERE lane = %s AND request_hash = %s"
)
FORGET_REPORTS: LiteralString = (
    "DELETE FROM provider_reports WHERE lane = %s AND recorded_at < clock_timestamp() - %s"
)

HEAD: LiteralString = "SELECT seq, ledger_clock() FROM lane_heads WHERE lane = %s"

SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Snapshot:
    """One lane as of one position."""

    def __init__(self, connection: AsyncConnection, lane: int, inline: Sequence[Inline]) -> None:
        """Take a connection inside its transaction."""
        self.connection = connection
        self.lane = lane
        self.seq = 0
        self._inline = inline

    async def rows(self, sql: LiteralString | bytes, parameters: Any) -> list[TupleRow]:  # noqa: ANN401
        """Return the rows of a query."""
        cursor = await self.connection.execute(sql, parameters, binary=True)
        return await cursor.fetchall()

    async def state(self, accounts: Sequence[UUID] = (), keys: Sequence[UUID] = ()) -> LaneState:
        """Bring back what decisions read about accounts and keys."""
        state = LaneState(seq=self.seq)
        wanted = Wanted(list(accounts), list(keys), [])
        loads = [load for part in self._inline for load in part.load(self.lane, wanted)]
        async with self.connection.pipeline():
            found = [
                await self.connection.execute(load.sql, load.parameters, binary=True)
                for load in loads
            ]
        for load, cursor in zip(loads, found, strict=True):
            load.absorb(state, await cursor.fetchall())
        return state


@asynccontextmanager
async def snapshot(
    pool: AsyncConnectionPool, lane: int, inline: Sequence[Inline], clock: DatabaseClock
) -> AsyncIterator[Snapshot]:
    """Open a snapshot of a lane; its position is ``seq``, and its time is what ``clock`` hears."""
    async with pool.connection() as connection:
        await connection.execute(SNAPSHOT)
        try:
            found = Snapshot(connection, lane, inline)
            rows = await found.rows(HEAD, (lane,))
            if not rows:
                message = f"Lane {lane} has no head."
                raise LedgerCorrupt(message, lane=lane)
            found.seq, at = rows[0]
            clock.hear(at)
            yield found
        finally:
            await connection.execute("COMMIT")


class SpendLine(NamedTuple):
    """Sums of one group and asset."""

    day: object
    integration: str | None
    model: str | None
    key_id: UUID | None
    asset: str
    requests: int
    unpriced: int
    amount: int
    usage: dict[str, int]


class UsageLine(NamedTuple):
    """What a key used in a day or month: a row of ``USAGE_BY_DAY`` or ``USAGE_BY_MONTH``."""

    first: date
    """The day, or the month's first."""
    key_id: UUID
    requests: int
    prompt: int
    """Input tokens of every kind."""
    completion: int


def spend_line(row: TupleRow) -> SpendLine:
    """Turn a row of ``SPEND`` into sums."""
    sums = map(int, row[8:])
    usage = {name: units for name, units in zip(CLASSES, sums, strict=True) if units}
    day, integration, model, key_id, asset, requests, unpriced, amount = row[:8]
    counts = int(requests), int(unpriced), int(amount)
    return SpendLine(day, integration, model, key_id, asset, *counts, usage)


def lane_of(account_id: AccountId, lanes: int) -> int:
    """Give the lane of an account."""
    return lane_of_account(account_id, lanes)


async def prepare(connection: AsyncConnection) -> None:
    """Make a connection ready for reads."""
    await connection.set_autocommit(True)
    arrays.register(connection)
