"""A reception for each test, over a database that the test module has to itself."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.identity.house import House


@pytest.fixture
def house(engine: AsyncEngine) -> House:
    return House.over(engine)
