"""The life of a key: what a deleted one was before, and the moment from which it cannot be restored.

Only adds, so that servers of the release before go on beside it. A key that one of those deletes has no `deleted_from`,
and is restored as DISABLED.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
ALTER TABLE keys
    ADD COLUMN deleted_from SMALLINT,
    ADD COLUMN destruction_began_at TIMESTAMPTZ;
-- Until now no key could be disabled.
UPDATE keys SET deleted_from = 1 WHERE state = 3;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(TABLES)
