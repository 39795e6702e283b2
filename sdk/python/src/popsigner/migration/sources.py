"""Where private keys are read: a keyring, one file, or what was typed or piped in."""

from pathlib import Path
from typing import Protocol

from ..keyfiles import (
    CosmosKeyring,
    Format,
    KeyFileError,
    NotThisFormat,
    PublicKeyMismatch,
    Secret,
    armor,
    detect,
    files,
    keystore,
    mnemonic,
    overwrite,
    rawhex,
)
from ..keyfiles.keyring import Backend
from .formats import ImportFormat

_DETECTED = {
    Format.COSMOS_ARMOR: ImportFormat.COSMOS_ARMOR,
    Format.ETHEREUM_KEYSTORE: ImportFormat.KEYSTORE,
    Format.MNEMONIC: ImportFormat.MNEMONIC,
    Format.HEX: ImportFormat.HEX,
}
_KEYRINGS: dict[ImportFormat, Backend] = {ImportFormat.COSMOS_TEST: "test", ImportFormat.COSMOS_FILE: "file"}


class Source(Protocol):
    """Private keys by name. Methods raise KeyFileError."""

    def names(self) -> list[str]:
        """The names of the entries, without opening any."""
        ...

    def read(self, name: str) -> Secret:
        """One private key, which the caller wipes."""
        ...

    def delete(self, name: str, public_key: bytes) -> None:
        """Destroy exactly this entry, if it is of this public key (33 bytes) indeed."""
        ...

    def finish_deletion(self, name: str) -> bool:
        """Whether the entry's deletion had been interrupted, and has been finished now."""
        ...


def recognized(path: Path) -> ImportFormat:
    """The format of a path. Raises EntryMissing, FileUnusable, NotThisFormat."""
    try:
        found = detect(path)
    except NotThisFormat:
        if path.is_dir() or not _erased(path):
            raise
        # Its deletion was interrupted; what it was is gone, and does not matter to the end of it.
        return ImportFormat.HEX
    if found in _DETECTED:
        return _DETECTED[found]
    if found is not Format.COSMOS_KEYRING:
        raise NotThisFormat(f"{path} is sealed with age; open it first: age -d -i IDENTITY {path}")
    there = [each for each in _KEYRINGS if _folder(path, each).is_dir()]
    if len(there) != 1:
        raise NotThisFormat(f"{path} has two keyrings; say which one is meant: --format cosmos-test, or cosmos-file")
    return there[0]


class KeyringSource:
    """A Cosmos SDK keyring. `path` is its folder, or the home around it."""

    def __init__(self, path: Path, form: ImportFormat, passphrase: bytes) -> None:
        self._keyring = CosmosKeyring(_folder(path, form).parent, _KEYRINGS[form], passphrase)

    def names(self) -> list[str]:
        return self._keyring.names()

    def read(self, name: str) -> Secret:
        return self._keyring.read(name)

    def delete(self, name: str, public_key: bytes) -> None:
        self._keyring.delete(name, public_key)

    def finish_deletion(self, name: str) -> bool:
        try:
            # No entry is of this public key: what is there as a whole stays there.
            self._keyring.delete(name, b"")
        except KeyFileError:
            return False
        return True


class FileSource:
    """One private key, in a file or, without a path, in `content`, which the caller overwrites. `name` is what it is
    called here."""

    def __init__(
        self,
        name: str,
        form: ImportFormat,
        *,
        path: Path | None = None,
        content: bytearray | None = None,
        passphrase: bytes = b"",
        hd_path: str = mnemonic.COSMOS_PATH,
    ) -> None:
        self._name = name
        self._form = form
        self._path = path
        self._content = content
        self._passphrase = passphrase
        self._hd_path = hd_path

    def names(self) -> list[str]:
        return [self._name]

    def read(self, name: str) -> Secret:
        if self._path is None:
            return self._parsed(self._content or bytearray())
        content = files.read(self._path)
        try:
            return self._parsed(content)
        finally:
            overwrite(content)

    def delete(self, name: str, public_key: bytes) -> None:
        if self._path is None:
            raise NotThisFormat("what came from stdin is in no file, so there is nothing to delete")
        with self.read(name) as secret:
            if secret.facts.public_key != public_key:
                raise PublicKeyMismatch(f"{self._path} is of another key now; it is left alone")
        files.destroy(self._path)

    def finish_deletion(self, name: str) -> bool:
        if self._path is None or not _erased(self._path):
            return False
        files.destroy(self._path)
        return True

    def _parsed(self, content: bytearray) -> Secret:
        match self._form:
            case ImportFormat.COSMOS_ARMOR:
                return armor.read(content, self._passphrase)
            case ImportFormat.KEYSTORE:
                return keystore.read(content, self._passphrase)
            case ImportFormat.MNEMONIC:
                return mnemonic.read(content, passphrase=self._passphrase.decode(), path=self._hd_path)
            case ImportFormat.HEX:
                return rawhex.read(content)
            case _:
                raise NotThisFormat(f"{self._name} is one file, and {self._form} is a folder")


def _erased(path: Path) -> bool:
    content = files.read(path)
    try:
        return files.erased(content)
    finally:
        overwrite(content)


def _folder(path: Path, form: ImportFormat) -> Path:
    name = f"keyring-{_KEYRINGS[form]}"
    return path if path.name == name else path / name
