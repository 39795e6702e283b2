"""Recovery copies as the engine and the server seal them, made by hand for an identity of the test's own."""

import json
import os
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pyrage  # type: ignore[import-untyped]  # publishes no types

from popsigner.keyfiles import Secret
from popsigner.recovery import Bundle, Entry, SealedVersion
from popsigner_server.domain.ids import Prefix, show


@dataclass(frozen=True, slots=True)
class Identity:
    """An age identity, as `age-keygen` writes its file."""

    made: pyrage.x25519.Identity = field(default_factory=pyrage.x25519.Identity.generate)

    @property
    def recipient(self) -> str:
        return str(self.made.to_public())

    @property
    def file(self) -> bytes:
        return f"# created: 2026-11-21T00:00:00Z\n# public key: {self.recipient}\n{self.made}\n".encode()

    def seal(self, content: bytes) -> bytes:
        sealed: bytes = pyrage.encrypt(content, [self.made.to_public()])
        return sealed


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key with its private keys, oldest version first."""

    name: str
    namespace: str = "production"
    address_prefix: str = "celestia"
    scalars: tuple[bytes, ...] = field(default_factory=lambda: (os.urandom(32),))
    uuid: UUID = field(default_factory=uuid4)

    @property
    def id(self) -> str:
        return show(Prefix.KEY, self.uuid)

    @property
    def public_keys(self) -> list[bytes]:
        return [Secret(bytearray(scalar)).facts.public_key for scalar in self.scalars]

    def copy(self, version: int, /, **changed: object) -> bytes:
        """What the engine seals of a version."""
        document = {
            "curve": "secp256k1",
            "name": self.uuid.hex,
            "private_key": self.scalars[version - 1].hex(),
            "public_key": self.public_keys[version - 1].hex(),
            "version": version,
        }
        return json.dumps(document | changed, separators=(",", ":")).encode()

    def label(self, **changed: object) -> bytes:
        """What the server seals of a key."""
        label = {
            "address_prefix": self.address_prefix,
            "id": self.id,
            "name": self.name,
            "namespace": self.namespace,
        }
        return json.dumps(label | changed, separators=(",", ":")).encode().ljust(512)

    def entry(self, identity: Identity) -> Entry:
        versions = [
            SealedVersion(public_key=public_key, ciphertext=identity.seal(self.copy(number)))
            for number, public_key in enumerate(self.public_keys, start=1)
        ]
        return Entry(label=identity.seal(self.label()), versions=tuple(versions))


def bundle_of(identity: Identity, *keys: SealedKey, uncovered: tuple[bytes, ...] = ()) -> Bundle:
    """The bundle of these keys."""
    return Bundle(recipient=identity.recipient, entries=tuple(key.entry(identity) for key in keys), uncovered=uncovered)
