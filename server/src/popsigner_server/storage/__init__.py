"""Where everything but private keys is kept: PostgreSQL. The tables, the engine and the migrations."""

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# What the database's absence looks like: away, shutting down, or without a free connection.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
