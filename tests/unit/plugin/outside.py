"""What a caller does on his own machine, without OpenSSL and without pyrage: wrapping, unwrapping, reading age files.

RSA-OAEP, AES-KWP, X25519, HKDF and ChaCha20-Poly1305 are pycryptodome's; age's format is read here as
https://age-encryption.org/v1 has it.
"""

import base64
import os
from dataclasses import dataclass, field

from Crypto.Cipher import AES, PKCS1_OAEP, ChaCha20_Poly1305
from Crypto.Hash import HMAC, SHA256
from Crypto.Protocol.DH import import_x25519_public_key, key_agreement
from Crypto.Protocol.KDF import HKDF
from Crypto.PublicKey import ECC, RSA

_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def wrapped(secret: bytes, pem: str, *, aes_bytes: int = 32) -> bytes:
    """RSA-OAEP-SHA256 of a fresh AES key, then AES-KWP of the secret."""
    key = os.urandom(aes_bytes)
    oaep = PKCS1_OAEP.new(RSA.import_key(pem), hashAlgo=SHA256)
    return bytes(oaep.encrypt(key)) + kwp(key, secret)


def unwrapped(ciphertext: bytes, key: RSA.RsaKey) -> bytes:
    """The reverse."""
    split = key.size_in_bytes()
    aes = PKCS1_OAEP.new(key, hashAlgo=SHA256).decrypt(ciphertext[:split])
    return bytes(AES.new(aes, AES.MODE_KWP).unseal(ciphertext[split:]))


def kwp(key: bytes, secret: bytes) -> bytes:
    """AES-KWP (RFC 5649)."""
    return bytes(AES.new(key, AES.MODE_KWP).seal(secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeIdentity:
    """An X25519 identity. recipient: age1..."""

    recipient: str
    point: bytes
    private: ECC.EccKey = field(repr=False)

    @classmethod
    def made(cls) -> "AgeIdentity":
        private = ECC.generate(curve="curve25519")
        point = bytes(private.public_key().export_key(format="raw"))
        return cls(recipient=bech32("age", point), point=point, private=private)

    def read(self, file: bytes) -> bytes:
        """The payload. Raises ValueError where a tag does not fit."""
        head, _, rest = file.partition(b"\n---")
        tag, _, payload = rest.partition(b"\n")
        version, *stanzas = head.split(b"\n-> ")
        assert version == b"age-encryption.org/v1"
        # Besides the recipient's there may be stanzas that mean nothing, so that readers stay able to skip some.
        (stanza,) = (stanza for stanza in stanzas if stanza.startswith(b"X25519 "))
        arguments, body = stanza.split(b"\n")
        share = arguments.removeprefix(b"X25519 ")
        ephemeral = _bytes(share)
        shared = key_agreement(static_priv=self.private, static_pub=import_x25519_public_key(ephemeral), kdf=bytes)
        wrap = _hkdf(bytes(shared), salt=ephemeral + self.point, info=b"age-encryption.org/v1/X25519")
        file_key = _opened(wrap, bytes(12), _bytes(body))
        mac = HMAC.new(_hkdf(file_key, salt=b"", info=b"header"), head + b"\n---", SHA256)
        mac.verify(_bytes(tag.strip()))
        # One chunk, the last one: what is sealed here is short.
        return _opened(_hkdf(file_key, salt=payload[:16], info=b"payload"), bytes(11) + b"\x01", payload[16:])


def bech32(prefix: str, payload: bytes) -> str:
    """BIP-173, of any length."""
    digits = "".join(f"{byte:08b}" for byte in payload)
    return bech32_of([int(digits[start : start + 5].ljust(5, "0"), 2) for start in range(0, len(digits), 5)], prefix)


def bech32_of(groups: list[int], prefix: str, *, constant: int = 1) -> str:
    """The same of groups of five bits. constant: Bech32m (BIP-350) has another one."""
    spread = [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]
    remainder = 1
    for group in [*spread, *groups, *[0] * 6]:
        top, remainder = remainder >> 25, (remainder & 0x1FFFFFF) << 5 ^ group
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            remainder ^= generator if top >> bit & 1 else 0
    checksum = [(remainder ^ constant) >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1" + "".join(_BECH32[group] for group in groups + checksum)


def _bytes(unpadded: bytes) -> bytes:
    return base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)


def _hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    key = HKDF(secret, 32, salt, SHA256, context=info)
    assert isinstance(key, bytes)
    return key


def _opened(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    return bytes(ChaCha20_Poly1305.new(key=key, nonce=nonce).decrypt_and_verify(sealed[:-16], sealed[-16:]))
