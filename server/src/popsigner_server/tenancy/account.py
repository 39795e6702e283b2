"""The end of a person's account: the memberships, each under its organization's head, and with them everything that
names the person. The audit trails keep the id alone."""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.people import fold_email
from popsigner_server.domain.principals import Person, Role
from popsigner_server.identity.session_rows import check_live
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import USER_CHANGED, announce
from popsigner_server.storage.tables import invitations, org_members, organizations, users
from popsigner_server.tenancy.callers import caller_of
from popsigner_server.tenancy.forgetting import forget_people
from popsigner_server.tenancy.members import end_membership

# Audit rows of one transaction.
ROWS = 5000
# A row's time is the beginning of its transaction; none takes that long.
SLACK = timedelta(minutes=1)

_PERSONAL = """(a.ip_address IS NOT NULL OR a.user_agent IS NOT NULL
    OR CASE WHEN jsonb_typeof(a.metadata) = 'object' THEN a.metadata ? 'email' END)"""
_FORGET = """UPDATE audit_logs a SET ip_address = NULL, user_agent = NULL, metadata =
    CASE WHEN jsonb_typeof(a.metadata) = 'object' THEN a.metadata - 'email' END"""
_FORGET_PAGE = text(f"""
    WITH page AS (
        SELECT p.org_id, p.seq, p.created_at FROM audit_logs p
        WHERE p.actor_type = 'user' AND p.actor_id = :person AND (p.org_id, p.seq) > (:org, :seq)
        ORDER BY p.org_id, p.seq LIMIT :rows
    ), forgotten AS (
        {_FORGET} FROM page p
        WHERE a.org_id = p.org_id AND a.seq = p.seq AND a.created_at = p.created_at AND {_PERSONAL}
    )
    SELECT org_id, seq FROM page ORDER BY org_id DESC, seq DESC LIMIT 1
""")  # noqa: S608 - of constants
_FORGET_SINCE = text(f"""
    {_FORGET} WHERE a.actor_type = 'user' AND a.actor_id = :person AND a.created_at >= :since AND {_PERSONAL}
""")


class Accounts:
    """Ends accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete(self, person: Person, *, email: str) -> None:
        """Forget the person. Raises LastOwner, SessionEnded, and InvalidField unless `email` is the person's.

        The trails come first, a page at a time, because no lock may be held that long, and the invitations by
        themselves: whoever accepts one holds it and waits for the person's row. Who is interrupted there still has the
        account, and asks again.
        """
        async with self._database.jobs() as connection:
            await check_live(connection, person.user_id, person.session_id)
            address = await _confirm(connection, person.user_id, email)
            await _refuse_last_owner(connection, person.user_id)
            since: datetime = (await connection.execute(select(func.now() - SLACK))).scalar_one()
        await self._forget_in_trails(person.user_id)
        addressed = delete(invitations).where(invitations.c.email == address)
        if person.provider_org is not None:
            # Its word for an address counts within that organization alone.
            addressed = addressed.where(invitations.c.org_id == person.provider_org)
        async with self._database.jobs() as connection:
            await connection.execute(addressed)
        async with self._database.jobs() as connection:
            await self._end(connection, person, since)

    async def _forget_in_trails(self, user_id: UUID) -> None:
        place: tuple[UUID, int] | None = (UUID(int=0), 0)
        while place is not None:
            page = {"person": user_id, "org": place[0], "seq": place[1], "rows": ROWS}
            async with self._database.jobs() as connection:
                last = (await connection.execute(_FORGET_PAGE, page)).first()
            place = None if last is None else (last[0], last[1])

    async def _end(self, connection: AsyncConnection, person: Person, since: datetime) -> None:
        # First the person's row, so that nothing new hangs on it; then the heads in the order of the release gate.
        alive = select(users.c.id).where(users.c.id == person.user_id).with_for_update()
        if (await connection.execute(alive)).first() is None:
            raise errors.SessionEnded
        # Once more: the trails may have taken long, and what comes now is taken back by nobody.
        await check_live(connection, person.user_id, person.session_id)
        memberships = (
            select(org_members.c.org_id).where(org_members.c.user_id == person.user_id).order_by(org_members.c.org_id)
        )
        belongs = (await connection.execute(memberships)).scalars().all()
        async with AsyncExitStack() as heads:
            changes = [
                await heads.enter_async_context(change_on(connection, organization_id, closed=True))
                for organization_id in belongs
            ]
            await _refuse_last_owner(connection, person.user_id)
            for change in changes:
                role = await end_membership(change, person.user_id)
                if role is None:
                    continue
                caller = caller_of(person, change.organization_id, role=role, plan="")
                change.record(
                    "member.left",
                    # Whose row this is, and nothing else.
                    caller=replace(caller, ip_address=None, user_agent=None),
                    resource_type="user",
                    resource_id=person.user_id,
                    metadata={"role": role.name},
                )
        await connection.execute(_FORGET_SINCE, {"person": person.user_id, "since": since})
        await forget_people(connection, [person.user_id])
        await announce(connection, USER_CHANGED, person.user_id)


async def _confirm(connection: AsyncConnection, user_id: UUID, typed: str) -> str:
    """The person's address. Raises InvalidField for another one, and SessionEnded where nobody is left."""
    email: str | None = (await connection.execute(select(users.c.email).where(users.c.id == user_id))).scalar()
    if email is None:
        raise errors.SessionEnded
    try:
        same = fold_email(typed) == email
    except ValueError:
        same = typed == email
    if not same:
        raise errors.InvalidField("email", "must be your e-mail address, typed in full.")
    return email


async def _refuse_last_owner(connection: AsyncConnection, user_id: UUID) -> None:
    """Raises LastOwner, naming the organization. One that is deleted needs no owner any more."""
    other = org_members.alias()
    query = (
        select(organizations.c.slug)
        .join(org_members, org_members.c.org_id == organizations.c.id)
        .where(org_members.c.user_id == user_id, org_members.c.role == Role.OWNER.value)
        .where(organizations.c.deleted_at.is_(None))
        .where(
            ~exists().where(
                other.c.org_id == organizations.c.id, other.c.user_id != user_id, other.c.role == Role.OWNER.value
            )
        )
        .order_by(organizations.c.slug)
    )
    slugs = (await connection.execute(query)).scalars().all()
    if slugs:
        raise errors.LastOwner(
            f"You are the last owner of {', '.join(slugs)}; make another member an owner there, or delete it, first."
        )
