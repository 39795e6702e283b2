"""What a caller belongs to: every organization of a person, and the one of an API key."""

from dataclasses import dataclass

from sqlalchemy import select

from popsigner_server import errors
from popsigner_server.domain.principals import Person, Principal, Role
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import api_keys, org_members, organizations
from popsigner_server.tenancy import Organization
from popsigner_server.tenancy.organizations import read_organization, to_organization


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """An organization, and the caller's role in it."""

    organization: Organization
    role: Role


class Belongings:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_person(self, person: Person) -> list[Belonging]:
        """Every organization of a person, the oldest first; of somebody whom one organization's own provider vouches
        for, that one alone."""
        query = (
            select(organizations, org_members.c.role)
            .join(org_members, org_members.c.org_id == organizations.c.id)
            .where(org_members.c.user_id == person.user_id)
            .order_by(organizations.c.created_at, organizations.c.id)
        )
        if person.provider_org is not None:
            query = query.where(organizations.c.id == person.provider_org)
        async with self._database.identity() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [Belonging(organization=to_organization(row), role=Role(row["role"])) for row in rows]

    async def of_api_key(self, principal: Principal) -> tuple[str, Belonging]:
        """The API key's name and its organization. Raises CredentialsInvalid for one that is no more."""
        query = select(api_keys.c.name).where(
            api_keys.c.id == principal.actor_id, api_keys.c.org_id == principal.organization_id
        )
        async with self._database.tenant(principal.organization_id) as connection:
            name = (await connection.execute(query)).scalar()
            if name is None:
                raise errors.CredentialsInvalid
            organization = await read_organization(connection, principal.organization_id)
        return name, Belonging(organization=organization, role=principal.role)
