"""Organizations of a plan, in a database without a server."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import organizations
from tests.support.organizations import Organization, found_organization

Found = Callable[[str], Awaitable[Organization]]


@pytest.fixture
def ledger(engine: AsyncEngine) -> PostgresLedger:
    return PostgresLedger(Database(engine))


@pytest.fixture
def found(engine: AsyncEngine) -> Found:
    """An organization of this plan, with its namespace `production`, without a key."""

    async def make(plan: str) -> Organization:
        organization = await found_organization(engine, keys_of=0)
        await give_plan(engine, organization.id, plan)
        return organization

    return make


async def give_plan(engine: AsyncEngine, organization_id: UUID, plan: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(organizations).where(organizations.c.id == organization_id).values(plan=plan))
