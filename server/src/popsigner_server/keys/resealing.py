"""Brings the vault's recovery copies in line with what the organizations have chosen.

`keys.recovery_recipient` tells whom the vault's copies of a key are sealed to; a key for which that differs from its
organization's recipient is due. While a first recipient waits, keys that are sealed to nobody stay so.

A key is claimed for some minutes before the vault is asked, and marked as not known (''). So no two servers seal the
same key at once, and what is written afterwards is what the vault has, also where the recipient was changed meanwhile:
then the key is due again. A server that ends in between leaves a claim that runs out, and a mark that makes the key due
again; sealing can be repeated. No call to the vault is made under a lock.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Select, case, func, null, or_, select, true, union_all, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.keys.recovery import KEPT, RecoverySettings
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import keys, organizations, recovery_recipients
from popsigner_server.vault import Vault

log = structlog.get_logger(__name__)

# Keys of one claim, of which so many are sealed at once: signatures go before. A turn makes so many claims.
BATCH = 32
AT_ONCE = 2
CLAIMS = 64
# Seconds that a claim's keys may take together, and how long nobody else touches them: longer than that, and than
# OpenBao works on a request whose caller has gone.
PATIENCE = 60.0
CLAIMED = timedelta(minutes=5)
UNKNOWN = ""

_recovery = recovery_recipients.c
# A first recipient that waits is both.
_first = _recovery.next_recipient == _recovery.recipient
_target = case((_first, null()), else_=_recovery.recipient).label("recipient")
_unclaimed = or_(keys.c.recovery_claimed_at.is_(None), keys.c.recovery_claimed_at < func.now() - CLAIMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A key to seal, claimed at a moment that no other claim of it has; `recipient` is empty for no copies."""

    key_id: UUID
    organization_id: UUID
    recipient: str
    claimed_at: datetime


class Resealing:
    """Seals what is due, a few keys at a time."""

    def __init__(self, database: Database, settings: RecoverySettings, vault: Vault) -> None:
        self._database = database
        self._settings = settings
        self._vault = vault

    async def run(self) -> int:
        """One turn: let due changes take effect, then seal; returns how many keys were sealed. Safe from several
        servers at once. Raises VaultUnavailable, TimeoutError: the keys come again when their claim has run out."""
        await self._settings.take_effect()
        sealed = 0
        for _ in range(CLAIMS):
            due = await self._claim()
            if not due:
                break
            async with asyncio.timeout(PATIENCE):
                sealed += await self._seal(due)
        if sealed:
            log.info("recovery copies sealed or removed", keys=sealed)
        return sealed

    async def _claim(self) -> list[Due]:
        async with self._database.jobs() as connection:
            found = {row.id: row for row in (await connection.execute(_fresh(BATCH))).all()}
            if len(found) < BATCH:
                # Those that failed before come last.
                unknown = _unknown(BATCH - len(found))
                found |= {row.id: row for row in (await connection.execute(unknown)).all()}
            if not found:
                return []
            claim = (
                update(keys)
                .where(keys.c.id.in_(found))
                .values(recovery_recipient=UNKNOWN, recovery_claimed_at=func.clock_timestamp())
                .returning(keys.c.id, keys.c.recovery_claimed_at)
            )
            claimed = (await connection.execute(claim)).all()
        return [
            Due(
                key_id=row.id,
                organization_id=found[row.id].org_id,
                recipient=found[row.id].recipient or "",
                claimed_at=row.recovery_claimed_at,
            )
            for row in claimed
        ]

    async def _seal(self, due: list[Due]) -> int:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(each: Due) -> bool:
            async with places:
                return await self._seal_one(each)

        # The others are waited for: what the vault has done for them is written down.
        outcomes = await asyncio.gather(*map(one, due), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in outcomes)

    async def _seal_one(self, due: Due) -> bool:
        try:
            await self._vault.seal(due.key_id.hex, recipient=due.recipient)
        except (errors.KeyNotFound, errors.InvalidField) as error:
            # Destroyed meanwhile; or the vault is older than the database, and lacks the key or the right.
            log.warning("a key was not sealed", key=show(Prefix.KEY, due.key_id), reason=error.reason)
            return False
        # What the vault has now, whatever was chosen meanwhile.
        async with self._database.jobs() as connection:
            written = await connection.execute(
                update(keys)
                .where(keys.c.id == due.key_id, keys.c.org_id == due.organization_id)
                .where(keys.c.recovery_claimed_at == due.claimed_at)
                .values(recovery_recipient=due.recipient or None, recovery_claimed_at=None)
            )
        return written.rowcount == 1


def _fresh(most: int) -> Select[tuple[UUID, UUID, str | None]]:
    """Keys whose organization has chosen another recipient since, locked.

    Nearly every key is in line, so none of those is read: what differs is below or above the recipient in the index, or
    null. Each is a query of its own with a limit, or the planner takes a look at all keys for the better way.
    """
    differing = [
        # Sealed to nobody, in an organization that has a recipient which does not wait.
        keys.c.recovery_recipient.is_(None) & _recovery.recipient.is_not(None) & _first.is_not(True),
        (keys.c.recovery_recipient > UNKNOWN) & (keys.c.recovery_recipient < _recovery.recipient),
        keys.c.recovery_recipient > func.coalesce(_recovery.recipient, UNKNOWN),
    ]
    due = union_all(*(select(_locked(condition, most).subquery()) for condition in differing)).lateral()
    return (
        select(due.c.id, due.c.org_id, _target)
        .select_from(recovery_recipients)
        .join(organizations, organizations.c.id == _recovery.org_id)
        .join(due, true())
        .where(organizations.c.deleted_at.is_(None))
        .limit(most)
    )


def _locked(condition: ColumnElement[bool], most: int) -> Select[tuple[UUID, UUID]]:
    return (
        select(keys.c.id, keys.c.org_id)
        .where(keys.c.org_id == _recovery.org_id, *KEPT, condition, _unclaimed)
        .limit(most)
        .correlate(recovery_recipients)
        .with_for_update(key_share=True, skip_locked=True)
    )


def _unknown(most: int) -> Select[tuple[UUID, UUID, str | None]]:
    """Keys of which it is not known whom they are sealed to, those claimed the longest ago first, locked."""
    return (
        select(keys.c.id, keys.c.org_id, _target)
        .join(recovery_recipients, _recovery.org_id == keys.c.org_id)
        .join(organizations, organizations.c.id == keys.c.org_id)
        .where(*KEPT, keys.c.recovery_recipient == UNKNOWN, organizations.c.deleted_at.is_(None), _unclaimed)
        .order_by(keys.c.recovery_claimed_at.nulls_first(), keys.c.id)
        .limit(most)
        .with_for_update(of=keys, key_share=True, skip_locked=True)
    )
