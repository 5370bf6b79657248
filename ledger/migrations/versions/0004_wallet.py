"""Wallets that opened an account, and the sign-in tokens they used up."""

from alembic import op

revision = "0004"
down_revision = "0003"

WALLETS = """
CREATE TABLE wallets (
    address bytea CONSTRAINT wallet_has_one_account PRIMARY KEY,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT address_has_20_bytes CHECK (octet_length(address) = 20)
);
CREATE INDEX wallets_by_account ON wallets (account_id);
CREATE TABLE wallet_tokens (
    jti text CONSTRAINT wallet_token_is_used_once PRIMARY KEY,
    used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE wallet_tokens IS 'Used ones only, until no clock takes them for valid any more';
"""

GRANTS = """
GRANT SELECT, INSERT ON wallets TO keyledger_app;
GRANT SELECT, INSERT, DELETE ON wallet_tokens TO keyledger_app;
GRANT SELECT ON wallets, wallet_tokens TO keyledger_ro;
"""


def upgrade() -> None:
    """Create the tables."""
    for statements in (WALLETS, GRANTS):
        op.execute(statements)
