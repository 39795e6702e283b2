"""A vault in memory, for tests that hold a trip back or make it fail; tests/contract holds it to the real one."""

import asyncio
from dataclasses import dataclass, field

import coincurve

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.vault import Refusal, Signed, Trip

# As many versions as the engine gives a key.
MAX_VERSIONS = 64


@dataclass(slots=True)
class MemoryVault:
    """Keys in a dict: the first version of each in `keys`, the later ones in `later`. `gate` holds trips back
    while it is cleared; `away` makes every call fail."""

    keys: dict[str, coincurve.PrivateKey] = field(default_factory=dict)
    later: dict[str, list[coincurve.PrivateKey]] = field(default_factory=dict)
    trips: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    async def create(self, name: str, *, exportable: bool) -> bytes:
        self._answer()
        return self.keys.setdefault(name, coincurve.PrivateKey()).public_key.format()

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
