"""The operator gives an organization another plan."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update

from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.domain.plans import Plans
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import ORGANIZATION_CHANGED, announce
from popsigner_server.storage.tables import ledger_heads, organizations


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """What became of an organization's plan."""

    organization_id: UUID
    before: str
    after: str


async def set_plan(database: Database, plans: Plans, *, organization: str, plan: str) -> PlanChange:
    """Give the organization (by id or slug) this plan, from the next signature on. Raises ValueError with a sentence.

    What exists stays, also where the plan allows less: only new things are refused.
    """
    if plan not in plans.names:
        raise ValueError(f"the catalogue has no plan {plan}; it has {', '.join(plans.names)}.")
    column = organizations.c
    try:
        named = column.id == parse(Prefix.ORGANIZATION, organization)
    except ValueError:
        named = column.slug == organization
    async with database.jobs() as connection:
        organization_id = (await connection.execute(select(column.id).where(named))).scalar()
        if organization_id is None:
            raise ValueError(f"there is no organization {organization}; name it by its id (org_…) or its slug.")
        # Under the head, so that the trail has every signature on the side of the change that it was counted on.
        async with change_on(connection, organization_id, closed=True) as change:
            mine = column.id == organization_id
            before = (await connection.execute(select(column.plan).where(mine))).scalar_one()
            if before != plan:
                change.record(
                    "organization.plan_changed",
                    caller=None,
                    resource_type="organization",
                    resource_id=organization_id,
                    metadata={"before": before, "after": plan},
                )
            await connection.execute(update(organizations).where(mine).values(plan=plan))
            # Also where the name stays: the catalogue may have another figure for it.
            await connection.execute(
                update(ledger_heads)
                .where(ledger_heads.c.org_id == organization_id)
                .values(signature_quota=plans.of(plan).signatures_per_month)
            )
        await announce(connection, ORGANIZATION_CHANGED, organization_id)
    return PlanChange(organization_id=organization_id, before=before, after=plan)
