"""Private keys on their way into the POP and out of it, wrapped and unwrapped on this machine.

What travels is RSA-OAEP (SHA-256, MGF1 with SHA-256, no label; RFC 8017) of a fresh AES-256 key, followed by the
private key under AES-KWP (RFC 5649) with that AES key. Only who holds the RSA private key opens it: the engine inside
OpenBao for imports, a KeyPair for exports. It needs the extra: pip install 'popsigner[keyfiles]'.
"""

import hashlib
import secrets
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from .errors import InternalError
from .gen.popsigner.v1 import ExportedVersion, ExportKeyResponse, GetWrappingKeyResponse
from .keyfiles import InvalidPrivateKey, Secret, overwrite

WRAPPING: Final = "RSA-OAEP-SHA256+AES-KWP"
_AES_BYTES: Final = 32
_EXPONENT: Final = 65_537
# 128 bits of strength, as secp256k1 itself has (NIST SP 800-57, part 1).
_BITS: Final = 3072
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def wrap(secret: Secret, wrapping_key: GetWrappingKeyResponse) -> bytes:
    """The private key for the engine alone: `ImportKeyRequest.ciphertext`.

    Raises InternalError for a wrapping key that is not what the contract promises.
    """
    recipient = _recipient(wrapping_key)
    key = secrets.token_bytes(_AES_BYTES)
    try:
        return recipient.encrypt(key, _OAEP) + aes_key_wrap_with_padding(key, secret.scalar)
    finally:
        overwrite(key)


class KeyPair:
    """An RSA key pair of the moment (3072 bits), which is never written anywhere.

    `recipient` is its public key in PEM: what `client.keys.export` seals to. Making one takes a fraction of a second;
    it serves for as many exports as one likes. OpenSSL's copy of the private half is freed with the object, not
    overwritten.
    """

    __slots__ = ("_private", "recipient")

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(_EXPONENT, _BITS)
        public = self._private.public_key()
        self.recipient = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def open(self, answer: ExportKeyResponse) -> dict[int, Secret]:
        """The private key of each version that was exported to this key pair; the caller wipes them.

        Raises InternalError where one does not open, or is not the private key of the public key beside it.
        """
        if answer.wrapping != WRAPPING:
            raise InternalError(f"the POP's export is in a form that this version does not know: {answer.wrapping!r}")
        opened: dict[int, Secret] = {}
        try:
            for version in answer.versions:
                opened[version.version] = self._opened(version)
        except BaseException:
            for secret in opened.values():
                secret.wipe()
            raise
        return opened

    def _opened(self, version: ExportedVersion) -> Secret:
        split = self._private.key_size // 8
        try:
            key = self._private.decrypt(version.ciphertext[:split], _OAEP)
            try:
                scalar = aes_key_unwrap_with_padding(key, version.ciphertext[split:])
            finally:
                overwrite(key)
            try:
                secret = Secret(bytearray(scalar))
            finally:
                overwrite(scalar)
        except (ValueError, InvalidUnwrap, InvalidPrivateKey):
            raise InternalError(f"the POP's export of version {version.version} does not open") from None
        if secret.facts.public_key.hex() != version.public_key:
            secret.wipe()
            raise InternalError(f"the POP exported another private key as version {version.version}")
        return secret

    def __reduce__(self) -> str:
        raise TypeError("a KeyPair cannot be copied or written out")


def _recipient(wrapping_key: GetWrappingKeyResponse) -> rsa.RSAPublicKey:
    if wrapping_key.wrapping != WRAPPING:
        raise InternalError(
            f"the POP takes imports in a form that this version does not know: {wrapping_key.wrapping!r}"
        )
    try:
        recipient = load_pem_public_key(wrapping_key.public_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        recipient = None
    if not isinstance(recipient, rsa.RSAPublicKey) or recipient.key_size < _BITS:
        raise InternalError("the POP's wrapping key is not an RSA key of sufficient length")
    der = recipient.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if hashlib.sha256(der).hexdigest() != wrapping_key.id:
        raise InternalError("the POP's wrapping key is not the one that its id names")
    return recipient
