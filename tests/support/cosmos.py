"""A Celestia transaction that pays for a blob, from the public proto definitions; nothing here is POPSigner's own code.

sign_doc = transactions().pay_for_blob(public_key=..., namespace=namespace_v0(b"rollup"), blob=b"...", sequence=7)
"""

import functools
import hashlib
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from Crypto.Hash import RIPEMD160
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc  # type: ignore[import-untyped]  # it publishes no types

DEFINITIONS = Path(__file__).resolve().parents[1] / "vectors" / "cosmos"
CHAIN_ID = "mocha-4"
SHARE_BYTES = 512

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


class Transactions:
    """The messages of the definitions, compiled, in a descriptor pool of their own."""

    def __init__(self, definitions: descriptor_pb2.FileDescriptorSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in definitions.file:
            self._pool.Add(file)

    def make(self, name: str, /, **fields: Any) -> Any:
        """A message by its full name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))(**fields)

    def packed(self, name: str, /, **fields: Any) -> Any:
        """The same inside a google.protobuf.Any with Cosmos' type URL: a slash and the full name."""
        return self.make(
            "google.protobuf.Any", type_url=f"/{name}", value=self.make(name, **fields).SerializeToString()
        )

    def pay_for_blob(
        self, *, public_key: bytes, namespace: bytes, blob: bytes, account_number: int = 42, sequence: int = 7
    ) -> bytes:
        """The SignDoc (SIGN_MODE_DIRECT) of a transaction that pays for one blob; SHA-256 of it is what is signed.

        public_key: 33 bytes. namespace: 29 bytes. blob: of one share.
        """
        pay = self.packed(
            "celestia.blob.v1.MsgPayForBlobs",
            signer=bech32("celestia", account(public_key)),
            namespaces=[namespace],
            blob_sizes=[len(blob)],
            share_commitments=[share_commitment(namespace, blob)],
            share_versions=[0],
        )
        signer = self.make(
            "cosmos.tx.v1beta1.SignerInfo",
            public_key=self.packed("cosmos.crypto.secp256k1.PubKey", key=public_key),
            mode_info={"single": {"mode": "SIGN_MODE_DIRECT"}},
            sequence=sequence,
        )
        fee = {"amount": [{"denom": "utia", "amount": "2000"}], "gas_limit": 100_000}
        document: bytes = self.make(
            "cosmos.tx.v1beta1.SignDoc",
            body_bytes=self.make("cosmos.tx.v1beta1.TxBody", messages=[pay]).SerializeToString(),
            auth_info_bytes=self.make("cosmos.tx.v1beta1.AuthInfo", signer_infos=[signer], fee=fee).SerializeToString(),
            chain_id=CHAIN_ID,
            account_number=account_number,
        ).SerializeToString()
        return document


@functools.cache
def transactions() -> Transactions:
    """Compiles the definitions, once a process."""
    with tempfile.TemporaryDirectory(prefix="cosmos-") as folder:
        compiled = Path(folder) / "definitions.binpb"
        sources = [str(path) for path in sorted(DEFINITIONS.rglob("*.proto"))]
        well_known = str(files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{DEFINITIONS}", f"-I{well_known}", "--include_imports"]
        assert protoc.main([*arguments, f"--descriptor_set_out={compiled}", *sources]) == 0
        return Transactions(descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()))


def namespace_v0(name: bytes) -> bytes:
    """A Celestia namespace of version 0, 29 bytes: of the id only the last 10 bytes are free."""
    assert len(name) <= 10
    return bytes(1) + name.rjust(28, b"\0")


def share_commitment(namespace: bytes, blob: bytes) -> bytes:
    """The commitment (32 bytes) to a blob of one share, version 0 (celestia-app, specs: data square layout).

    One share is one leaf of a namespaced Merkle tree, and the tree over that one root is RFC 6962's.
    """
    share = namespace + b"\x01" + len(blob).to_bytes(4, "big") + blob
    assert len(share) <= SHARE_BYTES
    leaf = namespace + namespace + hashlib.sha256(b"\0" + namespace + share.ljust(SHARE_BYTES, b"\0")).digest()
    return hashlib.sha256(b"\0" + leaf).digest()


def account(public_key: bytes) -> bytes:
    """The account of a compressed public key (33 bytes): 20 bytes (Cosmos SDK, ADR-028)."""
    return RIPEMD160.new(hashlib.sha256(public_key).digest()).digest()


def bech32(prefix: str, payload: bytes) -> str:
    """BIP-173, over one large number instead of lists of groups. payload: a multiple of 5 bytes, never padded."""
    assert len(payload) % 5 == 0
    number, groups = int.from_bytes(payload, "big"), len(payload) * 8 // 5
    data = [number >> 5 * place & 31 for place in reversed(range(groups))]
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    checksum = _remainder([*expanded, *data, 0, 0, 0, 0, 0, 0]) ^ 1
    data += [checksum >> 5 * place & 31 for place in reversed(range(6))]
    return f"{prefix}1" + "".join(_CHARSET[group] for group in data)


def _remainder(groups: list[int]) -> int:
    """Of the polynomial over GF(32) divided by BIP-173's generator."""
    remainder = 1
    for group in groups:
        top, remainder = remainder >> 25, (remainder & 0x1FFFFFF) << 5 ^ group
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                remainder ^= term
    return remainder
