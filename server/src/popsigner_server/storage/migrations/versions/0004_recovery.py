"""The way out: which keys were imported, whom an organization's keys are sealed to, and which of them are.

Only adds, so that servers of the release before go on beside it. A key that one of those creates has no recovery copy
until the next sweep of a newer server seals one.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
ALTER TABLE keys
    ADD COLUMN imported BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN recovery_recipient TEXT,
    ADD COLUMN recovery_claimed_at TIMESTAMPTZ;

CREATE TABLE recovery_recipients (
    org_id UUID PRIMARY KEY REFERENCES organizations (id),
    recipient TEXT,
    since TIMESTAMPTZ,
    next_recipient TEXT,
    announced_at TIMESTAMPTZ,
    effective_at TIMESTAMPTZ,
    announced_by_kind TEXT,
    announced_by UUID
);
CREATE INDEX recovery_recipients_effective_at_idx ON recovery_recipients (effective_at)
    WHERE next_recipient IS NOT NULL;
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON recovery_recipients TO popsigner_tenant;
GRANT SELECT ON recovery_recipients TO popsigner_identity;
GRANT SELECT, INSERT, UPDATE, DELETE ON recovery_recipients TO popsigner_jobs;
"""

POLICIES = """
ALTER TABLE recovery_recipients ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON recovery_recipients TO popsigner_identity, popsigner_jobs, popsigner_gate
    USING (true) WITH CHECK (true);
CREATE POLICY organization ON recovery_recipients TO popsigner_tenant
    USING (org_id = nullif(current_setting('popsigner.org_id', true), '')::uuid)
    WITH CHECK (org_id = nullif(current_setting('popsigner.org_id', true), '')::uuid);
"""


def upgrade() -> None:
    for statements in (TABLES, GRANTS, POLICIES):
        op.get_bind().connection.cursor().execute(statements)
