"""The pool of connections is everybody's: an organization whose changes wait for its own head holds one of it, however
many changes they are."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server import errors
from popsigner_server.ledger import postgres
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from tests.support.organizations import Organization, found_organization

POOL = 3


@pytest.fixture
async def small(database: str) -> AsyncIterator[AsyncEngine]:
    """What a server process has, made small."""
    url = database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_async_engine(url, pool_size=POOL, max_overflow=0, pool_timeout=2)
    yield engine
    await engine.dispose()


async def change(ledger: PostgresLedger, organization: Organization) -> int:
    async with ledger.change(organization.id) as change:
        change.record("organization.updated", caller=organization.caller)
        return change.next_sequence


async def test_who_waits_for_its_own_head_takes_nobody_elses_connection(
    engine: AsyncEngine, small: AsyncEngine
) -> None:
    """E.g. one that renames itself in a loop, on two servers."""
    busy, neighbour = await found_organization(engine, keys_of=0), await found_organization(engine, keys_of=0)
    elsewhere, here = PostgresLedger(Database(engine)), PostgresLedger(Database(small))
    async with elsewhere.change(busy.id):
        waiting = [asyncio.create_task(change(here, busy)) for _ in range(10 * POOL)]
        await asyncio.sleep(0.2)
        assert [await change(here, neighbour) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert not any(task.done() for task in waiting)
    assert sorted(await asyncio.gather(*waiting)) == list(range(1, 10 * POOL + 1))


async def leave(ledger: PostgresLedger, organization: Organization) -> None:
    """Begin changes, and go before they have their turn."""
    left = [asyncio.create_task(change(ledger, organization)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in left:
        task.cancel()
    ends = await asyncio.gather(*left, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)


async def fail(ledger: PostgresLedger, organization: Organization) -> None:
    with pytest.raises(errors.RoleMissing):
        async with ledger.change(organization.id):
            raise errors.RoleMissing("OWNER")


async def test_a_change_that_fails_or_is_left_lets_the_next_one_in(engine: AsyncEngine, small: AsyncEngine) -> None:
    ours, here = await found_organization(engine, keys_of=0), PostgresLedger(Database(small))
    for _ in range(2 * POOL):
        await fail(here, ours)
        async with PostgresLedger(Database(engine)).change(ours.id):
            await leave(here, ours)
    assert await change(here, ours) == 1
    gc.collect()
    assert not here._turns


async def test_nobody_waits_for_ever(engine: AsyncEngine, small: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 0.2)
    ours, here = await found_organization(engine, keys_of=0), PostgresLedger(Database(small))
    async with PostgresLedger(Database(engine)).change(ours.id):
        first = asyncio.create_task(change(here, ours))
        await asyncio.sleep(0.05)
        with pytest.raises(errors.LedgerUnavailable) as refused:
            await change(here, ours)
        assert refused.value.retry_after
    assert await first == 1
