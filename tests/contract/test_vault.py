"""What a vault is: one suite over OpenBao with the engine and over the stand-in of the tests."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat, verify
from popsigner_server.settings import Settings
from popsigner_server.vault import Refusal, Trip, Vault
from popsigner_server.vault.openbao import OpenBao
from tests.support.memory_vault import MAX_VERSIONS, MemoryVault
from tests.support.openbao import OpenBaoServer

FORMATS = list(SignatureFormat)


@pytest.fixture(scope="module")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started(quiet=True) as server:
        yield server


def settings_for(openbao: OpenBaoServer) -> Settings:
    return Settings(
        database_url="postgresql://unused/",
        bao_addr=openbao.bao.address,
        bao_secret_id_file=openbao.bao.secret_id_file,
        sealing_key_file=openbao.bao.secret_id_file,
        gateway_secret_file=openbao.bao.secret_id_file,
    )


@pytest.fixture(params=["memory", "openbao"])
async def vault(request: pytest.FixtureRequest) -> AsyncIterator[Vault]:
    made: Vault = (
        MemoryVault() if request.param == "memory" else OpenBao(settings_for(request.getfixturevalue("openbao")))
    )
    yield made
    await made.close()


def name() -> str:
    return os.urandom(16).hex()


async def test_every_format_of_every_item_verifies_by_its_own_key(vault: Vault) -> None:
    names = [name(), name(), name()]
    public_keys = [await vault.create(each, exportable=False) for each in names]
    digests = os.urandom(32 * 9)
    signed = await vault.sign(
        Trip(
            keys=tuple((each, 1) for each in names),
            key_index=[0, 1, 2] * 3,
            digests=digests,
            formats=[form.value for form in FORMATS for _ in range(3)],
        )
    )
    assert signed.refusals == {}
    for i, signature in enumerate(signed.signatures):
        assert verify(public_keys[i % 3], digests[32 * i : 32 * i + 32], signature, FORMATS[i // 3])


async def test_version_0_is_the_latest_and_a_refused_key_fails_alone(vault: Vault) -> None:
    good = name()
    await vault.create(good, exportable=False)
    signed = await vault.sign(
        Trip(
            keys=((good, 0), (name(), 1), (good, 9)),
            key_index=[0, 1, 2, 0],
            digests=bytes(128),
            formats=[SignatureFormat.COMPACT.value] * 4,
        )
    )
    assert [len(signature) for signature in signed.signatures] == [64, 0, 0, 64]
    assert signed.refusals == {1: Refusal.UNKNOWN_KEY, 2: Refusal.VERSION_UNAVAILABLE}


async def test_the_same_digest_gives_the_same_signature(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False)
    trip = Trip(keys=((key, 1),), key_index=[0, 0], digests=b"\x07" * 64, formats=[SignatureFormat.DER.value] * 2)
    first, second = (await vault.sign(trip)).signatures
    assert first == second == (await vault.sign(trip)).signatures[0]


async def test_a_creation_that_is_repeated_finds_the_same_key(vault: Vault) -> None:
    key = name()
    made = await asyncio.gather(*(vault.create(key, exportable=True) for _ in range(5)))
    assert len(set(made)) == 1
    assert len(made[0]) == 33


async def test_a_destroyed_key_signs_no_more_and_destroying_again_changes_nothing(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False)
    for _ in range(2):
        await vault.destroy(key)
    signed = await vault.sign(
        Trip(keys=((key, 1),), key_index=[0], digests=bytes(32), formats=[SignatureFormat.COMPACT.value])
    )
    assert signed.refusals == {0: Refusal.UNKNOWN_KEY}


async def test_a_rotation_makes_a_version_once_and_older_ones_sign_on(vault: Vault) -> None:
    key = name()
    first = await vault.create(key, exportable=False)
    made = await asyncio.gather(*(vault.rotate(key, to_version=2) for _ in range(5)))
    third = await vault.rotate(key, to_version=3)
    assert len({first, third, *made}) == 3
    assert await vault.rotate(key, to_version=2) == made[0]
    assert await vault.rotate(key, to_version=1) == first
    digests = os.urandom(32 * 4)
    signed = await vault.sign(
        Trip(
            keys=tuple((key, version) for version in (1, 2, 3, 0)),
            key_index=[0, 1, 2, 3],
            digests=digests,
            formats=[SignatureFormat.COMPACT.value] * 4,
        )
    )
    for i, public_key in enumerate((first, made[0], third, third)):
        digest = digests[32 * i : 32 * i + 32]
        assert verify(public_key, digest, signed.signatures[i], SignatureFormat.COMPACT)


async def test_a_rotation_leaves_no_gap_and_knows_no_key_that_is_gone(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False)
    with pytest.raises(errors.VaultUnavailable):
        await vault.rotate(key, to_version=3)
    await vault.rotate(key, to_version=2)
    await vault.destroy(key)
    with pytest.raises(errors.KeyNotFound):
        await vault.rotate(key, to_version=3)


async def test_a_key_with_every_version_that_it_can_have_is_exhausted(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False)
    for version in range(2, MAX_VERSIONS + 1):
        await vault.rotate(key, to_version=version)
    with pytest.raises(errors.KeyVersionsExhausted):
        await vault.rotate(key, to_version=MAX_VERSIONS + 1)


async def test_a_vault_that_serves_says_so(vault: Vault) -> None:
    assert await vault.is_ready()


async def test_a_vault_that_is_away_is_unavailable_and_not_ready(openbao: OpenBaoServer) -> None:
    away = OpenBao(settings_for(openbao).model_copy(update={"bao_addr": "http://127.0.0.1:1"}))
    assert not await away.is_ready()
    with pytest.raises(errors.VaultUnavailable):
        await away.create(name(), exportable=False)
    await away.close()


async def test_a_token_that_openbao_forgot_is_replaced_within_the_call(openbao: OpenBaoServer) -> None:
    vault = OpenBao(settings_for(openbao))
    key = name()
    await vault.create(key, exportable=False)
    vault._token = "s.forgotten"
    trip = Trip(keys=((key, 1),), key_index=[0], digests=bytes(32), formats=[SignatureFormat.COMPACT.value])
    signed = await asyncio.gather(*(vault.sign(trip) for _ in range(8)))
    assert all(one.refusals == {} for one in signed)
    await vault.close()


async def test_a_wrong_secret_id_is_unavailable_and_named_for_the_operator(openbao: OpenBaoServer) -> None:
    wrong = openbao.home / "wrong-secret-id"
    wrong.write_text("not it")
    vault = OpenBao(settings_for(openbao).model_copy(update={"bao_secret_id_file": wrong}))
    with pytest.raises(errors.VaultUnavailable, match="log this server in"):
        await vault.create(name(), exportable=False)
    await vault.close()
