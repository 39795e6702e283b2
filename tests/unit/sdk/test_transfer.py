"""Private keys in and out by both clients: what is sent, what is checked, what is overwritten."""

import asyncio
import os
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import (
    InternalError,
    KeyNotExportable,
    KeyPair,
    KeyPresent,
    VaultUnavailable,
    WrappingKeyUnknown,
)
from popsigner.gen.popsigner.v1 import ExportedVersion, ExportKeyResponse
from popsigner.keyfiles import InvalidPrivateKey, Secret
from popsigner_server.gen.popsigner.v1 import key_pb2

from .key_pop import KeyPop, public_hex, rsa_key, sealed, unwrapped, wrapping_key
from .migrating import wiped
from .scripted_pop import Context
from .test_client import done
from .test_key_life import either as either

SECRET = bytes.fromhex("11" * 32)
NAME = "production/sequencer"


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair()


async def test_an_imported_key_arrives_as_it_is(either: Any, keys: KeyPop, made: list[Secret]) -> None:
    mine = bytearray(SECRET)
    key = await done(either.keys.import_key(mine, name="sequencer", exportable=True, metadata={"chain": "celestia"}))

    assert (key.public_key, key.exportable) == (public_hex(SECRET), True)
    assert keys.secrets == {NAME: [SECRET]}
    (seen,) = keys.pop.called("KeyService/ImportKey")
    assert len(seen.request.ciphertext) == 384 + 40
    assert seen.request.wrapping_key_id == wrapping_key().id
    assert dict(seen.request.metadata) == {"chain": "celestia"}
    assert SECRET not in seen.request.SerializeToString()
    # The caller's buffer is the caller's; the copy of it is gone.
    assert mine == SECRET
    assert wiped(made)


async def test_a_key_that_was_wrapped_elsewhere_is_sent_as_it_is(either: Any, keys: KeyPop) -> None:
    found = await done(either.keys.wrapping_key())
    assert (found.id, found.wrapping) == (wrapping_key().id, "RSA-OAEP-SHA256+AES-KWP")
    ciphertext = sealed(SECRET, found.public_key)
    key = await done(either.keys.import_wrapped(ciphertext, wrapping_key_id=found.id, name="sequencer"))
    assert key.public_key == public_hex(SECRET)


async def test_a_wrapping_key_that_was_replaced_is_read_anew_once(either: Any, keys: KeyPop) -> None:
    keys.refuse("KeyService/ImportKey", grpc.StatusCode.FAILED_PRECONDITION, "WRAPPING_KEY_UNKNOWN")
    await done(either.keys.import_key(SECRET, name="sequencer"))
    assert keys.secrets == {NAME: [SECRET]}

    for _ in range(2):
        keys.refuse("KeyService/ImportKey", grpc.StatusCode.FAILED_PRECONDITION, "WRAPPING_KEY_UNKNOWN")
    with pytest.raises(WrappingKeyUnknown):
        await done(either.keys.import_key(os.urandom(32), name="other"))
    assert len(keys.pop.called("KeyService/ImportKey")) == 4


async def test_an_import_is_sent_once_and_its_copies_are_overwritten(
    either: Any, keys: KeyPop, made: list[Secret]
) -> None:
    keys.refuse("KeyService/ImportKey", grpc.StatusCode.UNAVAILABLE, "VAULT_UNAVAILABLE")
    with pytest.raises(VaultUnavailable):
        await done(either.keys.import_key(SECRET, name="sequencer"))
    assert len(keys.pop.called("KeyService/ImportKey")) == 1
    assert wiped(made)

    keys.secrets["production/there"] = [SECRET]
    with pytest.raises(KeyPresent):
        await done(either.keys.import_key(SECRET, name="sequencer"))
    assert wiped(made)


@pytest.mark.parametrize("wrong", [b"", bytes(32), b"\xff" * 32, bytes(31), bytes(33)])
async def test_what_is_no_private_key_is_not_sent(either: Any, keys: KeyPop, wrong: bytes) -> None:
    with pytest.raises(InvalidPrivateKey):
        await done(either.keys.import_key(wrong, name="sequencer"))
    assert keys.pop.seen == []


async def test_a_pop_that_answers_for_another_private_key_is_found_out(either: Any, keys: KeyPop) -> None:
    keys.swapped = os.urandom(32)
    with pytest.raises(InternalError, match="imported another private key"):
        await done(either.keys.import_key(SECRET, name="sequencer"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": "0" * 64}, "not the one that its id names"),
        ({"wrapping": "RSA-PKCS1"}, "a form that this version does not know"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----"}, "not an RSA key"),
    ],
)
async def test_nothing_is_wrapped_to_another_wrapping_key(
    either: Any, keys: KeyPop, change: dict[str, Any], sentence: str
) -> None:
    answer = wrapping_key()
    answer.MergeFrom(key_pb2.GetWrappingKeyResponse(**change))
    keys.pop.answer("KeyService/GetWrappingKey", answer)
    with pytest.raises(InternalError, match=sentence):
        await done(either.keys.import_key(SECRET, name="sequencer"))
    assert keys.pop.called("KeyService/ImportKey") == []


async def test_a_private_key_is_handed_out_and_overwritten(either: Any, keys: KeyPop) -> None:
    keys.secrets[NAME], keys.exportable = [os.urandom(32), SECRET], {NAME}
    with await done(either.keys.export_private(NAME)) as secret:
        assert (type(secret.scalar), bytes(secret.scalar)) == (bytearray, SECRET)
    assert secret.scalar == bytes(32)
    (seen,) = keys.pop.called("KeyService/ExportKey")
    assert (seen.request.key_id, list(seen.request.versions)) == (NAME, [])
    with await done(either.keys.export_private(NAME, version=1)) as secret:
        assert bytes(secret.scalar) == keys.secrets[NAME][0]


async def test_one_key_pair_serves_many_exports(either: Any, keys: KeyPop, pair: KeyPair) -> None:
    keys.secrets[NAME], keys.exportable = [SECRET], {NAME}
    for _ in range(2):
        (await done(either.keys.export_private(NAME, key_pair=pair))).wipe()
    assert {seen.request.recipient for seen in keys.pop.called("KeyService/ExportKey")} == {pair.recipient}


async def test_an_export_is_repeated_after_a_failure(either: Any, keys: KeyPop, pair: KeyPair) -> None:
    keys.secrets[NAME], keys.exportable = [SECRET], {NAME}
    keys.refuse("KeyService/ExportKey", grpc.StatusCode.UNAVAILABLE, "VAULT_UNAVAILABLE")
    with await done(either.keys.export_private(NAME, key_pair=pair)) as secret:
        assert bytes(secret.scalar) == SECRET
    keys.exportable.clear()
    with pytest.raises(KeyNotExportable):
        await done(either.keys.export_private(NAME, key_pair=pair))


async def test_a_private_key_of_another_public_key_is_not_handed_out(
    either: Any, keys: KeyPop, made: list[Secret], pair: KeyPair
) -> None:
    keys.secrets[NAME], keys.exportable, keys.swapped = [SECRET], {NAME}, os.urandom(32)
    with pytest.raises(InternalError, match="another private key as version 1"):
        await done(either.keys.export_private(NAME, key_pair=pair))
    assert wiped(made)


async def test_another_version_is_not_handed_out(either: Any, keys: KeyPop, made: list[Secret], pair: KeyPair) -> None:
    async def behaviour(request: key_pb2.ExportKeyRequest, _context: Context) -> Message:
        exported = key_pb2.ExportedVersion(
            version=2, public_key=public_hex(SECRET), ciphertext=sealed(SECRET, request.recipient)
        )
        return key_pb2.ExportKeyResponse(wrapping="RSA-OAEP-SHA256+AES-KWP", versions=[exported])

    keys.pop.on("KeyService/ExportKey", behaviour)
    with pytest.raises(InternalError, match="another version"):
        await done(either.keys.export_private(NAME, version=1, key_pair=pair))
    assert wiped(made)


def test_each_changed_byte_of_an_export_is_noticed(pair: KeyPair) -> None:
    ciphertext = sealed(SECRET, pair.recipient)
    wrong = [ciphertext[:length] for length in (0, 383, 384, len(ciphertext) - 1)] + [ciphertext + b"\0"]
    for place in range(0, len(ciphertext), 37):
        wrong.append(bytes([*ciphertext[:place], ciphertext[place] ^ 1, *ciphertext[place + 1 :]]))
    wrong += [sealed(bytes(32), pair.recipient), sealed(SECRET[1:], pair.recipient)]
    for each in wrong:
        version = ExportedVersion(version=1, public_key=public_hex(SECRET), ciphertext=each)
        with pytest.raises(InternalError, match="does not open"):
            pair.open(ExportKeyResponse(wrapping="RSA-OAEP-SHA256+AES-KWP", versions=[version]))


def test_of_several_versions_none_is_left_behind_when_one_is_wrong(pair: KeyPair, made: list[Secret]) -> None:
    good = ExportedVersion(version=1, public_key=public_hex(SECRET), ciphertext=sealed(SECRET, pair.recipient))
    bad = ExportedVersion(version=2, public_key=public_hex(SECRET), ciphertext=b"")
    with pytest.raises(InternalError, match="version 2"):
        pair.open(ExportKeyResponse(wrapping="RSA-OAEP-SHA256+AES-KWP", versions=[good, bad]))
    assert wiped(made)


def test_a_key_pair_shows_and_gives_nothing_away(pair: KeyPair) -> None:
    assert "PRIVATE" not in repr(pair)
    with pytest.raises(TypeError):
        pair.__reduce__()


async def test_a_cancelled_import_overwrites_its_copy(async_client: Any, keys: KeyPop, made: list[Secret]) -> None:
    arrived = asyncio.Event()

    async def behaviour(_request: Any, context: Context) -> Message:
        loop.call_soon_threadsafe(arrived.set)
        await asyncio.sleep(60)
        raise AssertionError

    loop = asyncio.get_running_loop()
    keys.pop.on("KeyService/ImportKey", behaviour)
    importing = asyncio.create_task(async_client.keys.import_key(SECRET, name="sequencer"))
    await asyncio.wait_for(arrived.wait(), 10)
    assert not wiped(made)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert wiped(made)


def test_the_scripted_pop_unwraps_as_the_standards_say() -> None:
    ciphertext = sealed(SECRET, wrapping_key().public_key)
    assert unwrapped(ciphertext) == SECRET
    assert rsa_key(0).key_size == 3072
