"""The organizations of the mixed load: five that nothing holds back, one that floods, one above its request rate, one
above its quota."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from popsigner_server.domain.plans import read_plans
from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from popsigner_server.storage.engine import Database
from popsigner_server.tenancy.plans import set_plan
from tests.bench.calls import DATA_BYTES
from tests.integration.promises.site import founded_tenant, open_database
from tests.support.load import PATIENCE, Wire
from tests.support.pop import Pop

FREE_PARTIES = 5
KEYS_EACH = 25
# Calls a second that the hasty organization may make, and signatures a month of the frugal one.
HASTY_RATE = 5
FRUGAL_QUOTA = 100


def plans() -> str:
    """The packaged catalogue with a plan for each of the two that are refused."""
    packaged = files("popsigner_server").joinpath("plans.toml").read_text()
    return f"{packaged}\n[hasty]\nrequests_per_second = {HASTY_RATE}\n[frugal]\nsignatures_per_month = {FRUGAL_QUOTA}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """An organization, its owner's API key and connection, and its keys, which all sign."""

    api_key: str
    wire: Wire
    keys: list[str]

    @property
    def key(self) -> str:
        """One of its keys, by chance."""
        return random.choice(self.keys)

    def sign(
        self, key_id: str = "", *, request_id: str = "", wire: Wire | None = None, timeout: float = PATIENCE
    ) -> Any:
        """A Sign of new data, on this connection or the owner's. timeout: its deadline, seconds."""
        through = wire or self.wire
        request = sign_pb2.SignRequest(key_id=key_id or self.key, data=os.urandom(DATA_BYTES), request_id=request_id)
        return through.signing.Sign(request, metadata=through.metadata, timeout=timeout)

    def batch(self, count: int) -> Any:
        """A BatchSign of so many items."""
        request = sign_pb2.BatchSignRequest(requests=self.items(count))
        return self.wire.signing.BatchSign(request, metadata=self.wire.metadata, timeout=PATIENCE)

    def items(self, count: int) -> list[sign_pb2.SignItem]:
        """So many items with new data, each for one of the keys by chance."""
        return [sign_pb2.SignItem(key_id=self.key, data=os.urandom(DATA_BYTES)) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """All organizations of the load. loud: of the floods, and of them alone: in one it has no room for other calls."""

    free: list[Party]
    loud: Party
    hasty: Party
    frugal: Party

    @property
    def any(self) -> Party:
        """One that nothing holds back, by chance."""
        return random.choice(self.free)


@asynccontextmanager
async def founded(pop: Pop) -> AsyncIterator[Parties]:
    """The organizations with their keys, at the server's own socket."""
    database, catalogue = open_database(pop), read_plans(plans())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.dispose)

        async def party(plan: str = "") -> Party:
            tenant = await stack.enter_async_context(founded_tenant(database, [pop.grpc_socket]))
            (wire,) = tenant.owners
            request = key_pb2.BatchCreateKeysRequest(prefix="soak", count=KEYS_EACH)
            made = await wire.keys.BatchCreateKeys(request, metadata=wire.metadata, timeout=PATIENCE)
            if plan:
                await set_plan(Database(database), catalogue, organization=tenant.id.hex, plan=plan)
            return Party(api_key=tenant.api_key, wire=wire, keys=[key.id for key in made.keys])

        free = [await party() for _ in range(FREE_PARTIES)]
        loud = await party()
        yield Parties(free=free, loud=loud, hasty=await party("hasty"), frugal=await party("frugal"))
