"""Private keys as Amino writes them (Tendermint's specification): four bytes that name the type, a length, the key.

The four bytes come from the SHA-256 of the registered name, without leading zeros, then without the next three bytes
and the zeros after those.
"""

from typing import Final

from .errors import DamagedFile, UnsupportedKey
from .secret import SCALAR_BYTES

# tendermint/PrivKeySecp256k1, ethermint/PrivKeyEthSecp256k1
SECP256K1: Final = bytes.fromhex("e1b0f79b")
ETH_SECP256K1: Final = bytes.fromhex("fcd2efcc")
PREFIX_BYTES: Final = 4


def private_key(encoded: memoryview) -> tuple[bytearray, bool]:
    """The 32 bytes of a secp256k1 private key, and whether its addresses are Ethereum's (Ethermint).

    Raises UnsupportedKey, DamagedFile. The caller overwrites the bytes.
    """
    prefix = bytes(encoded[:PREFIX_BYTES])
    if prefix not in (SECP256K1, ETH_SECP256K1):
        raise UnsupportedKey("the key is of another type than secp256k1, such as ed25519")
    if len(encoded) != PREFIX_BYTES + 1 + SCALAR_BYTES or encoded[PREFIX_BYTES] != SCALAR_BYTES:
        raise DamagedFile("the private key is cut off or malformed inside its encryption")
    return bytearray(encoded[PREFIX_BYTES + 1 :]), prefix == ETH_SECP256K1


def written(scalar: bytearray) -> bytearray:
    """A secp256k1 private key with its type; the caller overwrites it."""
    encoded = bytearray(PREFIX_BYTES + 1 + SCALAR_BYTES)
    encoded[: PREFIX_BYTES + 1] = SECP256K1 + bytes([SCALAR_BYTES])
    encoded[PREFIX_BYTES + 1 :] = scalar
    return encoded
