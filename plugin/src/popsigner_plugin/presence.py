"""Which private keys are known outside the engine, and which key holds each: nobody brings one in twice.

A key's entry here is written before its private part can leave (export, recovery copies) or arrive (import), so a key
that was only ever inside has none, and a create costs one write. An entry is a hint that counts only if the key that
it names holds that private key: an import that was stopped between entry and key leaves an entry that the next import
of the same private key takes over.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredPresence
from popsigner_plugin.storage import Storage
from popsigner_plugin.turns import Turns

_PREFIX: Final = "present/"


class Presence:
    """The index. holds: whether the key of that name has a version with that public key."""

    def __init__(self, storage: Storage, turns: Turns, holds: Callable[[str, bytes], Awaitable[bool]]) -> None:
        self._storage = storage
        self._turns = turns
        self._holds = holds

    def lock(self, public_key: bytes) -> asyncio.Lock:
        """Held from the look-up until the key is written: two imports of one private key take turns."""
        return self._turns.lock(_place(public_key))

    async def holder(self, public_key: bytes) -> str | None:
        """The name of the key that holds this private key, None where nobody is known to."""
        name = await self._named(public_key)
        return name if name is not None and await self._holds(name, public_key) else None

    async def note(self, public_key: bytes, name: str) -> None:
        """Write the entry, unless it is there. The caller holds `lock`."""
        if await self._named(public_key) != name:
            await self._storage.put(_place(public_key), StoredPresence(name=name).SerializeToString())

    async def noted(self, public_key: bytes, name: str) -> None:
        """See to it that there is an entry, before the private key leaves."""
        async with self.lock(public_key):
            if await self._named(public_key) != name and await self.holder(public_key) is None:
                await self.note(public_key, name)

    async def forget(self, public_key: bytes, name: str) -> None:
        """Remove the entry if it names this key: another one may have brought the private key in since."""
        async with self.lock(public_key):
            if await self._named(public_key) == name:
                await self._storage.delete(_place(public_key))

    async def _named(self, public_key: bytes) -> str | None:
        blob = await self._storage.get(_place(public_key))
        return None if blob is None else StoredPresence.FromString(blob).name


def _place(public_key: bytes) -> str:
    return _PREFIX + hashlib.sha256(public_key).hexdigest()
