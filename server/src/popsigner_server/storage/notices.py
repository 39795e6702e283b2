"""What one server process tells the others when a change commits: LISTEN/NOTIFY. Caches are cleared by it, nothing else
relies on it: a lost notice costs a minute of stale reads, never a signature."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

KEY_CHANGED = "popsigner_key"
API_KEY_CHANGED = "popsigner_api_key"
# A person's sessions or memberships.
USER_CHANGED = "popsigner_user"
# Its plan, its name, its deletion.
ORGANIZATION_CHANGED = "popsigner_organization"
# Pause after a lost connection, in seconds.
RECONNECT = 0.5


async def announce(connection: AsyncConnection, channel: str, subject: UUID) -> None:
    """Tell every process about `subject` when the connection's transaction commits."""
    await connection.execute(text("SELECT pg_notify(:channel, :subject)"), {"channel": channel, "subject": subject.hex})


class Listener:
    """Hears the notices, on a connection of its own. After each (re)connection it calls `missed`: something may have
    been said in between."""

    def __init__(
        self, conninfo: str, heard: dict[str, Callable[[UUID], None]], missed: Sequence[Callable[[], None]]
    ) -> None:
        self._conninfo = conninfo
        self._heard = heard
        self._missed = missed

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError):
                await asyncio.sleep(RECONNECT)

    async def _listen(self) -> None:
        connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=5, application_name="popsigner-notices"
        )
        async with connection:
            for channel in self._heard:
                await connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            for forget_all in self._missed:
                forget_all()
            async for notice in connection.notifies():
                self._heard[notice.channel](UUID(hex=notice.payload))
