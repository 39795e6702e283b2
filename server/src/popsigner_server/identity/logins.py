"""From an identity provider's word, which the gateway has verified, to a session.

A person is (provider, subject). The e-mail address only decides who may come in for the first time: it is never an
identity, and two people of two providers with one address are two people.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.people import MAX_NAME, fold_email
from popsigner_server.identity.session_rows import BROWSER, Origin, begin_session
from popsigner_server.identity.sessions import Issued, Sessions
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import USER_CHANGED, announce
from popsigner_server.storage.tables import identity_providers, used_logins, users

MAX_SUBJECT = 255
# 128 bits in base64url have 22 characters.
_LOGIN_ID = re.compile(r"[\x21-\x7e]{22,255}")
SWEPT = 10_000

# Whether an open invitation waits for a folded address, in the one organization or, for None, in any.
Invited = Callable[[AsyncConnection, str, UUID | None], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """What a provider said of somebody; `login_id` names this one log-in."""

    provider_id: UUID
    login_id: str = field(repr=False)
    subject: str = field(repr=False)
    email: str = field(repr=False)
    email_verified: bool
    name: str = field(repr=False)


class Logins:
    """Completes log-ins. `sign_up` says whether the POP's own providers may bring anybody."""

    def __init__(self, database: Database, sessions: Sessions, *, invited: Invited, sign_up: bool) -> None:
        self._database = database
        self._sessions = sessions
        self._invited = invited
        self._sign_up = sign_up

    async def complete(self, vouched: Vouched, origin: Origin) -> Issued:
        """A session for whom the provider has vouched. Raises LoginReplayed, EmailUnverified, NotInvited,
        IdentityProviderNotFound, InvalidField."""
        email = _checked(vouched)
        async with self._database.identity() as connection:
            await _use_up(connection, vouched.login_id)
            # Locked, so that a disconnection that comes now ends this session too.
            provider = (
                select(identity_providers.c.org_id)
                .where(identity_providers.c.id == vouched.provider_id, identity_providers.c.disconnected_at.is_(None))
                .with_for_update(read=True)
            )
            found = (await connection.execute(provider)).first()
            if found is None:
                raise errors.IdentityProviderNotFound
            user_id = await self._known(connection, vouched, email)
            if user_id is None:
                user_id = await self._new(connection, vouched, email, reach=found[0])
            begun = await begin_session(connection, user_id, kind=BROWSER, origin=origin)
        return await self._sessions.welcome(begun, origin)

    async def _known(self, connection: AsyncConnection, vouched: Vouched, email: str) -> UUID | None:
        query = (
            users.update()
            .where(users.c.provider_id == vouched.provider_id, users.c.subject == vouched.subject)
            .values(email=email, name=_name(vouched.name), last_login_at=func.now())
            .returning(users.c.id)
        )
        user_id: UUID | None = (await connection.execute(query)).scalar()
        if user_id is not None:
            await announce(connection, USER_CHANGED, user_id)
        return user_id

    async def _new(self, connection: AsyncConnection, vouched: Vouched, email: str, *, reach: UUID | None) -> UUID:
        open_to_all = self._sign_up and reach is None
        if not open_to_all and not await self._invited(connection, email, reach):
            raise errors.NotInvited
        values = {"email": email, "name": _name(vouched.name), "last_login_at": func.now()}
        query = (
            insert(users)
            .values(id=new_id(), provider_id=vouched.provider_id, subject=vouched.subject, **values)
            # Two first log-ins at once are one person.
            .on_conflict_do_update(index_elements=["provider_id", "subject"], set_=values)
            .returning(users.c.id)
        )
        user_id: UUID = (await connection.execute(query)).scalar_one()
        return user_id


async def sweep_logins(database: Database) -> None:
    """Forget log-ins of a day ago: the gateway's own transaction is over after minutes. Safe from several processes at
    once."""
    some = (
        select(used_logins.c.login_hash)
        .where(used_logins.c.created_at < func.now() - func.make_interval(0, 0, 0, 1))
        .limit(SWEPT)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    async with database.jobs() as connection:
        await connection.execute(delete(used_logins).where(used_logins.c.login_hash.in_(some)))


def _checked(vouched: Vouched) -> str:
    """The folded address. Raises InvalidField, EmailUnverified."""
    if _LOGIN_ID.fullmatch(vouched.login_id) is None:
        raise errors.InvalidField("login_id", "must be 22 to 255 printable ASCII characters.")
    if not 0 < len(vouched.subject) <= MAX_SUBJECT or not vouched.subject.isprintable():
        raise errors.InvalidField("subject", f"must be 1 to {MAX_SUBJECT} printable characters.")
    if not vouched.email_verified:
        raise errors.EmailUnverified
    try:
        return fold_email(vouched.email)
    except ValueError as error:
        raise errors.InvalidField("email", str(error)) from error


def _name(told: str) -> str:
    """As much of a provider's words as may be shown."""
    shown = "".join(character for character in told if character.isprintable())
    return shown[:MAX_NAME].strip()


async def _use_up(connection: AsyncConnection, login_id: str) -> None:
    """Exact under concurrency: the second waits for the first one's end. Raises LoginReplayed."""
    login_hash = hashlib.sha256(login_id.encode()).digest()
    query = insert(used_logins).values(login_hash=login_hash).on_conflict_do_nothing()
    if (await connection.execute(query.returning(used_logins.c.login_hash))).first() is None:
        raise errors.LoginReplayed
