"""The connection pool of everything but the gate, and the libpq URL with its password.

A transaction runs as the role that its work needs (migrations/versions/0002): the rooms get a `Database`, never a
connection of their own. Row-level security is the second lock behind the organization in every query.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from popsigner_server.settings import DatabaseSettings

# Both for this transaction alone: the connection goes back to the pool as it came.
_BECOME = text("SELECT set_config('role', :role, true), set_config('popsigner.org_id', :org, true)")
_SWITCH = text("SELECT set_config('role', :role, true)")


class Database:
    """Transactions in the roles of the schema; each commits on leaving and rolls back on an exception."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    def opened(cls, settings: DatabaseSettings) -> Self:
        """Over a pool of `settings`; nothing is connected yet."""
        return cls(_open_engine(settings))

    def tenant(self, organization_id: UUID) -> AbstractAsyncContextManager[AsyncConnection]:
        """The work of one organization: no other's rows exist in it."""
        return self._as("popsigner_tenant", organization_id.hex)

    def identity(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Who is asking: what must be read before an organization is known, and people's sessions."""
        return self._as("popsigner_identity", "")

    def jobs(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """The POP's own work over all organizations: sweeping, retention, erasure, and the operator's commands."""
        return self._as("popsigner_jobs", "")

    @asynccontextmanager
    async def _as(self, role: str, organization: str) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            await connection.execute(_BECOME, {"role": role, "org": organization})
            yield connection

    async def ask(self) -> None:
        """Raises sqlalchemy's errors where the database does not answer."""
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


@asynccontextmanager
async def as_identity(connection: AsyncConnection) -> AsyncIterator[None]:
    """A part of a tenant's transaction in the identity's role: what is changed in the organization, and the sessions
    that end with it, commit together. An exception ends the transaction, and its role with it, whoever catches it."""
    await connection.execute(_SWITCH, {"role": "popsigner_identity"})
    try:
        yield
    except Exception:
        await connection.rollback()
        raise
    await connection.execute(_SWITCH, {"role": "popsigner_tenant"})


def conninfo(settings: DatabaseSettings) -> str:
    """The libpq URL of the database, with the password of its file."""
    if settings.database_password_file is None:
        return settings.database_url
    parts = urlsplit(settings.database_url)
    user, _, address = parts.netloc.rpartition("@")
    secret = quote(settings.secret(settings.database_password_file), safe="")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{secret}@{address}"))


def _open_engine(settings: DatabaseSettings) -> AsyncEngine:
    """A pool that checks a connection before it lends it, and gives up a hanging statement after 15 s.

    Statements are planned for the values that they come with: a plan for any value knows neither the partial indexes
    nor how much one organization has, and its estimate may still look cheaper.
    """
    scheme, rest = conninfo(settings).split("://", 1)
    if scheme not in ("postgresql", "postgres"):
        raise ValueError("database_url must begin with postgresql://")
    return create_async_engine(
        f"postgresql+psycopg://{rest}",
        pool_size=settings.database_pool,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "popsigner-server",
            "options": "-c statement_timeout=15000 -c timezone=UTC -c plan_cache_mode=force_custom_plan",
        },
    )
