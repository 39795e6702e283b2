"""The memory of signing keys: bounded, and forgetting one key costs what is remembered of that key."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import pytest

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.memory import Memory
from popsigner_server.domain.principals import UNBOUND, Bounds
from popsigner_server.keys import cache as module
from popsigner_server.keys.cache import READS, Found, KeyCache
from popsigner_server.limits.pace import Pace
from popsigner_server.signing import SigningKey

ORGANIZATION = new_id()
Place = tuple[UUID, str, int]


class Shelf:
    """Every key exists; `during` is done while one is read."""

    def __init__(self) -> None:
        self.during: Callable[[], object] = lambda: None
        self.names: dict[str, UUID] = {}

    async def signing_key(self, organization_id: UUID, reference: str, version: int, *, bounds: Bounds) -> Found:
        self.during()
        key_id = self.names.setdefault(reference, new_id())
        found = SigningKey(
            id=key_id, vault_name=key_id.hex, version=version or 1, public_key="02" * 33, namespace_id=organization_id
        )
        return found, KeyState.ENABLED


async def test_a_key_is_forgotten_by_every_name_and_no_other_is() -> None:
    shelf = Shelf()
    cache = KeyCache(shelf, Pace())
    first, second = new_id(), new_id()
    shelf.names = {show(Prefix.KEY, first): first, "production/first": first, "production/second": second}
    for reference in shelf.names:
        for version in (0, 1):
            await cache.find(ORGANIZATION, reference, version, UNBOUND)
    cache.forget(first)
    left = [
        (reference, version)
        for reference in shelf.names
        for version in (0, 1)
        if cache.cached(ORGANIZATION, reference, version, UNBOUND) is not None
    ]
    assert left == [("production/second", 0), ("production/second", 1)]


async def test_forgetting_does_not_walk_through_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of any key is told to every process, whose loop signs."""
    dropped: list[Place] = []

    class Counted(Memory[Place, UUID, Found]):
        def drop(self, place: Place) -> None:
            dropped.append(place)
            super().drop(place)

    monkeypatch.setattr(module, "Memory", Counted)
    shelf = Shelf()
    cache = KeyCache(shelf, Pace())
    for number in range(2_000):
        await cache.find(ORGANIZATION, f"production/{number}", 0, UNBOUND)
    dropped.clear()
    cache.forget(shelf.names["production/7"])
    cache.forget(new_id())
    assert dropped == [(ORGANIZATION, "production/7", 0)]


async def test_it_is_bounded_and_the_least_recently_used_goes_first() -> None:
    cache = KeyCache(Shelf(), Pace(), size=2)
    for reference in ("production/a", "production/b"):
        await cache.find(ORGANIZATION, reference, 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is not None
    await cache.find(ORGANIZATION, "production/c", 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/b", 0, UNBOUND) is None
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is not None


async def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    shelf = Shelf()
    cache = KeyCache(shelf, Pace())
    shelf.during = lambda: cache.forget(new_id())
    await cache.find(ORGANIZATION, "production/a", 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is None


class Held(Shelf):
    """Reads when it is told to; every key is in `state`."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.at_work: list[UUID] = []
        self.reads = 0
        self.state = KeyState.ENABLED

    async def signing_key(self, organization_id: UUID, reference: str, version: int, *, bounds: Bounds) -> Found:
        self.reads += 1
        self.at_work.append(organization_id)
        await self.go_on.wait()
        self.at_work.remove(organization_id)
        key, _ = await super().signing_key(organization_id, reference, version, bounds=bounds)
        return key, self.state


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_organization_reads_a_few_at_a_time_and_no_other_waits_for_it() -> None:
    shelf, theirs = Held(), new_id()
    cache = KeyCache(shelf, Pace())
    finds = [asyncio.create_task(cache.find(ORGANIZATION, f"key-{n}", 0, UNBOUND)) for n in range(10)]
    finds.append(asyncio.create_task(cache.find(theirs, "key", 0, UNBOUND)))
    await settle()
    assert sorted(shelf.at_work) == sorted([ORGANIZATION] * READS + [theirs])
    shelf.go_on.set()
    assert len({found[0].id for found in await asyncio.gather(*finds)}) == 11


async def test_who_waits_for_a_key_that_somebody_reads_meanwhile_is_given_that() -> None:
    shelf = Held()
    cache = KeyCache(shelf, Pace())
    finds = [asyncio.create_task(cache.find(ORGANIZATION, "key", 0, UNBOUND)) for _ in range(10)]
    await settle()
    shelf.go_on.set()
    assert len({found[0].id for found in await asyncio.gather(*finds)}) == 1
    assert shelf.reads == READS


async def test_what_is_not_believed_and_refusals_are_read_anew() -> None:
    shelf = Held()
    shelf.go_on.set()
    cache = KeyCache(shelf, Pace())
    await cache.find(ORGANIZATION, "key", 0, UNBOUND)
    # Whoever asks although it is remembered has seen that it is too old.
    await asyncio.gather(*(cache.find(ORGANIZATION, "key", 0, UNBOUND) for _ in range(5)))
    assert shelf.reads == 6
    shelf.state = KeyState.DISABLED
    shelf.go_on.clear()
    finds = [asyncio.create_task(cache.find(ORGANIZATION, "disabled", 0, UNBOUND)) for _ in range(5)]
    await settle()
    shelf.go_on.set()
    await asyncio.gather(*finds)
    assert shelf.reads == 11
