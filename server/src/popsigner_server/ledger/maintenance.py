"""What the ledger needs from time to time: next months' partitions, forgetting old idempotency keys, and
forgetting audit rows that a plan keeps no longer."""

from uuid import UUID

from sqlalchemy import select, text

from popsigner_server.domain.plans import Plans
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import ledger_heads, organizations

# Months ahead that have their partition; a POP that sleeps that long still finds one.
AHEAD = 3
# Rows that one transaction forgets, so that it never holds a lock for long.
FORGET = 10_000

# The oldest rows of an organization up to the first that is kept, so that what is left is a trail without a gap: a row
# may be older than the one before it by a moment. `:newest` stays, however old. Where the oldest one is kept, as nearly
# everywhere each hour, no other is read.
EXPIRE = text(
    """
    WITH oldest AS (
        SELECT seq, created_at FROM audit_logs WHERE org_id = :org AND seq < :newest
          AND (SELECT f.created_at FROM audit_logs f WHERE f.org_id = :org ORDER BY f.seq LIMIT 1)
              < now() - make_interval(days => :days)
        ORDER BY seq LIMIT :most
    )
    DELETE FROM audit_logs a USING oldest o
    WHERE a.org_id = :org AND a.seq = o.seq AND a.created_at = o.created_at
      AND o.seq < coalesce(
          (SELECT min(k.seq) FROM oldest k WHERE k.created_at >= now() - make_interval(days => :days)), :newest)
    """
)


class Maintenance:
    """Housekeeping of the ledger's tables. Safe from several processes at once."""

    def __init__(self, database: Database, plans: Plans, *, forget: int = FORGET) -> None:
        self._database = database
        self._plans = plans
        self._forget = forget

    async def run(self) -> None:
        """One pass."""
        async with self._database.jobs() as connection:
            # A partition is made under a lock that waits for a backup's dump, with every signature behind it: rather
            # give up, and try again in the next pass. Three months lie ahead.
            await connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            await connection.execute(text("SELECT popsigner_make_audit_partitions(:ahead)"), {"ahead": AHEAD})
        async with self._database.jobs() as connection:
            await connection.execute(
                text(
                    "DELETE FROM sign_requests WHERE (org_id, request_id) IN ("
                    "SELECT org_id, request_id FROM sign_requests WHERE created_at < now() - interval '24 hours' "
                    "ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED)"
                ),
                {"most": self._forget},
            )
        # By the names of the catalogue: where a plan is in it no longer, nothing is deleted on a guess.
        for plan in map(self._plans.of, self._plans.names):
            if plan.audit_retention_days is not None:
                await self._expire(plan.name, plan.audit_retention_days)

    async def _expire(self, plan: str, days: int) -> None:
        """Delete the audit rows of this plan's organizations that are older than `days`.

        Sequence numbers go on from ledger_heads.size and never from the rows: that old ones go changes no number. An
        organization that was erased is tenancy's.
        """
        query = (
            select(organizations.c.id, ledger_heads.c.size)
            .join(ledger_heads, ledger_heads.c.org_id == organizations.c.id)
            .where(organizations.c.plan == plan, organizations.c.erased_at.is_(None))
        )
        async with self._database.jobs() as connection:
            found = (await connection.execute(query)).all()
        for organization_id, newest in found:
            while await self._expire_some(organization_id, newest, days) == self._forget:
                pass

    async def _expire_some(self, organization_id: UUID, newest: int, days: int) -> int:
        async with self._database.jobs() as connection:
            done = await connection.execute(
                EXPIRE, {"org": organization_id, "newest": newest, "days": days, "most": self._forget}
            )
            return done.rowcount
