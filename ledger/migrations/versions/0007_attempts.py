"""The table of sign-ups counts whatever may be tried only so often."""

from alembic import op

revision = "0007"
down_revision = "0006"

ATTEMPTS = """
ALTER TABLE signups RENAME TO attempts;
ALTER TABLE attempts RENAME COLUMN address_hash TO subject_hash;
ALTER TABLE attempts RENAME CONSTRAINT address_has_one_row_of_signups
    TO subject_has_one_row_of_attempts;
COMMENT ON COLUMN attempts.subject_hash IS 'HMAC of what is tried and by whom, never itself';
"""


def upgrade() -> None:
    """Name the table after what it holds."""
    op.execute(ATTEMPTS)
