"""SQL of what may be tried only so often: a table beside the ledger, no fold of its events."""

from typing import LiteralString

# One statement under the row's own lock: exact however many ask at once, in however many processes.
ADMIT: LiteralString = (
    "INSERT INTO attempts AS s (subject_hash, recent) VALUES (%(subject)s, ARRAY[%(at)s])"
    " ON CONFLICT ON CONSTRAINT subject_has_one_row_of_attempts DO UPDATE SET recent ="
    " ARRAY(SELECT each FROM unnest(s.recent) AS each WHERE each > %(since)s) || EXCLUDED.recent"
    " WHERE (SELECT count(*) FROM unnest(s.recent) AS each WHERE each > %(since)s) < %(most)s"
    " RETURNING true"
)
RECENT: LiteralString = (
    "SELECT each FROM attempts, unnest(recent) AS each WHERE subject_hash = %(subject)s"
    " AND each > %(since)s ORDER BY each"
)
FORGET: LiteralString = (
    "DELETE FROM attempts WHERE (SELECT max(each) FROM unnest(recent) AS each) <= %s"
)
