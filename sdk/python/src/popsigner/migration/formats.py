"""The formats by the names that people call them. Nothing heavy is imported here: the command line lists them."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """What can be written."""

    COSMOS_TEST = "cosmos-test"
    COSMOS_FILE = "cosmos-file"
    COSMOS_ARMOR = "cosmos-armor"
    KEYSTORE = "keystore"
    HEX = "hex"

    @property
    def encrypted(self) -> bool:
        """Whether there is a passphrase to it."""
        return self not in (ExportFormat.COSMOS_TEST, ExportFormat.HEX)


class ImportFormat(StrEnum):
    """What can be read. A mnemonic makes a private key and cannot be made of one, so it is read alone."""

    AUTO = "auto"
    COSMOS_TEST = "cosmos-test"
    COSMOS_FILE = "cosmos-file"
    COSMOS_ARMOR = "cosmos-armor"
    MNEMONIC = "mnemonic"
    KEYSTORE = "keystore"
    HEX = "hex"

    @property
    def encrypted(self) -> bool:
        """Whether it does not open without a passphrase. That of a mnemonic is a part of the key instead."""
        return self in (ImportFormat.COSMOS_FILE, ImportFormat.COSMOS_ARMOR, ImportFormat.KEYSTORE)

    @property
    def keyring(self) -> bool:
        """Whether it holds many keys, each under a name."""
        return self in (ImportFormat.COSMOS_TEST, ImportFormat.COSMOS_FILE)
