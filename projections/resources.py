"""SQL of the gateway's built-in store: ordinary tables beside the ledger, no fold of its events.

Every statement names the account. Whoever adds or takes away holds the account's shelf first, so
that the count is exact and nothing is put into what is being deleted.
"""

from typing import LiteralString

ADD_TO_SHELF: LiteralString = (
    "INSERT INTO gateway_shelves AS s (lane, account_id, resources)"
    " VALUES (%(lane)s, %(account)s, 1)"
    " ON CONFLICT ON CONSTRAINT account_has_one_gateway_shelf"
    " DO UPDATE SET resources = s.resources + 1 WHERE s.resources < %(most)s RETURNING resources"
)
HOLD_SHELF: LiteralString = (
    "SELECT resources FROM gateway_shelves WHERE lane = %(lane)s AND account_id = %(account)s"
    " FOR UPDATE"
)
TAKE_FROM_SHELF: LiteralString = (
    "UPDATE gateway_shelves SET resources = resources - %(count)s"
    " WHERE lane = %(lane)s AND account_id = %(account)s"
)
INSERT: LiteralString = (
    "INSERT INTO gateway_resources (lane, account_id, resource_id, parent_id, kind, created_at,"
    " body) VALUES (%(lane)s, %(account)s, %(id)s, %(parent)s, %(kind)s, %(at)s, %(body)s)"
)
FIND: LiteralString = (
    "SELECT resource_id, created_at, body FROM gateway_resources"
    " WHERE lane = %(lane)s AND account_id = %(account)s AND resource_id = %(id)s"
    " AND kind = %(kind)s"
)
PAGE: LiteralString = (
    "SELECT resource_id, created_at, body FROM gateway_resources"
    " WHERE lane = %(lane)s AND account_id = %(account)s AND kind = %(kind)s"
    " AND parent_id IS NOT DISTINCT FROM %(parent)s"
    " AND (%(after)s::uuid IS NULL OR resource_id > %(after)s)"
    " ORDER BY resource_id LIMIT %(most)s"
)
DELETE: LiteralString = (
    "DELETE FROM gateway_resources WHERE lane = %(lane)s AND account_id = %(account)s"
    " AND (resource_id = %(id)s OR parent_id = %(id)s)"
)
