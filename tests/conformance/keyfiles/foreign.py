"""Other people's implementations of what a Cosmos keyring and an export are made of: jwcrypto for the tokens, Google's
protobuf for the Record, argon2-cffi and PyCryptodome for the export's ciphers."""

import base64
import json
from typing import Any

import argon2.low_level
import bcrypt
from Crypto.Cipher import ChaCha20_Poly1305, Salsa20
from cryptography.hazmat.primitives.poly1305 import Poly1305
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from jwcrypto import jwe, jwk

ALGORITHMS = ["PBES2-HS256+A128KW", "A256GCM"]
_OPTIONAL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_TEXT, _BYTES, _MESSAGE = 9, 12, 11


def _record() -> Any:
    """The classes Record and Key of cosmos/crypto/keyring/v1/record.proto, without its other items."""
    file = descriptor_pb2.FileDescriptorProto(name="keyring.proto", package="keyring", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")

    def message(name: str, *fields: tuple[str, int, int, str]) -> None:
        made = file.message_type.add(name=name)
        for title, number, kind, type_name in fields:
            field = made.field.add(name=title, number=number, label=_OPTIONAL, type=kind)
            if type_name:
                field.type_name = type_name

    message("Key", ("key", 1, _BYTES, ""))
    message("Local", ("priv_key", 1, _MESSAGE, ".google.protobuf.Any"))
    message(
        "Record",
        ("name", 1, _TEXT, ""),
        ("pub_key", 2, _MESSAGE, ".google.protobuf.Any"),
        ("local", 3, _MESSAGE, ".keyring.Local"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"keyring.{name}"))
        for name in ("Key", "Local", "Record")
    }


MESSAGES = _record()


def token(key: str, data: bytes, passphrase: str) -> str:
    """One item, encrypted by jwcrypto."""
    item = json.dumps({"Key": key, "Data": base64.b64encode(data).decode(), "Label": "", "Description": ""})
    header = {"alg": ALGORITHMS[0], "enc": ALGORITHMS[1], "created": "2026-01-02 03:04:05 +0000 UTC"}
    made = jwe.JWE(item, protected=json.dumps(header), algs=ALGORITHMS)
    made.add_recipient(jwk.JWK.from_password(passphrase))
    text: str = made.serialize(compact=True)
    return text


def item(text: str, passphrase: str) -> tuple[str, bytes]:
    """The key and the data of an item that jwcrypto decrypts."""
    opened = jwe.JWE(algs=ALGORITHMS)
    opened.deserialize(text, key=jwk.JWK.from_password(passphrase))
    document = json.loads(opened.payload)
    return document["Key"], base64.b64decode(document["Data"])


def record(name: str, private_key: bytes, public_key: bytes, *, package: str = "cosmos.crypto.secp256k1") -> bytes:
    """A Record of a private key, serialized by protobuf."""
    made = MESSAGES["Record"](name=name)
    for place, kind, key in (
        (made.pub_key, "PubKey", public_key),
        (made.local.priv_key, "PrivKey", private_key),
    ):
        place.type_url = f"/{package}.{kind}"
        place.value = MESSAGES["Key"](key=key).SerializeToString()
    serialized: bytes = made.SerializeToString(deterministic=True)
    return serialized


def argon2_export(
    private_key: bytes, passphrase: bytes, salt: bytes, memory: int, *, head: bytes = bytes.fromhex("e1b0f79b20")
) -> bytes:
    """The body of an export as Cosmos SDK 0.50 encrypts it, which takes 65536 KiB of memory. head: Amino's."""
    key = argon2.low_level.hash_secret_raw(passphrase, salt, 1, memory, 4, 32, argon2.low_level.Type.ID)
    cipher = ChaCha20_Poly1305.new(key=key, nonce=bytes(12))
    ciphertext, tag = cipher.encrypt_and_digest(head + private_key)
    return ciphertext + tag


def argon2_text(body: bytes, salt: bytes) -> bytes:
    """The whole export around such a body, without the checksum, which is optional."""
    return (
        b"-----BEGIN TENDERMINT PRIVATE KEY-----\nkdf: argon2\nsalt: %s\ntype: secp256k1\n\n%s\n"
        b"-----END TENDERMINT PRIVATE KEY-----" % (salt.hex().upper().encode(), base64.encodebytes(body).strip())
    )


def bcrypt_opened(body: bytes, hashed: bytes) -> bytes:
    """What XSalsa20-Poly1305 holds, by PyCryptodome's Salsa20 and OpenSSL's Poly1305. hashed: 32 bytes."""
    nonce, tag, ciphertext = body[:24], body[24:40], body[40:]
    cipher = Salsa20.new(key=_hsalsa20(hashed, nonce[:16]), nonce=nonce[16:])
    Poly1305.verify_tag(cipher.encrypt(bytes(32)), ciphertext, tag)
    opened: bytes = cipher.decrypt(ciphertext)
    return opened


def bcrypt_hashed(passphrase: bytes, salt: bytes, rounds: int) -> bytes:
    """bcrypt's own text for a salt of 16 bytes, whose alphabet is OpenBSD's."""
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    number = int.from_bytes(salt, "big") << 4
    text = "".join(alphabet[number >> 6 * place & 63] for place in reversed(range(22)))
    return bcrypt.hashpw(passphrase, f"$2a${rounds:02}${text}".encode())


def _hsalsa20(key: bytes, block: bytes) -> bytes:
    """Bernstein, "Extending the Salsa20 nonce", section 2."""

    def words(data: bytes) -> list[int]:
        return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]

    c, k, n = words(b"expand 32-byte k"), words(key), words(block)
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    columns = [(0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)]
    rows = [(0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)]
    for _ in range(10):
        for p, q, r, s in columns + rows:
            for target, one, other, turn in ((q, p, s, 7), (r, q, p, 9), (s, r, q, 13), (p, s, r, 18)):
                total = (x[one] + x[other]) & 0xFFFFFFFF
                x[target] ^= (total << turn | total >> 32 - turn) & 0xFFFFFFFF
    return b"".join(x[place].to_bytes(4, "little") for place in (0, 5, 10, 15, 6, 7, 8, 9))
