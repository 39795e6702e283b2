"""Keys that were read from storage, kept for the next signature, and never one moment longer than they are true."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from popsigner_plugin.keys import Key


class KeyCache:
    """At most `capacity` keys by name with four times as many versions in all, the least recently used going first.

    load: reads one key from storage; None where there is none.

    Every change of a key calls `drop` after storage has it. A load that was on its way when anything was dropped may
    have read the state before, so it is thrown away and repeated: `generation` counts the drops. One number for all
    names is enough, because changes are rare beside signatures, and a load is repeated only while one comes in
    between.

    All methods run in the event loop's thread; between `get` returning and the next await nothing can be dropped.
    """

    def __init__(self, load: Callable[[str], Awaitable[Key | None]], *, capacity: int = 4096) -> None:
        self._load = load
        self._capacity = capacity
        self._held: OrderedDict[str, Key] = OrderedDict()
        self._versions = 0
        self.generation = 0

    def held(self, name: str) -> Key | None:
        """The key if it is here, without asking storage."""
        key = self._held.get(name)
        if key is not None:
            self._held.move_to_end(name)
        return key

    async def get(self, name: str) -> Key | None:
        """The key as storage has it at a moment after the call; None where there is none. Raises StorageError."""
        while (key := self.held(name)) is None:
            generation = self.generation
            key = await self._load(name)
            if generation != self.generation:
                continue
            if key is not None:
                self._hold(name, key)
            return key
        return key

    def drop(self, name: str) -> None:
        """Forget the key: it was changed or deleted. Its buffers are overwritten once no signature uses them."""
        self.generation += 1
        self._let_go(self._held.pop(name, None))

    def clear(self) -> None:
        """Forget all keys."""
        self.generation += 1
        self._held.clear()
        self._versions = 0

    def _hold(self, name: str, key: Key) -> None:
        # Two callers may have read it at once.
        self._let_go(self._held.pop(name, None))
        self._held[name] = key
        self._versions += len(key.versions)
        while len(self._held) > self._capacity or self._versions > 4 * self._capacity:
            self._let_go(self._held.popitem(last=False)[1])

    def _let_go(self, key: Key | None) -> None:
        if key is not None:
            self._versions -= len(key.versions)
