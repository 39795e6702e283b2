"""Invitations on PostgreSQL: a token that one verified e-mail address can trade for a membership, once.

An invitation stands while whoever made it could still make it: the open invitations of a removed administrator, or of a
revoked API key, let nobody in.
"""

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, insert, not_, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import ActorKind, Caller, Person, Role
from popsigner_server.identity.session_rows import check_live
from popsigner_server.identity.standing import standing
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database, as_identity
from popsigner_server.storage.notices import USER_CHANGED, announce
from popsigner_server.storage.tables import api_keys, invitations, org_members, organizations, users
from popsigner_server.tenancy import Invitation, Member, Organization, Preview
from popsigner_server.tenancy.callers import caller_of
from popsigner_server.tenancy.members import read_member
from popsigner_server.tenancy.organizations import read_organization

LIFETIME = timedelta(days=7)
LONGEST = timedelta(days=30)
_TOKEN = "inv_"  # noqa: S105 - what every token begins with

_WAITS = and_(invitations.c.accepted_at.is_(None), invitations.c.revoked_at.is_(None))


def _stands() -> ColumnElement[bool]:
    """By the moment of the statement, not of the transaction: that one may have waited for the head."""
    least = func.greatest(invitations.c.role, Role.ADMIN.value)
    by_person = exists().where(
        invitations.c.created_by_kind == ActorKind.USER.value,
        org_members.c.org_id == invitations.c.org_id,
        org_members.c.user_id == invitations.c.created_by,
        org_members.c.role >= least,
    )
    by_api_key = exists().where(
        invitations.c.created_by_kind == ActorKind.API_KEY.value,
        api_keys.c.org_id == invitations.c.org_id,
        api_keys.c.id == invitations.c.created_by,
        api_keys.c.revoked_at.is_(None),
        or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.clock_timestamp()),
        api_keys.c.role >= least,
    )
    return and_(_WAITS, invitations.c.expires_at > func.clock_timestamp(), or_(by_person, by_api_key))


class Invitations:
    """Makes, lists, revokes and accepts invitations. `clock` is the time of day, with its zone."""

    def __init__(self, database: Database, ledger: Ledger, quotas: Quotas, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._ledger = ledger
        self._quotas = quotas
        self._clock = clock

    async def create(
        self, caller: Caller, *, email: str, role: Role, expires_at: datetime | None
    ) -> tuple[Invitation, str]:
        """An invitation and its token, which is kept nowhere; `email` is folded (domain.people). Raises RoleMissing,
        AlreadyMember, InvitationExists, QuotaExceeded, OrganizationDeleted, InvalidField."""
        end = self._end(expires_at)
        token = _TOKEN + secrets.token_hex(32)
        async with self._ledger.change(caller.principal.organization_id) as change:
            own = await standing(change, caller.principal, least=Role.ADMIN)
            if role > own:
                raise errors.RoleMissing(role.name)
            await _refuse_member(change, email)
            await _make_room(change, email)
            await self._quotas.claim(change, "members", invited=True)
            query = (
                insert(invitations)
                .values(
                    id=new_id(),
                    org_id=change.organization_id,
                    email=email,
                    role=role.value,
                    token_hash=_hash(token),
                    created_by_kind=caller.principal.actor_kind.value,
                    created_by=caller.principal.actor_id,
                    expires_at=end,
                )
                .returning(invitations)
            )
            made = _invitation((await change.connection.execute(query)).mappings().one())
            _record(change, "member.invited", caller, made.id, role)
        return made, token

    def _end(self, asked: datetime | None) -> datetime:
        now = self._clock()
        if asked is None:
            return now + LIFETIME
        if not now < asked <= now + LONGEST:
            raise errors.InvalidField("expires_at", f"must lie in the future, at most {LONGEST.days} days ahead.")
        return asked

    async def list(self, organization_id: UUID, *, limit: int, cursor: str) -> tuple[list[Invitation], str]:
        """A page of those that can still be accepted, oldest first, and the cursor of the next (empty on the last).
        Raises InvalidCursor."""
        query = (
            select(invitations)
            .where(invitations.c.org_id == organization_id, _stands())
            .order_by(invitations.c.id)
            .limit(limit + 1)
        )
        if cursor:
            query = query.where(invitations.c.id > pages.read_id("invitations", cursor))
        async with self._database.tenant(organization_id) as connection:
            found = [_invitation(row) for row in (await connection.execute(query)).mappings()]
        return found[:limit], pages.write("invitations", found[limit - 1].id) if len(found) > limit else ""

    async def revoke(self, caller: Caller, invitation_id: UUID) -> None:
        """Take it back. Raises RoleMissing, InvitationNotFound, OrganizationDeleted."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            await standing(change, caller.principal, least=Role.ADMIN)
            query = (
                update(invitations)
                .where(invitations.c.id == invitation_id, invitations.c.org_id == change.organization_id, _WAITS)
                .values(revoked_at=func.now())
                .returning(invitations.c.role)
            )
            role = (await change.connection.execute(query)).scalar()
            if role is None:
                raise errors.InvitationNotFound
            _record(change, "invitation.revoked", caller, invitation_id, Role(role))

    async def preview(self, token: str) -> Preview:
        """What a token is for. Raises InvitationNotFound, InvitationExpired."""
        query = (
            select(
                invitations.c.email,
                invitations.c.role,
                organizations.c.name,
                organizations.c.slug,
                and_(_stands(), organizations.c.deleted_at.is_(None)).label("stands"),
            )
            .join(organizations, invitations.c.org_id == organizations.c.id)
            .where(invitations.c.token_hash == _hash(token))
        )
        async with self._database.identity() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise errors.InvitationNotFound
        if not row["stands"]:
            raise errors.InvitationExpired
        return Preview(organization=row["name"], slug=row["slug"], email=row["email"], role=Role(row["role"]))

    async def accept(self, person: Person, token: str) -> tuple[Organization, Member]:
        """Make the person a member. Raises InvitationNotFound (also where it is for another address),
        InvitationExpired, AlreadyMember, QuotaExceeded, OrganizationDeleted, SessionEnded."""
        found = await self._addressed(person, token)
        organization_id, role = found["org_id"], Role(found["role"])
        caller = caller_of(person, organization_id, role=role, plan=found["plan"])
        try:
            async with self._ledger.change(organization_id) as change:
                # Who joins is on nobody's list but a cache's until here.
                async with as_identity(change.connection):
                    await check_live(change.connection, person.user_id, person.session_id)
                await self._spend(change, person, found["id"])
                await self._quotas.claim(change, "members")
                await change.connection.execute(
                    insert(org_members).values(org_id=organization_id, user_id=person.user_id, role=role.value)
                )
                change.record(
                    "member.joined",
                    caller=caller,
                    resource_type="user",
                    resource_id=person.user_id,
                    metadata={"role": role.name, "invitation": show(Prefix.INVITATION, found["id"])},
                )
                await announce(change.connection, USER_CHANGED, person.user_id)
                organization = await read_organization(change.connection, organization_id)
                return organization, await read_member(change.connection, organization_id, person.user_id)
        except IntegrityError as error:
            # The person deleted the account meanwhile.
            raise errors.SessionEnded from error

    async def _addressed(self, person: Person, token: str) -> RowMapping:
        """The token's invitation, if it is for this person's address of now and in their provider's reach."""
        query: Any = (
            select(invitations.c.id, invitations.c.org_id, invitations.c.role, organizations.c.plan)
            .join(organizations, invitations.c.org_id == organizations.c.id)
            .join(users, users.c.email == invitations.c.email)
            .where(invitations.c.token_hash == _hash(token), users.c.id == person.user_id)
        )
        if person.provider_org is not None:
            query = query.where(invitations.c.org_id == person.provider_org)
        async with self._database.identity() as connection:
            row: RowMapping | None = (await connection.execute(query)).mappings().first()
        if row is None:
            raise errors.InvitationNotFound
        return row

    async def _spend(self, change: Change, person: Person, invitation_id: UUID) -> None:
        member = select(org_members.c.role).where(
            org_members.c.org_id == change.organization_id, org_members.c.user_id == person.user_id
        )
        if (await change.connection.execute(member)).first() is not None:
            raise errors.AlreadyMember
        done = await change.connection.execute(
            update(invitations)
            .where(invitations.c.id == invitation_id, invitations.c.org_id == change.organization_id, _stands())
            .values(accepted_at=func.now(), accepted_by=person.user_id)
        )
        if done.rowcount != 1:
            raise errors.InvitationExpired


async def invited(connection: AsyncConnection, email: str, organization_id: UUID | None) -> bool:
    """Whether an invitation for this folded address can be accepted, in the organization or, for None, in any."""
    query = (
        select(invitations.c.id)
        .join(organizations, invitations.c.org_id == organizations.c.id)
        .where(invitations.c.email == email, organizations.c.deleted_at.is_(None), _stands())
        .limit(1)
    )
    if organization_id is not None:
        query = query.where(invitations.c.org_id == organization_id)
    return (await connection.execute(query)).first() is not None


async def _refuse_member(change: Change, email: str) -> None:
    query = (
        select(users.c.id)
        .join(org_members, org_members.c.user_id == users.c.id)
        .where(org_members.c.org_id == change.organization_id, users.c.email == email)
    )
    if (await change.connection.execute(query)).first() is not None:
        raise errors.AlreadyMember


async def _make_room(change: Change, email: str) -> None:
    """Close what can no longer be accepted, so that it holds no place. Raises InvitationExists for an invitation of
    this address that can."""
    waiting = (invitations.c.org_id == change.organization_id, _WAITS)
    await change.connection.execute(update(invitations).where(*waiting, not_(_stands())).values(revoked_at=func.now()))
    query = select(invitations.c.id).where(*waiting, invitations.c.email == email)
    if (await change.connection.execute(query)).first() is not None:
        raise errors.InvitationExists


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _record(change: Change, event: str, caller: Caller, invitation_id: UUID, role: Role) -> None:
    """Without the address: the trail outlives the person's wish to be forgotten."""
    change.record(
        event,
        caller=caller,
        resource_type="invitation",
        resource_id=invitation_id,
        metadata={"role": role.name},
    )


def _invitation(row: RowMapping) -> Invitation:
    return Invitation(
        id=row["id"],
        email=row["email"],
        role=Role(row["role"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
