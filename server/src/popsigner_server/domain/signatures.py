"""ECDSA signatures on secp256k1 (SEC 1): how they are written, and whether they hold.

Low-S only (BIP-62): of the two signatures (r, s) and (r, n - s) that hold for a digest, only the one with the smaller s
does here, so that nobody but the signer can make a second one.
"""

from binascii import unhexlify
from enum import Enum

from coincurve import PublicKey

# The order n of the curve's group (SEC 2, 2.4.1), halved: the largest low s.
_LARGEST_LOW_S = 0x7FFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_5D576E73_57A4501D_DFE92F46_681B20A0
_COMPRESSED = (b"\x02", b"\x03")
_UNCOMPRESSED = (b"\x04",)


class SignatureFormat(Enum):
    """How a signature is written; the values are the engine's (popsigner.engine.v1.Format), not the contract's."""

    # R ‖ S, 32 bytes each, big-endian.
    COMPACT = 0
    # R ‖ S ‖ v with v = 0 or 1: 65 bytes.
    RECOVERABLE = 1
    # ASN.1 DER (SEC 1 C.5): 8 to 72 bytes.
    DER = 2


def _point(public_key: bytes) -> PublicKey:
    """33 (compressed) or 65 (uncompressed) bytes of a point on the curve (SEC 1, 2.3.3). Raises ValueError.

    libsecp256k1 would take the hybrid forms of X9.62 too (65 bytes, the first 6 or 7).
    """
    if public_key[:1] not in (_COMPRESSED if len(public_key) == 33 else _UNCOMPRESSED):
        raise ValueError("The first byte must be 2 or 3 (compressed) or 4 (uncompressed).")
    return PublicKey(public_key)


def parse_public_key(text: str) -> bytes:
    """A public key of 33 or 65 bytes from its hexadecimal characters. Raises ValueError for anything else."""
    # Not bytes.fromhex: that skips white space.
    try:
        public_key = unhexlify(text)
        _point(public_key)
    except ValueError:
        raise ValueError(
            "must be a point of secp256k1 as 66 (compressed) or 130 (uncompressed) hexadecimal characters."
        ) from None
    return public_key


def _der_integer(number: bytes) -> bytes:
    number = number.lstrip(b"\x00") or b"\x00"
    if number[0] & 0x80:
        number = b"\x00" + number
    return bytes((2, len(number))) + number


def to_der(compact: bytes) -> bytes:
    """R ‖ S (64 bytes) as ASN.1 DER (SEC 1 C.5): 8 to 72 bytes."""
    body = _der_integer(compact[:32]) + _der_integer(compact[32:])
    return bytes((0x30, len(body))) + body


def verify(public_key: bytes, digest: bytes, signature: bytes, format: SignatureFormat) -> bool:
    """Whether the signature holds for this digest (32 bytes) by this key (33 or 65 bytes).

    False, never an exception, for whatever is malformed: another length, DER that is not strict, numbers out of range,
    high S, a point off the curve. A recoverable signature holds only if it recovers this very key.
    """
    if len(digest) != 32:
        return False
    try:
        key = _point(public_key)
        if format is SignatureFormat.RECOVERABLE:
            return _recovers(key, digest, signature)
        if format is SignatureFormat.DER:
            return key.verify(signature, digest, hasher=None)
        return len(signature) == 64 and key.verify(to_der(signature), digest, hasher=None)
    except ValueError:
        return False


def _recovers(key: PublicKey, digest: bytes, signature: bytes) -> bool:
    if len(signature) != 65 or signature[64] > 1:
        return False
    # Recovery itself takes a high s.
    if int.from_bytes(signature[32:64], "big") > _LARGEST_LOW_S:
        return False
    recovered = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    return recovered.format() == key.format()
