"""The release gate on PostgreSQL: one call of `popsigner_release_3` a batch, on connections and as a role of
its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from popsigner_server import errors
from popsigner_server.ledger import Offer, Verdict
from popsigner_server.ledger.columns import elements, int4, int4_column, text_column, uuid_column
from popsigner_server.ledger.line import Line, LineError

RELEASE = (
    "SELECT released, replayed, refused, reasons FROM popsigner_release_3("
    "$1::uuid[], $2::uuid[], $3::uuid[], $4::int4[], $5::text[], $6::text[], $7::uuid[], $8::int4[], "
    "$9::int4[], $10::int4[], $11::int4[], $12, $13::text[], $14::text[], $15)"
)
# A commit that takes longer has a database behind it that is stuck; its batch fails, and the connection is thrown away.
COMMIT_TIMEOUT = 10.0


class _Pool:
    """Places for connections; the one used last is used first, None is one to open."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.idle: asyncio.LifoQueue[Line | None] = asyncio.LifoQueue()
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
                row = await connection.run(_arguments(offer, wait))
        except (LineError, OSError, TimeoutError) as error:
            raise errors.LedgerUnavailable from error
        released, replayed, refused, reasons = row
        if released is None or replayed is None:
            raise errors.LedgerUnavailable
        verdict = {
            int4(item) - 1: reason.decode() for item, reason in zip(elements(refused), elements(reasons), strict=True)
        }
        if int4(released) + int4(replayed) + len(verdict) != len(offer.item_key):
            # Never seen, and never to be: an item without a verdict must not leave.
            raise errors.LedgerUnavailable
        return Verdict(refused=verdict)

    @asynccontextmanager
    async def _connection(self, wait: bool) -> AsyncIterator[Line]:
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

    async def _open(self) -> Line:
        return await Line.opened(
            self._conninfo,
            RELEASE,
            connect_timeout=5,
            application_name="popsigner-gate",
            options="-c statement_timeout=15000 -c timezone=UTC -c role=popsigner_gate",
        )

    async def close(self) -> None:
        """Wait for the commits under way, then close."""
        for pool in self._pools.values():
            for _ in range(pool.size):
                connection = await pool.idle.get()
                if connection is not None:
                    await connection.close()


def _arguments(offer: Offer, wait: bool) -> tuple[bytes | None, ...]:
    principals = [caller.principal for caller in offer.callers]
    return (
        uuid_column([principal.organization_id for principal in principals]),
        uuid_column([principal.actor_id for principal in principals]),
        uuid_column([principal.session_id for principal in principals]),
        int4_column([principal.generation for principal in principals]),
        text_column([caller.ip_address for caller in offer.callers]),
        text_column([caller.user_agent for caller in offer.callers]),
        uuid_column([key_id for key_id, _ in offer.keys]),
        int4_column([version for _, version in offer.keys]),
        int4_column(offer.item_caller, shift=1),
        int4_column(offer.item_key, shift=1),
        int4_column(offer.hashes),
        offer.digests,
        None if offer.modes is None else text_column(offer.modes),
        None if offer.requests is None else text_column(offer.requests),
        b"\x01" if wait else b"\x00",
    )
