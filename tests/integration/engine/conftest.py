"""One OpenBao with the engine for the tests that leave it running, and a session of a user with all rights on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.openbao import OpenBaoServer, Vault


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started() as server:
        yield server


@pytest_asyncio.fixture(scope="session")
async def vault(openbao: OpenBaoServer) -> AsyncIterator[Vault]:
    session = await openbao.login()
    yield session
    await session.close()
