"""Bring a database to the newest schema."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

SCRIPTS = Path(__file__).parent / "migrations"
# Two servers that start together must not migrate together.
LOCK = 0x504F5053
# Seconds between two looks whether another server still does.
TURN = 0.1


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def newest() -> str:
    """The revision that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None  # noqa: S101 - there is always a first migration
    return head


def migrate(conninfo: str) -> None:
    """Run the migrations that are missing, one process at a time. Raises PermissionError where the login may not, and
    sqlalchemy's errors."""
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://{conninfo.split('://', 1)[1]}", hide_parameters=True)
    try:
        with engine.connect() as connection, _refusals_named():
            _wait_for_turn(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()


def _wait_for_turn(connection: sqlalchemy.Connection) -> None:
    """Until this is the process that migrates. A statement that waited in the database would be an open transaction,
    for which an index that is made CONCURRENTLY waits in its turn."""
    while not connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
        connection.commit()
        time.sleep(TURN)
    connection.commit()


@contextmanager
def _refusals_named() -> Iterator[None]:
    """What the database forbids its login, in a sentence for the operator. Scripts run on the driver itself, so both
    families of errors come."""
    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
        cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
        if isinstance(cause, psycopg.errors.RaiseException):
            raise PermissionError(cause.diag.message_primary) from error
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise PermissionError(
                f"The database's login may not migrate it ({cause.diag.message_primary}): make it the database's owner,"
                " and either create the roles popsigner_tenant, popsigner_identity, popsigner_jobs and popsigner_gate"
                " and grant them to it, or give it CREATEROLE."
            ) from error
        raise


def revision(connection: sqlalchemy.Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()
