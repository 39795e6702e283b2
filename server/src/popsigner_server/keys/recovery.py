"""Whom an organization's private keys are sealed to for its recovery, and how that changes.

Whoever holds the recipient's identity reads every private key that is sealed to it, so a stolen owner's credential must
not be enough to name another one: a change waits, is announced to every owner, and any of them can cancel it. The first
recipient holds for new keys at once, and waits for those that are there already; until then no copy is handed out. A
removal waits as well: it takes the way out away.

Each change is made under the lock of the organization's ledger, by who its caller is there, with its audit row. The
waiting is judged by the database's clock. What the vault has is brought in line afterwards (resealing).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Caller, Principal, Role
from popsigner_server.identity.standing import standing
from popsigner_server.keys.reach import keys_within
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import keys, organizations, recovery_recipients

# Organizations whose change one turn lets take effect; the rest waits for the next.
TURN = 100
# Keys with a private key that will stay, or can be restored.
KEPT = (
    keys.c.state.in_((KeyState.ENABLED.value, KeyState.DISABLED.value, KeyState.DELETED.value)),
    keys.c.destruction_began_at.is_(None),
)
# What a recipient is called where there is none.
NOBODY = "none"

_NOTHING_WAITS = {
    "next_recipient": None,
    "announced_at": None,
    "effective_at": None,
    "announced_by_kind": None,
    "announced_by": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A change that waits. `recipient` is the one to come, empty for a removal."""

    recipient: str
    announced_at: datetime
    effective_at: datetime
    announced_by_kind: str
    announced_by: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The recovery of an organization. `recipient` is empty where there is none; `covered` of the `keys` have copies
    that are sealed to it."""

    recipient: str
    since: datetime | None
    change: Waiting | None
    keys: int
    covered: int


class RecoverySettings:
    """Reads and changes recovery recipients. `wait` is how long a change waits."""

    def __init__(self, database: Database, ledger: Ledger, *, wait: timedelta) -> None:
        self._database = database
        self._ledger = ledger
        self._wait = wait

    async def get(self, principal: Principal) -> Recovery:
        """The recovery; the keys are those that the caller reaches."""
        async with self._database.tenant(principal.organization_id) as connection:
            return await _recovery(connection, principal)

    async def set(self, caller: Caller, recipient: str) -> Recovery:
        """Register an age X25519 recipient (that was checked), replace it, or with "" remove it. What is so already, or
        waits to be so, stays as it is.

        Raises RoleMissing, RecoveryChangeWaiting, RecoveryMissing (there is none to remove), OrganizationDeleted.
        """
        principal = caller.principal
        async with self._ledger.change(principal.organization_id) as change:
            await standing(change, principal, least=Role.OWNER)
            row = await _row(change.connection, principal.organization_id)
            before, to_come = (row.recipient or "", row.next_recipient) if row is not None else ("", None)
            if recipient != (before if to_come is None else to_come):
                if to_come is not None:
                    raise errors.RecoveryChangeWaiting
                await self._begin(change, caller, before, recipient)
            elif not before:
                raise errors.RecoveryMissing
            return await _recovery(change.connection, principal)

    async def _begin(self, change: Change, caller: Caller, before: str, after: str) -> None:
        now = (await change.connection.execute(select(func.clock_timestamp()))).scalar_one()
        told = {"recipient": f"{before or NOBODY} -> {after or NOBODY}"}
        # Without a key there is nothing that a first recipient could give away.
        if not self._wait or not (before or await _has_keys(change)):
            since = now if after else None
            await _write(change, recipient=after or None, since=since, **_NOTHING_WAITS)
            _record(change, "recovery.recipient_changed", caller, told)
            return
        effective_at = now + self._wait
        first = {} if before else {"recipient": after, "since": now}
        await _write(
            change,
            **first,
            next_recipient=after,
            announced_at=now,
            effective_at=effective_at,
            announced_by_kind=caller.principal.actor_kind,
            announced_by=caller.principal.actor_id,
        )
        told["effective_at"] = effective_at.isoformat(timespec="seconds")
        _record(change, "recovery.recipient_announced", caller, told)

    async def cancel(self, caller: Caller) -> Recovery:
        """Cancel what waits; a first recipient is gone again. Raises RoleMissing, RecoveryMissing (nothing waits).

        Also in a deleted organization: else whoever announced a change could delete the organization, and a restoration
        would let the change take effect before anybody can cancel it.
        """
        principal = caller.principal
        async with self._ledger.change(principal.organization_id, closed=True) as change:
            await standing(change, principal, least=Role.OWNER)
            row = await _row(change.connection, principal.organization_id)
            if row is None or row.next_recipient is None:
                raise errors.RecoveryMissing("No change of the recovery recipient waits.")
            first = row.next_recipient == row.recipient
            gone = {"recipient": None, "since": None} if first else {}
            await _write(change, **gone, **_NOTHING_WAITS)
            stays = NOBODY if first else row.recipient
            told = {"recipient": f"{row.next_recipient or NOBODY} -> {stays}"}
            _record(change, "recovery.change_cancelled", caller, told)
            return await _recovery(change.connection, principal)

    async def waiting(self, organization_ids: Iterable[UUID]) -> dict[UUID, Waiting]:
        """What waits in these organizations, of which the caller is an owner: they may not know which to ask for."""
        query = select(recovery_recipients).where(
            recovery_recipients.c.org_id.in_(list(organization_ids)), recovery_recipients.c.next_recipient.is_not(None)
        )
        async with self._database.identity() as connection:
            rows = (await connection.execute(query)).all()
        return {row.org_id: waiting for row in rows if (waiting := _waiting(row))}

    async def take_effect(self) -> int:
        """Let the changes take effect whose time has come; returns how many. Safe from several servers at once. In a
        deleted organization nothing changes; its change takes effect when it is restored."""
        recovery = recovery_recipients.c
        due = (
            select(recovery.org_id)
            .join(organizations, organizations.c.id == recovery.org_id)
            .where(
                recovery.next_recipient.is_not(None),
                recovery.effective_at <= func.clock_timestamp(),
                organizations.c.deleted_at.is_(None),
            )
            .order_by(recovery.effective_at)
        )
        async with self._database.jobs() as connection:
            found = list((await connection.execute(due.limit(TURN))).scalars())
        changed = 0
        for organization_id in found:
            with suppress(errors.OrganizationDeleted):
                changed += await self._take_effect(organization_id)
        return changed

    async def _take_effect(self, organization_id: UUID) -> bool:
        async with self._ledger.change(organization_id) as change:
            # Read again: a cancellation holds the same lock, and so does another server.
            row = await _row(change.connection, organization_id)
            now = (await change.connection.execute(select(func.clock_timestamp()))).scalar_one()
            if row is None or row.next_recipient is None or row.effective_at > now:
                return False
            first = row.next_recipient == row.recipient
            since = row.since if first else (now if row.next_recipient else None)
            await _write(change, recipient=row.next_recipient or None, since=since, **_NOTHING_WAITS)
            before = NOBODY if first else row.recipient
            told = {"recipient": f"{before} -> {row.next_recipient or NOBODY}"}
            _record(change, "recovery.recipient_changed", None, told)
        return True


async def recipient_of(connection: AsyncConnection, organization_id: UUID) -> str:
    """Whom new private keys of the organization are sealed to; empty for nobody."""
    row = await _row(connection, organization_id)
    return (row.recipient or "") if row is not None else ""


async def handed_out_to(connection: AsyncConnection, organization_id: UUID) -> str:
    """The recipient whose copies are handed out. Raises RecoveryMissing, and RecoveryChangeWaiting while a first one
    waits: a thief with an owner's credential would else read what was made before anybody could cancel."""
    row = await _row(connection, organization_id)
    if row is None or not row.recipient:
        raise errors.RecoveryMissing
    if row.next_recipient == row.recipient:
        until = row.effective_at.astimezone(UTC).isoformat(timespec="seconds")
        raise errors.RecoveryChangeWaiting(f"The first recovery recipient waits; copies are handed out from {until}.")
    recipient: str = row.recipient
    return recipient


async def _row(connection: AsyncConnection, organization_id: UUID) -> Row[Any] | None:
    query = select(recovery_recipients).where(recovery_recipients.c.org_id == organization_id)
    return (await connection.execute(query)).first()


async def _write(change: Change, **values: object) -> None:
    query = insert(recovery_recipients).values(org_id=change.organization_id, **values)
    await change.connection.execute(query.on_conflict_do_update(index_elements=["org_id"], set_=values))


async def _has_keys(change: Change) -> bool:
    """Also one that is being made: it was begun before."""
    gone = (KeyState.DESTROYED.value, KeyState.ABANDONED.value)
    query = select(keys.c.id).where(keys.c.org_id == change.organization_id, keys.c.state.not_in(gone)).limit(1)
    return (await change.connection.execute(query)).first() is not None


async def _recovery(connection: AsyncConnection, principal: Principal) -> Recovery:
    row = await _row(connection, principal.organization_id)
    recipient = (row.recipient or "") if row is not None else ""
    sealed = keys_within(select(keys.c.recovery_recipient), principal.bounds)
    reached = sealed.where(keys.c.org_id == principal.organization_id, *KEPT).subquery()
    query = select(func.count(), func.count().filter(reached.c.recovery_recipient == recipient)).select_from(reached)
    count, covered = (await connection.execute(query)).one()
    return Recovery(
        recipient=recipient,
        since=row.since if row is not None else None,
        change=_waiting(row) if row is not None else None,
        keys=count,
        covered=covered if recipient else 0,
    )


def _waiting(row: Row[Any]) -> Waiting | None:
    if row.next_recipient is None:
        return None
    return Waiting(
        recipient=row.next_recipient,
        announced_at=row.announced_at,
        effective_at=row.effective_at,
        announced_by_kind=row.announced_by_kind,
        announced_by=row.announced_by,
    )


def _record(change: Change, event: str, caller: Caller | None, told: dict[str, str]) -> None:
    """A recipient is a public key: the trail shows it."""
    change.record(event, caller=caller, resource_type="organization", resource_id=change.organization_id, metadata=told)
