"""What the ledger needs from time to time: next months' partitions, and forgetting old idempotency keys."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# Months ahead that have their partition; a POP that sleeps that long still finds one.
AHEAD = 3
# Rows that one pass forgets, so that it never holds a lock for long.
FORGET = 10_000


class Maintenance:
    """Housekeeping of the ledger's tables. Safe from several processes at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(self) -> None:
        """One pass."""
        async with self._engine.begin() as connection:
            await connection.execute(text("SELECT popsigner_make_audit_partitions(:ahead)"), {"ahead": AHEAD})
        async with self._engine.begin() as connection:
            await connection.execute(
                text(
                    "DELETE FROM sign_requests WHERE (org_id, request_id) IN ("
                    "SELECT org_id, request_id FROM sign_requests WHERE created_at < now() - interval '24 hours' "
                    "ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED)"
                ),
                {"most": FORGET},
            )
