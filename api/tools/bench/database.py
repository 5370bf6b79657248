"""Databases to measure in, their sizes, and bare COPY of the events that were ingested."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

BLOCK_BYTES = 1 << 20

EVENTS_BYTES: LiteralString = (
    "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::int8 FROM pg_inherits"
    " WHERE inhparent = 'keyledger.events'::regclass"
)
REQUEST_IDS_BYTES: LiteralString = "SELECT pg_total_relation_size('keyledger.request_ids')"
REQUESTS: LiteralString = "SELECT count(*) FROM keyledger.request_ids"
EVENTS: LiteralString = "SELECT sum(seq)::int8 FROM keyledger.lane_heads"

MARK: LiteralString = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS bench_marks (lane int2, seq int8);"
    " TRUNCATE bench_marks; INSERT INTO bench_marks SELECT lane, seq FROM keyledger.lane_heads"
)
COPY_NEW: LiteralString = (
    "COPY (SELECT e.* FROM keyledger.events AS e JOIN bench_marks AS m"
    " ON m.lane = e.lane AND e.lane_seq > m.seq) TO STDOUT (FORMAT binary)"
)
COPY_ALL: LiteralString = "COPY (SELECT * FROM keyledger.events) TO STDOUT (FORMAT binary)"
MAKE_TARGET: LiteralString = (
    "DROP TABLE IF EXISTS public.bench_events; CREATE TABLE public.bench_events"
    " (LIKE keyledger.events INCLUDING CONSTRAINTS, PRIMARY KEY (lane, lane_seq))"
)
"""The same columns, checks and primary key; no partitions, no triggers."""
COPY_IN: LiteralString = "COPY public.bench_events FROM STDIN (FORMAT binary)"
DROP_TARGET: LiteralString = "DROP TABLE public.bench_events"

FROM_PROJECTION: LiteralString = (
    "SELECT account_id, integration, asset, sum(requests), sum(amount) FROM keyledger.spend"
    " WHERE day >= date_trunc('month', now() AT TIME ZONE 'UTC')::date"
    " GROUP BY account_id, integration, asset"
)
FROM_EVENTS: LiteralString = (
    "SELECT account_id, payload ->> 'integration', payload ->> 'asset', count(*),"
    " sum((payload ->> 'charge')::numeric)"
    " FROM keyledger.events WHERE type IN ('request_recorded', 'request_settled')"
    " AND occurred_at >= date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
    " GROUP BY 1, 2, 3"
)


class Size(NamedTuple):
    """What metered requests take on disk, and how many there are."""

    bytes: int
    """Events and request ids, heaps and indexes."""
    requests: int


def named(url: str, name: str) -> str:
    """Return how to connect to another database of the same server."""
    known = {each: str(value) for each, value in conninfo_to_dict(url).items()}
    return make_conninfo(**{**known, "dbname": name})


@contextlib.contextmanager
def fresh(url: str, purpose: str) -> Iterator[str]:
    """Make an empty database for the block; yield how to connect to it."""
    name = f"keyledger_bench_{purpose}_{secrets.token_hex(4)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name)))
        try:
            yield named(url, name)
        finally:
            connection.execute(drop.format(sql.Identifier(name)))


class LedgerProbe:
    """Looks at the measured ledger from outside, on a connection of its own."""

    def __init__(self, url: str) -> None:
        """Connect."""
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def number(self, query: LiteralString) -> int:
        """Return the one number of a query."""
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def size(self) -> Size:
        """Return what events and request ids take."""
        size_bytes = self.number(EVENTS_BYTES) + self.number(REQUEST_IDS_BYTES)
        return Size(size_bytes, self.number(REQUESTS))

    def mark(self) -> None:
        """Remember where the lanes stand."""
        self._connection.execute(MARK)

    def copy_in_seconds(self) -> float:
        """Copy the events since the mark into a bare table; return how many seconds it took."""
        with self._connection.cursor().copy(COPY_NEW) as source:
            rows = b"".join(source)
        self._connection.execute(MAKE_TARGET)
        began = time.perf_counter()
        with self._connection.cursor().copy(COPY_IN) as target:
            for start in range(0, len(rows), BLOCK_BYTES):
                target.write(rows[start : start + BLOCK_BYTES])
        took_seconds = time.perf_counter() - began
        self._connection.execute(DROP_TARGET)
        return took_seconds

    def copy_out_seconds(self) -> float:
        """Copy all events out and drop them; return how many seconds it took."""
        began = time.perf_counter()
        with self._connection.cursor().copy(COPY_ALL) as source:
            for _ in source:
                pass
        return time.perf_counter() - began

    def seconds(self, query: LiteralString) -> float:
        """Run a query to its end; return how many seconds it took."""
        began = time.perf_counter()
        self._connection.execute(query).fetchall()
        return time.perf_counter() - began
