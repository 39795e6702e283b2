"""API keys on PostgreSQL: made, listed, revoked."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role, Scope
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import API_KEY_CHANGED, announce
from popsigner_server.storage.tables import api_keys, organizations


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as its organization sees it."""

    id: UUID
    name: str
    scopes: frozenset[Scope]
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class ApiKeys:
    """Makes, lists and revokes API keys, and loads them for verification."""

    def __init__(self, database: Database, ledger: Ledger, *, environment: str) -> None:
        self._database = database
        self._ledger = ledger
        self._environment = environment

    async def load(self, api_key_id: UUID) -> tuple[Principal, str, datetime | None] | None:
        """The principal, its hash and when it was revoked; None for an unknown id."""
        query = (
            select(api_keys, organizations.c.plan)
            .join(organizations, api_keys.c.org_id == organizations.c.id)
            .where(api_keys.c.id == api_key_id)
        )
        async with self._database.identity() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        principal = Principal(
            organization_id=row["org_id"],
            actor_id=row["id"],
            actor_kind=ActorKind.API_KEY,
            scopes=_scopes(row),
            role=Role(row["role"]),
            expires_at=row["expires_at"],
            plan=row["plan"],
            generation=row["generation"],
        )
        return principal, row["key_hash"], row["revoked_at"]

    async def note_use(self, api_key_id: UUID) -> None:
        """Remember that the key was used, to the minute: several processes write it once together."""
        stale = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < func.now() - timedelta(minutes=1))
        async with self._database.jobs() as connection:
            await connection.execute(
                update(api_keys).where(api_keys.c.id == api_key_id, stale).values(last_used_at=func.now())
            )

    async def create(
        self, caller: Caller, *, name: str, scopes: frozenset[Scope], role: Role, expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """A new API key and its text, which is kept nowhere."""
        secret = new_secret()
        key_hash = await asyncio.to_thread(hash_secret, secret)
        async with self._ledger.change(caller.principal.organization_id) as change:
            key = await insert_api_key(
                change.connection,
                change.organization_id,
                name=name,
                scopes=scopes,
                role=role,
                expires_at=expires_at,
                key_hash=key_hash,
            )
            change.record(
                "api_key.created",
                caller=caller,
                resource_type="api_key",
                resource_id=key.id,
                metadata={"name": name, "scopes": " ".join(sorted(scopes)), "role": role.name},
            )
        return key, PresentedKey(environment=self._environment, id=key.id, secret=secret).text

    async def list(self, organization_id: UUID, *, limit: int, cursor: str) -> tuple[list[ApiKey], str]:
        """A page, oldest first, and the cursor of the next (empty on the last). Raises InvalidCursor."""
        query = select(api_keys).where(api_keys.c.org_id == organization_id).order_by(api_keys.c.id).limit(limit + 1)
        if cursor:
            query = query.where(api_keys.c.id > pages.read_id("api_keys", cursor))
        async with self._database.tenant(organization_id) as connection:
            found = [_api_key(row) for row in (await connection.execute(query)).mappings()]
        return found[:limit], pages.write("api_keys", found[limit - 1].id) if len(found) > limit else ""

    async def rotate(self, caller: Caller, api_key_id: UUID, *, overlap: timedelta) -> tuple[ApiKey, str]:
        """A new secret, shown this once; the one before it stays valid for `overlap`. Raises ApiKeyNotFound,
        ApiKeyRevoked, RoleMissing."""
        organization_id = caller.principal.organization_id
        mine = (api_keys.c.id == api_key_id, api_keys.c.org_id == organization_id)
        secret = new_secret()
        key_hash = await asyncio.to_thread(hash_secret, secret)
        async with self._ledger.change(organization_id) as change:
            row = (await change.connection.execute(select(api_keys).where(*mine))).mappings().first()
            if row is None:
                raise errors.ApiKeyNotFound
            if row["role"] > caller.principal.role:
                raise errors.RoleMissing(Role(row["role"]).name)
            if row["revoked_at"] is not None:
                raise errors.ApiKeyRevoked
            query = (
                update(api_keys)
                .where(*mine)
                .values(
                    key_hash=key_hash,
                    generation=api_keys.c.generation + 1,
                    previous_hash=api_keys.c.key_hash,
                    previous_check=api_keys.c.key_check,
                    previous_expires_at=func.now() + overlap,
                )
                .returning(api_keys)
            )
            row = (await change.connection.execute(query)).mappings().one()
            change.record(
                "api_key.rotated",
                caller=caller,
                resource_type="api_key",
                resource_id=api_key_id,
                metadata={"name": row["name"], "overlap_seconds": str(int(overlap.total_seconds()))},
            )
            await announce(change.connection, API_KEY_CHANGED, api_key_id)
        return _api_key(row), PresentedKey(environment=self._environment, id=api_key_id, secret=secret).text

    async def revoke(self, caller: Caller, api_key_id: UUID) -> ApiKey:
        """Revoke, from this audit row on. Raises ApiKeyNotFound, RoleMissing."""
        organization_id = caller.principal.organization_id
        mine = (api_keys.c.id == api_key_id, api_keys.c.org_id == organization_id)
        async with self._ledger.change(organization_id) as change:
            row = (await change.connection.execute(select(api_keys).where(*mine))).mappings().first()
            if row is None:
                raise errors.ApiKeyNotFound
            if row["role"] > caller.principal.role:
                raise errors.RoleMissing(Role(row["role"]).name)
            if row["revoked_at"] is not None:
                return _api_key(row)
            query = update(api_keys).where(*mine).values(revoked_at=func.now()).returning(api_keys)
            row = (await change.connection.execute(query)).mappings().one()
            change.record(
                "api_key.revoked",
                caller=caller,
                resource_type="api_key",
                resource_id=api_key_id,
                metadata={"name": row["name"]},
            )
            await announce(change.connection, API_KEY_CHANGED, api_key_id)
        return _api_key(row)


async def insert_api_key(
    connection: AsyncConnection,
    organization_id: UUID,
    *,
    name: str,
    scopes: frozenset[Scope],
    role: Role,
    expires_at: datetime | None,
    key_hash: str,
) -> ApiKey:
    """Write the row of a new API key."""
    query = (
        insert(api_keys)
        .values(
            id=new_id(),
            org_id=organization_id,
            name=name,
            key_hash=key_hash,
            scopes=sorted(scopes),
            role=role.value,
            expires_at=expires_at,
        )
        .returning(api_keys)
    )
    return _api_key((await connection.execute(query)).mappings().one())


def _scopes(row: RowMapping) -> frozenset[Scope]:
    return frozenset(Scope(scope) for scope in row["scopes"])


def _api_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        scopes=_scopes(row),
        role=Role(row["role"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
