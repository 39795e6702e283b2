"""Argon2id (RFC 9106) of API-key secrets."""

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# The second set of OWASP's recommended minimum: 19 MiB, 2 passes, 1 lane. A secret has 256 random bits, so nothing is
# gained by making a guess dearer; what counts is what a flood of wrong keys costs us.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


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
