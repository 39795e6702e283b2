"""A rollup's blob submission: four worker keys, the SignDoc of MsgPayForBlobs, and signatures over every wire.

What is checked is checked with python-ecdsa and OpenSSL; libsecp256k1, with which the POP signs, has no say.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable

import ecdsa
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from ecdsa.util import sigdecode_string

from popsigner import AsyncClient, Client, SignItem
from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire
from tests.support import vectors
from tests.support.cosmos import CHAIN_ID, account, bech32, namespace_v0, share_commitment, transactions
from tests.support.pop import Pop

ORDER = ecdsa.SECP256k1.order
NAMESPACE = namespace_v0(b"popsigner")
MODE = "SIGN_MODE_DIRECT"

Signs = Callable[[str, bytes], Awaitable[bytes]]


@pytest.fixture(scope="module")
async def workers(owner: Wire) -> list[key_pb2.Key]:
    return list((await owner(key_pb2.BatchCreateKeysRequest(prefix="blob-worker", count=4))).keys)


@pytest.fixture(scope="module")
def sign_docs(workers: list[key_pb2.Key]) -> list[bytes]:
    """Each worker's transaction."""
    return [
        transactions().pay_for_blob(
            public_key=bytes.fromhex(worker.public_key), namespace=NAMESPACE, blob=b"block %d" % number, sequence=number
        )
        for number, worker in enumerate(workers)
    ]


@pytest.fixture(scope="module")
def wires(pop: Pop, owner: Wire, http: Json, sdk: Client) -> dict[str, Signs]:
    """Every way to a signature: a function of a key id and a message."""

    async def over_grpc(key_id: str, data: bytes) -> bytes:
        return bytes((await owner(sign_pb2.SignRequest(key_id=key_id, data=data, sign_mode=MODE))).signature)

    async def over_a_stream(key_id: str, data: bytes) -> bytes:
        stream = owner.stream()
        await stream.write(sign_pb2.SignStreamRequest(requests=[sign_pb2.SignItem(key_id=key_id, data=data)]))
        await stream.done_writing()
        (answer,) = [answer async for answer in stream]
        return bytes(answer.signatures[0].signature)

    async def over_json(key_id: str, data: bytes) -> bytes:
        body = {"data": base64.b64encode(data).decode(), "encoding": "base64", "prehashed": False, "sign_mode": MODE}
        answer = await http("POST", f"/v1/keys/{key_id}/sign", body)
        assert answer.status == 200, answer.text
        return base64.b64decode(answer.json["signature"], validate=True)

    async def over_json_as_hex(key_id: str, data: bytes) -> bytes:
        answer = await http("POST", f"/v1/keys/{key_id}/sign", {"data": data.hex(), "encoding": "hex"})
        assert answer.status == 200, answer.text
        return base64.b64decode(answer.json["signature"], validate=True)

    async def with_the_sdk(key_id: str, data: bytes) -> bytes:
        return bytes(sdk.sign(key_id, data, sign_mode=MODE))

    async def with_the_sdk_in_a_batch(key_id: str, data: bytes) -> bytes:
        async with AsyncClient(api_key=pop.api_key, endpoint=pop.http) as client:
            (result,) = await client.sign_batch([SignItem(key_id, data)])
        return bytes(result.unwrap())

    async def of_a_digest(key_id: str, data: bytes) -> bytes:
        request = sign_pb2.SignRequest(key_id=key_id, data=hashlib.sha256(data).digest(), prehashed=True)
        return bytes((await owner(request)).signature)

    found = (
        over_grpc,
        over_a_stream,
        over_json,
        over_json_as_hex,
        with_the_sdk,
        with_the_sdk_in_a_batch,
        of_a_digest,
    )
    return {signs.__name__: signs for signs in found}


def check(signature: bytes, message: bytes, public_key: bytes) -> None:
    """64 bytes, low-S (BIP-62), and by this key for this message's SHA-256: twice, by two implementations."""
    assert len(signature) == 64
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    assert 1 <= r < ORDER
    assert 1 <= s <= ORDER // 2
    verifier = ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.SECP256k1)
    assert verifier.verify(signature, message, hashfunc=hashlib.sha256, sigdecode=sigdecode_string)
    openssl = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public_key)
    openssl.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


async def test_four_workers_sign_their_transactions_alike_over_every_wire(
    workers: list[key_pb2.Key], sign_docs: list[bytes], wires: dict[str, Signs]
) -> None:
    for worker, sign_doc in zip(workers, sign_docs, strict=True):
        signatures = {name: await signs(worker.id, sign_doc) for name, signs in wires.items()}

        check(signatures["over_grpc"], sign_doc, bytes.fromhex(worker.public_key))
        # RFC 6979: the nonce is the message's and the key's, so that the signature is one and the same.
        assert len(set(signatures.values())) == 1, signatures
        assert await wires["over_grpc"](worker.id, sign_doc) == signatures["over_grpc"]


async def test_the_workers_are_named_in_order_and_differ(workers: list[key_pb2.Key]) -> None:
    assert [worker.name for worker in workers] == [f"blob-worker-{number}" for number in (1, 2, 3, 4)]
    for member in ("id", "public_key", "address", "eth_address"):
        assert len({getattr(worker, member) for worker in workers}) == 4


async def test_each_worker_has_the_address_that_celestia_derives_from_its_key(workers: list[key_pb2.Key]) -> None:
    for worker in workers:
        public_key = bytes.fromhex(worker.public_key)
        assert worker.address == bech32("celestia", account(public_key))
        point = ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.SECP256k1)
        assert point.to_string("compressed") == public_key


async def test_one_changed_byte_of_the_transaction_changes_the_signature_and_fails_to_verify(
    owner: Wire, workers: list[key_pb2.Key], sign_docs: list[bytes], wires: dict[str, Signs]
) -> None:
    worker, sign_doc = workers[0], sign_docs[0]
    signature = await wires["over_grpc"](worker.id, sign_doc)
    changed = sign_doc[:-1] + bytes([sign_doc[-1] ^ 1])

    async def is_valid(data: bytes) -> bool:
        request = sign_pb2.VerifyRequest(public_key=worker.public_key, data=data, signature=signature)
        return bool((await owner(request)).valid)

    assert await is_valid(sign_doc)
    assert not await is_valid(changed)
    assert await wires["over_grpc"](worker.id, changed) != signature
    with pytest.raises(ecdsa.BadSignatureError):
        check(signature, changed, bytes.fromhex(worker.public_key))


def test_the_sign_doc_is_what_the_public_definitions_say(workers: list[key_pb2.Key], sign_docs: list[bytes]) -> None:
    """Read back field by field, so that the tests above sign a transaction and not just some bytes."""
    make = transactions().make
    document = make("cosmos.tx.v1beta1.SignDoc").FromString(sign_docs[3])
    (packed,) = make("cosmos.tx.v1beta1.TxBody").FromString(document.body_bytes).messages
    pay = make("celestia.blob.v1.MsgPayForBlobs").FromString(packed.value)
    auth = make("cosmos.tx.v1beta1.AuthInfo").FromString(document.auth_info_bytes)

    assert (document.chain_id, document.account_number) == (CHAIN_ID, 42)
    assert packed.type_url == "/celestia.blob.v1.MsgPayForBlobs"
    assert (pay.signer, list(pay.blob_sizes), list(pay.share_versions)) == (workers[3].address, [7], [0])
    assert list(pay.share_commitments) == [share_commitment(NAMESPACE, b"block 3")]
    assert (auth.signer_infos[0].sequence, auth.signer_infos[0].mode_info.single.mode) == (3, 1)
    assert auth.signer_infos[0].public_key.value.endswith(bytes.fromhex(workers[3].public_key))


def test_the_share_commitment_is_the_published_one() -> None:
    """The example in the README of eigerco/lumina's celestia-types."""
    commitment = share_commitment(namespace_v0(bytes([1, 2, 3, 4, 5])), b"some data to store on blockchain")

    assert base64.b64encode(commitment) == b"m0A4feU6Fqd5Zy9td3M7lntG8A3PKqe6YdugmAsWz28="


def test_the_address_rule_is_the_published_one() -> None:
    known = vectors.load("addresses")["cosmos"]

    assert bech32(known["prefix"], account(bytes.fromhex(known["public_key"]))) == known["address"]
