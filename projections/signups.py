"""SQL of sign-ups per address: an ordinary table beside the ledger, no fold of its events."""

from typing import LiteralString

# One statement under the row's own lock: exact however many ask at once, in however many processes.
ADMIT: LiteralString = (
    "INSERT INTO signups AS s (address_hash, recent) VALUES (%(address)s, ARRAY[%(at)s])"
    " ON CONFLICT ON CONSTRAINT address_has_one_row_of_signups DO UPDATE SET recent ="
    " ARRAY(SELECT each FROM unnest(s.recent) AS each WHERE each > %(since)s) || EXCLUDED.recent"
    " WHERE (SELECT count(*) FROM unnest(s.recent) AS each WHERE each > %(since)s) < %(most)s"
    " RETURNING true"
)
RECENT: LiteralString = (
    "SELECT each FROM signups, unnest(recent) AS each WHERE address_hash = %(address)s"
    " AND each > %(since)s ORDER BY each"
)
FORGET: LiteralString = (
    "DELETE FROM signups WHERE (SELECT max(each) FROM unnest(recent) AS each) <= %s"
)
