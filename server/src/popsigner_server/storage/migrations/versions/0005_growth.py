"""Indexes for what would otherwise look through a table that grows: the turn that brings recovery copies in line, pages
of keys and API keys, and the sweeps of sessions, invitations and erased organizations.

Each is made beside running servers, which go on writing: CONCURRENTLY, so outside of a transaction, and it waits for
those that are open. One that was interrupted leaves an index that is not valid; the next attempt drops it first.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

INDEXES = {
    "api_keys_org_id_id_idx": "api_keys (org_id, id)",
    "organizations_erased_idx": "organizations (id) WHERE erased_at IS NOT NULL AND erase_at IS NULL",
    "keys_page_idx": "keys (org_id, uuid_send(id))",
    "keys_recovery_idx": (
        "keys (org_id, recovery_recipient) WHERE state IN (1, 2, 3) AND destruction_began_at IS NULL"
    ),
    "keys_recovery_unknown_idx": "keys (recovery_claimed_at) WHERE recovery_recipient = ''",
    "invitations_over_idx": "invitations (COALESCE(accepted_at, revoked_at, expires_at))",
    "sessions_ended_at_idx": "sessions (ended_at) WHERE ended_at IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")
        # The first one does its work.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS api_keys_org_id_idx")
