"""What the life of a key needs, over a real database and the real release gate, with a vault in memory."""

import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import coincurve
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.domain.plans import Plan
from popsigner_server.domain.principals import UNBOUND, Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.keys import Wish
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.export import Export
from popsigner_server.keys.importing import Importing
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.reservations import Reservations
from popsigner_server.keys.rotation import Rotation
from popsigner_server.keys.wrapping import WrappingKeys
from popsigner_server.ledger import Row
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.limits.pace import Pace
from popsigner_server.signing import Ask, Signature
from popsigner_server.signing.batcher import Batcher
from popsigner_server.signing.queues import Queues
from popsigner_server.signing.signer import Signer
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions, keys
from popsigner_server.telemetry.metrics import Metrics
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.vault import Sealed
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization
from tests.support.plans import packaged_quotas

# An age recipient whose identity nobody kept.
SOMEBODY = "age1fjkp3wsqr53x64jvx45a6t5e76xczp3yvswtdcddjq2sxjfqnfcqsf8n6f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One organization at one server."""

    engine: AsyncEngine
    mine: Organization
    vault: MemoryVault
    ledger: PostgresLedger
    catalogue: Catalogue
    cache: KeyCache
    reservations: Reservations
    creation: Creation
    importing: Importing
    export: Export
    lifecycle: Lifecycle
    rotation: Rotation
    signer: Signer

    async def create(self, name: str) -> str:
        """The id of a new key."""
        wish = Wish(name=name, namespace="production", exportable=False, metadata={})
        (key,) = await self.creation.create(self.mine.caller, [wish])
        return show(Prefix.KEY, key.id)

    async def bring_in(
        self,
        secret: bytes,
        name: str = "subject",
        *,
        exportable: bool = False,
        caller: Caller | None = None,
        wrapping_key: str = "",
        importing: Importing | None = None,
    ) -> Key:
        """A key from its 32 bytes."""
        wish = Wish(name=name, namespace="production", exportable=exportable, metadata={})
        return await (importing or self.importing).bring_in(
            caller or self.mine.caller, wish, ciphertext=b"memory:" + secret, wrapping_key=wrapping_key
        )

    async def hand_out(self, reference: str, *versions: int, caller: Caller | None = None) -> Sealed:
        """An export to somebody."""
        return await self.export.export(caller or self.mine.caller, reference, recipient=SOMEBODY, versions=versions)

    async def key(self, reference: str) -> Key:
        return await self.catalogue.get(self.mine.id, reference, bounds=UNBOUND)

    async def sign(self, reference: str, version: int = 0) -> Signature:
        """One signature, verified by its version's public key. Raises what refused it."""
        data = os.urandom(16)
        ask = Ask(
            key=reference,
            data=data,
            prehashed=False,
            hash=HashAlgorithm.SHA256,
            format=SignatureFormat.DER,
            sign_mode=None,
            request_id=None,
            version=version,
        )
        (outcome,) = await self.signer.sign(self.mine.caller, [ask], None)
        if isinstance(outcome, SignerError):
            raise outcome
        digest = hashlib.sha256(data).digest()
        public_key = coincurve.PublicKey(bytes.fromhex(outcome.key.public_key))
        assert public_key.verify(outcome.value, digest, hasher=None)
        return outcome

    async def end_window(self, key_id: UUID) -> None:
        """Let a deleted key's restore window be over."""
        async with self.engine.begin() as connection:
            await connection.execute(update(keys).where(keys.c.id == key_id).values(destroy_at=func.now()))

    async def reopen_window(self, key_id: UUID) -> None:
        """As if the window had not ended: a clock that goes back."""
        async with self.engine.begin() as connection:
            later = func.now() + timedelta(days=1)
            await connection.execute(update(keys).where(keys.c.id == key_id).values(destroy_at=later))

    async def put_into(self, key_id: UUID, state: KeyState) -> None:
        """A state that nothing but time brings about, with what belongs to it."""
        over = state in (KeyState.DELETED, KeyState.DESTROYED)
        async with self.engine.begin() as connection:
            await connection.execute(
                update(keys)
                .where(keys.c.id == key_id)
                .values(
                    state=state.value,
                    deleted_at=func.now() if over else None,
                    destroy_at=func.now() + timedelta(days=7) if over else None,
                    deleted_from=KeyState.DISABLED.value if over else None,
                    destruction_began_at=func.now() if state is KeyState.DESTROYED else None,
                )
            )

    async def trail(self) -> list[Row]:
        """Every audit row but those of creations, oldest first."""
        rows, cursor = await self.ledger.list(self.mine.id, limit=1000, cursor="")
        assert not cursor
        return [row for row in reversed(rows) if row.event != "key.created"]

    async def age(self) -> None:
        """Let no creation be under way any more, as far as the sweeper knows."""
        async with self.engine.begin() as connection:
            old = func.now() - timedelta(minutes=6)
            await connection.execute(update(keys).where(keys.c.org_id == self.mine.id).values(created_at=old))

    async def states(self) -> list[tuple[str, KeyState]]:
        """Every row of a key, those of no key included: its name and state, oldest first."""
        query = select(keys.c.name, keys.c.state).where(keys.c.org_id == self.mine.id).order_by(keys.c.id)
        async with self.engine.connect() as connection:
            return [(row.name, KeyState(row.state)) for row in await connection.execute(query)]

    async def rows_of(self, key_id: UUID) -> int:
        """How many versions the database knows."""
        async with self.engine.connect() as connection:
            query = select(func.count()).select_from(key_versions).where(key_versions.c.key_id == key_id)
            return int((await connection.execute(query)).scalar_one())


@asynccontextmanager
async def furnished(engine: AsyncEngine, database: str, vault: MemoryVault | None = None) -> AsyncIterator[Desk]:
    vault = vault or MemoryVault()
    ledger, catalogue = PostgresLedger(Database(engine)), Catalogue(Database(engine))
    gate, cache, tracer = PostgresGate(database, prompt=3, late=3), KeyCache(catalogue, Pace()), open_tracer(None)
    reservations = Reservations(Database(engine), ledger, vault, packaged_quotas(), Pace())
    queues = Queues(limit=10_000, plan_of=lambda _: Plan(name="ordinary"))
    batcher = Batcher(
        vault=vault,
        gate=gate,
        queues=queues,
        observer=Metrics(),
        tracer=tracer,
        batch_limit=64,
        trips=2,
    )
    yield Desk(
        engine=engine,
        mine=await found_organization(engine, keys_of=0),
        vault=vault,
        ledger=ledger,
        catalogue=catalogue,
        cache=cache,
        reservations=reservations,
        creation=Creation(reservations, vault),
        importing=Importing(reservations, vault, WrappingKeys(vault, clock=time.monotonic)),
        export=Export(ledger, vault, catalogue),
        lifecycle=Lifecycle(Database(engine), ledger, vault, catalogue, reservations),
        rotation=Rotation(ledger, vault, catalogue, cache),
        signer=Signer(cache, batcher, tracer),
    )
    await batcher.close()
    await gate.close()
