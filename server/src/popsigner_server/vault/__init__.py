"""Where keys live: the door to OpenBao's secp256k1 engine. Private keys never pass it."""

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


class Vault(Protocol):
    """The engine. Every method raises VaultUnavailable when it cannot be reached, is sealed or answers nonsense."""

    async def create(self, name: str, *, exportable: bool) -> bytes:
        """Make a key, or find the one that an earlier attempt made; returns its compressed public key, 33 bytes."""
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
