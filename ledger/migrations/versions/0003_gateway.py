"""What the gateway's built-in store keeps where no upstream is set: ordinary tables."""

from alembic import op

revision = "0003"
down_revision = "0002"

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

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_resources, gateway_shelves TO keyledger_app;
GRANT SELECT ON gateway_shelves TO keyledger_ro;
GRANT SELECT (resource_id, account_id, parent_id, created_at, lane, kind) ON gateway_resources
    TO keyledger_ro;
"""


def upgrade() -> None:
    """Create the tables."""
    for statements in (RESOURCES, GRANTS):
        op.execute(statements)
