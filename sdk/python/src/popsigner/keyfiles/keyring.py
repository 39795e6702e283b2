"""The Cosmos SDK's keyring on disk: the backends `test` and `file`, folders `keyring-test` and `keyring-file` in the
home of a chain's program, such as ~/.celestia-app.

Each key has two files, a token each (`jwe`): `<name>.info` holds the key (`record`), and `<hex of the address>.address`
the name of the first. The backend `file` also has `keyhash`, a bcrypt hash of the passphrase of them all; the
passphrase of `test` is the word test, which protects nothing.
"""

import base64
import binascii
import json
import os
import re
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

import bcrypt

from . import files, jwe, record
from .errors import (
    DamagedFile,
    EntryExists,
    EntryMissing,
    FileUnusable,
    PublicKeyMismatch,
    UnsuitablePassphrase,
    WrongPassphrase,
)
from .record import Record
from .secret import Secret, overwrite

Backend = Literal["test", "file"]
# For `test` what the SDK asks for; for `file` what OWASP asks for (2023), which the SDK's library reads as well.
ITERATIONS: Final = {"test": jwe.ITERATIONS, "file": 600_000}
_INFO, _ADDRESS, _KEYHASH = ".info", ".address", "keyhash"
_TEST_PASSPHRASE: Final = b"test"
# The SDK takes no shorter one, and bcrypt reads no further.
_PASSPHRASE: Final = range(8, 73)
_BCRYPT_ROUNDS: Final = 10
# Beyond this a hash costs minutes: nobody made it to be checked.
_MAX_BCRYPT_ROUNDS: Final = 16
_MAX_NAME: Final = 128
# JSON's own quotes stand alone; those inside a text have a backslash before them.
_DATA: Final = re.compile(rb'"Data"\s*:\s*"([A-Za-z0-9+/=]*)"')


class CosmosKeyring:
    """One keyring. `home` is the folder in which `keyring-<backend>` is; it has to exist.

    The passphrase of `test` is known and need not be given. Methods raise FileUnusable besides what they name.
    """

    def __init__(self, home: Path, backend: Backend, passphrase: bytes = b"") -> None:
        self.folder = home / f"keyring-{backend}"
        self._backend = backend
        self._passphrase = _TEST_PASSPHRASE if backend == "test" else passphrase

    def names(self) -> list[str]:
        """The names of the entries, sorted; without the passphrase. Raises EntryMissing where there is no keyring."""
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            raise EntryMissing(f"there is no keyring in {self.folder}") from None
        except OSError as error:
            raise files.unusable(self.folder, error) from None
        return sorted(unquote(name, errors="replace")[: -len(_INFO)] for name in found if name.endswith(_INFO))

    def check_passphrase(self) -> None:
        """Compare the passphrase with the folder's `keyhash`, where it has one. Raises WrongPassphrase, DamagedFile."""
        if self._backend == "test" or not os.path.lexists(self.folder / _KEYHASH):
            return
        kept = bytes(files.read(self.folder / _KEYHASH)).strip()
        rounds = re.fullmatch(rb"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}", kept)
        if rounds is None or not 4 <= int(rounds[1]) <= _MAX_BCRYPT_ROUNDS:
            raise DamagedFile(f"{self.folder / _KEYHASH} is not a bcrypt hash")
        # Go's bcrypt refuses longer ones, so no keyring has them.
        if len(self._passphrase) >= _PASSPHRASE.stop or not bcrypt.checkpw(self._passphrase, kept):
            raise WrongPassphrase(f"the passphrase is not that of the keyring in {self.folder}")

    def read(self, name: str) -> Secret:
        """The private key of one entry.

        Raises EntryMissing, WrongPassphrase, UnsupportedKey, UnsupportedParameters, DamagedFile, InvalidPrivateKey,
        PublicKeyMismatch.
        """
        self.check_passphrase()
        return self._record(name).secret

    def write(self, name: str, secret: Secret, *, iterations: int = 0) -> None:
        """Add an entry; the keyring is made where there is none.

        The address is written first and the key last: after a crash there is an address that leads nowhere, which the
        SDK and a repetition of this call both put right. iterations: of PBKDF2, 0 for the backend's default.
        Raises EntryExists (the name, or the same key under another name), UnsuitablePassphrase, WrongPassphrase.
        """
        _check_name(name)
        files.make_folder(self.folder)
        with files.locked(self.folder, private=True):
            self._check_one_passphrase()
            info = self._place(name + _INFO)
            if os.path.lexists(info):
                raise EntryExists(f"the keyring in {self.folder} has an entry of the name {name} already")
            address = self._place(secret.facts.account.hex() + _ADDRESS)
            taken = os.path.lexists(address)
            if taken and (other := self._named(address)) and os.path.lexists(self._place(other)):
                raise EntryExists(f"the keyring in {self.folder} has this key already, as {other.removesuffix(_INFO)}")
            self._make_keyhash()
            chosen = iterations or ITERATIONS[self._backend]
            files.write_sealed(address, self._sealed(address.name, (name + _INFO).encode(), chosen), replace=taken)
            content = record.write(name, secret)
            try:
                files.write_sealed(info, self._sealed(name + _INFO, content, chosen))
            finally:
                overwrite(content)

    def delete(self, name: str, public_key: bytes) -> None:
        """Overwrite and unlink the two files of an entry, if it is of this public key (33 bytes) indeed.

        A call that was interrupted can be repeated. Raises as `read` does, and PublicKeyMismatch for another key.
        """
        with files.locked(self.folder, private=True):
            info = self._place(name + _INFO)
            files.clear(self.folder)
            if not files.erased(files.read(info)):
                self.check_passphrase()
                found = self._record(name)
                found.secret.wipe()
                if found.secret.facts.public_key != public_key:
                    raise PublicKeyMismatch(f"the entry {name} in {self.folder} is of another key; it is left alone")
                address = self._place(found.account.hex() + _ADDRESS)
                if os.path.lexists(address) and self._named(address) in ("", name + _INFO):
                    files.destroy(address)
            # Of an entry that begins with zeros the address went before: a deletion was interrupted in its last step.
            files.destroy(info)

    def _record(self, name: str) -> Record:
        path = self._place(name + _INFO)
        try:
            token = files.read(path)
        except EntryMissing:
            raise EntryMissing(f"the keyring in {self.folder} has no entry of the name {name}") from None
        data = self._opened(token, name + _INFO)
        try:
            found = record.read(data)
        finally:
            overwrite(data)
        if found.name != name:
            found.secret.wipe()
            raise DamagedFile(f"the entry {name} in {self.folder} says that it has another name")
        return found

    def _named(self, address: Path) -> str:
        """The name of the entry to which an address leads, or nothing: its deletion was interrupted."""
        token = files.read(address)
        return self._opened(token, address.name).decode(errors="replace") if not files.erased(token) else ""

    def _opened(self, token: bytearray, key: str) -> bytes:
        """The data of the item that a token holds: JSON, of which the data is never made a text. The caller overwrites
        it."""
        item = jwe.decrypt(token, self._passphrase)
        try:
            found = list(_DATA.finditer(item))
            if len(found) != 1:
                raise DamagedFile("the entry is malformed inside its encryption")
            start, stop = found[0].span(1)
            with memoryview(item) as view:
                data = binascii.a2b_base64(view[start:stop])
            item[start:stop] = b" " * (stop - start)
            document: Any = json.loads(item)
        except (ValueError, RecursionError):
            raise DamagedFile("the entry is malformed inside its encryption") from None
        finally:
            overwrite(item)
        # Who exchanges two files must not exchange two keys.
        if not isinstance(document, dict) or document.get("Key") != key:
            overwrite(data)
            raise DamagedFile(f"the entry in the file {key} is of another name: files were exchanged or renamed")
        return data

    def _sealed(self, key: str, data: bytes | bytearray, iterations: int) -> bytes:
        """An item as the keyring's library writes it."""
        head = b'{"Key":' + json.dumps(key).encode() + b',"Data":"'
        tail = b'","Label":"","Description":"","KeychainNotTrustApplication":false,"KeychainNotSynchronizable":false}'
        encoded = base64.b64encode(data)
        item = bytearray().join([head, encoded, tail])
        try:
            return jwe.encrypt(item, self._passphrase, iterations=iterations)
        finally:
            overwrite(encoded, item)

    def _check_one_passphrase(self) -> None:
        """Entries of one keyring have one passphrase; without a keyhash the first entry decides."""
        self.check_passphrase()
        if not os.path.lexists(self.folder / _KEYHASH) and (names := self.names()):
            path = self._place(names[0] + _INFO)
            overwrite(self._opened(files.read(path), names[0] + _INFO))

    def _make_keyhash(self) -> None:
        path = self.folder / _KEYHASH
        if self._backend == "test" or os.path.lexists(path):
            return
        if len(self._passphrase) not in _PASSPHRASE:
            raise UnsuitablePassphrase(
                f"the passphrase of a keyring has {_PASSPHRASE[0]} to {_PASSPHRASE[-1]} bytes, as Cosmos programs ask"
            )
        files.write_sealed(path, bcrypt.hashpw(self._passphrase, bcrypt.gensalt(_BCRYPT_ROUNDS, prefix=b"2a")))

    def _place(self, key: str) -> Path:
        # The library escapes what would leave the folder, and its own sign for it.
        name = key.replace("%", "%25").replace("/", "%2F")
        if "\0" in name or len(name.encode(errors="replace")) > 255:
            raise FileUnusable("the name of the entry cannot be the name of a file")
        return self.folder / name


def _check_name(name: str) -> None:
    """Names that every Cosmos program takes back as they are."""
    if (
        not 1 <= len(name) <= _MAX_NAME
        or not name.isprintable()
        or not name.strip()
        or name.endswith((_INFO, _ADDRESS))
    ):
        raise FileUnusable(
            f"an entry's name has 1 to {_MAX_NAME} printable characters, and ends in neither {_INFO} nor {_ADDRESS}"
        )
