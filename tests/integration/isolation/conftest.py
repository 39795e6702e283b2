"""Two organizations with a row in every table each, in a database that the test module has to itself."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.settings import DatabaseSettings
from popsigner_server.storage.engine import Database
from tests.integration.isolation.planted import Planted, planted


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Ours asks; theirs is what must not be reached."""

    ours: Planted
    theirs: Planted


@pytest.fixture
async def pair(engine: AsyncEngine) -> Pair:
    """New ones for each test, written by the tables' owner."""
    async with engine.begin() as connection:
        return Pair(ours=await planted(connection), theirs=await planted(connection))


@pytest.fixture
async def doors(database: str) -> AsyncIterator[Database]:
    """The server's own way to its database, over one connection: what one transaction leaves behind, the next finds."""
    opened = Database.opened(DatabaseSettings(database_url=database, database_pool=1))
    yield opened
    await opened.close()
