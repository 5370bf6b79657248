"""Daily allowances, and marks by which an account's history is read in its order."""

from alembic import op

revision = "0005"
down_revision = "0004"

ALLOWANCES = """
CREATE TABLE allowances (
    account_id uuid NOT NULL,
    lane int2 NOT NULL,
    asset text NOT NULL,
    amount text NOT NULL,
    granted_through date,
    CONSTRAINT account_has_one_allowance_of_an_asset PRIMARY KEY (lane, account_id, asset)
);
COMMENT ON COLUMN allowances.amount IS 'Granted anew each day of UTC; plain decimal';
COMMENT ON COLUMN allowances.granted_through IS 'The last day whose lot is granted; NULL: none';
"""

MARKS = """
CREATE TABLE account_marks (
    account_id uuid NOT NULL,
    version int8 NOT NULL,
    lane_seq int8 NOT NULL,
    recorded_at timestamptz NOT NULL,
    lane int2 NOT NULL,
    CONSTRAINT mark_is_set_once PRIMARY KEY (lane, account_id, version)
);
COMMENT ON TABLE account_marks IS 'Every 256th event of an account: where to begin to read';
"""

GRANTS = """
GRANT SELECT ON allowances, account_marks TO keyledger_app, keyledger_ro;
GRANT INSERT, UPDATE, DELETE ON allowances TO keyledger_app;
GRANT INSERT, DELETE ON account_marks TO keyledger_app;
"""


def upgrade() -> None:
    """Create the tables."""
    for statements in (ALLOWANCES, MARKS, GRANTS):
        op.execute(statements)
