"""ECDSA over secp256k1 on libsecp256k1: keys that overwrite themselves, signatures in columns.

Nonces are RFC 6979 (the library's default), S is always low, digests are 32 bytes. The library's C functions are
called directly: coincurve's methods allocate and copy several objects a signature, which is what costs beside the 20
µs of curve arithmetic.

What is overwritten and what is not. A private key lives in a buffer of C memory that is filled with zeros when the
last reference to it ends, so at once when the cache drops an idle key, and right after its last signature when it is
in use. (It must not be earlier: the library reads the buffer twice, and one that is zeroed in between would sign with
a nonce that anybody can compute.) What load, import and export make on the way goes through `overwrite` as soon as it
was used; the buffers of libraries (protobuf, TLS, HTTP/2, OpenSSL) are overwritten by the C library when they are freed
(`launcher`). The process switches core dumps off; it does not lock its memory, so swap must be encrypted or off.
"""

import hmac
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Self

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

DIGEST_BYTES: Final = 32
SCALAR_BYTES: Final = 32

# Made and blinded with fresh randomness at import; the library allows its use from many threads.
_CONTEXT: Final = GLOBAL_CONTEXT.ctx
_NULL: Final = ffi.NULL
_COMPRESSED: Final = 258  # SECP256K1_EC_COMPRESSED
_ZEROS: Final = bytes(SCALAR_BYTES)


class Format(IntEnum):
    """How a signature is written; the numbers are those of packed.proto."""

    COMPACT = 0
    """R ‖ S, big-endian, 64 bytes."""
    RECOVERABLE = 1
    """R ‖ S ‖ v, 65 bytes, v = 0 or 1."""
    DER = 2
    """ASN.1 DER, at most 72 bytes."""


def _overwrite(cell: Any) -> None:
    ffi.memmove(cell, _ZEROS, SCALAR_BYTES)


def overwrite(secret: bytes | bytearray) -> None:
    """Fill it with zeros.

    Also bytes, which Python itself never changes: libraries hand private keys out in nothing else. Only for a value
    that the caller alone holds and that nobody reads again. The interpreter keeps one object for each single byte, and
    all its users share it: those are left alone.
    """
    if len(secret) > 1:
        ffi.memmove(ffi.from_buffer(secret), bytes(len(secret)), len(secret))


class SigningKey:
    """A private key of 1 to n-1 and its public key (33 bytes, compressed)."""

    __slots__ = ("_cell", "public_key")

    def __init__(self, cell: Any) -> None:
        self._cell = cell
        self.public_key = _public_key(cell)

    @classmethod
    def generated(cls) -> Self:
        """A fresh key from the kernel's generator, which fills the key's own buffer: no copy is left behind."""
        cell = ffi.gc(ffi.new("unsigned char[32]"), _overwrite)
        with open("/dev/urandom", "rb", buffering=0) as random:
            while True:
                if random.readinto(ffi.buffer(cell)) != SCALAR_BYTES:
                    raise OSError("the kernel gave too few random bytes")
                if lib.secp256k1_ec_seckey_verify(_CONTEXT, cell):
                    return cls(cell)

    @classmethod
    def of(cls, scalar: bytes) -> Self:
        """The key of a scalar, 32 bytes big-endian. Raises ValueError unless it is 1 to n-1."""
        if len(scalar) != SCALAR_BYTES or not lib.secp256k1_ec_seckey_verify(_CONTEXT, scalar):
            raise ValueError("the scalar is not 32 bytes in 1 to n-1")
        cell = ffi.gc(ffi.new("unsigned char[32]"), _overwrite)
        ffi.memmove(cell, scalar, SCALAR_BYTES)
        return cls(cell)

    def scalar(self) -> bytes:
        """A copy of the private key, 32 bytes big-endian: for storage, or to be overwritten by whoever asked for it."""
        return bytes(ffi.buffer(self._cell))

    def sign(self, digest: bytes, form: Format) -> bytes:
        """Sign a digest of 32 bytes."""
        return sign_columns([self], [0], digest, [form])[0]


def _public_key(cell: Any) -> bytes:
    point = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_create(_CONTEXT, point, cell):
        raise ValueError("the scalar is not in 1 to n-1")
    return _compressed(point)


def _compressed(point: Any) -> bytes:
    out = ffi.new("unsigned char[33]")
    lib.secp256k1_ec_pubkey_serialize(_CONTEXT, out, ffi.new("size_t *", 33), point, _COMPRESSED)
    return bytes(ffi.buffer(out))


def sign_columns(
    keys: Sequence[SigningKey | None], key_index: Sequence[int], digests: bytes, formats: Sequence[int]
) -> list[bytes]:
    """Sign each digest with the key that its index names; b"" where that key is None.

    digests: 32 bytes an item, one after the other. formats: one an item, or empty, which means COMPACT for all.
    """
    return write_columns(keys, key_index, raw_columns(keys, key_index, digests), formats)


def raw_columns(keys: Sequence[SigningKey | None], key_index: Sequence[int], digests: bytes) -> Any:
    """Signatures as the library keeps them, for `write_columns`.

    The interpreter's lock is free during each signature, so that slices of a batch run in parallel in threads. Writing
    them is no part of it: it takes no time, and threads that ask for the lock twice an item hinder each other.
    """
    sign = lib.secp256k1_ecdsa_sign_recoverable
    cells = [None if key is None else key._cell for key in keys]
    signatures = ffi.new("secp256k1_ecdsa_recoverable_signature[]", len(key_index))
    signature = signatures + 0
    digest = ffi.from_buffer("unsigned char[]", digests) + 0
    for index in key_index:
        cell = cells[index]
        if cell is not None and not sign(_CONTEXT, signature, digest, cell, _NULL, _NULL):
            raise RuntimeError("libsecp256k1 refused to sign")
        signature += 1
        digest += DIGEST_BYTES
    return signatures


def write_columns(
    keys: Sequence[SigningKey | None], key_index: Sequence[int], signatures: Any, formats: Sequence[int]
) -> list[bytes]:
    """What `raw_columns` made of the same keys and items, as bytes; b"" where the key is None."""
    serialize = lib.secp256k1_ecdsa_recoverable_signature_serialize_compact
    compact = ffi.new("unsigned char[64]")
    written = ffi.buffer(compact)
    recovery_id = ffi.new("int *")
    signature = signatures + 0
    done: list[bytes] = []
    for item, index in enumerate(key_index):
        form = formats[item] if formats else Format.COMPACT
        if keys[index] is None:
            done.append(b"")
        elif form == Format.DER:
            done.append(_der(signature))
        else:
            serialize(_CONTEXT, compact, recovery_id, signature)
            done.append(written[:] if form == Format.COMPACT else written[:] + bytes((recovery_id[0],)))
        signature += 1
    return done


def _der(recoverable: Any) -> bytes:
    plain = ffi.new("secp256k1_ecdsa_signature *")
    lib.secp256k1_ecdsa_recoverable_signature_convert(_CONTEXT, plain, recoverable)
    out = ffi.new("unsigned char[72]")
    length = ffi.new("size_t *", 72)
    lib.secp256k1_ecdsa_signature_serialize_der(_CONTEXT, out, length, plain)
    return bytes(ffi.buffer(out, length[0]))


def verify(public_key: bytes, digest: bytes, signature: bytes, form: Format) -> bool:
    """Whether the signature is this key's (33 or 65 bytes) for this digest (32 bytes).

    False for a high S, for DER that is not strictly DER, and for a recoverable signature whose v names another key.
    """
    point = ffi.new("secp256k1_pubkey *")
    if len(digest) != DIGEST_BYTES or not lib.secp256k1_ec_pubkey_parse(_CONTEXT, point, public_key, len(public_key)):
        return False
    plain = ffi.new("secp256k1_ecdsa_signature *")
    if form == Format.DER:
        parsed = lib.secp256k1_ecdsa_signature_parse_der(_CONTEXT, plain, signature, len(signature))
    elif form == Format.RECOVERABLE:
        if len(signature) != 65 or signature[64] > 1 or not _recovers(signature, digest, _compressed(point)):
            return False
        parsed = lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, plain, signature[:64])
    else:
        parsed = len(signature) == 64 and lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, plain, signature)
    return bool(parsed) and bool(lib.secp256k1_ecdsa_verify(_CONTEXT, plain, digest, point))


def _recovers(signature: bytes, digest: bytes, public_key: bytes) -> bool:
    recoverable = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    point = ffi.new("secp256k1_pubkey *")
    return (
        bool(
            lib.secp256k1_ecdsa_recoverable_signature_parse_compact(
                _CONTEXT, recoverable, signature[:64], signature[64]
            )
        )
        and bool(lib.secp256k1_ecdsa_recover(_CONTEXT, point, recoverable, digest))
        and hmac.compare_digest(_compressed(point), public_key)
    )
