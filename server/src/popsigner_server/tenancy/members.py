"""The people of an organization, on PostgreSQL."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.principals import ActorKind, Caller, Role
from popsigner_server.identity.standing import standing
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import API_KEY_CHANGED, USER_CHANGED, announce
from popsigner_server.storage.tables import api_keys, org_members, users
from popsigner_server.tenancy import Member


class Members:
    """Changes, removes and lists members."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    async def update(self, caller: Caller, user_id: UUID, *, role: Role) -> Member:
        """Give a member another role. Raises RoleMissing, UserNotFound, LastOwner, OrganizationDeleted."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            own = await standing(change, caller.principal, least=Role.ADMIN)
            member = await read_member(change.connection, change.organization_id, user_id)
            if (highest := max(member.role, role)) > own:
                raise errors.RoleMissing(highest.name)
            if member.role is role:
                return member
            if member.role is Role.OWNER:
                await keep_an_owner(change, without=user_id)
            await change.connection.execute(
                update(org_members)
                .where(org_members.c.org_id == change.organization_id, org_members.c.user_id == user_id)
                .values(role=role.value)
            )
            change.record(
                "member.updated",
                caller=caller,
                resource_type="user",
                resource_id=user_id,
                metadata={"role_before": member.role.name, "role_after": role.name},
            )
            await announce(change.connection, USER_CHANGED, user_id)
            return await read_member(change.connection, change.organization_id, user_id)

    async def remove(self, caller: Caller, user_id: UUID, *, revoke_api_keys: bool) -> list[UUID]:
        """Remove a member, from this audit row on; returns the API keys that were revoked. Everybody may leave.
        Raises RoleMissing, UserNotFound, LastOwner, OrganizationDeleted."""
        leaves = caller.principal.actor_kind is ActorKind.USER and caller.principal.actor_id == user_id
        async with self._ledger.change(caller.principal.organization_id) as change:
            # Revoking an API key takes an ADMIN, also where somebody revokes their own on leaving.
            own = await standing(
                change, caller.principal, least=Role.VIEWER if leaves and not revoke_api_keys else Role.ADMIN
            )
            member = await read_member(change.connection, change.organization_id, user_id)
            if member.role > own:
                raise errors.RoleMissing(member.role.name)
            if member.role is Role.OWNER:
                await keep_an_owner(change, without=user_id)
            await end_membership(change, user_id)
            change.record(
                "member.left" if leaves else "member.removed",
                caller=caller,
                resource_type="user",
                resource_id=user_id,
                metadata={"role": member.role.name},
            )
            return await _revoke_api_keys(change, caller, own, user_id) if revoke_api_keys else []

    async def list(self, organization_id: UUID, *, limit: int, cursor: str) -> tuple[list[Member], str]:
        """A page in the order of their joining, and the cursor of the next (empty on the last). Raises
        InvalidCursor."""
        place = tuple_(org_members.c.created_at, org_members.c.user_id)
        query = _select(organization_id).order_by(*place).limit(limit + 1)
        if cursor:
            query = query.where(place > tuple_(*pages.read_moment("members", cursor)))
        async with self._database.tenant(organization_id) as connection:
            found = [_member(row) for row in (await connection.execute(query)).mappings()]
        if len(found) <= limit:
            return found, ""
        last = found[limit - 1]
        return found[:limit], pages.write("members", pages.moment(last.joined_at, last.user_id))


async def keep_an_owner(change: Change, *, without: UUID) -> None:
    """Raises LastOwner where no other person owns the organization. Exact, because the head is locked."""
    query = (
        select(func.count())
        .select_from(org_members)
        .where(org_members.c.org_id == change.organization_id, org_members.c.user_id != without)
        .where(org_members.c.role == Role.OWNER.value)
    )
    if (await change.connection.execute(query)).scalar_one() == 0:
        raise errors.LastOwner


async def end_membership(change: Change, user_id: UUID) -> Role | None:
    """Take the row away and tell every process; returns the role, None where there was no such member."""
    query = (
        delete(org_members)
        .where(org_members.c.org_id == change.organization_id, org_members.c.user_id == user_id)
        .returning(org_members.c.role)
    )
    role = (await change.connection.execute(query)).scalar()
    await announce(change.connection, USER_CHANGED, user_id)
    return None if role is None else Role(role)


async def read_member(connection: AsyncConnection, organization_id: UUID, user_id: UUID) -> Member:
    """Raises UserNotFound."""
    query = _select(organization_id).where(org_members.c.user_id == user_id)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise errors.UserNotFound
    return _member(row)


async def _revoke_api_keys(change: Change, caller: Caller, own: Role, user_id: UUID) -> list[UUID]:
    """Raises RoleMissing where the person made one with a role above the caller's: all or none."""
    key = api_keys.c
    made = (
        key.org_id == change.organization_id,
        key.created_by_kind == ActorKind.USER.value,
        key.created_by == user_id,
        key.revoked_at.is_(None),
    )
    query = update(api_keys).where(*made).values(revoked_at=func.now()).returning(key.id, key.name, key.role)
    revoked = sorted((await change.connection.execute(query)).all())
    for key_id, name, role in revoked:
        if role > own:
            raise errors.RoleMissing(Role(role).name)
        change.record(
            "api_key.revoked",
            caller=caller,
            resource_type="api_key",
            resource_id=key_id,
            metadata={"name": name},
        )
        await announce(change.connection, API_KEY_CHANGED, key_id)
    return [key_id for key_id, _, _ in revoked]


def _select(organization_id: UUID) -> Select[Any]:
    return (
        select(users.c.id, users.c.email, users.c.name, org_members.c.role, org_members.c.created_at.label("joined_at"))
        .join(org_members, org_members.c.user_id == users.c.id)
        .where(org_members.c.org_id == organization_id)
    )


def _member(row: RowMapping) -> Member:
    return Member(
        user_id=row["id"],
        email=row["email"],
        name=row["name"],
        role=Role(row["role"]),
        joined_at=row["joined_at"],
    )
