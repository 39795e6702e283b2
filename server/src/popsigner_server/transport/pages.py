"""Pages of lists, made a few entries at a time.

A page of a thousand keys takes a process tens of milliseconds. As one piece that would be how long everybody's
signatures wait for it, at each of the half a dozen times that a signature comes back to the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from popsigner_server import errors

MAX_PAGE = 1000
DEFAULT_PAGE = 100
# Entries that a room is asked for at once, and that are written between two looks at everybody else's calls: 1 to 2 ms
# each. Smaller steps cost more than they free: each is a transaction.
STEP = 100
SLICE = 20

Entry = TypeVar("Entry", covariant=True)
Given = TypeVar("Given")
Written = TypeVar("Written")


class List(Protocol[Entry]):
    """Reads a part of a list: at most `limit` entries from the cursor on, and the cursor behind them, empty at the
    end."""

    async def __call__(self, *, limit: int, cursor: str) -> tuple[Sequence[Entry], str]: ...


def page_size(asked: int) -> int:
    """Raises InvalidField."""
    if asked > MAX_PAGE:
        raise errors.InvalidField("page_size", f"must be at most {MAX_PAGE}.")
    return asked or DEFAULT_PAGE


async def page(
    asked: int, cursor: str, read: List[Given], write: Callable[[Given], Written]
) -> tuple[list[Written], str]:
    """The page that was asked for (0: of the usual size), each entry as `write` makes it, and the next one's cursor.
    Raises InvalidField, and what `read` does."""
    wanted = page_size(asked)
    written: list[Written] = []
    while True:
        found, cursor = await read(limit=min(STEP, wanted - len(written)), cursor=cursor)
        for start in range(0, len(found), SLICE):
            written += [write(entry) for entry in found[start : start + SLICE]]
            await asyncio.sleep(0)
        if not cursor or len(written) >= wanted:
            return written, cursor
