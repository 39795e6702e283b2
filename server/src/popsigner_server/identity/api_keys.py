"""API keys on PostgreSQL: made, listed, rotated, revoked."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import UNBOUND, Bounds, Caller, Principal, Role, Scope
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.bounds import Wish, check_bound_as, check_rights, check_wish
from popsigner_server.identity.hashing import check_of, hash_secret, new_secret
from popsigner_server.identity.records import bounds_of
from popsigner_server.identity.standing import as_it_stands, standing
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import API_KEY_CHANGED, announce
from popsigner_server.storage.tables import api_keys, namespaces

# Secrets that are hashed at once. Each takes a core and 19 MiB for tens of milliseconds, also when its caller leaves.
HASHES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as its organization sees it.

    `namespaces` are the names of those it is limited to, `ns_…` for one that is gone. `previous_until` is when the
    secret before the last rotation ends, None where none is valid. `created_by` is None for the POP itself.
    """

    id: UUID
    name: str
    scopes: frozenset[Scope]
    role: Role
    bounds: Bounds
    namespaces: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_until: datetime | None
    created_by_kind: str
    created_by: UUID | None


class ApiKeys:
    """Makes, lists, rotates and revokes API keys."""

    def __init__(self, database: Database, ledger: Ledger, *, environment: str) -> None:
        self._database = database
        self._ledger = ledger
        self._environment = environment
        self._threads = ThreadPoolExecutor(HASHES, thread_name_prefix="argon2-new")

    async def create(self, caller: Caller, wish: Wish) -> tuple[ApiKey, str]:
        """A new API key and its text, which is kept nowhere. Raises InvalidField, ScopeMissing, RoleMissing, and what
        standing.standing raises."""
        check_wish(wish)
        check_rights(caller.principal, wish.scopes, wish.role)
        check_bound_as(caller.principal, wish.bounds.networks, wish.expires_at)
        secret = new_secret()
        key_hash = await self._hashed(secret)
        async with self._ledger.change(caller.principal.organization_id) as change:
            # Once more, with what they have now: a new API key would outlive the right that was just taken away.
            check_rights(await as_it_stands(change, caller.principal, least=Role.ADMIN), wish.scopes, wish.role)
            key = await insert_api_key(
                change.connection,
                change.organization_id,
                name=wish.name,
                scopes=wish.scopes,
                role=wish.role,
                expires_at=wish.expires_at,
                key_hash=key_hash,
                key_check=check_of(secret),
                bounds=wish.bounds,
                maker=caller,
            )
            change.record(
                "api_key.created", caller=caller, resource_type="api_key", resource_id=key.id, metadata=_told(key)
            )
        return key, self._text(key.id, secret)

    async def list(self, organization_id: UUID, *, limit: int, cursor: str) -> tuple[list[ApiKey], str]:
        """A page, oldest first, and the cursor of the next (empty on the last). Raises InvalidCursor."""
        query = select(api_keys).where(api_keys.c.org_id == organization_id).order_by(api_keys.c.id).limit(limit + 1)
        if cursor:
            query = query.where(api_keys.c.id > pages.read_id("api_keys", cursor))
        async with self._database.tenant(organization_id) as connection:
            rows = (await connection.execute(query)).mappings().all()
            found = await _api_keys(connection, organization_id, rows)
        return found[:limit], pages.write("api_keys", found[limit - 1].id) if len(found) > limit else ""

    async def rotate(self, caller: Caller, api_key_id: UUID, *, overlap: timedelta) -> tuple[ApiKey, str]:
        """A new secret, shown this once; the one before it stays valid for `overlap`. Raises ApiKeyNotFound,
        ApiKeyRevoked, ApiKeyExpired, RoleMissing, ScopeMissing, InvalidField, and what standing.standing raises."""
        secret = new_secret()
        key_hash = await self._hashed(secret)
        async with self._ledger.change(caller.principal.organization_id) as change:
            row = await _row(change, api_key_id)
            _check_rotation(await as_it_stands(change, caller.principal, least=Role.ADMIN), row)
            key = await _update(
                change,
                api_key_id,
                key_hash=key_hash,
                key_check=check_of(secret),
                generation=api_keys.c.generation + 1,
                previous_hash=api_keys.c.key_hash,
                previous_check=api_keys.c.key_check,
                # Not now(): that is when the transaction began, which may have waited for the head for long.
                previous_expires_at=func.clock_timestamp() + overlap,
            )
            change.record(
                "api_key.rotated",
                caller=caller,
                resource_type="api_key",
                resource_id=api_key_id,
                metadata={"name": key.name, "overlap_seconds": str(int(overlap.total_seconds()))},
            )
        return key, self._text(api_key_id, secret)

    async def revoke(self, caller: Caller, api_key_id: UUID) -> ApiKey:
        """Revoke, from this audit row on. Raises ApiKeyNotFound, RoleMissing, and what standing.standing raises."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            row = await _row(change, api_key_id)
            await standing(change, caller.principal, least=max(Role.ADMIN, Role(row["role"])))
            if row["revoked_at"] is not None:
                (key,) = await _api_keys(change.connection, change.organization_id, [row])
                return key
            key = await _update(change, api_key_id, revoked_at=func.now())
            change.record(
                "api_key.revoked",
                caller=caller,
                resource_type="api_key",
                resource_id=api_key_id,
                metadata={"name": key.name},
            )
        return key

    async def _hashed(self, secret: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, hash_secret, secret)

    def _text(self, api_key_id: UUID, secret: str) -> str:
        return PresentedKey(environment=self._environment, id=api_key_id, secret=secret).text


async def insert_api_key(
    connection: AsyncConnection,
    organization_id: UUID,
    *,
    name: str,
    scopes: frozenset[Scope],
    role: Role,
    expires_at: datetime | None,
    key_hash: str,
    key_check: bytes,
    bounds: Bounds = UNBOUND,
    maker: Caller | None = None,
) -> ApiKey:
    """Write the row of a new API key; `maker` None means the POP itself."""
    values: dict[str, Any] = {
        "id": new_id(),
        "org_id": organization_id,
        "name": name,
        "key_hash": key_hash,
        "key_check": key_check,
        "scopes": sorted(scopes),
        "role": role.value,
        "expires_at": expires_at,
        "ip_allow_list": [str(network) for network in bounds.networks],
        "namespace_ids": sorted(bounds.namespace_ids),
        "key_ids": sorted(bounds.key_ids),
    }
    if maker is not None:
        values |= {"created_by_kind": maker.principal.actor_kind, "created_by": maker.principal.actor_id}
    row = (await connection.execute(insert(api_keys).values(values).returning(api_keys))).mappings().one()
    (key,) = await _api_keys(connection, organization_id, [row])
    return key


def _check_rotation(principal: Principal, row: RowMapping) -> None:
    """Whoever rotates a key holds it afterwards: it must not be able to more than they. The old secret of a key in its
    overlap is bound to the overlap's end, so that it cannot fetch itself the new one."""
    if row["revoked_at"] is not None:
        raise errors.ApiKeyRevoked
    if row["expires_at"] is not None and row["expires_at"] <= datetime.now(UTC):
        raise errors.ApiKeyExpired
    check_rights(principal, _scopes(row), Role(row["role"]))
    check_bound_as(principal, bounds_of(row).networks, row["expires_at"], field="api_key_id")


async def _row(change: Change, api_key_id: UUID) -> RowMapping:
    """Raises ApiKeyNotFound."""
    query = select(api_keys).where(api_keys.c.id == api_key_id, api_keys.c.org_id == change.organization_id)
    row = (await change.connection.execute(query)).mappings().first()
    if row is None:
        raise errors.ApiKeyNotFound
    return row


async def _update(change: Change, api_key_id: UUID, **values: Any) -> ApiKey:
    """Change the row, and tell every process."""
    query = (
        update(api_keys)
        .where(api_keys.c.id == api_key_id, api_keys.c.org_id == change.organization_id)
        .values(values)
        .returning(api_keys)
    )
    row = (await change.connection.execute(query)).mappings().one()
    await announce(change.connection, API_KEY_CHANGED, api_key_id)
    (key,) = await _api_keys(change.connection, change.organization_id, [row])
    return key


async def _api_keys(connection: AsyncConnection, organization_id: UUID, rows: Sequence[RowMapping]) -> list[ApiKey]:
    """The rows with the names of their namespaces."""
    wanted = {namespace_id for row in rows for namespace_id in row["namespace_ids"]}
    names: dict[UUID, str] = {}
    if wanted:
        query = select(namespaces.c.id, namespaces.c.name).where(
            namespaces.c.org_id == organization_id, namespaces.c.id.in_(wanted)
        )
        names = {row.id: row.name for row in await connection.execute(query)}
    return [_api_key(row, names) for row in rows]


def _api_key(row: RowMapping, names: dict[UUID, str]) -> ApiKey:
    until = row["previous_expires_at"]
    # A key whose namespaces are all gone reaches nothing: an empty list would say that it reaches everything.
    limited = sorted(names.get(gone, show(Prefix.NAMESPACE, gone)) for gone in row["namespace_ids"])
    return ApiKey(
        id=row["id"],
        name=row["name"],
        scopes=_scopes(row),
        role=Role(row["role"]),
        bounds=bounds_of(row),
        namespaces=tuple(limited),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        previous_until=until if until is not None and until > datetime.now(UTC) else None,
        created_by_kind=row["created_by_kind"],
        created_by=row["created_by"],
    )


def _scopes(row: RowMapping) -> frozenset[Scope]:
    return frozenset(Scope(scope) for scope in row["scopes"])


def _told(key: ApiKey) -> dict[str, str]:
    """What the audit trail says of a new key: all that it may and all that it is limited to."""
    told = {
        "name": key.name,
        "scopes": " ".join(sorted(key.scopes)),
        "role": key.role.name,
        "expires_at": "" if key.expires_at is None else key.expires_at.isoformat(),
        "ip_allow_list": _joined(map(str, key.bounds.networks)),
        "namespaces": _joined(key.namespaces),
        "keys": _joined(show(Prefix.KEY, key_id) for key_id in sorted(key.bounds.key_ids)),
    }
    return {name: value for name, value in told.items() if value}


def _joined(values: Iterable[str]) -> str:
    return " ".join(values)
