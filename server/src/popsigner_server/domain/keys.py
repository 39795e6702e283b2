"""Keys: what they are, and the rules for their names.

The rules raise ValueError with a sentence that follows the field's name: "must be …".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum, auto
from uuid import UUID

from popsigner_server.domain.addresses import account_address

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAMESPACE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ADDRESS_PREFIX = re.compile(r"[a-z][a-z0-9]{0,82}")
MAX_METADATA_ENTRIES = 64
MAX_METADATA_NAME = 63
MAX_METADATA_VALUE = 256


class KeyState(IntEnum):
    """Where a key is in its life. The values are stored; those its owner sees are popsigner.v1.Key.State's."""

    # The name is reserved, and the private key is being made.
    CREATING = 0
    # It signs.
    ENABLED = 1
    # It does not sign until it is enabled again.
    DISABLED = 2
    # It does not sign; its private key is destroyed when the restore window ends.
    DELETED = 3
    # The private key is overwritten; the name is free again.
    DESTROYED = 4
    # Its creation failed: the name is free again, and a private key that was made for it is to be destroyed.
    ABANDONED = 5


class Move(Enum):
    """What can be done to a key after its creation."""

    # Let it sign.
    ENABLE = auto()
    # Stop it from signing until it is enabled.
    DISABLE = auto()
    # Give it a new version.
    ROTATE = auto()
    # Change its name, its metadata or its oldest signing version.
    UPDATE = auto()
    # Hand out its private key, sealed.
    EXPORT = auto()
    # Stop it from signing, and begin its restore window.
    DELETE = auto()
    # Delete it without a restore window: its destruction begins.
    FORCE_DELETE = auto()
    # Take the deletion back, within the restore window.
    UNDELETE = auto()
    # The private key was overwritten.
    DESTROY = auto()


# From which states a move may be made, and where it leads; from all others it is refused. Two states in one place:
# the key becomes again what it was before its deletion.
MOVES: Mapping[Move, Mapping[KeyState, frozenset[KeyState]]] = {
    Move.ENABLE: {
        KeyState.ENABLED: frozenset({KeyState.ENABLED}),
        KeyState.DISABLED: frozenset({KeyState.ENABLED}),
    },
    Move.DISABLE: {
        KeyState.ENABLED: frozenset({KeyState.DISABLED}),
        KeyState.DISABLED: frozenset({KeyState.DISABLED}),
    },
    Move.ROTATE: {
        KeyState.ENABLED: frozenset({KeyState.ENABLED}),
    },
    Move.UPDATE: {
        KeyState.ENABLED: frozenset({KeyState.ENABLED}),
        KeyState.DISABLED: frozenset({KeyState.DISABLED}),
    },
    Move.EXPORT: {
        KeyState.ENABLED: frozenset({KeyState.ENABLED}),
        KeyState.DISABLED: frozenset({KeyState.DISABLED}),
    },
    Move.DELETE: {
        KeyState.ENABLED: frozenset({KeyState.DELETED}),
        KeyState.DISABLED: frozenset({KeyState.DELETED}),
    },
    Move.FORCE_DELETE: {
        KeyState.ENABLED: frozenset({KeyState.DELETED}),
        KeyState.DISABLED: frozenset({KeyState.DELETED}),
        KeyState.DELETED: frozenset({KeyState.DELETED}),
    },
    Move.UNDELETE: {
        KeyState.ENABLED: frozenset({KeyState.ENABLED}),
        KeyState.DISABLED: frozenset({KeyState.DISABLED}),
        KeyState.DELETED: frozenset({KeyState.ENABLED, KeyState.DISABLED}),
    },
    Move.DESTROY: {
        KeyState.DELETED: frozenset({KeyState.DESTROYED}),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of an organization.

    `namespace` is the namespace's name, `public_key` the current version's (33 bytes, compressed), `address_prefix`
    what its account addresses begin with. Versions below `min_version` sign no more. `imported`: the private key of
    version 1 was made elsewhere. `deleted_at` and `destroy_at` are None for a live key.
    """

    id: UUID
    organization_id: UUID
    namespace_id: UUID
    namespace: str
    name: str
    state: KeyState
    public_key: bytes
    address_prefix: str
    version: int
    min_version: int
    exportable: bool
    imported: bool
    metadata: Mapping[str, str]
    created_at: datetime
    deleted_at: datetime | None
    destroy_at: datetime | None

    @property
    def address(self) -> str:
        """The current version's bech32 account address."""
        return account_address(self.public_key, self.address_prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key: a private key, and so an address, of its own. `signs` is whether it may sign."""

    version: int
    public_key: bytes
    address: str
    created_at: datetime
    signs: bool


def check_key_name(name: str) -> None:
    """Raises ValueError unless this may be a key's name."""
    if _KEY_NAME.fullmatch(name) is None:
        raise ValueError(
            "must be 1 to 100 characters of A to Z, a to z, 0 to 9, `.`, `_` and `-`, beginning with a letter or digit."
        )


def check_namespace_name(name: str) -> None:
    """Raises ValueError unless this may be a namespace's name."""
    if _NAMESPACE_NAME.fullmatch(name) is None:
        raise ValueError("must be 1 to 63 characters of a to z, 0 to 9 and `-`, beginning with a letter.")


def check_address_prefix(prefix: str) -> None:
    """Raises ValueError unless this may stand before the bech32 addresses of a namespace."""
    if _ADDRESS_PREFIX.fullmatch(prefix) is None:
        raise ValueError("must be 1 to 83 characters of a to z and 0 to 9, beginning with a letter.")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises ValueError unless this may be a key's metadata."""
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise ValueError(f"must have at most {MAX_METADATA_ENTRIES} entries.")
    for name, value in metadata.items():
        if not 1 <= len(name) <= MAX_METADATA_NAME:
            raise ValueError(f"must have entries with names of 1 to {MAX_METADATA_NAME} characters.")
        if len(value) > MAX_METADATA_VALUE:
            raise ValueError(f"must have entries with values of at most {MAX_METADATA_VALUE} characters.")
        # PostgreSQL's jsonb holds every character but this one.
        if "\x00" in name or "\x00" in value:
            raise ValueError("must not contain the character NUL.")
