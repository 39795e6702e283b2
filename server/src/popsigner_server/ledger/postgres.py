"""Changes under an organization's head, and reading the trail, on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from sqlalchemy import insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.ledger import Row
from popsigner_server.ledger.changes import Change, Notice
from popsigner_server.ledger.quotas import tell
from popsigner_server.storage import UNAVAILABLE, pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import audit_logs, ledger_heads

# Seconds that a change waits for those before it.
PATIENCE = 10.0


@asynccontextmanager
async def change_on(
    connection: AsyncConnection, organization_id: UUID, *, closed: bool = False
) -> AsyncIterator[Change]:
    """A change inside a transaction that the caller has begun and will commit. Raises OrganizationDeleted, unless the
    change may be made to a deleted organization too (`closed`)."""
    head = ledger_heads.c
    mine = head.org_id == organization_id
    size, closed_at = (await connection.execute(select(head.size, head.closed_at).where(mine).with_for_update())).one()
    if closed_at is not None and not closed:
        raise errors.OrganizationDeleted
    change = Change(organization_id=organization_id, connection=connection, next_sequence=size + 1)
    yield change
    if change.rows:
        await connection.execute(insert(audit_logs), [{**row, "id": new_id()} for row in change.rows])
        await connection.execute(update(ledger_heads).where(mine).values(size=head.size + len(change.rows)))


class PostgresLedger:
    """A Ledger on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def change(self, organization_id: UUID, *, closed: bool = False) -> AsyncIterator[Change]:
        """Lock the organization's head; commit on leaving, roll back on an exception. Raises OrganizationDeleted,
        unless `closed`, and LedgerUnavailable where too many changes of the organization wait.

        The lock holds back every signature of this organization: do database work under it, and nothing else.
        """
        outliving: list[Notice] = []
        try:
            async with (
                self._turn(organization_id),
                self._database.tenant(organization_id) as connection,
                change_on(connection, organization_id, closed=closed) as change,
            ):
                outliving = change.outliving
                yield change
        except errors.QuotaExceeded:
            if outliving:
                # The refusal stands whether or not it can be written down; the next one writes it then.
                with suppress(*UNAVAILABLE, errors.LedgerUnavailable, errors.OrganizationDeleted):
                    async with (
                        self._turn(organization_id),
                        self._database.tenant(organization_id) as connection,
                        change_on(connection, organization_id) as telling,
                    ):
                        await tell(telling, outliving)
            raise

    @asynccontextmanager
    async def _turn(self, organization_id: UUID) -> AsyncIterator[None]:
        """One change of an organization at a time, in this process. Whoever waits for the head in the database holds a
        connection of the pool meanwhile, and the pool is everybody's."""
        turn = self._turns.setdefault(organization_id, asyncio.Lock())
        try:
            async with asyncio.timeout(PATIENCE):
                await turn.acquire()
        except TimeoutError as error:
            raise errors.LedgerUnavailable(retry_after=1.0) from error
        try:
            yield
        finally:
            turn.release()

    async def list(
        self,
        organization_id: UUID,
        *,
        limit: int,
        cursor: str,
        start: datetime | None = None,
        end: datetime | None = None,
        event: str | None = None,
        key_id: UUID | None = None,
    ) -> tuple[list[Row], str]:
        """A page of rows, newest first, and the cursor of the next page (empty on the last). Raises InvalidCursor."""
        log = audit_logs.c
        query = select(audit_logs).where(log.org_id == organization_id).order_by(log.seq.desc()).limit(limit + 1)
        if cursor:
            query = query.where(log.seq < pages.read_number("audit", cursor))
        if start is not None:
            query = query.where(log.created_at >= start)
        if end is not None:
            query = query.where(log.created_at < end)
        if event:
            query = query.where(log.event == event)
        if key_id is not None:
            query = query.where(log.resource_type == "key", log.resource_id == key_id)
        async with self._database.tenant(organization_id) as connection:
            rows = [_row(row) for row in (await connection.execute(query)).mappings()]
        following = pages.write("audit", rows[limit - 1].sequence) if len(rows) > limit else ""
        return rows[:limit], following

    async def get(self, organization_id: UUID, log_id: UUID) -> Row:
        """One row. Raises AuditLogNotFound."""
        query = select(audit_logs).where(audit_logs.c.org_id == organization_id, audit_logs.c.id == log_id)
        async with self._database.tenant(organization_id) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise errors.AuditLogNotFound
        return _row(row)


def _row(row: RowMapping) -> Row:
    values: dict[str, Any] = dict(row)
    address = values["ip_address"]
    return Row(
        id=values["id"],
        sequence=values["seq"],
        event=values["event"],
        actor_type=values["actor_type"],
        actor_id=values["actor_id"],
        resource_type=values["resource_type"],
        resource_id=values["resource_id"],
        key_version=values["key_version"],
        digest=values["digest"],
        hash=values["hash"],
        sign_mode=values["sign_mode"],
        request_id=values["request_id"],
        ip_address=None if address is None else str(address),
        user_agent=values["user_agent"],
        metadata=values["metadata"] or {},
        created_at=values["created_at"],
    )
