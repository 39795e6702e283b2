"""A kit for each test."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.recovery.kit import Kit, furnished


@pytest.fixture
async def kit(engine: AsyncEngine) -> Kit:
    return await furnished(engine)
