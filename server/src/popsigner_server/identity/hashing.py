"""Secrets of API keys at rest: Argon2id (RFC 9106), and the check that spares it for wrong ones."""

import hashlib
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# The second set of OWASP's recommended minimum: 19 MiB, 2 passes, 1 lane. A secret has 256 random bits, so nothing is
# gained by making a guess dearer; what counts is what a flood of wrong keys costs us.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_CHECK_OF = b"popsigner api key check"
_CHECK_BYTES = 4


def new_secret() -> str:
    """256 random bits as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def hash_secret(secret: str) -> str:
    """The hash in PHC string format. Takes tens of milliseconds: not on the event loop."""
    return _HASHER.hash(secret)


def verify_secret(key_hash: str, secret: str) -> bool:
    """Whether the secret is the hashed one; compared in constant time. Takes tens of milliseconds."""
    try:
        return _HASHER.verify(key_hash, secret)
    except (VerificationError, InvalidHashError):
        return False


def check_of(secret: str) -> bytes:
    """4 bytes that are stored beside the hash. A secret without them is wrong, for the price of one SHA-256; with them
    it is still to be verified.

    32 of 256 bits cost nothing. Secrets are random, so a hash of one can be turned round by trying alone: whoever reads
    the database, or times 2^32 attempts to find those that reach Argon2id, still has 2^224 secrets left, more than
    AES-128 has keys. A flood of wrong keys on the other hand would pay in our memory and our cores: one in 2^32 of them
    now does. (A password would be lost by this: a fast hash of 4 bytes is enough to search a dictionary.)
    """
    return hashlib.sha256(_CHECK_OF + secret.encode()).digest()[:_CHECK_BYTES]
