"""Where private keys are written: a keyring, or one file a key. Nothing is ever written over."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..keyfiles import (
    CosmosKeyring,
    DamagedFile,
    EntryExists,
    FileUnusable,
    NotThisFormat,
    Secret,
    UnsuitablePassphrase,
    armor,
    files,
    keystore,
    overwrite,
    rawhex,
)
from ..keyfiles.keyring import Backend
from .formats import ExportFormat
from .results import KEY_NAME, NAMESPACE_NAME

# What Cosmos programs ask; a keystore without a passphrase would be a private key in the clear that does not look it.
MIN_PASSPHRASE: Final = 8
_SUFFIXES: Final = {ExportFormat.COSMOS_ARMOR: "asc", ExportFormat.KEYSTORE: "json", ExportFormat.HEX: "hex"}
_KEYRINGS: Final[Mapping[ExportFormat, Backend]] = {
    ExportFormat.COSMOS_TEST: "test",
    ExportFormat.COSMOS_FILE: "file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What is written: a key's version. `older`: another than the newest, whose place says which one it is."""

    namespace: str
    name: str
    version: int
    older: bool = False

    def __post_init__(self) -> None:
        # They become names of files; a POP that is not to be trusted must not choose where.
        if not NAMESPACE_NAME.fullmatch(self.namespace) or not KEY_NAME.fullmatch(self.name):
            raise FileUnusable("the POP names a key as no key can be named; nothing was written for it")


class Target(Protocol):
    """A place for exported keys. Methods raise KeyFileError."""

    def prepare(self) -> None:
        """Make what is needed, and refuse what others can look into."""
        ...

    def place(self, slot: Slot) -> str:
        """Where it goes, for people."""
        ...

    def existing(self, slot: Slot) -> Secret | None:
        """What is there already; None where `write` can go ahead."""
        ...

    def read(self, slot: Slot) -> Secret:
        """What was written, read back; the caller wipes it."""
        ...

    def write(self, slot: Slot, secret: Secret) -> None:
        """Write it, whole or not at all. Raises EntryExists."""
        ...


def target_of(folder: Path, form: ExportFormat, passphrase: bytes) -> Target:
    """The target of a format. Raises UnsuitablePassphrase."""
    if form.encrypted and len(passphrase) < MIN_PASSPHRASE:
        raise UnsuitablePassphrase(f"the passphrase has fewer than {MIN_PASSPHRASE} bytes; choose a longer one")
    if form in _KEYRINGS:
        return KeyringTarget(folder, _KEYRINGS[form], passphrase)
    return FolderTarget(folder, form, passphrase)


class KeyringTarget:
    """A Cosmos SDK keyring below `home`. An entry has the key's name, older versions `-v1`, `-v2` … after it."""

    def __init__(self, home: Path, backend: Backend, passphrase: bytes) -> None:
        self._home = home
        self._keyring = CosmosKeyring(home, backend, passphrase)

    def prepare(self) -> None:
        files.make_folder(self._home)
        if self._keyring.folder.exists():
            _check_private(self._keyring.folder)
        self._keyring.check_passphrase()

    def place(self, slot: Slot) -> str:
        return f"{self._keyring.folder}/{_entry(slot)}"

    def existing(self, slot: Slot) -> Secret | None:
        if not self._keyring.folder.exists() or _entry(slot) not in self._keyring.names():
            return None
        _clear(self._keyring.folder)
        return self.read(slot)

    def read(self, slot: Slot) -> Secret:
        return self._keyring.read(_entry(slot))

    def write(self, slot: Slot, secret: Secret) -> None:
        self._keyring.write(_entry(slot), secret)


class FolderTarget:
    """One file a key, `<namespace>/<name>.<suffix>` below a folder that is its owner's alone; older versions have
    `.v1`, `.v2` … before the suffix."""

    def __init__(self, folder: Path, form: ExportFormat, passphrase: bytes) -> None:
        self._folder = folder
        self._form = form
        self._passphrase = passphrase

    def prepare(self) -> None:
        files.make_folder(self._folder)
        _check_private(self._folder)

    def place(self, slot: Slot) -> str:
        return str(self._path(slot))

    def existing(self, slot: Slot) -> Secret | None:
        if not os.path.lexists(self._path(slot)):
            return None
        _clear(self._path(slot).parent)
        try:
            return self.read(slot)
        except (DamagedFile, NotThisFormat):
            # It may be the beginning of what `write` was killed over, which only `write` can tell.
            if self._form is ExportFormat.HEX:
                return None
            raise

    def read(self, slot: Slot) -> Secret:
        content = files.read(self._path(slot))
        try:
            match self._form:
                case ExportFormat.COSMOS_ARMOR:
                    return armor.read(content, self._passphrase)
                case ExportFormat.KEYSTORE:
                    return keystore.read(content, self._passphrase)
                case _:
                    return rawhex.read(content)
        finally:
            overwrite(content)

    def write(self, slot: Slot, secret: Secret) -> None:
        path = self._path(slot)
        files.make_folder(path.parent)
        _check_private(path.parent)
        with files.locked(path.parent, private=True):
            match self._form:
                case ExportFormat.COSMOS_ARMOR:
                    files.write_sealed(path, armor.write(secret, self._passphrase))
                case ExportFormat.KEYSTORE:
                    files.write_sealed(path, keystore.write(secret, self._passphrase))
                case _:
                    _write_hex(path, secret)

    def _path(self, slot: Slot) -> Path:
        version = f".v{slot.version}" if slot.older else ""
        return self._folder / slot.namespace / f"{slot.name}{version}.{_SUFFIXES[self._form]}"


def _entry(slot: Slot) -> str:
    return f"{slot.name}-v{slot.version}" if slot.older else slot.name


def _write_hex(path: Path, secret: Secret) -> None:
    """Of plain text no other copy may be made, so a write that was killed has left the beginning of it in place."""
    content = rawhex.write(secret)
    try:
        try:
            files.write_plain(path, content)
        except EntryExists:
            found = files.read(path)
            begun = len(found) < len(content) and content.startswith(found)
            overwrite(found)
            if not begun:
                raise
            files.destroy(path)
            files.write_plain(path, content)
    finally:
        overwrite(content)


def _clear(folder: Path) -> None:
    """A write that was killed at its end left a second name of the file, and no other write comes to remove it."""
    with files.locked(folder, private=True):
        files.clear(folder)


def _check_private(folder: Path) -> None:
    try:
        found = folder.stat()
    except OSError as error:
        raise files.unusable(folder, error) from None
    if not stat.S_ISDIR(found.st_mode):
        raise FileUnusable(f"{folder} is not a folder")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise FileUnusable(f"others can look into the folder {folder}; make it yours alone: chmod 700 {folder}")
