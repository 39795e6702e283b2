"""Pages of lists, in steps between which everybody else's calls go on."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from popsigner_server import errors
from popsigner_server.transport import pages
from popsigner_server.transport.pages import DEFAULT_PAGE, MAX_PAGE, SLICE, STEP, page


class Numbers:
    """A list of so many numbers, and what was asked of it."""

    def __init__(self, count: int) -> None:
        self._all = list(range(count))
        self.limits: list[int] = []

    async def __call__(self, *, limit: int, cursor: str) -> tuple[Sequence[int], str]:
        self.limits.append(limit)
        start = int(cursor or 0)
        found = self._all[start : start + limit]
        return found, str(start + limit) if start + limit < len(self._all) else ""


@pytest.mark.parametrize("count", [0, 1, STEP, STEP + 1, 950, 2_000])
@pytest.mark.parametrize("asked", [0, 1, SLICE, STEP, STEP + 1, MAX_PAGE])
async def test_a_page_is_what_one_read_would_give(count: int, asked: int) -> None:
    numbers = Numbers(count)
    size = asked or DEFAULT_PAGE
    entries, cursor = await page(asked, "", numbers, str)
    assert entries == [str(number) for number in range(min(size, count))]
    assert cursor == (str(size) if size < count else "")
    assert max(numbers.limits) <= STEP


async def test_all_pages_together_are_the_list() -> None:
    numbers, entries, cursor = Numbers(1_234), [], ""
    while True:
        found, cursor = await page(250, cursor, numbers, int)
        entries += found
        if not cursor:
            break
    assert entries == list(range(1_234))


async def test_others_go_on_while_it_is_written() -> None:
    written, seen = 0, []

    def write(number: int) -> int:
        nonlocal written
        written += 1
        return number

    async def look() -> None:
        while written < MAX_PAGE:
            seen.append(written)
            await asyncio.sleep(0)

    await asyncio.gather(page(MAX_PAGE, "", Numbers(MAX_PAGE), write), look())
    assert max(after - before for before, after in pairwise(seen)) <= SLICE


async def test_a_page_that_is_too_large_is_refused_before_anything_is_read() -> None:
    numbers = Numbers(5)
    with pytest.raises(errors.InvalidField, match="at most 1000"):
        await page(MAX_PAGE + 1, "", numbers, str)
    assert not numbers.limits
    assert pages.page_size(MAX_PAGE) == MAX_PAGE
