"""One POP for the folder, with two organizations beside the first: ours asks, theirs is what it must not reach."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import UUID

import aiohttp
import grpc
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_node.postgres import EmbeddedPostgres
from tests.support.organizations import found_organization
from tests.support.pop import Pop


@pytest.fixture(scope="package")
def pop() -> Iterator[Pop]:
    with Pop.started(options=["--servers", "1"]) as pop:
        yield pop
        # Whatever the tests sent was their callers' mistake, and none of the POP's.
        assert "internal fault" not in (pop.data_dir / "logs" / "server.log").read_text()


@pytest.fixture(scope="package")
async def engine(pop: Pop) -> AsyncIterator[AsyncEngine]:
    """The POP's own database, as its owner."""
    cluster = EmbeddedPostgres(folder=pop.data_dir / "postgres", sockets=pop.data_dir / "run")
    engine = create_async_engine(cluster.url().replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    await engine.dispose()


@pytest.fixture(scope="package")
async def channel(pop: Pop) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(pop.grpc_socket) as opened:
        yield opened


@pytest.fixture(scope="package")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        yield session


@dataclass(frozen=True, slots=True, kw_only=True)
class Organizations:
    ours: UUID
    theirs: UUID


@pytest.fixture(scope="package")
async def organizations(engine: AsyncEngine) -> Organizations:
    ours, theirs = await found_organization(engine, keys_of=1), await found_organization(engine, keys_of=1)
    return Organizations(ours=ours.id, theirs=theirs.id)
