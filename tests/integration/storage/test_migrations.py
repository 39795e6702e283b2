"""The migrations make exactly the tables that the code reads."""

import asyncio
from urllib.parse import urlsplit

import psycopg
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server.storage.migrate import SCRIPTS, migrate, newest, revision
from popsigner_server.storage.tables import metadata
from tests.support.organizations import found_organization
from tests.support.postgres import PostgresServer


def _ours(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
    """The month's partitions are made by the database; they are no tables of the code."""
    return not (name or "").startswith("audit_logs_") if kind == "table" else True


async def test_the_migrations_and_the_tables_are_the_same(engine: AsyncEngine) -> None:
    def differences(connection: sqlalchemy.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"include_object": _ours, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(revision) == newest()


async def test_servers_that_migrate_together_do_it_once(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(4)))


async def test_the_next_months_have_their_partitions_and_asking_again_makes_none(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        made = await connection.scalar(sqlalchemy.text("SELECT popsigner_make_audit_partitions(3)"))
        again = await connection.scalar(sqlalchemy.text("SELECT popsigner_make_audit_partitions(3)"))
    assert (made, again) == (4, 0)


async def test_a_key_that_was_deleted_before_the_third_migration_is_restored_as_it_was(
    postgres: PostgresServer,
) -> None:
    """Until then no key could be disabled."""
    url = postgres.fresh_database()
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    def upgrade(connection: sqlalchemy.Connection, target: str) -> None:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, target)

    async with engine.begin() as connection:
        await connection.run_sync(upgrade, "0002")
    organization = await found_organization(engine, keys_of=0)
    rows = """INSERT INTO keys (id, org_id, namespace_id, name, algorithm, state, exportable)
        SELECT gen_random_uuid(), org_id, id, s::text, 'secp256k1', s, false FROM namespaces, unnest(ARRAY[1, 3, 4]) s
        WHERE org_id = :org"""
    async with engine.begin() as connection:
        await connection.execute(sqlalchemy.text(rows), {"org": organization.id})
        await connection.run_sync(upgrade, "0003")
        found = await connection.execute(sqlalchemy.text("SELECT state, deleted_from FROM keys ORDER BY state"))
        assert [tuple(row) for row in found] == [(1, None), (3, 1), (4, None)]
    await engine.dispose()


async def test_an_index_that_was_interrupted_is_made_again(postgres: PostgresServer) -> None:
    """CREATE INDEX CONCURRENTLY that ends on the way leaves one that is written and never read."""
    url = postgres.fresh_database()
    await asyncio.to_thread(migrate, url)
    with psycopg.connect(postgres.admin_url(urlsplit(url).path[1:])) as admin:
        admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keys_recovery_idx'::regclass")
        admin.execute("UPDATE alembic_version SET version_num = '0004'")
    await asyncio.to_thread(migrate, url)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone()
        assert found == (0,)
