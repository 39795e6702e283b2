"""A desk for each test."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.keys.desk import Desk, furnished


@pytest.fixture
async def desk(engine: AsyncEngine, database: str) -> AsyncIterator[Desk]:
    async with furnished(engine, database) as furnished_desk:
        yield furnished_desk
