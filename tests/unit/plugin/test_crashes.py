"""The process is killed before each write of each change: what is there is usable, and the same request finishes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from popsigner_plugin.engine import Engine
from popsigner_plugin.errors import Conflict, StorageError, UnknownKey
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey, StoredPresence
from popsigner_plugin.wrapping import WrappingKey
from tests.unit.plugin.engines import answered, asked, bring_in, engine_on, sign, with_wrapping_key, wrapping_key
from tests.unit.plugin.outside import AgeIdentity
from tests.unit.plugin.storage import Killed, MemoryStorage

SCALAR = bytes(range(1, 33))
IDENTITY = AgeIdentity.made()
OTHER = AgeIdentity.made()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """before: what is there. change: what is killed and repeated. writes: how many it has."""

    name: str
    before: Callable[[Engine], Awaitable[Any]]
    change: Callable[[Engine], Awaitable[Any]]
    writes: int


async def nothing(engine: Engine) -> None:
    pass


async def a_key(engine: Engine) -> None:
    await asked(engine, "keys/k", exportable=True, deletion_allowed=True, recovery_recipient=IDENTITY.recipient)


async def a_key_that_left(engine: Engine) -> None:
    await a_key(engine)
    await asked(engine, "keys/k/rotate")
    await answered(engine, "read", "recovery/k")


async def half_a_delete(engine: Engine) -> None:
    """A tombstone with the entries that belong to it."""
    await a_key_that_left(engine)
    storage = engine._shelf._storage
    assert isinstance(storage, MemoryStorage)
    storage.writes_left = 1
    with pytest.raises(Killed):
        await engine.handle("delete", "keys/k", {})


async def half_an_import(engine: Engine) -> None:
    storage = engine._shelf._storage
    assert isinstance(storage, MemoryStorage)
    storage.writes_left = 1
    with pytest.raises(Killed):
        await bring_in(engine, "k", SCALAR)


async def delete(engine: Engine) -> None:
    # Whoever repeats a deletion that had ended is told that there is no such key.
    with contextlib.suppress(UnknownKey):
        await engine.handle("delete", "keys/k", {})


async def create(engine: Engine) -> dict[str, Any]:
    try:
        return await asked(engine, "keys/k", recovery_recipient=IDENTITY.recipient)
    except Conflict:
        return await answered(engine, "read", "keys/k")


CASES = [
    Case(name="create", before=nothing, change=create, writes=1),
    Case(name="create over half a delete", before=half_a_delete, change=create, writes=4),
    Case(name="import", before=nothing, change=lambda e: bring_in(e, "k", SCALAR), writes=2),
    Case(
        name="import after half an import", before=half_an_import, change=lambda e: bring_in(e, "k", SCALAR), writes=1
    ),
    Case(name="import over half a delete", before=half_a_delete, change=lambda e: bring_in(e, "k", SCALAR), writes=5),
    Case(name="rotate", before=a_key, change=lambda e: asked(e, "keys/k/rotate", to_version=2), writes=1),
    Case(name="config", before=a_key, change=lambda e: asked(e, "keys/k/config", enabled=False), writes=1),
    Case(name="delete", before=a_key_that_left, change=delete, writes=4),
    Case(name="delete after half a delete", before=half_a_delete, change=delete, writes=3),
    Case(
        name="another recipient",
        before=a_key_that_left,
        change=lambda e: asked(e, "recovery/k", recipient=OTHER.recipient),
        writes=1,
    ),
    Case(name="no recipient", before=a_key, change=lambda e: e.handle("delete", "recovery/k", {}), writes=1),
    Case(name="export", before=a_key, change=lambda e: asked(e, "export/k", recipient=OTHER.recipient), writes=1),
    Case(name="recovery", before=a_key, change=lambda e: answered(e, "read", "recovery/k"), writes=1),
    Case(
        name="another wrapping key",
        before=nothing,
        change=lambda e: asked(e, "wrapping_key/rotate", replaces=wrapping_key().id),
        writes=1,
    ),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    other = WrappingKey(private=b"private", public=b"public", created_at_ms=0)
    monkeypatch.setattr(WrappingKey, "generated", lambda _: other)
    monkeypatch.setattr(WrappingKey, "public_data", lambda key: {"id": key.id, "public_key": PEM})


PEM = str(wrapping_key().public_data()["public_key"])


def shape(storage: MemoryStorage) -> list[str]:
    """Which entries there are."""
    return sorted(storage.blobs)


def consistent(storage: MemoryStorage) -> None:
    """No scalar without its key, no entry that names a key which never was."""
    for place, blob in storage.blobs.items():
        if place.startswith("keys/"):
            stored = StoredKey.FromString(blob)
            assert all(any(version.scalar) for version in stored.versions)
        if place.startswith("present/"):
            assert f"keys/{StoredPresence.FromString(blob).name}" in storage.blobs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_change_that_was_killed_anywhere_is_finished_by_the_same_request(case: Case) -> None:
    start = with_wrapping_key()
    await case.before(engine_on(start))
    whole = MemoryStorage(start.blobs)
    await case.change(engine_on(whole))
    assert len(whole.writes) == case.writes
    consistent(whole)
    for killed_after in range(case.writes):
        storage = MemoryStorage(start.blobs, writes_left=killed_after)
        with pytest.raises(Killed):
            await case.change(engine_on(storage))
        again = MemoryStorage(storage.blobs)
        await case.change(engine_on(again))
        assert [place.split("/")[0] for place in shape(again)] == [place.split("/")[0] for place in shape(whole)]
        consistent(again)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_change_that_is_repeated_after_it_happened_changes_nothing(case: Case) -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    await case.before(engine)
    storage.writes_left = None
    storage.dead = False
    await case.change(engine)
    public = {place: blob for place, blob in storage.blobs.items() if not place.startswith("keys/")}
    await case.change(engine_on(storage))
    assert {place: blob for place, blob in storage.blobs.items() if not place.startswith("keys/")} == public
    consistent(storage)


@pytest.mark.parametrize("killed_after", [0, 1])
async def test_an_import_that_was_killed_can_be_given_up_for_another_name(killed_after: int) -> None:
    storage = with_wrapping_key(writes_left=killed_after)
    with pytest.raises(Killed):
        await bring_in(engine_on(storage), "first", SCALAR)
    engine = engine_on(MemoryStorage(storage.blobs))
    for path in ("keys/first/config", "keys/first/rotate"):
        with pytest.raises(UnknownKey):
            await engine.handle("update", path, {})
    await bring_in(engine, "second", SCALAR)
    with pytest.raises(Conflict, match="KEY_PRESENT"):
        await bring_in(engine, "first", SCALAR)


async def test_the_end_of_a_delete_that_was_killed_leaves_alone_what_came_in_since() -> None:
    start = with_wrapping_key()
    await bring_in(engine_on(start), "old", SCALAR, deletion_allowed=True)
    storage = MemoryStorage(start.blobs, writes_left=1)
    with pytest.raises(Killed):
        await engine_on(storage).handle("delete", "keys/old", {})
    engine = engine_on(MemoryStorage(storage.blobs))
    await bring_in(engine, "new", SCALAR)
    with pytest.raises(UnknownKey):
        await engine.handle("delete", "keys/old", {})
    for name in ("old", "third"):
        with pytest.raises(Conflict, match="KEY_PRESENT"):
            await bring_in(engine, name, SCALAR)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
async def test_a_delete_that_was_killed_leaves_a_key_that_signs_no_more(killed_after: int) -> None:
    start = with_wrapping_key()
    await a_key_that_left(engine_on(start))
    storage = MemoryStorage(start.blobs, writes_left=killed_after)
    with pytest.raises(Killed):
        await engine_on(storage).handle("delete", "keys/k", {})
    after = MemoryStorage(storage.blobs)
    engine = engine_on(after)
    for attempt in (
        sign(engine, "k"),
        answered(engine, "read", "keys/k"),
        asked(engine, "export/k", recipient=OTHER.recipient),
    ):
        with pytest.raises(UnknownKey):
            await attempt
    # Whoever asked to change it has finished the deletion.
    assert shape(after) == ["wrapping/keys"]


async def test_a_change_goes_on_to_its_end_when_its_caller_goes_away() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    storage.hold = {"put"}
    impatient = asyncio.create_task(bring_in(engine, "k", SCALAR))
    await storage.reached.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    storage.hold = set()
    storage.gate.set()
    assert (await bring_in(engine, "k", SCALAR))["latest_version"] == 1
    assert len(storage.writes) == 2


async def test_a_refusal_of_storage_leaves_the_key_as_it_was() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    await a_key(engine)
    before = dict(storage.blobs)
    storage.refusal = "cannot write to readonly storage"
    for path, data in (
        ("keys/k/rotate", {}),
        ("recovery/k", {"recipient": OTHER.recipient}),
        ("wrapping_key/rotate", {}),
    ):
        with pytest.raises(StorageError, match="cannot write to readonly storage"):
            await engine.handle("update", path, data)
    storage.refusal = ""
    assert storage.blobs == before
    assert (await asked(engine, "keys/k/rotate"))["latest_version"] == 2
