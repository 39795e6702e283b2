"""One POP of three server processes on one database, for the tests that kill nothing."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.promises.site import Tenant, founded_tenant, open_database, server_sockets
from tests.support.pop import Pop

SERVERS = 3


@pytest.fixture(scope="package")
def trio() -> Iterator[Pop]:
    with Pop.started(options=["--servers", str(SERVERS)]) as pop:
        yield pop


@pytest.fixture(scope="package")
def sockets(trio: Pop) -> list[str]:
    """The address of each of the three."""
    return server_sockets(trio, SERVERS)


@pytest.fixture(scope="package")
async def database(trio: Pop) -> AsyncIterator[AsyncEngine]:
    """The POP's own database."""
    engine = open_database(trio)
    yield engine
    await engine.dispose()


@pytest.fixture
async def tenant(database: AsyncEngine, sockets: list[str]) -> AsyncIterator[Tenant]:
    """An organization that the test has to itself."""
    async with founded_tenant(database, sockets) as tenant:
        yield tenant
