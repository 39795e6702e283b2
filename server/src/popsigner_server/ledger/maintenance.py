"""What the ledger needs from time to time: next months' partitions, and forgetting old idempotency keys."""

from sqlalchemy import text

from popsigner_server.storage.engine import Database

# Months ahead that have their partition; a POP that sleeps that long still finds one.
AHEAD = 3
# Rows that one pass forgets, so that it never holds a lock for long.
FORGET = 10_000


class Maintenance:
    """Housekeeping of the ledger's tables. Safe from several processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """One pass."""
        async with self._database.jobs() as connection:
            await connection.execute(text("SELECT popsigner_make_audit_partitions(:ahead)"), {"ahead": AHEAD})
        async with self._database.jobs() as connection:
            await connection.execute(
                text(
                    "DELETE FROM sign_requests WHERE (org_id, request_id) IN ("
                    "SELECT org_id, request_id FROM sign_requests WHERE created_at < now() - interval '24 hours' "
                    "ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED)"
                ),
                {"most": FORGET},
            )
