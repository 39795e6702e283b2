"""The release gate on PostgreSQL: one call of `popsigner_release_2` a batch, on connections and as a role of
its own."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from popsigner_server import errors
from popsigner_server.ledger import Offer, Verdict

RELEASE = (
    "SELECT released, replayed, refused, reasons FROM popsigner_release_2("
    "%b::uuid[], %b::uuid[], %b::uuid[], %b::int4[], %b::text[], %b::text[], %b::uuid[], %b::int4[], "
    "%b::int4[], %b::int4[], %b::int4[], %b, %b::text[], %b::text[], %b)"
)
# A commit that takes longer has a database behind it that is stuck; its batch fails, and the connection is thrown away.
COMMIT_TIMEOUT = 10.0
INT4 = 23


class Int4Column:
    """A column of integers that is written as PostgreSQL's binary int4[] in one step, not number by number."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[int], shift: int = 0) -> None:
        self.values = [value + shift for value in values] if shift else values


class _Int4ColumnDumper(Dumper):
    format = Format.BINARY
    oid = 1007

    def dump(self, obj: Int4Column) -> Buffer:
        values = obj.values
        cells = [4] * (2 * len(values))
        cells[1::2] = values
        return struct.pack(f">iiiii{len(cells)}i", 1, 0, INT4, len(values), 1, *cells)


class _Pool:
    """Places for connections; the one used last is used first, None is one to open."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.idle: asyncio.LifoQueue[psycopg.AsyncConnection[Any] | None] = asyncio.LifoQueue()
        for _ in range(size):
            self.idle.put_nowait(None)


class PostgresGate:
    """A Gate over a few connections, opened when first needed and again after each failure."""

    def __init__(self, conninfo: str, *, prompt: int, late: int) -> None:
        """`prompt` connections for offers that wait for nobody, `late` for those that wait for a head: so many
        organizations' changes may be slow at once before one waits for the other, and the prompt ones never do."""
        self._conninfo = conninfo
        self._pools = {False: _Pool(prompt), True: _Pool(late)}

    async def release(self, offer: Offer, *, wait: bool) -> Verdict:
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT), self._connection(wait) as connection:
                cursor = await connection.execute(RELEASE, _arguments(offer, wait))
                row = await cursor.fetchone()
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise errors.LedgerUnavailable from error
        if row is None:
            raise errors.LedgerUnavailable
        released, replayed, refused, reasons = row
        verdict = {item - 1: reason for item, reason in zip(refused or (), reasons or (), strict=True)}
        if released + replayed + len(verdict) != len(offer.item_key):
            # Never seen, and never to be: an item without a verdict must not leave.
            raise errors.LedgerUnavailable
        return Verdict(refused=verdict)

    @asynccontextmanager
    async def _connection(self, wait: bool) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        idle = self._pools[wait].idle
        connection = await idle.get()
        usable = False
        try:
            if connection is None or connection.closed:
                connection = None
                connection = await self._open()
            yield connection
            usable = True
        finally:
            # After an error or a cancellation the connection may still be in the middle of a commit: never lend it
            # again.
            if not usable and connection is not None:
                await asyncio.shield(connection.close())
            idle.put_nowait(connection if usable else None)

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            prepare_threshold=0,
            connect_timeout=5,
            application_name="popsigner-gate",
            options="-c statement_timeout=15000 -c timezone=UTC -c role=popsigner_gate",
        )
        connection.adapters.register_dumper(Int4Column, _Int4ColumnDumper)
        return connection

    async def close(self) -> None:
        """Wait for the commits under way, then close."""
        for pool in self._pools.values():
            for _ in range(pool.size):
                connection = await pool.idle.get()
                if connection is not None:
                    await connection.close()


def _arguments(offer: Offer, wait: bool) -> tuple[object, ...]:
    principals = [caller.principal for caller in offer.callers]
    return (
        [principal.organization_id for principal in principals],
        [principal.actor_id for principal in principals],
        [principal.session_id for principal in principals],
        Int4Column([principal.generation for principal in principals]),
        [caller.ip_address for caller in offer.callers],
        [caller.user_agent for caller in offer.callers],
        [key_id for key_id, _ in offer.keys],
        Int4Column([version for _, version in offer.keys]),
        Int4Column(offer.item_caller, shift=1),
        Int4Column(offer.item_key, shift=1),
        Int4Column(offer.hashes),
        offer.digests,
        offer.modes,
        offer.requests,
        wait,
    )
