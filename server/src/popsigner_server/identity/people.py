"""People as the rest of the server sees them: a live session, whose it is, and what they may where."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Person, Principal, Role
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import identity_providers, org_members, organizations, sessions, users


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A live session: its person, and the principal of each of their organizations by its id and by its slug."""

    user_id: UUID
    session_id: UUID
    email: str = field(repr=False)
    name: str = field(repr=False)
    provider_org: UUID | None
    principals: Mapping[str, Principal]

    @property
    def organizations(self) -> frozenset[UUID]:
        """The person's organizations."""
        return frozenset(principal.organization_id for principal in self.principals.values())

    def principal(self, named: str | None) -> Principal:
        """The person in the named organization, or in the only one. Raises OrganizationRequired, MembershipMissing."""
        if named:
            try:
                return self.principals[named]
            except KeyError as error:
                # One answer for what is not there and for what is not theirs.
                raise errors.MembershipMissing from error
        everywhere = self.organizations
        if not everywhere:
            raise errors.MembershipMissing("You do not belong to an organization yet; accept an invitation first.")
        if len(everywhere) > 1:
            raise errors.OrganizationRequired
        return next(iter(self.principals.values()))

    def person(self, *, ip_address: str | None, user_agent: str | None) -> Person:
        """The person at the end of one connection."""
        return Person(
            user_id=self.user_id,
            session_id=self.session_id,
            email=self.email,
            name=self.name,
            provider_org=self.provider_org,
            ip_address=ip_address,
            user_agent=user_agent,
        )


class People:
    """Reads people and their sessions from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def visit(self, *, user_id: UUID, session_id: UUID) -> Visit | None:
        """The session as it is at this moment; None where it has ended or is not that person's."""
        query = (
            select(users.c.email, users.c.name, identity_providers.c.org_id)
            .join(users, sessions.c.user_id == users.c.id)
            .join(identity_providers, users.c.provider_id == identity_providers.c.id)
            .where(
                sessions.c.id == session_id,
                sessions.c.user_id == user_id,
                sessions.c.ended_at.is_(None),
                sessions.c.expires_at > func.now(),
                identity_providers.c.disconnected_at.is_(None),
            )
        )
        async with self._database.identity() as connection:
            found = (await connection.execute(query)).first()
            if found is None:
                return None
            email, name, provider_org = found
            principals: dict[str, Principal] = {}
            for slug, principal in await memberships(connection, user_id, session_id):
                principals[show(Prefix.ORGANIZATION, principal.organization_id)] = principal
                principals[slug] = principal
        return Visit(
            user_id=user_id,
            session_id=session_id,
            email=email,
            name=name,
            provider_org=provider_org,
            principals=principals,
        )


async def memberships(connection: AsyncConnection, user_id: UUID, session_id: UUID) -> list[tuple[str, Principal]]:
    """The slug of each organization of a person, and the person in it, by its id.

    A person of an organization's own provider is a member of that one alone, whatever rows there are elsewhere: a
    tenant that runs an issuer must not speak for anybody in another organization.
    """
    query = (
        select(org_members.c.org_id, org_members.c.role, organizations.c.slug, organizations.c.plan)
        .join(organizations, org_members.c.org_id == organizations.c.id)
        .join(users, org_members.c.user_id == users.c.id)
        .join(identity_providers, users.c.provider_id == identity_providers.c.id)
        .where(
            org_members.c.user_id == user_id,
            or_(identity_providers.c.org_id.is_(None), identity_providers.c.org_id == org_members.c.org_id),
        )
        .order_by(org_members.c.org_id)
    )
    found = []
    for organization_id, role, slug, plan in await connection.execute(query):
        principal = Principal(
            organization_id=organization_id,
            actor_id=user_id,
            actor_kind=ActorKind.USER,
            scopes=SCOPES_OF[Role(role)],
            role=Role(role),
            expires_at=None,
            plan=plan,
            session_id=session_id,
        )
        found.append((slug, principal))
    return found
