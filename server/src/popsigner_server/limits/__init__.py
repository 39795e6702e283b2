"""How fast one caller may ask, so that a neighbour is not slowed: calls a second of an organization, and of each API
key or session."""

from typing import Protocol
from uuid import UUID


class StoreAway(Exception):
    """The store of the counts does not answer."""


class Limiter(Protocol):
    """Counts the calls of subjects in a sliding window of one second.

    The second before counts with the part of it that the window still holds. Two numbers a subject, where a list of its
    calls would cost the more the faster it calls; and no edge at which a fixed window lets two full seconds through in
    one moment: at most one second's calls come at once, and then evenly.
    """

    async def take(self, subject: UUID, rate: int) -> bool:
        """Count one call of the subject; False, uncounted, where it would be above `rate` a second. Raises
        StoreAway."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...
