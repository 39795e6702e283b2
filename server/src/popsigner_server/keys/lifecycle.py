"""The life of a key: created, changed, deleted, destroyed.

A creation is three steps: a row that reserves the name (CREATING), the private key in the vault, and the row made
ENABLED together with its audit row. One that fails becomes ABANDONED: its name is free at once, its private key is
destroyed when no creation can still be under way in the vault. A deletion is two steps: the row made DELETED with its
audit row under the ledger's lock, and then the vault. A crash between any two leaves a row that says where it
stopped, and the sweeper takes it from there. No vault call is made under a lock.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.domain.principals import UNBOUND, Bounds, Caller
from popsigner_server.keys.catalogue import Catalogue, parse_reference, refer, select_keys, to_key
from popsigner_server.keys.reach import keys_within, namespaces_within
from popsigner_server.ledger.changes import Ledger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import KEY_CHANGED, announce
from popsigner_server.storage.tables import key_versions, keys, namespaces
from popsigner_server.vault import Vault

RESTORE_WINDOW = timedelta(days=7)
# A creation that has not ended by then never will: its server is gone.
ABANDONED_AFTER = timedelta(minutes=5)
# States whose name is free.
FREED = (KeyState.DESTROYED.value, KeyState.ABANDONED.value)
# States of a creation that has not become a key.
UNFINISHED = (KeyState.CREATING.value, KeyState.ABANDONED.value)
# What one sweep takes on; the rest waits for the next.
SWEEP = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A key to create."""

    name: str
    namespace: str
    exportable: bool
    metadata: dict[str, str]


class Lifecycle:
    """Changes keys. Every change is one audit row, written under the lock of the organization's ledger."""

    def __init__(self, database: Database, ledger: Ledger, vault: Vault, catalogue: Catalogue, quotas: Quotas) -> None:
        self._database = database
        self._ledger = ledger
        self._vault = vault
        self._catalogue = catalogue
        self._quotas = quotas
        self._creations: set[asyncio.Task[list[Key]]] = set()

    async def create(self, caller: Caller, wishes: Sequence[Wish]) -> list[Key]:
        """Create all or none. Raises NamespaceNotFound, KeyNameTaken, QuotaExceeded, VaultUnavailable, and
        ApiKeyRestricted for a caller that is limited to keys: a new one is none of them.

        A caller that cancels does not interrupt a creation under way: it ends one way or the other.
        """
        if caller.principal.bounds.key_ids:
            raise errors.ApiKeyRestricted
        task = asyncio.create_task(self._create(caller, wishes))
        self._creations.add(task)
        task.add_done_callback(self._creations.discard)
        return await asyncio.shield(task)

    async def _create(self, caller: Caller, wishes: Sequence[Wish]) -> list[Key]:
        reserved = await self._reserve(caller.principal.organization_id, wishes, caller.principal.bounds)
        try:
            return await self._complete(caller, await self._make(reserved), reserved)
        except BaseException:
            with suppress(SQLAlchemyError, OSError):
                await self._abandon(list(reserved))
            raise

    async def _reserve(self, organization_id: UUID, wishes: Sequence[Wish], bounds: Bounds) -> dict[UUID, Wish]:
        names = {wish.namespace for wish in wishes}
        query = select(namespaces.c.name, namespaces.c.id).where(
            namespaces.c.org_id == organization_id, namespaces.c.name.in_(names)
        )
        query = namespaces_within(query, bounds)
        reserved = {new_id(): wish for wish in wishes}
        try:
            # Under the head, so that a quota is exact: the reservation is what counts.
            async with self._ledger.change(organization_id) as change:
                # The share lock holds the namespaces until the rows stand: none is deleted under them.
                found = dict((await change.connection.execute(query.with_for_update(key_share=True, read=True))).all())
                if names - found.keys():
                    raise errors.NamespaceNotFound
                await self._quotas.claim(change, "keys", adding=len(wishes))
                rows = [
                    {
                        "id": key_id,
                        "org_id": organization_id,
                        "namespace_id": found[wish.namespace],
                        "name": wish.name,
                        "algorithm": "secp256k1",
                        "state": KeyState.CREATING.value,
                        "exportable": wish.exportable,
                        "metadata": wish.metadata,
                    }
                    for key_id, wish in reserved.items()
                ]
                await change.connection.execute(insert(keys), rows)
        except IntegrityError as error:
            raise await self._taken(organization_id, wishes) from error
        return reserved

    async def _taken(self, organization_id: UUID, wishes: Sequence[Wish]) -> errors.SignerError:
        """Which of the names is taken."""
        wanted = {(wish.namespace, wish.name) for wish in wishes}
        query = (
            select(namespaces.c.name, keys.c.name)
            .join(namespaces, keys.c.namespace_id == namespaces.c.id)
            .where(
                keys.c.org_id == organization_id,
                keys.c.state.not_in(FREED),
                keys.c.name.in_({name for _, name in wanted}),
            )
        )
        async with self._database.tenant(organization_id) as connection:
            there = sorted(wanted.intersection((await connection.execute(query)).all()))
        return errors.KeyNameTaken("/".join(there[0]) if there else wishes[0].name)

    async def _make(self, reserved: dict[UUID, Wish]) -> dict[UUID, bytes]:
        """The private keys, in the vault; returns their public keys. On a failure the others are waited for all the
        same, so that nothing is under way when the rows are abandoned."""
        made = await asyncio.gather(
            *(self._vault.create(key_id.hex, exportable=wish.exportable) for key_id, wish in reserved.items()),
            return_exceptions=True,
        )
        public_keys = {}
        for key_id, public_key in zip(reserved, made, strict=True):
            if isinstance(public_key, BaseException):
                raise public_key
            public_keys[key_id] = public_key
        return public_keys

    async def _complete(self, caller: Caller, made: dict[UUID, bytes], wishes: dict[UUID, Wish]) -> list[Key]:
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            for key_id, public_key in made.items():
                done = await change.connection.execute(
                    update(keys)
                    .where(keys.c.id == key_id, keys.c.org_id == organization_id)
                    .where(keys.c.state == KeyState.CREATING.value)
                    .values(state=KeyState.ENABLED.value, public_key=public_key)
                )
                if done.rowcount != 1:
                    # The sweeper took it for abandoned: this call was away for minutes.
                    raise errors.DeadlinePassed
                change.record(
                    "key.created",
                    caller=caller,
                    resource_type="key",
                    resource_id=key_id,
                    metadata={"name": f"{wishes[key_id].namespace}/{wishes[key_id].name}"},
                )
            await change.connection.execute(
                insert(key_versions),
                [
                    {"key_id": key_id, "version": 1, "org_id": organization_id, "public_key": public_key}
                    for key_id, public_key in made.items()
                ],
            )
            query = select_keys(organization_id).where(keys.c.id.in_(made))
            found = {row["id"]: to_key(row) for row in (await change.connection.execute(query)).mappings()}
        return [found[key_id] for key_id in made]

    async def _abandon(self, key_ids: list[UUID]) -> list[UUID]:
        """Claim rows whose creation did not end, and return the claimed ones. A creation that committed after all,
        behind a lost connection, is no longer CREATING and stays."""
        async with self._database.jobs() as connection:
            claimed = await connection.execute(
                update(keys)
                .where(keys.c.id.in_(key_ids), keys.c.state.in_(UNFINISHED))
                .values(state=KeyState.ABANDONED.value)
                .returning(keys.c.id)
            )
            return list(claimed.scalars())

    async def _erase(self, key_id: UUID) -> None:
        """End an abandoned creation: first the vault, then the row that remembers it."""
        await self._vault.destroy(key_id.hex)
        async with self._database.jobs() as connection:
            await connection.execute(delete(keys).where(keys.c.id == key_id, keys.c.state == KeyState.ABANDONED.value))

    async def update(
        self,
        caller: Caller,
        reference: str,
        *,
        name: str | None,
        metadata: dict[str, str],
        check: Callable[[dict[str, str]], object],
    ) -> Key:
        """Rename, or merge metadata (an empty value removes an entry); `check` judges the merged metadata.

        Raises KeyNotFound, KeyDeleted, KeyNameTaken, InvalidField.
        """
        organization_id = caller.principal.organization_id
        try:
            async with self._ledger.change(organization_id) as change:
                key = await _locked(change.connection, caller, reference)
                if key.state in (KeyState.DELETED, KeyState.DESTROYED):
                    raise errors.KeyDeleted
                merged = {k: v for k, v in {**key.metadata, **metadata}.items() if v != ""}
                check(merged)
                changed = {}
                if name is not None and name != key.name:
                    changed["name"] = f"{key.name} -> {name}"
                if merged != dict(key.metadata):
                    changed["metadata"] = ", ".join(sorted(metadata))
                if not changed:
                    return key
                await change.connection.execute(
                    update(keys)
                    .where(keys.c.id == key.id, keys.c.org_id == organization_id)
                    .values(name=name or key.name, metadata=merged)
                )
                change.record("key.updated", caller=caller, resource_type="key", resource_id=key.id, metadata=changed)
                await announce(change.connection, KEY_CHANGED, key.id)
        except IntegrityError as error:
            raise errors.KeyNameTaken(name or "") from error
        return await self._catalogue.get(organization_id, show(Prefix.KEY, key.id), bounds=UNBOUND)

    async def delete(self, caller: Caller, reference: str, *, force: bool) -> Key:
        """Delete, so that it signs no more from this audit row on; with `force` destroy it now.

        Raises KeyNotFound, KeyDeleted, VaultUnavailable (it is deleted, and the sweeper goes on with its destruction).
        """
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            key = await _locked(change.connection, caller, reference)
            if key.state is KeyState.DESTROYED or (key.state is KeyState.DELETED and not force):
                raise errors.KeyDeleted
            window = timedelta(0) if force else RESTORE_WINDOW
            await change.connection.execute(
                update(keys)
                .where(keys.c.id == key.id, keys.c.org_id == organization_id)
                .values(
                    state=KeyState.DELETED.value,
                    deleted_at=func.coalesce(keys.c.deleted_at, func.now()),
                    destroy_at=func.now() + window,
                )
            )
            if key.state is not KeyState.DELETED:
                change.record(
                    "key.deleted",
                    caller=caller,
                    resource_type="key",
                    resource_id=key.id,
                    metadata={"name": f"{key.namespace}/{key.name}", "force": str(force).lower()},
                )
            await announce(change.connection, KEY_CHANGED, key.id)
        if force:
            await self._destroy(organization_id, key.id, caller)
        return await self._catalogue.get(organization_id, show(Prefix.KEY, key.id), bounds=UNBOUND)

    async def _destroy(self, organization_id: UUID, key_id: UUID, caller: Caller | None) -> None:
        await self._vault.destroy(key_id.hex)
        async with self._ledger.change(organization_id, closed=True) as change:
            done = await change.connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.org_id == organization_id)
                .where(keys.c.state == KeyState.DELETED.value, keys.c.destroy_at <= func.now())
                .values(state=KeyState.DESTROYED.value)
            )
            if done.rowcount == 1:
                change.record("key.destroyed", caller=caller, resource_type="key", resource_id=key_id)
                await announce(change.connection, KEY_CHANGED, key_id)

    async def sweep(self) -> int:
        """Finish what was left: undo abandoned creations, destroy deleted keys whose window has ended. Returns how
        many.

        Safe from several servers at once: each step is repeatable, and the row's state decides who wrote last.
        """
        lost = and_(keys.c.state.in_(UNFINISHED), keys.c.created_at < func.now() - ABANDONED_AFTER)
        due = and_(keys.c.state == KeyState.DELETED.value, keys.c.destroy_at <= func.now())
        async with self._database.jobs() as connection:
            abandoned = list((await connection.execute(select(keys.c.id).where(lost).limit(SWEEP))).scalars())
            over = (await connection.execute(select(keys.c.org_id, keys.c.id).where(due).limit(SWEEP))).all()
        for key_id in await self._abandon(abandoned) if abandoned else ():
            await self._erase(key_id)
        for organization_id, key_id in over:
            await self._destroy(organization_id, key_id, None)
        return len(abandoned) + len(over)

    async def close(self) -> None:
        """Wait for the creations under way."""
        if self._creations:
            await asyncio.wait(set(self._creations))


async def _locked(connection: AsyncConnection, caller: Caller, reference: str) -> Key:
    """The key within the caller's bounds, with its row locked. Raises KeyNotFound."""
    query = keys_within(select_keys(caller.principal.organization_id), caller.principal.bounds)
    query = refer(query, parse_reference(reference)).with_for_update(of=keys)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise errors.KeyNotFound
    return to_key(row)
