"""A bounded memory of signing keys. It is a hint for speed: the release gate decides, and NOTIFY clears it."""

from typing import Protocol
from uuid import UUID

from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.memory import Memory
from popsigner_server.domain.principals import UNBOUND, Bounds
from popsigner_server.limits.pace import Pace
from popsigner_server.limits.turns import Turns
from popsigner_server.signing import SigningKey

Found = tuple[SigningKey, KeyState]
# Reads of one organization at once, and all of them have one step of the event loop a round: asking for keys that are
# not remembered, or that nobody has, is reading as any other.
READS = 2


class Source(Protocol):
    """What stands behind the cache."""

    async def signing_key(self, organization_id: UUID, reference: str, version: int, *, bounds: Bounds) -> Found: ...


class KeyCache:
    """Signing keys by organization, reference and version; the least recently used go first. One memory for all callers
    of an organization: what a caller's bounds leave out is left out on the way to that caller."""

    def __init__(self, source: Source, pace: Pace, *, size: int = 65_536) -> None:
        self._source = source
        self._found: Memory[tuple[UUID, str, int], UUID, Found] = Memory(size)
        self._turns = Turns(READS)
        self._pace = pace
        # Counts what was forgotten, so that an answer that was read before cannot be remembered after it.
        self._generation = 0

    def cached(self, organization_id: UUID, reference: str, version: int, bounds: Bounds) -> Found | None:
        """What is remembered and within the bounds, without waiting."""
        found = self._found.get((organization_id, reference, version))
        # Nearly every API key is unbound, and then this is one compare of addresses.
        if found is None or bounds is UNBOUND:
            return found
        return found if bounds.reach(namespace_id=found[0].namespace_id, key_id=found[0].id) else None

    async def find(self, organization_id: UUID, reference: str, version: int, bounds: Bounds) -> Found:
        """Read anew, and remember. Raises KeyNotFound, KeyVersionUnavailable, QueueFull."""
        place = (organization_id, reference, version)
        unknown = self._found.peek(place) is None
        async with self._turns.of(organization_id):
            # Those before it may have read the same key. But what was remembered already is what its caller does not
            # believe, and a refusal may be older than the change that lifted it.
            cached = self.cached(*place, bounds) if unknown else None
            if cached is not None and cached[1] is KeyState.ENABLED:
                return cached
            generation = self._generation
            found = await self._pace.run(self._source.signing_key(*place, bounds=bounds))
            if generation == self._generation:
                self._found.put(place, found[0].id, found)
            return found

    def forget(self, key_id: UUID) -> None:
        """Drop everything about one key, by whatever name it is remembered."""
        self._generation += 1
        self._found.forget(key_id)

    def forget_all(self) -> None:
        """Drop everything: notifications may have been missed."""
        self._generation += 1
        self._found.clear()
