"""The life of a key: changed, deleted, restored, destroyed. domain.keys.MOVES says which move leads where.

Each move is one change under the lock of the organization's ledger, with its audit row: what it takes away is taken
away exactly. A destruction is two steps: the mark that it has begun, under the lock, and then the vault. From the mark
on there is no restoring, so that a key is never restored whose private key is being overwritten. A crash between the
two leaves a row that says so, and the sweeper takes it from there. No vault call is made under a lock.
"""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Update, func, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import MOVES, Key, KeyState, Move
from popsigner_server.domain.principals import UNBOUND, Caller
from popsigner_server.keys.catalogue import Catalogue, locked, to_key
from popsigner_server.keys.reservations import SWEEP, Reservations
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import KEY_CHANGED, announce
from popsigner_server.storage.tables import keys
from popsigner_server.vault import Vault

RESTORE_WINDOW = timedelta(days=7)


def allow(move: Move, state: KeyState) -> frozenset[KeyState]:
    """Where the move leads from here. Raises KeyDisabled, KeyDeleted."""
    try:
        return MOVES[move][state]
    except KeyError:
        raise (errors.KeyDisabled if state is KeyState.DISABLED else errors.KeyDeleted) from None


class Lifecycle:
    """Changes keys."""

    def __init__(
        self, database: Database, ledger: Ledger, vault: Vault, catalogue: Catalogue, reservations: Reservations
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._vault = vault
        self._catalogue = catalogue
        self._reservations = reservations

    async def enable(self, caller: Caller, reference: str) -> Key:
        """Let it sign. Raises KeyNotFound, KeyDeleted."""
        return await self._turn(caller, reference, Move.ENABLE, "key.enabled")

    async def disable(self, caller: Caller, reference: str) -> Key:
        """Let it sign no more from this audit row on, until it is enabled. Raises KeyNotFound, KeyDeleted."""
        return await self._turn(caller, reference, Move.DISABLE, "key.disabled")

    async def _turn(self, caller: Caller, reference: str, move: Move, event: str) -> Key:
        async with self._ledger.change(caller.principal.organization_id) as change:
            key = to_key(await locked(change, caller, reference))
            (state,) = allow(move, key.state)
            if state is key.state:
                return key
            await change.connection.execute(_row(key).values(state=state.value))
            await _tell(change, event, caller, key, {"state": f"{key.state.name} -> {state.name}"})
        return await self._current(key)

    async def update(
        self,
        caller: Caller,
        reference: str,
        *,
        name: str | None,
        metadata: dict[str, str],
        check: Callable[[dict[str, str]], object],
        min_version: int = 0,
    ) -> Key:
        """Rename, merge metadata (an empty value removes an entry), or set the oldest version that may sign (0 leaves
        it); `check` judges the merged metadata.

        Raises KeyNotFound, KeyDeleted, KeyNameTaken, InvalidField.
        """
        try:
            async with self._ledger.change(caller.principal.organization_id) as change:
                key = to_key(await locked(change, caller, reference))
                allow(Move.UPDATE, key.state)
                if min_version > key.version:
                    raise errors.InvalidField("min_version", f"must be at most {key.version}, the newest version.")
                merged = {k: v for k, v in {**key.metadata, **metadata}.items() if v != ""}
                check(merged)
                changed = {}
                if name is not None and name != key.name:
                    changed["name"] = f"{key.name} -> {name}"
                if merged != dict(key.metadata):
                    changed["metadata"] = ", ".join(sorted(metadata))
                if min_version not in (0, key.min_version):
                    changed["min_version"] = f"{key.min_version} -> {min_version}"
                if not changed:
                    return key
                values = {"name": name or key.name, "metadata": merged, "min_version": min_version or key.min_version}
                await change.connection.execute(_row(key).values(values))
                await _tell(change, "key.updated", caller, key, changed)
        except IntegrityError as error:
            raise errors.KeyNameTaken(name or "") from error
        return await self._current(key)

    async def delete(self, caller: Caller, reference: str, *, force: bool) -> Key:
        """Delete, so that it signs no more from this audit row on; with `force` destroy it now.

        Raises KeyNotFound, KeyDeleted, VaultUnavailable (it is deleted, and the sweeper goes on with its destruction).
        """
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            row = await locked(change, caller, reference)
            key = to_key(row)
            (state,) = allow(Move.FORCE_DELETE if force else Move.DELETE, key.state)
            await change.connection.execute(_row(key).values(state=state.value, **_deletion(row, force=force)))
            if key.state is not state:
                told = {
                    "name": f"{key.namespace}/{key.name}",
                    "force": str(force).lower(),
                    "state": f"{key.state.name} -> {state.name}",
                }
                await _tell(change, "key.deleted", caller, key, told)
            else:
                await announce(change.connection, KEY_CHANGED, key.id)
        if force:
            await self._destroy(organization_id, key.id, caller)
        return await self._current(key)

    async def undelete(self, caller: Caller, reference: str) -> Key:
        """Take a deletion back: the key is what it was before. Raises KeyNotFound, KeyDeleted when its window has ended
        or its destruction has begun."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            key = to_key(await locked(change, caller, reference))
            leads_to = allow(Move.UNDELETE, key.state)
            if key.state in leads_to:
                return key
            restored = await change.connection.execute(
                _row(key)
                # The wall clock: this transaction may have begun before the end of the window, and waited for the head.
                .where(keys.c.destroy_at > func.clock_timestamp(), keys.c.destruction_began_at.is_(None))
                .values(
                    # A server of the release before did not note what it was: then it does not sign.
                    state=func.coalesce(keys.c.deleted_from, KeyState.DISABLED.value),
                    deleted_at=None,
                    destroy_at=None,
                    deleted_from=None,
                )
                .returning(keys.c.state)
            )
            state = restored.scalar()
            if state is None:
                raise errors.KeyDeleted("The key's restore window has ended.")
            await _tell(change, "key.restored", caller, key, {"state": f"{key.state.name} -> {KeyState(state).name}"})
        return await self._current(key)

    async def _current(self, key: Key) -> Key:
        return await self._catalogue.get(key.organization_id, show(Prefix.KEY, key.id), bounds=UNBOUND)

    async def _begin_destruction(self, organization_id: UUID, key_id: UUID) -> bool:
        """Whether it is to be destroyed; from here on there is no restoring."""
        async with self._ledger.change(organization_id, closed=True) as change:
            begun = await change.connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.org_id == organization_id)
                .where(keys.c.state == KeyState.DELETED.value, keys.c.destroy_at <= func.clock_timestamp())
                .values(destruction_began_at=func.coalesce(keys.c.destruction_began_at, func.clock_timestamp()))
            )
        return begun.rowcount == 1

    async def _destroy(self, organization_id: UUID, key_id: UUID, caller: Caller | None) -> None:
        """Destroy a key whose destruction has begun. Raises VaultUnavailable."""
        await self._vault.destroy(key_id.hex)
        async with self._ledger.change(organization_id, closed=True) as change:
            done = await change.connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.org_id == organization_id)
                .where(keys.c.state == KeyState.DELETED.value, keys.c.destruction_began_at.is_not(None))
                .values(state=KeyState.DESTROYED.value)
            )
            if done.rowcount == 1:
                change.record("key.destroyed", caller=caller, resource_type="key", resource_id=key_id)
                await announce(change.connection, KEY_CHANGED, key_id)

    async def sweep(self) -> int:
        """Finish what was left: undo abandoned creations, destroy deleted keys whose window has ended. Returns how
        many. Raises VaultUnavailable, after all that could be done without it.

        Safe from several servers at once: each step is repeatable, and the row's state decides who wrote last.
        """
        failure: errors.VaultUnavailable | None = None
        abandoned = done = 0
        try:
            abandoned = await self._reservations.sweep()
        except errors.VaultUnavailable as error:
            failure = error
        due = select(keys.c.org_id, keys.c.id).where(
            keys.c.state == KeyState.DELETED.value, keys.c.destroy_at <= func.now()
        )
        async with self._database.jobs() as connection:
            # In no order: keys that the vault cannot destroy must not come first in every turn.
            over = (await connection.execute(due.order_by(func.random()).limit(SWEEP))).all()
        for organization_id, key_id in over:
            if await self._begin_destruction(organization_id, key_id):
                try:
                    await self._destroy(organization_id, key_id, None)
                    done += 1
                except errors.VaultUnavailable as error:
                    # Of this key, perhaps: the others do not wait for it.
                    failure = error
        if failure is not None:
            raise failure
        return abandoned + done


def _row(key: Key) -> Update:
    return update(keys).where(keys.c.id == key.id, keys.c.org_id == key.organization_id)


def _deletion(row: RowMapping, *, force: bool) -> dict[str, object]:
    """What a deletion writes beside the state. One by force of a key that is deleted already keeps when and what it
    was."""
    values: dict[str, object] = {
        "deleted_at": func.coalesce(keys.c.deleted_at, func.now()),
        "destroy_at": func.now() if force else func.now() + RESTORE_WINDOW,
    }
    if row["state"] != KeyState.DELETED.value:
        values["deleted_from"] = row["state"]
    if force:
        values["destruction_began_at"] = func.coalesce(keys.c.destruction_began_at, func.now())
    return values


async def _tell(change: Change, event: str, caller: Caller, key: Key, metadata: dict[str, str]) -> None:
    """The audit row of a move, and the notice to every process's memory."""
    change.record(event, caller=caller, resource_type="key", resource_id=key.id, metadata=metadata)
    await announce(change.connection, KEY_CHANGED, key.id)
