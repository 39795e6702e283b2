"""From a message to the 32 bytes that are signed."""

import hashlib
from enum import Enum

from Crypto.Hash import keccak

DIGEST_LENGTH = 32


class HashAlgorithm(Enum):
    """How a message becomes its digest; the values are those of popsigner.v1.HashAlgorithm."""

    # SHA-256 (FIPS 180-4).
    SHA256 = 1
    # Keccak-256 as Ethereum uses it: the padding of the SHA-3 submission, not that of FIPS 202.
    KECCAK256 = 2


_NAMES = {HashAlgorithm.SHA256: "sha256", HashAlgorithm.KECCAK256: "keccak256"}


def keccak256(data: bytes) -> bytes:
    """Keccak-256, 32 bytes."""
    return keccak.new(digest_bits=256, data=data).digest()


def digest_of(data: bytes, *, hash: HashAlgorithm, prehashed: bool) -> bytes:
    """The 32 bytes to sign: the hash of `data`, or with `prehashed` the data itself.

    Raises ValueError for prehashed data of another length than 32 bytes.
    """
    if prehashed:
        if len(data) != DIGEST_LENGTH:
            raise ValueError(f"Prehashed data must be a digest of exactly {DIGEST_LENGTH} bytes.")
        return data
    if hash is HashAlgorithm.SHA256:
        return hashlib.sha256(data).digest()
    return keccak256(data)


def describe(hash: HashAlgorithm | None, digest: bytes) -> str:
    """A digest and its origin: `sha256:<hex>`, `keccak256:<hex>`, or `digest:<hex>` for one that the caller made."""
    return f"{'digest' if hash is None else _NAMES[hash]}:{digest.hex()}"
