"""Secrets at rest: AES-256-GCM (NIST SP 800-38D) under a key that only the server's key file has, never the database.

A sealed value is a version byte, a nonce of 12 random bytes, the ciphertext and its tag of 16. The table and the row's
id are its associated data: a value that somebody moves to another row does not open there.
"""

import os
import re
from typing import Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE = 12
_HEX = re.compile(r"[0-9A-Fa-f]{64}")


class Unsealable(Exception):
    """The value was sealed with another key, for another row, or was changed."""


def read_secret(text: str, setting: str) -> bytes:
    """32 bytes of 64 hexadecimal digits. Raises ValueError with a sentence that names the setting, not the value."""
    if _HEX.fullmatch(text) is None:
        raise ValueError(f"{setting} must hold exactly 64 hexadecimal digits; `openssl rand -hex 32` makes them.")
    return bytes.fromhex(text)


class Sealing:
    """Seals and opens with one key."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """`key` is 32 bytes."""
        self._cipher = AESGCM(key)

    @classmethod
    def of(cls, text: str) -> Self:
        """With the content of the key file. Raises ValueError with a sentence."""
        return cls(read_secret(text, "POPSIGNER_SEALING_KEY_FILE"))

    def seal(self, secret: bytes, *, table: str, row: UUID) -> bytes:
        """The value as it may be stored in that row."""
        # Random nonces are safe for 2^32 values of one key (SP 800-38D 8.3); here are some thousands.
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret, _place(table, row))

    def open(self, sealed: bytes, *, table: str, row: UUID) -> bytes:
        """The secret. Raises Unsealable."""
        if sealed[:1] != _VERSION:
            raise Unsealable("the value has another version")
        nonce, rest = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            return self._cipher.decrypt(nonce, rest, _place(table, row))
        except (InvalidTag, ValueError) as error:
            raise Unsealable("the value was sealed with another key or for another row") from error


def _place(table: str, row: UUID) -> bytes:
    return f"{table}:{row}".encode()
