"""The Ethereum keystore, version 3 (Web3 Secret Storage Definition): JSON with the private key under AES-128-CTR, a key
that scrypt or PBKDF2 makes of a passphrase, and a Keccak-256 over both as the check.

The passphrase is UTF-8, as it is; the definition asks for no Unicode normalization.
"""

import json
import os
import uuid
from typing import Any, Final, cast

from Crypto.Protocol.KDF import scrypt as others_scrypt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from .errors import DamagedFile, NotThisFormat, PublicKeyMismatch, UnsupportedParameters, WrongPassphrase
from .secret import SCALAR_BYTES, Secret, keccak256, overwrite

_VERSION: Final = 3
# go-ethereum's standard: 256 MiB of memory.
SCRYPT_N: Final = 1 << 18
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
# Bounds on what a file may ask for. Memory is 128·N·r bytes, time goes with N·r·p.
_MAX_MEMORY: Final = 1 << 29
_MAX_WORK: Final = 1 << 24
_MAX_ITERATIONS: Final = 10_000_000
_MAX_SALT: Final = 1024
# Objects and lists in a document; a keystore has 5.
_MOST_PARTS: Final = 500
_DERIVED: Final = 32
_CIPHER: Final = "aes-128-ctr"


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content is JSON with a `crypto` object, as every version of the format has."""
    try:
        _parse(content)
    except NotThisFormat:
        return False
    return True


def read(content: bytes | bytearray, passphrase: bytes) -> Secret:
    """The private key in the content of a keystore file.

    Raises NotThisFormat, DamagedFile, UnsupportedParameters (also for more than 512 MiB or an unreasonable time),
    WrongPassphrase, InvalidPrivateKey, PublicKeyMismatch (the file's address is another key's).
    """
    document = _parse(content)
    if document.get("version") != _VERSION:
        raise UnsupportedParameters("the keystore is not of version 3")
    crypto = document["crypto"]
    if crypto.get("cipher") != _CIPHER:
        raise UnsupportedParameters(f"the keystore's cipher is not {_CIPHER}")
    ciphertext = _hex(crypto, "ciphertext", SCALAR_BYTES)
    counter = _hex(_member(crypto, "cipherparams"), "iv", 16)
    check = _hex(crypto, "mac", 32)
    derived = _derive(crypto, passphrase)
    try:
        if not bytes_eq(_mac(derived, ciphertext), check):
            raise WrongPassphrase("the passphrase is wrong, or the keystore was changed")
        secret = Secret(_crypt(derived, counter, ciphertext))
    finally:
        overwrite(derived)
    try:
        _check_address(document, secret)
    except BaseException:
        secret.wipe()
        raise
    return secret


def write(secret: Secret, passphrase: bytes, *, n: int = SCRYPT_N) -> bytes:
    """A keystore with scrypt (N 262144, r 8, p 1: about a second and 256 MiB), as go-ethereum makes them.

    n: a smaller power of two makes a weaker file. Raises ValueError for what is no power of two.
    """
    salt, counter = os.urandom(32), os.urandom(16)
    derived = _scrypt(passphrase, salt, n, _SCRYPT_R, _SCRYPT_P)
    try:
        ciphertext = bytes(_crypt(derived, counter, secret.scalar))
        check = _mac(derived, ciphertext)
    finally:
        overwrite(derived)
    document = {
        "address": secret.facts.eth_account.hex(),
        "crypto": {
            "cipher": _CIPHER,
            "cipherparams": {"iv": counter.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": {"dklen": _DERIVED, "n": n, "p": _SCRYPT_P, "r": _SCRYPT_R, "salt": salt.hex()},
            "mac": check.hex(),
        },
        "id": str(uuid.uuid4()),
        "version": _VERSION,
    }
    return json.dumps(document).encode()


def _parse(content: bytes | bytearray) -> dict[str, Any]:
    try:
        # Where somebody has raised the interpreter's limit, the parser would not stop before the end of its stack.
        document = None if content.count(b"[") + content.count(b"{") > _MOST_PARTS else json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        # Some of the first writers spelt it with a capital letter.
        crypto = document.get("crypto", document.get("Crypto"))
        if isinstance(crypto, dict):
            return {**document, "crypto": crypto}
    raise NotThisFormat("this is not an Ethereum keystore: a JSON object with a `crypto` object")


def _derive(crypto: dict[str, Any], passphrase: bytes) -> bytearray:
    parameters = _member(crypto, "kdfparams")
    salt = _hex(parameters, "salt", None)
    if _number(parameters, "dklen") != _DERIVED:
        raise UnsupportedParameters(f"the keystore's `dklen` is not {_DERIVED}")
    kind = crypto.get("kdf")
    if kind == "scrypt":
        n, r, p = (_number(parameters, name) for name in ("n", "r", "p"))
        if n < 2 or n & (n - 1) or 128 * n * r > _MAX_MEMORY or n * r * p > _MAX_WORK:
            raise UnsupportedParameters("the keystore asks for more memory or time than is given to scrypt")
        return _scrypt(passphrase, salt, n, r, p)
    if kind == "pbkdf2":
        iterations = _number(parameters, "c")
        if parameters.get("prf") != "hmac-sha256":
            raise UnsupportedParameters("the keystore's `prf` is not hmac-sha256")
        if iterations > _MAX_ITERATIONS:
            raise UnsupportedParameters("the keystore asks for more time than is given to PBKDF2")
        derived = bytearray(_DERIVED)
        PBKDF2HMAC(hashes.SHA256(), _DERIVED, salt, iterations).derive_into(passphrase, derived)
        return derived
    raise UnsupportedParameters("the keystore's `kdf` is neither scrypt nor pbkdf2")


def _scrypt(passphrase: bytes, salt: bytes, n: int, r: int, p: int) -> bytearray:
    if n >= 1 << 16 * r:
        # RFC 7914 forbids such an N and OpenSSL refuses it, but the definition's own example and files of some early
        # writers (r 1, p 8) have it. The other library takes it, and needs several times as long.
        # It is annotated for text, which it encodes in Latin-1, and takes bytes as they are.
        made = cast(bytes, others_scrypt(passphrase, salt, _DERIVED, n, r, p))  # type: ignore[arg-type]
        try:
            return bytearray(made)
        finally:
            overwrite(made)
    derived = bytearray(_DERIVED)
    try:
        Scrypt(salt, _DERIVED, n, r, p).derive_into(passphrase, derived)
    except MemoryError:
        raise UnsupportedParameters(f"scrypt needs {128 * n * r >> 20} MiB of memory, and they are not there") from None
    return derived


def _mac(derived: bytearray, ciphertext: bytes) -> bytes:
    joined = derived[16:] + ciphertext
    try:
        return keccak256(joined)
    finally:
        overwrite(joined)


def _crypt(derived: bytearray, counter: bytes, text: bytes | bytearray) -> bytearray:
    """AES-128-CTR, which is its own inverse."""
    key = derived[:16]
    done = bytearray(len(text))
    try:
        Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update_into(text, done)
    finally:
        overwrite(key)
    return done


def _check_address(document: dict[str, Any], secret: Secret) -> None:
    """The address is optional: some writers leave it out, for privacy."""
    address = document.get("address")
    if address is None or address == "":
        return
    if not isinstance(address, str):
        raise DamagedFile("the keystore's `address` is not text")
    if address.lower().removeprefix("0x") != secret.facts.eth_account.hex():
        raise PublicKeyMismatch("the keystore's address is not its private key's")


def _member(parent: dict[str, Any], name: str) -> dict[str, Any]:
    found = parent.get(name)
    if not isinstance(found, dict):
        raise DamagedFile(f"the keystore has no object `{name}`")
    return found


def _number(parent: dict[str, Any], name: str) -> int:
    found = parent.get(name)
    if type(found) is not int or found < 1:
        raise DamagedFile(f"the keystore's `{name}` is not a number of 1 or more")
    return found


def _hex(parent: dict[str, Any], name: str, length: int | None) -> bytes:
    found = parent.get(name)
    try:
        value = bytes.fromhex(found.removeprefix("0x")) if isinstance(found, str) and found.isascii() else None
    except ValueError:
        value = None
    if value is None or len(value) > _MAX_SALT or (length is not None and len(value) != length):
        expected = f" {length} bytes in" if length else ""
        raise DamagedFile(f"the keystore's `{name}` is not{expected} hexadecimal digits")
    return value
