"""What an organization used: counted by the release gate, in the transaction of the audit rows."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import func, select

from popsigner_server.domain.keys import KeyState
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import keys, ledger_heads, usage_metrics

LIVE = (KeyState.ENABLED.value, KeyState.DISABLED.value, KeyState.DELETED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How much of something; `quota` None for no limit."""

    name: str
    value: int
    quota: int | None


class UsageReader:
    """Reads usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, organization_id: UUID, month: date) -> list[Metric]:
        """Signatures of the month (its first day), and the keys that exist now."""
        used = usage_metrics.c
        signatures = (
            select(used.value)
            .where(used.org_id == organization_id, used.metric == "signatures", used.period_start == month)
            .scalar_subquery()
        )
        existing = (
            select(func.count())
            .select_from(keys)
            .where(keys.c.org_id == organization_id, keys.c.state.in_(LIVE))
            .scalar_subquery()
        )
        query = select(func.coalesce(signatures, 0), existing, ledger_heads.c.signature_quota).where(
            ledger_heads.c.org_id == organization_id
        )
        async with self._database.tenant(organization_id) as connection:
            signed, held, quota = (await connection.execute(query)).one()
        return [
            Metric(name="signatures", value=signed, quota=quota),
            Metric(name="keys", value=held, quota=None),
        ]
