"""The catalogue on PostgreSQL: reading keys, with the organization and the caller's bounds in every query."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, or_, select, tuple_
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.addresses import account_address
from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.domain.keys import Key, KeyState, KeyVersion
from popsigner_server.domain.principals import Bounds, Caller, Role, Scope
from popsigner_server.identity.standing import still_may
from popsigner_server.keys.reach import keys_within, namespaces_within
from popsigner_server.ledger.changes import Change
from popsigner_server.signing import SigningKey
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys, namespaces

# The order of the ids, by the index that has it for one organization (keys_page_idx).
_position = func.uuid_send(keys.c.id)
# States of a row that stands for no key: not yet, or no more.
_NO_KEYS = (KeyState.CREATING.value, KeyState.ABANDONED.value, KeyState.DESTROYED.value)


def parse_reference(reference: str) -> UUID | tuple[str, str]:
    """A key's id, or its (namespace, name). Raises KeyNotFound for anything else: no key is named like that."""
    namespace, slash, name = reference.partition("/")
    if slash:
        return namespace, name
    try:
        return parse(Prefix.KEY, reference)
    except ValueError as error:
        raise errors.KeyNotFound from error


def select_keys(organization_id: UUID) -> Select[Any]:
    """Keys of an organization that exist for it: not those still being created."""
    return (
        select(keys, namespaces.c.name.label("namespace"), namespaces.c.address_prefix)
        .join(namespaces, keys.c.namespace_id == namespaces.c.id)
        .where(
            keys.c.org_id == organization_id,
            keys.c.state.not_in((KeyState.CREATING.value, KeyState.ABANDONED.value)),
        )
    )


def refer(query: Select[Any], reference: UUID | tuple[str, str]) -> Select[Any]:
    """The query for one key. A name finds a key that is not destroyed; an id finds any."""
    if isinstance(reference, UUID):
        return query.where(keys.c.id == reference)
    namespace, name = reference
    return query.where(namespaces.c.name == namespace, keys.c.name == name, keys.c.state != KeyState.DESTROYED.value)


def to_key(row: Mapping[Any, Any]) -> Key:
    return Key(
        id=row["id"],
        organization_id=row["org_id"],
        namespace_id=row["namespace_id"],
        namespace=row["namespace"],
        name=row["name"],
        state=KeyState(row["state"]),
        public_key=row["public_key"],
        address_prefix=row["address_prefix"],
        version=row["current_version"],
        min_version=row["min_version"],
        exportable=row["exportable"],
        imported=row["imported"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
        destroy_at=row["destroy_at"],
    )


async def locked(
    change: Change,
    caller: Caller,
    reference: str,
    *,
    scope: Scope = Scope.KEYS_WRITE,
    least: Role = Role.UNSPECIFIED,
) -> RowMapping:
    """The row of the key within the caller's bounds, locked for a change that the caller still may make. Raises
    KeyNotFound, and what `still_may` does."""
    await still_may(change, caller.principal, scope, least=least)
    query = keys_within(select_keys(caller.principal.organization_id), caller.principal.bounds)
    query = refer(query, parse_reference(reference)).with_for_update(of=keys)
    row: RowMapping | None = (await change.connection.execute(query)).mappings().first()
    if row is None:
        raise errors.KeyNotFound
    return row


async def versions_of(connection: AsyncConnection, row: Mapping[Any, Any]) -> list[KeyVersion]:
    """Every version of the key of a `select_keys` row, newest first."""
    query = (
        select(key_versions)
        .where(key_versions.c.org_id == row["org_id"], key_versions.c.key_id == row["id"])
        .where(key_versions.c.version <= row["current_version"])
        .order_by(key_versions.c.version.desc())
    )
    return [
        KeyVersion(
            version=version["version"],
            public_key=version["public_key"],
            address=account_address(version["public_key"], row["address_prefix"]),
            created_at=version["created_at"],
            signs=row["state"] == KeyState.ENABLED.value and version["version"] >= row["min_version"],
        )
        for version in (await connection.execute(query)).mappings()
    ]


class Catalogue:
    """Reads keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, organization_id: UUID, reference: str, *, bounds: Bounds) -> Key:
        """One key, by id or `namespace/name`. Raises KeyNotFound."""
        query = refer(keys_within(select_keys(organization_id), bounds), parse_reference(reference))
        async with self._database.tenant(organization_id) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise errors.KeyNotFound
        return to_key(row)

    async def versions(self, organization_id: UUID, reference: str, *, bounds: Bounds) -> list[KeyVersion]:
        """Every version of a key, newest first. Raises KeyNotFound."""
        query = refer(keys_within(select_keys(organization_id), bounds), parse_reference(reference))
        async with self._database.tenant(organization_id) as connection:
            row = (await connection.execute(query)).mappings().first()
            if row is None:
                raise errors.KeyNotFound
            return await versions_of(connection, row)

    async def ids_of(self, organization_id: UUID, references: Sequence[str]) -> frozenset[UUID]:
        """The ids of keys that are named by id or `namespace/name`. Raises KeyNotFound, also for a destroyed one."""
        wanted = {parse_reference(reference) for reference in references}
        if not wanted:
            return frozenset()
        by_name = tuple_(namespaces.c.name, keys.c.name)
        query = select_keys(organization_id).where(
            keys.c.state != KeyState.DESTROYED.value,
            or_(
                keys.c.id.in_([named for named in wanted if isinstance(named, UUID)]),
                by_name.in_([named for named in wanted if not isinstance(named, UUID)]),
            ),
        )
        async with self._database.tenant(organization_id) as connection:
            rows = (await connection.execute(query)).mappings().all()
        if wanted - {row["id"] for row in rows} - {(row["namespace"], row["name"]) for row in rows}:
            raise errors.KeyNotFound
        return frozenset(row["id"] for row in rows)

    async def list(
        self,
        organization_id: UUID,
        *,
        bounds: Bounds,
        limit: int,
        cursor: str,
        namespace: str = "",
        state: KeyState | None = None,
        labels: dict[str, str] | None = None,
        name_prefix: str = "",
    ) -> tuple[list[Key], str]:
        """A page of keys, oldest first, and the cursor of the next (empty on the last). Raises InvalidCursor,
        NamespaceNotFound."""
        # The keys first and their namespaces then: a join would tempt the planner to sort all that the namespace has.
        query = select(keys).where(keys.c.org_id == organization_id)
        query = keys_within(query, bounds).order_by(_position).limit(limit + 1)
        if cursor:
            query = query.where(_position > func.uuid_send(pages.read_id("keys", cursor)))
        query = query.where(keys.c.state == state.value if state is not None else keys.c.state.not_in(_NO_KEYS))
        if labels:
            query = query.where(keys.c.metadata.contains(labels))
        if name_prefix:
            query = query.where(keys.c.name.startswith(name_prefix, autoescape=True))
        async with self._database.tenant(organization_id) as connection:
            if namespace:
                known = select(namespaces.c.id).where(
                    namespaces.c.org_id == organization_id, namespaces.c.name == namespace
                )
                namespace_id = (await connection.execute(namespaces_within(known, bounds))).scalar()
                if namespace_id is None:
                    raise errors.NamespaceNotFound
                query = query.where(keys.c.namespace_id == namespace_id)
            page = query.subquery()
            named = select(page, namespaces.c.name.label("namespace"), namespaces.c.address_prefix)
            named = named.join(namespaces, page.c.namespace_id == namespaces.c.id).order_by(page.c.id)
            found = [to_key(row) for row in (await connection.execute(named)).mappings()]
        following = pages.write("keys", found[limit - 1].id) if len(found) > limit else ""
        return found[:limit], following

    async def signing_key(
        self, organization_id: UUID, reference: str, version: int, *, bounds: Bounds
    ) -> tuple[SigningKey, KeyState]:
        """The key version that a signature or a verification names; 0 means the current one. Raises KeyNotFound,
        KeyVersionUnavailable."""
        key = await self.get(organization_id, reference, bounds=bounds)
        if key.state is KeyState.DESTROYED:
            raise errors.KeyNotFound
        public_key: bytes | None = key.public_key
        if version not in (0, key.version):
            query = select(key_versions.c.public_key).where(
                key_versions.c.org_id == organization_id,
                key_versions.c.key_id == key.id,
                key_versions.c.version == version,
            )
            async with self._database.tenant(organization_id) as connection:
                public_key = (await connection.execute(query)).scalar()
        if public_key is None:
            raise errors.KeyVersionUnavailable
        chosen = version or key.version
        signing = SigningKey(
            id=key.id,
            vault_name=key.id.hex,
            version=chosen,
            public_key=public_key.hex(),
            namespace_id=key.namespace_id,
        )
        return signing, key.state
