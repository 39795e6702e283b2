"""The connection pool of the request path, and the libpq URL with its password."""

from urllib.parse import quote, urlsplit, urlunsplit

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from popsigner_server.settings import Settings


def conninfo(settings: Settings) -> str:
    """The libpq URL of the database, with the password of its file."""
    if settings.database_password_file is None:
        return settings.database_url
    parts = urlsplit(settings.database_url)
    user, _, address = parts.netloc.rpartition("@")
    secret = quote(settings.secret(settings.database_password_file), safe="")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{secret}@{address}"))


def open_engine(settings: Settings) -> AsyncEngine:
    """A pool that checks a connection before it lends it, and gives up a hanging statement after 15 s."""
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
            "options": "-c statement_timeout=15000 -c timezone=UTC",
        },
    )
