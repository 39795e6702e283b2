"""The operator gives an organization another plan."""

import pytest
from psycopg import AsyncConnection
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import ORGANIZATION_CHANGED
from popsigner_server.storage.tables import ledger_heads, organizations
from popsigner_server.tenancy.plans import set_plan
from tests.integration.quotas.conftest import Found
from tests.support.plans import packaged_plans


async def test_the_plan_and_its_signatures_change_together_and_the_trail_says_from_what(
    found: Found, engine: AsyncEngine, ledger: PostgresLedger, database: str
) -> None:
    mine = await found("free")
    async with await AsyncConnection.connect(database, autocommit=True) as listening:
        await listening.execute(f"LISTEN {ORGANIZATION_CHANGED}")
        changed = await set_plan(
            Database(engine), packaged_plans(), organization=show(Prefix.ORGANIZATION, mine.id), plan="pro"
        )
        notices = [notice.payload async for notice in listening.notifies(timeout=30, stop_after=1)]
    assert (changed.organization_id, changed.before, changed.after) == (mine.id, "free", "pro")
    assert notices == [mine.id.hex]
    async with engine.connect() as connection:
        query = select(organizations.c.plan, ledger_heads.c.signature_quota).join(ledger_heads)
        assert (await connection.execute(query.where(organizations.c.id == mine.id))).one() == ("pro", 500_000)
    (row,), _ = await ledger.list(mine.id, limit=10, cursor="")
    assert (row.event, row.actor_type, row.sequence) == ("organization.plan_changed", "system", 1)
    assert row.metadata == {"before": "free", "after": "pro"}


async def test_the_same_plan_again_takes_the_catalogues_new_figure_and_writes_no_row(
    found: Found, engine: AsyncEngine, ledger: PostgresLedger
) -> None:
    mine = await found("pro")
    slug = mine.id.hex
    await set_plan(Database(engine), packaged_plans(), organization=slug, plan="pro")
    async with engine.connect() as connection:
        query = select(ledger_heads.c.signature_quota).where(ledger_heads.c.org_id == mine.id)
        assert (await connection.execute(query)).scalar_one() == 500_000
    assert (await ledger.list(mine.id, limit=10, cursor="")) == ([], "")


async def test_a_deleted_organization_gets_its_plan_too(found: Found, engine: AsyncEngine) -> None:
    mine = await found("free")
    async with engine.begin() as connection:
        closed = update(ledger_heads).where(ledger_heads.c.org_id == mine.id).values(closed_at=func.now())
        await connection.execute(closed)
    assert (await set_plan(Database(engine), packaged_plans(), organization=mine.id.hex, plan="pro")).before == "free"


async def test_an_unknown_plan_or_organization_is_a_sentence(found: Found, engine: AsyncEngine) -> None:
    mine = await found("free")
    names = "free, pro, enterprise, priority, dedicated, self-hosted"
    with pytest.raises(ValueError, match=rf"no plan gold; it has {names}\."):
        await set_plan(Database(engine), packaged_plans(), organization=mine.id.hex, plan="gold")
    with pytest.raises(ValueError, match="there is no organization nobody; name it by its id"):
        await set_plan(Database(engine), packaged_plans(), organization="nobody", plan="pro")
