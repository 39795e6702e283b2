"""The ASCII-armored private key that `keys export` of Cosmos programs writes and `keys import` reads.

The armor is OpenPGP's (RFC 4880, 6.2) with headers of its own; inside is the private key as Amino writes it. Two forms
exist, named by the header `kdf`:

- `bcrypt`: SHA-256 of a bcrypt hash (2^12 rounds) is the key of XSalsa20-Poly1305 (NaCl's secretbox), the nonce before
  the ciphertext. Written up to Cosmos SDK 0.47, and read by every release to this day.
- `argon2`: Argon2id (1 pass, 64 MiB, 4 lanes) is the key of ChaCha20-Poly1305 with a nonce of zeros. Since 0.50.

`write` writes the first, because every release reads it.
"""

import base64
import binascii
import hashlib
import os
import re
from typing import Final

import bcrypt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from . import amino
from .errors import DamagedFile, NotThisFormat, UnsuitablePassphrase, UnsupportedParameters, WrongPassphrase
from .secret import Secret, overwrite

_BEGIN: Final = b"-----BEGIN TENDERMINT PRIVATE KEY-----"
_END: Final = b"-----END TENDERMINT PRIVATE KEY-----"
_SALT, _NONCE, _TAG = 16, 24, 16
# As OpenPGP and Go's armor write them.
_LINE: Final = 64
_BCRYPT_ROUNDS: Final = 12
_ARGON2_KIB: Final = 64 * 1024
# bcrypt reads no further, so a longer passphrase would promise more than it gives.
_MAX_PASSPHRASE: Final = 72
_MIN_PASSPHRASE: Final = 8
# bcrypt's base64 (OpenBSD) has the same groups of bits and another alphabet.
_BCRYPT_ALPHABET: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content has the line with which this armor begins."""
    return _BEGIN in content


def read(content: bytes | bytearray, passphrase: bytes) -> Secret:
    """The private key in an export.

    Raises NotThisFormat, DamagedFile, UnsupportedParameters, UnsupportedKey, WrongPassphrase, InvalidPrivateKey.
    """
    headers, sealed = _unarmored(bytes(content))
    try:
        salt = bytes.fromhex(headers.get("salt", ""))
    except ValueError:
        salt = b""
    if len(salt) != _SALT:
        raise DamagedFile(f"the export's header `salt` is not {_SALT} bytes in hexadecimal digits")
    kind = headers.get("kdf")
    if kind not in ("bcrypt", "argon2"):
        raise UnsupportedParameters("the export's header `kdf` is neither bcrypt nor argon2")
    encoded = b""
    try:
        encoded = _open_bcrypt(sealed, passphrase, salt) if kind == "bcrypt" else _open_argon2(sealed, passphrase, salt)
        with memoryview(encoded) as view:
            scalar, _ = amino.private_key(view)
        return Secret(scalar)
    except (CryptoError, InvalidTag):
        raise WrongPassphrase("the passphrase is wrong, or the export was changed") from None
    finally:
        overwrite(encoded)


def write(secret: Secret, passphrase: bytes) -> bytes:
    """An export with bcrypt, which takes a third of a second. Raises UnsuitablePassphrase."""
    if not _MIN_PASSPHRASE <= len(passphrase) <= _MAX_PASSPHRASE:
        raise UnsuitablePassphrase(
            f"the passphrase of an export has {_MIN_PASSPHRASE} to {_MAX_PASSPHRASE} bytes: Cosmos programs take no "
            "shorter one, and bcrypt reads no further"
        )
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    key = _bcrypt_key(passphrase, salt)
    encoded = amino.written(secret.scalar)
    plain = bytes(encoded)
    try:
        sealed = nonce + crypto_secretbox(plain, nonce, key)
    finally:
        overwrite(key, encoded, plain)
    return _armored({"kdf": "bcrypt", "salt": salt.hex().upper(), "type": "secp256k1"}, sealed)


def _open_bcrypt(sealed: bytes, passphrase: bytes, salt: bytes) -> bytes:
    if len(sealed) <= _NONCE + _TAG:
        raise DamagedFile("the export is cut off")
    key = _bcrypt_key(passphrase, salt)
    try:
        return crypto_secretbox_open(sealed[_NONCE:], sealed[:_NONCE], key)
    finally:
        overwrite(key)


def _open_argon2(sealed: bytes, passphrase: bytes, salt: bytes) -> bytes:
    if len(sealed) <= _TAG:
        raise DamagedFile("the export is cut off")
    key = bytearray(32)
    try:
        Argon2id(salt=salt, length=32, iterations=1, lanes=4, memory_cost=_ARGON2_KIB).derive_into(passphrase, key)
        # Each key is of a salt of its own and used once, so the nonce need not differ.
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)
    finally:
        overwrite(key)


def _bcrypt_key(passphrase: bytes, salt: bytes) -> bytes:
    encoded = base64.b64encode(salt).rstrip(b"=").translate(_BCRYPT_ALPHABET)
    hashed = bcrypt.hashpw(passphrase[:_MAX_PASSPHRASE], b"$2a$%02d$%s" % (_BCRYPT_ROUNDS, encoded))
    try:
        return hashlib.sha256(hashed).digest()
    finally:
        overwrite(hashed)


def _armored(headers: dict[str, str], body: bytes) -> bytes:
    encoded = base64.b64encode(body)
    lines = [encoded[place : place + _LINE] for place in range(0, len(encoded), _LINE)]
    checksum = base64.b64encode(_crc24(body).to_bytes(3, "big"))
    stated = [f"{name}: {value}".encode() for name, value in headers.items()]
    return b"\n".join([_BEGIN, *stated, b"", *lines, b"=" + checksum, _END, b""])


def _unarmored(content: bytes) -> tuple[dict[str, str], bytes]:
    """The headers and the body. The checksum is optional, as in RFC 9580."""
    _, found, rest = content.partition(_BEGIN)
    if not found:
        raise NotThisFormat("this is not an export of a Cosmos program: no line BEGIN TENDERMINT PRIVATE KEY")
    inside, found, _ = rest.partition(_END)
    if not found:
        raise DamagedFile("the export is cut off: it has no line END TENDERMINT PRIVATE KEY")
    lines = [line.strip() for line in inside.strip(b" \t\r\n").split(b"\n")]
    blank = lines.index(b"") if b"" in lines else 0
    headers = dict(
        re.findall(r"^([A-Za-z]+): ?(.*)$", b"\n".join(lines[:blank]).decode(errors="replace"), re.MULTILINE)
    )
    body = [line for line in lines[blank:] if line]
    checksum = body.pop() if body and body[-1].startswith(b"=") else b""
    try:
        data = base64.b64decode(b"".join(body), validate=True)
        stated = base64.b64decode(checksum[1:], validate=True)
    except binascii.Error:
        raise DamagedFile("the export is malformed: its lines are not base64") from None
    if checksum and stated != _crc24(data).to_bytes(3, "big"):
        raise DamagedFile("the export's checksum is wrong: a character was lost or changed")
    return headers, data


def _crc24(data: bytes) -> int:
    """OpenPGP's checksum (RFC 4880, 6.1)."""
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value = value << 1 ^ (0x1864CFB if value & 0x800000 else 0)
    return value
