"""What can be wrong with a key file: one class a reason, one sentence each. No sentence holds a part of a key, a word
of a mnemonic or a passphrase."""

from ..refusal import PopsignerError


class KeyFileError(PopsignerError):
    """A key file cannot be read or written. The base of this room's errors."""


class NotThisFormat(KeyFileError):
    """The file is of another format than the one that was asked for."""


class DamagedFile(KeyFileError):
    """The file is of the format, and cut off or malformed."""


class WrongPassphrase(KeyFileError):
    """The passphrase does not open the file, or the file was changed: encryption cannot tell the two apart."""


class UnsuitablePassphrase(KeyFileError):
    """A file cannot be written with this passphrase."""


class UnsupportedKey(KeyFileError):
    """The file holds a key that is no secp256k1 private key: of a Ledger, a multisig, another curve, a public key."""


class UnsupportedParameters(KeyFileError):
    """The file asks for a cipher that the format does not have, or for more memory or time than is given to it."""


class InvalidPrivateKey(KeyFileError):
    """The private key is not a number from 1 to n-1 in 32 bytes."""


class PublicKeyMismatch(KeyFileError):
    """The file names a public key or an address that is not its private key's."""


class InvalidMnemonic(KeyFileError):
    """The words are no BIP-39 mnemonic, or the path is no HD path."""


class EntryExists(KeyFileError):
    """There is something under this name already, and nothing is overwritten."""


class EntryMissing(KeyFileError):
    """There is no file or entry of this name."""


class FileUnusable(KeyFileError):
    """The file or folder cannot be used: not a regular file, too large, others can change it, the system refuses."""
