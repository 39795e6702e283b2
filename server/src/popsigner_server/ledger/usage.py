"""What an organization used: signatures counted by the release gate, in the transaction of the audit rows, and what
exists now."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import func, select

from popsigner_server.domain.plans import Plans
from popsigner_server.ledger.quotas import allowed, existing
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import ledger_heads, organizations, usage_metrics

# Beside the signatures.
COUNTED = ("keys", "namespaces", "members")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How much of something; `quota` None for no limit."""

    name: str
    value: int
    quota: int | None


class UsageReader:
    """Reads usage."""

    def __init__(self, database: Database, plans: Plans) -> None:
        self._database = database
        self._plans = plans

    async def read(self, organization_id: UUID, month: date) -> list[Metric]:
        """Signatures of the month (its first day), and the keys, namespaces and members that exist now."""
        used = usage_metrics.c
        signatures = (
            select(used.value)
            .where(used.org_id == organization_id, used.metric == "signatures", used.period_start == month)
            .scalar_subquery()
        )
        head = ledger_heads.c
        query = (
            select(
                organizations.c.plan,
                head.signature_quota,
                func.coalesce(signatures, 0),
                *(existing(organization_id, metric) for metric in COUNTED),
            )
            .join(ledger_heads, head.org_id == organizations.c.id)
            .where(organizations.c.id == organization_id)
        )
        async with self._database.tenant(organization_id) as connection:
            name, quota, signed, *counts = (await connection.execute(query)).one()
        plan = self._plans.of(name)
        return [
            Metric(name="signatures", value=signed, quota=quota),
            *(
                Metric(name=metric, value=count, quota=allowed(plan, metric))
                for metric, count in zip(COUNTED, counts, strict=True)
            ),
        ]
