"""Changes one at a time: what two callers change at once, they change one after the other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

_Result = TypeVar("_Result")


class Turns:
    """A lock for each thing that is being changed, gone when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, thing: str) -> asyncio.Lock:
        """The lock of a thing. Whoever holds a key's may take a public key's, never the other way round."""
        return self._locks.setdefault(thing, asyncio.Lock())

    async def alone(self, thing: str, change: Callable[[], Awaitable[_Result]]) -> _Result:
        """Run a change of a thing when no other change of it runs, and to its end.

        A caller that goes away cancels only its waiting: a write that is on its way to storage cannot be called back,
        and if the lock were free by then, it could land on a key that somebody else just created.
        """

        async def locked() -> _Result:
            async with self.lock(thing):
                return await change()

        return await asyncio.shield(asyncio.ensure_future(locked()))
