"""A bounded memory of signing keys. It is a hint for speed: the release gate decides, and NOTIFY clears it."""

from collections import OrderedDict
from typing import Protocol
from uuid import UUID

from popsigner_server.domain.keys import KeyState
from popsigner_server.signing import SigningKey

Found = tuple[SigningKey, KeyState]


class Source(Protocol):
    """What stands behind the cache."""

    async def signing_key(self, organization_id: UUID, reference: str, version: int) -> Found: ...


class KeyCache:
    """Signing keys by organization, reference and version; the least recently used go first."""

    def __init__(self, source: Source, *, size: int = 65_536) -> None:
        self._source = source
        self._size = size
        self._found: OrderedDict[tuple[UUID, str, int], Found] = OrderedDict()
        # Counts what was forgotten, so that an answer that was read before cannot be remembered after it.
        self._generation = 0

    def cached(self, organization_id: UUID, reference: str, version: int) -> Found | None:
        """What is remembered, without waiting."""
        place = (organization_id, reference, version)
        found = self._found.get(place)
        if found is not None:
            self._found.move_to_end(place)
        return found

    async def find(self, organization_id: UUID, reference: str, version: int) -> Found:
        """Read anew, and remember. Raises KeyNotFound, KeyVersionUnavailable."""
        generation = self._generation
        found = await self._source.signing_key(organization_id, reference, version)
        if generation == self._generation:
            self._found[organization_id, reference, version] = found
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        return found

    def forget(self, key_id: UUID) -> None:
        """Drop everything about one key, by whatever name it is remembered."""
        self._generation += 1
        for place in [place for place, (key, _) in self._found.items() if key.id == key_id]:
            del self._found[place]

    def forget_all(self) -> None:
        """Drop everything: notifications may have been missed."""
        self._generation += 1
        self._found.clear()
