"""Private keys that come from outside, over a real database: what is refused leaves nothing, and of many at the same
moment one comes in."""

import asyncio
from dataclasses import replace

import coincurve
import pytest
from sqlalchemy import func, select, update

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Bounds
from popsigner_server.storage.tables import api_keys, keys, organizations
from popsigner_server.vault import Placed
from tests.integration.keys.arrivals import interrupted, new, outcomes, register, wish
from tests.integration.keys.desk import SOMEBODY, Desk
from tests.support.memory_vault import MemoryVault

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ENABLED, ABANDONED = KeyState.ENABLED, KeyState.ABANDONED


async def test_an_imported_key_is_in_the_vault_the_catalogue_and_the_ledger_and_signs(desk: Desk) -> None:
    secret = new()
    ciphertext = b"memory:" + secret
    key = await desk.importing.bring_in(
        desk.mine.caller, wish(exportable=True, chain="celestia"), ciphertext=ciphertext, wrapping_key="0" * 64
    )
    assert key.public_key == coincurve.PrivateKey(secret).public_key.format()
    assert (key.imported, key.exportable, key.metadata) == (True, True, {"chain": "celestia"})
    assert key == await desk.key("production/subject")
    assert (await desk.sign("production/subject")).key.public_key == key.public_key.hex()
    told, signed = await desk.trail()
    assert (told.event, told.resource_id, signed.event) == ("key.imported", key.id, "key.signed")
    assert told.metadata == {
        "name": "production/subject",
        "public_key": key.public_key.hex(),
        "address": key.address,
    }
    # And it goes on as any other key.
    rotated, _ = await desk.rotation.rotate(desk.mine.caller, "production/subject", expected=1)
    assert (rotated.version, rotated.imported) == (2, True)
    created = await desk.key(await desk.create("other"))
    assert not created.imported


@pytest.mark.parametrize(
    ("ciphertext", "wrapping_key", "refusal"),
    [
        pytest.param(b"memory:" + bytes(32), "", errors.PrivateKeyInvalid, id="0"),
        pytest.param(b"memory:" + ORDER.to_bytes(32, "big"), "", errors.PrivateKeyInvalid, id="n"),
        pytest.param(b"memory:" + (ORDER + 1).to_bytes(32, "big"), "", errors.PrivateKeyInvalid, id="n + 1"),
        pytest.param(b"memory:" + b"\x01" * 31, "", errors.PrivateKeyInvalid, id="31 bytes"),
        pytest.param(b"memory:" + b"\x01" * 33, "", errors.PrivateKeyInvalid, id="33 bytes"),
        pytest.param(b"memorz:" + b"\x01" * 32, "", errors.WrappedKeyInvalid, id="changed on the way"),
        pytest.param(b"memory:" + b"\x01" * 32, "1" * 64, errors.WrappingKeyUnknown, id="another wrapping key"),
    ],
)
async def test_what_is_no_wrapped_private_key_leaves_nothing(
    desk: Desk, ciphertext: bytes, wrapping_key: str, refusal: type[errors.SignerError]
) -> None:
    with pytest.raises(refusal):
        await desk.importing.bring_in(desk.mine.caller, wish(), ciphertext=ciphertext, wrapping_key=wrapping_key)
    assert await desk.states() == [("subject", ABANDONED)]
    assert (desk.vault.keys, await desk.trail()) == ({}, [])
    # The name is free at once, and the row goes with the next sweep.
    await desk.bring_in(new())
    await desk.age()
    await desk.lifecycle.sweep()
    assert await desk.states() == [("subject", ENABLED)]
    assert len(desk.vault.keys) == 1


async def test_a_private_key_that_is_in_the_pop_is_not_brought_in_again(desk: Desk) -> None:
    secret = new()
    key = await desk.bring_in(secret)
    with pytest.raises(errors.KeyPresent) as refusal:
        await desk.bring_in(secret, "other")
    # Whose it is, and what it is called, is not said.
    assert key.id.hex not in refusal.value.detail
    assert "subject" not in refusal.value.detail
    await desk.create("other")
    assert len(desk.vault.keys) == 2


async def test_a_name_that_is_taken_is_said_as_the_caller_knows_it(desk: Desk) -> None:
    secret = new()
    await desk.bring_in(secret)
    await desk.create("created")
    for taken, again in (("subject", secret), ("subject", new()), ("created", new())):
        with pytest.raises(errors.KeyNameTaken, match=f"production/{taken}"):
            await desk.bring_in(again, taken)
    with pytest.raises(errors.KeyNameTaken, match="production/subject"):
        await desk.create("subject")
    # Also while it can be restored.
    await desk.lifecycle.delete(desk.mine.caller, "production/subject", force=False)
    with pytest.raises(errors.KeyNameTaken):
        await desk.bring_in(secret)
    await desk.lifecycle.delete(desk.mine.caller, "production/subject", force=True)
    assert (await desk.bring_in(secret)).state is ENABLED


async def test_sixteen_identical_imports_at_once_make_one_key(desk: Desk) -> None:
    secret = new()
    ends = await asyncio.gather(*(desk.bring_in(secret) for _ in range(16)), return_exceptions=True)
    (key,), refusals = outcomes(ends)
    assert refusals <= {errors.KeyNameTaken}
    assert await desk.states() == [("subject", ENABLED)]
    assert set(desk.vault.keys) == {key.id.hex}
    assert [row.event for row in await desk.trail()] == ["key.imported"]


async def test_of_sixteen_private_keys_under_one_name_one_comes_in(desk: Desk) -> None:
    secrets = [new() for _ in range(16)]
    ends = await asyncio.gather(*map(desk.bring_in, secrets), return_exceptions=True)
    (key,), refusals = outcomes(ends)
    assert refusals == {errors.KeyNameTaken}
    assert {name: held.public_key.format() for name, held in desk.vault.keys.items()} == {key.id.hex: key.public_key}
    assert await desk.states() == [("subject", ENABLED)]


async def test_of_sixteen_names_for_one_private_key_one_comes_in_and_the_others_are_free(desk: Desk) -> None:
    secret = new()
    names = [f"subject-{number}" for number in range(16)]
    ends = await asyncio.gather(*(desk.bring_in(secret, name) for name in names), return_exceptions=True)
    (key,), refusals = outcomes(ends)
    assert refusals == {errors.KeyPresent}
    assert [name for name, state in await desk.states() if state is not ABANDONED] == [key.name]
    for name in names:
        if name != key.name:
            await desk.create(name)


async def test_a_right_that_ends_during_the_import_leaves_no_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_in = MemoryVault.bring_in

    async def revoked_meanwhile(vault: MemoryVault, name: str, **wrapped: object) -> Placed:
        placed = await bring_in(vault, name, **wrapped)  # type: ignore[arg-type]
        async with desk.engine.begin() as connection:
            actor = desk.mine.caller.principal.actor_id
            await connection.execute(update(api_keys).where(api_keys.c.id == actor).values(revoked_at=func.now()))
        return placed

    monkeypatch.setattr(MemoryVault, "bring_in", revoked_meanwhile)
    with pytest.raises(errors.ApiKeyRevoked):
        await desk.bring_in(new())
    # Nor does it begin another.
    with pytest.raises(errors.ApiKeyRevoked):
        await desk.bring_in(new(), "other")
    await desk.age()
    await desk.lifecycle.sweep()
    assert (desk.vault.keys, await desk.states(), await desk.trail()) == ({}, [], [])


async def test_imports_count_as_creations_do_and_a_repetition_counts_once(desk: Desk) -> None:
    async with desk.engine.begin() as connection:
        await connection.execute(update(organizations).where(organizations.c.id == desk.mine.id).values(plan="free"))
    secret = new()
    await interrupted(desk, secret)
    ends = await asyncio.gather(*(desk.bring_in(new(), f"w-{number}") for number in range(20)), return_exceptions=True)
    made, refusals = outcomes(ends)
    assert (len(made), refusals) == (2, {errors.QuotaExceeded})
    # The plan is used up, and the place that was reserved is there still.
    assert (await desk.bring_in(secret)).state is ENABLED
    with pytest.raises(errors.QuotaExceeded):
        await desk.create("fourth")


async def test_who_is_limited_imports_into_what_is_within(desk: Desk) -> None:
    there = await desk.key(await desk.create("other"))
    principal = desk.mine.caller.principal
    for bounds, refusal in (
        (Bounds(key_ids=frozenset({there.id})), errors.ApiKeyRestricted),
        (Bounds(namespace_ids=frozenset({there.id})), errors.NamespaceNotFound),
    ):
        limited = replace(desk.mine.caller, principal=replace(principal, bounds=bounds))
        with pytest.raises(refusal):
            await desk.bring_in(new(), caller=limited)
    within = Bounds(namespace_ids=frozenset({there.namespace_id}))
    limited = replace(desk.mine.caller, principal=replace(principal, bounds=within))
    assert (await desk.bring_in(new(), caller=limited)).imported
    assert [name for name, _ in await desk.states()] == ["other", "subject"]


async def test_new_keys_are_sealed_to_the_organizations_recipient(desk: Desk) -> None:
    await register(desk, SOMEBODY)
    made = [await desk.key(await desk.create("created")), await desk.bring_in(new())]
    await register(desk, None)
    bare = await desk.key(await desk.create("bare"))
    async with desk.engine.connect() as connection:
        query = select(keys.c.id, keys.c.recovery_recipient).where(keys.c.org_id == desk.mine.id)
        known = {row.id: row.recovery_recipient for row in await connection.execute(query)}
    assert known == {**{key.id: SOMEBODY for key in made}, bare.id: None}
    assert desk.vault.recipients == {key.id.hex: SOMEBODY for key in made}
