"""The key cache: bounded, and never older than the last change."""

import asyncio

from popsigner_plugin.cache import KeyCache
from popsigner_plugin.keys import Key


def key() -> Key:
    return Key.created(now_ms=0, exportable=False, deletion_allowed=False)


class Shelf:
    """Storage whose reads wait at a gate: a race needs a pause between what a read saw and what it answers."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    async def load(self, name: str) -> Key | None:
        self.reads += 1
        seen = self.keys.get(name)
        await self.gate.wait()
        return seen


async def test_a_key_is_read_once() -> None:
    shelf = Shelf()
    shelf.keys["a"] = key()
    cache = KeyCache(shelf.load)
    assert await cache.get("a") is await cache.get("a") is shelf.keys["a"]
    assert shelf.reads == 1


async def test_an_unknown_key_is_asked_for_each_time() -> None:
    shelf = Shelf()
    cache = KeyCache(shelf.load)
    assert await cache.get("a") is None
    shelf.keys["a"] = key()
    assert await cache.get("a") is shelf.keys["a"]


async def test_a_read_that_races_with_a_delete_does_not_bring_the_key_back() -> None:
    shelf = Shelf()
    shelf.keys["a"] = key()
    cache = KeyCache(shelf.load)
    shelf.gate.clear()
    reading = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    del shelf.keys["a"]
    cache.drop("a")
    shelf.gate.set()
    assert await reading is None
    assert cache.held("a") is None


async def test_a_read_that_races_with_a_change_sees_the_change() -> None:
    shelf = Shelf()
    shelf.keys["a"] = key()
    cache = KeyCache(shelf.load)
    shelf.gate.clear()
    reading = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    shelf.keys["a"] = changed = key()
    cache.drop("a")
    shelf.gate.set()
    assert await reading is changed
    assert cache.held("a") is changed


async def test_the_least_recently_used_key_goes_first() -> None:
    shelf = Shelf()
    shelf.keys = {name: key() for name in "abc"}
    cache = KeyCache(shelf.load, capacity=2)
    await cache.get("a")
    await cache.get("b")
    await cache.get("a")
    await cache.get("c")
    assert cache.held("b") is None
    assert cache.held("a") is shelf.keys["a"]
    assert cache.held("c") is shelf.keys["c"]


async def test_a_dropped_key_is_read_again_and_others_stay() -> None:
    shelf = Shelf()
    shelf.keys = {name: key() for name in "ab"}
    cache = KeyCache(shelf.load)
    await cache.get("a")
    await cache.get("b")
    cache.drop("a")
    assert cache.held("a") is None
    assert cache.held("b") is shelf.keys["b"]
    cache.clear()
    assert cache.held("b") is None


async def test_keys_with_many_versions_take_the_room_of_several() -> None:
    shelf = Shelf()
    many = key()
    for _ in range(5):
        many = many.rotated(now_ms=0)
    shelf.keys = {"a": many, "b": key(), "c": many}
    cache = KeyCache(shelf.load, capacity=3)
    for name in "abc":
        await cache.get(name)
    assert [cache.held(name) is not None for name in "abc"] == [False, True, True]
    for name in "bc":
        cache.drop(name)
    for name in "ab":
        await cache.get(name)
    assert [cache.held(name) is not None for name in "ab"] == [True, True]


async def test_two_reads_of_one_key_at_once_count_once() -> None:
    shelf = Shelf()
    shelf.keys = {name: key() for name in "ab"}
    cache = KeyCache(shelf.load, capacity=1)
    shelf.gate.clear()
    reading = [asyncio.create_task(cache.get("a")) for _ in range(8)]
    await asyncio.sleep(0)
    shelf.gate.set()
    await asyncio.gather(*reading)
    assert cache.held("a") is not None
