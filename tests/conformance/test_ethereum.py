"""An EIP-1559 transaction, signed by its hash; eth-account and python-ecdsa recover the sender."""

import base64
from typing import Any

import ecdsa
import pytest
import rlp  # type: ignore[import-untyped]  # it publishes no types
from Crypto.Hash import keccak
from ecdsa.util import sigdecode_string
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.backends.native.main import NativeECCBackend
from eth_keys.main import KeyAPI

from popsigner import Client, HashAlgorithm, SignatureFormat
from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire

TRANSACTION: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 7,
    "maxPriorityFeePerGas": 2_000_000_000,
    "maxFeePerGas": 30_000_000_000,
    "gas": 21_000,
    "to": "0x000000000000000000000000000000000000dEaD",
    "value": 10**18,
    "data": "0x706f707369676e6572",
    "accessList": [],
}
# EIP-1559: the members in their order, big-endian without leading zeros.
MEMBERS = [
    TRANSACTION["chainId"],
    TRANSACTION["nonce"],
    TRANSACTION["maxPriorityFeePerGas"],
    TRANSACTION["maxFeePerGas"],
    TRANSACTION["gas"],
    bytes.fromhex(TRANSACTION["to"][2:]),
    TRANSACTION["value"],
    bytes.fromhex(TRANSACTION["data"][2:]),
    [],
]


def keccak256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


UNSIGNED = b"\x02" + rlp.encode(MEMBERS)
SIGNING_HASH = keccak256(UNSIGNED)


def signed(signature: bytes) -> bytes:
    """The transaction as it is sent: with the parity of R's y, R and S."""
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:64]))
    return b"\x02" + bytes(rlp.encode([*MEMBERS, signature[64], r, s]))


@pytest.fixture(scope="module")
async def key(owner: Wire) -> key_pb2.Key:
    created: key_pb2.Key = (await owner(key_pb2.CreateKeyRequest(name="bridge"))).key
    return created


def test_the_signing_hash_is_the_one_that_eth_account_computes() -> None:
    assert TypedTransaction.from_dict(TRANSACTION).hash() == SIGNING_HASH


async def test_the_sender_of_the_signed_transaction_is_the_keys_ethereum_address(owner: Wire, key: key_pb2.Key) -> None:
    answer = await owner(
        sign_pb2.SignRequest(key_id=key.id, data=SIGNING_HASH, prehashed=True, format=sign_pb2.RECOVERABLE)
    )

    assert len(answer.signature) == 65
    assert answer.recovery_id == answer.signature[64]
    assert answer.recovery_id in (0, 1)
    assert Account.recover_transaction(signed(answer.signature)) == key.eth_address
    candidates = ecdsa.VerifyingKey.from_public_key_recovery_with_digest(
        answer.signature[:64], SIGNING_HASH, curve=ecdsa.SECP256k1, hashfunc=None, sigdecode=sigdecode_string
    )
    recovered = [candidate.to_string("compressed").hex() for candidate in candidates]
    assert recovered[answer.recovery_id] == key.public_key


async def test_the_transaction_itself_hashed_by_the_pop_gives_the_same_signature_over_every_wire(
    owner: Wire, http: Json, sdk: Client, key: key_pb2.Key
) -> None:
    prehashed = await owner(
        sign_pb2.SignRequest(key_id=key.id, data=SIGNING_HASH, prehashed=True, format=sign_pb2.RECOVERABLE)
    )
    body = {"data": "0x" + UNSIGNED.hex(), "encoding": "hex", "hash": "KECCAK256", "format": "RECOVERABLE"}
    over_json = (await http("POST", f"/v1/keys/{key.id}/sign", body)).json
    with_the_sdk = sdk.sign(key.id, UNSIGNED, hash=HashAlgorithm.KECCAK256, format=SignatureFormat.RECOVERABLE)

    assert base64.b64decode(over_json["signature"], validate=True) == prehashed.signature
    assert over_json["recovery_id"] == prehashed.recovery_id
    assert bytes(with_the_sdk) == prehashed.signature


async def test_the_ethereum_address_is_the_one_that_pure_python_derives(key: key_pb2.Key) -> None:
    public_key = KeyAPI(NativeECCBackend).PublicKey.from_compressed_bytes(bytes.fromhex(key.public_key))

    assert public_key.to_checksum_address() == key.eth_address
