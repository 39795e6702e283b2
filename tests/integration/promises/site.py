"""Where the parts of a running POP are reached, behind its public port, and organizations in its database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_node.postgres import EmbeddedPostgres
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.storage.tables import api_keys
from tests.support.load import Wire
from tests.support.organizations import found_organization
from tests.support.pop import Pop


def server_sockets(pop: Pop, servers: int) -> list[str]:
    """The unix socket of each server process, as gRPC addresses: whoever uses one meets that process and no other."""
    first = pop.grpc_socket
    sockets = [first, *(first.removesuffix(".sock") + f"-{number}.sock" for number in range(2, servers + 1))]
    assert all(Path(socket.removeprefix("unix://")).is_socket() for socket in sockets)
    return sockets


def database_url(pop: Pop) -> str:
    """The libpq URL of the POP's own database, which lies beside the servers' sockets."""
    run = Path(pop.grpc_socket.removeprefix("unix://")).parent
    return EmbeddedPostgres(folder=pop.data_dir / "postgres", sockets=run).url()


def open_database(pop: Pop) -> AsyncEngine:
    return create_async_engine(database_url(pop).replace("postgresql://", "postgresql+psycopg://"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organization of its own, with an empty ledger, and its owner's connection to each server process."""

    id: UUID
    api_key: str
    owners: list[Wire]


@asynccontextmanager
async def founded_tenant(database: AsyncEngine, sockets: Sequence[str]) -> AsyncIterator[Tenant]:
    """A new organization with namespace `production` and an owner API key that works, written into the database: the
    program founds the first one only."""
    organization = await found_organization(database, keys_of=0)
    secret = new_secret()
    presented = PresentedKey(environment="live", id=organization.caller.principal.actor_id, secret=secret)
    async with database.begin() as connection:
        await connection.execute(
            update(api_keys).where(api_keys.c.id == presented.id).values(key_hash=hash_secret(secret))
        )
    owners = [Wire(socket, presented.text) for socket in sockets]
    try:
        yield Tenant(id=organization.id, api_key=presented.text, owners=owners)
    finally:
        for wire in owners:
            await wire.close()
