"""Identity providers: the POP's own, which the operator adds, and those that an organization connects for its people.

Who comes through an organization's own provider can belong to that organization alone: whoever runs an issuer can
vouch for any subject and any address. A disconnected provider keeps its row, for the identities of its people hang on
it: connected again, the same issuer brings the same people back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, insert, null, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import Caller, Role
from popsigner_server.identity.issuers import Kind, Wanted
from popsigner_server.identity.sealing import Sealing, Unsealable
from popsigner_server.identity.session_rows import deny_devices
from popsigner_server.identity.standing import standing
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage.engine import Database, as_identity
from popsigner_server.storage.notices import USER_CHANGED, announce
from popsigner_server.storage.tables import device_logins, identity_providers, organizations, sessions, users

_TABLE = "identity_providers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A connected provider; `organization` is the slug of the one that connected it, empty for the POP's own."""

    id: UUID
    kind: Kind
    name: str
    issuer: str
    client_id: str
    organization: str
    created_at: datetime


class Providers:
    """Connects, lists and disconnects identity providers."""

    def __init__(self, database: Database, ledger: Ledger, sealing: Sealing) -> None:
        self._database = database
        self._ledger = ledger
        self._sealing = sealing

    async def connect(self, caller: Caller, wanted: Wanted) -> Provider:
        """Raises IdentityProviderExists, OrganizationDeleted, and what standing.standing raises."""
        try:
            async with self._ledger.change(caller.principal.organization_id) as change:
                await standing(change, caller.principal, least=Role.OWNER)
                row = await _write(change.connection, self._sealing, wanted, organization_id=change.organization_id)
                _record(change, "identity_provider.connected", caller, row)
        except IntegrityError as error:
            raise errors.IdentityProviderExists from error
        return _provider(row)

    async def disconnect(self, caller: Caller, provider_id: UUID) -> None:
        """Nobody logs in through it any more, and the sessions that began with it end, all in one transaction. Raises
        IdentityProviderNotFound, OrganizationDeleted, and what standing.standing raises."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            await standing(change, caller.principal, least=Role.OWNER)
            mine = identity_providers.c.org_id == change.organization_id
            row = await _disconnect(change.connection, mine, provider_id)
            # Sessions belong to no organization; their people may be members of this one alone.
            async with as_identity(change.connection):
                ended = await end_sessions_of(change.connection, provider_id)
            _record(change, "identity_provider.disconnected", caller, row, {"sessions_ended": str(ended)})

    async def offered(self, slug: str) -> list[Provider]:
        """Whom somebody who wants to log in may choose from: the POP's own, and those of the named organization, or of
        the only one."""
        own = identity_providers.c.org_id.is_(None)
        only = select(func.count()).select_from(organizations).scalar_subquery() == 1
        theirs = organizations.c.slug == slug if slug else only
        async with self._database.identity() as connection:
            return [
                *await _read(connection, own),
                *await _read(connection, identity_providers.c.org_id.is_not(None), theirs),
            ]

    async def get(self, provider_id: UUID) -> tuple[Provider, str]:
        """The provider and its client secret, empty for a public client. Raises IdentityProviderNotFound."""
        query = _select(identity_providers.c.id == provider_id)
        async with self._database.identity() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise errors.IdentityProviderNotFound
        sealed = row["client_secret"]
        if sealed is None:
            return _provider(row), ""
        try:
            secret = self._sealing.open(sealed, table=_TABLE, row=provider_id)
        except Unsealable as error:
            raise errors.IdentityProviderNotFound(
                "The client secret of this identity provider was sealed with another key; disconnect the provider and "
                "connect it again."
            ) from error
        return _provider(row), secret.decode()

    async def list(self, organization_id: UUID) -> list[Provider]:
        """Those of the organization, oldest first."""
        async with self._database.tenant(organization_id) as connection:
            return await _read(connection, identity_providers.c.org_id == organization_id)


async def add_provider(database: Database, sealing: Sealing, wanted: Wanted) -> Provider:
    """Add one of the POP's own. Raises IdentityProviderExists."""
    try:
        async with database.jobs() as connection:
            return _provider(await _write(connection, sealing, wanted, organization_id=None))
    except IntegrityError as error:
        raise errors.IdentityProviderExists from error


async def own_providers(database: Database) -> list[Provider]:
    """The POP's own, oldest first."""
    async with database.jobs() as connection:
        return await _read(connection, identity_providers.c.org_id.is_(None))


async def remove_provider(database: Database, provider_id: UUID) -> int:
    """Disconnect one of the POP's own; returns how many sessions ended. Raises IdentityProviderNotFound."""
    async with database.jobs() as connection:
        await _disconnect(connection, identity_providers.c.org_id.is_(None), provider_id)
        return await end_sessions_of(connection, provider_id)


async def end_sessions_of(connection: AsyncConnection, provider_id: UUID) -> int:
    """End the sessions of everybody whom a provider vouches for; returns how many lived."""
    whose = select(users.c.id).where(users.c.provider_id == provider_id)
    query = (
        update(sessions)
        .where(
            sessions.c.user_id.in_(whose),
            sessions.c.ended_at.is_(None),
            sessions.c.expires_at > func.clock_timestamp(),
        )
        .values(ended_at=func.clock_timestamp(), end_reason="disconnected")
        .returning(sessions.c.user_id)
    )
    ended = (await connection.execute(query)).scalars().all()
    # Connected again soon, it would vouch for them once more.
    await deny_devices(connection, device_logins.c.user_id.in_(whose))
    for user_id in sorted(set(ended)):
        await announce(connection, USER_CHANGED, user_id)
    return len(ended)


async def _write(
    connection: AsyncConnection, sealing: Sealing, wanted: Wanted, *, organization_id: UUID | None
) -> RowMapping:
    """A new row, or the one of before where this issuer was disconnected. Raises IdentityProviderExists, and
    IntegrityError where another one comes first."""
    place = identity_providers.c
    whose = place.org_id.is_(None) if organization_id is None else place.org_id == organization_id
    before = (
        select(place.id, place.disconnected_at)
        .where(whose, place.kind == wanted.kind.value, place.issuer == wanted.issuer)
        .with_for_update()
    )
    known = (await connection.execute(before)).first()
    if known is not None and known.disconnected_at is None:
        raise errors.IdentityProviderExists
    provider_id = new_id() if known is None else known.id
    values: dict[str, Any] = {
        "name": wanted.name,
        "client_id": wanted.client_id,
        "client_secret": sealing.seal(wanted.client_secret.encode(), table=_TABLE, row=provider_id)
        if wanted.client_secret
        else None,
    }
    if known is None:
        made = {"id": provider_id, "org_id": organization_id, "kind": wanted.kind.value, "issuer": wanted.issuer}
        await connection.execute(insert(identity_providers).values(**made, **values))
    else:
        await connection.execute(
            update(identity_providers)
            .where(place.id == provider_id, whose)
            .values(**values, disconnected_at=null(), created_at=func.now())
        )
    row: RowMapping = (await connection.execute(_select(place.id == provider_id))).mappings().one()
    return row


async def _disconnect(connection: AsyncConnection, whose: ColumnElement[bool], provider_id: UUID) -> RowMapping:
    """Raises IdentityProviderNotFound."""
    query = _select(whose, identity_providers.c.id == provider_id)
    row: RowMapping | None = (await connection.execute(query)).mappings().first()
    if row is None:
        raise errors.IdentityProviderNotFound
    await connection.execute(
        update(identity_providers)
        .where(whose, identity_providers.c.id == provider_id)
        # What it could be opened with goes at once; who connects it again brings it again.
        .values(disconnected_at=func.now(), client_secret=null())
    )
    return row


async def _read(connection: AsyncConnection, *where: ColumnElement[bool]) -> list[Provider]:
    query = _select(*where).order_by(identity_providers.c.created_at, identity_providers.c.id)
    return [_provider(row) for row in (await connection.execute(query)).mappings()]


def _select(*where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(identity_providers, organizations.c.slug)
        .join(organizations, identity_providers.c.org_id == organizations.c.id, isouter=True)
        .where(identity_providers.c.disconnected_at.is_(None), *where)
    )


def _provider(row: RowMapping) -> Provider:
    return Provider(
        id=row["id"],
        kind=Kind(row["kind"]),
        name=row["name"],
        issuer=row["issuer"],
        client_id=row["client_id"],
        organization=row["slug"] or "",
        created_at=row["created_at"],
    )


def _record(change: Change, event: str, caller: Caller, row: RowMapping, more: dict[str, str] | None = None) -> None:
    change.record(
        event,
        caller=caller,
        resource_type="identity_provider",
        resource_id=row["id"],
        metadata={"kind": row["kind"], "issuer": row["issuer"], "client_id": row["client_id"], **(more or {})},
    )
