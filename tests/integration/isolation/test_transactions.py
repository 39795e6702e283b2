"""A transaction's role and organization end with it, however it ends: the pool's connection goes back bare."""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popsigner_server.settings import DatabaseSettings
from popsigner_server.storage.engine import Database, as_identity
from popsigner_server.storage.tables import keys
from tests.integration.isolation.conftest import Pair

STATE = text(
    "SELECT current_user, session_user, coalesce(current_setting('popsigner.org_id', true), ''), pg_backend_pid()"
)


async def state_of(connection: AsyncConnection) -> tuple[str, str, int]:
    """The role, the organization, and the process behind the connection."""
    role, login, organization, process = (await connection.execute(STATE)).one()
    assert login == "popsigner"
    return role, organization, process


async def lent(doors: Database) -> tuple[str, str, int]:
    """The state of the pool's connection as the next borrower finds it, before it becomes anybody."""
    async with doors._engine.connect() as connection:
        return await state_of(connection)


async def test_each_door_has_its_role_and_only_the_tenants_has_an_organization(doors: Database) -> None:
    organization = uuid4()
    found = []
    for door in (doors.tenant(organization), doors.identity(), doors.jobs()):
        async with door as connection:
            found.append((await state_of(connection))[:2])
    assert found == [("popsigner_tenant", organization.hex), ("popsigner_identity", ""), ("popsigner_jobs", "")]


async def test_the_connection_comes_back_without_role_and_organization(doors: Database) -> None:
    async with doors.tenant(uuid4()) as connection:
        process = (await state_of(connection))[2]

    assert await lent(doors) == ("popsigner", "", process)


async def test_what_follows_inherits_nothing(doors: Database, pair: Pair) -> None:
    for _ in range(3):
        async with doors.tenant(pair.ours.id) as connection:
            assert (await connection.execute(select(keys.c.org_id))).scalars().all() == [pair.ours.id]
        async with doors.jobs() as connection:
            assert {pair.ours.id, pair.theirs.id} <= set((await connection.execute(select(keys.c.org_id))).scalars())
        async with doors.tenant(pair.theirs.id) as connection:
            assert (await connection.execute(select(keys.c.org_id))).scalars().all() == [pair.theirs.id]
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with doors.identity() as connection:
                await connection.execute(select(keys.c.org_id))


async def test_an_exception_leaves_nothing_behind(doors: Database) -> None:
    async with doors.tenant(uuid4()) as connection:
        process = (await state_of(connection))[2]
    with pytest.raises(RuntimeError, match="halfway"):
        async with doors.tenant(uuid4()):
            raise RuntimeError("halfway")
    assert await lent(doors) == ("popsigner", "", process)

    with pytest.raises(DBAPIError):
        async with doors.tenant(uuid4()) as connection:
            await connection.execute(text("SELECT 1 / 0"))
    assert await lent(doors) == ("popsigner", "", process)


async def in_a_statement(engine: AsyncEngine, *, active: bool) -> None:
    """Wait until the pool's connection is in the middle of its statement, or of its transaction between two."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'popsigner-server' AND query LIKE '%pg_sleep%'"
        " AND state = :state"
    )
    async with engine.connect() as observer, asyncio.timeout(20):
        while not await observer.scalar(query, {"state": "active" if active else "idle in transaction"}):
            await observer.rollback()


@pytest.mark.parametrize("seconds", [30, 0], ids=["in the middle of a statement", "between two statements"])
async def test_a_cancelled_task_leaves_nothing_behind(doors: Database, engine: AsyncEngine, seconds: int) -> None:
    async def work() -> None:
        async with doors.tenant(uuid4()) as connection:
            await connection.execute(text(f"SELECT pg_sleep({seconds})"))
            await asyncio.Event().wait()

    for _ in range(3):
        task = asyncio.create_task(work())
        await in_a_statement(engine, active=bool(seconds))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await lent(doors))[:2] == ("popsigner", "")
        async with doors.jobs() as connection:
            assert (await state_of(connection))[:2] == ("popsigner_jobs", "")


async def test_a_savepoint_that_is_rolled_back_keeps_the_role(doors: Database) -> None:
    organization = uuid4()
    async with doors.tenant(organization) as connection:
        with pytest.raises(DBAPIError):
            async with connection.begin_nested():
                await connection.execute(text("SELECT 1 / 0"))
        assert (await state_of(connection))[:2] == ("popsigner_tenant", organization.hex)


async def test_a_part_in_the_identitys_role_goes_back_to_the_tenants(doors: Database, pair: Pair) -> None:
    async with doors.tenant(pair.ours.id) as connection:
        async with as_identity(connection):
            assert (await state_of(connection))[:2] == ("popsigner_identity", pair.ours.id.hex)
        assert (await state_of(connection))[:2] == ("popsigner_tenant", pair.ours.id.hex)
        assert (await connection.execute(select(keys.c.org_id))).scalars().all() == [pair.ours.id]
    assert (await lent(doors))[:2] == ("popsigner", "")


async def test_an_exception_in_the_identitys_role_ends_the_transaction_also_where_it_is_caught(
    doors: Database, pair: Pair
) -> None:
    async def fail(connection: AsyncConnection) -> None:
        async with as_identity(connection):
            raise RuntimeError("halfway")

    async def work() -> None:
        async with doors.tenant(pair.ours.id) as connection:
            with suppress(RuntimeError):
                await fail(connection)
            await connection.execute(STATE)

    with pytest.raises(InvalidRequestError, match="closed transaction"):
        await work()
    assert (await lent(doors))[:2] == ("popsigner", "")


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_work_that_ends_its_transaction_early_does_not_go_on_as_the_owner(doors: Database, end: str) -> None:
    async def work() -> None:
        async with doors.tenant(uuid4()) as connection:
            await getattr(connection, end)()
            await connection.execute(STATE)

    with pytest.raises(InvalidRequestError, match="closed transaction"):
        await work()


async def test_many_at_once_never_meet(database: str, pair: Pair) -> None:
    crowded = Database.opened(DatabaseSettings(database_url=database, database_pool=4))

    async def look(organization: UUID) -> list[Any]:
        async with crowded.tenant(organization) as connection:
            return list((await connection.execute(select(keys.c.org_id))).scalars())

    asked = [pair.ours.id, pair.theirs.id] * 100
    try:
        assert await asyncio.gather(*map(look, asked)) == [[each] for each in asked]
    finally:
        await crowded.close()
