"""The second lock: whatever a query of one organization's transaction forgets, no other organization's row is in its
reach. Every table is tried, as it is."""

from typing import Any

import pytest
from sqlalchemy import CursorResult, Executable, Table, delete, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import identity_providers, users
from tests.integration.isolation.conftest import Pair
from tests.integration.isolation.planted import OTHER_TABLES, TABLES, TENANT_TABLES, Planted, row_of, tenant_column
from tests.support.people import new_provider

# A missing privilege and a policy's refusal have the same SQLSTATE, insufficient_privilege.
FORBIDDEN = "42501"
# What a tenant may see of the people that it has as members.
OF_MEMBERS = [users.c.id, users.c.provider_id, users.c.email, users.c.name, users.c.created_at]


def named(table: Table) -> str:
    return table.name


async def attempt(connection: AsyncConnection, statement: Executable) -> CursorResult[Any] | None:
    """The result, or None where it was forbidden; the transaction goes on either way."""
    try:
        async with connection.begin_nested():
            return await connection.execute(statement)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", "") != FORBIDDEN:
            raise
        return None


async def count_of(connection: AsyncConnection, table: Table, planted: Planted) -> int:
    return len((await connection.execute(select(literal(1)).select_from(table).where(planted.row(table)))).all())


@pytest.mark.parametrize("table", TABLES, ids=named)
async def test_row_level_security_is_on(table: Table, engine: AsyncEngine) -> None:
    query = text("SELECT relrowsecurity FROM pg_class WHERE oid = cast(:name AS regclass)")
    async with engine.connect() as connection:
        assert await connection.scalar(query, {"name": table.name}) is True


@pytest.mark.parametrize("table", TENANT_TABLES, ids=named)
async def test_a_select_that_forgets_its_organization_finds_its_own_rows_only(
    table: Table, doors: Database, pair: Pair
) -> None:
    async with doors.tenant(pair.ours.id) as connection:
        everything = await attempt(connection, select(tenant_column(table)))
        assert everything is None or set(everything.scalars()) == {pair.ours.id}
        aimed = await attempt(connection, select(tenant_column(table)).where(pair.theirs.row(table)))
        assert aimed is None or aimed.all() == []


@pytest.mark.parametrize("table", TENANT_TABLES, ids=named)
async def test_an_update_that_forgets_its_organization_changes_its_own_rows_only(
    table: Table, doors: Database, engine: AsyncEngine, pair: Pair
) -> None:
    version = text(f"SELECT array_agg(xmin::text) FROM {table.name} t WHERE NOT {_mine(table)}")
    async with engine.connect() as owner:
        before = await owner.scalar(version, {"mine": pair.ours.id})
    async with doors.tenant(pair.ours.id) as connection:
        for column in table.columns:
            changed = await attempt(connection, update(table).values({column.name: column}))
            assert changed is None or changed.rowcount <= 1, column.name
            # By its name, too.
            aimed = update(table).values({column.name: column}).where(pair.theirs.row(table))
            changed = await attempt(connection, aimed)
            assert changed is None or changed.rowcount == 0, column.name
    async with engine.connect() as owner:
        assert await owner.scalar(version, {"mine": pair.ours.id}) == before


async def test_a_delete_that_forgets_its_organization_deletes_its_own_rows_only(
    doors: Database, engine: AsyncEngine, pair: Pair
) -> None:
    async with doors.tenant(pair.ours.id) as connection:
        # What refers to others first: no reference stands in the way.
        for table in reversed(TENANT_TABLES):
            aimed = await attempt(connection, delete(table).where(pair.theirs.row(table)))
            assert aimed is None or aimed.rowcount == 0, table.name
            deleted = await attempt(connection, delete(table))
            assert deleted is None or deleted.rowcount == 1, table.name
    async with engine.connect() as owner:
        for table in TENANT_TABLES:
            assert await count_of(owner, table, pair.theirs) == 1, table.name


@pytest.mark.parametrize("table", TENANT_TABLES, ids=named)
async def test_no_row_is_written_in_anothers_name(table: Table, doors: Database, pair: Pair) -> None:
    ours, theirs = pair.ours, pair.theirs
    mine = tenant_column(table)
    foreign = row_of(table, theirs.id, theirs.rows)
    async with doors.tenant(ours.id) as connection:
        assert await attempt(connection, insert(table).values(foreign)) is None
        # Nor given away, nor over the top of one that is there.
        assert await attempt(connection, update(table).values({mine.name: theirs.id})) is None
        taken = (
            upsert(table)
            .values(theirs.rows[table.name])
            .on_conflict_do_update(index_elements=list(table.primary_key), set_={mine.name: ours.id})
        )
        assert await attempt(connection, taken) is None


@pytest.mark.parametrize("table", TENANT_TABLES, ids=named)
async def test_no_row_hangs_on_anothers(table: Table, doors: Database, pair: Pair) -> None:
    """It would keep the other from deleting what it hangs on."""
    for column in table.columns:
        for reference in column.foreign_keys:
            parent = reference.column.table
            if parent not in TENANT_TABLES or column is tenant_column(table):
                continue
            row = row_of(table, pair.ours.id, pair.ours.rows) | {
                column.name: pair.theirs.rows[parent.name][reference.column.name]
            }
            async with doors.tenant(pair.ours.id) as connection:
                assert await attempt(connection, insert(table).values(row)) is None, column.name
                moved = update(table).values({column.name: row[column.name]})
                assert await attempt(connection, moved) is None, column.name


@pytest.mark.parametrize("table", [table for table in OTHER_TABLES if table is not users], ids=named)
async def test_what_belongs_to_no_organization_is_closed_to_all(table: Table, doors: Database, pair: Pair) -> None:
    async with doors.tenant(pair.ours.id) as connection:
        for column in table.columns:
            assert await attempt(connection, select(column)) is None, column.name
            assert await attempt(connection, update(table).values({column.name: column})) is None, column.name
        assert await attempt(connection, insert(table).values(row_of(table, pair.ours.id, pair.ours.rows))) is None
        assert await attempt(connection, delete(table)) is None


async def test_of_people_an_organization_sees_its_members_only(doors: Database, pair: Pair) -> None:
    async with doors.tenant(pair.ours.id) as connection:
        seen = (await connection.execute(select(*OF_MEMBERS))).mappings().all()
        for column in users.columns:
            found = await attempt(connection, select(column))
            assert (found is None) == (column not in OF_MEMBERS), column.name
            assert await attempt(connection, update(users).values({column.name: column})) is None
        assert await attempt(connection, delete(users)) is None

    assert [row["id"] for row in seen] == [pair.ours.rows["users"]["id"]]


async def test_the_pops_own_identity_providers_are_no_organizations(
    doors: Database, engine: AsyncEngine, pair: Pair
) -> None:
    async with engine.begin() as owner:
        provider_id = await new_provider(owner)
    async with doors.tenant(pair.ours.id) as connection:
        theirs = identity_providers.c.id == provider_id
        assert (await connection.execute(select(identity_providers.c.id).where(theirs))).all() == []
        changed = await attempt(
            connection, update(identity_providers).where(theirs).values(issuer="https://evil.example")
        )
        assert changed is None or changed.rowcount == 0
        row = row_of(identity_providers, pair.ours.id, pair.ours.rows) | {"org_id": None}
        assert await attempt(connection, insert(identity_providers).values(row)) is None
        assert await attempt(connection, update(identity_providers).values(org_id=None)) is None


@pytest.mark.parametrize("table", TENANT_TABLES, ids=named)
@pytest.mark.parametrize("setting", [None, "", "00000000000000000000000000000000"], ids=["unset", "empty", "nobody"])
async def test_without_an_organization_nothing_is_there(
    table: Table, setting: str | None, engine: AsyncEngine, pair: Pair
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL ROLE popsigner_tenant"))
        if setting is not None:
            await connection.execute(text("SELECT set_config('popsigner.org_id', :it, true)"), {"it": setting})
        for statement in (
            select(literal(1)).select_from(table),
            update(table).values(dict.fromkeys([table.c[0].name], table.c[0])),
        ):
            found = await attempt(connection, statement)
            assert found is None or found.rowcount == 0
        row = row_of(table, pair.ours.id, pair.ours.rows)
        assert await attempt(connection, insert(table).values(row)) is None


async def test_a_setting_that_is_no_id_finds_nothing_but_an_error(engine: AsyncEngine, pair: Pair) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET LOCAL ROLE popsigner_tenant"))
        await connection.execute(text("SELECT set_config('popsigner.org_id', '%', true)"))
        with pytest.raises(DBAPIError, match="uuid"):
            await connection.execute(text("SELECT * FROM keys"))


@pytest.mark.parametrize("table", ["audit_logs_default", "audit_logs_2020_01"])
async def test_a_month_of_the_audit_trail_has_no_door_of_its_own(
    table: str, doors: Database, engine: AsyncEngine, pair: Pair
) -> None:
    async with engine.begin() as owner:
        await owner.execute(
            text(
                "CREATE TABLE IF NOT EXISTS audit_logs_2020_01 PARTITION OF audit_logs"
                " FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
            )
        )
    for door in (doors.tenant(pair.ours.id), doors.identity(), doors.jobs()):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with door as connection:
                await connection.execute(text(f"SELECT * FROM {table}"))


def _mine(table: Table) -> str:
    # A table may hold rows of nobody's: POP-wide identity providers.
    return f"(t.{tenant_column(table).name} IS NOT DISTINCT FROM cast(:mine AS uuid))"
