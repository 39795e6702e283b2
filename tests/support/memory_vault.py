"""A vault in memory, for tests that hold a trip back or make it fail; tests/contract holds it to the real one."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import coincurve

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.vault import Placed, Refusal, Sealed, SealedVersion, Signed, Trip, WrappingKey

WRAPPING = WrappingKey(id="0" * 64, public_key="memory", wrapping="memory", created_at_ms=0)
# As many versions as the engine gives a key.
MAX_VERSIONS = 64


@dataclass(slots=True)
class MemoryVault:
    """Keys in a dict: the first version of each in `keys`, the later ones in `later`. `gate` holds trips back
    while it is cleared; `away` makes every call fail. Nothing is encrypted: what leaves sealed is `sealed:` and the
    private key."""

    keys: dict[str, coincurve.PrivateKey] = field(default_factory=dict)
    later: dict[str, list[coincurve.PrivateKey]] = field(default_factory=dict)
    trips: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False
    exportable: set[str] = field(default_factory=set)
    recipients: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate.set()

    async def create(self, name: str, *, exportable: bool, recovery_recipient: str = "") -> bytes:
        self._answer()
        self._place(name, coincurve.PrivateKey(), exportable, recovery_recipient)
        return self.keys[name].public_key.format()

    async def wrapping_key(self) -> WrappingKey:
        self._answer()
        return WRAPPING

    async def bring_in(
        self, name: str, *, ciphertext: bytes, wrapping_key: str, exportable: bool, recovery_recipient: str = ""
    ) -> Placed:
        """Takes `memory:` and the 32 bytes of the private key for a ciphertext."""
        self._answer()
        if wrapping_key not in ("", WRAPPING.id):
            raise errors.WrappingKeyUnknown
        opened, _, scalar = ciphertext.partition(b"memory:")
        if opened or not scalar:
            raise errors.WrappedKeyInvalid
        if len(scalar) != 32:
            raise errors.PrivateKeyInvalid
        try:
            key = coincurve.PrivateKey(scalar)
        except ValueError:
            raise errors.PrivateKeyInvalid from None
        if name in self.keys:
            if self.keys[name].secret != key.secret:
                raise errors.KeyNameTaken(name)
        elif any(key.secret == other.secret for held in self.keys for other in self.versions(held)):
            raise errors.KeyPresent
        self._place(name, key, exportable, recovery_recipient)
        if not exportable:
            self.exportable.discard(name)
        return Placed(
            public_key=key.public_key.format(),
            exportable=name in self.exportable,
            recovery_recipient=self.recipients.get(name, ""),
        )

    async def export(self, name: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        self._answer()
        if name not in self.keys:
            raise errors.KeyNotFound
        if name not in self.exportable:
            raise errors.KeyNotExportable
        if not recipient.startswith(("age1", "-----BEGIN")):
            raise errors.InvalidField("recipient", "must be a recipient.")
        if any(not 1 <= number <= len(self.versions(name)) for number in versions):
            raise errors.KeyVersionUnavailable
        return self._sealed(name, "", sorted(set(versions)))

    async def recovery(self, name: str) -> Sealed | None:
        self._answer()
        if name not in self.keys:
            raise errors.KeyNotFound
        if name not in self.recipients:
            return None
        return self._sealed(name, self.recipients[name], range(1, len(self.versions(name)) + 1))

    async def seal(self, name: str, *, recipient: str) -> None:
        self._answer()
        if name not in self.keys:
            raise errors.KeyNotFound
        if recipient and not recipient.startswith("age1"):
            raise errors.InvalidField("recipient", "must be an age X25519 recipient (age1…).")
        self.recipients.pop(name, None)
        if recipient:
            self.recipients[name] = recipient

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        self._answer()
        if name not in self.keys:
            raise errors.KeyNotFound
        count = len(self.versions(name))
        if to_version > count + 1:
            raise errors.VaultUnavailable
        if to_version > MAX_VERSIONS:
            raise errors.KeyVersionsExhausted
        if to_version > count:
            self.later.setdefault(name, []).append(coincurve.PrivateKey())
        return self.versions(name)[to_version - 1].public_key.format()

    async def destroy(self, name: str) -> None:
        self._answer()
        self.keys.pop(name, None)
        self.later.pop(name, None)
        self.recipients.pop(name, None)
        self.exportable.discard(name)

    async def sign(self, trip: Trip) -> Signed:
        self._answer()
        await self.gate.wait()
        self._answer()
        self.trips.append(len(trip.key_index))
        refusals: dict[int, Refusal] = {}
        for i, (name, version) in enumerate(trip.keys):
            if name not in self.keys:
                refusals[i] = Refusal.UNKNOWN_KEY
            elif version > len(self.versions(name)):
                refusals[i] = Refusal.VERSION_UNAVAILABLE
        signatures = [
            b"" if key in refusals else self._sign(*trip.keys[key], trip.digests[32 * i : 32 * i + 32], code)
            for i, (key, code) in enumerate(zip(trip.key_index, trip.formats, strict=True))
        ]
        return Signed(signatures=signatures, refusals=refusals)

    async def is_ready(self) -> bool:
        return not self.away

    async def close(self) -> None:
        self.keys.clear()

    def _place(self, name: str, key: coincurve.PrivateKey, exportable: bool, recipient: str) -> None:
        if name not in self.keys:
            self.keys[name] = key
            if exportable:
                self.exportable.add(name)
            if recipient:
                self.recipients[name] = recipient

    def _sealed(self, name: str, recipient: str, numbers: Iterable[int]) -> Sealed:
        found = {number: self.versions(name)[number - 1] for number in numbers}
        return Sealed(
            wrapping="memory",
            recipient=recipient,
            versions=tuple(
                SealedVersion(version=number, public_key=key.public_key.format(), ciphertext=b"sealed:" + key.secret)
                for number, key in found.items()
            ),
        )

    def _answer(self) -> None:
        if self.away:
            raise errors.VaultUnavailable

    def versions(self, name: str) -> list[coincurve.PrivateKey]:
        """All versions of a key, the first one first."""
        return [self.keys[name], *self.later.get(name, [])]

    def _sign(self, name: str, version: int, digest: bytes, code: int) -> bytes:
        key = self.versions(name)[version - 1]
        if code == SignatureFormat.DER.value:
            return key.sign(digest, hasher=None)
        recoverable = key.sign_recoverable(digest, hasher=None)
        return recoverable if code == SignatureFormat.RECOVERABLE.value else recoverable[:64]
