"""A key of the engine with all its versions, and the form in which storage keeps it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeVar

from popsigner_plugin.curve import SCALAR_BYTES, SigningKey, overwrite
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey, StoredVersion

_Value = TypeVar("_Value")
MAX_VERSIONS: Final = 64

_LAYOUT: Final = 1
# An engine that knows layout 1 alone would write such a key back without its copies.
_LAYOUT_WITH_COPIES: Final = 2
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def is_name(name: str) -> bool:
    """Whether a key can have this name."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """The name itself; raises BadInput unless it is 1 to 128 of A-Z a-z 0-9 _ . - and begins with a letter or digit."""
    if not is_name(name):
        raise BadInput(
            "A key's name is 1 to 128 of the characters A-Z a-z 0-9 _ . - and begins with a letter or digit."
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One scalar of a key.

    number: 1, 2, ... created_at_ms: milliseconds since 1970-01-01T00:00:00Z. sealed: the scalar for the key's
    recovery_recipient (an age file), empty where there is none.
    """

    number: int
    signer: SigningKey
    created_at_ms: int
    sealed: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it stands in storage. versions: 1, 2, ... without a gap, never empty."""

    versions: Sequence[Version]
    exportable: bool
    deletion_allowed: bool
    enabled: bool
    min_signing_version: int
    recovery_recipient: str = ""

    @classmethod
    def created(
        cls, *, now_ms: int, exportable: bool, deletion_allowed: bool, signer: SigningKey | None = None
    ) -> Self:
        """A key whose first version is `signer`, or from fresh randomness."""
        first = Version(number=1, signer=signer or SigningKey.generated(), created_at_ms=now_ms)
        return cls(
            versions=(first,),
            exportable=exportable,
            deletion_allowed=deletion_allowed,
            enabled=True,
            min_signing_version=1,
        )

    @property
    def latest(self) -> Version:
        return self.versions[-1]

    def version(self, number: int) -> Version | None:
        """The version of that number, the latest for 0, None where there is none."""
        if number == 0:
            return self.latest
        return next((version for version in self.versions if version.number == number), None)

    def signing_version(self, number: int) -> Version | None:
        """Like `version`, but None also for one below min_signing_version."""
        version = self.version(number)
        return version if version is not None and version.number >= self.min_signing_version else None

    def configured(
        self,
        *,
        exportable: bool | None,
        deletion_allowed: bool | None,
        enabled: bool | None,
        min_signing_version: int | None,
    ) -> Self:
        """The key with what is not None changed. Raises Conflict for a right that can only be given up."""
        if exportable and not self.exportable:
            raise Conflict(
                "A key that was not created exportable cannot become exportable.", code="EXPORTABLE_GIVEN_UP"
            )
        if min_signing_version is not None and not 1 <= min_signing_version <= self.latest.number:
            raise BadInput(f"min_signing_version must be 1 to {self.latest.number}, the key's latest version.")
        return replace(
            self,
            exportable=_either(exportable, self.exportable),
            deletion_allowed=_either(deletion_allowed, self.deletion_allowed),
            enabled=_either(enabled, self.enabled),
            min_signing_version=_either(min_signing_version, self.min_signing_version),
        )

    def rotated(self, *, now_ms: int) -> Self:
        """The key with one more version from fresh randomness. Raises Conflict at MAX_VERSIONS."""
        if len(self.versions) >= MAX_VERSIONS:
            raise Conflict(f"A key has at most {MAX_VERSIONS} versions; create another key.", code="VERSIONS_EXHAUSTED")
        fresh = Version(number=self.latest.number + 1, signer=SigningKey.generated(), created_at_ms=now_ms)
        return replace(self, versions=(*self.versions, fresh))

    def sealed_to(self, recipient: str, seal: Callable[[Version], bytes]) -> Self:
        """The key with a copy of every version for the recipient; copies that it has for it already stay."""
        kept = recipient == self.recovery_recipient
        versions = [
            version if kept and version.sealed else replace(version, sealed=seal(version)) for version in self.versions
        ]
        return replace(self, versions=tuple(versions), recovery_recipient=recipient)

    def without_copies(self) -> Self:
        """The key without recovery copies."""
        versions = tuple(replace(version, sealed=b"") for version in self.versions)
        return replace(self, versions=versions, recovery_recipient="")

    def public_data(self) -> dict[str, Any]:
        """What anybody may see who may read the key."""
        return {
            "public_key": self.latest.signer.public_key.hex(),
            "latest_version": self.latest.number,
            "min_signing_version": self.min_signing_version,
            "enabled": self.enabled,
            "exportable": self.exportable,
            "deletion_allowed": self.deletion_allowed,
            "recovery_recipient": self.recovery_recipient,
            "versions": {
                str(version.number): {
                    "public_key": version.signer.public_key.hex(),
                    "created_at_ms": version.created_at_ms,
                }
                for version in self.versions
            },
        }


def _either(value: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if value is None else value


def encoded(key: Key) -> bytes:
    """The key for storage, scalars included."""
    secrets = [(version.signer.scalar(), version.sealed) for version in key.versions]
    try:
        return _stored(key, secrets)
    finally:
        for scalar, _ in secrets:
            overwrite(scalar)


def overwritten(key: Key) -> bytes:
    """What is written over a key before its entry goes: the same length, zeros for scalars and their copies."""
    return _stored(key, [(bytes(SCALAR_BYTES), bytes(len(version.sealed))) for version in key.versions])


def _stored(key: Key, secrets: Sequence[tuple[bytes, bytes]]) -> bytes:
    return StoredKey(
        layout=_LAYOUT_WITH_COPIES if key.recovery_recipient else _LAYOUT,
        versions=[
            StoredVersion(
                version=version.number,
                scalar=scalar,
                public_key=version.signer.public_key,
                created_at_ms=version.created_at_ms,
                sealed=sealed,
            )
            for version, (scalar, sealed) in zip(key.versions, secrets, strict=True)
        ],
        exportable=key.exportable,
        deletion_allowed=key.deletion_allowed,
        disabled=not key.enabled,
        min_signing_version=key.min_signing_version,
        recovery_recipient=key.recovery_recipient,
    ).SerializeToString()


def decoded(blob: bytes, *, copies: bool = True) -> Key | None:
    """The key of a storage entry; None for one whose deletion stopped after its material was overwritten.

    copies: with its recovery copies, which signing does not need and the cache has no room for.
    Raises ValueError for an entry that this engine cannot have written: wrong layout, or a scalar whose public key is
    not the one beside it (a signature by such a key would be the caller's loss).
    """
    stored = StoredKey.FromString(blob)
    if stored.layout not in (_LAYOUT, _LAYOUT_WITH_COPIES) or not stored.versions:
        raise ValueError(f"a key in storage has layout {stored.layout}, this engine knows 1 to {_LAYOUT_WITH_COPIES}")
    if not any(stored.versions[-1].scalar):
        return None
    versions = [
        Version(
            number=entry.version,
            signer=SigningKey.of(entry.scalar),
            created_at_ms=entry.created_at_ms,
            sealed=entry.sealed if copies else b"",
        )
        for entry in stored.versions
    ]
    if any(
        version.signer.public_key != entry.public_key for version, entry in zip(versions, stored.versions, strict=True)
    ):
        raise ValueError("a key in storage does not belong to the public key beside it")
    return Key(
        versions=tuple(versions),
        exportable=stored.exportable,
        deletion_allowed=stored.deletion_allowed,
        enabled=not stored.disabled,
        min_signing_version=stored.min_signing_version,
        recovery_recipient=stored.recovery_recipient,
    )


def buried(blob: bytes) -> list[bytes]:
    """The public keys of an entry that is overwritten."""
    return [entry.public_key for entry in StoredKey.FromString(blob).versions]
