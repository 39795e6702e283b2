"""An organization's whole ledger, as it reads it itself, and what must be true of it."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import ecdsa
from ecdsa.util import sigdecode_string

from popsigner_server.gen.popsigner.v1 import audit_pb2, billing_pb2
from tests.support.load import Item, Signed, Wire

PAGE = 1000
HALF_ORDER = ecdsa.SECP256k1.order // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """All rows in the order of their sequence, the key.signed ones by their `data_hash`, and the usage that was said
    while nothing was signed."""

    rows: list[audit_pb2.AuditLog]
    signatures: Mapping[str, list[audit_pb2.AuditLog]]
    usage: billing_pb2.GetUsageResponse

    @classmethod
    async def read(cls, wire: Wire) -> Self:
        """Page through everything. What a client no longer waits for may still be committed a moment later: read again
        until no signature was added meanwhile."""
        for _ in range(20):
            before, rows, usage = await _usage(wire), await _rows(wire), await _usage(wire)
            if before == usage:
                break
            await asyncio.sleep(0.2)
        signatures = defaultdict(list)
        for row in rows:
            if row.event == "key.signed":
                signatures[row.metadata["data_hash"]].append(row)
        return cls(rows=rows, signatures=signatures, usage=usage)

    def of(self, item: Item) -> list[audit_pb2.AuditLog]:
        """The key.signed rows of an item."""
        return self.signatures.get(f"sha256:{hashlib.sha256(item.data).hexdigest()}", [])

    def place(self, event: str, subject: str) -> int:
        """The sequence of the one row of this event about this key or API key."""
        places = [row.sequence for row in self.rows if row.event == event and subject in (row.key_id, row.resource_id)]
        assert len(places) == 1, f"{subject} has {len(places)} rows of {event}"
        return places[0]

    def signed_by(self, subject: str) -> list[int]:
        """The sequences of the signatures by an API key (`ak_…`) or a key (`key_…`)."""
        return [row.sequence for row in self.rows if row.event == "key.signed" and subject in (row.actor, row.key_id)]

    def assert_unbroken(self) -> None:
        """1, 2, 3 … without a gap and without a duplicate, and as many signatures as usage says."""
        assert [row.sequence for row in self.rows] == list(range(1, len(self.rows) + 1))
        used = {usage.metric: usage.value for usage in self.usage.usage}
        start, end = self.usage.period_start.ToDatetime(), self.usage.period_end.ToDatetime()
        rows = [row for row in self.rows if row.event == "key.signed" and start <= row.timestamp.ToDatetime() < end]
        assert used["signatures"] == len(rows)

    def assert_accounts_for(self, answered: Iterable[Signed], *, asked: Iterable[Item]) -> None:
        """Every answer has exactly one row, with its key and its API key; what was never asked for has none, and what
        was asked for once has at most one."""
        for signed in answered:
            rows = self.of(signed.item)
            assert len(rows) == 1, f"an answered signature has {len(rows)} rows"
            assert (rows[0].key_id, rows[0].actor) == (signed.item.key_id, signed.actor)
            assert rows[0].metadata.get("request_id", "") == signed.item.request_id
        found = [len(self.of(item)) for item in asked]
        assert set(found) <= {0, 1}
        assert sum(found) == sum(map(len, self.signatures.values())), "there are rows that nobody asked for"


def assert_verifies(signed: Signed, public_key: str) -> None:
    """The signature is low-S, and the key's by an implementation that shares no code with the engine's."""
    assert signed.public_key == public_key
    assert len(signed.signature) == 64
    assert int.from_bytes(signed.signature[32:], "big") <= HALF_ORDER
    key = ecdsa.VerifyingKey.from_string(bytes.fromhex(public_key), curve=ecdsa.SECP256k1)
    assert key.verify(signed.signature, signed.item.data, hashfunc=hashlib.sha256, sigdecode=sigdecode_string)


async def _rows(wire: Wire) -> list[audit_pb2.AuditLog]:
    rows: list[audit_pb2.AuditLog] = []
    cursor = ""
    while True:
        request = audit_pb2.ListLogsRequest(page_size=PAGE, cursor=cursor)
        page = await wire.audit.ListLogs(request, metadata=wire.metadata, timeout=30)
        rows += page.logs
        cursor = page.next_cursor
        if not cursor:
            return rows[::-1]


async def _usage(wire: Wire) -> billing_pb2.GetUsageResponse:
    return await wire.billing.GetUsage(billing_pb2.GetUsageRequest(), metadata=wire.metadata, timeout=30)
