"""A key's life: rotated and brought in, and nothing of it twice."""

import asyncio

import ecdsa
import pytest

from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import NONE, VERSION_UNAVAILABLE
from tests.unit.plugin.engines import (
    answered,
    asked,
    batch,
    bring_in,
    engine_on,
    public_key,
    refused,
    sign,
    with_wrapping_key,
)
from tests.unit.plugin.storage import MemoryStorage

N = ecdsa.SECP256k1.order
SCALAR = bytes(range(1, 33))


async def test_a_rotation_makes_a_version_that_signs_and_leaves_the_others() -> None:
    engine = engine_on(MemoryStorage())
    created = await asked(engine, "keys/k")
    rotated = await asked(engine, "keys/k/rotate")
    assert (rotated["key_version"], rotated["latest_version"], rotated["min_signing_version"]) == (2, 2, 1)
    assert rotated["versions"]["1"] == created["versions"]["1"]
    assert rotated["versions"]["2"]["public_key"] == rotated["public_key"] != created["public_key"]
    assert (await sign(engine, "k"))["public_key"] == rotated["public_key"]
    assert (await sign(engine, "k", 1))["public_key"] == created["public_key"]


async def test_a_rotation_to_a_named_version_happens_once() -> None:
    engine = engine_on(MemoryStorage())
    await asked(engine, "keys/k")
    first, *others = await asyncio.gather(*(asked(engine, "keys/k/rotate", to_version=2) for _ in range(5)))
    assert all(other == first for other in others)
    assert (await answered(engine, "read", "keys/k"))["latest_version"] == 2
    await asked(engine, "keys/k/rotate", to_version="3")
    again = await asked(engine, "keys/k/rotate", to_version=2)
    assert (again["key_version"], again["latest_version"]) == (2, 3)
    assert again["versions"]["2"]["public_key"] == first["public_key"]
    assert await refused(engine, "keys/k/rotate", to_version=5) == "VERSION_SKIPPED"
    assert await refused(engine, "keys/k/rotate", to_version=0) == "BAD_INPUT"
    assert await refused(engine, "keys/nobody/rotate") == "KEY_UNKNOWN"


async def test_the_minimum_reaches_the_next_batch_and_moves_both_ways() -> None:
    engine = engine_on(MemoryStorage())
    await asked(engine, "keys/k")
    for _ in range(2):
        await asked(engine, "keys/k/rotate")
    assert list((await batch(engine, "k", version=1)).versions) == [1]
    assert await refused(engine, "keys/k/config", min_signing_version=4) == "BAD_INPUT"
    await asked(engine, "keys/k/config", min_signing_version=3)
    for version, refusal in ((0, NONE), (1, VERSION_UNAVAILABLE), (2, VERSION_UNAVAILABLE), (3, NONE)):
        assert list((await batch(engine, "k", version=version)).refusals) == ([refusal] if refusal else [])
    assert await refused(engine, "sign/k", input="", key_version=2) == "VERSION_UNAVAILABLE"
    await asked(engine, "keys/k/rotate")
    assert (await answered(engine, "read", "keys/k"))["min_signing_version"] == 3
    await asked(engine, "keys/k/config", min_signing_version=1)
    assert list((await batch(engine, "k", version=1)).versions) == [1]


@pytest.mark.parametrize(
    ("scalar", "code"),
    [
        (bytes(32), "SCALAR_ZERO"),
        (N.to_bytes(32, "big"), "SCALAR_TOO_LARGE"),
        ((N + 1).to_bytes(32, "big"), "SCALAR_TOO_LARGE"),
        (b"\xff" * 32, "SCALAR_TOO_LARGE"),
        (b"\x01", "SCALAR_LENGTH"),
        (SCALAR[:-1], "SCALAR_LENGTH"),
        (SCALAR + b"\x01", "SCALAR_LENGTH"),
        (SCALAR.hex().encode(), "SCALAR_LENGTH"),
    ],
)
async def test_what_is_no_private_key_is_refused_by_its_own_name(scalar: bytes, code: str) -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    with pytest.raises(BadInput) as error:
        await bring_in(engine, "k", scalar)
    assert error.value.code == code
    assert storage.writes == []
    assert b"\x01"[0] == 1


@pytest.mark.parametrize("number", [1, 2, N - 1, N // 2])
async def test_a_private_key_that_was_brought_in_signs_as_the_owners(number: int) -> None:
    engine = engine_on(with_wrapping_key())
    scalar = number.to_bytes(32, "big")
    answer = await bring_in(engine, "k", scalar, exportable=True, deletion_allowed=True)
    assert answer["public_key"] == public_key(scalar)
    assert (answer["exportable"], answer["deletion_allowed"], answer["latest_version"]) == (True, True, 1)
    assert (await sign(engine, "k"))["public_key"] == public_key(scalar)


async def test_an_import_can_be_repeated_and_another_key_cannot_take_the_name() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    first = await bring_in(engine, "k", SCALAR)
    writes = len(storage.writes)
    assert await bring_in(engine, "k", SCALAR) == first
    assert len(storage.writes) == writes
    with pytest.raises(Conflict, match="NAME_TAKEN: "):
        await bring_in(engine, "k", b"\x05" * 32)
    rotated = await asked(engine, "keys/k/rotate")
    assert (await bring_in(engine, "k", SCALAR))["latest_version"] == rotated["latest_version"] == 2
    assert await refused(engine, "keys/k") == "NAME_TAKEN"


async def test_a_private_key_that_is_here_is_not_brought_in_under_another_name() -> None:
    engine = engine_on(with_wrapping_key())
    await bring_in(engine, "k", SCALAR, deletion_allowed=True)
    with pytest.raises(Conflict, match="KEY_PRESENT: ") as error:
        await bring_in(engine, "other", SCALAR)
    assert "'k'" not in str(error.value)
    await engine.handle("delete", "keys/k", {})
    assert (await bring_in(engine, "other", SCALAR))["public_key"] == public_key(SCALAR)
    with pytest.raises(Conflict, match="KEY_PRESENT: "):
        await bring_in(engine, "k", SCALAR)


async def test_of_many_imports_of_one_private_key_under_many_names_exactly_one_wins() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    results = await asyncio.gather(
        *(bring_in(engine, f"k{number % 4}", SCALAR) for number in range(8)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, dict)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert len(won) + len(lost) == 8
    assert {loser.code for loser in lost} == {"KEY_PRESENT"}
    assert all(one == won[0] for one in won)
    assert len(won) == 2
    assert [place for place in storage.blobs if place.startswith("keys/")] == [f"keys/{won[0]['name']}"]


async def test_two_imports_of_one_private_key_take_turns_from_the_look_up_to_the_write() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    storage.hold = {"put"}
    imports = [asyncio.create_task(bring_in(engine, name, SCALAR)) for name in ("a", "b")]
    await storage.reached.wait()
    # Time for the other one to come as far, if nothing keeps it.
    await asyncio.sleep(0.1)
    storage.gate.set()
    results = await asyncio.gather(*imports, return_exceptions=True)
    assert [isinstance(result, Conflict) for result in results].count(True) == 1
    assert sum(place.startswith("keys/") for place in storage.blobs) == 1


async def test_an_import_that_races_with_the_delete_of_the_same_private_key_keeps_its_entry() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    await bring_in(engine, "old", SCALAR, deletion_allowed=True)
    for _ in range(3):
        results = await asyncio.gather(
            engine.handle("delete", "keys/old", {}), bring_in(engine, "new", SCALAR, deletion_allowed=True),
            return_exceptions=True,
        )  # fmt: skip
        assert results[0] is None
        if isinstance(results[1], Conflict):
            assert results[1].code == "KEY_PRESENT"
            await bring_in(engine, "new", SCALAR, deletion_allowed=True)
        with pytest.raises(Conflict, match="KEY_PRESENT"):
            await bring_in(engine, "old", SCALAR)
        await engine.handle("delete", "keys/new", {})
        await bring_in(engine, "old", SCALAR, deletion_allowed=True)
