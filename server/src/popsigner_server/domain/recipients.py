"""Whom recovery copies are sealed to: age recipients of kind X25519 (age-encryption.org/v1).

The rule raises ValueError with a sentence that follows the field's name: "must be …".
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from popsigner_server.domain import bech32

_PREFIX = "age"
_POINT = 32


def check_recipient(text: str) -> None:
    """An age X25519 recipient in its one spelling: 62 characters, lower case. Raises ValueError."""
    try:
        prefix, groups, variant = bech32.decode(text)
        point = bech32.from_groups(groups)
    except ValueError:
        prefix, point, variant = "", b"", None
    spelt = (prefix, variant, len(point)) == (_PREFIX, bech32.Variant.BECH32, _POINT)
    if not spelt or text != text.lower():
        raise ValueError(
            "must be an age X25519 recipient, as age-keygen prints it (age1 and 58 lower-case characters)."
        )
    # Some points give every sender the same shared secret, zero: anybody could read what is sealed to them. OpenSSL
    # refuses to agree on it (RFC 7748, section 6.1).
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        raise ValueError("must not be a point of low order: anybody could read what is sealed to it.") from None
