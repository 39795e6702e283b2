"""The rooms, furnished: what one server process consists of."""

from dataclasses import dataclass

from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.reception import Reception
from popsigner_server.identity.verification import Verifier
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.copies import Copies
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.export import Export
from popsigner_server.keys.importing import Importing
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.keys.resealing import Resealing
from popsigner_server.keys.reservations import Reservations
from popsigner_server.keys.rotation import Rotation
from popsigner_server.keys.wrapping import WrappingKeys
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.maintenance import Maintenance
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.ledger.usage import UsageReader
from popsigner_server.limits.calls import CallLimits
from popsigner_server.limits.pace import Pace
from popsigner_server.signing.batcher import Batcher
from popsigner_server.signing.signer import Signer
from popsigner_server.storage.engine import Database
from popsigner_server.telemetry import Tracer
from popsigner_server.telemetry.metrics import Metrics
from popsigner_server.tenancy.account import Accounts
from popsigner_server.tenancy.erasure import Erasure
from popsigner_server.tenancy.export import Exports
from popsigner_server.tenancy.invitations import Invitations
from popsigner_server.tenancy.members import Members
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.tenancy.organizations import Organizations
from popsigner_server.vault.openbao import OpenBao


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The rooms, furnished."""

    metrics: Metrics
    tracer: Tracer
    database: Database
    vault: OpenBao
    gate: PostgresGate
    ledger: PostgresLedger
    catalogue: Catalogue
    key_cache: KeyCache
    reservations: Reservations
    creation: Creation
    wrapping_keys: WrappingKeys
    importing: Importing
    export: Export
    lifecycle: Lifecycle
    rotation: Rotation
    recovery: RecoverySettings
    resealing: Resealing
    copies: Copies
    api_keys: ApiKeys
    verifier: Verifier
    reception: Reception
    namespaces: Namespaces
    organizations: Organizations
    members: Members
    invitations: Invitations
    accounts: Accounts
    exports: Exports
    erasure: Erasure
    usage: UsageReader
    maintenance: Maintenance
    limits: CallLimits
    pace: Pace
    batcher: Batcher
    signer: Signer

    async def close(self) -> None:
        """Settle what was accepted, then give everything back, in reverse order."""
        await self.batcher.close()
        await self.reservations.close()
        await self.gate.close()
        await self.vault.close()
        await self.limits.close()
        await self.verifier.close()
        await self.database.close()
        self.tracer.close()
