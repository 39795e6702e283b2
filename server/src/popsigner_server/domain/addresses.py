"""How chains name a public key."""

import hashlib
from functools import lru_cache

from coincurve import PublicKey
from Crypto.Hash import RIPEMD160

from popsigner_server.domain import bech32
from popsigner_server.domain.digests import keccak256

# Addresses of each kind that are remembered: some pages of keys. Each is 0.35 KiB, and costs 50 µs anew.
REMEMBERED = 2_048


@lru_cache(REMEMBERED)
def account_address(public_key: bytes, prefix: str) -> str:
    """The bech32 account address of a compressed public key (33 bytes): its SHA-256's RIPEMD-160.

    The rule is Cosmos SDK ADR-028's for secp256k1 account keys. The prefix is 1 to 83 lower-case characters; with more
    than 51 the text outgrows BIP-173's 90 characters, which Cosmos chains take. Raises ValueError.
    """
    if len(public_key) != 33:
        raise ValueError("The public key must be compressed: 33 bytes.")
    # Not hashlib's RIPEMD-160: OpenSSL 3 keeps it in its legacy provider, which many builds do not load.
    account = RIPEMD160.new(hashlib.sha256(public_key).digest()).digest()
    return bech32.encode(prefix, bech32.to_groups(account), bech32.Variant.BECH32)


def eip55(address: bytes) -> str:
    """An Ethereum address (20 bytes) in hexadecimal, with the checksum of EIP-55 in the case of its letters."""
    text = address.hex()
    # A letter is upper case where the hash of the lower-case text has a digit of 8 or more.
    digits = keccak256(text.encode()).hex()
    return "0x" + "".join(
        [letter.upper() if digit >= "8" else letter for letter, digit in zip(text, digits, strict=False)]
    )


@lru_cache(REMEMBERED)
def eth_address(public_key: bytes) -> str:
    """The Ethereum address of a public key (33 or 65 bytes), with the checksum of EIP-55.

    It is the last 20 bytes of the Keccak-256 of the point's 64. Raises ValueError for what is no point of the curve.
    """
    return eip55(keccak256(PublicKey(public_key).format(compressed=False)[1:])[12:])
