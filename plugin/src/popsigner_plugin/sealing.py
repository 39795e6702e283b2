"""Private keys on their way out: sealed to somebody's public key, so that nobody on the way can read them.

To an age recipient (age-encryption.org/v1, X25519) goes a small JSON document that says which key it is; to an RSA key
the bare scalar in the form in which private keys are imported (`wrapping`), here or elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from popsigner_plugin.age import AgeRecipient, LowOrderPoint
from popsigner_plugin.curve import SCALAR_BYTES, overwrite
from popsigner_plugin.errors import BadInput
from popsigner_plugin.keys import Version
from popsigner_plugin.wrapping import WRAPPING, wrapped

AGE: Final = "age"

_RSA_BITS: Final = range(3072, 8193)
_RSA_EXPONENT: Final = 65_537
_MAX_PEM: Final = 4096
_HEX: Final = [b"%02x" % value for value in range(256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Who can read. wrapping: how it is sealed (AGE or WRAPPING). text: the public key, in its one spelling.

    seal: (the key's name, the version) -> ciphertext.
    """

    wrapping: str
    text: str
    seal: Callable[[str, Version], bytes]


def recipient_of(text: str) -> Recipient:
    """An age recipient or an RSA public key (PEM). Raises BadInput, code RECIPIENT_INVALID."""
    if text.lstrip().startswith("-----BEGIN"):
        return _rsa(text)
    return age_recipient(text)


def age_recipient(text: str) -> Recipient:
    """An age recipient of kind X25519. Raises BadInput, code RECIPIENT_INVALID."""
    try:
        recipient = AgeRecipient.of(text)
    except LowOrderPoint:
        raise _invalid("The recipient is a point of low order, which protects nothing.") from None
    except ValueError:
        raise _invalid("The recipient is no age X25519 recipient (age1...).") from None

    def seal(name: str, version: Version) -> bytes:
        document = _document(name, version)
        try:
            return recipient.file(document)
        finally:
            overwrite(document)

    return Recipient(wrapping=AGE, text=recipient.text, seal=seal)


def _rsa(text: str) -> Recipient:
    try:
        key = load_pem_public_key(text[:_MAX_PEM].encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _invalid("The recipient is no public key in PEM.") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise _invalid("A recipient in PEM must be an RSA public key.")
    if key.key_size not in _RSA_BITS or key.public_numbers().e < _RSA_EXPONENT:
        raise _invalid(
            f"A recipient's RSA key has {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits, and an exponent of {_RSA_EXPONENT} up."
        )

    def seal(_: str, version: Version) -> bytes:
        scalar = version.signer.scalar()
        try:
            return wrapped(scalar, key)
        finally:
            overwrite(scalar)

    return Recipient(wrapping=WRAPPING, text=text, seal=seal)


def _document(name: str, version: Version) -> bytearray:
    """Canonical JSON: members in order, no spaces. The caller overwrites it.

    The digits of the private key are written where they stay: a buffer that grows moves, and leaves them behind.
    """
    public_key = version.signer.public_key.hex()
    head = f'{{"curve":"secp256k1","name":"{name}","private_key":"'.encode()
    tail = f'","public_key":"{public_key}","version":{version.number}}}'.encode()
    document = bytearray(head + bytes(2 * SCALAR_BYTES) + tail)
    scalar = version.signer.scalar()
    for place, value in enumerate(scalar):
        start = len(head) + 2 * place
        document[start : start + 2] = _HEX[value]
    overwrite(scalar)
    return document


def _invalid(sentence: str) -> BadInput:
    return BadInput(sentence, code="RECIPIENT_INVALID")
