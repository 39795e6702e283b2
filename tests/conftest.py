"""What the suites share: one throw-away PostgreSQL a session, and databases of their own for the tests that ask;
and a collector that stays away. Ctrl-C is what it is at a terminal."""

import gc
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server.storage.migrate import migrate
from tests.support.postgres import PostgresServer

# A shell starts what it runs in the background with Ctrl-C ignored, and every program from here on would inherit that:
# those that are to end by it would not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer.started() as server:
        yield server


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    """The libpq URL of a migrated database that this test module has to itself."""
    url = postgres.fresh_database()
    migrate(url)
    return url


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"), pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Python's collector does not come during the test: what a cycle holds stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
