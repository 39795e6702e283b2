"""Changes under the lock of an organization's ledger head, and the rows that tell of them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.domain.principals import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the trail is told of a quota: `level` is `warning` or `exceeded`; so many were `used` of the `quota`."""

    level: str
    metric: str
    used: int
    quota: int


@dataclass(slots=True, kw_only=True)
class Change:
    """A change under the lock of one organization's head: pure database work, then its rows."""

    organization_id: UUID
    connection: AsyncConnection
    next_sequence: int
    rows: list[dict[str, object]] = field(default_factory=list)
    # What the trail is told although this change is refused: the ledger writes it in a change of its own.
    outliving: list[Notice] = field(default_factory=list)

    def record(
        self,
        event: str,
        *,
        caller: Caller | None,
        resource_type: str | None = None,
        resource_id: UUID | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Add one audit row; `caller` None means the POP itself."""
        self.rows.append(
            {
                "org_id": self.organization_id,
                "seq": self.next_sequence + len(self.rows),
                "event": event,
                "actor_type": caller.principal.actor_kind if caller else "system",
                "actor_id": caller.principal.actor_id if caller else None,
                "resource_type": resource_type,
                "resource_id": resource_id,
                "ip_address": caller.ip_address if caller else None,
                "user_agent": caller.user_agent if caller else None,
                "metadata": dict(metadata) if metadata else None,
            }
        )


class Ledger(Protocol):
    """Where changes are made and written down."""

    def change(self, organization_id: UUID, *, closed: bool = False) -> AbstractAsyncContextManager[Change]:
        """Lock the organization's head; commit on leaving, roll back on an exception. Raises OrganizationDeleted,
        unless the change may be made to a deleted organization too (`closed`)."""
        ...
