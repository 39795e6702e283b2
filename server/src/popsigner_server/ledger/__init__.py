"""What was done: the audit trail, and the release gate that no signature passes without its row.

One organization's rows are numbered 1, 2, 3 … without a gap, under the lock of its ledger head. Whoever takes a right
away (deletes a key, revokes an API key) holds the same lock and writes its own row into the same sequence: no
signature that a change forbids has a row after that change's row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from popsigner_server.domain.principals import Caller

# The refusal of an item whose organization's head somebody else holds; the item is offered again, and waits.
HELD = "HELD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A batch of signatures that wait for release, as columns.

    `callers` and `keys` are the distinct ones; `item_caller` and `item_key` point into them, from 0. `digests` holds 32
    bytes an item. `hashes` are domain.digests codes (0 for prehashed). `modes` and `requests` are None where no item
    has one; no request_id occurs twice for one organization.
    """

    callers: tuple[Caller, ...]
    keys: tuple[tuple[UUID, int], ...]
    item_caller: list[int]
    item_key: list[int]
    hashes: list[int]
    digests: bytes
    modes: list[str | None] | None
    requests: list[str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which items of an offer may leave: all but `refused` (item index -> reason, an ErrorReason's name, or HELD)."""

    refused: Mapping[int, str]


class Gate(Protocol):
    """The release gate."""

    async def release(self, offer: Offer, *, wait: bool) -> Verdict:
        """Write the rows of the offer in one transaction, and say which items it accepted.

        With `wait` false, items of an organization whose head is held elsewhere are HELD. Raises LedgerUnavailable when
        the commit failed or its outcome is unknown: then nothing may be released.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One audit row, as its organization reads it."""

    id: UUID
    sequence: int
    event: str
    actor_type: str
    actor_id: UUID | None
    resource_type: str | None
    resource_id: UUID | None
    key_version: int | None
    digest: bytes | None
    hash: int | None
    sign_mode: str | None
    request_id: str | None
    ip_address: str | None
    user_agent: str | None
    metadata: Mapping[str, str]
    created_at: datetime
