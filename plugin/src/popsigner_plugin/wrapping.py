"""Private keys on their way in: the RSA keys that callers wrap them to.

What a caller sends is RSA-OAEP (SHA-256, MGF1 with SHA-256, no label; RFC 8017) of a fresh AES-256 key, followed by the
private key under AES-KWP (RFC 5649) with that key. It is what OpenBao's Transit and most hardware modules take.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from popsigner_plugin.curve import overwrite
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredWrappingKey, StoredWrappingKeys
from popsigner_plugin.storage import Storage
from popsigner_plugin.turns import Turns

PREFIX: Final = "wrapping/"
WRAPPING: Final = "RSA-OAEP-SHA256+AES-KWP"
ACCEPTED_AFTER_MS: Final = 24 * 60 * 60 * 1000

_PLACE: Final = PREFIX + "keys"
_LAYOUT: Final = 1
_BITS: Final = 4096
_EXPONENT: Final = 65_537
_AES_BYTES: Final = 32
_MOST_KEYS: Final = 4
_MOST_CIPHERTEXT: Final = 4096
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def wrapped(secret: bytes, recipient: rsa.RSAPublicKey) -> bytes:
    """The secret in the form above, for the recipient."""
    key = secrets.token_bytes(_AES_BYTES)
    try:
        return recipient.encrypt(key, _OAEP) + aes_key_wrap_with_padding(key, secret)
    finally:
        overwrite(key)


def unwrapped(ciphertext: bytes, recipient: rsa.RSAPrivateKey) -> bytes | None:
    """The secret, None where the ciphertext is not for this key or was changed; the caller overwrites it.

    An RSA part that does not open costs what one that opens costs, and looks the same from outside: a chosen
    ciphertext must not tell its sender which part failed (Manger 2001).
    """
    split = recipient.key_size // 8
    try:
        key = recipient.decrypt(ciphertext[:split], _OAEP)
    except ValueError:
        key = b""
    opened = len(key) == _AES_BYTES
    if not opened:
        key = secrets.token_bytes(_AES_BYTES)
    try:
        secret = aes_key_unwrap_with_padding(key, ciphertext[split:])
    except InvalidUnwrap:
        return None
    finally:
        overwrite(key)
    return secret if opened else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKey:
    """private: PKCS #8, DER. public: SubjectPublicKeyInfo, DER. accepted_until_ms: 0 while it is given out."""

    private: bytes = field(repr=False)
    public: bytes
    created_at_ms: int
    accepted_until_ms: int = 0

    @classmethod
    def generated(cls, now_ms: int) -> Self:
        """A fresh key: a second or more of arithmetic, during which the interpreter's lock is free."""
        key = rsa.generate_private_key(_EXPONENT, _BITS)
        return cls(
            private=key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            public=key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            created_at_ms=now_ms,
        )

    @property
    def id(self) -> str:
        """SHA-256 of the public key's DER, hex."""
        return hashlib.sha256(self.public).hexdigest()

    def opened(self, ciphertext: bytes) -> bytes | None:
        """`unwrapped` with this key."""
        # What storage kept is as it was made; checking the primes again would hold the interpreter for 0.3 s.
        private = serialization.load_der_private_key(self.private, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(private, rsa.RSAPrivateKey):
            raise TypeError("a wrapping key in storage is no RSA key")
        return unwrapped(ciphertext, private)

    def public_data(self) -> dict[str, Any]:
        """What callers need to wrap a private key."""
        public = serialization.load_der_public_key(self.public)
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return {
            "id": self.id,
            "public_key": pem.decode(),
            "wrapping": WRAPPING,
            "created_at_ms": self.created_at_ms,
        }


class WrappingKeys:
    """The keys in storage: one that is given out, and those before it that are accepted for one more day.

    clock: milliseconds since 1970-01-01T00:00:00Z. threads: where arithmetic waits that would hold up signatures.
    """

    def __init__(self, storage: Storage, turns: Turns, *, clock: Callable[[], int], threads: Executor) -> None:
        self._storage = storage
        self._turns = turns
        self._clock = clock
        self._threads = threads

    async def current(self) -> WrappingKey:
        """The key that is given out, made at the first call."""
        keys = await self._accepted()
        return keys[-1] if keys else await self._turns.alone(_PLACE, self._first)

    async def rotated(self, replaces: str) -> WrappingKey:
        """A new key in the place of the current one. replaces: its id; if another one is current, nothing is done.

        Raises Conflict while too many earlier keys are still accepted.
        """
        return await self._turns.alone(_PLACE, lambda: self._next(replaces))

    async def secret(self, ciphertext: bytes, key_id: str) -> bytes:
        """What was wrapped, to be overwritten by the caller. key_id: of the key that was used, "" to try all.

        Raises BadInput with one and the same sentence for everything that does not open, Conflict for a key_id that is
        not accepted (any more).
        """
        keys = await self._accepted()
        if key_id:
            keys = [key for key in keys if key.id == key_id]
            if not keys:
                raise Conflict(
                    "This wrapping key is not accepted (any more); read wrapping_key and wrap the private key again.",
                    code="WRAPPING_KEY_UNKNOWN",
                )
        if len(ciphertext) <= _MOST_CIPHERTEXT:
            loop = asyncio.get_running_loop()
            for key in reversed(keys):
                secret = await loop.run_in_executor(self._threads, key.opened, ciphertext)
                if secret is not None:
                    return secret
        raise BadInput(
            "The ciphertext does not open with the wrapping key: it must be RSA-OAEP-SHA256 of an AES-256 key, followed"
            " by AES-KWP of the private key, both whole.",
            code="WRAPPED_KEY_INVALID",
        )

    async def erase_expired(self) -> None:
        """Write the entry without the keys whose day is over, if there are any."""
        if any(self._is_over(key) for key in await self._all()):
            await self._turns.alone(_PLACE, self._erase)

    async def _erase(self) -> None:
        keys = await self._all()
        kept = [key for key in keys if not self._is_over(key)]
        if len(kept) < len(keys):
            await self._put(kept)

    async def _first(self) -> WrappingKey:
        keys = await self._accepted()
        return keys[-1] if keys else await self._made([])

    async def _next(self, replaces: str) -> WrappingKey:
        keys = await self._accepted()
        if keys and replaces not in ("", keys[-1].id):
            return keys[-1]
        if len(keys) >= _MOST_KEYS:
            raise Conflict(
                f"{_MOST_KEYS - 1} earlier wrapping keys are still accepted; each is for a day. Rotate later.",
                code="WRAPPING_KEYS_TOO_MANY",
            )
        until = self._clock() + ACCEPTED_AFTER_MS
        return await self._made(
            [key if key.accepted_until_ms else replace(key, accepted_until_ms=until) for key in keys]
        )

    async def _made(self, earlier: list[WrappingKey]) -> WrappingKey:
        loop = asyncio.get_running_loop()
        key = await loop.run_in_executor(self._threads, WrappingKey.generated, self._clock())
        await self._put([*earlier, key])
        return key

    async def _accepted(self) -> list[WrappingKey]:
        return [key for key in await self._all() if not self._is_over(key)]

    def _is_over(self, key: WrappingKey) -> bool:
        return 0 < key.accepted_until_ms <= self._clock()

    async def _all(self) -> list[WrappingKey]:
        blob = await self._storage.get(_PLACE)
        stored = StoredWrappingKeys(layout=_LAYOUT) if blob is None else StoredWrappingKeys.FromString(blob)
        if stored.layout != _LAYOUT:
            raise ValueError(f"the wrapping keys in storage have layout {stored.layout}, this engine knows {_LAYOUT}")
        return [
            WrappingKey(
                private=entry.private_key,
                public=entry.public_key,
                created_at_ms=entry.created_at_ms,
                accepted_until_ms=entry.accepted_until_ms,
            )
            for entry in stored.keys
        ]

    async def _put(self, keys: list[WrappingKey]) -> None:
        stored = [
            StoredWrappingKey(
                private_key=key.private,
                public_key=key.public,
                created_at_ms=key.created_at_ms,
                accepted_until_ms=key.accepted_until_ms,
            )
            for key in keys
        ]
        await self._storage.put(_PLACE, StoredWrappingKeys(layout=_LAYOUT, keys=stored).SerializeToString())
