"""SQL of answers kept for a retry: an unlogged table beside the ledger, no fold of its events.

A row is claimed by who makes the answer and then holds the answer. The database's clock alone
decides how long either counts, because holders are in many processes on many hosts.
"""

from typing import LiteralString

CLAIM: LiteralString = (
    "INSERT INTO gateway_answers (lane, once_hash, account_id, fingerprint, holder, until)"
    " VALUES (%(lane)s, %(once)s, %(account)s, %(fingerprint)s, %(holder)s,"
    " clock_timestamp() + %(lease)s * interval '1 second')"
    " ON CONFLICT ON CONSTRAINT idempotency_key_has_one_answer DO NOTHING RETURNING true"
)
# Only the row that was looked at: whoever comes second finds another holder.
TAKE_OVER: LiteralString = (
    "UPDATE gateway_answers SET holder = %(holder)s,"
    " until = clock_timestamp() + %(lease)s * interval '1 second'"
    " WHERE lane = %(lane)s AND once_hash = %(once)s AND holder = %(dead)s"
    " AND head IS NULL AND until < clock_timestamp() RETURNING true"
)
LOOK: LiteralString = (
    "SELECT fingerprint, holder, head IS NOT NULL, until < clock_timestamp() FROM gateway_answers"
    " WHERE lane = %(lane)s AND once_hash = %(once)s"
)
READ: LiteralString = (
    "SELECT request_id, head, body FROM gateway_answers"
    " WHERE lane = %(lane)s AND once_hash = %(once)s AND head IS NOT NULL"
)
RENEW: LiteralString = (
    "UPDATE gateway_answers AS a SET until = clock_timestamp() + %(lease)s * interval '1 second'"
    " FROM unnest(%(lanes)s::int2[], %(onces)s::bytea[]) AS mine(lane, once_hash)"
    " WHERE a.lane = mine.lane AND a.once_hash = mine.once_hash"
    " AND a.holder = %(holder)s AND a.head IS NULL"
)
# An insert as well: an unlogged table is empty after the server crashed. No row comes back where
# the account keeps as much as it may, or somebody else holds the claim by now.
KEEP: LiteralString = (
    "INSERT INTO gateway_answers AS a"
    " (lane, once_hash, account_id, fingerprint, holder, until, request_id, size, head, body)"
    " SELECT %(lane)s, %(once)s, %(account)s, %(fingerprint)s, %(holder)s,"
    " clock_timestamp() + %(seconds)s * interval '1 second', %(request)s, %(size)s, %(head)s,"
    " %(body)s FROM (SELECT count(*) AS number, coalesce(sum(size), 0) AS bytes"
    " FROM gateway_answers WHERE lane = %(lane)s AND account_id = %(account)s AND size > 0) AS kept"
    " WHERE kept.number < %(number_most)s AND kept.bytes + %(size)s <= %(bytes_most)s"
    " ON CONFLICT ON CONSTRAINT idempotency_key_has_one_answer DO UPDATE"
    " SET until = EXCLUDED.until, request_id = EXCLUDED.request_id, size = EXCLUDED.size,"
    " head = EXCLUDED.head, body = EXCLUDED.body"
    " WHERE a.holder = EXCLUDED.holder AND a.head IS NULL RETURNING true"
)
DROP: LiteralString = (
    "DELETE FROM gateway_answers WHERE lane = %(lane)s AND once_hash = %(once)s"
    " AND holder = %(holder)s AND head IS NULL"
)
DROP_OVER: LiteralString = (
    "DELETE FROM gateway_answers WHERE lane = %(lane)s AND once_hash = %(once)s"
    " AND head IS NOT NULL AND until < clock_timestamp()"
)
# A claim whose holder died tells the retry that it did, for as long as its reservation may live.
FORGET: LiteralString = (
    "DELETE FROM gateway_answers WHERE until < clock_timestamp()"
    " - CASE WHEN head IS NULL THEN %(claims)s ELSE 0 END * interval '1 second'"
)
# The oldest of all accounts go first.
TRIM: LiteralString = (
    "DELETE FROM gateway_answers AS a USING (SELECT lane, once_hash,"
    " sum(size) OVER (ORDER BY until DESC, lane, once_hash) AS bytes FROM gateway_answers"
    " WHERE size > 0) AS kept WHERE kept.bytes > %(bytes_most)s"
    " AND a.lane = kept.lane AND a.once_hash = kept.once_hash"
)
