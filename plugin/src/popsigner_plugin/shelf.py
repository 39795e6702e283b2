"""The keys in storage: found, written, and removed so that nothing of them stays."""

from typing import Final

from popsigner_plugin.cache import KeyCache
from popsigner_plugin.errors import UnknownKey
from popsigner_plugin.keys import Key, buried, decoded, encoded, is_name, overwritten
from popsigner_plugin.presence import Presence
from popsigner_plugin.storage import Storage
from popsigner_plugin.turns import Turns

PREFIX: Final = "keys/"


class Shelf:
    """All stored keys. Methods that write need the key's turn: `turns.alone(name, ...)`."""

    def __init__(self, storage: Storage, turns: Turns) -> None:
        self._storage = storage
        self.cache = KeyCache(self._for_signing)
        self.presence = Presence(storage, turns, self._holds)

    async def page(self, *, after: str, limit: int) -> list[str]:
        """At most `limit` names, ascending, those after `after`."""
        return await self._storage.list_page(PREFIX, after=after, limit=limit)

    async def key(self, name: str) -> Key:
        """The key as storage has it, to be changed. Raises UnknownKey."""
        key = await self.find(name)
        if key is None:
            raise UnknownKey(name)
        return key

    async def find(self, name: str) -> Key | None:
        """Like `key`, None where there is none. Finishes a deletion that was stopped halfway."""
        blob = await self._storage.get(PREFIX + name)
        if blob is None:
            return None
        key = decoded(blob)
        if key is None:
            await self._clear(name, buried(blob))
        return key

    async def put(self, name: str, key: Key) -> None:
        """Write the key; what the cache knew of it goes."""
        try:
            await self._storage.put(PREFIX + name, encoded(key))
        finally:
            self.cache.drop(name)

    async def remove(self, name: str, key: Key) -> None:
        """Overwrite all of the key, then remove it. From the overwriting on it is gone for every caller."""
        try:
            await self._storage.put(PREFIX + name, overwritten(key))
            await self._clear(name, [version.signer.public_key for version in key.versions])
        finally:
            self.cache.drop(name)

    async def _clear(self, name: str, public_keys: list[bytes]) -> None:
        # The key's own entry goes last: while it is there, whoever looks at the name finds what else there is to do.
        for public_key in public_keys:
            await self.presence.forget(public_key, name)
        await self._storage.delete(PREFIX + name)

    async def _for_signing(self, name: str) -> Key | None:
        # Names inside a batch come unchecked; a strange one must not reach storage as a path.
        if not is_name(name):
            return None
        blob = await self._storage.get(PREFIX + name)
        return None if blob is None else decoded(blob, copies=False)

    async def _holds(self, name: str, public_key: bytes) -> bool:
        key = await self._for_signing(name)
        return key is not None and any(version.signer.public_key == public_key for version in key.versions)
