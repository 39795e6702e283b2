"""Private keys that the test knows, brought into a running POP: it signs with them as published vectors say, and byte
for byte as python-ecdsa's own RFC 6979 does, low S."""

import asyncio
import hashlib
import random
from uuid import uuid4

import ecdsa
import pytest
from ecdsa.util import sigencode_string_canonize

from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.pop.wire import Wire
from tests.support.vectors import load
from tests.support.wrapping import wrap

AT_ONCE = 16
BATCH = 256
RANDOM = random.Random("imported")
KEYS = [RANDOM.randrange(1, ecdsa.SECP256k1.order).to_bytes(32, "big") for _ in range(1000)]


async def imported(owner: Wire, secrets: list[bytes]) -> list[key_pb2.Key]:
    """A key of each private key, in their order."""
    wrapping = await owner(key_pb2.GetWrappingKeyRequest())
    places, run = asyncio.Semaphore(AT_ONCE), uuid4().hex[:8]

    async def one(number: int, secret: bytes) -> key_pb2.Key:
        request = key_pb2.ImportKeyRequest(
            name=f"conformance-{run}-{number}",
            ciphertext=wrap(secret, wrapping.public_key),
            wrapping_key_id=wrapping.id,
        )
        async with places:
            key = (await owner(request)).key
        assert isinstance(key, key_pb2.Key)
        return key

    return await asyncio.gather(*(one(number, secret) for number, secret in enumerate(secrets)))


async def signed(owner: Wire, items: list[tuple[str, bytes]]) -> list[bytes]:
    """A compact signature of each (key, message)."""
    signatures: list[bytes] = []
    for start in range(0, len(items), BATCH):
        some = [sign_pb2.SignItem(key_id=key, data=message) for key, message in items[start : start + BATCH]]
        answer = await owner(sign_pb2.BatchSignRequest(requests=some))
        signatures += [result.signature for result in answer.signatures]
    return signatures


async def test_imported_keys_sign_as_the_published_vectors_say(owner: Wire) -> None:
    vectors = load("rfc6979_secp256k1")["vectors"]
    secrets = sorted({vector["private_key"] for vector in vectors})
    keys = dict(zip(secrets, await imported(owner, [bytes.fromhex(secret) for secret in secrets]), strict=True))
    try:
        items = [(keys[vector["private_key"]].id, vector["message"].encode()) for vector in vectors]
        assert [signature.hex() for signature in await signed(owner, items)] == [
            vector["compact"] for vector in vectors
        ]
    finally:
        # The next run brings the same ones in again.
        for key in keys.values():
            await owner(key_pb2.DeleteKeyRequest(key_id=key.id, force=True))


@pytest.mark.timeout(300)
async def test_a_thousand_imported_keys_sign_as_another_implementation_of_rfc_6979_does(owner: Wire) -> None:
    others = [ecdsa.SigningKey.from_string(secret, curve=ecdsa.SECP256k1) for secret in KEYS]
    keys = await imported(owner, KEYS)
    assert [key.public_key for key in keys] == [other.verifying_key.to_string("compressed").hex() for other in others]
    messages = [RANDOM.randbytes(RANDOM.randrange(300)) for _ in KEYS]
    signatures = await signed(owner, [(key.id, message) for key, message in zip(keys, messages, strict=True)])
    for other, message, signature in zip(others, messages, signatures, strict=True):
        digest = hashlib.sha256(message).digest()
        assert signature == other.sign_digest_deterministic(
            digest, hashfunc=hashlib.sha256, sigencode=sigencode_string_canonize
        )
