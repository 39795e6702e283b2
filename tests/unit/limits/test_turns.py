"""How many calls of one owner are at work at once."""

import asyncio
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.limits import turns as module
from popsigner_server.limits.turns import Turns

OURS, THEIRS = UUID(int=1), UUID(int=2)


class Work:
    """Calls that end when they are told to, and in which order they began."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def call(self, name: str, owner: UUID = OURS) -> None:
        self.ends[name] = asyncio.Event()
        async with self._turns.of(owner):
            self.begun.append(name)
            await self.ends[name].wait()

    def start(self, name: str, owner: UUID = OURS) -> asyncio.Task[None]:
        return asyncio.create_task(self.call(name, owner))

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def work() -> Work:
    return Work(Turns(2))


async def test_so_many_are_at_work_and_the_others_follow_in_their_order(work: Work) -> None:
    tasks = [work.start(name) for name in "abcde"]
    await settle()
    assert work.begun == ["a", "b"]
    await work.end("b")
    assert work.begun == ["a", "b", "c"]
    await work.end("a", "c")
    assert work.begun == ["a", "b", "c", "d", "e"]
    await work.end("d", "e")
    await asyncio.gather(*tasks)


async def test_nobody_waits_for_another_owner(work: Work) -> None:
    tasks = [work.start(name) for name in "abcde"] + [work.start("theirs", THEIRS)]
    await settle()
    assert work.begun == ["a", "b", "theirs"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_is_cancelled_or_fails_gives_its_turn_back(work: Work) -> None:
    tasks = [work.start(name) for name in "abcde"]
    await settle()
    tasks[2].cancel()
    await settle()
    assert work.begun == ["a", "b"]
    tasks[0].cancel()
    await settle()
    assert work.begun == ["a", "b", "d"]
    with pytest.raises(RuntimeError):
        async with Turns(1).of(OURS):
            raise RuntimeError
    await work.end("b", "d", "e")
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_too_many_is_refused_and_told_to_come_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    tasks = [work.start(name) for name in "abcd"]
    await settle()
    with pytest.raises(errors.QueueFull) as refused:
        await work.call("e")
    assert refused.value.retry_after
    theirs = work.start("theirs", THEIRS)
    await work.end("a")
    tasks.append(work.start("f"))
    await settle()
    assert work.begun == ["a", "b", "theirs", "c"]
    await work.end("b", "c", "d", "f", "theirs")
    await asyncio.gather(*tasks, theirs)


async def test_those_that_wait_are_counted_until_their_turn_or_their_end() -> None:
    turns = Turns(2)
    work = Work(turns)
    tasks = [work.start(name) for name in "abcde"] + [work.start(name, THEIRS) for name in "vwx"]
    await settle()
    assert turns.waiting == 4
    tasks[4].cancel()
    await work.end("a")
    assert turns.waiting == 2
    await work.end("b", "c", "d", "v", "w", "x")
    assert turns.waiting == 0
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nothing_is_left_of_an_owner_who_has_gone() -> None:
    turns = Turns(2)
    for number in range(100):
        async with turns.of(UUID(int=number)):
            assert len(turns._lines) == 1
    assert not turns._lines
