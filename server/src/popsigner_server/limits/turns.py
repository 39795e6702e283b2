"""How many calls of one caller are at work at once, so that a neighbour is not slowed: however many an organization
sends, the event loop, the pool of database connections and the vault are asked by so few of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID
from weakref import WeakValueDictionary

from popsigner_server import errors

# Calls of one owner that wait; one more is refused.
WAITING = 4_096
# Seconds after which one that was refused may come again.
WAIT = 1.0


class _Line(asyncio.Semaphore):
    """Of one owner; it lets them in in the order in which they came."""

    waiting = 0


class Turns:
    """At most `at_once` of an owner (an organization, or a person in none) are at work; the others wait for their turn.
    Used from the event loop's thread alone."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        # Those that somebody is in.
        self._lines: WeakValueDictionary[UUID, _Line] = WeakValueDictionary()
        # Beside the lines' own: a scrape comes from another thread, and must not go through them while they change.
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Calls of all owners that wait for their turn."""
        return self._waiting

    @asynccontextmanager
    async def of(self, owner: UUID) -> AsyncIterator[None]:
        """A turn, given back on leaving. Raises QueueFull."""
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line(self._at_once)
        if line.waiting >= WAITING:
            raise errors.QueueFull("Too many calls of this caller are waiting; slow down and retry.", retry_after=WAIT)
        line.waiting += 1
        self._waiting += 1
        try:
            await line.acquire()
        finally:
            line.waiting -= 1
            self._waiting -= 1
        try:
            yield
        finally:
            line.release()
