"""The recovery kit over a real database, with a vault in memory, and people to use it.

kit = await furnished(engine)                      kit.mine.caller is the owner API key
key_id = await kit.key("sequencer")                as a creation makes one, sealed to the recipient of the moment
await kit.pass_time(days=3)                        for what waits
await kit.turn()                                   of the job
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pyrage  # type: ignore[import-untyped]  # publishes no types
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import new_id
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Bounds, Caller, Role, Scope
from popsigner_server.keys.copies import Copies
from popsigner_server.keys.recovery import Recovery, RecoverySettings, recipient_of
from popsigner_server.keys.resealing import Resealing
from popsigner_server.ledger import Row
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    key_versions,
    keys,
    ledger_heads,
    namespaces,
    organizations,
    recovery_recipients,
)
from popsigner_server.vault import Vault
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization, joined

WAIT = timedelta(days=3)


def new_recipient() -> str:
    return str(pyrage.x25519.Identity.generate().to_public())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """One organization at one server."""

    engine: AsyncEngine
    mine: Organization
    database: Database
    ledger: PostgresLedger
    settings: RecoverySettings
    resealing: Resealing
    copies: Copies
    vault: Any = field(default_factory=MemoryVault)

    @property
    def owner(self) -> Caller:
        return self.mine.caller

    @property
    def memory(self) -> MemoryVault:
        assert isinstance(self.vault, MemoryVault)
        return self.vault

    async def person(self, role: Role) -> Caller:
        return await joined(self.engine, self.mine, role)

    async def set(self, recipient: str) -> Recovery:
        return await self.settings.set(self.owner, recipient)

    async def get(self) -> Recovery:
        return await self.settings.get(self.owner.principal)

    async def turn(self) -> int:
        return await self.resealing.run()

    async def key(self, name: str, *, state: KeyState = KeyState.ENABLED, exportable: bool = False) -> UUID:
        """A key as a creation makes it."""
        async with self.database.tenant(self.mine.id) as connection:
            recipient = await recipient_of(connection, self.mine.id)
        key_id = new_id()
        public_key = await self.vault.create(key_id.hex, exportable=exportable, recovery_recipient=recipient)
        async with self.engine.begin() as connection:
            space = await connection.scalar(select(namespaces.c.id).where(namespaces.c.org_id == self.mine.id))
            await connection.execute(
                insert(keys).values(
                    id=key_id,
                    org_id=self.mine.id,
                    namespace_id=space,
                    name=name,
                    algorithm="secp256k1",
                    state=state.value,
                    public_key=public_key,
                    exportable=exportable,
                    recovery_recipient=recipient or None,
                )
            )
            await connection.execute(
                insert(key_versions).values(key_id=key_id, version=1, org_id=self.mine.id, public_key=public_key)
            )
        return key_id

    async def rotate(self, key_id: UUID, to_version: int, *, known: bool = True) -> bytes:
        """A new version; `known` False: the server ended before the database knew."""
        public_key = bytes(await self.vault.rotate(key_id.hex, to_version=to_version))
        if known:
            async with self.engine.begin() as connection:
                await connection.execute(
                    insert(key_versions).values(
                        key_id=key_id, version=to_version, org_id=self.mine.id, public_key=public_key
                    )
                )
            await self.write(key_id, current_version=to_version, public_key=public_key)
        return public_key

    async def write(self, key_id: UUID, **values: object) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(update(keys).where(keys.c.id == key_id).values(**values))

    async def row(self, key_id: UUID) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(select(keys).where(keys.c.id == key_id))).one()

    async def sealed_to(self, *key_ids: UUID) -> list[str | None]:
        """Whom the database says that each is sealed to; it says the same as the vault."""
        told = [(await self.row(key_id)).recovery_recipient for key_id in key_ids]
        if isinstance(self.vault, MemoryVault):
            assert told == [self.vault.recipients.get(key_id.hex) for key_id in key_ids]
        return told

    async def pass_time(self, **span: float) -> None:
        """Let what waits, and every claim, be older by this."""
        ago = timedelta(**span)
        async with self.engine.begin() as connection:
            recovery = recovery_recipients.c
            await connection.execute(
                update(recovery_recipients)
                .where(recovery.org_id == self.mine.id)
                .values(announced_at=recovery.announced_at - ago, effective_at=recovery.effective_at - ago)
            )
            await connection.execute(
                update(keys)
                .where(keys.c.org_id == self.mine.id)
                .values(recovery_claimed_at=keys.c.recovery_claimed_at - ago)
            )

    async def close(self, *, deleted: bool) -> None:
        """Delete the organization, or restore it."""
        moment = func.now() if deleted else None
        async with self.engine.begin() as connection:
            mine = organizations.c.id == self.mine.id
            await connection.execute(update(organizations).where(mine).values(deleted_at=moment))
            head = ledger_heads.c.org_id == self.mine.id
            await connection.execute(update(ledger_heads).where(head).values(closed_at=moment))

    async def settle(self, recipient: str) -> None:
        """As if it had been registered and waited for: it is in force, and the vault in line with it."""
        await self.set(recipient)
        await self.pass_time(days=3, seconds=1)
        await self.turn()

    async def trail(self) -> list[Row]:
        """Every audit row about recovery, oldest first."""
        rows, _ = await self.ledger.list(self.mine.id, limit=1000, cursor="")
        return [row for row in reversed(rows) if row.event.startswith("recovery.")]

    async def told(self) -> list[tuple[str, str]]:
        """Each row's event and what it says of the recipient."""
        return [(row.event, row.metadata["recipient"]) for row in await self.trail()]

    async def now(self) -> Any:
        async with self.engine.connect() as connection:
            return await connection.scalar(select(func.clock_timestamp()))


async def furnished(
    engine: AsyncEngine, *, vault: Vault | None = None, wait: timedelta = WAIT, of: Organization | None = None
) -> Kit:
    """A server of a new organization, or another server of one."""
    database, used = Database(engine), vault if vault is not None else MemoryVault()
    ledger = PostgresLedger(database)
    settings = RecoverySettings(database, ledger, wait=wait)
    return Kit(
        engine=engine,
        mine=of if of is not None else await found_organization(engine, keys_of=0),
        database=database,
        ledger=ledger,
        settings=settings,
        resealing=Resealing(database, settings, used),
        copies=Copies(database, ledger, used),
        vault=used,
    )


def bounded(caller: Caller, **bounds: Any) -> Caller:
    """The API key, limited."""
    principal = replace(caller.principal, role=Role.UNSPECIFIED, bounds=Bounds(**bounds))
    return replace(caller, principal=principal)


def reading(caller: Caller) -> Caller:
    """The API key with the scope to read keys alone, and no role."""
    principal = replace(caller.principal, role=Role.UNSPECIFIED, scopes=frozenset({Scope.KEYS_READ}))
    return replace(caller, principal=principal)
