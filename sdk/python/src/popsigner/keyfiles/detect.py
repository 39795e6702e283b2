"""Which of the formats a path is."""

from enum import Enum
from pathlib import Path
from typing import Final

from . import age, armor, files, jwe, keystore, mnemonic, rawhex
from .errors import NotThisFormat
from .secret import overwrite


class Format(Enum):
    """The formats of key files; the value is what a person calls it."""

    COSMOS_KEYRING = "cosmos-keyring"
    COSMOS_ARMOR = "cosmos-armor"
    ETHEREUM_KEYSTORE = "ethereum-keystore"
    MNEMONIC = "mnemonic"
    HEX = "hex"
    AGE = "age"


# None of these takes what another one does.
_TESTS: Final = (
    (age.looks_like, Format.AGE),
    (armor.looks_like, Format.COSMOS_ARMOR),
    (rawhex.looks_like, Format.HEX),
    (keystore.looks_like, Format.ETHEREUM_KEYSTORE),
    (mnemonic.looks_like, Format.MNEMONIC),
)
_KEYRINGS: Final = ("keyring-test", "keyring-file")


def detect(path: Path) -> Format:
    """The format of a file, or of a folder: the home of a Cosmos program, or its keyring-test or keyring-file.

    It tells formats apart and checks nothing further. Raises EntryMissing, FileUnusable, NotThisFormat.
    """
    if path.is_dir():
        if path.name in _KEYRINGS or any((path / name).is_dir() for name in _KEYRINGS):
            return Format.COSMOS_KEYRING
        raise NotThisFormat(f"the folder {path} has no keyring: neither {_KEYRINGS[0]} nor {_KEYRINGS[1]} is in it")
    content = files.read(path)
    try:
        for test, found in _TESTS:
            if test(content):
                return found
        if jwe.looks_like(content):
            raise NotThisFormat(f"{path} is one entry of a keyring; name the folder around the keyring, and the entry")
        raise NotThisFormat(f"{path} is no key file of a known format")
    finally:
        overwrite(content)
