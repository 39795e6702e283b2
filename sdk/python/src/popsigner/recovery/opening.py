"""Opening sealed copies with the identity that was kept offline. Nothing here asks a server.

Anybody can seal anything to a public key, so what opens is not believed: a private key has to be that of the public key
beside it, and a name has to be one that the POP could have given.
"""

import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..keyfiles import age
from ..keyfiles.errors import DamagedFile, KeyFileError, PublicKeyMismatch, WrongPassphrase
from ..keyfiles.secret import Secret, overwrite
from .bundle import Bundle, Entry, SealedVersion

# What the engine seals: canonical JSON, so each member has its place. The vault names keys by their id's 128 bits.
_COPY: Final = re.compile(
    rb'\{"curve":"secp256k1","name":"([0-9a-f]{32})","private_key":"([0-9a-f]{64})",'
    rb'"public_key":"([0-9a-f]{66})","version":([1-9][0-9]?)\}'
)
_ID: Final = re.compile(r"key_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAMESPACE: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_PREFIX: Final = re.compile(r"[a-z][a-z0-9]{0,82}")
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the POP called a key: its id, namespace, name, and the bech32 prefix of its addresses."""

    id: str
    namespace: str
    name: str
    address_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedVersion:
    """The private key of a version, which is that of its public key. `key_id` is in the copy itself."""

    key_id: str
    version: int
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKey:
    """What opened of an entry. `label` is None where it did not open; `problems` are sentences about what did not."""

    entry: Entry
    label: Label | None
    versions: tuple[OpenedVersion, ...]
    problems: tuple[str, ...]

    @property
    def key_id(self) -> str:
        """The key's id, from the label or else from a copy; empty where nothing opened."""
        return self.label.id if self.label else next((each.key_id for each in self.versions), "")


def check_identity(bundle: Bundle, identity: bytes | bytearray) -> None:
    """Raises WrongPassphrase for the identity of another recipient than the bundle's, and what an identity file can be
    wrong in: NotThisFormat, UnsupportedKey, DamagedFile."""
    if bundle.recipient not in age.recipients(identity):
        raise WrongPassphrase(f"the identity is not that of {bundle.recipient}, which this bundle is sealed to")


def opened(bundle: Bundle, identity: bytes | bytearray) -> Iterator[OpenedKey]:
    """Each key of the bundle in turn; the caller wipes the private keys. Raises what `check_identity` does."""
    check_identity(bundle, identity)
    for entry in bundle.entries:
        yield open_entry(entry, identity)


def open_entry(entry: Entry, identity: bytes | bytearray) -> OpenedKey:
    """One key; what does not open is among its problems."""
    problems: list[str] = []
    versions: list[OpenedVersion] = []
    for sealed in entry.versions:
        try:
            versions.append(open_version(sealed, identity))
        except KeyFileError as error:
            problems.append(f"the copy of {sealed.public_key.hex()}: {error.message}")
    label: Label | None = None
    try:
        label = open_label(entry.label, identity)
        if any(each.key_id != label.id for each in versions):
            # One of the two was exchanged for another key's. The private keys fit their public keys: they count.
            label = None
            raise DamagedFile("it is another key's")
    except KeyFileError as error:
        problems.append(f"the label of {entry.versions[0].public_key.hex()}: {error.message}")
    return OpenedKey(entry=entry, label=label, versions=tuple(versions), problems=tuple(problems))


def open_version(sealed: SealedVersion, identity: bytes | bytearray) -> OpenedVersion:
    """The private key of one version, which the caller wipes. Raises NotThisFormat, WrongPassphrase, DamagedFile,
    InvalidPrivateKey, PublicKeyMismatch."""
    content = age.open_age(identity, sealed.ciphertext)
    try:
        found = _COPY.fullmatch(content)
        if found is None:
            raise DamagedFile("what is sealed is not a copy of a private key")
        secret = _secret(content, *found.span(2))
        if secret.facts.public_key != sealed.public_key or found[3].decode() != sealed.public_key.hex():
            secret.wipe()
            raise PublicKeyMismatch("the copy holds another private key than that of its public key")
        return OpenedVersion(key_id=_key_id(found[1]), version=int(found[4]), secret=secret)
    finally:
        overwrite(content)


def open_label(sealed: bytes, identity: bytes | bytearray) -> Label:
    """What a key was called. Raises NotThisFormat, WrongPassphrase, DamagedFile."""
    try:
        found: Any = json.loads(age.open_age(identity, sealed))
        label = Label(**found)
    except (ValueError, TypeError, RecursionError):
        raise DamagedFile("what is sealed is not a label") from None
    # Names become names of files: one with a slash in it would lead elsewhere.
    forms = ((label.id, _ID), (label.namespace, _NAMESPACE), (label.name, _NAME), (label.address_prefix, _PREFIX))
    if not all(isinstance(value, str) and form.fullmatch(value) for value, form in forms):
        raise DamagedFile("what is sealed is not a label that a POP writes")
    return label


def _secret(content: bytearray, start: int, stop: int) -> Secret:
    with memoryview(content) as view:
        scalar = binascii.unhexlify(view[start:stop])
    try:
        return Secret(bytearray(scalar))
    finally:
        overwrite(scalar)


def _key_id(vault_name: bytes) -> str:
    """`key_` and the 128 bits as 26 characters of Crockford's base32."""
    number = int(vault_name, 16)
    return "key_" + "".join([_ALPHABET[number >> 5 * place & 31] for place in reversed(range(26))])
