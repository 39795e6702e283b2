"""Organizations on PostgreSQL: founded by people, renamed, deleted, restored."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, insert, null, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.people import slug_of
from popsigner_server.domain.plans import FREE, Plans
from popsigner_server.domain.principals import Caller, Person, Role
from popsigner_server.identity.session_rows import check_live
from popsigner_server.identity.standing import standing
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database, as_identity
from popsigner_server.storage.notices import ORGANIZATION_CHANGED, USER_CHANGED, announce
from popsigner_server.storage.tables import ledger_heads, org_members, organizations, users
from popsigner_server.tenancy import Organization
from popsigner_server.tenancy.callers import caller_of
from popsigner_server.tenancy.founding import found

GRACE = timedelta(days=7)
# A person who owns so many founds no more. Each brings a plan of its own: without a bound the free plans of one person
# together would be one without quotas.
OWNED = 20


class Organizations:
    """Founds and changes organizations. Every change is one audit row, written under the lock of its ledger."""

    def __init__(self, database: Database, ledger: Ledger, plans: Plans, *, sign_up: bool) -> None:
        self._database = database
        self._ledger = ledger
        self._plans = plans
        self._sign_up = sign_up

    async def get(self, organization_id: UUID) -> Organization:
        """Raises MembershipMissing for one that is no more."""
        async with self._database.tenant(organization_id) as connection:
            return await read_organization(connection, organization_id)

    async def create(self, person: Person, *, name: str) -> Organization:
        """Found an organization on the free plan, owned by `person`. Raises SignUpClosed, SessionEnded, and
        QuotaExceeded for one more than OWNED."""
        # Whom one organization's own provider vouches for can belong to that organization alone.
        if not self._sign_up or person.provider_org is not None:
            raise errors.SignUpClosed
        plan, organization_id = self._plans.of(FREE), new_id()
        caller = caller_of(person, organization_id, role=Role.OWNER, plan=plan.name)
        try:
            async with self._database.tenant(organization_id) as connection:
                async with as_identity(connection):
                    await check_live(connection, person.user_id, person.session_id)
                    await _refuse_one_more(connection, person.user_id)
                await found(connection, organization_id, name=name, slug=slug_of(name), plan=plan)
                await connection.execute(
                    insert(org_members).values(org_id=organization_id, user_id=person.user_id, role=Role.OWNER.value)
                )
                async with change_on(connection, organization_id) as change:
                    _record(change, "organization.created", caller)
                    change.record(
                        "member.joined",
                        caller=caller,
                        resource_type="user",
                        resource_id=person.user_id,
                        metadata={"role": Role.OWNER.name},
                    )
                await announce(connection, USER_CHANGED, person.user_id)
                return await read_organization(connection, organization_id)
        except IntegrityError as error:
            # The person deleted the account meanwhile.
            raise errors.SessionEnded from error

    async def update(self, caller: Caller, *, name: str) -> Organization:
        """Rename. Raises RoleMissing, OrganizationDeleted."""
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            await standing(change, caller.principal, least=Role.ADMIN)
            before = await read_organization(change.connection, organization_id)
            if before.name == name:
                return before
            await change.connection.execute(
                update(organizations).where(organizations.c.id == organization_id).values(name=name)
            )
            _record(change, "organization.updated", caller, {"before": before.name, "after": name})
            await announce(change.connection, ORGANIZATION_CHANGED, organization_id)
            return await read_organization(change.connection, organization_id)

    async def delete(self, caller: Caller, *, name: str) -> Organization:
        """Delete, so that nothing signs from this audit row on; erased when GRACE has passed. Raises RoleMissing,
        OrganizationDeleted, and InvalidField unless `name` is its name."""
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            await standing(change, caller.principal, least=Role.OWNER)
            if (await read_organization(change.connection, organization_id)).name != name:
                raise errors.InvalidField("name", "must be the organization's name, typed in full.")
            return await self._close(change, caller, closed=True)

    async def restore(self, caller: Caller) -> Organization:
        """Take the deletion back; a live organization stays as it is. Raises RoleMissing, and OrganizationDeleted when
        the grace period is over."""
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id, closed=True) as change:
            await standing(change, caller.principal, least=Role.OWNER)
            # The erasure takes the same lock before it begins: whoever comes first settles it.
            query = select(
                organizations.c.erased_at.is_not(None) | (organizations.c.erase_at <= func.clock_timestamp()),
                organizations.c.deleted_at.is_(None),
            ).where(organizations.c.id == organization_id)
            over, live = (await change.connection.execute(query)).one()
            if over:
                raise errors.OrganizationDeleted("The organization's grace period is over; it is being erased.")
            if live:
                return await read_organization(change.connection, organization_id)
            return await self._close(change, caller, closed=False)

    async def _close(self, change: Change, caller: Caller, *, closed: bool) -> Organization:
        moment = func.now() if closed else null()
        mine = organizations.c.id == change.organization_id
        await change.connection.execute(
            update(organizations)
            .where(mine)
            .values(deleted_at=moment, erase_at=func.clock_timestamp() + GRACE if closed else null())
        )
        await change.connection.execute(
            update(ledger_heads).where(ledger_heads.c.org_id == change.organization_id).values(closed_at=moment)
        )
        _record(change, "organization.deleted" if closed else "organization.restored", caller)
        await announce(change.connection, ORGANIZATION_CHANGED, change.organization_id)
        return await read_organization(change.connection, change.organization_id)


async def _refuse_one_more(connection: AsyncConnection, user_id: UUID) -> None:
    """Raises QuotaExceeded. Deleted ones count until they are erased: they can be restored."""
    # Locked, so that the bound is exact; whoever is made a member meanwhile does not wait.
    person = select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True)
    await connection.execute(person)
    mine = (org_members.c.user_id == user_id, org_members.c.role == Role.OWNER.value)
    owned = (await connection.execute(select(func.count()).select_from(org_members).where(*mine))).scalar_one()
    if owned >= OWNED:
        raise errors.QuotaExceeded(
            f"You are an owner of {owned} organizations, and with {OWNED} nobody founds another; delete one (it counts "
            "until it is erased), or step down in one.",
            quota="organizations",
        )


async def read_organization(connection: AsyncConnection, organization_id: UUID) -> Organization:
    """Raises MembershipMissing for one that is no more."""
    query = select(organizations).where(organizations.c.id == organization_id)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise errors.MembershipMissing
    return to_organization(row)


def to_organization(row: RowMapping) -> Organization:
    return Organization(
        id=row["id"],
        name=row["name"],
        slug=row["slug"],
        plan=row["plan"],
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
        erase_at=row["erase_at"],
    )


def _record(change: Change, event: str, caller: Caller, metadata: dict[str, str] | None = None) -> None:
    change.record(
        event,
        caller=caller,
        resource_type="organization",
        resource_id=change.organization_id,
        metadata=metadata,
    )
