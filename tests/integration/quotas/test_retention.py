"""Audit rows go when the plan keeps them no longer: the oldest first, and never the newest."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import new_id
from popsigner_server.ledger.maintenance import Maintenance
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import audit_logs, ledger_heads, organizations
from tests.integration.quotas.conftest import Found, give_plan
from tests.support.plans import packaged_plans


@pytest.fixture
def maintenance(engine: AsyncEngine) -> Maintenance:
    # Few enough that an organization takes several transactions.
    return Maintenance(Database(engine), packaged_plans(), forget=4)


async def write(engine: AsyncEngine, organization_id: UUID, ages: Sequence[float]) -> None:
    """Rows 1, 2, 3 … so many days old."""
    async with engine.begin() as connection:
        for month in range(1, 15):
            query = text(
                "DO $$ BEGIN EXECUTE format('CREATE TABLE IF NOT EXISTS audit_logs_test_%s PARTITION OF audit_logs "
                f"FOR VALUES FROM (%L) TO (%L)', {month}, date_trunc('month', now()) - interval '{month} months', "
                f"date_trunc('month', now()) - interval '{month - 1} months'); END $$"
            )
            await connection.execute(query)
        rows = [
            {"org_id": organization_id, "seq": seq, "id": new_id(), "event": "key.signed", "actor_type": "system"}
            | {"created_at": func.now() - func.make_interval(0, 0, 0, 0, 0, 0, age * 86_400)}
            for seq, age in enumerate(ages, start=1)
        ]
        for row in rows:
            await connection.execute(insert(audit_logs).values(**row))
        head = update(ledger_heads).where(ledger_heads.c.org_id == organization_id)
        await connection.execute(head.values(size=len(rows)))


async def left(engine: AsyncEngine, organization_id: UUID) -> list[int]:
    query = select(audit_logs.c.seq).where(audit_logs.c.org_id == organization_id).order_by(audit_logs.c.seq)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).scalars())


async def test_each_plan_keeps_its_days(found: Found, engine: AsyncEngine, maintenance: Maintenance) -> None:
    ages = [400, 380, 360, 100, 91, 89, 20, 8, 6, 0]
    kept = {"free": [9, 10], "pro": [6, 7, 8, 9, 10], "enterprise": [3, 4, 5, 6, 7, 8, 9, 10]}
    plans = {plan: (await found(plan)).id for plan in (*kept, "self-hosted")}
    for organization_id in plans.values():
        await write(engine, organization_id, ages)
    await maintenance.run()
    everything = list(range(1, len(ages) + 1))
    assert {plan: await left(engine, organization_id) for plan, organization_id in plans.items()} == {
        **kept,
        "self-hosted": everything,
    }


async def test_the_newest_row_stays_however_old_and_numbers_go_on(
    found: Found, engine: AsyncEngine, maintenance: Maintenance, ledger: PostgresLedger
) -> None:
    mine = await found("free")
    await write(engine, mine.id, [100.0] * 9)
    await maintenance.run()
    assert await left(engine, mine.id) == [9]
    async with ledger.change(mine.id) as change:
        change.record("organization.updated", caller=None)
    assert await left(engine, mine.id) == [9, 10]


async def test_what_is_left_has_no_gap_where_rows_are_out_of_order_by_a_moment(
    found: Found, engine: AsyncEngine, maintenance: Maintenance
) -> None:
    mine = await found("free")
    await write(engine, mine.id, [7.2, 6.9999, 7.1, 7.05, 3, 0])
    await maintenance.run()
    assert await left(engine, mine.id) == [2, 3, 4, 5, 6]


async def test_a_plan_that_the_catalogue_has_no_longer_deletes_nothing(
    found: Found, engine: AsyncEngine, maintenance: Maintenance
) -> None:
    mine = await found("free")
    await give_plan(engine, mine.id, "forgotten")
    await write(engine, mine.id, [500.0, 400.0, 0])
    await maintenance.run()
    assert await left(engine, mine.id) == [1, 2, 3]


async def test_an_erased_organization_is_left_to_its_erasure(
    found: Found, engine: AsyncEngine, maintenance: Maintenance
) -> None:
    mine = await found("free")
    await write(engine, mine.id, [500.0, 400.0, 0])
    async with engine.begin() as connection:
        erased = update(organizations).where(organizations.c.id == mine.id).values(erased_at=func.now())
        await connection.execute(erased)
    await maintenance.run()
    assert await left(engine, mine.id) == [1, 2, 3]


async def test_several_processes_at_once_and_a_trail_that_grows_meanwhile(
    found: Found, engine: AsyncEngine, maintenance: Maintenance, ledger: PostgresLedger
) -> None:
    mine = await found("free")
    await write(engine, mine.id, [30.0] * 50 + [1.0] * 10)

    async def grow() -> None:
        for _ in range(20):
            async with ledger.change(mine.id) as change:
                change.record("organization.updated", caller=None)

    await asyncio.gather(*(maintenance.run() for _ in range(3)), grow())
    assert await left(engine, mine.id) == list(range(51, 81))
