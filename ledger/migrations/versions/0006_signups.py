"""How often an address opened an account of late."""

from alembic import op

revision = "0006"
down_revision = "0005"

SIGNUPS = """
CREATE TABLE signups (
    address_hash bytea CONSTRAINT address_has_one_row_of_signups PRIMARY KEY,
    recent timestamptz[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN signups.address_hash IS 'HMAC of the client''s network address, never itself';
COMMENT ON COLUMN signups.recent IS 'Attempts that still count';
GRANT SELECT, INSERT, UPDATE, DELETE ON signups TO keyledger_app;
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(SIGNUPS)
