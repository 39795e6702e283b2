"""Private keys in files on this machine: those that come to POPSigner, and those that leave it. Nothing here asks a
server.

    from popsigner.keyfiles import detect, files, keystore

    with keystore.read(files.read(path), passphrase) as secret:
        print(secret.facts.eth_address)
        use(secret.scalar)

A format is a module: `keyring`, `armor`, `mnemonic` (reading only), `keystore`, `rawhex`, and `age` for what was sealed
to an age recipient. Every mistake is a KeyFileError. Passphrases are bytes, in UTF-8. It needs the extra:
pip install 'popsigner[keyfiles]'.
"""

try:
    from . import age, armor, files, keyring, keystore, mnemonic, rawhex
except ModuleNotFoundError as missing:
    raise ImportError(f"key files need {missing.name}; install it with: pip install 'popsigner[keyfiles]'") from None
from .detect import Format, detect
from .errors import (
    DamagedFile,
    EntryExists,
    EntryMissing,
    FileUnusable,
    InvalidMnemonic,
    InvalidPrivateKey,
    KeyFileError,
    NotThisFormat,
    PublicKeyMismatch,
    UnsuitablePassphrase,
    UnsupportedKey,
    UnsupportedParameters,
    WrongPassphrase,
)
from .keyring import CosmosKeyring
from .secret import PublicFacts, Secret, overwrite

__all__ = [
    "CosmosKeyring",
    "DamagedFile",
    "EntryExists",
    "EntryMissing",
    "FileUnusable",
    "Format",
    "InvalidMnemonic",
    "InvalidPrivateKey",
    "KeyFileError",
    "NotThisFormat",
    "PublicFacts",
    "PublicKeyMismatch",
    "Secret",
    "UnsuitablePassphrase",
    "UnsupportedKey",
    "UnsupportedParameters",
    "WrongPassphrase",
    "age",
    "armor",
    "detect",
    "files",
    "keyring",
    "keystore",
    "mnemonic",
    "overwrite",
    "rawhex",
]
