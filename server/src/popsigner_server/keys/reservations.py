"""How the row of a new key comes to be, whether its private key is made in the vault or brought in.

Three steps: a row that reserves the name (CREATING), the private key in the vault, and the row made ENABLED together
with its audit row. A row whose creation ended otherwise becomes ABANDONED: its name is free at once, and its private
key is destroyed when nothing of its creation can still be under way in the vault. A crash between any two steps leaves
a row that says where it stopped, and the sweeper takes it from there. No vault call is made under a lock.

`created_at` says whose a reservation is: an import that takes over the row of another refreshes it, under the head. So
the sweeper does not end what has just been taken over, and whoever made the row ends it only while nobody has.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import SQLAlchemyError

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.domain.principals import Caller, Scope
from popsigner_server.identity.standing import still_may
from popsigner_server.keys import Wish
from popsigner_server.keys.catalogue import select_keys, to_key
from popsigner_server.keys.reach import namespaces_within
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.ledger.quotas import Quotas
from popsigner_server.limits.pace import Pace
from popsigner_server.limits.turns import Turns
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys, namespaces, recovery_recipients
from popsigner_server.vault import Placed, Vault

# A creation that has not ended by then never will.
ABANDONED_AFTER = timedelta(minutes=5)
# Creations of an organization under way at once, those whose callers have gone among them.
CREATIONS = 2
# Seconds that the vault has for its part, its queue included; so short that nothing arrives there for a row that was
# abandoned.
VAULT_WITHIN = 120.0
# States whose name is free.
FREED = (KeyState.DESTROYED.value, KeyState.ABANDONED.value)
# States of a creation that has not become a key.
UNFINISHED = (KeyState.CREATING.value, KeyState.ABANDONED.value)
# What one sweep takes on; the rest waits for the next.
SWEEP = 100

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A row that holds a name for a key to come.

    `recovery_recipient` is whom the vault is to seal copies to, empty for nobody. `since` is the row's `created_at` as
    this call wrote it; `before` what it was where the row was taken over, None where this call made it.
    """

    key_id: UUID
    wish: Wish
    recovery_recipient: str
    since: datetime
    before: datetime | None = None


class Reservations:
    """Reserves names for keys to come, and makes keys of them."""

    def __init__(self, database: Database, ledger: Ledger, vault: Vault, quotas: Quotas, pace: Pace) -> None:
        self._database = database
        self._ledger = ledger
        self._vault = vault
        self._quotas = quotas
        self._pace = pace
        self._turns = Turns(CREATIONS)
        self._under_way: set[asyncio.Task[Any]] = set()

    async def to_its_end(self, organization_id: UUID, create: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """The result of a creation that its caller, by going away, does not interrupt once it has begun. It has a turn
        until its end: who asks and leaves, again and again, has no more of them under way. Raises QueueFull."""
        async with AsyncExitStack() as waiting:
            await waiting.enter_async_context(self._turns.of(organization_id))
            turn = waiting.pop_all()
        task = asyncio.create_task(self._in_turn(turn, create))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, turn: AsyncExitStack, create: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        async with turn:
            return await self._pace.run(create())

    async def reserve(self, caller: Caller, wishes: Sequence[Wish], *, imported: bool = False) -> list[Reservation]:
        """Hold the names of all wishes, or none. An import takes over the row of an earlier one of the same name that
        has not ended; nothing takes over a row of a key that the vault makes itself.

        Raises NamespaceNotFound, KeyNameTaken, QuotaExceeded, and ApiKeyRestricted for a caller that is limited to
        keys: a new one is none of them.
        """
        if caller.principal.bounds.key_ids:
            raise errors.ApiKeyRestricted
        organization_id = caller.principal.organization_id
        # Under the head, so that a quota is exact: the reservation is what counts. Names change under it too.
        async with self._ledger.change(organization_id) as change:
            await still_may(change, caller.principal, Scope.KEYS_WRITE)
            spaces = await _namespaces(change, caller, wishes)
            holders = await _holders(change, spaces, wishes)
            recipient = await _recovery_recipient(change)
            if holders:
                (name, holder), *_ = holders.items()
                if not (imported and holder["imported"] and holder["state"] == KeyState.CREATING.value):
                    raise errors.KeyNameTaken("/".join(name))
                return [await _taken_over(change, holder, wishes[0], recipient)]
            await self._quotas.claim(change, "keys", adding=len(wishes))
            reserved = {new_id(): wish for wish in wishes}
            rows = [
                {
                    "id": key_id,
                    "org_id": organization_id,
                    "namespace_id": spaces[wish.namespace],
                    "name": wish.name,
                    "algorithm": "secp256k1",
                    "state": KeyState.CREATING.value,
                    "exportable": wish.exportable,
                    "metadata": wish.metadata,
                    "imported": imported,
                }
                for key_id, wish in reserved.items()
            ]
            inserted = await change.connection.execute(insert(keys).returning(keys.c.created_at), rows)
            # One moment for all of them: that of the transaction.
            since = inserted.scalars().all()[0]
        return [
            Reservation(key_id=key_id, wish=wish, recovery_recipient=recipient, since=since)
            for key_id, wish in reserved.items()
        ]

    async def complete(self, caller: Caller, made: Mapping[UUID, tuple[Wish, Placed]]) -> list[Key]:
        """Make keys of the reservations, each with what its own call wished for and the vault has; whoever is first has
        the row. Raises KeyNameTaken where somebody was, DeadlinePassed where no row leads to the key any more."""
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id) as change:
            await still_may(change, caller.principal, Scope.KEYS_WRITE)
            for key_id, (wish, placed) in made.items():
                done = await change.connection.execute(
                    update(keys)
                    .where(keys.c.id == key_id, keys.c.org_id == organization_id)
                    .where(keys.c.state == KeyState.CREATING.value)
                    .values(
                        state=KeyState.ENABLED.value,
                        public_key=placed.public_key,
                        exportable=wish.exportable and placed.exportable,
                        metadata=wish.metadata,
                        recovery_recipient=placed.recovery_recipient or None,
                    )
                )
                if done.rowcount != 1:
                    raise await _lost(change, key_id, wish)
            await change.connection.execute(
                insert(key_versions),
                [
                    {"key_id": key_id, "version": 1, "org_id": organization_id, "public_key": placed.public_key}
                    for key_id, (_, placed) in made.items()
                ],
            )
            query = select_keys(organization_id).where(keys.c.id.in_(made))
            found = {row["id"]: to_key(row) for row in (await change.connection.execute(query)).mappings()}
            for key_id in made:
                _tell(change, caller, found[key_id])
        return [found[key_id] for key_id in made]

    async def abandon(self, key_ids: Sequence[UUID]) -> None:
        """Give up reservations that nobody can have taken over. A creation that committed after all, behind a lost
        connection, is no longer CREATING and stays."""
        with suppress(SQLAlchemyError, OSError):
            async with self._database.jobs() as connection:
                await connection.execute(
                    update(keys)
                    .where(keys.c.id.in_(key_ids), keys.c.state == KeyState.CREATING.value)
                    .values(state=KeyState.ABANDONED.value)
                )

    async def withdraw(self, reservation: Reservation) -> None:
        """Give up a reservation that the vault has put nothing into, unless somebody has taken it over since. One that
        was itself taken over is left to the call that made it, or to the sweeper, at the time that it had before."""
        values: dict[str, object] = {"state": KeyState.ABANDONED.value}
        if reservation.before is not None:
            values = {"created_at": reservation.before}
        with suppress(SQLAlchemyError, OSError):
            async with self._database.jobs() as connection:
                await connection.execute(
                    update(keys)
                    .where(keys.c.id == reservation.key_id, keys.c.created_at == reservation.since)
                    .where(keys.c.state == KeyState.CREATING.value)
                    .values(values)
                )

    async def sweep(self) -> int:
        """Undo the creations that never ended; returns how many. Raises VaultUnavailable, after all that could be done
        without it. Safe from several servers at once."""
        over = (keys.c.state.in_(UNFINISHED), keys.c.created_at < func.now() - ABANDONED_AFTER)
        some = select(keys.c.id).where(*over).order_by(func.random()).limit(SWEEP)
        async with self._database.jobs() as connection:
            # The age is judged again by the update itself: whoever took the row over meanwhile has made it young.
            claimed = await connection.execute(
                update(keys)
                .where(keys.c.id.in_(some), *over)
                .values(state=KeyState.ABANDONED.value)
                .returning(keys.c.id)
            )
            abandoned = list(claimed.scalars())
        done, failure = 0, None
        for key_id in abandoned:
            try:
                # First the vault, then the row that remembers it.
                await self._vault.destroy(key_id.hex)
            except errors.VaultUnavailable as error:
                # Of this key, perhaps: the others do not wait for it.
                failure = error
                continue
            async with self._database.jobs() as connection:
                await connection.execute(
                    delete(keys).where(keys.c.id == key_id, keys.c.state == KeyState.ABANDONED.value)
                )
            done += 1
        if failure is not None:
            raise failure
        return done

    async def close(self) -> None:
        """Wait for the creations under way."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))


async def _namespaces(change: Change, caller: Caller, wishes: Sequence[Wish]) -> dict[str, UUID]:
    """The namespaces of the wishes, by name, held: none is deleted before the rows stand. Raises NamespaceNotFound."""
    names = {wish.namespace for wish in wishes}
    query = select(namespaces.c.name, namespaces.c.id).where(
        namespaces.c.org_id == change.organization_id, namespaces.c.name.in_(names)
    )
    query = namespaces_within(query, caller.principal.bounds).with_for_update(key_share=True, read=True)
    found: dict[str, UUID] = {row.name: row.id for row in await change.connection.execute(query)}
    if names - found.keys():
        raise errors.NamespaceNotFound
    return found


async def _holders(
    change: Change, spaces: Mapping[str, UUID], wishes: Sequence[Wish]
) -> dict[tuple[str, str], RowMapping]:
    """Rows that hold the names of the wishes already, locked: the sweeper does not abandon one meanwhile."""
    query = (
        select(keys.c.id, keys.c.namespace_id, keys.c.name, keys.c.state, keys.c.imported, keys.c.created_at)
        .where(keys.c.org_id == change.organization_id, keys.c.state.not_in(FREED))
        .where(keys.c.namespace_id.in_(spaces.values()), keys.c.name.in_({wish.name for wish in wishes}))
        .with_for_update()
    )
    rows = {(row["namespace_id"], row["name"]): row for row in (await change.connection.execute(query)).mappings()}
    wanted = sorted((wish.namespace, wish.name) for wish in wishes)
    return {name: rows[spaces[name[0]], name[1]] for name in wanted if (spaces[name[0]], name[1]) in rows}


async def _recovery_recipient(change: Change) -> str:
    """Whom the organization's new keys are sealed to, empty for nobody."""
    query = select(recovery_recipients.c.recipient).where(recovery_recipients.c.org_id == change.organization_id)
    return (await change.connection.execute(query)).scalar() or ""


async def _taken_over(change: Change, holder: RowMapping, wish: Wish, recipient: str) -> Reservation:
    refreshed = await change.connection.execute(
        update(keys)
        .where(keys.c.id == holder["id"], keys.c.org_id == change.organization_id)
        .values(created_at=func.clock_timestamp())
        .returning(keys.c.created_at)
    )
    return Reservation(
        key_id=holder["id"],
        wish=wish,
        recovery_recipient=recipient,
        since=refreshed.scalar_one(),
        before=holder["created_at"],
    )


async def _lost(change: Change, key_id: UUID, wish: Wish) -> errors.SignerError:
    """Why a reservation is none any more."""
    kept = select(keys.c.id).where(
        keys.c.id == key_id,
        keys.c.org_id == change.organization_id,
        keys.c.state.not_in(FREED),
        keys.c.destruction_began_at.is_(None),
    )
    if (await change.connection.execute(kept)).first() is not None:
        return errors.KeyNameTaken(f"{wish.namespace}/{wish.name}")
    # This call was away for so long that the sweeper took it for abandoned, or that the key was made by another call
    # and has been destroyed since.
    return errors.DeadlinePassed()


def _tell(change: Change, caller: Caller, key: Key) -> None:
    """The audit row of a new key; of one that comes from outside, which one it is."""
    told = {"name": f"{key.namespace}/{key.name}"}
    if key.imported:
        told |= {"public_key": key.public_key.hex(), "address": key.address}
    event = "key.imported" if key.imported else "key.created"
    change.record(event, caller=caller, resource_type="key", resource_id=key.id, metadata=told)
