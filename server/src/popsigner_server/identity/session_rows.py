"""The rows of a session: written, locked, ended and forgotten, in transactions of the identity's role."""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Self
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import USER_CHANGED, announce
from popsigner_server.storage.tables import device_logins, identity_providers, refresh_tokens, sessions, users

LONGEST = timedelta(days=30)
# Live ones of one person; one more ends the oldest.
MOST = 100
# What has ended is remembered so long, to say so.
REMEMBERED = timedelta(days=1)
SWEPT = 10_000
MAX_USER_AGENT = 200
BROWSER = "browser"
DEVICE = "device"
_REFRESH = "psr_"
LIVE = (sessions.c.ended_at.is_(None), sessions.c.expires_at > func.clock_timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a caller is, as the gateway tells; None where nothing is known."""

    ip_address: str | None
    user_agent: str | None

    @classmethod
    def of(cls, address: str, agent: str) -> Self:
        """From the gateway's words: what is no address is nothing, and a name is cut to what may be kept."""
        try:
            # Without the zone of a link-local address (RFC 4007): the database's type has none.
            place = str(ip_address(address.partition("%")[0]))
        except ValueError:
            place = None
        shown = "".join(character for character in agent if character.isprintable())
        return cls(ip_address=place, user_agent=shown[:MAX_USER_AGENT] or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A session and its newest refresh token, not yet given out."""

    session_id: UUID
    user_id: UUID
    refresh_token: str = field(repr=False)
    expires_at: datetime


async def begin_session(connection: AsyncConnection, user_id: UUID, *, kind: str, origin: Origin) -> Begun:
    """Write a session, in a transaction of the identity's role; `kind` is BROWSER or DEVICE. Raises SessionEnded for a
    person who is gone, or whose identity provider is."""
    # Locked, so that a disconnection that comes now ends this session too.
    person = (
        select(users.c.id)
        .join(identity_providers, users.c.provider_id == identity_providers.c.id)
        .where(users.c.id == user_id, identity_providers.c.disconnected_at.is_(None))
        .with_for_update(read=True)
    )
    if (await connection.execute(person)).first() is None:
        raise errors.SessionEnded
    surplus = (
        select(sessions.c.id)
        .where(sessions.c.user_id == user_id, *LIVE)
        .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
        .offset(MOST - 1)
    )
    for session_id in (await connection.execute(surplus)).scalars().all():
        await end_sessions(connection, user_id, session_id, reason="surplus")
    query = (
        insert(sessions)
        .values(
            id=new_id(),
            user_id=user_id,
            origin=kind,
            expires_at=func.now() + LONGEST,
            ip_address=origin.ip_address,
            user_agent=origin.user_agent,
        )
        .returning(sessions.c.id, sessions.c.expires_at)
    )
    session_id, expires_at = (await connection.execute(query)).one()
    return Begun(
        session_id=session_id,
        user_id=user_id,
        refresh_token=await next_token(connection, session_id),
        expires_at=expires_at,
    )


async def end_sessions(
    connection: AsyncConnection, user_id: UUID, session_id: UUID | None = None, *, reason: str
) -> list[UUID]:
    """End the one, or all of the person's; returns those that lived. Every process hears of it at the commit."""
    query = update(sessions).where(sessions.c.user_id == user_id, *LIVE)
    if session_id is not None:
        query = query.where(sessions.c.id == session_id)
    changed = query.values(ended_at=func.clock_timestamp(), end_reason=reason).returning(sessions.c.id)
    ended = sorted((await connection.execute(changed)).scalars())
    if ended:
        await announce(connection, USER_CHANGED, user_id)
    return ended


async def end_everything(connection: AsyncConnection, user_id: UUID, *, reason: str) -> list[UUID]:
    """End all of the person's sessions, and those that are about to begin; returns those that lived."""
    ended = await end_sessions(connection, user_id, reason=reason)
    await deny_devices(connection, device_logins.c.user_id == user_id)
    # A device that was being answered has its session now: the denial waited for it.
    return sorted([*ended, *await end_sessions(connection, user_id, reason=reason)])


async def deny_devices(connection: AsyncConnection, whose: ColumnElement[bool]) -> None:
    """Take back the approval of devices that have not come for their tokens yet. Whoever talked a person into it could
    wait with that until the person has ended every session, and then begin another one."""
    await connection.execute(
        update(device_logins)
        .where(whose, device_logins.c.approved, device_logins.c.answered_at.is_(None))
        .values(approved=False)
    )


async def check_live(
    connection: AsyncConnection, user_id: UUID, session_id: UUID | None, *, hold: bool = False
) -> None:
    """That the person's session lives, read anew; with `hold` it stays so until the transaction's end, and who ends it
    waits for that. Raises SessionEnded."""
    query = select(sessions.c.id).where(sessions.c.id == session_id, sessions.c.user_id == user_id, *LIVE)
    if hold:
        query = query.with_for_update(read=True)
    if (await connection.execute(query)).first() is None:
        raise errors.SessionEnded


async def sweep_sessions(database: Database) -> None:
    """Forget what ended a day ago. Safe from several processes at once."""
    day_ago = func.now() - REMEMBERED
    some = (
        select(sessions.c.id)
        # Each of the two by its index.
        .where(or_(sessions.c.expires_at < day_ago, sessions.c.ended_at < day_ago))
        .limit(SWEPT)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    async with database.jobs() as connection:
        await connection.execute(delete(sessions).where(sessions.c.id.in_(some)))


def hash_of(token: str) -> bytes:
    """256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode()).digest()


async def next_token(connection: AsyncConnection, session_id: UUID) -> str:
    token = _REFRESH + secrets.token_hex(32)
    await connection.execute(insert(refresh_tokens).values(token_hash=hash_of(token), session_id=session_id))
    return token


async def locked(connection: AsyncConnection, refresh_token: str) -> tuple[UUID, UUID, bool, datetime]:
    """The session of a token, locked against everybody else who has a token of it: its id, its person, whether it
    lives, and its end. Raises CredentialsInvalid."""
    owner = select(refresh_tokens.c.session_id).where(refresh_tokens.c.token_hash == hash_of(refresh_token))
    query = (
        select(sessions.c.id, sessions.c.user_id, sessions.c.ended_at, sessions.c.expires_at)
        .where(sessions.c.id == owner.scalar_subquery())
        .with_for_update()
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise errors.CredentialsInvalid("The refresh token is not valid; log in again.")
    session_id, user_id, ended_at, expires_at = row
    now = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return session_id, user_id, ended_at is None and expires_at > now, expires_at
