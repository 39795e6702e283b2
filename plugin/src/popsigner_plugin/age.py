"""Files that the ordinary `age` opens: one recipient of kind X25519, one chunk (C2SP age v1, age-encryption.org/v1).

Written here, because what is sealed holds a private key and must not stay behind: every secret that is made on the way
is overwritten, and the document is read where it lies. What OpenSSL makes for itself it cleanses.
"""

import binascii
import hmac
import os
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from popsigner_plugin import bech32
from popsigner_plugin.curve import overwrite

MAX_DOCUMENT: Final = 65_536
"""Bytes of one chunk of age's payload."""

_VERSION: Final = b"age-encryption.org/v1"
_POINT_BYTES: Final = 32
_KEY_BYTES: Final = 32
_FILE_KEY_BYTES: Final = 16
_NONCE_BYTES: Final = 16
# Each key of the format seals one thing, so that its nonce can be fixed; a payload's counts its chunks and marks the
# last.
_BODY: Final = bytes(12)
_ONLY_CHUNK: Final = bytes(11) + b"\x01"


class LowOrderPoint(ValueError):
    """The recipient is a point with which every sender shares the same secret, zero: anybody could read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeRecipient:
    """text: `age1...`, in lower case. point: its 32 bytes, little-endian (RFC 7748)."""

    text: str
    point: bytes

    @classmethod
    def of(cls, text: str) -> Self:
        """A recipient as age-keygen writes it, or the same in upper case. Raises ValueError, LowOrderPoint."""
        point = bech32.payload("age", text)
        if len(point) != _POINT_BYTES:
            raise ValueError(f"an X25519 recipient has {_POINT_BYTES} bytes, this one has {len(point)}")
        recipient = cls(text=text.lower(), point=point)
        try:
            overwrite(recipient._shared_with(X25519PrivateKey.generate()))
        except ValueError:
            # OpenSSL refuses a shared secret of zero (RFC 7748, section 6.1).
            raise LowOrderPoint("the recipient is a point of low order") from None
        return recipient

    def file(self, document: bytearray) -> bytes:
        """An age file (binary) of 1 to MAX_DOCUMENT bytes, which the caller overwrites."""
        if not 1 <= len(document) <= MAX_DOCUMENT:
            raise ValueError(f"a document has 1 to {MAX_DOCUMENT} bytes, this one has {len(document)}")
        file_key, nonce = os.urandom(_FILE_KEY_BYTES), os.urandom(_NONCE_BYTES)
        try:
            payload_key = _derived(file_key, salt=nonce, info=b"payload")
            return self._header(file_key) + nonce + _sealed(payload_key, _ONLY_CHUNK, document)
        finally:
            overwrite(file_key)

    def _header(self, file_key: bytes) -> bytes:
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        shared = self._shared_with(ephemeral)
        wrapping_key = _derived(shared, salt=share + self.point, info=_VERSION + b"/X25519")
        overwrite(shared)
        body = _sealed(wrapping_key, _BODY, file_key)
        lines = b"\n".join((_VERSION, b"-> X25519 " + _base64(share), _base64(body), b"---"))
        mac_key = _derived(file_key, salt=b"", info=b"header")
        mac = hmac.digest(mac_key, lines, "sha256")
        overwrite(mac_key)
        return lines + b" " + _base64(mac) + b"\n"

    def _shared_with(self, private: X25519PrivateKey) -> bytes:
        return private.exchange(X25519PublicKey.from_public_bytes(self.point))


def _derived(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 (RFC 5869), 32 bytes; the caller overwrites them."""
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt, info).derive(secret)


def _sealed(key: bytes, nonce: bytes, secret: bytes | bytearray) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439), the tag at the end; overwrites the key, which seals nothing else."""
    try:
        return ChaCha20Poly1305(key).encrypt(nonce, secret, None)
    finally:
        overwrite(key)


def _base64(data: bytes) -> bytes:
    """Standard alphabet, no padding. All here fits into one line of the format (64 characters)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=")
