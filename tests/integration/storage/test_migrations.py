"""The migrations make exactly the tables that the code reads."""

import asyncio

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.storage.migrate import migrate, newest, revision
from popsigner_server.storage.tables import metadata
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
