"""The rooms of tenancy over a real database, with a vault in memory, and people to put into them."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.integration.tenancy.house import House


@pytest.fixture
def house(engine: AsyncEngine) -> House:
    return House.over(engine)
