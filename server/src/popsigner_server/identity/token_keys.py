"""The Ed25519 keys that sign access tokens, on PostgreSQL, their private parts sealed.

A key signs for 30 days. The next one is published a day before its first token, the last one until its last token is
over. A key that another sealing key sealed is published on, but a fresh one signs. Whoever deletes a row takes that
key's tokens back, in every process within a minute.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import delete, insert, select, text
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.domain.ids import new_id
from popsigner_server.identity.sealing import Sealing, Unsealable
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import token_keys

LIFE = timedelta(days=30)
AHEAD = timedelta(days=1)
# An access token lasts 10 minutes; a little more for clocks that differ.
AFTERLIFE = timedelta(minutes=15)
# Processes that start together make one key.
LOCK = 0x504F504B
_TABLE = "token_keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """One key; `private` is None where this process cannot open it."""

    id: UUID
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None = field(repr=False)
    signs_from: datetime
    signs_until: datetime

    def signs(self, now: datetime) -> bool:
        """Whether new tokens are signed with it."""
        return self.private is not None and self.signs_from <= now < self.signs_until


class KeyStore(Protocol):
    """Where the keys are kept."""

    async def read(self) -> Sequence[TokenKey]:
        """Every key that a valid token may be signed with, now or soon."""
        ...

    async def turn(self) -> Sequence[TokenKey]:
        """The same, after making what is missing: at least one of them signs now."""
        ...


class TokenKeys:
    """A KeyStore on PostgreSQL. `clock` is the time of day, with its zone."""

    def __init__(self, database: Database, sealing: Sealing, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._sealing = sealing
        self._clock = clock

    async def read(self) -> list[TokenKey]:
        """Every key that a valid token may be signed with, now or soon."""
        async with self._database.identity() as connection:
            return await self._read(connection, self._clock())

    async def turn(self) -> list[TokenKey]:
        """Make the key that is missing now, or will be within a day; forget those that are over."""
        async with self._database.identity() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            now = self._clock()
            await connection.execute(delete(token_keys).where(token_keys.c.signs_until <= now - AFTERLIFE))
            keys = await self._read(connection, now)
            if not any(key.signs(now) for key in keys):
                keys.append(await self._make(connection, now))
            last = max(key.signs_until for key in keys if key.private is not None)
            if last - now < AHEAD:
                keys.append(await self._make(connection, last))
        return keys

    async def _read(self, connection: AsyncConnection, now: datetime) -> list[TokenKey]:
        query = select(token_keys).where(token_keys.c.signs_until > now - AFTERLIFE).order_by(token_keys.c.signs_from)
        return [self._token_key(row) for row in (await connection.execute(query)).mappings()]

    async def _make(self, connection: AsyncConnection, signs_from: datetime) -> TokenKey:
        private = Ed25519PrivateKey.generate()
        key = TokenKey(
            id=new_id(),
            public=private.public_key(),
            private=private,
            signs_from=signs_from,
            signs_until=signs_from + LIFE,
        )
        await connection.execute(
            insert(token_keys).values(
                id=key.id,
                public_key=key.public.public_bytes_raw(),
                private_key=self._sealing.seal(private.private_bytes_raw(), table=_TABLE, row=key.id),
                signs_from=key.signs_from,
                signs_until=key.signs_until,
            )
        )
        return key

    def _token_key(self, row: RowMapping) -> TokenKey:
        try:
            opened = self._sealing.open(row["private_key"], table=_TABLE, row=row["id"])
        except Unsealable:
            private = None
        else:
            private = Ed25519PrivateKey.from_private_bytes(opened)
        return TokenKey(
            id=row["id"],
            public=Ed25519PublicKey.from_public_bytes(row["public_key"]),
            private=private,
            signs_from=row["signs_from"],
            signs_until=row["signs_until"],
        )
