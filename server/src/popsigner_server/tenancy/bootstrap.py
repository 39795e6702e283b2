"""The first organization of a POP, and its owner API key."""

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select, text

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.plans import SELF_HOSTED, Plan
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import organizations
from popsigner_server.tenancy.founding import OwnerSecret, add_owner_key, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """An organization; its owner API key only if it was founded just now."""

    organization_id: UUID
    api_key: str | None = field(repr=False)


async def bootstrap(database: Database, *, name: str, environment: str) -> Founded:
    """Found the first organization, with namespace `production` and an owner API key, unless there is one already."""
    secret = await OwnerSecret.new()
    organization_id = new_id()
    async with database.jobs() as connection:
        # Two bootstraps at once found one organization.
        await connection.execute(text("LOCK TABLE organizations IN SHARE ROW EXCLUSIVE MODE"))
        first = (
            select(organizations.c.id)
            .where(organizations.c.erased_at.is_(None))
            .order_by(organizations.c.created_at, organizations.c.id)
            .limit(1)
        )
        existing = (await connection.execute(first)).scalar()
        if existing is not None:
            return Founded(organization_id=existing, api_key=None)
        await found(connection, organization_id, name=name, slug="default", plan=Plan(name=SELF_HOSTED))
        async with change_on(connection, organization_id) as change:
            change.record(
                "organization.created", caller=None, resource_type="organization", resource_id=organization_id
            )
            api_key = await add_owner_key(change, secret, environment=environment)
    return Founded(organization_id=organization_id, api_key=api_key)
