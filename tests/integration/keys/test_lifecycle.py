"""The life of a key over a real database, with a vault that fails on demand: nothing lost, nothing left behind."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import UNBOUND
from popsigner_server.keys import Wish
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.reservations import CREATIONS, Reservations
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.limits.pace import Pace
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import keys
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization
from tests.support.plans import packaged_quotas


@dataclass(frozen=True, slots=True)
class House:
    vault: MemoryVault
    reservations: Reservations
    creation: Creation
    lifecycle: Lifecycle
    catalogue: Catalogue
    ledger: PostgresLedger
    mine: Organization

    async def events(self) -> list[str]:
        rows, _ = await self.ledger.list(self.mine.id, limit=100, cursor="")
        return [row.event for row in reversed(rows)]


@pytest.fixture
async def house(engine: AsyncEngine) -> House:
    vault, ledger, catalogue = MemoryVault(), PostgresLedger(Database(engine)), Catalogue(Database(engine))
    mine = await found_organization(engine, keys_of=0)
    reservations = Reservations(Database(engine), ledger, vault, packaged_quotas(), Pace())
    lifecycle = Lifecycle(Database(engine), ledger, vault, catalogue, reservations)
    return House(vault, reservations, Creation(reservations, vault), lifecycle, catalogue, ledger, mine)


def wish(name: str, namespace: str = "production") -> Wish:
    return Wish(name=name, namespace=namespace, exportable=False, metadata={"chain": "celestia"})


async def test_a_created_key_is_in_the_vault_the_catalogue_and_the_ledger(house: House) -> None:
    (key,) = await house.creation.create(house.mine.caller, [wish("sequencer")])
    assert house.vault.keys[key.id.hex].public_key.format() == key.public_key
    assert await house.catalogue.get(house.mine.id, "production/sequencer", bounds=UNBOUND) == key
    assert key.address.startswith("celestia1")
    assert await house.events() == ["key.created"]


async def test_of_many_with_one_name_exactly_one_wins(house: House) -> None:
    ends = await asyncio.gather(
        *(house.creation.create(house.mine.caller, [wish("same")]) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(end, list) for end in ends) == 1
    assert sum(isinstance(end, errors.KeyNameTaken) for end in ends) == 19
    assert len(house.vault.keys) == 1


async def test_batches_that_overlap_are_all_or_none(house: House) -> None:
    one = [wish(f"w-{n}") for n in range(8)]
    two = [wish(f"w-{n}") for n in reversed(range(4, 12))]
    ends = await asyncio.gather(
        house.creation.create(house.mine.caller, one),
        house.creation.create(house.mine.caller, two),
        return_exceptions=True,
    )
    assert sorted(type(end).__name__ for end in ends) == ["KeyNameTaken", "list"]
    found, _ = await house.catalogue.list(house.mine.id, bounds=UNBOUND, limit=100, cursor="")
    assert len(found) == len(house.vault.keys) == 8


async def test_a_namespace_that_is_not_there_is_named_as_the_reason(house: House) -> None:
    with pytest.raises(errors.NamespaceNotFound):
        await house.creation.create(house.mine.caller, [wish("a", "nowhere")])


async def test_a_failed_creation_frees_its_name_at_once_and_the_sweeper_clears_the_vault(
    house: House, engine: AsyncEngine
) -> None:
    house.vault.away = True
    with pytest.raises(errors.VaultUnavailable):
        await house.creation.create(house.mine.caller, [wish("a"), wish("b")])
    house.vault.away = False
    (again,) = await house.creation.create(house.mine.caller, [wish("a")])
    # Its creation arrived in the vault after all, behind the failure: an orphan.
    async with engine.begin() as connection:
        lost = (
            (
                await connection.execute(
                    update(keys)
                    .where(keys.c.org_id == house.mine.id, keys.c.state == KeyState.ABANDONED.value)
                    .values(created_at=func.now() - timedelta(minutes=6))
                    .returning(keys.c.id)
                )
            )
            .scalars()
            .all()
        )
    assert len(lost) == 2
    await house.vault.create(lost[0].hex, exportable=False)
    assert await house.lifecycle.sweep() == 2
    assert set(house.vault.keys) == {again.id.hex}
    async with engine.connect() as connection:
        left = select(func.count()).select_from(keys).where(keys.c.org_id == house.mine.id)
        assert (await connection.execute(left)).scalar() == 1


async def test_what_a_crash_left_half_created_is_cleared(house: House, engine: AsyncEngine) -> None:
    reserved = await house.reservations.reserve(house.mine.caller, [wish("half")])
    key_id = reserved[0].key_id
    await house.vault.create(key_id.hex, exportable=False)
    with pytest.raises(errors.KeyNotFound):
        await house.catalogue.get(house.mine.id, "production/half", bounds=UNBOUND)
    assert await house.lifecycle.sweep() == 0
    async with engine.begin() as connection:
        await connection.execute(
            update(keys).where(keys.c.id == key_id).values(created_at=func.now() - timedelta(minutes=6))
        )
    assert await house.lifecycle.sweep() == 1
    assert house.vault.keys == {}
    await house.creation.create(house.mine.caller, [wish("half")])


async def test_a_cancelled_call_does_not_cut_a_creation_in_half(house: House) -> None:
    call = asyncio.create_task(house.creation.create(house.mine.caller, [wish("left")]))
    await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await house.reservations.close()
    key = await house.catalogue.get(house.mine.id, "production/left", bounds=UNBOUND)
    assert house.vault.keys[key.id.hex].public_key.format() == key.public_key


async def test_who_asks_and_leaves_has_no_more_creations_under_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, begun, go_on, create = 0, asyncio.Semaphore(0), asyncio.Event(), MemoryVault.create

    async def slow(vault: MemoryVault, name: str, **more: Any) -> bytes:
        nonlocal asked
        asked += 1
        begun.release()
        await go_on.wait()
        return await create(vault, name, **more)

    monkeypatch.setattr(MemoryVault, "create", slow)
    calls = [asyncio.create_task(house.creation.create(house.mine.caller, [wish(f"left-{n}")])) for n in range(20)]
    for _ in range(CREATIONS):
        await begun.acquire()
    for call in calls:
        call.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True))
    last = asyncio.create_task(house.creation.create(house.mine.caller, [wish("last")]))
    await asyncio.sleep(0.05)
    assert asked == CREATIONS
    go_on.set()
    await last
    await house.reservations.close()
    assert await house.events() == ["key.created"] * (CREATIONS + 1)


async def test_a_deleted_key_keeps_its_name_and_material_until_its_window_ends(
    house: House, engine: AsyncEngine
) -> None:
    (key,) = await house.creation.create(house.mine.caller, [wish("old")])
    deleted = await house.lifecycle.delete(house.mine.caller, "production/old", force=False)
    assert deleted.state is KeyState.DELETED
    assert deleted.destroy_at is not None
    assert deleted.deleted_at is not None
    assert deleted.destroy_at - deleted.deleted_at == timedelta(days=7)
    with pytest.raises(errors.KeyNameTaken):
        await house.creation.create(house.mine.caller, [wish("old")])
    with pytest.raises(errors.KeyDeleted):
        await house.lifecycle.delete(house.mine.caller, "production/old", force=False)
    assert await house.lifecycle.sweep() == 0
    async with engine.begin() as connection:
        await connection.execute(update(keys).where(keys.c.id == key.id).values(destroy_at=func.now()))
    assert await house.lifecycle.sweep() == 1
    assert house.vault.keys == {}
    await house.creation.create(house.mine.caller, [wish("old")])
    assert await house.events() == ["key.created", "key.deleted", "key.destroyed", "key.created"]


async def test_force_destroys_now_also_what_was_deleted_before(house: House) -> None:
    for name, before in (("a", False), ("b", True)):
        await house.creation.create(house.mine.caller, [wish(name)])
        if before:
            await house.lifecycle.delete(house.mine.caller, f"production/{name}", force=False)
        gone = await house.lifecycle.delete(house.mine.caller, f"production/{name}", force=True)
        assert gone.state is KeyState.DESTROYED
    assert house.vault.keys == {}


async def test_a_forced_deletion_without_a_vault_still_stops_the_key_and_is_finished_later(house: House) -> None:
    (key,) = await house.creation.create(house.mine.caller, [wish("a")])
    house.vault.away = True
    with pytest.raises(errors.VaultUnavailable):
        await house.lifecycle.delete(house.mine.caller, "production/a", force=True)
    assert (await house.catalogue.get(house.mine.id, "production/a", bounds=UNBOUND)).state is KeyState.DELETED
    house.vault.away = False
    assert await house.lifecycle.sweep() == 1
    assert key.id.hex not in house.vault.keys


async def test_a_key_that_the_vault_cannot_destroy_holds_no_other_up(
    house: House, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a turn nor, with more of them than a turn takes on, in any."""
    deleted = await house.creation.create(house.mine.caller, [wish(f"deleted-{n}") for n in range(4)])
    reserved = [
        (await house.reservations.reserve(house.mine.caller, [wish(f"half-{n}")], imported=False))[0].key_id
        for n in range(4)
    ]
    for key_id in reserved:
        await house.vault.create(key_id.hex, exportable=False)
    async with engine.begin() as connection:
        await connection.execute(update(keys).values(created_at=func.now() - timedelta(hours=1)))
    for key in deleted:
        await house.lifecycle.delete(house.mine.caller, f"production/{key.name}", force=False)
    async with engine.begin() as connection:
        mine = keys.c.org_id == house.mine.id
        await connection.execute(
            update(keys).where(mine, keys.c.state == KeyState.DELETED.value).values(destroy_at=func.now())
        )
    stuck = {deleted[0].id.hex, deleted[1].id.hex, reserved[0].hex, reserved[1].hex}
    destroy = house.vault.destroy

    async def refused(name: str) -> None:
        if name in stuck:
            raise errors.VaultUnavailable
        await destroy(name)

    monkeypatch.setattr(MemoryVault, "destroy", lambda _, name: refused(name))
    monkeypatch.setattr("popsigner_server.keys.lifecycle.SWEEP", 1)
    monkeypatch.setattr("popsigner_server.keys.reservations.SWEEP", 1)
    for _ in range(200):
        with suppress(errors.VaultUnavailable):
            await house.lifecycle.sweep()
        if set(house.vault.keys) == stuck:
            break
    assert set(house.vault.keys) == stuck


async def test_an_update_merges_metadata_renames_and_says_so_once(house: House) -> None:
    await house.creation.create(house.mine.caller, [wish("a"), wish("b")])

    async def change(name: str | None, metadata: dict[str, str]) -> object:
        return await house.lifecycle.update(
            house.mine.caller, "production/a", name=name, metadata=metadata, check=lambda _: None
        )

    with pytest.raises(errors.KeyNameTaken):
        await change("b", {})
    await change(None, {"chain": "", "network": "mainnet"})
    await change(None, {"network": "mainnet"})
    await change("c", {})
    key = await house.catalogue.get(house.mine.id, "production/c", bounds=UNBOUND)
    assert key.metadata == {"network": "mainnet"}
    assert (await house.events()).count("key.updated") == 2


async def test_another_organizations_key_is_not_found_by_id_or_name(house: House, engine: AsyncEngine) -> None:
    (key,) = await house.creation.create(house.mine.caller, [wish("mine")])
    other = await found_organization(engine, keys_of=0)
    for reference in ("production/mine", f"key_{'0' * 26}", "nonsense"):
        with pytest.raises(errors.KeyNotFound):
            await house.catalogue.get(other.id, reference, bounds=UNBOUND)
    with pytest.raises(errors.KeyNotFound):
        await house.lifecycle.delete(other.caller, "production/mine", force=True)
    assert (await house.catalogue.get(house.mine.id, "production/mine", bounds=UNBOUND)).state is KeyState.ENABLED
    assert key.id.hex in house.vault.keys


async def test_lists_are_stable_pages_with_filters(house: House) -> None:
    await house.creation.create(house.mine.caller, [wish(f"k-{n}") for n in range(7)])
    await house.lifecycle.delete(house.mine.caller, "production/k-3", force=True)
    names: list[str] = []
    cursor = ""
    while True:
        page, cursor = await house.catalogue.list(
            house.mine.id, bounds=UNBOUND, limit=2, cursor=cursor, name_prefix="k-"
        )
        names += [key.name for key in page]
        if not cursor:
            break
    assert names == ["k-0", "k-1", "k-2", "k-4", "k-5", "k-6"]
    labelled, _ = await house.catalogue.list(
        house.mine.id, bounds=UNBOUND, limit=9, cursor="", labels={"chain": "celestia"}
    )
    assert len(labelled) == 6
    assert (await house.catalogue.list(house.mine.id, bounds=UNBOUND, limit=9, cursor="", labels={"chain": "x"}))[
        0
    ] == []
    destroyed, _ = await house.catalogue.list(
        house.mine.id, bounds=UNBOUND, limit=9, cursor="", state=KeyState.DESTROYED
    )
    assert [key.name for key in destroyed] == ["k-3"]
