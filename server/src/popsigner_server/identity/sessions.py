"""Sessions of people: one log-in on one device, and the family of its refresh tokens.

A refresh token is traded once. One that comes a second time was stolen, before or after its first use: nobody can tell
who the thief is, so the whole session ends, its access tokens with it (RFC 9700 4.14.2).
"""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.principals import Caller
from popsigner_server.identity.people import memberships
from popsigner_server.identity.session_rows import (
    LIVE,
    MOST,
    Begun,
    Origin,
    deny_devices,
    end_everything,
    end_sessions,
    hash_of,
    locked,
    next_token,
)
from popsigner_server.identity.tokens import Tokens
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import device_logins, refresh_tokens, sessions

_NOWHERE = Origin(ip_address=None, user_agent=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A session's tokens; `expires_in` is the access token's, in seconds."""

    session_id: UUID
    user_id: UUID
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    session_expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as its person sees it."""

    id: UUID
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime
    ip_address: str | None
    user_agent: str | None


class Sessions:
    """Begins, renews, lists and ends sessions."""

    def __init__(self, database: Database, ledger: Ledger, tokens: Tokens) -> None:
        self._database = database
        self._ledger = ledger
        self._tokens = tokens

    async def welcome(self, begun: Begun, origin: Origin) -> Issued:
        """Give out a session that has just begun. The tokens come last: there is no log-in without its audit row in
        each organization of the person."""
        await self._tell("auth.login", begun.user_id, begun.session_id, origin)
        return await self._issue(begun)

    async def refresh(self, refresh_token: str, origin: Origin) -> Issued:
        """Trade it for the next tokens. Raises CredentialsInvalid, SessionEnded, RefreshTokenReused."""
        reused: UUID | None = None
        async with self._database.identity() as connection:
            session_id, user_id, live, expires_at = await locked(connection, refresh_token)
            traded = await connection.execute(
                update(refresh_tokens)
                .where(refresh_tokens.c.token_hash == hash_of(refresh_token), refresh_tokens.c.used_at.is_(None))
                .values(used_at=func.now())
            )
            if traded.rowcount != 1:
                # Leave the transaction by its end: the session must be over before the refusal is told.
                ended = await end_sessions(connection, user_id, session_id, reason="reuse")
                await deny_devices(connection, device_logins.c.user_id == user_id)
                reused = user_id if ended else None
            elif not live:
                raise errors.SessionEnded
            else:
                begun = Begun(
                    session_id=session_id,
                    user_id=user_id,
                    refresh_token=await next_token(connection, session_id),
                    expires_at=expires_at,
                )
                await connection.execute(
                    update(sessions)
                    .where(sessions.c.id == session_id)
                    .values(last_used_at=func.now(), ip_address=origin.ip_address, user_agent=origin.user_agent)
                )
        if reused is not None:
            await self._tell("auth.session_ended", user_id, session_id, origin, reason="reuse")
        if traded.rowcount != 1:
            raise errors.RefreshTokenReused
        return await self._issue(begun)

    async def end(self, refresh_token: str) -> None:
        """Log out; any token of the session will do, and an unknown one is no failure."""
        try:
            async with self._database.identity() as connection:
                session_id, user_id, _, _ = await locked(connection, refresh_token)
                ended = await end_sessions(connection, user_id, session_id, reason="logout")
        except errors.CredentialsInvalid:
            return
        if ended:
            await self._tell("auth.session_ended", user_id, session_id, _NOWHERE, reason="logout")

    async def list(self, user_id: UUID) -> list[Session]:
        """The live ones, newest first."""
        query = (
            select(sessions)
            .where(sessions.c.user_id == user_id, *LIVE)
            .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
            .limit(MOST)
        )
        async with self._database.identity() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            Session(
                id=row["id"],
                created_at=row["created_at"],
                expires_at=row["expires_at"],
                last_used_at=row["last_used_at"],
                ip_address=None if row["ip_address"] is None else str(row["ip_address"]),
                user_agent=row["user_agent"],
            )
            for row in rows
        ]

    async def revoke(self, user_id: UUID, session_id: UUID, origin: Origin) -> None:
        """End one of the person's; a device that they have approved does not begin another one. Raises
        SessionNotFound."""
        async with self._database.identity() as connection:
            ended = await end_sessions(connection, user_id, session_id, reason="revoked")
            if ended:
                await deny_devices(connection, device_logins.c.user_id == user_id)
        if not ended:
            raise errors.SessionNotFound
        await self._tell("auth.session_ended", user_id, session_id, origin, reason="revoked")

    async def revoke_all(self, user_id: UUID, origin: Origin) -> int:
        """End all of the person's, and those that are about to begin; returns how many there were."""
        async with self._database.identity() as connection:
            ended = await end_everything(connection, user_id, reason="revoked")
        for session_id in ended:
            await self._tell("auth.session_ended", user_id, session_id, origin, reason="revoked")
        return len(ended)

    async def _issue(self, begun: Begun) -> Issued:
        access = await self._tokens.issue(user_id=begun.user_id, session_id=begun.session_id, ends=begun.expires_at)
        return Issued(
            session_id=begun.session_id,
            user_id=begun.user_id,
            access_token=access.text,
            refresh_token=begun.refresh_token,
            expires_in=access.expires_in,
            session_expires_at=begun.expires_at,
        )

    async def _tell(
        self, event: str, user_id: UUID, session_id: UUID, origin: Origin, *, reason: str | None = None
    ) -> None:
        """One audit row in each organization of the person, deleted ones too. What was taken away is taken away before:
        it does not wait for a trail that others hold."""
        async with self._database.identity() as connection:
            everywhere = await memberships(connection, user_id, session_id)
        for _, principal in everywhere:
            caller = Caller(principal=principal, ip_address=origin.ip_address, user_agent=origin.user_agent)
            async with self._ledger.change(principal.organization_id, closed=True) as change:
                change.record(
                    event,
                    caller=caller,
                    resource_type="session",
                    resource_id=session_id,
                    metadata=None if reason is None else {"reason": reason},
                )
