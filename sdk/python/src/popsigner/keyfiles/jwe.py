"""JSON Web Encryption in its compact form (RFC 7516), as the file keyring of 99designs and ByteNess writes it:
PBES2-HS256+A128KW (RFC 7518, 4.8) and A256GCM, nothing else.
"""

import base64
import binascii
import datetime
import json
import os
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from .errors import DamagedFile, NotThisFormat, UnsupportedParameters, WrongPassphrase
from .secret import overwrite

_ALGORITHM: Final = "PBES2-HS256+A128KW"
_ENCRYPTION: Final = "A256GCM"
# What the keyring itself asks for, and the most that its library reads.
ITERATIONS: Final = 8192
MAX_ITERATIONS: Final = 1_300_000
_SALT: Final = range(8, 129)
_WRAPPED, _NONCE, _TAG = 40, 12, 16


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content is a token of this form, of whatever algorithm."""
    try:
        _split(content)
    except (NotThisFormat, DamagedFile):
        return False
    return True


def decrypt(token: bytes | bytearray, passphrase: bytes) -> bytearray:
    """What the token holds; the caller overwrites it.

    Raises NotThisFormat, DamagedFile, UnsupportedParameters, WrongPassphrase.
    """
    parts, header = _split(token)
    salt, iterations = _parameters(header)
    _, wrapped, nonce, ciphertext, tag = (_unbase64(part) for part in parts)
    if (len(wrapped), len(nonce), len(tag)) != (_WRAPPED, _NONCE, _TAG):
        raise DamagedFile("a part of the encrypted entry has the wrong length; it is cut off or malformed")
    key = b""
    derived = _derive(passphrase, salt, iterations)
    plaintext = bytearray(len(ciphertext))
    try:
        key = aes_key_unwrap(derived, wrapped)
        AESGCM(key).decrypt_into(nonce, ciphertext + tag, parts[0], plaintext)
    except (InvalidUnwrap, InvalidTag, ValueError):
        overwrite(plaintext)
        raise WrongPassphrase("the passphrase is wrong, or the entry was changed") from None
    finally:
        overwrite(derived, key)
    return plaintext


def encrypt(plaintext: bytes | bytearray, passphrase: bytes, *, iterations: int) -> bytes:
    """The token. iterations: of PBKDF2, 1 to MAX_ITERATIONS."""
    salt, nonce = os.urandom(16), os.urandom(_NONCE)
    header = {
        "alg": _ALGORITHM,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "enc": _ENCRYPTION,
        "p2c": iterations,
        "p2s": _base64(salt).decode(),
    }
    protected = _base64(json.dumps(header, separators=(",", ":")).encode())
    derived, key = _derive(passphrase, salt, iterations), AESGCM.generate_key(256)
    try:
        wrapped = aes_key_wrap(derived, key)
        sealed = AESGCM(key).encrypt(nonce, plaintext, protected)
    finally:
        overwrite(derived, key)
    parts = (wrapped, nonce, sealed[:-_TAG], sealed[-_TAG:])
    return b".".join([protected, *(_base64(part) for part in parts)])


def _split(token: bytes | bytearray) -> tuple[list[bytes], dict[str, Any]]:
    parts = bytes(token).strip().split(b".")
    if len(parts) != 5 or not parts[0]:
        raise NotThisFormat("this is not an encrypted entry of a keyring: five parts with dots between them")
    try:
        header = json.loads(_unbase64(parts[0]))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or "alg" not in header:
        raise NotThisFormat("this is not an encrypted entry of a keyring: its first part is no header")
    return parts, header


def _parameters(header: dict[str, Any]) -> tuple[bytes, int]:
    if header.get("alg") != _ALGORITHM or header.get("enc") != _ENCRYPTION or header.keys() & {"zip", "crit"}:
        raise UnsupportedParameters(f"the entry is not encrypted with {_ALGORITHM} and {_ENCRYPTION}")
    iterations, salt = header.get("p2c"), header.get("p2s")
    if type(iterations) is not int or not isinstance(salt, str) or not salt.isascii():
        raise DamagedFile("the header of the encrypted entry lacks its salt or its number of iterations")
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise UnsupportedParameters(f"the entry asks for more than {MAX_ITERATIONS} iterations")
    decoded = _unbase64(salt.encode())
    if len(decoded) not in _SALT:
        raise UnsupportedParameters(f"the entry's salt has not {_SALT[0]} to {_SALT[-1]} bytes")
    return decoded, iterations


def _derive(passphrase: bytes, salt: bytes, iterations: int) -> bytearray:
    derived = bytearray(16)
    PBKDF2HMAC(hashes.SHA256(), 16, _ALGORITHM.encode() + b"\0" + salt, iterations).derive_into(passphrase, derived)
    return derived


def _base64(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    if b"=" in text or len(text) % 4 == 1:
        raise DamagedFile("a part of the encrypted entry is not base64url")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise DamagedFile("a part of the encrypted entry is not base64url") from None
