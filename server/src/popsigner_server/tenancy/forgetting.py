"""Rows about people that go for good. Each takes a transaction of the jobs' role."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.storage.notices import API_KEY_CHANGED, USER_CHANGED, announce
from popsigner_server.storage.tables import (
    api_keys,
    device_logins,
    identity_providers,
    invitations,
    org_members,
    sessions,
    users,
)

# An invitation that is over tells who was invited; nobody needs that for longer.
KEPT = timedelta(days=30)


async def forget_closed_invitations(connection: AsyncConnection) -> None:
    """Those that were accepted, taken back or over before KEPT."""
    over = func.coalesce(invitations.c.accepted_at, invitations.c.revoked_at, invitations.c.expires_at)
    await connection.execute(delete(invitations).where(over < func.now() - KEPT))


async def end_access(connection: AsyncConnection, organization_id: UUID) -> None:
    """Delete an organization's API keys, invitations, memberships and identity providers, and the people who belong
    nowhere any more. Raises IntegrityError where somebody comes in between."""
    # In the order of a log-in: the provider, then its person.
    providers = select(identity_providers.c.id).where(identity_providers.c.org_id == organization_id)
    own = (await connection.execute(providers.order_by(identity_providers.c.id).with_for_update())).scalars().all()
    members = select(org_members.c.user_id).where(org_members.c.org_id == organization_id)
    # Locked, so that none of them joins another organization before the end of this.
    query = select(users.c.id).where(or_(users.c.id.in_(members), users.c.provider_id.in_(own)))
    people = (await connection.execute(query.order_by(users.c.id).with_for_update())).scalars().all()
    keys = delete(api_keys).where(api_keys.c.org_id == organization_id).returning(api_keys.c.id)
    for key_id in (await connection.execute(keys)).scalars().all():
        await announce(connection, API_KEY_CHANGED, key_id)
    await connection.execute(delete(invitations).where(invitations.c.org_id == organization_id))
    await connection.execute(delete(org_members).where(org_members.c.org_id == organization_id))
    elsewhere = select(org_members.c.user_id).where(org_members.c.user_id.in_(people))
    belong = set((await connection.execute(elsewhere)).scalars())
    for user_id in people:
        await announce(connection, USER_CHANGED, user_id)
    await forget_people(connection, [user_id for user_id in people if user_id not in belong])
    await connection.execute(delete(identity_providers).where(identity_providers.c.org_id == organization_id))


async def forget_people(connection: AsyncConnection, people: Sequence[UUID]) -> None:
    """Delete people who belong to no organization, with their sessions."""
    await connection.execute(delete(invitations).where(invitations.c.accepted_by.in_(people)))
    await connection.execute(delete(device_logins).where(device_logins.c.user_id.in_(people)))
    # Refresh tokens go with their session.
    await connection.execute(delete(sessions).where(sessions.c.user_id.in_(people)))
    await connection.execute(delete(users).where(users.c.id.in_(people)))
