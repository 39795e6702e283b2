"""What a caller is at this moment. The principal of a call comes from a cache and may be a moment old: a right that was
just taken away must not make one more change first. Under the head nobody's role changes."""

from dataclasses import replace

from sqlalchemy import func, select

from popsigner_server import errors
from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Principal, Role, Scope
from popsigner_server.identity.session_rows import check_live
from popsigner_server.ledger.changes import Change
from popsigner_server.storage.engine import as_identity
from popsigner_server.storage.tables import api_keys, org_members


async def standing(change: Change, principal: Principal, *, least: Role) -> Role:
    """The caller's role, read under the head. Raises SessionEnded, MembershipMissing, CredentialsInvalid,
    ApiKeyRevoked, ApiKeyExpired, and RoleMissing for one below `least`."""
    if principal.actor_kind is ActorKind.USER:
        role = await _role_of_person(change, principal)
    else:
        role = await _role_of_api_key(change, principal)
    if role < least:
        raise errors.RoleMissing(least.name)
    return role


async def as_it_stands(change: Change, principal: Principal, *, least: Role) -> Principal:
    """The caller with the role and the scopes of this moment, read under the head. An API key's scopes never change, a
    person's follow their role. Raises what `standing` does."""
    role = await standing(change, principal, least=least)
    scopes = SCOPES_OF[role] if principal.actor_kind is ActorKind.USER else principal.scopes
    return replace(principal, role=role, scopes=scopes)


async def still_may(change: Change, principal: Principal, scope: Scope, *, least: Role = Role.UNSPECIFIED) -> None:
    """That the caller has the scope still, and at least this role, read under the head. Raises what `standing` does,
    and ScopeMissing."""
    if scope not in (await as_it_stands(change, principal, least=least)).scopes:
        raise errors.ScopeMissing(scope.value)


async def _role_of_person(change: Change, principal: Principal) -> Role:
    async with as_identity(change.connection):
        await check_live(change.connection, principal.actor_id, principal.session_id)
    member = org_members.c
    query = select(member.role).where(member.org_id == change.organization_id, member.user_id == principal.actor_id)
    role = (await change.connection.execute(query)).scalar()
    if role is None:
        raise errors.MembershipMissing
    return Role(role)


async def _role_of_api_key(change: Change, principal: Principal) -> Role:
    """The same judgement as the release gate's."""
    key, moment = api_keys.c, func.clock_timestamp()
    query = select(
        key.role, key.generation, key.revoked_at, key.expires_at <= moment, key.previous_expires_at > moment
    ).where(key.id == principal.actor_id, key.org_id == change.organization_id)
    row = (await change.connection.execute(query)).first()
    if row is None:
        raise errors.CredentialsInvalid
    role, generation, revoked_at, expired, overlaps = row
    if revoked_at is not None:
        raise errors.ApiKeyRevoked
    if expired:
        raise errors.ApiKeyExpired
    if principal.generation != generation and not (principal.generation == generation - 1 and overlaps):
        raise errors.ApiKeyRevoked
    return Role(role)
