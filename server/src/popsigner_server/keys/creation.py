"""How a key comes to be.

A creation is three steps: a row that reserves the name (CREATING), the private key in the vault, and the row made
ENABLED together with its audit row. One that fails becomes ABANDONED: its name is free at once, its private key is
destroyed when no creation can still be under way in the vault. A crash between any two leaves a row that says where it
stopped, and the sweeper takes it from there. No vault call is made under a lock.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.domain.principals import Caller, Scope
from popsigner_server.identity.standing import still_may
from popsigner_server.keys.catalogue import select_keys, to_key
from popsigner_server.keys.reach import namespaces_within
from popsigner_server.ledger.changes import Ledger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys, namespaces
from popsigner_server.vault import Vault

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


class Creation:
    """Makes keys, all of a call or none, and clears what a crash left half made."""

    def __init__(self, database: Database, ledger: Ledger, vault: Vault, quotas: Quotas) -> None:
        self._database = database
        self._ledger = ledger
        self._vault = vault
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
        reserved = await self._reserve(caller, wishes)
        try:
            return await self._complete(caller, await self._make(reserved), reserved)
        except BaseException:
            with suppress(SQLAlchemyError, OSError):
                await self._abandon(list(reserved))
            raise

    async def _reserve(self, caller: Caller, wishes: Sequence[Wish]) -> dict[UUID, Wish]:
        organization_id = caller.principal.organization_id
        names = {wish.namespace for wish in wishes}
        query = select(namespaces.c.name, namespaces.c.id).where(
            namespaces.c.org_id == organization_id, namespaces.c.name.in_(names)
        )
        query = namespaces_within(query, caller.principal.bounds)
        reserved = {new_id(): wish for wish in wishes}
        try:
            # Under the head, so that a quota is exact: the reservation is what counts.
            async with self._ledger.change(organization_id) as change:
                await still_may(change, caller.principal, Scope.KEYS_WRITE)
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
            await still_may(change, caller.principal, Scope.KEYS_WRITE)
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

    async def sweep(self) -> int:
        """Undo the creations that never ended; returns how many. Safe from several servers at once."""
        lost = select(keys.c.id).where(keys.c.state.in_(UNFINISHED), keys.c.created_at < func.now() - ABANDONED_AFTER)
        async with self._database.jobs() as connection:
            abandoned = list((await connection.execute(lost.limit(SWEEP))).scalars())
        for key_id in await self._abandon(abandoned) if abandoned else ():
            await self._erase(key_id)
        return len(abandoned)

    async def close(self) -> None:
        """Wait for the creations under way."""
        if self._creations:
            await asyncio.wait(set(self._creations))
