"""Imports that were interrupted, over a real database: the same command finishes them, and whatever overlaps,
nothing is left in the vault that no row leads to."""

import asyncio

import coincurve
import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.keys.reservations import Reservation
from popsigner_server.storage.tables import keys
from popsigner_server.vault import Placed
from tests.integration.keys.arrivals import created_at, interrupted, new, register, wish
from tests.integration.keys.desk import SOMEBODY, Desk
from tests.support.memory_vault import MemoryVault

CREATING, ENABLED, ABANDONED = KeyState.CREATING, KeyState.ENABLED, KeyState.ABANDONED


@pytest.mark.parametrize("in_the_vault", [False, True])
async def test_the_same_command_finishes_what_was_interrupted(desk: Desk, in_the_vault: bool) -> None:
    secret = new()
    reserved = await interrupted(desk, secret if in_the_vault else None)
    with pytest.raises(errors.KeyNotFound):
        await desk.key("production/subject")
    key = await desk.bring_in(secret)
    assert (key.id, key.state) == (reserved.key_id, ENABLED)
    assert await desk.states() == [("subject", ENABLED)]
    assert [row.event for row in await desk.trail()] == ["key.imported"]
    assert set(desk.vault.keys) == {key.id.hex}
    await desk.sign("production/subject")


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True)])
async def test_the_repetitions_own_wishes_hold_as_far_as_the_vault_gave_them(
    desk: Desk, first: bool, then: bool
) -> None:
    """What the vault did not make exportable never becomes so, and what nobody wishes any more is given up there."""
    secret = new()
    await interrupted(desk, secret, exportable=first)
    key = await desk.importing.bring_in(
        desk.mine.caller, wish(exportable=then, of="then"), ciphertext=b"memory:" + secret, wrapping_key=""
    )
    assert (key.exportable, key.metadata) == (first and then, {"of": "then"})
    assert (key.id.hex in desk.vault.exportable) == (first and then)


async def test_a_repetition_with_another_private_key_is_refused_and_prolongs_nothing(desk: Desk) -> None:
    reserved = await interrupted(desk, new())
    with pytest.raises(errors.KeyNameTaken, match="production/subject") as refusal:
        await desk.bring_in(new())
    assert reserved.key_id.hex not in refusal.value.detail
    assert await created_at(desk, reserved.key_id) == reserved.since
    await desk.age()
    await desk.lifecycle.sweep()
    assert (desk.vault.keys, await desk.states()) == ({}, [])
    await desk.bring_in(new())


async def test_nothing_takes_over_the_row_of_a_creation_nor_a_creation_that_of_an_import(desk: Desk) -> None:
    await desk.reservations.reserve(desk.mine.caller, [wish()])
    with pytest.raises(errors.KeyNameTaken):
        await desk.bring_in(new())
    await desk.age()
    await desk.lifecycle.sweep()
    await interrupted(desk, None)
    with pytest.raises(errors.KeyNameTaken):
        await desk.create("subject")


async def test_a_vault_that_does_not_answer_leaves_the_row_for_the_repetition(desk: Desk) -> None:
    secret = new()
    desk.vault.away = True
    with pytest.raises(errors.VaultUnavailable):
        await desk.bring_in(secret)
    assert await desk.states() == [("subject", CREATING)]
    desk.vault.away = False
    assert (await desk.bring_in(secret)).state is ENABLED


async def test_a_caller_that_goes_away_does_not_cut_an_import_in_half(desk: Desk) -> None:
    call = asyncio.create_task(desk.bring_in(new()))
    await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await desk.reservations.close()
    assert (await desk.key("production/subject")).state is ENABLED


async def test_who_made_the_row_and_is_refused_leaves_it_to_who_took_it_over(desk: Desk) -> None:
    first = await interrupted(desk, None)
    (second,) = await desk.reservations.reserve(desk.mine.caller, [wish()], imported=True)
    assert (second.key_id, second.before) == (first.key_id, first.since)
    await desk.reservations.withdraw(first)
    assert await desk.states() == [("subject", CREATING)]
    # And the other way round: refused, the second gives it back, and the first may end it.
    await desk.reservations.withdraw(second)
    assert await created_at(desk, first.key_id) == first.since
    await desk.reservations.withdraw(first)
    assert await desk.states() == [("subject", ABANDONED)]


async def completed(desk: Desk, reserved: Reservation, secret: bytes) -> Key:
    """The last step of an import that was away between its steps."""
    public_key = coincurve.PrivateKey(secret).public_key.format()
    placed = Placed(public_key=public_key, exportable=False, recovery_recipient="")
    (key,) = await desk.reservations.complete(desk.mine.caller, {reserved.key_id: (reserved.wish, placed)})
    return key


async def test_whoever_completes_first_has_the_key_and_the_other_finds_the_name_taken(desk: Desk) -> None:
    secret = new()
    first = await interrupted(desk, secret)
    (second,) = await desk.reservations.reserve(desk.mine.caller, [wish()], imported=True)
    await completed(desk, first, secret)
    with pytest.raises(errors.KeyNameTaken, match="production/subject"):
        await completed(desk, second, secret)
    assert [row.event for row in await desk.trail()] == ["key.imported"]


async def test_the_sweeper_ends_an_import_that_never_comes_back_and_its_completion_fails_then(desk: Desk) -> None:
    secret = new()
    reserved = await interrupted(desk, secret)
    assert await desk.lifecycle.sweep() == 0
    await desk.age()
    assert await desk.lifecycle.sweep() == 1
    assert desk.vault.keys == {}
    with pytest.raises(errors.DeadlinePassed):
        await completed(desk, reserved, secret)
    assert (await desk.trail(), await desk.states()) == ([], [])
    assert (await desk.bring_in(secret)).id != reserved.key_id


async def test_the_sweeper_leaves_what_has_just_been_taken_over(desk: Desk) -> None:
    reserved = await interrupted(desk, None)
    await desk.age()
    # It finds the row old, and waits for the one who is taking it over.
    async with desk.engine.begin() as connection:
        await connection.execute(
            update(keys).where(keys.c.id == reserved.key_id).values(created_at=func.clock_timestamp())
        )
        sweep = asyncio.create_task(desk.lifecycle.sweep())
        await asyncio.sleep(0.3)
        assert not sweep.done()
    assert await sweep == 0
    assert await desk.states() == [("subject", CREATING)]
    await desk.age()
    await desk.bring_in(new())
    assert await created_at(desk, reserved.key_id) > reserved.since


@pytest.mark.parametrize("destroyed", [True, False], ids=["destroyed", "being destroyed"])
async def test_what_arrives_in_the_vault_after_the_keys_destruction_is_destroyed_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, destroyed: bool
) -> None:
    """Two identical imports; one completes, its key is destroyed by force, and then the vault hears from the other."""
    secret, bring_in = new(), MemoryVault.bring_in

    async def late(vault: MemoryVault, name: str, **wrapped: object) -> Placed:
        monkeypatch.setattr(MemoryVault, "bring_in", bring_in)
        await desk.bring_in(secret)
        if destroyed:
            await desk.lifecycle.delete(desk.mine.caller, "production/subject", force=True)
        else:
            # The destruction has begun, and its server has ended behind the vault's part.
            vault.away = True
            with pytest.raises(errors.VaultUnavailable):
                await desk.lifecycle.delete(desk.mine.caller, "production/subject", force=True)
            vault.away = False
            await vault.destroy(name)
        return await bring_in(vault, name, **wrapped)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryVault, "bring_in", late)
    with pytest.raises(errors.DeadlinePassed):
        await desk.bring_in(secret)
    assert desk.vault.keys == {}
    assert [row.event for row in await desk.trail()][:2] == ["key.imported", "key.deleted"]


@pytest.mark.parametrize(("first", "then"), [(None, SOMEBODY), (SOMEBODY, None)])
async def test_a_repetition_writes_down_whom_the_vault_has_sealed_to(
    desk: Desk, first: str | None, then: str | None
) -> None:
    """The vault keeps what the first attempt said: the row tells the truth, so that the key is sealed anew."""
    await register(desk, first)
    secret = new()
    await interrupted(desk, secret)
    await register(desk, then)
    key = await desk.bring_in(secret)
    async with desk.engine.connect() as connection:
        query = select(keys.c.recovery_recipient).where(keys.c.id == key.id)
        assert (await connection.execute(query)).scalar_one() == first
    assert desk.vault.recipients.get(key.id.hex) == first


async def test_an_import_that_has_not_ended_is_no_key_yet(desk: Desk) -> None:
    reserved = await interrupted(desk, new(), exportable=True)
    reference = show(Prefix.KEY, reserved.key_id)
    for ask in (desk.sign(reference), desk.hand_out(reference), desk.key(reference)):
        with pytest.raises(errors.KeyNotFound):
            await ask
