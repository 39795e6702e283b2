"""The end of an organization whose grace period has passed.

Its beginning cannot be taken back: it and a restoration hold the same lock, and whoever comes first settles it. Then
the private keys go, each before the row that remembers it; then everybody's access; then the rest; then what is
personal in the audit trail. `erase_at` stays until all is done, and every step can be repeated: after a crash, or
beside another server, the next turn takes it from there. What is left is a tombstone without a name, for as long as the
plan keeps audit rows.
"""

from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.exc import IntegrityError

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.plans import Plans
from popsigner_server.ledger.maintenance import EXPIRE
from popsigner_server.ledger.postgres import change_on
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import ORGANIZATION_CHANGED, announce
from popsigner_server.storage.tables import (
    audit_logs,
    key_versions,
    keys,
    ledger_heads,
    namespaces,
    organizations,
    quota_notices,
    recovery_recipients,
    sign_requests,
    usage_metrics,
)
from popsigner_server.tenancy.forgetting import end_access, forget_closed_invitations
from popsigner_server.vault import Vault

log = structlog.get_logger(__name__)

# What one turn takes on; the rest waits for the next.
TURN = 10
KEYS = 100
ROWS = 5000
# What may stay in the trail: none of it names anybody or anything.
IMPERSONAL = [
    "action", "effective_at", "force", "invitation", "key_id", "level", "metric", "min_version", "overlap_seconds",
    "period", "quota", "role", "role_after", "role_before", "scopes", "state", "used", "version", "versions",
    "wrapping",
]  # fmt: skip
# A creation that has not ended. The sweeper ends it when nothing of it can still be under way in the vault.
_UNFINISHED = (KeyState.CREATING.value, KeyState.ABANDONED.value)

_PSEUDONYMISE = text("""
    UPDATE audit_logs SET ip_address = NULL, user_agent = NULL, request_id = NULL, metadata = CASE
        WHEN jsonb_typeof(metadata) = 'object' THEN (
            SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(metadata) e
            WHERE e.key = ANY (CAST(:kept AS text[])))
        END
    WHERE org_id = :org AND seq BETWEEN :first AND :last AND (
        ip_address IS NOT NULL OR user_agent IS NOT NULL OR request_id IS NOT NULL
        OR CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata - CAST(:kept AS text[]) <> '{}' END)
""")


class Erasure:
    """Erases organizations. Safe from several processes at once."""

    def __init__(self, database: Database, vault: Vault, plans: Plans) -> None:
        self._database = database
        self._vault = vault
        self._plans = plans

    async def run(self) -> int:
        """One turn; returns how many organizations were erased to the end. Raises VaultUnavailable, after all that
        could be done without it."""
        async with self._database.jobs() as connection:
            await forget_closed_invitations(connection)
            due = select(organizations.c.id).where(organizations.c.erase_at <= func.now())
            query = due.order_by(organizations.c.erase_at).limit(TURN)
            found = list((await connection.execute(query)).scalars())
        done, failure = 0, None
        for organization_id in found:
            try:
                done += await _attempted(self._erase(organization_id))
            except errors.VaultUnavailable as error:
                # Of one key, perhaps: the other organizations do not wait for it.
                failure = error
        await _attempted(self._bury())
        if failure is not None:
            raise failure
        return done

    async def _erase(self, organization_id: UUID) -> bool:
        if not await self._begin(organization_id):
            return False
        await self._destroy_keys(organization_id)
        await self._end_access(organization_id)
        if not await self._clear(organization_id):
            return False
        await self._pseudonymise(organization_id)
        await self._finish(organization_id)
        return True

    async def _begin(self, organization_id: UUID) -> bool:
        """Whether it is to be erased; from here on there is no restoring."""
        mine = organizations.c.id == organization_id
        async with (
            self._database.jobs() as connection,
            change_on(connection, organization_id, closed=True) as change,
        ):
            erased_at = (
                await connection.execute(
                    select(organizations.c.erased_at).where(mine, organizations.c.erase_at <= func.clock_timestamp())
                )
            ).first()
            if erased_at is None:
                return False
            if erased_at[0] is None:
                # The id makes it unique, and says nothing.
                slug = f"erased-{organization_id.hex}"
                await connection.execute(
                    update(organizations).where(mine).values(name="", slug=slug, erased_at=func.now())
                )
                change.record(
                    "organization.erased", caller=None, resource_type="organization", resource_id=organization_id
                )
                await announce(connection, ORGANIZATION_CHANGED, organization_id)
        return True

    async def _destroy_keys(self, organization_id: UUID) -> None:
        query = (
            select(keys.c.id)
            .where(keys.c.org_id == organization_id, keys.c.state.not_in(_UNFINISHED))
            .order_by(keys.c.id)
            .limit(KEYS)
        )
        while True:
            async with self._database.jobs() as connection:
                found = list((await connection.execute(query)).scalars())
            if not found:
                return
            for key_id in found:
                await self._vault.destroy(key_id.hex)
            await self._forget_keys(organization_id, found)

    async def _forget_keys(self, organization_id: UUID, destroyed: list[UUID]) -> None:
        async with (
            self._database.jobs() as connection,
            change_on(connection, organization_id, closed=True) as change,
        ):
            await connection.execute(delete(key_versions).where(key_versions.c.key_id.in_(destroyed)))
            query = (
                delete(keys)
                .where(keys.c.org_id == organization_id, keys.c.id.in_(destroyed))
                .returning(keys.c.id, keys.c.state)
            )
            for key_id, state in sorted((await connection.execute(query)).all()):
                if state != KeyState.DESTROYED.value:
                    change.record("key.destroyed", caller=None, resource_type="key", resource_id=key_id)

    async def _end_access(self, organization_id: UUID) -> None:
        async with self._database.jobs() as connection:
            await end_access(connection, organization_id)

    async def _clear(self, organization_id: UUID) -> bool:
        """Whether nothing was left to wait for: the sweeper's unfinished keys are."""
        async with self._database.jobs() as connection:
            waiting = select(keys.c.id).where(keys.c.org_id == organization_id).limit(1)
            if (await connection.execute(waiting)).first() is not None:
                return False
            for table in (sign_requests, usage_metrics, quota_notices, recovery_recipients, namespaces):
                await connection.execute(delete(table).where(table.c.org_id == organization_id))
        return True

    async def _pseudonymise(self, organization_id: UUID) -> None:
        """The ids stay: they lead to nobody any more."""
        async with self._database.jobs() as connection:
            size = select(ledger_heads.c.size).where(ledger_heads.c.org_id == organization_id)
            newest: int = (await connection.execute(size)).scalar_one()
        for first in range(1, newest + 1, ROWS):
            page = {"org": organization_id, "first": first, "last": first + ROWS - 1, "kept": IMPERSONAL}
            async with self._database.jobs() as connection:
                await connection.execute(_PSEUDONYMISE, page)

    async def _finish(self, organization_id: UUID) -> None:
        async with self._database.jobs() as connection:
            await connection.execute(
                update(organizations)
                .where(organizations.c.id == organization_id, organizations.c.erased_at.is_not(None))
                .values(erase_at=None)
            )

    async def _bury(self) -> bool:
        """Delete the audit rows of erased organizations when their time has come, and the tombstone with the last.
        Whether there was one."""
        gone = (organizations.c.erased_at.is_not(None), organizations.c.erase_at.is_(None))
        query = (
            select(organizations.c.id, organizations.c.plan, ledger_heads.c.size)
            .join(ledger_heads, ledger_heads.c.org_id == organizations.c.id)
            .where(*gone)
        )
        async with self._database.jobs() as connection:
            tombstones = (await connection.execute(query)).all()
        for organization_id, plan, size in tombstones:
            # By the names of the catalogue: where a plan is in it no longer, nothing is deleted on a guess.
            days = self._plans.of(plan).audit_retention_days if plan in self._plans.names else None
            if days is not None:
                await self._expire(organization_id, size, days)
        async with self._database.jobs() as connection:
            rows = exists().where(audit_logs.c.org_id == organizations.c.id)
            empty = list((await connection.execute(select(organizations.c.id).where(*gone, ~rows))).scalars())
            await connection.execute(delete(ledger_heads).where(ledger_heads.c.org_id.in_(empty)))
            await connection.execute(delete(organizations).where(organizations.c.id.in_(empty)))
        return bool(empty)

    async def _expire(self, organization_id: UUID, size: int, days: int) -> None:
        # Its newest row goes too: nobody numbers on from it.
        page = {"org": organization_id, "newest": size + 1, "days": days, "most": ROWS}
        deleted = ROWS
        while deleted == ROWS:
            async with self._database.jobs() as connection:
                deleted = (await connection.execute(EXPIRE, page)).rowcount


async def _attempted(step: Coroutine[Any, Any, bool]) -> bool:
    """False where a row came in between, e.g. of somebody who logs in just now: the next turn has another go."""
    try:
        return await step
    except IntegrityError as error:
        log.warning("erasure interrupted, to be tried again", error=type(error).__name__)
        return False
