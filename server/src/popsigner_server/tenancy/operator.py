"""What the operator does with the `popsigner-server` command. The audit trail names the POP itself.

Mistakes are ValueErrors with a sentence: the command says it, and no stack."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from popsigner_server.domain.ids import Prefix, new_id, parse
from popsigner_server.domain.people import check_name, check_slug, slug_of
from popsigner_server.domain.plans import Plan
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import org_members, organizations
from popsigner_server.tenancy.bootstrap import Founded
from popsigner_server.tenancy.founding import OwnerSecret, add_owner_key, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An organization as the operator sees it."""

    id: UUID
    name: str
    slug: str
    plan: str
    members: int
    created_at: datetime
    deleted_at: datetime | None
    erase_at: datetime | None


async def create_organization(
    database: Database, *, name: str, slug: str | None, plan: Plan, environment: str
) -> Founded:
    """Found an organization with namespace `production` and an owner API key. Without `slug`, one is made of the name.
    Raises ValueError."""
    _checked("name", check_name, name)
    if slug is not None:
        _checked("slug", check_slug, slug)
    secret = await OwnerSecret.new()
    organization_id = new_id()
    async with database.jobs() as connection:
        await found(
            connection, organization_id, name=name, slug=slug or slug_of(name), plan=plan, exactly=slug is not None
        )
        async with change_on(connection, organization_id) as change:
            change.record(
                "organization.created", caller=None, resource_type="organization", resource_id=organization_id
            )
            api_key = await add_owner_key(change, secret, environment=environment)
    return Founded(organization_id=organization_id, api_key=api_key)


async def issue_owner_key(database: Database, reference: str, *, environment: str) -> Founded:
    """A new owner API key for an organization (its id or slug); the others stay as they are. A deleted organization
    gets one too: it can be restored with it. Raises ValueError."""
    organization_id = await find_organization(database, reference)
    secret = await OwnerSecret.new()
    async with database.jobs() as connection, change_on(connection, organization_id, closed=True) as change:
        # Under the head, which the erasure's beginning holds: no key comes after its end of all access.
        erased = select(organizations.c.erased_at).where(organizations.c.id == organization_id)
        if (await connection.execute(erased)).scalar() is not None:
            raise ValueError("the organization is being erased.")
        api_key = await add_owner_key(change, secret, environment=environment)
    return Founded(organization_id=organization_id, api_key=api_key)


async def find_organization(database: Database, reference: str) -> UUID:
    """By id or slug. Raises ValueError."""
    named: ColumnElement[bool]
    try:
        named = organizations.c.id == parse(Prefix.ORGANIZATION, reference)
    except ValueError:
        named = organizations.c.slug == reference
    async with database.jobs() as connection:
        query = select(organizations.c.id).where(named, organizations.c.erased_at.is_(None))
        organization_id: UUID | None = (await connection.execute(query)).scalar()
    if organization_id is None:
        raise ValueError(f"there is no organization {reference}; `popsigner-server list-organizations` shows them.")
    return organization_id


async def list_organizations(database: Database) -> list[Listed]:
    """All but the erased ones, oldest first."""
    members = (
        select(func.count())
        .where(org_members.c.org_id == organizations.c.id)
        .correlate(organizations)
        .scalar_subquery()
    )
    query = (
        select(organizations, members.label("members"))
        .where(organizations.c.erased_at.is_(None))
        .order_by(organizations.c.created_at, organizations.c.id)
    )
    async with database.jobs() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [
        Listed(
            id=row["id"],
            name=row["name"],
            slug=row["slug"],
            plan=row["plan"],
            members=row["members"],
            created_at=row["created_at"],
            deleted_at=row["deleted_at"],
            erase_at=row["erase_at"],
        )
        for row in rows
    ]


def _checked(option: str, check: object, value: str) -> None:
    assert callable(check)  # noqa: S101 - a programmer's slip
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"--{option} {error}") from error
