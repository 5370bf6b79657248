"""SQL of characters and conversations: ordinary tables beside the ledger, no fold of its events.

Whether an account is closed is asked of the projection ``accounts``, so that what a closed account
had published is public no more from that event on.
"""

from typing import LiteralString

# Characters.

ACCOUNT_STATUS: LiteralString = "SELECT status FROM accounts WHERE lane = %s AND account_id = %s"
# Whoever creates or changes a character of an account holds its shelf: so the count is exact, and
# a slug that was found free stays so.
ADD_TO_SHELF: LiteralString = (
    "INSERT INTO character_shelves AS s (account_id, characters) VALUES (%(account)s, 1)"
    " ON CONFLICT ON CONSTRAINT account_has_one_shelf DO UPDATE SET characters = s.characters + 1"
    " WHERE s.characters < %(most)s RETURNING characters"
)
HOLD_SHELF: LiteralString = (
    "SELECT characters FROM character_shelves WHERE account_id = %s FOR UPDATE"
)
TAKE_FROM_SHELF: LiteralString = (
    "UPDATE character_shelves SET characters = characters - 1 WHERE account_id = %s"
)
FIND_CREATED: LiteralString = (
    "SELECT character_id, request_fingerprint FROM characters"
    " WHERE account_id = %s AND request_hash = %s"
)
SLUGS_TAKEN: LiteralString = (
    "SELECT slug FROM characters WHERE slug = ANY(%(slugs)s::text[])"
    " AND (account_id = %(account)s OR status = 'published')"
)
INSERT_CHARACTER: LiteralString = (
    "INSERT INTO characters (character_id, account_id, lane, machine_id, created_at, updated_at,"
    " version, slug, name, description, greeting, system_prompt, multiplier, status,"
    " request_hash, request_fingerprint)"
    " VALUES (%(character)s, %(account)s, %(lane)s, %(machine)s, %(at)s, %(at)s, 1, %(slug)s,"
    " %(name)s, %(description)s, %(greeting)s, %(system_prompt)s, %(multiplier)s, 'draft',"
    " %(request_hash)s, %(request_fingerprint)s)"
)
INSERT_SCENARIO: LiteralString = (
    "INSERT INTO character_scenarios (character_id, place, slug, name, description, greeting,"
    " system_prompt) VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
DELETE_SCENARIOS: LiteralString = "DELETE FROM character_scenarios WHERE character_id = %s"
OWNER: LiteralString = (
    "SELECT account_id FROM characters WHERE character_id = %(character)s"
    " AND (%(account)s::uuid IS NULL OR account_id = %(account)s)"
)
CHANGE_CHARACTER: LiteralString = (
    "UPDATE characters SET slug = %(slug)s, name = %(name)s, description = %(description)s,"
    " greeting = %(greeting)s, system_prompt = %(system_prompt)s, multiplier = %(multiplier)s,"
    " updated_at = %(at)s, version = version + 1 WHERE character_id = %(character)s"
)
SET_STATUS: LiteralString = (
    "UPDATE characters SET status = %(status)s, updated_at = %(at)s, version = version + 1"
    " WHERE character_id = %(character)s"
)
DELETE_CHARACTER: LiteralString = "DELETE FROM characters WHERE character_id = %s"
# A closed account would else keep a slug for ever.
FREE_SLUG: LiteralString = (
    "UPDATE characters c SET status = 'withdrawn', updated_at = %(at)s, version = c.version + 1"
    " FROM accounts a WHERE c.slug = %(slug)s AND c.status = 'published'"
    " AND a.lane = c.lane AND a.account_id = c.account_id AND a.status = 'closed'"
)
# By id, or by slug: the account's own, then somebody's public one, then its own withdrawn one.
FIND_CHARACTER: LiteralString = (
    "SELECT c.character_id, c.account_id, c.slug, c.name, c.description, c.greeting,"
    " c.system_prompt, c.multiplier, c.status,"
    " c.status = 'published' AND coalesce(a.status <> 'closed', false), c.machine_id,"
    " c.created_at, c.updated_at, c.version,"
    " (SELECT coalesce(json_agg(json_build_object('slug', s.slug, 'name', s.name, 'description',"
    " s.description, 'greeting', s.greeting, 'system_prompt', s.system_prompt) ORDER BY s.place),"
    " '[]')::text FROM character_scenarios s WHERE s.character_id = c.character_id)"
    " FROM characters c LEFT JOIN accounts a ON a.lane = c.lane AND a.account_id = c.account_id"
    " WHERE c.character_id = coalesce(%(character)s::uuid, (SELECT s.character_id FROM characters s"
    " LEFT JOIN accounts b ON b.lane = s.lane AND b.account_id = s.account_id"
    " WHERE s.slug = %(slug)s AND (s.account_id = %(account)s::uuid"
    " OR (s.status = 'published' AND b.status <> 'closed'))"
    " ORDER BY CASE WHEN s.account_id = %(account)s::uuid"
    " THEN CASE WHEN s.status = 'withdrawn' THEN 2 ELSE 0 END ELSE 1 END LIMIT 1))"
)
# Newest first; each side reads no more rows than it gives.
PAGE_CHARACTERS: LiteralString = (
    "WITH found AS ((SELECT character_id FROM characters WHERE account_id = %(account)s::uuid"
    " AND status = ANY(%(statuses)s::text[]) AND character_id < %(before)s"
    " ORDER BY character_id DESC LIMIT %(most)s)"
    " UNION (SELECT c.character_id FROM characters c"
    " JOIN accounts a ON a.lane = c.lane AND a.account_id = c.account_id"
    " WHERE %(public)s AND c.status = 'published' AND a.status <> 'closed'"
    " AND c.character_id < %(before)s ORDER BY c.character_id DESC LIMIT %(most)s))"
    " SELECT c.character_id, c.account_id, c.slug, c.name, c.description, c.multiplier, c.status,"
    " c.machine_id, c.created_at, c.updated_at,"
    " (SELECT coalesce(json_agg(json_build_object('slug', s.slug, 'name', s.name)"
    " ORDER BY s.place), '[]')::text FROM character_scenarios s"
    " WHERE s.character_id = c.character_id)"
    " FROM found JOIN characters c USING (character_id)"
    " ORDER BY c.character_id DESC LIMIT %(most)s"
)

# Chats.

# Of two at a time the later one stays, whichever is written first.
NOTE_CHAT: LiteralString = (
    "INSERT INTO character_chats AS c (account_id, character_id, last_at, scenario, via)"
    " VALUES (%(account)s, %(character)s, %(at)s, %(scenario)s, %(via)s)"
    " ON CONFLICT ON CONSTRAINT account_chats_with_a_character_once DO UPDATE"
    " SET last_at = EXCLUDED.last_at, scenario = EXCLUDED.scenario, via = EXCLUDED.via"
    " WHERE c.last_at <= EXCLUDED.last_at RETURNING xmax = 0"
)
TRIM_CHATS: LiteralString = (
    "DELETE FROM character_chats WHERE account_id = %(account)s AND character_id IN"
    " (SELECT character_id FROM character_chats WHERE account_id = %(account)s"
    " ORDER BY last_at DESC, character_id OFFSET %(most)s)"
)
RECENT_CHAT: LiteralString = (
    "SELECT h.character_id, h.scenario, h.via, h.last_at FROM character_chats h"
    " JOIN characters c USING (character_id)"
    " JOIN accounts a ON a.lane = c.lane AND a.account_id = c.account_id"
    " WHERE h.account_id = %(account)s AND ((c.account_id = %(account)s"
    " AND c.status <> 'withdrawn') OR (c.status = 'published' AND a.status <> 'closed'))"
    " ORDER BY h.last_at DESC, h.character_id DESC LIMIT 1"
)

# Sessions.

# Its row is locked until the old messages are gone: of two at a time one is the session.
BEGIN_SESSION: LiteralString = (
    "INSERT INTO character_sessions (session_id, account_id, character_id, started_at,"
    " last_message_at, round, messages, score, current_state, outcome, user_session_id,"
    " player_name, player_gender) VALUES (%(session)s, %(account)s, %(character)s, %(at)s, %(at)s,"
    " 1, 1, 0, %(state)s, NULL, %(user_session)s, %(player_name)s, %(player_gender)s)"
    " ON CONFLICT ON CONSTRAINT player_has_one_session DO UPDATE"
    " SET session_id = EXCLUDED.session_id, started_at = EXCLUDED.started_at,"
    " last_message_at = EXCLUDED.last_message_at, round = 1, messages = 1, score = 0,"
    " current_state = EXCLUDED.current_state, outcome = NULL,"
    " player_name = EXCLUDED.player_name, player_gender = EXCLUDED.player_gender RETURNING id"
)
RESET_SESSION: LiteralString = (
    "UPDATE character_sessions SET started_at = %(at)s, last_message_at = %(at)s,"
    " round = round + 1, messages = 1, score = 0, current_state = %(state)s, outcome = NULL"
    " WHERE account_id = %(account)s AND character_id = %(character)s"
    " AND user_session_id = %(user_session)s RETURNING id"
)
FIND_SESSION: LiteralString = (
    "SELECT id, session_id, account_id, character_id, user_session_id, player_name,"
    " player_gender, current_state, score, outcome, round, started_at, last_message_at"
    " FROM character_sessions WHERE account_id = %s AND character_id = %s AND user_session_id = %s"
)
# Nothing is updated where the session was begun afresh or reset since the turn began.
ADD_TURN: LiteralString = (
    "UPDATE character_sessions SET current_state = %(state)s, score = %(score)s,"
    " outcome = %(outcome)s, messages = messages + 2,"
    " last_message_at = greatest(last_message_at, %(at)s)"
    " WHERE session_id = %(session)s AND round = %(round)s RETURNING id, messages"
)
INSERT_MESSAGE: LiteralString = (
    "INSERT INTO character_messages (session, number, message_id, created_at, score_at_time,"
    " follow_up_triggered, role, state_key_at_time, decision, content)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
DELETE_MESSAGES: LiteralString = "DELETE FROM character_messages WHERE session = %s"
TRIM_MESSAGES: LiteralString = "DELETE FROM character_messages WHERE session = %s AND number <= %s"
# The newest that fit into so many bytes, oldest first.
HISTORY: LiteralString = (
    "SELECT message_id, role, content, state_key_at_time, score_at_time, decision,"
    " follow_up_triggered, created_at FROM (SELECT m.*,"
    " sum(octet_length(content)) OVER (ORDER BY number DESC) AS bytes FROM character_messages m"
    " WHERE session = %(session)s AND created_at > %(since)s ORDER BY number DESC"
    " LIMIT %(most)s) newest WHERE bytes <= %(bytes)s ORDER BY number"
)

# Retention. Rows that a session is deleting just now are left to it, so neither waits.
FORGET_MESSAGES: LiteralString = (
    "DELETE FROM character_messages m USING (SELECT session, number FROM character_messages"
    " WHERE created_at <= %(before)s ORDER BY created_at LIMIT %(most)s FOR UPDATE SKIP LOCKED) old"
    " WHERE m.session = old.session AND m.number = old.number"
)
FORGET_SESSIONS: LiteralString = (
    "DELETE FROM character_sessions WHERE id IN (SELECT id FROM character_sessions"
    " WHERE last_message_at <= %(before)s ORDER BY last_message_at LIMIT %(most)s"
    " FOR UPDATE SKIP LOCKED)"
)
