"""Everything: the record, projections, tables beside them, roles and grants.

One revision, because nothing was released before it. From here on each change is another one.
"""

from alembic import op

revision = "0100"
down_revision = None

EVENT_TYPES = (
    "request_recorded",
    "request_reserved",
    "request_settled",
    "request_released",
    "request_expired",
    "request_refused",
    "request_rated",
    "account_opened",
    "account_policy_set",
    "account_limits_set",
    "account_suspended",
    "account_resumed",
    "account_closed",
    "member_added",
    "member_role_changed",
    "member_removed",
    "login_set",
    "wallet_linked",
    "allowance_set",
    "key_issued",
    "key_renamed",
    "key_limits_set",
    "key_scopes_set",
    "key_allowed_models_set",
    "key_default_character_set",
    "key_expiry_set",
    "key_settings_set",
    "key_suspended",
    "key_resumed",
    "key_revoked",
    "key_rotated",
    "key_secret_rehashed",
    "key_expired",
    "credit_granted",
    "grant_took_effect",
    "grant_voided",
    "grant_expired",
    "balance_reduced",
    "rate_card_published",
    "rate_card_withdrawn",
)

RECORD = """
CREATE TABLE database_facts (
    name text CONSTRAINT fact_has_one_value PRIMARY KEY,
    value text NOT NULL
);
CREATE FUNCTION ledger_clock() RETURNS timestamptz LANGUAGE sql STABLE RETURN
    statement_timestamp() + coalesce(
        (SELECT value::interval FROM database_facts WHERE name = 'clock_offset'), interval '0');
COMMENT ON FUNCTION ledger_clock IS
    'The one clock: when this statement began; of a database made for tests with its offset';
CREATE TABLE lane_heads (
    lane int2 CONSTRAINT lane_has_one_head PRIMARY KEY,
    seq int8 NOT NULL DEFAULT 0,
    epoch int4 NOT NULL DEFAULT 0,
    last_recorded_at timestamptz,
    chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    CONSTRAINT lane_seq_is_not_negative CHECK (seq >= 0)
) WITH (fillfactor = 50);
COMMENT ON COLUMN lane_heads.epoch IS
    'Raised when projections were replaced under running writers, who then reload';
CREATE TABLE account_heads (
    account_id uuid NOT NULL,
    version int8 NOT NULL,
    last_seq int8 NOT NULL,
    lane int2 NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT account_has_one_head PRIMARY KEY (lane, account_id)
) WITH (fillfactor = 50);
CREATE TABLE events (
    lane_seq int8 NOT NULL,
    recorded_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    version int8 NOT NULL,
    type event_type NOT NULL,
    gap int4 NOT NULL,
    lane int2 NOT NULL,
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    hash bytea NOT NULL,
    payload json NOT NULL,
    CONSTRAINT event_has_a_position CHECK (lane_seq > 0 AND version > 0)
) PARTITION BY RANGE (recorded_at);
COMMENT ON COLUMN events.gap IS
    'Lane positions back to the account''s previous event; 0: none, or too far';
COMMENT ON COLUMN events.key_id IS 'All zeros: about no key';
COMMENT ON COLUMN events.type IS 'Schema version 1 by the bare name, later ones as name@2 …';
CREATE TABLE request_ids (
    lane_seq int8 NOT NULL,
    last_seq int8,
    lane int2 NOT NULL,
    request_hash bytea NOT NULL,
    CONSTRAINT request_id_charges_once PRIMARY KEY (lane, request_hash)
) WITH (fillfactor = 100);
CREATE TABLE provider_reports (
    recorded_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    request_hash bytea NOT NULL,
    provider_request_id text NOT NULL,
    report text NOT NULL,
    CONSTRAINT request_has_one_report PRIMARY KEY (lane, request_hash)
);
COMMENT ON TABLE provider_reports IS
    'What providers reported of requests, as they did; the event holds its SHA-256';
CREATE INDEX provider_reports_by_age ON provider_reports (lane, recorded_at);
CREATE TABLE request_notes (
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    request_hash bytea NOT NULL,
    salt bytea NOT NULL,
    metadata text NOT NULL,
    end_user text NOT NULL,
    CONSTRAINT request_has_one_note PRIMARY KEY (lane, request_hash)
);
COMMENT ON TABLE request_notes IS
    'What callers noted of requests; the event holds digests, which mean nothing without the salt';
CREATE TABLE idempotency_keys (
    lane int2 NOT NULL,
    key_hash bytea NOT NULL,
    fingerprint bytea NOT NULL,
    lane_seq int8 NOT NULL,
    reply json NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT idempotency_key_is_used_once PRIMARY KEY (lane, key_hash)
);
CREATE TABLE key_secrets (
    secret_hash bytea NOT NULL,
    key_id uuid NOT NULL,
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    number int2 NOT NULL,
    pepper_version int2 NOT NULL,
    CONSTRAINT secret_opens_one_key PRIMARY KEY (secret_hash)
);
CREATE TABLE rate_cards (
    name text NOT NULL,
    version int4 NOT NULL,
    asset text NOT NULL,
    effective_from timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    withdrawn_at timestamptz,
    content_hash text NOT NULL,
    lane_seq int8 NOT NULL,
    content json NOT NULL,
    CONSTRAINT rate_card_version_is_immutable PRIMARY KEY (name, version)
);
CREATE TABLE projection_checkpoints (
    lane int2 NOT NULL,
    projection text NOT NULL,
    version int4 NOT NULL,
    seq int8 NOT NULL,
    stopped text,
    CONSTRAINT projection_has_one_checkpoint PRIMARY KEY (lane, projection, version)
);
COMMENT ON COLUMN projection_checkpoints.stopped IS 'Why it does not go on; NULL: it does';
CREATE TABLE job_runs (
    job text CONSTRAINT job_has_one_last_run PRIMARY KEY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    outcome text NOT NULL
);
CREATE TABLE job_leader (
    only_row bool CONSTRAINT one_leader PRIMARY KEY DEFAULT true CHECK (only_row),
    holder text NOT NULL,
    until timestamptz NOT NULL
);
"""

PEOPLE = """
CREATE TABLE account_profiles (
    account_id uuid CONSTRAINT account_has_one_profile PRIMARY KEY,
    lane int2 NOT NULL,
    name text NOT NULL
);
CREATE TABLE logins (
    email text CONSTRAINT email_logs_in_once PRIMARY KEY,
    member_id uuid NOT NULL,
    account_id uuid NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    active bool NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    salt bytea NOT NULL
);
COMMENT ON COLUMN logins.salt IS
    'Of the digest in the event login_set: gone with the row, it tells nothing of the person';
CREATE INDEX logins_by_account ON logins (account_id);
CREATE TABLE refresh_tokens (
    token_hash bytea CONSTRAINT refresh_token_is_unique PRIMARY KEY,
    family uuid NOT NULL,
    email text NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE TABLE attempts (
    subject_hash bytea CONSTRAINT subject_has_one_row_of_attempts PRIMARY KEY,
    recent timestamptz[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN attempts.subject_hash IS 'HMAC of what is tried and by whom, never itself';
COMMENT ON COLUMN attempts.recent IS 'Attempts that still count';
CREATE TABLE wallets (
    address bytea CONSTRAINT wallet_has_one_account PRIMARY KEY,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    salt bytea NOT NULL,
    CONSTRAINT address_has_20_bytes CHECK (octet_length(address) = 20)
);
COMMENT ON COLUMN wallets.salt IS 'Of the digest in the event wallet_linked';
CREATE INDEX wallets_by_account ON wallets (account_id);
CREATE TABLE wallet_tokens (
    jti text CONSTRAINT wallet_token_is_used_once PRIMARY KEY,
    used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE wallet_tokens IS 'Used ones only, until no clock takes them for valid any more';
"""

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

RESOURCES = """
CREATE TABLE gateway_resources (
    resource_id uuid NOT NULL,
    account_id uuid NOT NULL,
    parent_id uuid,
    created_at timestamptz NOT NULL,
    lane int2 NOT NULL,
    kind text NOT NULL,
    body text NOT NULL,
    CONSTRAINT resource_is_unique PRIMARY KEY (lane, account_id, resource_id)
);
COMMENT ON COLUMN gateway_resources.body IS 'JSON; text, so that no error about it repeats it';
CREATE INDEX gateway_resources_by_kind
    ON gateway_resources (lane, account_id, kind, parent_id, resource_id);
CREATE TABLE gateway_shelves (
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    resources int4 NOT NULL,
    CONSTRAINT account_has_one_gateway_shelf PRIMARY KEY (lane, account_id),
    CONSTRAINT gateway_shelf_is_not_negative CHECK (resources >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE gateway_shelves IS
    'How much an account keeps; locked by whoever adds to it or takes away';
"""

# Unlogged: what it holds is needed for minutes, and message text belongs into no WAL and so into
# no archive or backup of it.
ANSWERS = """
CREATE UNLOGGED TABLE gateway_answers (
    account_id uuid NOT NULL,
    holder uuid NOT NULL,
    until timestamptz NOT NULL,
    size int4 NOT NULL DEFAULT 0,
    lane int2 NOT NULL,
    once_hash bytea NOT NULL,
    fingerprint bytea NOT NULL,
    request_id text NOT NULL DEFAULT '',
    head text,
    body bytea,
    CONSTRAINT idempotency_key_has_one_answer PRIMARY KEY (lane, once_hash)
);
COMMENT ON COLUMN gateway_answers.once_hash IS
    'Hash of key, route and Idempotency-Key, never the last itself';
COMMENT ON COLUMN gateway_answers.until IS
    'Without a head: the holder lives that long unless it says so again; with one: kept that long';
CREATE INDEX gateway_answers_by_account ON gateway_answers (lane, account_id) INCLUDE (size)
    WHERE size > 0;
CREATE INDEX gateway_answers_by_time ON gateway_answers (until);
"""

INLINE = """
CREATE TABLE accounts (
    lane int2 NOT NULL,
    account_id uuid NOT NULL,
    opened_at timestamptz NOT NULL,
    ended_at timestamptz,
    status text NOT NULL,
    pays_with text[] NOT NULL,
    rate_card text NOT NULL,
    overdraft json NOT NULL,
    unpriced text NOT NULL,
    limits json NOT NULL,
    members json NOT NULL,
    next_lot int4 NOT NULL,
    active_keys int4 NOT NULL,
    test bool NOT NULL,
    internal bool NOT NULL,
    max_output_tokens int4 NOT NULL,
    CONSTRAINT account_is_unique PRIMARY KEY (lane, account_id)
);
CREATE TABLE keys (
    lane int2 NOT NULL,
    key_id uuid NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    suspended_at timestamptz,
    name text NOT NULL,
    dialect text NOT NULL,
    status text NOT NULL,
    hint text NOT NULL,
    scopes text[] NOT NULL,
    allowed_models text[],
    default_character text NOT NULL,
    rate_card text NOT NULL,
    limits json NOT NULL,
    settings json NOT NULL,
    secrets json NOT NULL,
    version int4 NOT NULL,
    parent text NOT NULL,
    CONSTRAINT key_is_unique PRIMARY KEY (lane, key_id)
);
CREATE INDEX keys_by_account ON keys (lane, account_id, created_at, key_id);
CREATE INDEX keys_to_expire ON keys (lane, expires_at)
    WHERE status IN ('active', 'suspended') AND expires_at IS NOT NULL;
CREATE TABLE limit_counters (
    subject_id uuid NOT NULL,
    last_used_at timestamptz,
    lane int2 NOT NULL,
    counters json NOT NULL,
    CONSTRAINT subject_has_one_row_of_counters PRIMARY KEY (lane, subject_id)
) WITH (fillfactor = 50);
CREATE TABLE lots (
    account_id uuid NOT NULL,
    granted_at timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    takes_effect_at timestamptz,
    expires_at timestamptz,
    number int4 NOT NULL,
    priority int4 NOT NULL,
    lane int2 NOT NULL,
    asset text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    amount numeric(38,0) NOT NULL,
    remaining numeric(38,0) NOT NULL,
    held numeric(38,0) NOT NULL,
    reason text NOT NULL,
    cost text NOT NULL,
    currency text NOT NULL,
    payment_reference text NOT NULL,
    CONSTRAINT lot_is_numbered_once PRIMARY KEY (lane, account_id, number),
    CONSTRAINT lot_is_never_overspent CHECK (remaining >= held AND held >= 0)
) WITH (fillfactor = 50);
CREATE INDEX lots_to_expire ON lots (lane, expires_at)
    WHERE status = 'open' AND expires_at IS NOT NULL;
CREATE INDEX lots_to_take_effect ON lots (lane, takes_effect_at) WHERE takes_effect_at IS NOT NULL;
CREATE TABLE balances (
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    asset text NOT NULL,
    posted numeric(38,0) NOT NULL,
    pending numeric(38,0) NOT NULL,
    overdrawn numeric(38,0) NOT NULL,
    overdraft_held numeric(38,0) NOT NULL,
    CONSTRAINT asset_has_one_balance PRIMARY KEY (lane, account_id, asset)
) WITH (fillfactor = 50);
CREATE TABLE reservations (
    request_hash bytea NOT NULL,
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    reserved_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    seq int8 NOT NULL,
    lane int2 NOT NULL,
    holds json NOT NULL,
    event json NOT NULL,
    CONSTRAINT reservation_is_open_once PRIMARY KEY (lane, request_hash)
) WITH (fillfactor = 70);
CREATE INDEX reservations_to_expire ON reservations (lane, expires_at);
CREATE INDEX reservations_by_account ON reservations (lane, account_id, expires_at);
CREATE TABLE spend (
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    day date NOT NULL,
    lane int2 NOT NULL,
    integration text NOT NULL,
    model text NOT NULL,
    asset text NOT NULL,
    requests int8 NOT NULL,
    unpriced int8 NOT NULL,
    amount numeric(38,0) NOT NULL,
    CONSTRAINT spend_is_summed_once
        PRIMARY KEY (lane, account_id, key_id, day, integration, model, asset)
) WITH (fillfactor = 50);
COMMENT ON TABLE spend IS 'And a column for each usage class: those there are now, made at start';
CREATE TABLE unpriced_requests (
    lane_seq int8 NOT NULL,
    lane int2 NOT NULL,
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    model text NOT NULL,
    request_id text NOT NULL,
    CONSTRAINT unpriced_request_waits_once PRIMARY KEY (lane, lane_seq)
);
"""

ALLOWANCES = """
CREATE TABLE allowances (
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    asset text NOT NULL,
    amount text NOT NULL,
    granted_through date NOT NULL,
    CONSTRAINT account_has_one_allowance_of_an_asset PRIMARY KEY (lane, account_id, asset)
);
COMMENT ON COLUMN allowances.amount IS 'Granted anew each day of UTC; plain decimal';
COMMENT ON COLUMN allowances.granted_through IS 'The last day whose lot is granted';
"""

# The checker compares these digests with those in events, and its role sees no hash and no person.
SIDE_ROWS = """
CREATE FUNCTION side_row_digest(VARIADIC parts bytea[]) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT encode(sha256(string_agg(int4send(length(part)) || part, ''::bytea ORDER BY place)),
        'hex') FROM unnest(parts) WITH ORDINALITY AS p(part, place)
$$;
CREATE VIEW side_rows AS
    SELECT 'key_secret' AS kind, lane, account_id, key_id AS subject_id, number::int4 AS number,
        side_row_digest('key_secret', uuid_send(key_id), int8send(number), secret_hash,
        int8send(pepper_version)) AS digest FROM key_secrets
    UNION ALL SELECT 'login', NULL, account_id, member_id, 0, side_row_digest('login', salt,
        uuid_send(account_id), uuid_send(member_id), convert_to(email, 'UTF8'),
        convert_to(name, 'UTF8'), convert_to(password_hash, 'UTF8'), int8send(active::int))
        FROM logins
    UNION ALL SELECT 'wallet', NULL, account_id, account_id, 0,
        side_row_digest('wallet', salt, uuid_send(account_id), address) FROM wallets;
COMMENT ON VIEW side_rows IS 'Rows beside the events that decide, as digests in events bind them';
CREATE VIEW request_texts AS
    SELECT 'provider_reports' AS source, lane, request_hash, account_id,
        encode(sha256(convert_to(report, 'UTF8')), 'hex') AS digests FROM provider_reports
    UNION ALL SELECT 'request_notes', lane, request_hash, account_id, concat(CASE WHEN metadata
        <> '' THEN encode(sha256(salt || convert_to(metadata, 'UTF8')), 'hex') END, ' ', CASE WHEN
        end_user <> '' THEN encode(sha256(salt || convert_to(end_user, 'UTF8')), 'hex') END)
        FROM request_notes;
COMMENT ON VIEW request_texts IS 'Texts beside events of requests, as digests in events bind them';
"""

BEHIND = """
CREATE TABLE account_marks (
    account_id uuid NOT NULL,
    version int8 NOT NULL,
    lane_seq int8 NOT NULL,
    recorded_at timestamptz NOT NULL,
    lane int2 NOT NULL,
    CONSTRAINT mark_is_set_once PRIMARY KEY (lane, account_id, version)
);
COMMENT ON TABLE account_marks IS 'Every 256th event of an account: where to begin to read';

CREATE TABLE refusals (
    lane_seq int8 NOT NULL,
    recorded_at timestamptz NOT NULL,
    lane int2 NOT NULL,
    account_id uuid NOT NULL,
    key_id uuid NOT NULL,
    count int4 NOT NULL,
    reason text NOT NULL,
    scope text NOT NULL,
    limit_id text NOT NULL,
    model text NOT NULL,
    integration text NOT NULL,
    ceiling text NOT NULL,
    used text NOT NULL,
    pending text NOT NULL,
    requested text NOT NULL,
    usage json NOT NULL,
    CONSTRAINT refusal_is_logged_once PRIMARY KEY (lane, lane_seq)
);
CREATE INDEX refusals_by_account ON refusals (lane, account_id, lane_seq);
"""

PROTECTION = """
CREATE FUNCTION refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'Events are append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_append_only;
CREATE TRIGGER events_are_not_truncated BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_not_truncated;

CREATE FUNCTION create_events_partition(month date) RETURNS bool
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, keyledger AS $$
DECLARE
    start timestamptz := date_trunc('month', month::timestamp) AT TIME ZONE 'UTC';
    finish timestamptz := (date_trunc('month', month::timestamp) + interval '1 month')
        AT TIME ZONE 'UTC';
    part text := 'events_' || to_char(month, 'YYYY_MM');
BEGIN
    -- Two jobs at once would both find it missing.
    LOCK TABLE keyledger.lane_heads IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('keyledger.' || part) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Attached, not created in place: that would wait for every reader, and every writer for it.
    -- The key is the partition's own: with recorded_at in it, as one of the whole table must have,
    -- its pages would be split in the middle and stay half empty.
    EXECUTE format('CREATE TABLE keyledger.%I (LIKE keyledger.events INCLUDING ALL,'
        ' PRIMARY KEY (lane, lane_seq),'
        ' CONSTRAINT event_is_of_this_month CHECK (recorded_at >= %L AND recorded_at < %L))',
        part, start, finish);
    EXECUTE format('ALTER TABLE keyledger.events ATTACH PARTITION keyledger.%I'
        ' FOR VALUES FROM (%L) TO (%L)', part, start, finish);
    EXECUTE format('ALTER TABLE keyledger.%I DROP CONSTRAINT event_is_of_this_month', part);
    EXECUTE format('ALTER TABLE keyledger.%I ENABLE ALWAYS TRIGGER events_are_append_only',
        part);
    EXECUTE format('CREATE TRIGGER events_are_not_truncated BEFORE TRUNCATE ON keyledger.%I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION keyledger.refuse_change()', part);
    EXECUTE format('ALTER TABLE keyledger.%I ENABLE ALWAYS TRIGGER events_are_not_truncated',
        part);
    EXECUTE format('GRANT SELECT, INSERT ON keyledger.%I TO keyledger_app', part);
    EXECUTE format('GRANT SELECT ON keyledger.%I TO keyledger_ro', part);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION create_events_partition(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_events_partition(date) TO keyledger_app;
"""

GRANTS = """
GRANT USAGE ON SCHEMA keyledger TO keyledger_app, keyledger_ro;
GRANT SELECT ON ALL TABLES IN SCHEMA keyledger TO keyledger_app, keyledger_ro;
REVOKE SELECT ON logins, refresh_tokens, key_secrets, wallets, attempts, characters,
    character_scenarios, character_sessions, character_messages, gateway_resources, request_notes,
    gateway_answers FROM keyledger_ro;
GRANT INSERT ON events, idempotency_keys, rate_cards TO keyledger_app;
GRANT INSERT, UPDATE (last_seq) ON request_ids TO keyledger_app;
GRANT UPDATE (withdrawn_at) ON rate_cards TO keyledger_app;
GRANT INSERT, UPDATE ON lane_heads, account_heads, database_facts, projection_checkpoints,
    job_runs, job_leader, account_profiles, accounts, keys, lots, balances,
    spend TO keyledger_app;
GRANT INSERT, UPDATE, DELETE ON key_secrets, logins, refresh_tokens, reservations,
    unpriced_requests, refusals, limit_counters TO keyledger_app;
GRANT INSERT ON wallets TO keyledger_app;
GRANT INSERT, DELETE ON wallet_tokens, account_marks, provider_reports, request_notes
    TO keyledger_app;
GRANT INSERT, UPDATE, DELETE ON attempts, characters, character_scenarios, character_shelves,
    character_chats, character_sessions, character_messages, gateway_resources, gateway_shelves,
    gateway_answers, allowances TO keyledger_app;
GRANT SELECT (address, account_id, created_at) ON wallets TO keyledger_ro;
GRANT SELECT (character_id, account_id, lane, machine_id, created_at, updated_at, version, slug,
    name, description, multiplier, status) ON characters TO keyledger_ro;
GRANT SELECT (character_id, place, slug, name, description) ON character_scenarios
    TO keyledger_ro;
GRANT SELECT (resource_id, account_id, parent_id, created_at, lane, kind) ON gateway_resources
    TO keyledger_ro;
GRANT SELECT (account_id, holder, until, size, lane, request_id) ON gateway_answers
    TO keyledger_ro;
"""

SCHEMA = (
    RECORD,
    PEOPLE,
    CHARACTERS,
    SESSIONS,
    RESOURCES,
    ANSWERS,
    INLINE,
    ALLOWANCES,
    SIDE_ROWS,
    BEHIND,
    PROTECTION,
    GRANTS,
)


def upgrade() -> None:
    """Create everything."""
    types = ", ".join(f"'{name}'" for name in EVENT_TYPES)
    op.execute(f"CREATE TYPE event_type AS ENUM ({types})")  # sql-ok: constants of this file
    for statements in SCHEMA:
        op.execute(statements)
