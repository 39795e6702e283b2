"""How a private key is wrapped for its import and opened after its export: RSA-OAEP (SHA-256) of an AES-256 key, then
AES-KWP (RFC 5649) of the private key. By `cryptography` alone: nothing here is the product's own code."""

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def wrap(secret: bytes, public_key: str) -> bytes:
    """public_key: RSA in PEM."""
    recipient = load_pem_public_key(public_key.encode())
    assert isinstance(recipient, rsa.RSAPublicKey)
    key = os.urandom(32)
    return recipient.encrypt(key, OAEP) + aes_key_wrap_with_padding(key, secret)


def unwrap(ciphertext: bytes, private_key: rsa.RSAPrivateKey) -> bytes:
    length = private_key.key_size // 8
    key = private_key.decrypt(ciphertext[:length], OAEP)
    return aes_key_unwrap_with_padding(key, ciphertext[length:])


def pem_of(private_key: rsa.RSAPrivateKey) -> str:
    """The public key, PEM."""
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
