"""What a keyring's entry holds inside its encryption: the protobuf Record of Cosmos SDK 0.46 and later
(cosmos.crypto.keyring.v1), and, for reading only, the Amino structures of the releases before.
"""

from typing import Final

from . import amino, wire
from .errors import DamagedFile, PublicKeyMismatch, UnsupportedKey
from .secret import Secret, overwrite

_PRIVATE: Final = "/cosmos.crypto.secp256k1.PrivKey"
_PUBLIC: Final = "/cosmos.crypto.secp256k1.PubKey"
# Chains with Ethereum's addresses name the same 32 bytes their own way.
_ETHEREUM_LIKE: Final = frozenset(
    {
        "/cosmos.evm.crypto.v1.ethsecp256k1.PrivKey",
        "/ethermint.crypto.v1.ethsecp256k1.PrivKey",
        "/injective.crypto.v1beta1.ethsecp256k1.PrivKey",
    }
)
_LOCAL: Final = 3
_OTHERS: Final = {
    4: "the entry is of a Ledger: its private key is in the device",
    5: "the entry is of a multisig account: it has no private key of its own",
    6: "the entry is a public key alone (offline)",
}
# crypto/keys/localInfo, and its siblings
_LEGACY_LOCAL: Final = bytes.fromhex("0dad153d")
_LEGACY_OTHERS: Final = {
    bytes.fromhex("a08cb0fb"): _OTHERS[4],
    bytes.fromhex("34878fb8"): _OTHERS[5],
    bytes.fromhex("1f4d3ed6"): _OTHERS[6],
}


class Record:
    """The name, the private key, and `account`: the 20 bytes of the address under which a keyring files the entry."""

    __slots__ = ("account", "name", "secret")

    def __init__(self, name: str, secret: Secret, *, ethereum_like: bool) -> None:
        self.name = name
        self.secret = secret
        self.account = secret.facts.eth_account if ethereum_like else secret.facts.account


def read(data: bytes | bytearray) -> Record:
    """The entry in `data`, which the caller overwrites.

    Raises UnsupportedKey, DamagedFile, InvalidPrivateKey, PublicKeyMismatch.
    """
    with memoryview(data) as message:
        legacy = _legacy_body(message)
        return _read_record(message) if legacy is None else _read_legacy(legacy)


def write(name: str, secret: Secret) -> bytearray:
    """The Record of a secp256k1 private key; the caller overwrites it."""
    title = name.encode()
    public = _any(_PUBLIC, secret.facts.public_key)
    private = _any(_PRIVATE, secret.scalar)
    local = wire.head(1, len(private)) + private
    try:
        return bytearray().join(
            [wire.head(1, len(title)), title, wire.head(2, len(public)), public, wire.head(_LOCAL, len(local)), local]
        )
    finally:
        overwrite(private, local)


def _any(url: str, key: bytes | bytearray) -> bytes:
    """google.protobuf.Any of a message whose field 1 is the key."""
    title = url.encode()
    value_length = len(wire.head(1, len(key))) + len(key)
    return b"".join([wire.head(1, len(title)), title, wire.head(2, value_length), wire.head(1, len(key)), key])


def _read_record(message: memoryview) -> Record:
    found = dict(wire.fields(message))
    for number, sentence in _OTHERS.items():
        if number in found:
            raise UnsupportedKey(sentence)
    if not {1, 2, _LOCAL} <= found.keys():
        raise DamagedFile("the entry is no Record of a keyring, and no older form of one")
    private = dict(wire.fields(dict(wire.fields(found[_LOCAL])).get(1, memoryview(b""))))
    url = wire.text(private.get(1, memoryview(b"")))
    if url != _PRIVATE and url not in _ETHEREUM_LIKE:
        raise UnsupportedKey("the key is of another type than secp256k1, such as ed25519")
    scalar = dict(wire.fields(private.get(2, memoryview(b"")))).get(1, memoryview(b""))
    public = dict(wire.fields(dict(wire.fields(found[2])).get(2, memoryview(b"")))).get(1)
    return _checked(wire.text(found[1]), bytearray(scalar), public, ethereum_like=url != _PRIVATE)


def _legacy_body(message: memoryview) -> memoryview | None:
    """What follows the length of an Amino structure, where `message` is one: its length is exactly the rest."""
    try:
        length, place = wire.varint(message, 0)
    except DamagedFile:
        return None
    prefix = bytes(message[place : place + amino.PREFIX_BYTES])
    known = prefix == _LEGACY_LOCAL or prefix in _LEGACY_OTHERS
    return message[place:] if known and length == len(message) - place else None


def _read_legacy(body: memoryview) -> Record:
    prefix = bytes(body[: amino.PREFIX_BYTES])
    if prefix in _LEGACY_OTHERS:
        raise UnsupportedKey(_LEGACY_OTHERS[prefix])
    found = dict(wire.fields(body[amino.PREFIX_BYTES :]))
    if not {1, 2, 3} <= found.keys():
        raise DamagedFile("the entry is cut off or malformed inside its encryption")
    # The SDK calls this field an armor; it is the private key as Amino writes it.
    scalar, ethereum_like = amino.private_key(found[3])
    # Before the public key: the four bytes of its type and its length.
    return _checked(wire.text(found[1]), scalar, found[2][amino.PREFIX_BYTES + 1 :], ethereum_like=ethereum_like)


def _checked(name: str, scalar: bytearray, public: memoryview | None, *, ethereum_like: bool) -> Record:
    secret = Secret(scalar)
    if public is None or bytes(public) != secret.facts.public_key:
        secret.wipe()
        raise PublicKeyMismatch("the public key in the entry is not its private key's")
    return Record(name, secret, ethereum_like=ethereum_like)
