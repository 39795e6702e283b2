"""The recovery copies, page by page: what an organization keeps, so that it can do without this POP.

What leaves is ciphertext and public keys. A key's name, namespace, address prefix and id leave in a label that is
sealed to the same recipient, and that is as long as every other label.

The first page writes an audit row. Its number is in the cursor of every page that follows: none is given out without
such a row, of the same caller, of the last day, for the same recipient.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pyrage  # type: ignore[import-untyped]  # publishes no types
from sqlalchemy import func, select
from sqlalchemy.engine import RowMapping

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Caller, Scope
from popsigner_server.identity.standing import still_may
from popsigner_server.keys.catalogue import select_keys
from popsigner_server.keys.recovery import KEPT, handed_out_to
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage import pages
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import audit_logs, key_versions, keys
from popsigner_server.vault import Sealed, Vault

EVENT = "recovery.exported"
LIST = "recovery"
# How long the pages after the first may be asked for.
VALID = timedelta(days=1)
# Questions to the vault under way at once, over all callers: signatures go before.
AT_ONCE = 8
# Bytes of every label; the longest names make 330.
LABEL = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A key's copies: its sealed label, and public key (33 bytes) and ciphertext of each version, oldest first."""

    label: bytes
    versions: list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class Page:
    """Copies that are sealed to `recipient`; the public keys (33 bytes) of versions of which there is none; the cursor
    of the next page, empty on the last."""

    recipient: str
    copies: list[Copy] = field(default_factory=list)
    uncovered: list[bytes] = field(default_factory=list)
    following: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """A key, and its public keys by their version, as the catalogue knows them."""

    row: RowMapping
    public_keys: dict[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the vault has of a key: its copies, and the public keys of versions without; `unknown` where it does not
    know the key."""

    copy: Copy | None
    missing: list[bytes]
    unknown: bool


class Copies:
    """Hands out recovery copies."""

    def __init__(self, database: Database, ledger: Ledger, vault: Vault) -> None:
        self._database = database
        self._ledger = ledger
        self._vault = vault
        self._places = asyncio.Semaphore(AT_ONCE)

    async def page(self, caller: Caller, *, limit: int, cursor: str) -> Page:
        """The copies of at most `limit` keys, oldest key first. A version that the catalogue does not know, or knows
        with another public key, is not handed out.

        Raises ApiKeyRestricted (a caller that does not reach every key), RecoveryMissing, RecoveryChangeWaiting (a
        first recipient waits), InvalidCursor (also after the recipient was changed), VaultUnavailable.
        """
        if caller.principal.bounds.limits_keys:
            raise errors.ApiKeyRestricted
        organization_id = caller.principal.organization_id
        if cursor:
            number, after = pages.read_pair(LIST, cursor)
            recipient = await self._exported(caller, number)
        else:
            (number, recipient), after = await self._begin(caller), UUID(int=0)
        found = await self._keys(organization_id, after, limit + 1)
        page = Page(recipient=recipient)
        if len(found) > limit:
            page.following = pages.write(LIST, f"{number}.{found[limit - 1].row['id']}")
        await self._fill(page, organization_id, found[:limit])
        return page

    async def _begin(self, caller: Caller) -> tuple[int, str]:
        """Write the audit row, also in a deleted organization: reading goes on there. Its number, and the recipient."""
        organization_id = caller.principal.organization_id
        async with self._ledger.change(organization_id, closed=True) as change:
            await still_may(change, caller.principal, Scope.KEYS_READ)
            recipient = await handed_out_to(change.connection, organization_id)
            number = change.next_sequence
            change.record(
                EVENT,
                caller=caller,
                resource_type="organization",
                resource_id=organization_id,
                metadata={"recipient": recipient},
            )
        return number, recipient

    async def _exported(self, caller: Caller, number: int) -> str:
        """The recipient, where the audit row of this number is the caller's, and tells of the same one."""
        principal = caller.principal
        row = audit_logs.c
        query = select(row.metadata).where(
            row.org_id == principal.organization_id,
            row.seq == number,
            row.event == EVENT,
            row.actor_type == principal.actor_kind,
            row.actor_id == principal.actor_id,
            row.created_at > func.now() - VALID,
        )
        async with self._database.tenant(principal.organization_id) as connection:
            told = (await connection.execute(query)).scalar()
            recipient = await handed_out_to(connection, principal.organization_id)
        if told is None or told["recipient"] != recipient:
            raise errors.InvalidCursor
        return recipient

    async def _keys(self, organization_id: UUID, after: UUID, limit: int) -> list[_Key]:
        query = select_keys(organization_id).where(*KEPT, keys.c.id > after).order_by(keys.c.id).limit(limit)
        async with self._database.tenant(organization_id) as connection:
            rows = (await connection.execute(query)).mappings().all()
            known = select(key_versions).where(
                key_versions.c.org_id == organization_id, key_versions.c.key_id.in_([row["id"] for row in rows])
            )
            versions = (await connection.execute(known.order_by(key_versions.c.version))).all()
        public_keys: dict[UUID, dict[int, bytes]] = {row["id"]: {} for row in rows}
        for version in versions:
            public_keys[version.key_id][version.version] = version.public_key
        return [_Key(row=row, public_keys=public_keys[row["id"]]) for row in rows]

    async def _fill(self, page: Page, organization_id: UUID, found: list[_Key]) -> None:
        recipient = pyrage.x25519.Recipient.from_str(page.recipient)
        try:
            async with asyncio.TaskGroup() as questions:
                tasks = [questions.create_task(self._ask(key, page.recipient, recipient)) for key in found]
        except ExceptionGroup as failed:
            # The first to fail ended the others.
            raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
        unknown = [key.row["id"] for key, answer in zip(found, answers, strict=True) if answer.unknown]
        # What the vault does not know was destroyed meanwhile; what was not destroyed has no copies.
        kept = await self._kept(organization_id, unknown) if unknown else set()
        for key, answer in zip(found, answers, strict=True):
            if answer.copy is not None:
                page.copies.append(answer.copy)
            if not answer.unknown or key.row["id"] in kept:
                page.uncovered += answer.missing

    async def _ask(self, key: _Key, wanted: str, recipient: Any) -> _Answer:
        sealed, unknown = None, False
        async with self._places:
            try:
                sealed = await self._vault.recovery(key.row["id"].hex)
            except errors.KeyNotFound:
                unknown = True
        versions, missing = _matched(key, sealed if sealed is not None and sealed.recipient == wanted else None)
        copy = Copy(label=pyrage.encrypt(_label(key.row), [recipient]), versions=versions) if versions else None
        return _Answer(copy=copy, missing=missing, unknown=unknown)

    async def _kept(self, organization_id: UUID, key_ids: list[UUID]) -> set[UUID]:
        query = select(keys.c.id).where(keys.c.org_id == organization_id, keys.c.id.in_(key_ids), *KEPT)
        async with self._database.tenant(organization_id) as connection:
            return set((await connection.execute(query)).scalars())


def _matched(key: _Key, sealed: Sealed | None) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Public key and ciphertext of each version, and the public keys of those without."""
    copies = {version.version: version for version in sealed.versions} if sealed is not None else {}
    versions, missing = [], []
    for number, public_key in key.public_keys.items():
        copy = copies.get(number)
        if copy is not None and copy.public_key == public_key:
            versions.append((public_key, copy.ciphertext))
        else:
            missing.append(public_key)
    return versions, missing


def _label(row: Mapping[Any, Any]) -> bytes:
    """Canonical JSON (members in order, no spaces), filled up with spaces behind it: its length says nothing."""
    label = {
        "address_prefix": row["address_prefix"],
        "id": show(Prefix.KEY, row["id"]),
        "name": row["name"],
        "namespace": row["namespace"],
    }
    return json.dumps(label, sort_keys=True, separators=(",", ":")).encode().ljust(LABEL)
