"""Where keys live: the door to OpenBao's secp256k1 engine. Private keys pass it as ciphertext alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Refusal(IntEnum):
    """Why a key did not sign (popsigner.engine.v1.Refusal)."""

    NONE = 0
    UNKNOWN_KEY = 1
    DISABLED = 2
    VERSION_UNAVAILABLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One batch to sign, as columns: `key_index` points into `keys` (name, version), `digests` holds 32 bytes an item,
    `formats` are domain.signatures codes; empty means COMPACT for all."""

    keys: tuple[tuple[str, int], ...]
    key_index: list[int]
    digests: bytes
    formats: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What came back: a signature an item (empty where its key was refused), and the refusals by index into `keys`."""

    signatures: list[bytes]
    refusals: dict[int, Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKey:
    """What private keys are wrapped to: `public_key` is RSA-4096 in PEM, `id` the SHA-256 of its DER, hex."""

    id: str
    public_key: str
    wrapping: str
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What the vault has of a new key: version 1's public key (compressed, 33 bytes), whether it hands out the private
    key, and whom the recovery copies are sealed to (empty for nobody)."""

    public_key: bytes
    exportable: bool
    recovery_recipient: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedVersion:
    """One version's private key, sealed by the engine; `public_key` is compressed, 33 bytes."""

    version: int
    public_key: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Private keys on their way out, oldest version first. `recipient` is that of recovery copies, empty of exports."""

    wrapping: str
    recipient: str
    versions: tuple[SealedVersion, ...]


class Vault(Protocol):
    """The engine. Every method raises VaultUnavailable when it cannot be reached, is sealed or answers nonsense."""

    async def create(self, name: str, *, exportable: bool, recovery_recipient: str = "") -> bytes:
        """Make a key, or find the one that an earlier attempt made; returns its compressed public key, 33 bytes. With a
        `recovery_recipient` (age X25519) a copy of it and of every later version is sealed to that."""
        ...

    async def wrapping_key(self) -> WrappingKey:
        """What private keys are wrapped to before `bring_in`."""
        ...

    async def bring_in(
        self, name: str, *, ciphertext: bytes, wrapping_key: str, exportable: bool, recovery_recipient: str = ""
    ) -> Placed:
        """Make a key from a wrapped private key, or find it where an earlier attempt brought the same one in: then its
        options stay what they were, but for `exportable`, which is given up. `wrapping_key` is an id, empty to try all.

        Raises WrappedKeyInvalid, PrivateKeyInvalid, WrappingKeyUnknown, KeyPresent (under another name), KeyNameTaken
        (by another private key).
        """
        ...

    async def export(self, name: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        """Versions of an exportable key, 1 to 64 of them, sealed to an RSA public key in PEM or an age recipient.
        Raises KeyNotFound, KeyNotExportable, KeyVersionUnavailable, InvalidField (`recipient`)."""
        ...

    async def recovery(self, name: str) -> Sealed | None:
        """The recovery copies of all versions, None for a key without. Raises KeyNotFound."""
        ...

    async def seal(self, name: str, *, recipient: str) -> None:
        """Seal recovery copies of all versions to `recipient`, in the place of earlier ones; "" removes them. It can be
        repeated. Raises KeyNotFound, InvalidField (`recipient`)."""
        ...

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        """Make a key's version `to_version`, or find the one that an earlier attempt made; returns that version's
        compressed public key, 33 bytes. A version that leaves no gap is made whether or not the catalogue's row may
        sign. Raises KeyNotFound, KeyVersionsExhausted; VaultUnavailable also for a version that would leave a gap."""
        ...

    async def destroy(self, name: str) -> None:
        """Overwrite and delete every version of a key; a key that does not exist is destroyed already."""
        ...

    async def sign(self, trip: Trip) -> Signed:
        """Sign a batch."""
        ...

    async def is_ready(self) -> bool:
        """Whether it would sign now."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
