"""Characters with their scenarios, and the conversations held with them: beside the ledger."""

from alembic import op

revision = "0002"
down_revision = "0001"

CHARACTERS = """
CREATE TABLE characters (
    character_id uuid CONSTRAINT character_is_unique PRIMARY KEY,
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    machine_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version int4 NOT NULL,
    slug text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    greeting text NOT NULL,
    system_prompt text NOT NULL,
    multiplier text NOT NULL,
    status text NOT NULL,
    request_hash bytea,
    request_fingerprint bytea,
    CONSTRAINT slug_is_the_accounts_once UNIQUE (account_id, slug),
    CONSTRAINT multiplier_is_listed CHECK (multiplier IN ('1.0', '1.1', '1.2', '10.0')),
    CONSTRAINT character_has_a_status CHECK (status IN ('draft', 'published', 'withdrawn'))
);
COMMENT ON COLUMN characters.request_hash IS 'Of the Idempotency-Key it was created under';
CREATE UNIQUE INDEX public_slug_means_one_character ON characters (slug)
    WHERE status = 'published';
CREATE UNIQUE INDEX character_is_created_once ON characters (account_id, request_hash)
    WHERE request_hash IS NOT NULL;
CREATE INDEX characters_by_account ON characters (account_id, character_id);
CREATE INDEX characters_in_public ON characters (character_id) WHERE status = 'published';
CREATE TABLE character_scenarios (
    character_id uuid NOT NULL REFERENCES characters ON DELETE CASCADE,
    place int2 NOT NULL,
    slug text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    greeting text NOT NULL,
    system_prompt text NOT NULL,
    CONSTRAINT scenario_is_the_characters_once PRIMARY KEY (character_id, slug)
);
CREATE TABLE character_shelves (
    account_id uuid CONSTRAINT account_has_one_shelf PRIMARY KEY,
    characters int4 NOT NULL,
    CONSTRAINT shelf_is_not_negative CHECK (characters >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE character_shelves IS
    'How many characters an account has; locked by whoever changes one of them';
CREATE TABLE character_chats (
    account_id uuid NOT NULL,
    character_id uuid NOT NULL REFERENCES characters ON DELETE CASCADE,
    last_at timestamptz NOT NULL,
    scenario text NOT NULL,
    via text NOT NULL,
    CONSTRAINT account_chats_with_a_character_once PRIMARY KEY (account_id, character_id)
);
CREATE INDEX character_chats_by_time ON character_chats (account_id, last_at);
CREATE INDEX character_chats_by_character ON character_chats (character_id);
"""

# No CHECK where a player's or a model's words are: its error would repeat the row to a log.
SESSIONS = """
CREATE TABLE character_sessions (
    id int8 GENERATED ALWAYS AS IDENTITY CONSTRAINT session_is_numbered_once PRIMARY KEY,
    session_id uuid NOT NULL CONSTRAINT session_is_unique UNIQUE,
    account_id uuid NOT NULL,
    character_id uuid NOT NULL REFERENCES characters ON DELETE CASCADE,
    started_at timestamptz NOT NULL,
    last_message_at timestamptz NOT NULL,
    round int4 NOT NULL,
    messages int4 NOT NULL,
    score int4 NOT NULL,
    current_state text NOT NULL,
    outcome text,
    user_session_id text NOT NULL,
    player_name text NOT NULL,
    player_gender text NOT NULL,
    CONSTRAINT player_has_one_session UNIQUE (character_id, account_id, user_session_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN character_sessions.round IS
    'Raised by a reset, so that a turn begun before it is not added after it';
COMMENT ON COLUMN character_sessions.messages IS 'Number of the newest message of this round';
CREATE INDEX character_sessions_by_time ON character_sessions (last_message_at);
CREATE TABLE character_messages (
    session int8 NOT NULL REFERENCES character_sessions ON DELETE CASCADE,
    number int4 NOT NULL,
    message_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    score_at_time int4 NOT NULL,
    follow_up_triggered bool NOT NULL,
    role text NOT NULL,
    state_key_at_time text NOT NULL,
    decision text,
    content text NOT NULL,
    CONSTRAINT message_is_numbered_once PRIMARY KEY (session, number)
);
CREATE INDEX character_messages_by_time ON character_messages (created_at);
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON characters, character_scenarios, character_shelves,
    character_chats, character_sessions, character_messages TO keyledger_app;
GRANT SELECT ON character_shelves, character_chats TO keyledger_ro;
GRANT SELECT (character_id, account_id, lane, machine_id, created_at, updated_at, version, slug,
    name, description, multiplier, status) ON characters TO keyledger_ro;
GRANT SELECT (character_id, place, slug, name, description) ON character_scenarios
    TO keyledger_ro;
"""


def upgrade() -> None:
    """Create the tables."""
    for statements in (CHARACTERS, SESSIONS, GRANTS):
        op.execute(statements)
