"""Signatures, single and packed, against an implementation other than libsecp256k1."""

import base64
import hashlib
import os
from typing import Any

import ecdsa
import pytest
from Crypto.Hash import keccak
from ecdsa.curves import SECP256k1
from ecdsa.util import sigdecode_der, sigdecode_string

from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import (
    DISABLED,
    NONE,
    UNKNOWN_KEY,
    VERSION_UNAVAILABLE,
    KeyVersion,
    PackedSignRequest,
    PackedSignResponse,
)
from tests.integration.engine.calls import create, encoded, packed, sign_batch
from tests.support.openbao import Vault

HALF = SECP256k1.order // 2


async def signed(vault: Vault, name: str, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    status, body = await vault.call("POST", f"sign/{name}", fields)
    assert status == 200, body
    return base64.b64decode(body["data"]["signature"]), body["data"]


async def valid(vault: Vault, name: str, **fields: Any) -> bool:
    status, body = await vault.call("POST", f"verify/{name}", fields)
    assert status == 200, body
    return bool(body["data"]["valid"])


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("sha256", lambda message: hashlib.sha256(message).digest()),
        ("keccak256", lambda message: keccak.new(digest_bits=256, data=message).digest()),
    ],
)
async def test_messages_are_hashed_signed_and_verified(vault: Vault, name: str, hashed: Any) -> None:
    key, public_key = await create(vault)
    message = os.urandom(1000)
    signature, data = await signed(vault, key, input=encoded(message), hash=name)
    assert (data["public_key"], data["key_version"]) == (public_key.hex(), 1)
    other = ecdsa.VerifyingKey.from_string(public_key, SECP256k1)
    assert other.verify_digest(signature, hashed(message))
    assert await valid(vault, key, input=encoded(message), hash=name, signature=encoded(signature))
    assert not await valid(vault, key, input=encoded(message + b"x"), hash=name, signature=encoded(signature))


async def test_the_three_formats_agree_and_repeat(vault: Vault) -> None:
    key, public_key = await create(vault)
    digest = os.urandom(32)
    ask = {"input": encoded(digest), "prehashed": True}
    forms = {form: (await signed(vault, key, **ask, format=form))[0] for form in ("compact", "recoverable", "der")}
    assert forms["recoverable"][:64] == forms["compact"]
    assert sigdecode_der(forms["der"], SECP256k1.order) == sigdecode_string(forms["compact"], SECP256k1.order)
    assert int.from_bytes(forms["compact"][32:], "big") <= HALF
    candidates = ecdsa.VerifyingKey.from_public_key_recovery_with_digest(
        forms["compact"], digest, SECP256k1, hashfunc=hashlib.sha256
    )
    assert candidates[forms["recoverable"][64]].to_string("compressed") == public_key
    for form, signature in forms.items():
        assert (await signed(vault, key, **ask, format=form))[0] == signature
        assert await valid(vault, key, **ask, format=form, signature=encoded(signature))


async def test_a_high_s_is_not_valid(vault: Vault) -> None:
    key, _ = await create(vault)
    ask = {"input": encoded(bytes(32)), "prehashed": True}
    signature, _ = await signed(vault, key, **ask)
    mirrored = SECP256k1.order - int.from_bytes(signature[32:], "big")
    high = signature[:32] + mirrored.to_bytes(32, "big")
    assert not await valid(vault, key, **ask, signature=encoded(high))


async def test_a_version_that_a_key_has_not_does_not_sign(vault: Vault) -> None:
    key, _ = await create(vault)
    ask = {"input": encoded(bytes(32)), "prehashed": True}
    assert (await signed(vault, key, **ask, key_version=1))[1]["key_version"] == 1
    status, body = await vault.call("POST", f"sign/{key}", {**ask, "key_version": 2})
    assert status == 400
    assert "versions 1 to 1" in str(body)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 257, 1024])
async def test_a_batch_of_any_size_is_what_single_signatures_are(vault: Vault, count: int) -> None:
    names, publics = zip(*[await create(vault) for _ in range(3)], strict=True)
    digests = [os.urandom(32) for _ in range(count)]
    key_index = [item % 3 for item in range(count)]
    answer = await sign_batch(vault, names, key_index, b"".join(digests))
    assert len(answer.signatures) == count
    assert list(answer.versions) == [1, 1, 1]
    assert list(answer.refusals) == []
    for item in {0, count // 2, count - 1}:
        other = ecdsa.VerifyingKey.from_string(publics[key_index[item]], SECP256k1)
        assert other.verify_digest(answer.signatures[item], digests[item])
    single, _ = await signed(vault, names[key_index[-1]], input=encoded(digests[-1]), prehashed=True)
    assert single == answer.signatures[-1]


async def test_a_batch_mixes_formats(vault: Vault) -> None:
    name, _ = await create(vault)
    formats = [item % 3 for item in range(100)]
    digest = os.urandom(32)
    answer = await sign_batch(vault, [name], [0] * 100, digest * 100, formats)
    for form, word in enumerate(("compact", "recoverable", "der")):
        single, _ = await signed(vault, name, input=encoded(digest), prehashed=True, format=word)
        assert {answer.signatures[item] for item in range(form, 100, 3)} == {single}


async def test_a_refused_key_leaves_the_others_of_its_batch_alone(vault: Vault) -> None:
    good, _ = await create(vault)
    disabled, _ = await create(vault)
    await vault.call("POST", f"keys/{disabled}/config", {"enabled": False})
    keys = [
        KeyVersion(name=good),
        KeyVersion(name=disabled),
        KeyVersion(name="nobody"),
        KeyVersion(name=good, version=2),
        KeyVersion(name=good, version=1),
        KeyVersion(name="../raw"),
    ]
    request = PackedSignRequest(keys=keys, key_index=range(6), digests=os.urandom(32 * 6))
    status, answer = await packed(vault, request)
    assert isinstance(answer, PackedSignResponse), (status, answer)
    assert list(answer.refusals) == [NONE, DISABLED, UNKNOWN_KEY, VERSION_UNAVAILABLE, NONE, UNKNOWN_KEY]
    assert list(answer.versions) == [1, 0, 0, 0, 1, 0]
    assert [len(signature) for signature in answer.signatures] == [64, 0, 0, 0, 64, 0]


async def test_a_batch_also_comes_by_post(vault: Vault) -> None:
    name, _ = await create(vault)
    request = PackedSignRequest(keys=[KeyVersion(name=name)], key_index=[0], digests=os.urandom(32))
    assert await packed(vault, request, method="POST") == await packed(vault, request)


async def test_a_batch_beyond_the_limit_is_refused_whole(vault: Vault) -> None:
    request = PackedSignRequest(keys=[KeyVersion(name="x")], key_index=[0] * 16_385, digests=bytes(32 * 16_385))
    status, text = await packed(vault, request)
    assert status == 400
    assert "1 to 16384 items" in str(text)
