"""Signatures over a challenge: whoever makes one holds the private key. ECDSA (SEC 1) over SHA-256, 64 bytes R ‖ S with
the lower of the two S, as the POP makes them. Here it is OpenSSL's work; the POP does it with libsecp256k1.

It needs the extra: pip install 'popsigner[keyfiles]'.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from .keyfiles.secret import ORDER, SCALAR_BYTES, Secret

# No transaction of any chain begins like this, so no challenge can be one.
_INTRODUCTION: Final = b"popsigner proof of possession\n"
_RANDOM_BYTES: Final = 32
_CURVE: Final = ec.SECP256K1()
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


def challenge() -> bytes:
    """A message that nobody has signed before: 62 bytes, the last 32 of them random."""
    return _INTRODUCTION + os.urandom(_RANDOM_BYTES)


def sign(secret: Secret, message: bytes) -> bytes:
    """The signature of a message, 64 bytes."""
    # OpenSSL's copy of the number cannot be overwritten; it is freed here.
    private = ec.derive_private_key(int.from_bytes(secret.scalar, "big"), _CURVE)
    r, s = decode_dss_signature(private.sign(message, _ALGORITHM))
    return b"".join(part.to_bytes(SCALAR_BYTES, "big") for part in (r, min(s, ORDER - s)))


def verifies(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is a signature (64 bytes, low S) of the message by a public key (33 bytes, compressed)."""
    r, s = (int.from_bytes(half, "big") for half in (signature[:SCALAR_BYTES], signature[SCALAR_BYTES:]))
    if len(signature) != 2 * SCALAR_BYTES or not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        return False
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public_key)
        point.verify(encode_dss_signature(r, s), message, _ALGORITHM)
    except (InvalidSignature, ValueError):
        return False
    return True
