"""What a vault is: one suite over OpenBao with the engine and over the stand-in of the tests."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator

import coincurve
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat, verify
from popsigner_server.settings import Settings
from popsigner_server.vault import Placed, Refusal, SealedVersion, Trip, Vault
from popsigner_server.vault.openbao import OpenBao
from tests.support.memory_vault import MAX_VERSIONS, MemoryVault
from tests.support.openbao import OpenBaoServer
from tests.support.wrapping import pem_of, unwrap, wrap

FORMATS = list(SignatureFormat)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
IDENTITY = pyrage.x25519.Identity.generate()
READER = str(IDENTITY.to_public())
RSA = rsa.generate_private_key(65_537, 3072)


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
    vault._connection._token = "s.forgotten"
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


async def wrapped(vault: Vault, secret: bytes) -> bytes:
    """What this vault takes for a wrapped private key; the stand-in encrypts nothing."""
    if isinstance(vault, MemoryVault):
        return b"memory:" + secret
    return wrap(secret, (await vault.wrapping_key()).public_key)


async def bring_in(
    vault: Vault, key: str, secret: bytes, *, wrapping_key: str = "", exportable: bool = False, recipient: str = ""
) -> Placed:
    return await vault.bring_in(
        key,
        ciphertext=await wrapped(vault, secret),
        wrapping_key=wrapping_key,
        exportable=exportable,
        recovery_recipient=recipient,
    )


def opened(vault: Vault, version: SealedVersion, recipient: str) -> bytes:
    """The private key that somebody gets who holds what the recipient is of."""
    if isinstance(vault, MemoryVault):
        return version.ciphertext.removeprefix(b"sealed:")
    if recipient != READER:
        return unwrap(version.ciphertext, RSA)
    document = json.loads(pyrage.decrypt(version.ciphertext, [IDENTITY]))
    assert (document["version"], document["public_key"]) == (version.version, version.public_key.hex())
    return bytes.fromhex(document["private_key"])


def public_key_of(secret: bytes) -> bytes:
    public_key: bytes = coincurve.PrivateKey(secret).public_key.format()
    return public_key


def new() -> bytes:
    secret: bytes = coincurve.PrivateKey().secret
    return secret


async def test_a_private_key_that_is_brought_in_signs_and_again_finds_itself(vault: Vault) -> None:
    key, secret = name(), new()
    wrapping_key = (await vault.wrapping_key()).id
    made = await asyncio.gather(*(bring_in(vault, key, secret, wrapping_key=wrapping_key) for _ in range(5)))
    assert set(made) == {Placed(public_key=public_key_of(secret), exportable=False, recovery_recipient="")}
    digest = os.urandom(32)
    signed = await vault.sign(
        Trip(keys=((key, 1),), key_index=[0], digests=digest, formats=[SignatureFormat.DER.value])
    )
    assert verify(public_key_of(secret), digest, signed.signatures[0], SignatureFormat.DER)


async def test_what_was_wished_for_first_stays_but_the_right_to_export_is_given_up(vault: Vault) -> None:
    key, secret = name(), new()
    public_key = public_key_of(secret)
    first = await bring_in(vault, key, secret, exportable=True, recipient=READER)
    assert first == Placed(public_key=public_key, exportable=True, recovery_recipient=READER)
    assert await bring_in(vault, key, secret, exportable=True) == first
    given_up = await bring_in(vault, key, secret)
    assert given_up == Placed(public_key=public_key, exportable=False, recovery_recipient=READER)
    assert await bring_in(vault, key, secret, exportable=True) == given_up
    with pytest.raises(errors.KeyNotExportable):
        await vault.export(key, recipient=READER, versions=[1])


@pytest.mark.parametrize(
    "secret",
    [bytes(32), ORDER.to_bytes(32, "big"), (ORDER + 1).to_bytes(32, "big"), b"\x01" * 31, b"\x01" * 33],
    ids=["0", "n", "n + 1", "31 bytes", "33 bytes"],
)
async def test_what_is_no_private_key_is_not_brought_in(vault: Vault, secret: bytes) -> None:
    key = name()
    with pytest.raises(errors.PrivateKeyInvalid):
        await bring_in(vault, key, secret)
    with pytest.raises(errors.KeyNotFound):
        await vault.recovery(key)
    await bring_in(vault, key, (ORDER - 1 - int.from_bytes(os.urandom(8), "big")).to_bytes(32, "big"))


async def test_what_does_not_open_or_was_not_wrapped_to_its_key_is_told_apart(vault: Vault) -> None:
    key, whole = name(), await wrapped(vault, new())
    for broken in (whole[:6], bytes([whole[0] ^ 1]) + whole[1:], b"nonsense"):
        with pytest.raises(errors.WrappedKeyInvalid):
            await vault.bring_in(key, ciphertext=broken, wrapping_key="", exportable=False)
    with pytest.raises(errors.WrappingKeyUnknown):
        await vault.bring_in(key, ciphertext=whole, wrapping_key="1" * 64, exportable=False)
    await vault.bring_in(key, ciphertext=whole, wrapping_key="", exportable=False)


async def test_a_private_key_has_one_name_and_a_name_one_private_key(vault: Vault) -> None:
    key, secret = name(), new()
    await bring_in(vault, key, secret)
    with pytest.raises(errors.KeyPresent):
        await bring_in(vault, name(), secret)
    with pytest.raises(errors.KeyNameTaken):
        await bring_in(vault, key, new())
    await vault.destroy(key)
    await bring_in(vault, name(), secret)


@pytest.mark.parametrize("recipient", [READER, pem_of(RSA)], ids=["age", "RSA"])
async def test_an_export_opens_to_the_private_keys_that_were_asked_for(vault: Vault, recipient: str) -> None:
    key, secret = name(), new()
    await bring_in(vault, key, secret, exportable=True)
    second = await vault.rotate(key, to_version=2)
    for asked, left in (([1], [1]), ([2], [2]), ([2, 1], [1, 2])):
        sealed = await vault.export(key, recipient=recipient, versions=asked)
        assert [version.version for version in sealed.versions] == left
        assert sealed.recipient == ""
        for version in sealed.versions:
            assert version.public_key == (second if version.version == 2 else public_key_of(secret))
            assert public_key_of(opened(vault, version, recipient)) == version.public_key


async def test_an_export_that_may_not_be_is_refused_by_its_reason(vault: Vault) -> None:
    key, other = name(), name()
    await vault.create(key, exportable=True)
    await vault.create(other, exportable=False)
    for refusal, asked, recipient, versions in (
        (errors.KeyNotFound, name(), READER, [1]),
        (errors.KeyNotExportable, other, READER, [1]),
        (errors.KeyVersionUnavailable, key, READER, [2]),
        (errors.InvalidField, key, "nobody", [1]),
    ):
        with pytest.raises(refusal):
            await vault.export(asked, recipient=recipient, versions=versions)


async def test_recovery_copies_are_of_every_version_exportable_or_not(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False, recovery_recipient=READER)
    await vault.rotate(key, to_version=2)
    copies = await vault.recovery(key)
    assert copies is not None
    assert (copies.recipient, [version.version for version in copies.versions]) == (READER, [1, 2])
    for version in copies.versions:
        assert public_key_of(opened(vault, version, READER)) == version.public_key


async def test_copies_are_sealed_anew_and_removed_again_and_again(vault: Vault) -> None:
    key = name()
    await vault.create(key, exportable=False)
    assert await vault.recovery(key) is None
    for recipient in (READER, READER, "", "", READER):
        await vault.seal(key, recipient=recipient)
        copies = await vault.recovery(key)
        assert (copies.recipient if copies else "") == recipient
    with pytest.raises(errors.InvalidField):
        await vault.seal(key, recipient="nobody")
    await vault.destroy(key)
    for ask in (vault.recovery(key), vault.seal(key, recipient=READER), vault.seal(key, recipient="")):
        with pytest.raises(errors.KeyNotFound):
            await ask
