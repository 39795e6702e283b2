"""The memory of signing keys: bounded, and forgetting one key costs what is remembered of that key."""

from collections.abc import Callable
from uuid import UUID

import pytest

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.memory import Memory
from popsigner_server.domain.principals import UNBOUND, Bounds
from popsigner_server.keys import cache as module
from popsigner_server.keys.cache import Found, KeyCache
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
    cache = KeyCache(shelf)
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
    cache = KeyCache(shelf)
    for number in range(2_000):
        await cache.find(ORGANIZATION, f"production/{number}", 0, UNBOUND)
    dropped.clear()
    cache.forget(shelf.names["production/7"])
    cache.forget(new_id())
    assert dropped == [(ORGANIZATION, "production/7", 0)]


async def test_it_is_bounded_and_the_least_recently_used_goes_first() -> None:
    cache = KeyCache(Shelf(), size=2)
    for reference in ("production/a", "production/b"):
        await cache.find(ORGANIZATION, reference, 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is not None
    await cache.find(ORGANIZATION, "production/c", 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/b", 0, UNBOUND) is None
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is not None


async def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    shelf = Shelf()
    cache = KeyCache(shelf)
    shelf.during = lambda: cache.forget(new_id())
    await cache.find(ORGANIZATION, "production/a", 0, UNBOUND)
    assert cache.cached(ORGANIZATION, "production/a", 0, UNBOUND) is None
