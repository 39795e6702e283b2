"""The rooms of tenancy over a real database, with a vault in memory, and people to put into them.

house = House.over(engine)
ours = await house.organization()                        ours.caller is its owner API key
mary = await house.person(ours, Role.ADMIN)              mary.caller is she in `ours`, mary.person wherever she goes
await house.events(ours.id)                              the whole trail, oldest first
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import Table, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.plans import Plans
from popsigner_server.domain.principals import Caller, Person, Role
from popsigner_server.ledger import Row
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import ledger_heads, metadata, organizations, sessions
from popsigner_server.tenancy.account import Accounts
from popsigner_server.tenancy.callers import caller_of
from popsigner_server.tenancy.erasure import Erasure
from popsigner_server.tenancy.export import Exports
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.tenancy.members import Members
from popsigner_server.tenancy.organizations import Organizations
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization
from tests.support.people import PersonOf, new_person
from tests.support.plans import packaged_plans

ADDRESS = "198.51.100.7"
PROGRAM = "Browser of tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Somebody:
    """A user with a session; `caller` is they in the organization that they were made for."""

    row: PersonOf
    person: Person
    caller: Caller

    @property
    def id(self) -> UUID:
        return self.row.user_id

    def in_(self, organization_id: UUID, role: Role) -> Caller:
        return caller_of(self.person, organization_id, role=role, plan="self-hosted")


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The rooms."""

    engine: AsyncEngine
    database: Database
    ledger: PostgresLedger
    plans: Plans
    organizations: Organizations
    members: Members
    invitations: Invitations
    accounts: Accounts
    exports: Exports
    vault: MemoryVault = field(default_factory=MemoryVault)

    @classmethod
    def over(cls, engine: AsyncEngine) -> Self:
        database, plans = Database(engine), packaged_plans()
        ledger = PostgresLedger(database)
        return cls(
            engine=engine,
            database=database,
            ledger=ledger,
            plans=plans,
            organizations=Organizations(database, ledger, plans, sign_up=True),
            members=Members(database, ledger),
            invitations=Invitations(database, ledger, Quotas(plans), clock=lambda: datetime.now(UTC)),
            accounts=Accounts(database),
            exports=Exports(database),
        )

    @property
    def erasure(self) -> Erasure:
        """Another process's, each time."""
        return Erasure(self.database, self.vault, self.plans)

    async def organization(self, *, plan: str = "self-hosted", keys_of: int = 0) -> Organization:
        made = await found_organization(self.engine, keys_of=keys_of)
        async with self.engine.begin() as connection:
            await connection.execute(
                update(organizations).where(organizations.c.id == made.id).values(plan=plan, name=f"Name {made.id}")
            )
        return made

    async def person(
        self, organization: Organization, role: Role | None, *, provider_id: UUID | None = None
    ) -> Somebody:
        """Somebody with a session; without a role they belong nowhere yet."""
        row = await new_person(
            self.engine, memberships={organization.id: role} if role else {}, provider_id=provider_id
        )
        session_id = new_id()
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(sessions).values(
                    id=session_id,
                    user_id=row.user_id,
                    origin="browser",
                    expires_at=func.now() + text("interval '1 day'"),
                    ip_address=ADDRESS,
                    user_agent=PROGRAM,
                )
            )
        person = Person(
            user_id=row.user_id,
            session_id=session_id,
            email=row.email,
            name=row.name,
            provider_org=None,
            ip_address=ADDRESS,
            user_agent=PROGRAM,
        )
        caller = caller_of(person, organization.id, role=role or Role.UNSPECIFIED, plan="self-hosted")
        return Somebody(row=row, person=person, caller=caller)

    async def trail(self, organization_id: UUID) -> list[Row]:
        """Oldest first; without a gap."""
        rows, following = await self.ledger.list(organization_id, limit=1000, cursor="")
        assert not following
        assert [row.sequence for row in rows] == list(range(len(rows), 0, -1))
        return rows[::-1]

    async def events(self, organization_id: UUID) -> list[str]:
        return [row.event for row in await self.trail(organization_id)]

    async def scalar(self, query: Any) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(query)).scalar()

    async def execute(self, query: Any) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(query)

    async def closed(self, organization_id: UUID) -> bool:
        query = select(ledger_heads.c.closed_at).where(ledger_heads.c.org_id == organization_id)
        return (await self.scalar(query)) is not None

    async def tables_that_hold(self, words: list[str]) -> list[str]:
        """The tables with a row that has one of these words anywhere in it."""
        found = []
        async with self.engine.connect() as connection:
            for table in metadata.sorted_tables:
                for word in words:
                    query = text(f"SELECT count(*) FROM {table.name} t WHERE strpos(lower(t::text), lower(:word)) > 0")
                    if (await connection.execute(query, {"word": word})).scalar():
                        found.append(f"{table.name}: {word}")
        return found

    async def tables_of(self, organization_id: UUID) -> set[str]:
        """The tables with a row of this organization."""
        found = set()
        for table in metadata.sorted_tables:
            if "org_id" in table.c and await self._count(table, organization_id):
                found.add(table.name)
        return found

    async def _count(self, table: Table, organization_id: UUID) -> int:
        return int(await self.scalar(select(func.count()).select_from(table).where(table.c.org_id == organization_id)))


def unique(word: str) -> str:
    return f"{word}-{uuid4().hex[:12]}"
